"""The swap: what it changes, what it keeps, and that whatever fails changes nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import yaml

from router.config import ConfigError, Form, parse
from router.observe import Observation, RevisionActivated
from router.revisions import REMEMBERED, Revisions, StaleError, UnknownError
from router.runtime import Runtime, build
from tests.tiny_policies import TABLE, Ladder, Pair

T = TypeVar("T")

TEXT = """
# This comment travels.
models:
  small: {backends: [http://127.0.0.1:8101, http://127.0.0.1:8103]}
  large: {backends: [http://127.0.0.1:8102], api_key_env: LARGE_KEY}
policies:
  auto: {use: pair, small: small, large: large}
default: auto
"""
ENVIRONMENT = {"LARGE_KEY": "sk-canary"}


def started(text: str = TEXT) -> tuple[Revisions, list[Observation]]:
    seen: list[Observation] = []
    return Revisions(parse(text, TABLE), TABLE, seen.append, ENVIRONMENT), seen


def changed(**settings: object) -> str:
    return json.dumps(yaml.safe_load(TEXT) | settings)


def run(*calls: Callable[[], Awaitable[T]]) -> list[T | BaseException]:
    """What these calls, all under way at once, return or raise."""

    async def gathered() -> list[T | BaseException]:
        return await asyncio.gather(*(call() for call in calls), return_exceptions=True)

    return asyncio.run(gathered())


def refusal(revisions: Revisions, text: str) -> str:
    """Why `text` is refused, by a check and by a swap alike; nothing may have changed."""
    before, history = revisions.runtime, revisions.history()
    with pytest.raises(ConfigError) as by_swap:
        asyncio.run(revisions.replace(text, Form.JSON, None))
    with pytest.raises(ConfigError) as by_check:
        asyncio.run(revisions.check(text, Form.JSON))
    assert by_swap.value.problems == by_check.value.problems
    assert revisions.runtime is before
    assert revisions.history() == history
    return "; ".join(map(str, by_swap.value.problems))


def test_starts_with_revision_1() -> None:
    revisions, seen = started()
    runtime = revisions.runtime
    assert (runtime.revision, runtime.default, runtime.baseline) == (1, "auto", "small")
    assert revisions.active.what == "started from gateway.yaml"
    assert seen == [RevisionActivated(1, revisions.active.etag)]


def test_models_are_targets_too() -> None:
    runtime = started()[0].runtime
    assert set(runtime.targets) == {"small", "large", "auto"} == set(runtime.kinds)
    assert runtime.kinds == {"small": "direct", "large": "direct", "auto": "pair"}
    assert runtime.target("small") == TABLE["direct"](model="small")  # type: ignore[call-arg]
    assert runtime.target("nothing") is None
    assert set(runtime.snapshot().models) == {"small", "large"}


def test_a_swap_changes_everything_at_once() -> None:
    revisions, seen = started()
    heard: list[Runtime] = []
    revisions.swapped.append(heard.append)
    old = revisions.runtime
    text = changed(policies={"safe": {"use": "ladder", "targets": ["small"]}}, default="safe")
    revision = asyncio.run(revisions.replace(text, Form.JSON, {revisions.active.etag}))
    new = revisions.runtime
    assert (revision.number, revision.what) == (2, "PUT config") == (new.revision, "PUT config")
    assert new.target("safe") == Ladder(targets=("small",))
    assert new.target("auto") is None
    assert old.target("auto") == Pair("small", "large"), "a request under way keeps its Runtime"
    assert heard == [new]
    assert seen[-1] == RevisionActivated(2, revision.etag)


def test_backends_that_stay_keep_their_live_state() -> None:
    revisions, _ = started()
    stays, goes = revisions.runtime.pools["small"].backends
    guard = stays.enter()
    tree = yaml.safe_load(TEXT)
    tree["models"]["small"]["backends"] = ["http://127.0.0.1:8104", "http://127.0.0.1:8101/v1"]
    asyncio.run(revisions.replace(json.dumps(tree), Form.JSON, None))
    now = revisions.runtime.pools["small"].backends
    assert now[1] is stays
    assert now[1].in_flight == 1
    assert goes not in now
    guard.leave(None)
    assert now[1].in_flight == 0


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"default": "nothing"}, 'default: there is no model or policy named "nothing"'),
        ({"listen": {"port": 9}}, "listen: is set up once, at start; restart Tandem to change it"),
        ({"admin": {"port": 9}}, "admin: is set up once"),
        ({"keys": {"file": "other.yaml"}}, "keys: is set up once"),
        ({"log": {"file": "-"}}, "log: is set up once"),
        ({"health": {"every": 9}}, "health: is set up once"),
        ({"breaker": {"failures": 9}}, "breaker: is set up once"),
        ({"limits": {"connect": 9}}, "limits.connect: is set up once"),
        ({"limits": {"retry_floor": 9}}, "limits.retry_floor: is set up once"),
        (
            {
                "models": {"m": {"backends": ["http://h"], "api_key_env": "UNSET"}},
                "policies": {},
                "default": "m",
            },
            "models.m.api_key_env: the environment variable UNSET is not set where Tandem runs",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_what_is_refused_changes_nothing(settings: dict[str, object], reason: str) -> None:
    assert reason in refusal(started()[0], changed(**settings))


def test_limits_change_live() -> None:
    revisions, _ = started()
    asyncio.run(revisions.replace(changed(limits={"deadline": 9, "idle": 8}), Form.JSON, None))
    assert revisions.runtime.config.limits.deadline == 9


def test_a_policy_that_breaks_while_it_is_built_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    revisions, seen = started()
    before = revisions.runtime
    monkeypatch.setattr(Ladder, "__post_init__", lambda _: 1 / 0)
    block = {"use": "ladder", "targets": ["small"]}
    with pytest.raises(ZeroDivisionError):
        asyncio.run(revisions.replace_policy("new", block))
    assert revisions.runtime is before
    assert len(seen) == 1
    monkeypatch.undo()
    assert asyncio.run(revisions.replace_policy("new", block)).number == 2


def test_a_check_swaps_nothing() -> None:
    revisions, seen = started()
    document = asyncio.run(revisions.check(changed(default="small"), Form.JSON))
    assert document.default == "small"
    assert (revisions.runtime.default, revisions.active.number, len(seen)) == ("auto", 1, 1)


def test_of_two_changes_to_one_revision_one_wins() -> None:
    revisions, _ = started()
    expected = {revisions.active.etag}
    results = run(
        *(
            lambda name=name: revisions.replace(changed(default=name), Form.JSON, expected)
            for name in ("small", "large", "small")
        )
    )
    losers = [result for result in results if isinstance(result, BaseException)]
    assert len(losers) == 2
    assert all(isinstance(loser, StaleError) for loser in losers)
    assert "revision 2 is active" in str(losers[0])
    assert revisions.active.number == revisions.runtime.revision == 2


def test_changes_to_different_policies_are_all_kept() -> None:
    revisions, _ = started()
    block = {"use": "direct", "model": "small"}
    names = [f"policy-{number}" for number in range(8)]
    run(*(lambda name=name: revisions.replace_policy(name, block) for name in names))
    assert {"auto", *names} == set(revisions.runtime.config.policies)
    assert revisions.active.number == 9


def test_one_policy_is_created_replaced_and_removed() -> None:
    revisions, _ = started()

    async def changes() -> None:
        created = await revisions.replace_policy("new", {"use": "direct", "model": "small"})
        assert created.what == "PUT policies/new"
        await revisions.replace_policy("new", {"use": "ladder", "targets": ["auto"]})
        assert revisions.runtime.kinds["new"] == "ladder"
        with pytest.raises(ConfigError, match=r"policies.new.targets.0: there is no model or pol"):
            await revisions.remove_policy("auto")
        removed = await revisions.remove_policy("new")
        assert removed.what == "DELETE policies/new"
        with pytest.raises(UnknownError, match='no policy named "new"'):
            await revisions.remove_policy("new")

    asyncio.run(changes())
    assert revisions.runtime.config == parse(TEXT, TABLE).config
    assert revisions.active.number == 4


def test_a_rollback_is_a_revision_of_its_own() -> None:
    revisions, _ = started()

    async def there_and_back() -> None:
        await revisions.replace(changed(default="small"), Form.JSON, None)
        back = await revisions.activate(1)
        assert (back.number, back.what) == (3, "rolled back to 1")

    asyncio.run(there_and_back())
    first, _, third = revisions.history()
    assert first.etag == third.etag == revisions.runtime.etag
    assert "# This comment travels." in third.written.yaml
    assert revisions.runtime.default == "auto"
    with pytest.raises(UnknownError, match="there is no revision 9; kept are 1 to 3"):
        asyncio.run(revisions.activate(9))


def test_history_is_bounded() -> None:
    revisions, _ = started()

    async def often() -> None:
        for _ in range(REMEMBERED + 5):
            await revisions.replace(TEXT, Form.YAML, None)

    asyncio.run(often())
    assert len(revisions.history()) == REMEMBERED
    assert revisions.active.number == REMEMBERED + 6
    with pytest.raises(UnknownError):
        revisions.revision(1)


def test_a_key_that_is_not_there_is_refused_at_start() -> None:
    with pytest.raises(ConfigError, match=r"models.large.api_key_env: .*LARGE_KEY is not set"):
        build(parse(TEXT, TABLE), TABLE, 1, None, {"LARGE_KEY": ""})

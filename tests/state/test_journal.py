"""Several processes, one order of revisions: played by several `Revisions` on one store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from app.state.journal import StoredJournal
from app.state.member import AGAIN, DEAD, Member
from app.state.memory import MemoryStore
from app.state.sqlite import SqliteStore
from app.state.store import Store
from router.config import ConfigError, Document, Form, parse
from router.observe import Observers
from router.revisions import JournalError, Revisions, StaleError
from tests.tiny_policies import TABLE

TEXT = """
# This comment travels.
models:
  small: {backends: [http://127.0.0.1:8101]}
  large: {backends: [http://127.0.0.1:8102]}
policies:
  auto: {use: pair, small: small, large: large}
default: auto
"""
TURNED = {"use": "pair", "small": "large", "large": "small"}


def read(text: str = TEXT, form: Form = Form.YAML) -> Document:
    return parse(text, TABLE, "gateway.yaml", form)


def edited(**settings: object) -> Document:
    return read(json.dumps(yaml.safe_load(TEXT) | settings), Form.JSON)


async def joined(store: Store, document: Document | None = None) -> Revisions:
    """A process that starts with this file."""
    journal = StoredJournal(store)
    served, past = await journal.begin(document or read(), TABLE)
    return Revisions(served, TABLE, Observers(), {}, journal=journal, past=past)


def said(revisions: Revisions) -> Sequence[tuple[int, str]]:
    return [(revision.number, revision.what) for revision in revisions.history()]


def why(revisions: Revisions) -> str:
    """Why it is behind; empty if it is not."""
    return revisions.behind.why if revisions.behind else ""


async def test_all_start_with_one_revision(store: Store) -> None:
    one, two = await asyncio.gather(joined(store), joined(store))
    assert said(one) == said(two) == [(1, "started from gateway.yaml")]
    assert one.runtime.revision == two.runtime.revision == 1


async def test_a_swap_reaches_the_others_as_it_was_written(store: Store) -> None:
    one, two = await joined(store), await joined(store)
    await one.replace_policy("turned", TURNED, who="alice")
    assert two.runtime.target("turned") is None
    await two.follow()
    assert two.runtime.target("turned") == one.runtime.target("turned")
    assert two.runtime.etag == one.runtime.etag
    assert (two.active.number, two.active.who, two.active.what) == (
        2,
        "alice",
        "PUT policies/turned",
    )
    assert two.active.when == one.active.when


async def test_comments_travel(store: Store) -> None:
    one, two = await joined(store), await joined(store)
    await one.replace(TEXT.replace("travels", "has travelled"), Form.YAML, None)
    await two.follow()
    assert "has travelled" in two.active.written.yaml


async def test_changes_at_once_all_come_in_one_order(store: Store) -> None:
    several = [await joined(store) for _ in range(4)]
    await asyncio.gather(
        *(each.replace_policy(f"new-{n}", TURNED) for n, each in enumerate(several))
    )
    for each in several:
        await each.follow()
    assert len({str(said(each)) for each in several}) == 1
    assert {f"new-{n}" for n in range(4)} < set(several[0].runtime.targets)
    assert {each.runtime.revision for each in several} == {5}


async def test_two_who_changed_the_same_thing_are_not_both_right(store: Store) -> None:
    one, two = await joined(store), await joined(store)
    etag = {one.active.etag}
    done = await asyncio.gather(
        one.replace_policy("a", TURNED, etag),
        two.replace_policy("b", TURNED, etag),
        return_exceptions=True,
    )
    assert sorted(isinstance(each, StaleError) for each in done) == [False, True]


async def test_a_rollback_goes_back_to_what_another_wrote(store: Store) -> None:
    one, two = await joined(store), await joined(store)
    await one.replace_policy("turned", TURNED)
    await two.activate(1)
    await one.follow()
    assert one.runtime.target("turned") is None
    assert one.active.what == "rolled back to 1"


async def test_what_an_operator_changed_outlives_a_restart(store: Store) -> None:
    one = await joined(store)
    await one.replace_policy("turned", TURNED)
    again = await joined(store)
    assert again.runtime.target("turned") is not None
    assert again.runtime.revision == 2


async def test_a_file_that_was_edited_counts(store: Store) -> None:
    one = await joined(store)
    await one.replace_policy("turned", TURNED)
    new = await joined(store, edited(default="large"))
    assert new.runtime.target("turned") is None
    assert said(new)[-1] == (3, "started from gateway.yaml")
    await one.follow()
    assert one.runtime.default == "large"


async def test_what_cannot_be_built_here_leaves_what_serves(store: Store) -> None:
    one, two = await joined(store), await joined(store)
    needy = {"small": {"backends": ["http://127.0.0.1:1"], "api_key_env": "KEY"}}
    one._environment = {"KEY": "sk-canary"}
    await one.replace(json.dumps({"models": needy}), Form.JSON, None)
    await two.follow()
    assert "KEY is not set" in why(two)
    assert two.runtime.revision == 1
    assert two.active.number == 2

    two._environment = {"KEY": "sk-canary"}
    await two.follow()
    assert two.runtime.revision == 1, "it is not built anew at every look"
    await two.follow(again=True)
    assert two.runtime.revision == 2
    assert why(two) == ""


async def test_one_that_is_behind_can_roll_all_back(store: Store) -> None:
    one, two = await joined(store), await joined(store)
    fixed = dict(one.active.written.tree) | {"listen": {"port": 9999}}
    await one._journal.publish(  # type: ignore[union-attr]  # as another version of Tandem might
        type(one.active)(2, one.active.when, "?", edited(**fixed).written, one.active.origin)
    )
    await two.follow()
    assert "listen" in why(two)
    await two.activate(1)
    assert two.runtime.revision == 3
    assert why(two) == ""
    await one.follow()
    assert one.runtime.revision == 3


async def test_a_store_that_is_gone_refuses_changes_and_serves_on(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.sqlite")
    one = await joined(store)
    before = one.runtime
    (tmp_path / "state.sqlite").unlink()
    (tmp_path / "state.sqlite").mkdir()
    with pytest.raises(JournalError, match="nothing can be changed now"):
        await one.replace_policy("turned", TURNED)
    with pytest.raises(JournalError):
        await one.follow()
    assert one.runtime is before
    await store.close()


async def test_sleep_is_refused_by_every_way_in(store: Store) -> None:
    one = await joined(store)
    sleeping = {"memory_gb": 1, "sleep": True}
    tree = {
        "models": {
            "small": {"backends": ["http://127.0.0.1:8101"], **sleeping},
            "large": {"backends": ["http://127.0.0.1:8102"], **sleeping},
        },
        "hosts": {"127.0.0.1": {"memory_gb": 1}},
        "default": "small",
    }
    with pytest.raises(ConfigError, match="on the word of one process"):
        await one.replace(json.dumps(tree), Form.JSON, None)
    with pytest.raises(ConfigError, match="on the word of one process"):
        await joined(MemoryStore(), read(json.dumps(tree), Form.JSON))
    assert one.runtime.revision == 1


async def test_a_document_that_is_wrong_is_written_nowhere(store: Store) -> None:
    one = await joined(store)
    with pytest.raises(ConfigError):
        await one.replace_policy("wrong", {"use": "nothing"})
    assert len(await store.entries("revisions", 0)) == 1


# ------------------------------------------------------------------------------- members


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_members_see_each_other_and_who_is_behind() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    one, two = await joined(store), await joined(store)
    first, second = Member(store, one, "one"), Member(store, two, "two")
    await first.tick()
    await second.tick()
    await first.tick()
    assert (first.alive, second.alive) == (2, 2)
    assert first.share == 0.5

    await one.replace_policy("turned", TURNED)
    assert [(s.name, s.revision) for s in await first.signs()] == [("one", 2), ("two", 1)]
    await second.tick()
    assert [(s.name, s.revision) for s in await first.signs()] == [("one", 2), ("two", 2)]

    clock.now = DEAD + 0.1
    await first.tick()
    assert first.alive == 1
    assert [(s.name, s.alive) for s in await first.signs()] == [("one", True), ("two", False)]
    clock.now = 100
    await first.tick()
    assert [s.name for s in await first.signs()] == ["one"]


async def test_one_that_leaves_is_forgotten_at_once() -> None:
    store = MemoryStore()
    revisions = await joined(store)
    first, second = Member(store, revisions, "one"), Member(store, revisions, "two")
    await first.tick()
    await second.tick()
    await second.leave()
    await first.tick()
    assert first.alive == 1


async def test_a_store_that_goes_and_comes_back_is_told_once_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state.sqlite"
    store = SqliteStore(path)
    member = Member(store, await joined(store), "one")
    await member.tick()
    path.unlink()
    path.mkdir()
    for _ in range(3):
        await member.tick()
    assert "state.sqlite" in member.trouble
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert [sign.name for sign in await member.signs()] == ["one"]
    path.rmdir()
    await member.tick()
    assert member.trouble == ""
    assert "the store is back" in caplog.text
    await store.close()


def test_a_revision_is_tried_again_less_often_than_looked_for() -> None:
    assert AGAIN > DEAD


async def test_a_store_that_has_lost_all_is_told_what_serves() -> None:
    """As a Redis does that keeps nothing on disk and is started anew."""
    store = MemoryStore()
    one, two = await joined(store), await joined(store)
    await one.replace_policy("turned", TURNED, who="alice")
    await two.follow()
    store._logs.clear()
    await two.follow(again=True)
    late = await joined(store)
    assert late.runtime.target("turned") == one.runtime.target("turned")
    assert late.active.number == 2
    async with asyncio.timeout(5):
        await one.replace_policy("again", TURNED, who="alice")
        await asyncio.gather(two.follow(), late.follow())
    assert two.active == late.active
    assert two.active.number == 3


async def test_a_change_is_made_in_a_store_that_has_lost_all() -> None:
    store = MemoryStore()
    one, two = await joined(store), await joined(store)
    for name in ("a", "b", "c"):
        await one.replace_policy(name, TURNED)
    await two.follow()
    store._logs.clear()
    async with asyncio.timeout(5):
        await two.replace_policy("d", TURNED)
        await one.follow()
    assert said(one)[-1] == said(two)[-1] == (5, "PUT policies/d")

"""API keys: who gets in, who is turned away and with which words, and that no key ever shows."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi import Request
from starlette.applications import Starlette

from app.admin_keys import get_keys
from app.keys import Admitted, Keys, new_key
from app.log import Log
from app.metrics import Metrics
from app.state.memory import MemoryStore
from app.state.store import Change, StoreError
from router.faults import Blame, Fault
from router.observe import Refused
from router.steps import Usage
from tests.app.observations import attempt, request

CANARY = "tdm-canary-Zr8kQmW2vX"


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def entry(secret: str = CANARY, name: str = "alice", **limits: Any) -> dict[str, Any]:
    return {"name": name, "sha256": hashlib.sha256(secret.encode()).hexdigest(), **limits}


def write(file: Path, *entries: dict[str, Any]) -> None:
    """Write the file so that its stamp changes even within one tick of the disk's clock."""
    before = file.stat().st_mtime_ns if file.exists() else 0
    file.write_text(yaml.safe_dump({"keys": list(entries)}))
    os.utime(file, ns=(before + 1, before + 1))


def spoil(file: Path, text: str) -> None:
    """Write something else into it."""
    file.write_text(text)


def bearer(secret: str = CANARY) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"test"), (b"authorization", f"Bearer {secret}".encode())]


Build = Callable[..., Keys]


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(clock)


@pytest.fixture
def build(file: Path, clock: Clock, store: MemoryStore) -> Build:
    """The keys of a file with alice's one key, under these limits."""

    def keys(**limits: Any) -> Keys:
        write(file, entry(**limits))
        return Keys(file, store, "me", now=clock)

    return keys


def refused(answer: Admitted | Fault | None) -> Fault:
    assert isinstance(answer, Fault), answer
    assert answer.blame is Blame.CLIENT
    assert not answer.elsewhere
    return answer


# ------------------------------------------------------------------------------------ who gets in


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", f"Bearer {CANARY}".encode())],
        [(b"authorization", f"bearer  {CANARY} ".encode())],
        [(b"x-api-key", CANARY.encode())],
        [(b"authorization", b"Basic dXNlcjpwYXNz"), (b"x-api-key", CANARY.encode())],
        [(b"x-api-key", b"another"), (b"authorization", f"Bearer {CANARY}".encode())],
    ],
    ids=["bearer", "loosely-written", "x-api-key", "beside-basic", "bearer-goes-first"],
)
async def test_a_key_may_come_in_either_header(
    build: Build, headers: list[tuple[bytes, bytes]]
) -> None:
    admitted = await build().admit(headers)
    assert admitted == Admitted("alice", None)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer  ")],
        [(b"authorization", b"Basic dXNlcjpwYXNz")],
        [(b"x-api-key", b"")],
    ],
)
async def test_no_key_is_a_401_that_says_how_to_send_one(
    build: Build, headers: list[tuple[bytes, bytes]]
) -> None:
    fault = refused(await build().admit(headers))
    assert (fault.status, fault.code) == (401, "invalid_api_key")
    assert "Authorization: Bearer" in fault.message


@pytest.mark.parametrize(
    "secret", ["wrong", CANARY[:-1], CANARY + "x", CANARY.upper(), "\u2603", "x" * 100_000]
)
async def test_a_wrong_key_is_a_401_that_does_not_repeat_it(build: Build, secret: str) -> None:
    fault = refused(await build().admit(bearer(secret)))
    assert (fault.status, fault.code) == (401, "invalid_api_key")
    assert secret not in fault.message


async def test_the_digest_itself_is_no_key(build: Build) -> None:
    assert refused(await build().admit(bearer(entry()["sha256"]))).status == 401


async def test_a_disabled_key_is_turned_away(build: Build) -> None:
    fault = refused(await build(disabled=True).admit(bearer()))
    assert fault.status == 401
    assert "disabled" in fault.message


async def test_a_model_that_the_key_may_not_use_looks_as_if_it_were_not_there(build: Build) -> None:
    admitted = await build(models=["auto", "small"]).admit(bearer())
    assert isinstance(admitted, Admitted)
    assert admitted.refusal("auto") is None
    fault = refused(admitted.refusal("large"))
    assert (fault.status, fault.code, fault.param) == (404, "model_not_found", "model")
    assert fault.message == refused(admitted.refusal("no-such")).message.replace("no-such", "large")


# ------------------------------------------------------------------------------------- the limits


async def test_requests_per_minute(build: Build, clock: Clock) -> None:
    keys = build(requests_per_minute=2)
    assert await keys.admit(bearer()) == await keys.admit(bearer()) == Admitted("alice", None)

    fault = refused(await keys.admit(bearer()))
    assert (fault.status, fault.code) == (429, "rate_limit_exceeded")
    assert fault.retry_after == pytest.approx(30)

    clock.now += 29.9
    refused(await keys.admit(bearer()))
    clock.now += 0.2
    assert isinstance(await keys.admit(bearer()), Admitted)


async def test_a_quiet_hour_saves_up_one_minute(build: Build, clock: Clock) -> None:
    keys = build(requests_per_minute=2)
    clock.now += 3600
    answers = [await keys.admit(bearer()) for _ in range(3)]
    assert [isinstance(answer, Admitted) for answer in answers] == [True, True, False]


async def test_what_was_refused_is_not_counted(build: Build, clock: Clock) -> None:
    keys = build(requests_per_minute=1)
    await keys.admit(bearer())
    for _ in range(10):
        refused(await keys.admit(bearer()))
    clock.now += 60
    assert isinstance(await keys.admit(bearer()), Admitted)


async def test_tokens_per_minute_may_be_overdrawn_by_one_answer_and_are_paid_back(
    build: Build, clock: Clock
) -> None:
    keys = build(tokens_per_minute=100)
    assert isinstance(await keys.admit(bearer()), Admitted)
    keys(request(attempts=(attempt(usage=Usage(120, 80)),)))  # 100 below zero

    fault = refused(await keys.admit(bearer()))
    assert (fault.status, fault.code) == (429, "rate_limit_exceeded")
    assert fault.retry_after == pytest.approx(60.6)  # until one token is there
    assert "100 tokens" in fault.message

    clock.now += 60.7
    assert isinstance(await keys.admit(bearer()), Admitted)


async def test_tokens_are_those_that_the_client_saw_and_the_prompt_once(build: Build) -> None:
    keys = build(tokens_per_minute=200)
    draft = attempt("small", Usage(100, 50), answer=False)
    handed_over = (attempt("small", Usage(100, 20)), attempt("large", Usage(120, 30)))
    keys(request(attempts=(draft, *handed_over)))  # 100 + 20 + 30
    assert isinstance(await keys.admit(bearer()), Admitted)
    keys(request(attempts=(attempt(usage=Usage(0, 50)),)))
    refused(await keys.admit(bearer()))


async def test_spending_stops_at_the_limit(build: Build, clock: Clock) -> None:
    keys = build(spend_usd=0.5)
    keys(request(cost=0.49))
    assert isinstance(await keys.admit(bearer()), Admitted)
    keys(request(cost=0.02))
    clock.now += 1e6
    fault = refused(await keys.admit(bearer()))
    assert (fault.status, fault.code, fault.retry_after) == (429, "insufficient_quota", None)


async def test_only_the_key_that_called_is_charged(
    file: Path, clock: Clock, store: MemoryStore
) -> None:
    write(file, entry(spend_usd=1), entry("other", "bob", spend_usd=1))
    keys = Keys(file, store, "another", now=clock)
    keys(request(key="bob", cost=2.0))
    keys(request(key=None, cost=2.0))
    keys(request(key="removed-meanwhile", cost=2.0))
    assert isinstance(await keys.admit(bearer()), Admitted)
    refused(await keys.admit(bearer("other")))


# ---------------------------------------------------------------------- what survives what


async def test_spending_survives_a_restart(
    build: Build, file: Path, clock: Clock, store: MemoryStore
) -> None:
    keys = build(spend_usd=1)
    keys(request(cost=1.5))
    await keys.settle()
    refused(await Keys(file, store, "another", now=clock).admit(bearer()))


async def test_spending_is_shared_between_processes(
    build: Build, file: Path, clock: Clock, store: MemoryStore
) -> None:
    one, other = build(spend_usd=1), Keys(file, store, "another", now=clock)
    one(request(cost=0.6))
    other(request(cost=0.6))
    assert isinstance(await one.admit(bearer()), Admitted)

    await one.refresh()
    await other.refresh()
    await one.refresh()

    refused(await one.admit(bearer()))
    refused(await other.admit(bearer()))


async def test_nothing_is_charged_twice_by_saving_often(build: Build) -> None:
    keys = build(spend_usd=1)
    keys(request(cost=0.4))
    for _ in range(3):
        await keys.refresh()
    await keys.settle()
    keys(request(cost=0.4))
    assert isinstance(await keys.admit(bearer()), Admitted)
    keys(request(cost=0.4))
    refused(await keys.admit(bearer()))


class Away:
    """A store that cannot be reached, for as long as it is said to be."""

    kind = "memory"

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.away = True
        self.asked = 0
        self.deaf = False

    async def change(self, changes: Mapping[str, Change]) -> dict[str, Any]:
        self.asked += 1
        if self.away:
            raise StoreError("the store is away")
        done = await self.store.change(changes)
        if self.deaf:
            raise StoreError("the answer was lost")
        return done


async def test_without_the_store_there_is_no_more_money_than_the_lease(
    file: Path, clock: Clock, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    write(file, entry(spend_usd=1))
    away = Away(store)
    keys = Keys(file, away, "me", now=clock)  # type: ignore[arg-type]  # all that keys ask of one
    fault = await keys.admit(bearer())
    assert isinstance(fault, Fault)
    assert (fault.blame, fault.status, fault.code) == (Blame.GATEWAY, 503, "store_unavailable")

    away.away = False
    clock.now += 2
    assert isinstance(await keys.admit(bearer()), Admitted)  # and a lease of 0.01 USD
    away.away = True
    keys(request(cost=0.004))
    await keys.settle()
    for _ in range(50):
        await keys.admit(bearer())
    assert away.asked < 5, "a store that is away is not asked for every call"
    assert [r.message.count("go on with what they were granted") for r in caplog.records] == [1, 1]


async def test_without_the_store_rates_are_the_share_of_this_process(
    file: Path, clock: Clock, store: MemoryStore
) -> None:
    write(file, entry(requests_per_minute=40))
    keys = Keys(file, Away(store), "me", share=lambda: 0.25, now=clock)  # type: ignore[arg-type]
    answers = [await keys.admit(bearer()) for _ in range(12)]
    assert [isinstance(a, Admitted) for a in answers] == [True] * 10 + [False] * 2
    assert refused(await keys.admit(bearer())).retry_after == pytest.approx(6)
    clock.now += 6.1
    assert isinstance(await keys.admit(bearer()), Admitted)


async def test_an_answer_of_the_store_that_was_lost_charges_nothing_twice(
    file: Path, clock: Clock, store: MemoryStore
) -> None:
    write(file, entry(spend_usd=1))
    away = Away(store)
    away.away = False
    keys = Keys(file, away, "me", now=clock)  # type: ignore[arg-type]
    admitted = await keys.admit(bearer())
    assert isinstance(admitted, Admitted)
    admitted.leave()
    keys(request(cost=0.4))
    away.deaf = True
    await keys.settle()
    clock.now += 2
    await keys.settle()
    away.deaf = False
    clock.now += 2
    await keys.settle()
    await keys.settle()
    told = (await store.change({"use/alice": lambda document, _: document}))["use/alice"]
    assert told["usd"] == pytest.approx(0.4)


async def test_a_store_that_was_emptied_forgets_no_money(
    build: Build, file: Path, clock: Clock, store: MemoryStore
) -> None:
    keys = build(spend_usd=1)
    await call(keys, cost=0.9)
    await keys.settle()
    store._documents.clear()
    clock.now += 2
    await call(keys, cost=0.2)
    assert refused(await keys.admit(bearer())).code == "insufficient_quota"
    await keys.settle()
    another = Keys(file, store, "another", now=clock)
    assert refused(await another.admit(bearer())).code == "insufficient_quota"


async def test_calls_at_once_reserve_what_they_may_cost(build: Build) -> None:
    keys = build(spend_usd=1)
    first = await keys.admit(bearer())
    assert isinstance(first, Admitted)
    keys(request(cost=0.3))  # so much is expected of the others
    first.leave()
    answers = [await keys.admit(bearer()) for _ in range(4)]
    assert [isinstance(answer, Admitted) for answer in answers] == [True, True, False, False]
    fault = refused(answers[2])
    assert (fault.code, fault.retry_after) == ("rate_limit_exceeded", 1.0)
    for answer in answers[:2]:
        assert isinstance(answer, Admitted)
        answer.leave()
    assert isinstance(await keys.admit(bearer()), Admitted), "what cost nothing is free again"


async def test_a_changed_file_is_taken_up_with_the_use_so_far(build: Build, file: Path) -> None:
    keys = build(requests_per_minute=2, spend_usd=1)
    await call(keys, cost=0.9)

    write(file, entry(requests_per_minute=4, spend_usd=1), entry("other", "bob"))
    await keys.refresh()

    await call(keys, "other")
    await call(keys)  # half of it was left: two more
    await call(keys)
    assert refused(await keys.admit(bearer())).code == "rate_limit_exceeded"
    keys(request(cost=0.2))
    assert refused(await keys.admit(bearer())).code == "insufficient_quota"


async def call(keys: Keys, secret: str = CANARY, cost: float = 0.0) -> None:
    """A call that is admitted, costs so much, and is over."""
    admitted = await keys.admit(bearer(secret))
    assert isinstance(admitted, Admitted), admitted
    keys(request(key=admitted.name, cost=cost))
    admitted.leave()


async def test_a_key_taken_out_of_the_file_no_longer_gets_in(build: Build, file: Path) -> None:
    keys = build()
    write(file, entry("other", "bob"))
    await keys.refresh()
    assert refused(await keys.admit(bearer())).status == 401


@pytest.mark.parametrize("spoil", [lambda f: f.write_text("keys: ["), Path.unlink])
async def test_a_broken_file_keeps_the_old_keys_and_says_so_once(
    build: Build, file: Path, spoil: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    keys = build()
    spoil(file)
    await keys.refresh()
    await keys.refresh()
    assert isinstance(await keys.admit(bearer()), Admitted)
    assert [r.message.count("the old keys stay in use") for r in caplog.records] == [1]


async def test_a_tightened_limit_keeps_the_wait_that_was_due(build: Build, file: Path) -> None:
    keys = build(tokens_per_minute=1000)
    keys(request(attempts=(attempt(usage=Usage(0, 2000)),)))  # overdrawn by one minute's worth
    write(file, entry(tokens_per_minute=10))
    await keys.refresh()
    assert refused(await keys.admit(bearer())).retry_after == pytest.approx(
        66
    )  # and one token more


async def test_spending_is_saved_once_though_saving_was_interrupted(
    build: Build, file: Path, clock: Clock, store: MemoryStore
) -> None:
    async def interrupt(keys: Keys) -> None:
        task = asyncio.create_task(keys.refresh())
        await asyncio.sleep(0)  # its thread has begun to save
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    keys = build(spend_usd=1)
    keys(request(cost=0.6))
    await interrupt(keys)
    await keys.settle()
    assert isinstance(await Keys(file, store, "another", now=clock).admit(bearer()), Admitted)


async def test_keep_takes_up_changes_by_itself(build: Build, file: Path) -> None:
    async def change() -> None:
        keys = build()
        task = asyncio.create_task(keys.keep(interval=0.001))
        write(file, entry("other", "bob"))
        while isinstance(await keys.admit(bearer()), Admitted):  # keys tell nobody
            await asyncio.sleep(0.001)
        task.cancel()

    await asyncio.wait_for(change(), 10)


async def test_a_new_key_gets_in(file: Path, clock: Clock, store: MemoryStore) -> None:
    secret, made = new_key("carol")
    write(file, made.model_dump())
    assert await Keys(file, store, "another", now=clock).admit(bearer(secret)) == Admitted(
        "carol", None
    )
    assert secret.startswith("tdm-")
    assert len(secret) >= 4 + 43  # 32 bytes in base64
    assert secret not in made.yaml() + repr(made)
    assert new_key("carol")[0] != secret


# -------------------------------------------------------------------------------------- the canary


async def test_no_key_shows_anywhere(
    build: Build,
    file: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    keys = build(models=["auto"], requests_per_minute=1, spend_usd=1)
    metrics, log = Metrics(lambda: (), "1"), Log(str(file.parent / "log.jsonl"))
    told: list[object] = [keys, vars(keys), *keys._by_name.values()]

    answers = [await keys.admit(bearer()) for _ in range(3)]
    answers += [await keys.admit(bearer(CANARY + "-but-wrong"))]
    answers += [fault for a in answers if isinstance(a, Admitted) and (fault := a.refusal("big"))]
    for answer in answers:
        told.append(answer)
        if isinstance(answer, Fault):
            seen = Refused("messages", answer.status, answer.blame, answer.code, "alice")
            metrics(seen)
            log(seen)
    for listener in (keys, metrics, log):
        listener(request(cost=2.0))
    spoil(file, f"keys: {CANARY}")
    await keys.refresh()
    await keys.settle()
    log.close()

    captured = capfd.readouterr()
    said = [*map(repr, told), *map(str, told), captured.out, captured.err]
    said += [caplog.text, metrics.render()[0].decode()]
    said += [p.read_bytes().decode("latin-1") for p in file.parent.iterdir() if p != file]
    assert [text for text in said if "canary" in text] == []
    assert any("alice" in text for text in said)
    assert "the old keys stay in use" in caplog.text


# --------------------------------------------------------------------------------- for operators


async def test_operators_see_what_keys_have_spent(
    file: Path, clock: Clock, store: MemoryStore
) -> None:
    write(file, entry(spend_usd=1), entry("other", "bob", models=["small", "auto"], disabled=True))
    keys = Keys(file, store, "me", now=clock)
    await call(keys, cost=0.25)
    await keys.settle()
    used = {entry.name: spent for entry, spent in await keys.used()}
    assert used == {"alice": 0.25, "bob": 0.0}
    assert "use/bob" not in store._documents, "looking writes nothing"

    app = Starlette()
    app.state.keys = keys
    seen = await get_keys(Request({"type": "http", "app": app}))
    alice, bob = seen.keys
    assert (alice.name, alice.spend_usd, alice.spent_usd) == ("alice", 1, 0.25)
    assert (bob.disabled, bob.models) == (True, ["auto", "small"])
    assert "sha256" not in seen.model_dump_json()


async def test_without_the_store_nobody_knows(file: Path, clock: Clock, store: MemoryStore) -> None:
    write(file, entry(spend_usd=1))
    keys = Keys(file, Away(store), "me", now=clock)  # type: ignore[arg-type]
    assert [spent for _, spent in await keys.used()] == [None]

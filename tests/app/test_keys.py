"""API keys: who gets in, who is turned away and with which words, and that no key ever shows."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.keys import Admitted, Keys, new_key
from app.log import Log
from app.metrics import Metrics
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


def bearer(secret: str = CANARY) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"test"), (b"authorization", f"Bearer {secret}".encode())]


Build = Callable[..., Keys]


@pytest.fixture
def build(file: Path, clock: Clock) -> Build:
    """The keys of a file with alice's one key, under these limits."""

    def keys(**limits: Any) -> Keys:
        write(file, entry(**limits))
        return Keys(file, now=clock)

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
def test_a_key_may_come_in_either_header(build: Build, headers: list[tuple[bytes, bytes]]) -> None:
    admitted = build().admit(headers)
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
def test_no_key_is_a_401_that_says_how_to_send_one(
    build: Build, headers: list[tuple[bytes, bytes]]
) -> None:
    fault = refused(build().admit(headers))
    assert (fault.status, fault.code) == (401, "invalid_api_key")
    assert "Authorization: Bearer" in fault.message


@pytest.mark.parametrize(
    "secret", ["wrong", CANARY[:-1], CANARY + "x", CANARY.upper(), "\u2603", "x" * 100_000]
)
def test_a_wrong_key_is_a_401_that_does_not_repeat_it(build: Build, secret: str) -> None:
    fault = refused(build().admit(bearer(secret)))
    assert (fault.status, fault.code) == (401, "invalid_api_key")
    assert secret not in fault.message


def test_the_digest_itself_is_no_key(build: Build) -> None:
    assert refused(build().admit(bearer(entry()["sha256"]))).status == 401


def test_a_disabled_key_is_turned_away(build: Build) -> None:
    fault = refused(build(disabled=True).admit(bearer()))
    assert fault.status == 401
    assert "disabled" in fault.message


def test_a_model_that_the_key_may_not_use_looks_as_if_it_were_not_there(build: Build) -> None:
    admitted = build(models=["auto", "small"]).admit(bearer())
    assert isinstance(admitted, Admitted)
    assert admitted.refusal("auto") is None
    fault = refused(admitted.refusal("large"))
    assert (fault.status, fault.code, fault.param) == (404, "model_not_found", "model")
    assert fault.message == refused(admitted.refusal("no-such")).message.replace("no-such", "large")


# ------------------------------------------------------------------------------------- the limits


def test_requests_per_minute(build: Build, clock: Clock) -> None:
    keys = build(requests_per_minute=2)
    assert keys.admit(bearer()) == keys.admit(bearer()) == Admitted("alice", None)

    fault = refused(keys.admit(bearer()))
    assert (fault.status, fault.code) == (429, "rate_limit_exceeded")
    assert fault.retry_after == pytest.approx(30)

    clock.now += 29.9
    refused(keys.admit(bearer()))
    clock.now += 0.2
    assert isinstance(keys.admit(bearer()), Admitted)


def test_a_quiet_hour_saves_up_one_minute(build: Build, clock: Clock) -> None:
    keys = build(requests_per_minute=2)
    clock.now += 3600
    answers = [keys.admit(bearer()) for _ in range(3)]
    assert [isinstance(answer, Admitted) for answer in answers] == [True, True, False]


def test_what_was_refused_is_not_counted(build: Build, clock: Clock) -> None:
    keys = build(requests_per_minute=1)
    keys.admit(bearer())
    for _ in range(10):
        refused(keys.admit(bearer()))
    clock.now += 60
    assert isinstance(keys.admit(bearer()), Admitted)


def test_tokens_per_minute_may_be_overdrawn_by_one_answer_and_are_paid_back(
    build: Build, clock: Clock
) -> None:
    keys = build(tokens_per_minute=100)
    assert isinstance(keys.admit(bearer()), Admitted)
    keys(request(attempts=(attempt(usage=Usage(120, 80)),)))  # 100 below zero

    fault = refused(keys.admit(bearer()))
    assert (fault.status, fault.code) == (429, "rate_limit_exceeded")
    assert fault.retry_after == pytest.approx(60.6)  # until one token is there
    assert "100 tokens" in fault.message

    clock.now += 60.7
    assert isinstance(keys.admit(bearer()), Admitted)


def test_tokens_are_those_that_the_client_saw_and_the_prompt_once(build: Build) -> None:
    keys = build(tokens_per_minute=200)
    draft = attempt("small", Usage(100, 50), answer=False)
    handed_over = (attempt("small", Usage(100, 20)), attempt("large", Usage(120, 30)))
    keys(request(attempts=(draft, *handed_over)))  # 100 + 20 + 30
    assert isinstance(keys.admit(bearer()), Admitted)
    keys(request(attempts=(attempt(usage=Usage(0, 50)),)))
    refused(keys.admit(bearer()))


def test_spending_stops_at_the_limit(build: Build, clock: Clock) -> None:
    keys = build(spend_usd=0.5)
    keys(request(cost=0.49))
    assert isinstance(keys.admit(bearer()), Admitted)
    keys(request(cost=0.02))
    clock.now += 1e6
    fault = refused(keys.admit(bearer()))
    assert (fault.status, fault.code, fault.retry_after) == (429, "insufficient_quota", None)


def test_only_the_key_that_called_is_charged(file: Path, clock: Clock) -> None:
    write(file, entry(spend_usd=1), entry("other", "bob", spend_usd=1))
    keys = Keys(file, now=clock)
    keys(request(key="bob", cost=2.0))
    keys(request(key=None, cost=2.0))
    keys(request(key="removed-meanwhile", cost=2.0))
    assert isinstance(keys.admit(bearer()), Admitted)
    refused(keys.admit(bearer("other")))


# ---------------------------------------------------------------------- what survives what


def test_spending_survives_a_restart(build: Build, file: Path, clock: Clock) -> None:
    keys = build(spend_usd=1)
    keys(request(cost=1.5))
    keys.close()
    refused(Keys(file, now=clock).admit(bearer()))


def test_spending_is_shared_between_processes(build: Build, file: Path, clock: Clock) -> None:
    one, other = build(spend_usd=1), Keys(file, now=clock)
    one(request(cost=0.6))
    other(request(cost=0.6))
    assert isinstance(one.admit(bearer()), Admitted)

    asyncio.run(one.refresh())
    asyncio.run(other.refresh())
    asyncio.run(one.refresh())

    refused(one.admit(bearer()))
    refused(other.admit(bearer()))


def test_nothing_is_charged_twice_by_saving_often(build: Build) -> None:
    keys = build(spend_usd=1)
    keys(request(cost=0.4))
    for _ in range(3):
        asyncio.run(keys.refresh())
    keys.close()
    keys(request(cost=0.4))
    assert isinstance(keys.admit(bearer()), Admitted)
    keys(request(cost=0.4))
    refused(keys.admit(bearer()))


def test_where_spending_cannot_be_kept_the_limit_still_holds(
    file: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    write(file, entry(spend_usd=1))
    keys = Keys(file, spending=file.parent / "no" / "such" / "folder", now=clock)
    keys(request(cost=2.0))
    asyncio.run(keys.refresh())
    asyncio.run(keys.refresh())
    refused(keys.admit(bearer()))
    assert [r.message.count("since start only") for r in caplog.records] == [1]


def test_a_changed_file_is_taken_up_with_the_use_so_far(build: Build, file: Path) -> None:
    keys = build(requests_per_minute=2, spend_usd=1)
    keys.admit(bearer())
    keys(request(cost=0.9))

    write(file, entry(requests_per_minute=4, spend_usd=1), entry("other", "bob"))
    asyncio.run(keys.refresh())

    assert isinstance(keys.admit(bearer("other")), Admitted)
    assert isinstance(keys.admit(bearer()), Admitted)  # half of it was left: two more
    assert isinstance(keys.admit(bearer()), Admitted)
    assert refused(keys.admit(bearer())).code == "rate_limit_exceeded"
    keys(request(cost=0.2))
    assert refused(keys.admit(bearer())).code == "insufficient_quota"


def test_a_key_taken_out_of_the_file_no_longer_gets_in(build: Build, file: Path) -> None:
    keys = build()
    write(file, entry("other", "bob"))
    asyncio.run(keys.refresh())
    assert refused(keys.admit(bearer())).status == 401


@pytest.mark.parametrize("spoil", [lambda f: f.write_text("keys: ["), Path.unlink])
def test_a_broken_file_keeps_the_old_keys_and_says_so_once(
    build: Build, file: Path, spoil: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    keys = build()
    spoil(file)
    asyncio.run(keys.refresh())
    asyncio.run(keys.refresh())
    assert isinstance(keys.admit(bearer()), Admitted)
    assert [r.message.count("the old keys stay in use") for r in caplog.records] == [1]


def test_a_tightened_limit_keeps_the_wait_that_was_due(build: Build, file: Path) -> None:
    keys = build(tokens_per_minute=1000)
    keys(request(attempts=(attempt(usage=Usage(0, 2000)),)))  # overdrawn by one minute's worth
    write(file, entry(tokens_per_minute=10))
    asyncio.run(keys.refresh())
    assert refused(keys.admit(bearer())).retry_after == pytest.approx(66)  # and one token more


def test_spending_is_saved_once_though_saving_was_interrupted(
    build: Build, file: Path, clock: Clock
) -> None:
    async def interrupt(keys: Keys) -> None:
        task = asyncio.create_task(keys.refresh())
        await asyncio.sleep(0)  # its thread has begun to save
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    keys = build(spend_usd=1)
    keys(request(cost=0.6))
    asyncio.run(interrupt(keys))
    keys.close()
    assert isinstance(Keys(file, now=clock).admit(bearer()), Admitted)


def test_keep_takes_up_changes_by_itself(build: Build, file: Path) -> None:
    async def change() -> None:
        keys = build()
        task = asyncio.create_task(keys.keep(interval=0.001))
        write(file, entry("other", "bob"))
        while isinstance(keys.admit(bearer()), Admitted):  # keys tell nobody
            await asyncio.sleep(0.001)
        task.cancel()

    asyncio.run(asyncio.wait_for(change(), 10))


def test_a_new_key_gets_in(file: Path, clock: Clock) -> None:
    secret, made = new_key("carol")
    file.write_text("keys:\n" + made.yaml())
    assert Keys(file, now=clock).admit(bearer(secret)) == Admitted("carol", None)
    assert secret.startswith("tdm-")
    assert len(secret) >= 4 + 43  # 32 bytes in base64
    assert secret not in made.yaml() + repr(made)
    assert new_key("carol")[0] != secret


# -------------------------------------------------------------------------------------- the canary


def test_no_key_shows_anywhere(
    build: Build,
    file: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    keys = build(models=["auto"], requests_per_minute=1, spend_usd=1)
    metrics, log = Metrics(lambda: (), "1"), Log(str(file.parent / "log.jsonl"))
    told: list[object] = [keys, vars(keys), *keys._by_name.values()]

    answers = [keys.admit(bearer()) for _ in range(3)]
    answers += [keys.admit(bearer(CANARY + "-but-wrong"))]
    answers += [fault for a in answers if isinstance(a, Admitted) and (fault := a.refusal("big"))]
    for answer in answers:
        told.append(answer)
        if isinstance(answer, Fault):
            seen = Refused("messages", answer.status, answer.blame, answer.code, "alice")
            metrics(seen)
            log(seen)
    for listener in (keys, metrics, log):
        listener(request(cost=2.0))
    file.write_text(f"keys: {CANARY}")
    asyncio.run(keys.refresh())
    keys.close()
    log.close()

    captured = capfd.readouterr()
    said = [*map(repr, told), *map(str, told), captured.out, captured.err]
    said += [caplog.text, metrics.render()[0].decode()]
    said += [p.read_bytes().decode("latin-1") for p in file.parent.iterdir() if p != file]
    assert [text for text in said if "canary" in text] == []
    assert any("alice" in text for text in said)
    assert "the old keys stay in use" in caplog.text

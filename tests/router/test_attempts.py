"""Attempts of an answer in turns: back to the backend that holds it, counted, paid, replaced."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

from policies.token_gate import TokenGate
from router import sse
from router.faults import Blame
from router.fleet import Abilities, Fleet
from router.http1 import HungUpError
from router.ledger import Ledger
from router.phrases import close, emit, next_event, relay, spell
from router.runtime import Camera
from router.steps import (
    Attempt,
    Delta,
    Emit,
    Failed,
    Finished,
    Open,
    Request,
    Steps,
    Surface,
    Usage,
)
from tests.fleets import request
from tests.in_memory import (
    SILENT,
    STREAM,
    Canned,
    Core,
    Written,
    core,
    refusing,
    usage,
    with_policy,
)

PRICES = {
    "models": {
        "small": {"backends": ["http://a:1", "http://b:1"], "price": {"input": 1, "output": 2}},
        "large": {"backends": ["http://x:1"], "price": {"input": 10, "output": 20}},
    }
}
GATE = 99


@dataclass(slots=True)
class Kept(Canned):
    """A reply that remembers whether its connection was kept."""

    kept: bool = False

    async def finish(self) -> None:
        self.kept = True


def said(text: str, *ids: int, reason: str | None = None, stop: int | None = None) -> bytes:
    """One event of a completion's stream, with token ids."""
    choice = {
        "index": 0, "text": text, "token_ids": ids, "finish_reason": reason, "stop_reason": stop,
    }  # fmt: skip
    return sse.event(json.dumps({"id": "up-1", "choices": [choice]}).encode())


def completion(*events: bytes, prompt: int = 3, completed: int = 1) -> Kept:
    """A whole stream of these events."""
    return Kept([*events, usage(prompt, completed), sse.DONE])


def turn(asked: Request, *ids: int, **fields: Any) -> Open:
    """A call of the small model with these token ids."""
    body = {"prompt": ids, "return_token_ids": True}
    return Open("small", asked.asking(body, Surface.COMPLETIONS, stream=True), **fields)


def ledger(of: Core) -> Ledger:
    assert of.ledger
    return of.ledger


# ---------------------------------------------------------------------------------- backends


def opening(*steps: dict[str, Any]) -> tuple[Core, list[Attempt]]:
    """A core whose policy opens these calls of the small model and gives up."""
    opened: list[Attempt] = []

    def written(asked: Request, _: Fleet) -> Steps:
        for fields in steps:
            attempt: Attempt = yield turn(asked, 1, 2, 3, **fields)
            opened.append(attempt)
        event = yield from next_event(opened[-1])
        assert isinstance(event, Failed)
        return event

    return with_policy(written, each=5), opened


@pytest.mark.parametrize("name", ["a:1", "c:1", "e:1"])
async def test_the_preferred_backend_is_taken_and_its_cache_is_not_charged(name: str) -> None:
    made, opened = opening({"prefer": name, "held": 2})
    await made.run(STREAM)
    assert [attempt.backend for attempt in opened] == [name]
    assert ledger(made).tallies[0].held == 2


async def test_another_backend_holds_nothing() -> None:
    made, opened = opening({"prefer": "a:1", "held": 2, "avoid": frozenset({"a:1"})})
    await made.run(STREAM)
    assert opened[0].backend != "a:1"
    assert ledger(made).tallies[0].held == 0


async def test_an_unhealthy_backend_is_not_taken_though_preferred() -> None:
    made, opened = opening({"prefer": "a:1", "held": 2})
    made.runtime.pools["small"].backends[0].healthy = False
    await made.run(STREAM)
    assert opened[0].backend not in ("", "a:1")


async def test_a_call_of_the_policys_own_goes_where_the_clients_prompt_is_known() -> None:
    """Its body is made up by the policy; the prefix that backends know is the client's."""
    long = request(body={"messages": [{"role": "user", "content": "?" * 4000}], "stream": True})
    made, opened = opening({}, {}, {}, {})
    await made.run(long)
    assert len({attempt.backend for attempt in opened}) < 3, "four calls of one prompt"


# ----------------------------------------------------------------------------------- spelling


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Canned([b'{"prompt":"It is"}'], kind="application/json"), "It is"),
        (Canned([b'{"prompt":5}'], kind="application/json"), None),
        (Canned([b"[]"], kind="application/json"), None),
        (Canned([b"<html>"], kind="text/html"), None),
        (Canned([HungUpError("cut")]), None),
        (refusing(404), None),
    ],
    ids=str,
)
async def test_tokens_become_text_or_a_failure(reply: Canned, text: str | None) -> None:
    heard: list[Any] = []

    def written(asked: Request, _: Fleet) -> Steps:
        heard.append((yield from spell("small", asked, (1, 2))))
        attempt: Attempt = yield turn(asked, 1)
        event = yield from next_event(attempt)
        assert isinstance(event, Failed)
        return event

    made = with_policy(written, each=1)
    made.upstreams.add("a:1", reply)
    await made.run(STREAM)
    host, path, body = made.upstreams.sent[0]
    assert (host, path, body) == ("a:1", "/detokenize", {"model": "small", "tokens": [1, 2]})
    if text is None:
        assert isinstance(heard[0], Failed)
    else:
        assert heard == [text]


# ---------------------------------------------------------------------------------- counting


def in_two_turns(asked: Request, _: Fleet) -> Steps:
    """Two tokens in one call, one in the next; each call computes one that is not shown."""
    held, backend = 0, ""
    for ids, shown in (((1, 2, 3), 2), ((1, 2, 3, 10, 11), 1)):
        attempt: Attempt = yield turn(asked, *ids, prefer=backend, held=held)
        for _number in range(shown):
            event = yield from next_event(attempt)
            assert isinstance(event, Delta)
            yield Emit(attempt, event.text, event.tokens)
        while not isinstance((yield from next_event(attempt)), Finished):
            pass
        yield from close(attempt)
        held, backend = len(ids) + shown, attempt.backend
    return Finished(attempt, "stop")


def with_two_turns() -> Core:
    made = with_policy(in_two_turns, each=1, **PRICES)
    gate = said("", GATE, reason="stop", stop=GATE)
    made.upstreams.add("a:1", completion(said("It", 10), said(" is", 11), gate, completed=3))
    made.upstreams.add("a:1", completion(said(" 7", 12), gate, prompt=5, completed=2))
    made.runtime.pools["small"].backends[1].healthy = False
    return made


async def test_tokens_that_are_emitted_are_counted_not_those_that_were_computed() -> None:
    made = with_two_turns()
    await made.run(request(body={"messages": [], "stream": True}))
    kept = ledger(made)
    assert made.client.text == "It is 7"
    assert [tally.emitted for tally in kept.tallies] == [2, 1]
    assert kept.written() == {"small": 3}
    assert kept.delivered(kept.began) == Usage(3, 3)
    assert kept.ended(kept.began).completion_by_model == {"small": 3}


async def test_a_prefix_that_a_backend_holds_is_paid_for_once() -> None:
    """The prompt, and each token when it is computed; the second call's five were paid for."""
    made = with_two_turns()
    await made.run(request(body={"messages": [], "stream": True}))
    first, second = ledger(made).attempts(0.0)
    assert (first.held, second.held) == (0, 5)
    assert first.cost == pytest.approx((3 * 1 + 3 * 2) * 1e-6)
    assert second.cost == pytest.approx((0 * 1 + 2 * 2) * 1e-6)
    assert second.charged == Usage(0, 2)


async def test_the_connection_of_a_complete_answer_is_kept_when_it_is_closed() -> None:
    made = with_two_turns()
    await made.run(request(body={"messages": [], "stream": True}))
    assert [isinstance(reply, Kept) and reply.kept for reply in made.upstreams.given] == [True] * 2
    assert [tally.blame for tally in ledger(made).tallies] == [None, None]


async def test_an_answer_that_is_closed_on_the_way_is_estimated_and_hung_up() -> None:
    def written(asked: Request, _: Fleet) -> Steps:
        attempt: Attempt = yield turn(asked, 1, 2, 3)
        event = yield from next_event(attempt)
        assert isinstance(event, Delta)
        yield Emit(attempt, event.text, event.tokens)
        yield from close(attempt)
        return Finished(attempt, "stop")

    made = with_policy(written, each=1)
    reply = Kept([said("It", 10), said(" is", 11), SILENT])
    made.upstreams.add("a:1", reply)
    await made.run(STREAM)
    (told,) = ledger(made).attempts(0.0)
    assert (reply.kept, told.blame, told.estimated) == (False, Blame.GONE, True)
    assert (told.usage, told.written) == (Usage(3, 1), 1)


# --------------------------------------------------------------------------------- failures


def broken_after_a_token(passes: bool) -> tuple[Written, list[Failed]]:
    """Hears one event, passes it on by hand or relays, and gives up where it breaks."""
    broke: list[Failed] = []

    def written(asked: Request, _: Fleet) -> Steps:
        attempt: Attempt = yield turn(asked, 1, 2, 3)
        if not passes:
            broke.append((yield from relay(attempt)))  # type: ignore[arg-type]  # it does fail
            return broke[0]
        event = yield from next_event(attempt)
        assert isinstance(event, Delta)
        yield Emit(attempt, event.text, event.tokens)
        failed = yield from next_event(attempt)
        assert isinstance(failed, Failed)
        broke.append(failed)
        return failed

    return written, broke


@pytest.mark.parametrize("passes", [True, False], ids=["emitted", "relayed"])
async def test_what_was_emitted_can_go_on_elsewhere_what_was_relayed_cannot(passes: bool) -> None:
    written, broke = broken_after_a_token(passes)
    made = with_policy(written)
    for name in ("a:1", "b:1"):
        made.upstreams.add(name, Canned([said("It", 10), HungUpError("cut")]))
    await made.run(STREAM)
    assert broke[0].sent
    assert broke[0].spare == passes


async def test_nothing_goes_on_elsewhere_where_there_is_no_elsewhere() -> None:
    written, broke = broken_after_a_token(passes=True)
    made = with_policy(written, each=1)
    made.upstreams.add("a:1", Canned([said("It", 10), HungUpError("cut")]))
    await made.run(STREAM)
    assert (broke[0].sent, broke[0].spare) == (True, False)


async def test_from_a_call_that_failed_nothing_can_be_emitted() -> None:
    def written(asked: Request, _: Fleet) -> Steps:
        attempt: Attempt = yield turn(asked, 1)
        yield from next_event(attempt)
        yield from emit(attempt, "7")
        return Finished(attempt)

    made = with_policy(written, each=1)
    made.upstreams.add("a:1", refusing(500))
    ended = await made.run(STREAM)
    assert isinstance(ended, Failed)
    assert ended.fault.code == "policy_error"


# ------------------------------------------------------------------------------- all together


async def test_two_models_write_one_answer() -> None:
    """Through the real engine: the gate fires, one token of the large model's, and on."""
    made = core({"auto": TokenGate("small", "large", artifact="g")}, each=1)
    for pool in made.runtime.pools.values():
        pool.backends[0].abilities, pool.backends[0].probed = Abilities(gate=GATE), True
    made.runtime = replace(made.runtime, _camera=Camera())  # the last picture is of before
    tokens = Canned([b'{"tokens":[1,2,3]}'], kind="application/json")
    gate = said("", GATE, reason="stop", stop=GATE)
    end = said("", 2, reason="stop")
    made.upstreams.add("a:1", tokens, completion(said("It is", 10), gate, completed=2))
    made.upstreams.add("x:1", completion(said(" seven", 20, reason="length"), prompt=4))
    made.upstreams.add("a:1", completion(said(".", 11), end, prompt=5, completed=2))
    ended = await made.run(STREAM)
    assert isinstance(ended, Finished)
    assert made.client.text == "It is seven."
    assert ledger(made).written() == {"small": 3, "large": 1}
    assert ledger(made).why == "in_engine; 1 of 4 tokens by large, in 1 turn"
    prompts = [body.get("prompt") for _, _, body in made.upstreams.sent[1:]]
    assert prompts == [[1, 2, 3], [1, 2, 3, 10], [1, 2, 3, 10, 20]]
    assert [tally.held for tally in ledger(made).tallies] == [0, 0, 4]

"""The engine, when things go wrong, or somebody leaves: nothing is left over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from time import monotonic
from typing import Any

import pytest

from router import sse
from router.faults import Blame, Fault
from router.fleet import Fleet
from router.phrases import (
    compute,
    next_event,
    note,
    open_attempt,
    relay,
    render,
    route,
    serve,
)
from router.steps import (
    Attempt,
    Close,
    Emit,
    Failed,
    Finished,
    Next,
    Open,
    Relay,
    Request,
    Step,
    Steps,
)
from tests.fleets import request
from tests.in_memory import (
    CHAT,
    PATIENCE,
    SILENT,
    STREAM,
    Canned,
    Written,
    anywhere,
    chunk,
    core,
    streaming,
    whole,
    with_policy,
)

# --------------------------------------------------------------------------------- broken policies


def opened(*steps: Callable[[Attempt], Step]) -> Written:
    def written(asked: Request, _: Fleet) -> Steps:
        attempt = yield from open_attempt("small", asked)
        for step in steps:
            yield step(attempt)
        return Finished(attempt)

    return written


def raises(asked: Request, fleet: Fleet) -> Steps:
    attempt = yield from open_attempt("small", asked)
    yield from next_event(attempt)
    raise ZeroDivisionError


def raises_at_once(asked: Request, fleet: Fleet) -> Steps:
    raise ZeroDivisionError


def clings(asked: Request, fleet: Fleet) -> Steps:
    attempt = yield from open_attempt("small", asked)
    try:
        yield from next_event(attempt)
        yield from next_event()
    finally:
        yield Close(attempt)
    return Finished(attempt)


def fails_to_clean_up(asked: Request, fleet: Fleet) -> Steps:
    attempt = yield from open_attempt("small", asked)
    try:
        yield from next_event()
    finally:
        raise ZeroDivisionError
    return Finished(attempt)


def says_nothing(asked: Request, fleet: Fleet) -> Steps:
    yield from open_attempt("small", asked)
    return None  # type: ignore[return-value]


def computes_nonsense(asked: Request, fleet: Fleet) -> Steps:
    yield from compute(lambda: 1 / 0)
    return (yield from serve("small", asked))


def renders_nobody(asked: Request, fleet: Fleet) -> Steps:
    yield from render("nobody", asked)
    return (yield from serve("small", asked))


BROKEN: dict[str, tuple[Written, str]] = {
    "raises": (raises, "broke; the gateway's log has the details"),
    "raises at once": (raises_at_once, "broke; the gateway's log has the details"),
    "computes nonsense": (computes_nonsense, "broke; the gateway's log has the details"),
    "clings": (clings, "no attempt to wait for"),
    "fails to clean up": (fails_to_clean_up, "no attempt to wait for"),
    "says nothing": (says_nothing, "did not say how it ended"),
    "finishes without an answer": (opened(), "finished without an answer"),
    "waits for nobody": (opened(lambda _: Next(())), "no attempt to wait for"),
    "waits for a stranger": (opened(lambda a: Next((Attempt(9, "small", "a:1"),))), "is not open"),
    "relays what it closed": (opened(Close, Relay), "is not open"),
    "emits from what it never heard": (
        opened(Close, lambda a: Emit(a, "7")),
        "nothing can be emitted from an attempt that has said nothing",
    ),
    "chooses among what it has not heard": (
        opened(lambda a: Relay(a, 0)),
        "once all of them have been heard",
    ),
    "relays what it races": (
        opened(lambda a: Next((a,), 0.0), Relay),
        "must be heard before it is relayed",
    ),
    "opens nobody": (opened(lambda _: Open("nobody", CHAT)), 'no model named "nobody"'),
    "renders nobody": (renders_nobody, 'no model named "nobody"'),
    "routes to nobody": (lambda asked, _: route("nobody", asked), 'nothing named "nobody"'),
    "asks for what is no step": (opened(lambda _: 5), "5, which is no step"),  # type: ignore[arg-type, return-value]
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_broken_policy_is_the_gateways_fault_and_leaves_nothing_behind(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    steps, message = BROKEN[kind]
    made = with_policy(steps)
    anywhere(made, lambda: streaming("7", "8"))
    ended = await made.run(STREAM)
    assert isinstance(ended, Failed)
    assert ended.fault.blame is Blame.GATEWAY
    assert made.client.status == 500
    assert message in made.client.json["error"]["message"]
    assert made.client.json["error"]["code"] == "policy_error"
    assert ("ZeroDivisionError" in capsys.readouterr().err) == ("broke" in message or "up" in kind)
    assert all(backend.state == "probing" for backend in made.backends), "no backend was blamed"


MIXED: dict[str, list[Callable[[Attempt, Attempt], Step]]] = {
    "relays two": [lambda a, _: Relay(a), lambda _, b: Relay(b)],
    "emits, then relays": [lambda a, _: Emit(a, "7"), lambda _, b: Relay(b)],
    "relays, then emits": [lambda a, _: Relay(a), lambda _, b: Emit(b, "7")],
}


@pytest.mark.parametrize("asked", [CHAT, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("kind", MIXED)
async def test_two_answers_are_never_mixed(kind: str, asked: Request) -> None:
    def steps(asked: Request, _: Fleet) -> Steps:
        first = yield from open_attempt("small", asked)
        second = yield from open_attempt("large", asked)
        for step in MIXED[kind]:
            yield step(first, second)
        return Finished(second)

    made = with_policy(steps, each=1)
    made.upstreams.add("a:1", streaming("7") if asked.stream else whole("7"))
    made.upstreams.add("x:1", streaming("8") if asked.stream else whole("8"))
    ended = await made.run(asked)
    assert isinstance(ended, Failed)
    assert ended.fault.code == "policy_error"
    assert b'"content": "8"' not in made.client.body
    assert made.client.ended == 1


# -------------------------------------------------------------------------------- ways of ending


async def test_the_deadline_ends_everything() -> None:
    made = core(each=1, limits={"first_token": 60})
    made.upstreams.add("a:1", Canned([chunk("It "), SILENT]))
    ended = await made.run(request(target="small", body={"messages": [], "stream": True}), 0.05)
    assert isinstance(ended, Failed)
    assert (ended.fault.code, ended.sent) == ("deadline", True)
    assert made.client.text == "It "
    assert b'"deadline"' in made.client.body


async def test_a_client_that_does_not_read_holds_no_backend_after_the_deadline() -> None:
    made = core(each=1)
    made.upstreams.add("a:1", streaming("It ", "is 7"))
    made.client.stuck = True
    asked = request(target="small", body={"messages": [], "stream": True})
    running = asyncio.create_task(made.drive(asked).run(monotonic() + 0.05))
    async with asyncio.timeout(PATIENCE):
        while not made.upstreams.given or made.in_flight():
            await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.wait([running])


async def test_a_silent_backend_is_blamed_before_the_deadline() -> None:
    made = core(each=1)
    made.upstreams.add("a:1", Canned([SILENT], kind="application/json"))
    ended = await made.run(request(target="small"), within=1.0)
    assert isinstance(ended, Failed)
    assert (ended.fault.blame, made.client.status) == (Blame.BACKEND, 504)


@pytest.mark.parametrize("pieces", range(5))
async def test_a_client_that_leaves_releases_everything(pieces: int) -> None:
    made = core(each=1)
    parts = [chunk("7")] * pieces
    made.upstreams.add("a:1", Canned([*parts, SILENT]))
    asked = request(target="small", body={"messages": [], "stream": True})
    running = asyncio.create_task(made.run(asked))
    async with asyncio.timeout(PATIENCE):
        while made.client.body.count(b"data:") < pieces or not made.upstreams.given:
            await asyncio.sleep(0)
    assert made.in_flight() == 1
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert made.in_flight() == 0
    assert made.ledger
    assert made.ledger.tallies[0].blame is Blame.GONE
    assert made.backends[0].state == "probing", "a client that leaves is not the backend's fault"


async def test_what_is_left_running_is_not_blamed_for_anothers_failure() -> None:
    def steps(asked: Request, _: Fleet) -> Steps:
        good = yield from open_attempt("large", asked)
        yield from next_event(good)
        bad = yield from open_attempt("small", asked)
        return (yield from relay(bad))

    made = with_policy(steps, each=1, breaker={"failures": 1})
    made.upstreams.add("x:1", streaming("7", "8"))
    ended = await made.run(STREAM)
    assert isinstance(ended, Failed)
    states = {backend.name: backend.state for backend in made.backends}
    assert states == {"a:1": "open", "x:1": "probing"}
    assert made.ledger
    assert [tally.blame for tally in made.ledger.tallies] == [Blame.GONE, Blame.BACKEND]


@pytest.mark.parametrize("good", [True, False])
async def test_what_the_client_was_given_is_how_it_ended_whatever_the_policy_says(
    *, good: bool
) -> None:
    def steps(asked: Request, _: Fleet) -> Steps:
        attempt = yield from open_attempt("small", asked)
        yield from relay(attempt)
        fault = Fault(Blame.GATEWAY, "no", 500)
        return Failed(attempt, fault) if good else Finished(attempt)

    made = with_policy(steps)
    anywhere(made, lambda: streaming("It ", "is 7") if good else Canned([chunk("It ")]))
    ended = await made.run(STREAM)
    assert isinstance(ended, Finished if good else Failed)
    assert made.client.body.endswith(sse.DONE) == good
    assert (b'"error"' in made.client.body) != good


async def test_a_failure_that_a_policy_makes_up_is_the_answer() -> None:
    def steps(asked: Request, _: Fleet) -> Generator[Step, Any, Failed]:
        yield from note("refused")
        return Failed(Attempt(0, "", ""), Fault(Blame.CLIENT, "not today", 403, "refused"))

    made = with_policy(steps)
    await made.run(CHAT)
    assert (made.client.status, made.client.json["error"]["message"]) == (403, "not today")

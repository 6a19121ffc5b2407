"""Overhearing: what a policy would have given is kept, and can still be given."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from router import sse
from router.fleet import Fleet
from router.overheard import overheard
from router.phrases import (
    close,
    collect,
    next_event,
    note,
    open_attempt,
    relay,
    relay_one,
    route,
    serve,
    together,
)
from router.steps import (
    Attempt,
    Begin,
    Draft,
    Emit,
    Failed,
    Finished,
    Next,
    Open,
    Policy,
    Request,
    Route,
    Steps,
    TimedOut,
    Token,
)
from tests.fleets import attempt, request
from tests.in_memory import (
    CHAT,
    STREAM,
    Canned,
    Core,
    Written,
    anywhere,
    chunk,
    core,
    policy,
    refusing,
    streaming,
    usage,
    whole,
)


def listening(
    inner: Written,
    heard: list[Any],
    others: Mapping[str, Policy] = MappingProxyType({}),
    give: int | None = 0,
) -> Core:
    """`auto` overhears `inner`, and gives its draft of this number if any."""

    def outer(asked: Request, _: Fleet) -> Steps:
        drafts = yield from overheard("inner", asked)
        heard.append(drafts)
        yield from note("chosen", f"one of {len(drafts) if isinstance(drafts, tuple) else 0}")
        if isinstance(drafts, Failed) or give is None:
            return (yield from serve("small", asked))
        return (yield from relay_one(drafts[give]))

    return core({"auto": policy(outer), "inner": policy(inner), **others}, each=1)


def two_writers(asked: Request, _: Fleet) -> Steps:
    """One model writes two tokens and is closed, the other one goes on."""
    yield from note("inside", "what inner has to say")
    first = yield from open_attempt("small", asked)
    yield from next_event(first)
    yield Emit(first, "It ", (Token("It "),))
    yield Emit(first, "is ", (Token("is "),))
    yield from close(first)
    second = yield from open_attempt("large", asked)
    draft = yield from collect(second)
    assert isinstance(draft, Draft)
    yield Emit(second, "7", (Token("7"),))
    return Finished(second, "stop")


@pytest.mark.parametrize("asked", [CHAT, STREAM], ids=["whole", "stream"])
async def test_an_answer_by_two_models_is_kept_and_given_with_its_writers(asked: Request) -> None:
    heard: list[Any] = []
    made = listening(two_writers, heard)
    reply = streaming if asked.stream else whole
    made.upstreams.add("a:1", reply("It is"))
    made.upstreams.add("x:1", reply("7"))
    assert isinstance(await made.run(asked), Finished)
    (draft,) = heard[0]
    assert (draft.text, draft.finished.reason, draft.attempt.model) == ("It is 7", "stop", "small")
    assert [one.model for one in draft.opened] == ["small", "large"]
    text = made.client.text if asked.stream else _message(made)
    assert text == "It is 7"
    assert made.ledger
    assert made.ledger.written() == {"small": 2, "large": 1}
    assert made.ledger.why == "chosen; one of 1"


def _message(made: Core) -> str:
    said: str = made.client.json["choices"][0]["message"]["content"]
    return said


async def test_the_clients_usage_counts_what_was_thrown_away() -> None:
    made = listening(two_writers, [])
    counted = [usage(5, 9)]
    made.upstreams.add("a:1", Canned([chunk("It is", "stop"), *counted, sse.DONE]))
    made.upstreams.add("x:1", Canned([chunk("7", "stop"), *counted, sse.DONE]))
    options = {"messages": [], "stream": True, "stream_options": {"include_usage": True}}
    await made.run(request(target="auto", body=options))
    assert b'"completion_tokens":11' in made.client.body  # 2 by small, which was closed; 9 by large


@pytest.mark.parametrize("asked", [CHAT, STREAM], ids=["whole", "stream"])
async def test_what_would_have_been_relayed_is_relayed_in_the_end(asked: Request) -> None:
    def inner(asked: Request, _: Fleet) -> Steps:
        one = yield from open_attempt("small", asked)
        if asked.stream:
            yield from next_event(one)  # heard before: it is part of the answer all the same
        return (yield from relay(one))

    heard: list[Any] = []
    made = listening(inner, heard)
    made.upstreams.add("a:1", streaming("It ", "is 7") if asked.stream else whole("It is 7"))
    await made.run(asked)
    assert [draft.text for draft in heard[0]] == ["It is 7"]
    assert (made.client.text if asked.stream else _message(made)) == "It is 7"


async def test_what_inner_hands_on_is_overheard_too_and_a_failure_is_one() -> None:
    def inner(asked: Request, _: Fleet) -> Steps:
        return (yield from route("large", asked))

    heard: list[Any] = []
    made = listening(inner, heard)
    made.upstreams.add("x:1", refusing(500))
    made.upstreams.add("a:1", streaming("7"))
    await made.run(STREAM)
    assert isinstance(heard[0], Failed)
    assert (made.client.text, made.client.head["x-tandem-models"]) == ("7", "small")


async def test_what_a_target_wrote_before_it_failed_is_no_part_of_the_next_ones_answer() -> None:
    def half(asked: Request, _: Fleet) -> Steps:
        one = yield from open_attempt("small", asked)
        yield from next_event(one)
        yield Emit(one, "Half an ", (Token("Half"), Token(" an ")))
        other = yield from open_attempt("large", asked)
        failed = yield from collect(other)
        assert isinstance(failed, Failed)
        return failed

    def inner(asked: Request, _: Fleet) -> Steps:
        first = yield from route("half", asked)
        return first if isinstance(first, Finished) else (yield from route("writers", asked))

    heard: list[Any] = []
    made = listening(inner, heard, {"half": policy(half), "writers": policy(two_writers)})
    made.upstreams.add("a:1", streaming("Half an "), streaming("It is"))
    made.upstreams.add("x:1", refusing(500), streaming("7"))
    await made.run(STREAM)
    assert [draft.text for draft in heard[0]] == ["It is 7"]
    assert made.client.text == "It is 7"


async def test_nothing_is_left_open_and_nothing_is_given_of_what_is_not_chosen() -> None:
    heard: list[Any] = []
    made = listening(two_writers, heard, give=None)
    made.upstreams.add("a:1", streaming("draft"), streaming("other"))
    made.upstreams.add("x:1", streaming("7"))
    await made.run(STREAM)
    assert made.client.text == "other"
    assert made.in_flight() == 0
    assert made.ledger
    assert set(made.ledger.written()) == {"small"}


async def test_a_bug_of_the_inner_policy_is_an_honest_error() -> None:
    def inner(asked: Request, _: Fleet) -> Steps:
        yield from open_attempt("small", asked)
        raise RuntimeError("oops")

    made = listening(inner, [])
    anywhere(made, lambda: streaming("7"))
    failed = await made.run(STREAM)
    assert isinstance(failed, Failed)
    assert failed.fault.code == "policy_error"
    assert made.in_flight() == 0


def test_its_calls_get_their_share_of_the_time_that_is_left() -> None:
    def inner(asked: Request) -> Steps:
        ended: Finished | Failed = yield Route("small", asked, 0.5)
        return ended

    said = overheard("inner", CHAT, 0.5)
    assert next(said) == Begin("inner", CHAT)
    assert said.send(inner(CHAT)) == Begin("small", CHAT)
    opened = said.send(serve("small", CHAT))
    assert isinstance(opened, Open)
    assert opened.share == 0.25


def test_a_timeout_among_several_is_the_most_impatient_ones() -> None:
    def waiting(own: Attempt, patience: float | None) -> Any:
        return (yield from next_event(own, timeout=patience))

    one, two = attempt("small", "a:1"), attempt("small", "b:1", 1)
    said = together([waiting(one, None), waiting(two, 3.0)])
    assert next(said) == Next((one, two), 3.0)
    assert said.send(TimedOut()) == Next((one,))
    end = Finished(one, "stop")
    with pytest.raises(StopIteration) as stopped:
        said.send(end)
    assert stopped.value.value == [end, TimedOut()]


def test_one_that_emits_into_a_choice_gives_it_as_the_first() -> None:
    one = attempt("small", "a:1")
    emits = (Emit(one, "a", choice=2), Emit(one, "b", choice=2, finish=Finished(one, "stop")))
    draft = Draft(one, "ab", (), Finished(one, "stop"), 2, emits, (one,))
    said = relay_one(draft)
    assert next(said) == Emit(one, "a")
    assert said.send(None) == Emit(one, "b", finish=Finished(one, "stop"), beside=(one,))

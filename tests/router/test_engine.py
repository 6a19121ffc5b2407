"""The engine: every step does what `router.steps` says."""

from __future__ import annotations

import asyncio
import threading
from time import monotonic
from typing import Any

import orjson
import pytest

from router import sse
from router.faults import Blame
from router.fleet import Fleet, Price
from router.http1 import HungUpError
from router.phrases import (
    collect,
    compute,
    embed,
    emit,
    next_event,
    note,
    open_attempt,
    relay,
    render,
    route,
    serve,
)
from router.steps import (
    Close,
    Delta,
    Draft,
    Emit,
    Failed,
    Finished,
    Request,
    Steps,
    TimedOut,
    Token,
    Usage,
)
from tests.fleets import request
from tests.in_memory import (
    CHAT,
    PATIENCE,
    SILENT,
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
    with_policy,
)

COUNTED = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}

# ------------------------------------------------------------------------------------- relaying


async def test_relay_passes_every_byte_on() -> None:
    made = core(each=1)
    parts = [chunk("It "), b": odd comment\n\n", chunk("is 7", "stop", extra=1.50), sse.DONE]
    made.upstreams.add("a:1", Canned(list(parts)))
    ended = await made.run(request(target="small", body={"messages": [], "stream": True}))
    assert isinstance(ended, Finished)
    sent, closing, done = made.client.body.partition(b": tandem ")
    assert sent == b"".join(parts[:-1])
    assert (closing + done).endswith(b"\n\n" + sse.DONE)
    assert made.client.ended == 1


async def test_relay_after_next_passes_on_what_was_heard_too() -> None:
    heard: list[Any] = []

    def steps(asked: Request, _: Fleet) -> Steps:
        attempt = yield from open_attempt("small", asked)
        heard.append((yield from next_event(attempt)))
        heard.append((yield from next_event(attempt)))
        return (yield from relay(attempt))

    made = with_policy(steps)
    anywhere(made, lambda: streaming("It ", "is ", "7"))
    ended = await made.run(STREAM)
    assert [event.text for event in heard] == ["It ", "is "]
    assert isinstance(ended, Finished)
    assert made.client.text == "It is 7"


async def test_the_reasons_of_policies_that_hand_on_stand_before_the_last_one() -> None:
    def inner(asked: Request, _: Fleet) -> Steps:
        yield from note("inside")
        return (yield from serve("small", asked))

    def outer(asked: Request, _: Fleet) -> Steps:
        yield from note("first", "forgotten")
        yield from note("outside", "why")
        return (yield from route("inner", asked))

    made = core({"auto": policy(outer), "inner": policy(inner)})
    anywhere(made, lambda: streaming("7"))
    await made.run(STREAM)
    assert made.client.head["x-tandem-reason"] == "outside; why > inside"
    assert made.ledger
    assert made.ledger.reason == "inside"


async def test_what_was_left_out_of_a_prompt_is_part_of_the_baseline() -> None:
    def reading(asked: Request, _: Fleet) -> Steps:
        yield from note("passages", cited=({"number": 1},), sent=0.25)
        yield from note("said", "by a policy that knows nothing of it")
        return (yield from serve("small", asked))

    made = with_policy(reading, each=1, baseline="large")
    made.upstreams.add("a:1", whole("7"))
    await made.run(CHAT)
    assert made.ledger
    assert made.ledger.cited == ({"number": 1},)
    usage = made.ledger.delivered(monotonic())
    price = Price(1.0, 2.0)
    made.ledger.baseline = price
    expected = (4 * usage.prompt * price.input + usage.completion * price.output) * 1e-6
    assert made.ledger.baseline_cost(monotonic()) == pytest.approx(expected)


async def test_a_collected_draft_can_be_relayed_whole() -> None:
    drafts: list[Any] = []

    def steps(asked: Request, _: Fleet) -> Steps:
        attempt = yield from open_attempt("small", asked)
        drafts.append((yield from collect(attempt)))
        return (yield from relay(attempt))

    for asked, reply in ((CHAT, whole("It is 7")), (STREAM, streaming("It ", "is 7"))):
        made = with_policy(steps, each=1)
        made.upstreams.add("a:1", reply)
        await made.run(asked)
        assert isinstance(drafts[-1], Draft)
        assert (drafts[-1].text, drafts[-1].finished.reason) == ("It is 7", "stop")
    assert made.client.text == "It is 7"


async def test_a_stream_that_stops_half_way_ends_with_an_error_and_not_with_done() -> None:
    made = core()
    anywhere(made, lambda: Canned([chunk("It "), chunk("is")]))
    ended = await made.run(request(target="small", body={"messages": [], "stream": True}))
    assert isinstance(ended, Failed)
    assert ended.sent
    assert made.client.text == "It is"
    assert b"[DONE]" not in made.client.body
    assert made.client.body.count(b'"error"') == 1
    assert len(made.upstreams.sent) == 1, "an answer that has begun is never begun anew"


async def test_usage_that_the_client_did_not_ask_for_stays_hidden_and_is_counted() -> None:
    made = core(each=1)
    made.upstreams.add("a:1", streaming("7", counts=[usage(5, 1)]))
    ended = await made.run(request(target="small", body={"messages": [], "stream": True}))
    assert ended == Finished(ended.attempt, None, None, Usage(5, 1))
    assert b'"usage"' not in made.client.body
    assert made.upstreams.sent[0][2]["stream_options"] == {"include_usage": True}


# -------------------------------------------------------------------------------- opening, trying


@pytest.mark.parametrize(
    "first", [refusing(500), refusing(503), refusing(429), Canned([])], ids=str
)
async def test_another_backend_is_tried_before_the_first_byte(first: Canned) -> None:
    made = core()
    chosen = _picks(made)
    other = {"a:1": "b:1", "b:1": "a:1"}[chosen]
    made.upstreams.add(chosen, first)
    made.upstreams.add(other, streaming("7"))
    ended = await made.run(request(target="small", body={"messages": [], "stream": True}))
    assert isinstance(ended, Finished)
    assert [host for host, *_ in made.upstreams.sent] == [chosen, other]


def _picks(made: Core) -> str:
    """The backend that a run of this core will try first: its randomness is seeded."""
    drive = made.drive(STREAM)
    backend = made.runtime.pools["small"].pick(b"", frozenset(), drive.shared.rng)
    assert backend
    return backend.name


async def test_a_clients_mistake_is_passed_on_and_not_tried_again() -> None:
    made = core()
    anywhere(made, lambda: refusing(422, "temperature is too high"))
    ended = await made.run(request(target="small"))
    assert isinstance(ended, Failed)
    assert not ended.spare
    assert made.client.status == 422
    assert made.client.json == {"error": {"message": "temperature is too high"}}
    assert len(made.upstreams.sent) == 1


async def test_a_retry_needs_the_budgets_leave() -> None:
    made = core()
    drive = made.drive(request(target="small"))
    while drive.shared.budget.withdraw():
        pass
    drive.shared.budget.deposit = lambda: None  # type: ignore[method-assign]
    ended = await drive.run(monotonic() + PATIENCE)
    assert isinstance(ended, Failed)
    assert len(made.upstreams.sent) == 1


async def test_without_a_backend_to_pick_the_attempt_fails_where_it_is_heard() -> None:
    seen: list[Any] = []

    def steps(asked: Request, _: Fleet) -> Steps:
        attempt = yield from open_attempt("small", asked)
        seen.extend([attempt, (yield from next_event(attempt))])
        return (yield from relay(attempt))

    made = with_policy(steps)
    for backend in made.runtime.pools["small"].backends:
        backend.healthy = False
    ended = await made.run(CHAT)
    assert seen[0].backend == ""
    assert isinstance(seen[1], Failed)
    assert ended == seen[1]
    assert (made.client.status, made.client.head["retry-after"]) == (503, "1")
    assert "a:1 is unhealthy, b:1 is unhealthy" in made.client.json["error"]["message"]


async def test_close_cancels_the_call_and_says_so_to_nobody_but_the_ledger() -> None:
    def steps(asked: Request, _: Fleet) -> Steps:
        first = yield from open_attempt("small", asked)
        yield from next_event(first)
        yield Close(first)
        yield Close(first)
        assert made.in_flight() == 0
        return (yield from serve("large", asked))

    made = with_policy(steps, each=1)
    made.upstreams.add("a:1", streaming("6", "7", "8"))
    made.upstreams.add("x:1", streaming("7"))
    await made.run(STREAM)
    assert made.client.text == "7"
    assert made.ledger
    assert [tally.blame for tally in made.ledger.tallies] == [Blame.GONE, None]


# ------------------------------------------------------------------------------- waiting, racing


async def test_next_may_time_out_and_the_attempt_runs_on() -> None:
    heard: list[Any] = []

    def steps(asked: Request, _: Fleet) -> Steps:
        attempt = yield from open_attempt("small", asked)
        heard.append((yield from next_event(attempt, timeout=0.0)))
        heard.append((yield from next_event(attempt)))
        return (yield from relay(attempt))

    made = with_policy(steps)
    anywhere(made, lambda: streaming("It ", "is 7"))
    await made.run(STREAM)
    assert heard[0] == TimedOut()
    assert isinstance(heard[1], Delta)
    assert made.client.text == "It is 7"


async def test_the_first_of_several_attempts_is_heard() -> None:
    heard: list[Any] = []

    def steps(asked: Request, _: Fleet) -> Steps:
        slow = yield from open_attempt("small", asked)
        quick = yield from open_attempt("large", asked)
        heard.append((yield from next_event(slow, quick)))
        return (yield from relay(quick))

    made = with_policy(steps, each=1)
    made.upstreams.add("a:1", Canned([SILENT]))
    made.upstreams.add("x:1", streaming("7"))
    await made.run(STREAM)
    assert heard[0].attempt.model == "large"
    assert made.client.text == "7"
    assert made.ledger
    assert [tally.blame for tally in made.ledger.tallies] == [Blame.GONE, None]


async def test_a_raced_call_that_failed_unheard_makes_no_noise() -> None:
    noise: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: noise.append(told))

    def steps(asked: Request, _: Fleet) -> Steps:
        first = yield from open_attempt("small", asked)
        second = yield from open_attempt("large", asked)
        yield from next_event(first, second)
        yield from next_event(second, first, timeout=0.01)
        return (yield from relay(first))

    made = with_policy(steps, each=1)
    made.upstreams.add("a:1", Canned([chunk("7", "stop"), sse.DONE]))
    made.upstreams.add("x:1", refusing(400))
    await made.run(STREAM)
    await asyncio.sleep(0)
    assert not noise


# -------------------------------------------------------------------------------------- emitting


def emitting(*texts: str) -> Written:
    def steps(asked: Request, _: Fleet) -> Steps:
        attempt = yield from open_attempt("small", asked)
        yield from next_event(attempt)
        for text in texts:
            yield from emit(attempt, text)
        return Finished(attempt, "length")

    return steps


async def test_emitted_text_becomes_one_stream() -> None:
    made = with_policy(emitting("It ", "is ", "7"))
    anywhere(made, lambda: streaming("draft"))
    await made.run(STREAM)
    assert made.client.text == "It is 7"
    assert made.client.body.endswith(sse.DONE)
    assert made.client.body.count(b'"role":"assistant"') == 1
    assert made.client.body.count(b'"finish_reason":"length"') == 1


async def test_emitted_text_becomes_one_body() -> None:
    made = with_policy(emitting("It ", "is ", "7"))
    anywhere(made, lambda: whole("draft"))
    await made.run(CHAT)
    (choice,) = made.client.json["choices"]
    assert choice["message"] == {"role": "assistant", "content": "It is 7"}
    assert choice["finish_reason"] == "length"
    assert made.client.json["usage"]["completion_tokens"] == 4
    assert int(made.client.head["content-length"]) == len(made.client.body)


# ------------------------------------------------------------------- routes, work and templates


async def test_a_request_may_be_handed_on_and_on() -> None:
    def outer(asked: Request, _: Fleet) -> Steps:
        ended = yield from route("inner", asked, share=0.5)
        yield from note("outer", f"heard {type(ended).__name__}")
        return ended

    def inner(asked: Request, _: Fleet) -> Steps:
        yield from note("inner")
        return (yield from route("small", asked))

    made = core({"auto": policy(outer), "inner": policy(inner)})
    anywhere(made, lambda: streaming("7"))
    assert isinstance(await made.run(STREAM), Finished)
    assert made.ledger
    assert made.ledger.why == "outer; heard Finished"
    assert made.client.head["x-tandem-policy"] == "auto"


async def test_a_share_of_the_time_leaves_the_rest_to_others() -> None:
    made = core(policies={"auto": {"use": "fallback", "targets": ["small", "large"]}}, each=1,
                default="auto")  # type: ignore[arg-type]  # fmt: skip
    made.upstreams.add("a:1", Canned([SILENT]))
    made.upstreams.add("x:1", streaming("7"))
    began = monotonic()
    assert isinstance(await made.run(STREAM, within=1.0), Finished)
    assert 0.3 < monotonic() - began < 0.9
    assert made.client.text == "7"


async def test_work_runs_off_the_loop() -> None:
    ran: list[int] = []

    def steps(asked: Request, _: Fleet) -> Steps:
        ran.append((yield from compute(threading.get_ident)))
        return (yield from serve("small", asked))

    made = with_policy(steps)
    anywhere(made, lambda: whole("7"))
    await made.run(CHAT)
    assert ran != [threading.get_ident()]


@pytest.mark.parametrize(
    ("reply", "tokens"),
    [
        (Canned([b'{"tokens":[1,2,3]}'], kind="application/json"), (1, 2, 3)),
        (Canned([b'{"tokens":"abc"}'], kind="application/json"), None),
        (Canned([b'{"tokens":["a"]}'], kind="application/json"), None),
        (Canned([b"[]"], kind="application/json"), None),
        (Canned([b"<html>"], kind="text/html"), None),
        (Canned([HungUpError("cut")]), None),
        (refusing(404), None),
    ],
    ids=str,
)
async def test_a_template_becomes_token_ids_or_a_failure(
    reply: Canned, tokens: tuple[int, ...] | None
) -> None:
    heard: list[Any] = []

    def steps(asked: Request, _: Fleet) -> Steps:
        heard.append((yield from render("small", asked)))
        return (yield from serve("large", asked))

    made = with_policy(steps, each=1)
    made.upstreams.add("a:1", reply)
    made.upstreams.add("x:1", whole("7"))
    await made.run(CHAT)
    assert made.upstreams.sent[0][1] == "/tokenize"
    if tokens is None:
        assert isinstance(heard[0], Failed)
    else:
        assert heard == [tokens]


@pytest.mark.parametrize(
    ("data", "vectors"),
    [
        ([{"embedding": [1, 0.5]}, {"embedding": [0, 1]}], ((1.0, 0.5), (0.0, 1.0))),
        (
            [{"index": 1, "embedding": [0, 1]}, {"index": 0, "embedding": [1, 0.5]}],
            ((1.0, 0.5), (0.0, 1.0)),
        ),
        ([{"index": 0, "embedding": [1, 2]}], None),
        ([{"embedding": [1, 2]}, {"embedding": [1]}], None),
        ([{"embedding": []}, {"embedding": []}], None),
        ([{"embedding": ["a"]}, {"embedding": [1]}], None),
        ([{"embedding": "AAAA"}, {"embedding": "AAAA"}], None),
        ([{"index": [], "embedding": [1]}, {"embedding": [1]}], None),
        ([7, 8], None),
        (None, None),
        ({}, None),
    ],
)
async def test_texts_become_vectors_or_a_failure(
    data: Any, vectors: tuple[tuple[float, ...], ...] | None
) -> None:
    heard: list[Any] = []

    def steps(asked: Request, _: Fleet) -> Steps:
        heard.append((yield from embed("small", asked, ("one", "two"))))
        return (yield from serve("large", asked))

    made = with_policy(steps, each=1)
    made.upstreams.add("a:1", Canned([orjson.dumps({"data": data})], kind="application/json"))
    made.upstreams.add("x:1", whole("7"))
    assert isinstance(await made.run(CHAT), Finished)
    _, path, body = made.upstreams.sent[0]
    assert (path, body["model"], body["input"]) == ("/v1/embeddings", "small", ["one", "two"])
    assert made.in_flight() == 0
    if vectors is None:
        assert heard[0].fault.code == "bad_json"
    else:
        assert heard == [vectors]


@pytest.mark.parametrize("reply", [refusing(503), Canned([HungUpError("cut")])], ids=str)
async def test_an_embedder_that_fails_is_heard(reply: Canned) -> None:
    heard: list[Any] = []

    def steps(asked: Request, _: Fleet) -> Steps:
        heard.append((yield from embed("small", asked, ("one",))))
        return (yield from serve("large", asked))

    made = with_policy(steps, each=1)
    made.upstreams.add("a:1", reply)
    made.upstreams.add("x:1", whole("7"))
    assert isinstance(await made.run(CHAT), Finished)
    assert isinstance(heard[0], Failed)


async def test_a_silent_embedder_leaves_time_for_an_answer() -> None:
    heard: list[Any] = []

    def steps(asked: Request, _: Fleet) -> Steps:
        heard.append((yield from embed("small", asked, ("one",))))
        return (yield from serve("large", asked))

    made = with_policy(steps, each=1)
    made.upstreams.add("a:1", Canned([SILENT]))
    made.upstreams.add("x:1", whole("7"))
    began = monotonic()
    assert isinstance(await made.run(CHAT, within=1.0), Finished)
    assert 0.15 < monotonic() - began < 0.8
    assert heard[0].fault.code == "first_token_timeout"
    assert made.in_flight() == 0


# --------------------------------------------------------------------- emitting what was heard


@pytest.mark.parametrize("asked", [CHAT, STREAM], ids=["whole", "stream"])
async def test_what_was_heard_can_be_emitted_once_its_call_is_closed(asked: Request) -> None:
    """And the client is told of everything that was drawn, though it gets a part only."""

    def steps(asked: Request, _: Fleet) -> Steps:
        heard = []
        for _number in range(3):
            attempt = yield from open_attempt("small", asked)
            event = yield from next_event(attempt)
            assert isinstance(event, Delta)
            yield Close(attempt)
            heard.append(event)
        first, last = heard[0], heard[2]
        yield Emit(first.attempt, first.text, (Token(first.text),))
        drawn = tuple(event.attempt for event in heard)
        end = Finished(last.attempt, "stop")
        yield Emit(last.attempt, last.text, (Token(last.text),), finish=end, beside=drawn)
        return end

    if asked is STREAM:
        told = {"stream": True, "stream_options": {"include_usage": True}}
        asked = request(body={"messages": [], **told})
    made = with_policy(steps, each=1)
    streamed = asked.stream
    for text in ("It ", "was ", "7"):
        reply = streaming(text, counts=[usage(5, 4)]) if streamed else whole(text, usage=COUNTED)
        if streamed:  # usage beside the text, as it comes with `continuous_usage_stats`
            reply.parts[0] = chunk(text, usage=COUNTED)
        made.upstreams.add("a:1", reply)
    ended = await made.run(asked)
    assert isinstance(ended, Finished)
    assert made.ledger
    assert made.ledger.written() == {"small": 2}
    known = made.ledger.delivered(monotonic())
    assert (known.prompt, known.completion) == (5, 2)
    if streamed:
        assert made.client.text == "It 7"
        assert b'"completion_tokens":12' in made.client.body
    else:
        assert made.client.json["choices"][0]["message"]["content"] == "It 7"
        assert made.client.json["usage"]["completion_tokens"] == 12
        assert made.client.json["usage"]["prompt_tokens"] == 5
    assert made.in_flight() == 0


async def test_what_a_call_said_before_it_broke_can_be_emitted() -> None:
    def steps(asked: Request, _: Fleet) -> Steps:
        attempt = yield from open_attempt("small", asked)
        yield from next_event(attempt)
        yield from next_event(attempt)
        yield Emit(attempt, "7")
        return Finished(attempt)

    made = with_policy(steps, each=1)
    made.upstreams.add("a:1", Canned([chunk("7")]))
    assert isinstance(await made.run(STREAM), Finished)
    assert made.client.text == "7"

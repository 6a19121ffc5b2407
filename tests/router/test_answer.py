"""The answer: what a client sees, and what it must not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from router import sse
from router.answer import Answer, veil
from router.faults import Blame, Fault
from router.fleet import Price
from router.ledger import Ledger, Tally
from router.steps import Finished, Surface, Usage
from tests.fleets import attempt, request
from tests.in_memory import Client, chunk, usage

STREAM: dict[str, Any] = {"messages": [], "stream": True}
SAID = Finished(attempt("small", "a:1"), "stop")
BROKEN = Fault(Blame.BACKEND, "it broke", 502, retry_after=1.5)


def answer(
    body: dict[str, Any] | None = None, surface: Surface = Surface.CHAT, *, explain: bool = False
) -> tuple[Answer, Client]:
    asked = replace(request(surface, body=body or STREAM), explain=explain)
    ledger = Ledger(asked, "auto", 3, None, 0.0, Price(1.0, 2.0))
    tally = Tally("small", "a:1", 0.0, Price(1.0, 2.0), 9, usage=Usage(5, 7), answer=True)
    ledger.tallies.append(tally)
    ledger.reason, ledger.detail = "drawn", "naïve\n🚲"
    client = Client()
    return Answer(ledger, client), client


def decoded(client: Client) -> list[Any]:
    return [json.loads(e.data) for e in sse.read(client.body) if e.data != b"[DONE]"]


def comment(client: Client) -> Any:
    """What the closing comment says."""
    (line,) = [li for li in client.body.split(b"\n") if li.startswith(b": tandem ")]
    return json.loads(line.removeprefix(b": tandem "))


async def test_the_head_of_a_stream_says_why() -> None:
    sent, client = answer()
    await sent.pass_on(chunk("7"))
    assert client.head["content-type"].startswith("text/event-stream")
    assert client.head["x-tandem-policy"] == "auto"
    assert client.head["x-tandem-models"] == "small"
    assert client.head["x-tandem-reason"] == "drawn; naïve??"
    assert "content-length" not in client.head


async def test_a_comment_at_the_end_says_what_is_known_only_then() -> None:
    sent, client = answer()
    await sent.pass_on(chunk("7") + sse.DONE)
    await sent.end(SAID)
    told = comment(client)
    assert told["models"] == {"small": 7}
    assert told["cost_usd"] == pytest.approx(19e-6)
    assert client.body.endswith(sse.DONE)
    assert client.ended == 1


CITED = ({"number": 1, "document": "a", "text": "It is 7"},)


@pytest.mark.parametrize("explain", [False, True])
async def test_who_wants_it_explained_is_shown_what_a_stream_is_made_from(explain: bool) -> None:
    sent, client = answer(explain=explain)
    sent._ledger.cited = CITED
    await sent.pass_on(chunk("7") + sse.DONE)
    await sent.end(SAID)
    shown = [told["tandem"]["citations"] for told in decoded(client) if "tandem" in told]
    assert shown == ([list(CITED)] if explain else [])
    assert client.text == "7"


@pytest.mark.parametrize("explain", [False, True])
async def test_a_whole_answer_is_only_touched_to_show_what_it_is_made_from(explain: bool) -> None:
    sent, client = answer({"messages": []}, explain=explain)
    sent._ledger.cited = CITED
    body = b'{"id":"x", "tandem":{"choices":[]}}'
    await sent.whole(body)
    assert (client.body == body) is not explain
    if explain:
        assert client.json == {"id": "x", "tandem": {"choices": [], "citations": list(CITED)}}
        assert client.head["content-length"] == str(len(client.body))


async def test_usage_is_shown_with_its_summary_to_who_asked_for_it() -> None:
    sent, client = answer({**STREAM, "stream_options": {"include_usage": True}})
    await sent.pass_on(usage(5, 7))
    (closing,) = decoded(client)
    assert closing["usage"]["tandem"]["models"] == {"small": 7}
    assert closing["usage"]["prompt_tokens"] == 5


async def test_usage_in_a_chunk_of_text_is_cut_out_and_the_text_stays() -> None:
    sent, client = answer()
    await sent.pass_on(chunk("7")[:-3] + b',"usage":{"prompt_tokens":5}}\n\n')
    (one,) = decoded(client)
    assert "usage" not in one
    assert client.text == "7"


async def test_what_the_policy_asked_for_is_veiled() -> None:
    sent, client = answer()
    sent.hidden = frozenset({"logprobs"})
    await sent.pass_on(chunk("7", logprobs={"content": []}))
    assert decoded(client)[0]["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(
    "body", [b"[1, 2]", b"{broken", b'{"choices": [7, null]}', b'{"choices": 7}']
)
async def test_a_veil_over_nonsense_does_no_harm(body: bytes) -> None:
    sent, client = answer({"messages": []})
    sent.hidden = frozenset({"logprobs"})
    await sent.whole(body)
    assert client.ended == 1
    assert client.body.replace(b" ", b"") == body.replace(b" ", b"")


def test_a_veil_hides_only_what_is_there() -> None:
    made = veil({"choices": [{"text": "7", "logprobs": 5}]}, frozenset({"logprobs", "token_ids"}))
    assert made == {"choices": [{"text": "7", "logprobs": None}]}


async def test_a_fault_before_the_first_byte_is_a_status() -> None:
    sent, client = answer()
    await sent.fail(BROKEN)
    assert (client.status, client.head["retry-after"]) == (502, "2")
    assert client.json["error"]["message"] == "it broke"
    assert not sent.committed


async def test_a_fault_after_it_is_an_event_and_never_done() -> None:
    sent, client = answer()
    await sent.pass_on(chunk("7"))
    await sent.fail(BROKEN)
    assert client.status == 200
    assert decoded(client)[-1]["error"]["message"] == "it broke"
    assert b"[DONE]" not in client.body
    assert comment(client)


async def test_after_the_end_nothing_is_sent() -> None:
    sent, client = answer()
    await sent.pass_on(chunk("7") + sse.DONE)
    await sent.end(SAID)
    before = client.body
    await sent.end(SAID)
    await sent.fail(BROKEN)
    await sent.keep_alive(0.0)
    assert client.body == before


async def test_a_long_silence_is_broken_by_a_comment_that_commits_to_nothing() -> None:
    sent, client = answer()
    await sent.keep_alive(0.0)
    assert client.body == b": keep-alive\n\n"
    assert not sent.committed
    await sent.fail(BROKEN)
    assert decoded(client)[0]["error"]["message"] == "it broke"


async def test_an_answer_that_does_not_stream_is_not_kept_alive() -> None:
    sent, client = answer({"messages": []})
    await sent.keep_alive(0.0)
    assert not client.status


async def test_other_streams_get_their_comment_too_and_no_done() -> None:
    sent, client = answer({"stream": True}, Surface.MESSAGES)
    await sent.pass_on(sse.event(b'{"type":"message_stop"}', "message_stop"))
    await sent.end(SAID)
    assert comment(client)
    assert b"[DONE]" not in client.body

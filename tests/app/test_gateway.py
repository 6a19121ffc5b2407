"""The clients' API over real sockets: what travels unchanged, what is added, what is not served."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from router.steps import Surface
from tests.conftest import Started
from tests.running import CHAT, MESSAGES, config, model, request, wire
from tests.scripted import (
    DONE,
    Backend,
    answers,
    chat_answer,
    chat_events,
    chunk,
    event,
    streams,
    usage,
    usage_event,
)

ODD = b"""{ "messages" : [{"role":"user","content":"caf\\u00e9 \xc3\xa9 \\/ \xf0\x9f\x9a\xb2"}],
\t"temperature":0.10,"seed":123456789012345678901234567890,"top_p":1e-0, "twice":1,"twice":2,
"model"  :\t"auto" , "nested":{"model":"auto","stream":true,"stream_options":null},
 "x_unknown": [ 1 , 2.50 , {"deep":null} ], "metadata":{"k":"a \\"quoted\\" word"}}\n"""
"""A body in which every byte matters: spaces, escapes, long numbers, a key that stands twice."""

ODD_ANSWER = b"""{"id":"x",  "choices":[{"index":0,"message":{"content":"\\u00e9 \\/","extra":1.50},
"finish_reason":"stop"}],"big":123456789012345678901234567890, "usage":{"prompt_tokens":3,
"completion_tokens":4,"total_tokens":7}, "kv_transfer_params":null,"more":{"a":[1e-0]}}\n"""

TOLD = {
    "x-request-id", "x-tandem-policy", "x-tandem-revision", "x-tandem-models", "x-tandem-cost-usd",
    "server-timing",
}  # fmt: skip


# ---------------------------------------------------------------------------- byte for byte


async def test_only_the_models_name_changes_on_the_way_to_a_backend(
    gateway: Started, small: Backend
) -> None:
    tree = config({"small": small})
    tree["models"]["small"]["served_as"] = "small"
    tree["policies"] = {"auto": {"use": "direct", "model": "small"}}
    tree["default"] = "auto"
    running = await gateway(tree)
    small.plays(answers(ODD_ANSWER))
    answer = await running.client.post(CHAT, content=ODD)
    assert small.calls[0].body == ODD.replace(b'\t"auto" ,', b'\t"small" ,')
    assert answer.content == ODD_ANSWER


async def test_a_model_that_is_not_named_is_put_in_front(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    await running.client.post(CHAT, content=b' {"messages":[] }')
    assert small.calls[0].body == b' {"model":"small","messages":[] }'


@pytest.mark.parametrize(
    ("stated", "sent"),
    [
        (b"", b'{"stream_options":{"include_usage":true},"stream":true,%b}'),
        (b'"stream_options":null,', b'{"stream":true,"stream_options":{"include_usage":true},%b}'),
        (
            b'"stream_options":{"include_usage": true},',
            b'{"stream":true,"stream_options":{"include_usage": true},%b}',
        ),
        (
            b'"stream_options":{"include_usage":false,"other":1},',
            b'{"stream":true,"stream_options":{"include_usage":true,"other":1},%b}',
        ),
    ],
    ids=["absent", "null", "asked for", "refused"],
)
async def test_usage_is_always_asked_of_a_stream(
    gateway: Started, small: Backend, stated: bytes, sent: bytes
) -> None:
    running = await gateway(config({"small": small}))
    rest = b'"model":"small","messages":[]'
    await running.client.post(CHAT, content=b'{"stream":true,%b%b}' % (stated, rest))
    assert small.calls[0].body == sent % rest


async def test_a_streams_events_arrive_as_they_were_sent(gateway: Started, small: Backend) -> None:
    odd = [
        b'data: {"choices":[{"index":0,"delta":{"content":"\\u00e9 \\/"},"x": 1.50}],"b":1e-0}\n\n',
        b'event: odd\nid: 7\ndata: {"choices":[],\ndata:  "two":"lines"}\n\n',
        b": a comment\n\n",
        b"data: not json at all\n\n",
        'data: {"choices":[{"index":1,"delta":{"reasoning_content":"你好 🚲"}}]}\n\n'.encode(),
    ]
    small.plays(streams(*odd, usage_event(), DONE))
    running = await gateway(config({"small": small}))
    got = await running.streamed(model="small")
    before, closing, after = got.rpartition(b": tandem ")
    assert before == b"".join(odd)
    assert closing
    assert after.endswith(b"\n\n" + DONE)
    assert json.loads(after.split(b"\n")[0])["models"] == {"small": 2}


@pytest.mark.parametrize(
    "said",
    [
        pytest.param({"content": "an SSE stream ends in\ndata: [DONE]\n\nlike this"}, id="lines"),
        pytest.param({"content": 'data: [DONE] "usage": {"prompt_tokens": 9} "error"'}, id="marks"),
        pytest.param({"tool_calls": [{"function": {"arguments": '{"error":{"x":1}}'}}]}, id="tool"),
        pytest.param({"content": "", "error": {"message": "not the event's own"}}, id="inner"),
    ],
)
async def test_an_answer_may_talk_about_the_protocol(
    gateway: Started, small: Backend, said: dict[str, Any]
) -> None:
    sent = [chunk(said), chunk({"content": "more"}), chunk({}, "stop")]
    small.plays(streams(*sent, usage_event(completion=5), DONE))
    running = await gateway(config({"small": small}))
    got = await running.streamed(model="small")
    assert got.startswith(b"".join(sent))
    assert got.endswith(DONE)
    assert b'"models":{"small":5}' in got


async def test_every_surface_passes_through(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    said = b'{"object": "anything", "usage": {"prompt_tokens": 3, "total_tokens": 3}}'
    sent = b'{"model":"small","messages":[],"input":["a"],"x":1.0}'
    small.plays(answers(said))
    for number, surface in enumerate(Surface):
        path = f"/v1/{surface.value}"
        answer = await running.client.post(path, content=sent)
        assert (answer.status_code, answer.content) == (200, said)
        assert (small.calls[number].path, small.calls[number].body) == (path, sent)
        assert (await running.ended(number + 1)).attempts[0].usage is not None


def named(name: str, **said: Any) -> bytes:
    return f"event: {name}\n".encode() + event({"type": name, **said})


MESSAGES_STREAM = [
    named("message_start", message={"usage": {"input_tokens": 9}}),
    named("content_block_delta", delta={"text": "Hi"}),
    named("message_delta", usage={"output_tokens": 3}),
    named("message_stop"),
]
RESPONSES_STREAM = [
    named("response.created"),
    named("response.output_text.delta", delta="Hi"),
    named("response.completed", response={"usage": {"input_tokens": 9, "output_tokens": 3}}),
]


@pytest.mark.parametrize(
    ("path", "events"), [("messages", MESSAGES_STREAM), ("responses", RESPONSES_STREAM)]
)
async def test_streams_that_end_in_their_own_way(
    gateway: Started, small: Backend, path: str, events: list[bytes]
) -> None:
    running = await gateway(config({"small": small}))
    small.plays(streams(*events))
    answer = await running.client.post(f"/v1/{path}", json={"model": "small", "stream": True})
    assert answer.content.startswith(b"".join(events))
    assert answer.content[len(b"".join(events)) :].startswith(b": tandem ")
    assert small.calls[0].json == {"model": "small", "stream": True}
    ended = await running.ended()
    assert ended.blame is None
    spent = ended.attempts[0].usage
    assert spent is not None
    assert (spent.prompt, spent.completion) == (9, 3)


# ------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize("asked", [None, {"include_usage": False}])
async def test_usage_is_hidden_from_who_did_not_ask(
    gateway: Started, small: Backend, asked: dict[str, Any] | None
) -> None:
    with_null = event({"choices": [{"index": 0, "delta": {"content": "a"}}], "usage": None})
    with_counts = event({"choices": [{"index": 0, "delta": {"content": "b"}}], "usage": usage()})
    small.plays(streams(with_null, with_counts, usage_event(prompt=7, completion=9), DONE))
    running = await gateway(config({"small": small}))
    got = await running.streamed(model="small", **({"stream_options": asked} if asked else {}))
    assert b"usage" not in got
    assert re.findall(rb'"content":"(\w)"', got) == [b"a", b"b"]
    spent = (await running.ended()).attempts[0].usage
    assert spent is not None
    assert (spent.prompt, spent.completion) == (10, 9)  # counts only grow


async def test_usage_is_shown_to_who_asked_with_what_it_cost(
    gateway: Started, small: Backend
) -> None:
    running = await gateway(config({"small": small}))
    got = await running.streamed(model="small", stream_options={"include_usage": True})
    last = [json.loads(e[6:]) for e in got.split(b"\n\n") if e.startswith(b"data: {")][-1]
    shown = last["usage"]
    tandem = shown.pop("tandem")
    assert shown == usage()
    assert tandem["models"] == {"small": 2}
    assert tandem["cost_usd"] == pytest.approx((10 * 1.0 + 2 * 2.0) / 1e6)
    assert set(tandem) == {"models", "cost_usd", "baseline_usd", "reason"}


async def test_a_stream_without_usage_is_counted_as_such(gateway: Started, small: Backend) -> None:
    small.plays(streams(chunk({"content": "a"}), DONE))
    running = await gateway(config({"small": small}))
    assert (await running.streamed(model="small")).endswith(DONE)
    assert (await running.ended()).attempts[0].usage is None
    assert (await running.metrics())["tandem_streams_without_usage_total"] == {("small",): 1}


# ----------------------------------------------------------------------------------- headers


async def test_an_answer_says_who_wrote_it_and_what_it_cost(
    gateway: Started, small: Backend
) -> None:
    running = await gateway(config({"small": small}))
    answer = await running.post(model="small")
    headers = answer.headers
    assert set(headers) >= TOLD
    assert headers["x-tandem-policy"] == "small"
    assert headers["x-tandem-revision"] == "1"
    assert headers["x-tandem-models"] == "small=2"
    assert float(headers["x-tandem-cost-usd"]) == pytest.approx(14e-6)
    assert headers["x-request-id"] == small.calls[0].headers["x-request-id"]
    timing = dict(re.findall(r"(\w+);dur=([\d.]+)", headers["server-timing"]))
    assert set(timing) == {"upstream", "gateway"}
    assert "server" not in headers


async def test_a_stream_says_at_its_head_what_is_known_and_at_its_end_the_rest(
    gateway: Started, small: Backend
) -> None:
    tree = config({"small": small}, policies={"half": {"use": "split", "weights": {"small": 1}}})
    running = await gateway(tree)
    answer = await running.post(model="half", stream=True)
    headers = answer.headers
    assert set(headers) >= (TOLD - {"x-tandem-cost-usd"}) | {"x-tandem-reason"}
    assert headers["x-tandem-models"] == "small"
    assert headers["x-tandem-reason"] == "drawn; small"
    assert headers["cache-control"] == "no-cache"
    comment = answer.content.partition(b": tandem ")[2].partition(b"\n")[0]
    closing = json.loads(comment)
    assert closing["models"] == {"small": 2}
    assert closing["cost_usd"] == closing["baseline_usd"] == pytest.approx(14e-6)
    assert "upstream;dur=" in closing["server_timing"]


async def test_errors_carry_the_headers_too(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    small.plays(answers({"error": {"message": "no"}}, 400))
    answer = await running.post(model="small")
    assert answer.status_code == 400
    assert set(answer.headers) >= TOLD - {"x-tandem-models"}


async def test_a_refusal_has_a_request_id_too(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    first, second = [await running.post(model="nobody") for _ in range(2)]
    assert first.headers["x-request-id"].startswith("req-")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert first.headers["x-tandem-revision"] == "1"


async def test_backends_are_told_what_they_may_know(
    gateway: Started, small: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMALL_KEY", "backend-secret")
    tree = config({"small": small})
    tree["models"]["small"] = model(small, api_key_env="SMALL_KEY")
    running = await gateway(tree)
    private = {"authorization": "Bearer mine", "cookie": "a=b", "x-vllm-priority": "1"}
    trace = {"traceparent": "00-1-2-01", "x-session-id": "s1"}
    await running.client.post(
        CHAT, json={"messages": MESSAGES}, headers={**private, **trace, "x-request-id": "mine"}
    )
    told = small.calls[0].headers
    assert told["authorization"] == "Bearer backend-secret"
    assert told["traceparent"] == "00-1-2-01"
    assert told["x-session-id"] == "s1"
    assert told["x-request-id"] != "mine"
    assert set(told) == {
        "host", "content-type", "content-length", "x-request-id", "traceparent", "x-session-id",
        "authorization",
    }  # fmt: skip


# ------------------------------------------------------------------------------------- pages


async def test_models_and_policies_are_listed(gateway: Started, small: Backend) -> None:
    tree = config({"org/small-1.5": small})
    small.serves = ("org/small-1.5",)
    tree["policies"] = {"auto": {"use": "split", "weights": {"org/small-1.5": 1}}}
    tree["default"] = "auto"
    running = await gateway(tree)
    listed = (await running.client.get("/v1/models")).json()
    assert listed["object"] == "list"
    about = {card["id"]: card["tandem"] for card in listed["data"]}
    assert about["auto"] == {
        "kind": "policy", "use": "split", "targets": ["org/small-1.5"], "default": True,
    }  # fmt: skip
    assert about["org/small-1.5"]["healthy"] == 1
    assert len(about["org/small-1.5"]["surfaces"]) == len(Surface)
    one = await running.client.get("/v1/models/org/small-1.5")
    assert one.json()["max_model_len"] == 4096
    assert (await running.client.get("/v1/models/org%2Fsmall-1.5")).json() == one.json()


async def test_health_and_readiness(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    assert (await running.client.get("/healthz")).json() == {"status": "ok"}
    ready = await running.client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert ready.json()["models"] == {"small": {small.name: "healthy"}}
    running.rooms.gateway.draining = True
    assert (await running.client.get("/readyz")).status_code == 503
    running.rooms.gateway.draining = False
    running.backend("small").healthy = False
    assert (await running.client.get("/readyz")).json()["status"] == "no backend is up"
    assert (await running.client.get("/healthz")).status_code == 200


async def test_head_gives_the_head_of_get(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    for path in ("/healthz", "/readyz", "/v1/models", "/v1/models/small"):
        get, head = await running.client.get(path), await running.client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(get.content))


PATHS = [
    ("GET", CHAT, 405, "POST"),
    ("HEAD", CHAT, 405, "POST"),
    ("OPTIONS", CHAT, 405, "POST"),
    ("PUT", "/v1/embeddings", 405, "POST"),
    ("POST", "/v1/models", 405, "GET"),
    ("DELETE", "/v1/models/small", 405, "GET"),
    ("POST", "/healthz", 405, "GET"),
    ("POST", "/v1/images/generations", 404, None),
    ("GET", "/v1/files", 404, None),
    ("POST", "/tokenize", 404, None),
    ("GET", "/", 404, None),
    ("POST", "/v1/chat/completions/", 404, None),
    ("POST", "//v1/chat/completions", 404, None),
    ("POST", "/v1/chat/../completions", 404, None),
    ("GET", "/admin/config", 404, None),
]


async def test_paths_are_an_allow_list(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    for method, path, status, allow in PATHS:
        async with wire(running.url) as client:
            line = f"{method} {path} HTTP/1.1"
            await client.send(f"{line}\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
            answer = await client.rest()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), line
        assert (f"allow: {allow}".encode() in head) == bool(allow), line
        assert b"x-request-id: req-" in head, line
        if method != "HEAD":
            error = json.loads(body)["error"]
            assert error["code"] == ("method_not_allowed" if allow else "unknown_url"), line
            assert error["type"] == ("invalid_request_error" if allow else "not_found_error"), line
    assert small.calls == []


# -------------------------------------------------------------------------------- connections


async def test_a_connection_serves_many_requests(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    body = {"model": "small", "messages": MESSAGES}
    async with wire(running.url) as client:
        for stream in (False, True, False):
            await client.send(request({**body, "stream": stream}))
            status, headers, said = await client.answer()
            assert status == 200
            assert said.endswith(DONE) == stream
            kind = "text/event-stream; charset=utf-8" if stream else "application/json"
            assert headers["content-type"] == kind
    assert small.finished == 3


async def test_pipelined_requests_are_answered_in_order(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    body = {"model": "small", "messages": MESSAGES}
    small.plays(*(answers(chat_answer(f"answer {n}")) for n in range(3)))
    async with wire(running.url) as client:
        await client.send(request(body) * 3)
        said = [(await client.answer())[2] for _ in range(3)]
    assert [json.loads(s)["choices"][0]["message"]["content"] for s in said] == [
        "answer 0", "answer 1", "answer 2",
    ]  # fmt: skip


async def test_a_body_that_waits_to_be_welcome(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    head, _, body = request({"model": "small", "messages": []}, "expect: 100-continue").partition(
        b"\r\n\r\n"
    )
    async with wire(running.url) as client:
        await client.send(head + b"\r\n\r\n")
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert small.calls == []
        await client.send(body)
        assert (await client.answer())[0] == 200


async def test_backends_connections_are_used_again(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    for stream in (False, True, True, False):
        await running.post(model="small", stream=stream)
        await running.ended(len(small.calls))
    assert small.finished == 4
    assert small.connected == 1 + small.probing


async def test_a_stream_in_one_piece_with_its_end(gateway: Started, small: Backend) -> None:
    small.plays(streams(b"".join(chat_events(["Hello"]))))
    running = await gateway(config({"small": small}))
    got = await running.streamed(model="small")
    assert got.startswith(b"".join(chat_events(["Hello"])[:3]))
    assert got.count(b": tandem") == got.count(DONE) == 1

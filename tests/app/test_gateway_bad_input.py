"""What clients get wrong: each mistake has OpenAI's shape, a status, a code and a cure."""

from __future__ import annotations

import gzip
import json
from typing import Any

from router.faults import Blame
from router.observe import Refused
from tests.conftest import Started
from tests.running import CHAT, MESSAGES, config, request, wire
from tests.scripted import Backend

BAD: list[tuple[bytes | dict[str, Any], str | None, str | None, str]] = [
    (b"", "invalid_json", None, "not valid JSON"),
    (b"{", "invalid_json", None, "not valid JSON"),
    (b'{"model": NaN}', "invalid_json", None, "not valid JSON"),
    (b'{"model": "small"} {}', "invalid_json", None, "not valid JSON"),
    (b'\xff\xfe{"model": "small"}', "invalid_json", None, "not valid JSON"),
    (b'{"model": "sm\xff"}', "invalid_json", None, "not valid JSON"),
    (b"[" * 5000, "invalid_json", None, "not valid JSON"),
    (b"[]", "invalid_json", None, "an array"),
    (b'"text"', "invalid_json", None, "a string"),
    (b"null", "invalid_json", None, "null"),
    ({"model": 7, "messages": []}, None, "model", "a number"),
    ({"model": ["small"], "messages": []}, None, "model", "an array"),
    ({"model": "small", "messages": [], "stream": "yes"}, None, "stream", "a string"),
    ({"model": "small", "messages": [], "stream": 1}, None, "stream", "a number"),
    ({"model": "small", "messages": [], "stream_options": []}, None, "stream_options", "an array"),
    ({"model": "small"}, None, "messages", "missing"),
    ({"model": "small", "messages": "hi"}, None, "messages", "a string"),
    ({"model": "small", "messages": [{}, "hi"]}, None, "messages[1]", "a string"),
]  # fmt: skip


async def test_a_body_that_is_wrong_is_a_400(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    for number, (body, code, param, says) in enumerate(BAD):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await running.client.post(CHAT, content=content)
        error = answer.json()["error"]
        assert answer.status_code == 400, content[:80]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["code"], error["param"]) == (code, param), content[:80]
        assert error["type"] == "invalid_request_error"
        assert says in error["message"]
        refused = await running.saw(Refused, number + 1)
        assert (refused.status, refused.blame) == (400, Blame.CLIENT)
    assert small.calls == []


async def test_a_model_that_is_not_there(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    for name in ("nobody", "", "Small", "small ", "../small", "é" * 1000):
        answer = await running.post(model=name)
        error = answer.json()["error"]
        assert answer.status_code == 404
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert error["type"] == "not_found_error"
        assert "/v1/models" in error["message"]
    metrics = await running.metrics()
    assert metrics["tandem_refused_total"] == {("model_not_found", "client"): 6}


async def test_the_default_serves_who_names_nobody(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    bodies: list[dict[str, Any]] = [{}, {"model": None}]
    for body in bodies:
        answer = await running.post(**body)
        assert (answer.status_code, answer.headers["x-tandem-policy"]) == (200, "small")


async def test_a_body_over_the_limit_is_refused_by_its_length(
    gateway: Started, small: Backend
) -> None:
    running = await gateway(config({"small": small}, limits={"body_mb": 0.01}))
    async with wire(running.url) as client:
        head = request(b"").replace(b"content-length: 0", b"content-length: 1000000000")
        await client.send(head)  # and not a byte of the body
        status, headers, body = await client.answer()
        assert status == 413
        assert headers["connection"] == "close"
        assert json.loads(body)["error"]["code"] == "body_too_large"
        assert "limits.body_mb" in json.loads(body)["error"]["message"]
        assert await client.rest() == b""


async def test_a_body_over_the_limit_is_refused_as_it_comes(
    gateway: Started, small: Backend
) -> None:
    running = await gateway(config({"small": small}, limits={"body_mb": 0.01}))
    async with wire(running.url) as client:
        head = request(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
        await client.send(head + b"3000\r\n" + b" " * 0x3000 + b"\r\n")
        status, _, body = await client.answer()
        assert status == 413
        assert json.loads(body)["error"]["code"] == "body_too_large"
    assert small.calls == []


async def test_a_body_of_just_the_limit_is_served(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}, limits={"body_mb": 0.01}))
    limit = int(0.01 * 2**20)
    bare = json.dumps({"model": "small", "messages": MESSAGES}).encode()
    for size, status in ((limit, 200), (limit + 1, 413)):
        answer = await running.client.post(CHAT, content=bare + b" " * (size - len(bare)))
        assert answer.status_code == status
    assert len(small.calls[0].body) == limit


async def test_a_chunked_body_is_put_together(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    body = json.dumps({"model": "small", "messages": MESSAGES}).encode()
    async with wire(running.url) as client:
        await client.send(
            request(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
            + b"".join(b"1\r\n%c\r\n" % byte for byte in body)
            + b"0\r\n\r\n"
        )
        assert (await client.answer())[0] == 200
    assert small.calls[0].body == body


async def test_a_compressed_body_is_not_guessed_at(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    body = gzip.compress(json.dumps({"model": "small", "messages": []}).encode())
    answer = await running.client.post(CHAT, content=body, headers={"content-encoding": "gzip"})
    assert answer.status_code == 415
    assert answer.json()["error"]["code"] == "unsupported_encoding"


async def test_a_body_that_is_refused_does_not_spoil_the_connection(
    gateway: Started, small: Backend
) -> None:
    running = await gateway(config({"small": small}))
    async with wire(running.url) as client:
        await client.send(request(b"not json") + request({"model": "small", "messages": []}))
        assert (await client.answer())[0] == 400
        assert (await client.answer())[0] == 200


async def test_what_is_no_http_is_turned_away(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    for said in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n"):
        async with wire(running.url) as client:
            await client.send(said)
            assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
    assert (await running.post(model="small")).status_code == 200


async def test_anthropics_shape_on_its_own_surface(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        answer = await running.client.post(path, json={"model": "nobody"})
        assert answer.status_code == 404
        assert answer.json()["type"] == "error"
        assert answer.json()["error"]["type"] == "not_found_error"

"""The playground asks as a client does: streams, explains, stops, and hides nothing that fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.keys import new_key
from app.operators import Operators
from app.ui.entry import HEADER
from tests.app.ui.visiting import OLGA, TOKENS, VERA, Guest, visiting
from tests.conftest import Started
from tests.running import MESSAGES, Running, config, eventually
from tests.scripted import Backend, chat_events, stalls, streams

CHAT = "/ui/playground/chat"


@pytest.fixture
async def running(gateway: Started, small: Backend, large: Backend) -> Running:
    policies = {"auto": {"use": "fallback", "targets": ["large", "small"]}}
    return await gateway(config({"small": small, "large": large}, policies=policies))


@pytest.fixture
async def guest(running: Running) -> AsyncIterator[Guest]:
    async with visiting(running) as it:
        yield it


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "small", "messages": MESSAGES, "stream": True, **fields}


async def head(guest: Guest, **more: str) -> dict[str, str]:
    """What the script sends beside a request."""
    page = await guest.read("/ui/playground")
    proof = page.answer.text.partition('data-proof="')[2].partition('"')[0]
    return {"sec-fetch-site": "same-origin", HEADER: proof, **more}


async def test_an_answer_is_the_gateways_own(
    guest: Guest, running: Running, small: Backend
) -> None:
    small.plays(streams(*chat_events(["Sev", "en."])))
    answer = await guest.client.post(CHAT, json=body(), headers=await head(guest))
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-tandem-models"] == "small"
    assert b": tandem {" in answer.content
    assert answer.content.endswith(b"data: [DONE]\n\n")
    ended = await running.ended()
    assert (ended.policy, ended.stream, ended.status) == ("small", True, 200)
    (call,) = small.calls
    assert not [value for value in call.headers.values() if "tandem-" in value]
    assert "cookie" not in call.headers


async def test_errors_are_the_gateways_own(guest: Guest) -> None:
    told = await head(guest)
    unknown = await guest.client.post(CHAT, json=body(model="nobody"), headers=told)
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"
    bad = await guest.client.post(CHAT, content=b"{", headers=told)
    assert bad.status_code == 400


async def test_who_hangs_up_stops_the_model(guest: Guest, running: Running, small: Backend) -> None:
    small.plays(stalls(*chat_events(["Sev"])[:1]))
    told = await head(guest)
    async with guest.client.stream("POST", CHAT, json=body(), headers=told) as answer:
        async for _ in answer.aiter_bytes():
            break
    await eventually(lambda: small.cancelled == 1)
    assert (await running.ended()).blame == "gone"
    assert running.in_flight() == 0


async def test_the_first_words_come_while_others_are_written(guest: Guest, small: Backend) -> None:
    small.plays(stalls(*chat_events(["Sev", "en."])[:2]))
    told = await head(guest)
    async with (
        asyncio.timeout(5),
        guest.client.stream("POST", CHAT, json=body(), headers=told) as answer,
    ):
        async for part in answer.aiter_bytes():
            if b"Sev" in part:
                break


async def test_only_our_page_may_ask(guest: Guest, small: Backend) -> None:
    told = await head(guest)
    for wrong in (
        {**told, HEADER: "x"},
        {**told, "sec-fetch-site": "cross-site"},
        {HEADER: told[HEADER]},
    ):
        refused = await guest.client.post(CHAT, json=body(), headers=wrong)
        assert refused.status_code == 403
    assert not small.calls


async def test_a_viewer_asks_with_a_key_or_not_at_all(
    gateway: Started, small: Backend, tmp_path: Path
) -> None:
    operators = Operators(TOKENS)
    open_to_all = await gateway(config({"small": small}))
    async with visiting(open_to_all, operators) as guest:
        await guest.sign_in(TOKENS[VERA])
        assert "A viewer cannot ask" in (await guest.read("/ui/playground")).text
        refused = await guest.client.post(CHAT, json=body(), headers=await head(guest))
        assert refused.status_code == 403
        assert "needs an API key" in refused.text
    secret, entry = new_key("alice")
    file = tmp_path / "keys.yaml"
    file.write_text(json.dumps({"keys": [{"name": "alice", "sha256": entry.sha256}]}))
    keyed = await gateway(config({"small": small}, keys={"file": str(file)}))
    async with visiting(keyed, operators) as guest:
        for who in (OLGA, VERA):
            guest.client.cookies.clear()
            await guest.sign_in(TOKENS[who])
            page = await guest.read("/ui/playground")
            assert "API key" in page.text
            told = await head(guest, **{"x-api-key": secret})
            answer = await guest.client.post(CHAT, json=body(), headers=told)
            assert answer.status_code == 200, answer.text
        assert (await keyed.ended()).key == "alice"
        told = await head(guest, **{"x-api-key": "tdm-wrong"})
        assert (await guest.client.post(CHAT, json=body(), headers=told)).status_code == 401
        assert secret not in (await guest.read("/ui/decisions")).answer.text
        assert "by alice" in (await guest.read("/ui/decisions")).text

"""A client of many answers at once, which reads them to the last detail and may leave in between.

Every answer is asked with `x-tandem-explain`, so that it says which model wrote which token.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.running import CHAT

PATIENCE = 300.0
"""Seconds for one answer among many: a busy machine takes a minute, a lost answer for ever."""
EXPLAINED = {"x-tandem-explain": "1"}
DONE = "[DONE]"


@dataclass(frozen=True, slots=True)
class Leaving:
    """When a client leaves: after so many events of a stream, or after so many seconds."""

    events: int | None = None
    seconds: float | None = None


STAYING = Leaving()


@dataclass(slots=True)
class Said:
    """One choice of an answer: the text, and each token's writer and id."""

    text: str = ""
    tokens: list[tuple[str, int]] = field(default_factory=list)
    finish: str | None = None

    @property
    def ids(self) -> list[int]:
        """The tokens, whoever wrote them."""
        return [token for _, token in self.tokens]


@dataclass(slots=True)
class Heard:
    """All that came. `complete` says that the answer ended as one should; `error` is the code of
    the one that it ended with instead; neither is there if the client left.
    """

    status: int = 0
    id: str = ""
    revision: int = 0
    reason: str = ""
    choices: dict[int, Said] = field(default_factory=dict)
    usage: Mapping[str, Any] | None = None
    complete: bool = False
    error: str | None = None
    left: bool = False

    def choice(self, index: int) -> Said:
        """One choice, as far as it came."""
        return self.choices.setdefault(index, Said())


def session(url: str) -> aiohttp.ClientSession:
    """A client of this gateway, whose every request has a connection of its own: one that is kept
    may be closed for its idleness just when it is used again.
    """
    return aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0, force_close=True))


async def ask(
    client: aiohttp.ClientSession, body: Mapping[str, Any], leaving: Leaving = STAYING
) -> Heard:
    """Ask this, and hear the answer to its end, or until the client leaves."""
    heard = Heard()
    try:
        async with asyncio.timeout(leaving.seconds or PATIENCE):
            await hear(client, body, heard, leaving)
    except TimeoutError:
        assert leaving.seconds is not None, f"no end after {PATIENCE:.0f} s: {body}, {heard}"
        heard.left = True
    return heard


async def hear(
    client: aiohttp.ClientSession,
    body: Mapping[str, Any],
    heard: Heard,
    leaving: Leaving = STAYING,
) -> None:
    """Ask this, and put into `heard` what comes, as it comes."""
    async with client.post(CHAT, json=body, headers=EXPLAINED) as answer:
        heard.status = answer.status
        heard.id = answer.headers.get("x-request-id", "")
        heard.revision = int(answer.headers.get("x-tandem-revision", 0))
        heard.reason = answer.headers.get("x-tandem-reason", "")
        if answer.status != 200:
            heard.error = (await answer.json())["error"]["code"]
        elif body.get("stream"):
            await _stream(answer, leaving, heard)
        else:
            _whole(await answer.json(), heard)


def _whole(body: Mapping[str, Any], heard: Heard) -> None:
    heard.complete, heard.usage = True, body["usage"]
    for choice in body["choices"]:
        said = heard.choice(choice["index"])
        said.text, said.finish = choice["message"]["content"], choice["finish_reason"]
    for told in body.get("tandem", {}).get("choices", ()):
        written = [(t["model"], t["id"]) for t in told["tokens"] if t["id"] is not None]
        heard.choice(told["index"]).tokens.extend(written)


async def _stream(answer: aiohttp.ClientResponse, leaving: Leaving, heard: Heard) -> None:
    """Events, and at the end either an error or `[DONE]`, and nothing after it."""
    events = 0
    async for raw in answer.content:
        line = raw.decode().rstrip("\n")
        if line.startswith(": tandem "):
            heard.reason = json.loads(line.removeprefix(": tandem "))["reason"]
        if not line.startswith("data: "):
            continue
        assert not heard.complete, f"after [DONE]: {line}"
        assert heard.error is None, f"after an error: {line}"
        data = line.removeprefix("data: ")
        if data == DONE:
            heard.complete = True
            continue
        _event(json.loads(data), heard)
        events += 1
        if events == leaving.events:
            heard.left = True
            answer.close()
            return


def _event(chunk: Mapping[str, Any], heard: Heard) -> None:
    if "error" in chunk:
        heard.error = chunk["error"]["code"]
        return
    heard.usage = chunk.get("usage", heard.usage)
    for choice in chunk["choices"]:
        said = heard.choice(choice["index"])
        assert said.finish is None, f"after the end of a choice: {chunk}"
        said.text += choice["delta"].get("content") or ""
        said.finish = choice["finish_reason"]
        if told := chunk.get("tandem"):
            said.tokens.extend((told["model"], token) for token in told["tokens"])

"""Choices: one of several that a backend gave, as the only one of the client's answer.

Bytes in, bytes out: events and bodies of chats and completions, where choices stand in a list and
usage counts them all. Everything about the chosen one stays as the backend wrote it, but for its
number. Must not know who chose, or why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from router import sse
from router.steps import Usage


@dataclass(frozen=True, slots=True)
class Only:
    """The one `choice` that is passed on, and the usage to be told; None: as it came."""

    choice: int
    usage: Usage | None

    def event(self, block: bytes) -> bytes:
        """What is left of one event of a stream; empty if it is about other choices."""
        for event in sse.read(block):
            try:
                chunk = orjson.loads(event.data)
            except orjson.JSONDecodeError:
                continue
            if isinstance(chunk, dict):
                kept = self.chunk(chunk)
                return sse.event(orjson.dumps(kept)) if kept is not None else b""
        return block

    def chunk(self, chunk: dict[str, Any]) -> dict[str, Any] | None:
        """What is left of the object in an event, or of a whole answer; None for nothing."""
        stated = chunk.get("choices")
        if isinstance(stated, list) and stated:
            kept = [c for c in stated if isinstance(c, dict) and c.get("index", 0) == self.choice]
            if not kept:
                return None
            chunk = {**chunk, "choices": [{**choice, "index": 0} for choice in kept]}
        if self.usage and isinstance(chunk.get("usage"), dict):
            counts = {
                "completion_tokens": self.usage.completion,
                "total_tokens": self.usage.prompt + self.usage.completion,
            }
            chunk = {**chunk, "usage": {**chunk["usage"], **counts}}
        return chunk

"""Composing: an OpenAI answer out of text that a policy emits, where no backend's bytes are passed.

One id, one role, one finish, whatever number of models wrote the text. Pure: bytes out, no clock
(the creation time is passed in) and no socket. Only the surfaces whose answers are one growing text
can be composed.
"""

from __future__ import annotations

from typing import Any

import orjson

from router import sse
from router.steps import Finished, Request, Surface, Usage


class Composer:
    """Writes one answer; `created` is in seconds since 1970."""

    def __init__(self, request: Request, created: int) -> None:
        self._chat = request.surface is Surface.CHAT
        self._stream = request.stream
        self._text: list[str] = []
        kind = "chat.completion" if self._chat else "text_completion"
        self._head: dict[str, Any] = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{request.id.removeprefix('req-')}",
            "object": kind + (".chunk" if self._chat and self._stream else ""),
            "created": created,
            "model": request.target,
        }

    def text(self, text: str) -> bytes:
        """The part that carries this text; empty where the answer is one body at the end."""
        first = not self._text
        self._text.append(text)
        if not self._stream:
            return b""
        role = {"role": "assistant"} if first else {}
        return self._chunk({"delta": {**role, "content": text}} if self._chat else {"text": text})

    def end(self, finished: Finished, usage: Usage, *, show_usage: bool) -> bytes:
        """The part after which only `[DONE]` comes, or the whole body."""
        counts = {
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.completion,
            "total_tokens": usage.prompt + usage.completion,
        }
        reason = finished.reason or "stop"
        if self._stream:
            last = self._chunk({"delta": {}} if self._chat else {"text": ""}, reason)
            closing = {**self._head, "choices": [], "usage": counts}
            return last + (sse.event(orjson.dumps(closing)) if show_usage else b"")
        text = "".join(self._text)
        said = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": reason}
        return orjson.dumps({**self._head, "choices": [choice], "usage": counts})

    def _chunk(self, said: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": reason}
        return sse.event(orjson.dumps({**self._head, "choices": [choice]}))

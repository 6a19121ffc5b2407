"""The hand-off as text: what a model is sent so that it goes on where another call stopped.

A completion is continued by a longer prompt. A chat is continued by its last message
(`continue_final_message`, which vLLM and SGLang have) or, if the hand-off `renders`, as a
completion of the prompt that the model's own chat template makes (vLLM's `/tokenize`): templates of
models that think take the thoughts out of a message, or put empty ones in front of it.

The text is handed over whole, with the separator at its end: a tokenizer has one token for a full
stop and an empty line, and after a bare full stop a model would not begin a new paragraph. Some
chat templates (Llama 3, Gemma) strip that white space all the same. Their model is then likely to
write it again, so what a reply repeats of it is dropped; but not a single line break, since after
one another makes an empty line, which a model whose template strips nothing may well want.

It knows no call under way: who opens it, and what comes of it, is the caller's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policies.duet.asked import Asked
from policies.duet.sheet import Piece
from router.phrases import Phrase, render, spell
from router.steps import Failed, Request, Surface

ANEW = frozenset({
    "model", "messages", "prompt", "stream", "stream_options", "stop", "include_stop_str_in_output",
    "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs", "seed", "n", "best_of",
    "add_generation_prompt", "continue_final_message",
})  # fmt: skip
"""Fields that each call gets anew; all others go to every model as they came."""
COUNTED = {"include_usage": True, "continuous_usage_stats": True}
"""Usage with every event, where the backend can do that: most calls are closed before their end."""
CALL = 1024
"""Tokens of a rendered call without another limit: a completion needs one, a chat does not."""


@dataclass(frozen=True, slots=True)
class Length:
    """How many tokens a call asks for, None for no limit. If they are used up, the answer may go on
    in another call only where they are `extendable`: not where the context is full.
    """

    asked: int | None
    extendable: bool


UNLIMITED = Length(None, extendable=False)
"""As long as the backend likes."""


@dataclass(slots=True)
class Handoff:
    """One model that is given texts to go on with. `context` is in tokens."""

    model: str
    renders: bool = False
    context: int | None = None
    _opening: str | None = None
    _opens: int = 0

    def ready(self, request: Request) -> Phrase[Failed | None]:
        """Find out, once, what the prompt reads like behind the model's chat template."""
        if not self.renders or self._opening is not None:
            return None
        ids = yield from render(self.model, request)
        if isinstance(ids, Failed):
            return ids
        opening = yield from spell(self.model, request, ids)
        if isinstance(opening, Failed):
            return opening
        self._opening, self._opens = opening, len(ids)
        return None

    def continuing(
        self, request: Request, asked: Asked, text: str, changes: Mapping[str, Any]
    ) -> Request:
        """The streaming call that goes on behind `text`, with these fields beside the client's."""
        body = {"stream": True, "stream_options": COUNTED, **changes}
        if self._opening is None:
            body = {**_continued(request, text), **body}
            return request.asking(body, request.surface, stream=True)
        prompt = {"prompt": self._opening + text, "add_special_tokens": False}
        body = {**asked.others, **prompt, **body}
        return request.asking(body, Surface.COMPLETIONS, stream=True)

    def asking(
        self, request: Request, asked: Asked, length: Length, alternatives: int, seed: int | None
    ) -> Mapping[str, Any]:
        """The fields that say how long, with which log-probabilities and by which seed."""
        chat = request.surface is Surface.CHAT and self._opening is None
        alternatives = max(alternatives, asked.logprobs or 0)
        newer = chat and request.body.get("max_completion_tokens") is not None
        optional = {
            "max_completion_tokens" if newer else "max_tokens": length.asked,
            "top_logprobs": alternatives if chat else None,
            "seed": seed,
        }
        given = {name: value for name, value in optional.items() if value is not None}
        return {"logprobs": True if chat else alternatives, **given}

    def length(self, most: int | None, room: int | None, written: int) -> Length:
        """For `most` tokens of `room`, behind so many that were `written`; None: no such limit."""
        if self._opening is not None and most is None:
            most = CALL
        length = min([limit for limit in (room, most) if limit is not None], default=None)
        if self._opening is not None and self.context is not None and length is not None:
            left = max(self.context - self._opens - written, 1)
            if left <= length:
                return Length(left, extendable=False)
        return Length(length, extendable=length is not None)

    def repeats(self, text: str) -> Repeats:
        """What a reply may repeat of the end of `text`, if its template has stripped it."""
        space = text[len(text.rstrip()) :]
        return Repeats("" if space == "\n" or self.renders else space)


class Repeats:
    """Drops from the beginning of a reply what it repeats of this white space."""

    def __init__(self, space: str) -> None:
        self._left = space

    def strip(self, piece: Piece) -> Piece | None:
        """What is left of `piece`; None if it was a repetition and nothing else."""
        known = _begun(piece.text, self._left)
        rest = piece.text[known:]
        self._left = "" if rest else self._left[known:]
        if not rest and piece.text:
            return None
        return piece.worded(rest) if known else piece


def _continued(request: Request, text: str) -> dict[str, Any]:
    """The client's body, with the answer so far at the prompt's end."""
    asked = request.body
    body = {name: value for name, value in asked.items() if name not in ANEW}
    if request.surface is Surface.COMPLETIONS:
        return {**body, "prompt": asked["prompt"] + text}
    if not text:
        return {**body, "messages": asked["messages"]}
    return {
        **body,
        "messages": [*asked["messages"], {"role": "assistant", "content": text}],
        "continue_final_message": True,
        "add_generation_prompt": False,
    }


def _begun(text: str, expected: str) -> int:
    """How many characters of what was expected `text` begins with."""
    return next(n for n in range(len(expected), -1, -1) if text.startswith(expected[:n]))

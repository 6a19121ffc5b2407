"""A pen: one of two models that write one text in turns, and the call by which it writes.

The hand-off is text. A completion is continued by a longer prompt. A chat is continued by its last
message (`continue_final_message`, which vLLM and SGLang have) or, if the pen `renders`, as a
completion of the prompt that the model's own chat template makes (vLLM's `/tokenize`): templates of
models that think take the thoughts out of a message, or put empty ones in front of it.

Every call streams, and a writer is stopped by closing its call, so that nothing depends on how a
server names what it stopped at. If a backend breaks, another one of the model goes on from the text
that was reached.

The text is handed over whole, with the separator at its end: a tokenizer has one token for a full
stop and an empty line, and after a bare full stop a model would not begin a new paragraph. Some
chat templates (Llama 3, Gemma) strip that white space all the same. Their model is then likely to
write it again, so what a reply repeats of it is dropped; but not a single line break, since after
one another makes an empty line, which a model whose template strips nothing may well want.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policies.duet.sheet import Border, Piece, Sheet, pieces
from router.phrases import DRAFT_SHARE, Phrase, close, next_event, render, spell
from router.steps import (
    Attempt,
    Blame,
    Delta,
    Ended,
    Failed,
    Fault,
    Finished,
    Open,
    Request,
    Surface,
    TimedOut,
)

ANEW = frozenset({
    "model", "messages", "prompt", "stream", "stream_options", "stop", "include_stop_str_in_output",
    "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs", "seed", "n", "best_of",
    "add_generation_prompt", "continue_final_message",
})  # fmt: skip
"""Fields that each call gets anew; all others go to both models as they came."""
COUNTED = {"include_usage": True, "continuous_usage_stats": True}
"""Usage with every event, where the backend can do that: most calls are closed before their end."""
CALL = 1024
"""Tokens of a rendered call without another limit: a completion needs one, a chat does not."""


@dataclass(slots=True)
class Pen:
    """One model. `looks` is how many alternatives per token are looked at; `context` is in tokens.

    `sees` once alternatives came; `steps` counts what it was given; `lost` if it cannot go on.
    """

    model: str
    looks: int = 0
    renders: bool = False
    context: int | None = None
    sees: bool = False
    steps: int = 0
    lost: bool = False
    _opening: str | None = None
    _opens: int = 0
    _attempt: Attempt | None = None
    _over: Finished | None = None
    _pieces: deque[Piece] = field(default_factory=deque)
    _repeats: str = ""
    _limit: int | None = None
    _heard: int = 0
    _began: int = 0
    _backend: str = ""
    _avoid: frozenset[str] = frozenset()

    def hear(self, sheet: Sheet, most: int | None = None) -> Phrase[Piece | Finished | Failed]:
        """The next piece of its call, which is opened for `most` tokens if there is none."""
        if self._attempt is None and (failed := (yield from self._open(sheet, most))):
            return failed
        while not self._pieces:
            if self._over is not None:
                return self._over
            assert self._attempt is not None
            match (yield from next_event(self._attempt)):
                case Delta(choice=0) as delta:
                    self._take(delta)
                case Finished() as finished:
                    self._over = finished
                case Failed() as failed:
                    self._forget()
                    return failed
                case Delta() | TimedOut():
                    pass
        return self._pieces.popleft()

    def put_back(self, heard: Sequence[Piece]) -> None:
        """These are to be heard again."""
        self._pieces.extendleft(reversed(heard))

    def drop(self) -> Phrase[None]:
        """Close its call, if there is one."""
        if self._attempt is not None:
            yield from close(self._attempt)
            self._forget()

    def refuse(self, message: str, code: str) -> Phrase[Failed]:
        """Close its call: what the backend sends cannot be used."""
        assert self._attempt is not None
        failed = Failed(self._attempt, Fault(Blame.BACKEND, message, 502, code))
        yield from self.drop()
        return failed

    def moves(self, failed: Failed) -> bool:
        """Whether another backend takes over from the one that failed."""
        self._avoid |= {failed.attempt.backend}
        self._backend = ""
        return failed.spare

    def pour(
        self, sheet: Sheet, border: Border | None = None, most: int | None = None
    ) -> Phrase[Ended | None]:
        """Write on up to the border, or to the end of the answer. None if it goes on after that."""
        while True:
            heard = yield from self.hear(sheet, most)
            match heard:
                case Failed() if not self.moves(heard):
                    return heard
                case Failed():
                    continue
                case Finished() if self._used_up(sheet):
                    yield from self.drop()
                    if border is not None:
                        return None
                    continue
                case Finished():
                    return (yield from sheet.end(heard))
                case Piece():
                    kept, rest = (heard, ()) if border is None else border.take(heard)
            assert self._attempt is not None
            if ended := (yield from sheet.write(self._attempt, kept)):
                return ended
            self.put_back(rest)
            if border is not None and border.over:
                sheet.final = border.last
                return None

    def _open(self, sheet: Sheet, most: int | None) -> Phrase[Failed | None]:
        if failed := (yield from self._render(sheet.request)):
            return failed
        text = sheet.text
        space = text[len(text.rstrip()) :]
        self._repeats = "" if space == "\n" or self.renders else space
        self._began, self._heard = sheet.wrote.total(), 0
        body = {"stream": True, "stream_options": COUNTED, **self._asking(sheet, most)}
        if self._opening is not None:
            surface = Surface.COMPLETIONS
            prompt = {"prompt": self._opening + text, "add_special_tokens": False}
            body = {**sheet.asked.others, **prompt, **body}
        else:
            surface = sheet.request.surface
            body = {**_continued(sheet.request, text), **body}
        self._attempt = yield Open(
            self.model,
            sheet.request.asking(body, surface, stream=True),
            avoid=self._avoid,
            share=DRAFT_SHARE,
            prefer=self._backend,
        )
        self._backend = self._attempt.backend
        return None

    def _render(self, request: Request) -> Phrase[Failed | None]:
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

    def _asking(self, sheet: Sheet, most: int | None) -> Mapping[str, Any]:
        asked, rendered = sheet.asked, self._opening is not None
        chat = sheet.request.surface is Surface.CHAT and not rendered
        alternatives = max(self.looks, asked.logprobs or 0)
        newer = chat and sheet.request.body.get("max_completion_tokens") is not None
        optional = {
            "max_completion_tokens" if newer else "max_tokens": self._length(sheet, most),
            "top_logprobs": alternatives if chat else None,
            "seed": asked.seed_at(sheet.wrote.total(), 0),
        }
        given = {name: value for name, value in optional.items() if value is not None}
        return {"logprobs": True if chat else alternatives, **given}

    def _length(self, sheet: Sheet, most: int | None) -> int | None:
        """The most tokens of a call. The context's end, if that is nearer, ends the answer."""
        if self._opening is not None and most is None:
            most = CALL
        limits = [limit for limit in (sheet.room(), most) if limit is not None]
        self._limit = length = min(limits, default=None)
        if self._opening is not None and self.context is not None and length is not None:
            left = max(self.context - self._opens - sheet.wrote.total(), 1)
            if left <= length:
                self._limit, length = None, left
        return length

    def _take(self, delta: Delta) -> None:
        self.sees = self.sees or any(token.top for token in delta.tokens)
        for piece in pieces(delta):
            self._heard += piece.count
            known = _begun(piece.text, self._repeats)
            rest = piece.text[known:]
            self._repeats = "" if rest else self._repeats[known:]
            if rest or not piece.text:
                self._pieces.append(piece.worded(rest) if known else piece)

    def _used_up(self, sheet: Sheet) -> bool:
        """Whether only the call was at its limit, not the answer; not if it has brought nothing."""
        if self._over is None or self._over.reason != "length" or self._limit is None:
            return False
        heard = max(self._heard, self._over.usage.completion if self._over.usage else 0)
        return heard >= self._limit and sheet.wrote.total() > self._began and sheet.room() != 0

    def _forget(self) -> None:
        self._attempt = self._over = None
        self._pieces.clear()


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

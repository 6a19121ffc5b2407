"""Composing: an OpenAI answer out of what a policy emits, where no backend's bytes are passed.

One id, one time, and per choice one role and one finish, whatever number of models wrote it. Fields
that answer a question of the client's (`logprobs`, `token_ids`, who wrote what) are there if it was
asked, in the shapes that vLLM 0.32 gives them; what only the policy wanted to know never shows.
Pure: bytes out, no clock (the creation time is passed in) and no socket. Only the surfaces whose
answers are growing text can be composed.

A stream's piece of text and nothing else is the hot path: its JSON is made once, around the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Any

import orjson

from router import sse
from router.refusals import PolicyError
from router.steps import Alternative, Emit, Finished, Request, Surface, Token, Usage

FLOOR = -9999.0
"""What OpenAI and vLLM write for a log-probability that nobody knows."""


@dataclass(slots=True)
class Choice:
    """One choice so far. `plain` stands before the text of a piece that has nothing else to tell;
    `begun` once its role is told; `offset` counts the characters of the tokens told in a stream,
    `steps` are kept for an answer in one body.
    """

    index: int
    plain: bytes
    begun: bool
    finish: Finished | None = None
    offset: int = 0
    steps: list[Emit] = field(default_factory=list)


class Composer:
    """Writes one answer; `created` is in seconds since 1970."""

    def __init__(self, request: Request, created: int) -> None:
        self._chat = request.surface is Surface.CHAT
        self._stream = request.stream
        self._explain = request.explain
        self._logprobs = _asked_logprobs(request.body, chat=self._chat)
        self._ids = bool(request.body.get("return_token_ids"))
        self._names_tokens = self._explain or self._ids or self._logprobs is not None
        self._choices: dict[int, Choice] = {}
        kind = "chat.completion" if self._chat else "text_completion"
        self._head: dict[str, Any] = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{request.id.removeprefix('req-')}",
            "object": kind + (".chunk" if self._chat and self._stream else ""),
            "created": created,
            "model": request.target,
        }
        self._plain_end = b"}" * self._chat + b',"logprobs":null,"finish_reason":null}]}\n\n'

    def emit(self, step: Emit) -> bytes:
        """The part that says this; empty where there is nothing to tell yet, and where the answer
        is one body at the end. Raises `PolicyError` for a choice that has ended.
        """
        choice = self._choices.get(step.choice) or self._begin(step.choice)
        if choice.finish is not None:
            raise PolicyError(f"choice {step.choice} has ended: nothing can be emitted into it")
        if not self._stream:
            choice.steps.append(step)
            choice.finish = step.finish
            return b""
        named = self._names_tokens and step.tokens
        if not named and step.finish is None and step.message is None:
            if not step.text:
                return b""
            if choice.begun and not self._explain:
                return choice.plain + orjson.dumps(step.text) + self._plain_end
        return self._chunk(choice, step)

    def end(self, finished: Finished, usage: Usage, *, show_usage: bool) -> bytes:
        """The part of a stream after which only `[DONE]` comes."""
        parts = self._finish(finished)
        if show_usage:
            last = {**self._head, "choices": [], "usage": _counts(usage)}
            parts.append(sse.event(orjson.dumps(last)))
        return b"".join(parts)

    def body(self, finished: Finished, usage: Usage, summary: Mapping[str, Any]) -> bytes:
        """The whole answer in one; `summary` tells who wrote it, and what it cost."""
        self._finish(finished)
        choices = [self._choices[number] for number in sorted(self._choices)]
        return orjson.dumps(self._body(choices, {**_counts(usage), "tandem": summary}))

    def _finish(self, finished: Finished) -> list[bytes]:
        """End as `finished` says every choice that no step has ended."""
        choices = list(self._choices.values()) or [self._begin(0)]
        left = [choice.index for choice in choices if choice.finish is None]
        return [self.emit(Emit(finished.attempt, "", (), number, finished)) for number in left]

    def _begin(self, index: int) -> Choice:
        head = orjson.dumps(self._head)[:-1]
        opening = b'"delta":{"content":' if self._chat else b'"text":'
        plain = b'data: %b,"choices":[{"index":%d,%b' % (head, index, opening)
        self._choices[index] = choice = Choice(index, plain, begun=not self._chat)
        return choice

    # ------------------------------------------------------------------------------- streams

    def _chunk(self, choice: Choice, step: Emit) -> bytes:
        """One event with all that there is to say of this step."""
        said = {"delta": _delta(choice, step)} if self._chat else {"text": step.text}
        report = self._report(step.tokens, choice.offset) if step.tokens else None
        choice.offset += sum(len(token.text) for token in step.tokens)
        choice.begun, choice.finish = True, step.finish
        chunk = {**self._head, "choices": [self._piece(choice, said, report, step.tokens)]}
        if self._explain:
            chunk["tandem"] = {"model": step.attempt.model, "tokens": _ids(step.tokens)}
        return sse.event(orjson.dumps(chunk))

    # -------------------------------------------------------------------------------- bodies

    def _body(self, choices: Sequence[Choice], usage: Mapping[str, Any]) -> dict[str, Any]:
        said = [self._whole(choice) for choice in choices]
        body = {**self._head, "choices": said, "usage": usage}
        if self._explain:
            told = [{"index": c.index, "tokens": list(_writers(c.steps))} for c in choices]
            body["tandem"] = {"choices": told}
        return body

    def _whole(self, choice: Choice) -> dict[str, Any]:
        text = "".join([step.text for step in choice.steps])
        tokens = [token for step in choice.steps for token in step.tokens]
        parsed = next((step.message for step in choice.steps if step.message is not None), {})
        message = {"role": "assistant", "content": text, **parsed}
        said = {"message": message} if self._chat else {"text": text}
        return self._piece(choice, said, self._report(tokens, 0), tokens)

    # ---------------------------------------------------------------------------------- both

    def _piece(
        self,
        choice: Choice,
        said: Mapping[str, Any],
        report: Mapping[str, Any] | None,
        tokens: Sequence[Token],
    ) -> dict[str, Any]:
        """What an event, or the body, says of a choice."""
        piece = {"index": choice.index, **said, "logprobs": report, "finish_reason": None}
        if choice.finish is not None:
            piece["finish_reason"] = choice.finish.reason or "stop"
            piece["stop_reason"] = choice.finish.stop_reason
        if self._ids:
            piece["token_ids"] = _ids(tokens)
        return piece

    def _report(self, tokens: Sequence[Token], offset: int) -> dict[str, Any] | None:
        """The log-probabilities of these tokens, the first at this offset, if they were asked."""
        if self._logprobs is None:
            return None
        report = _chat_report if self._chat else _completion_report
        return report(tokens, self._logprobs, offset)


def _asked_logprobs(body: Mapping[str, Any], *, chat: bool) -> int | None:
    """How many alternatives per token the client wants; None if it wants no log-probabilities."""
    asked = body.get("logprobs")
    if chat:
        return (body.get("top_logprobs") or 0) if asked else None
    return asked if isinstance(asked, int) and not isinstance(asked, bool) else None


def _delta(choice: Choice, step: Emit) -> dict[str, Any]:
    """What a streamed chat's message grows by; tool calls come whole, numbered as deltas are."""
    delta: dict[str, Any] = {} if choice.begun else {"role": "assistant", "content": ""}
    if step.text:
        delta["content"] = step.text
    if step.message is not None:
        said = {name: value for name, value in step.message.items() if value is not None}
        said.pop("role", None)
        delta |= said
        if calls := delta.get("tool_calls"):
            delta["tool_calls"] = [{"index": n, **call} for n, call in enumerate(calls)]
    return delta


def _counts(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage`; what a prefix cache held of the prompt is told if it held any."""
    counts: dict[str, Any] = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
    }
    if usage.cached:
        counts["prompt_tokens_details"] = {"cached_tokens": usage.cached}
    return counts


# ------------------------------------------------------------------------------- about the tokens


def _ids(tokens: Sequence[Token]) -> list[int]:
    return [token.id for token in tokens if token.id is not None]


def _writers(steps: Sequence[Emit]) -> Iterator[dict[str, Any]]:
    """Every token with its writer. Text that is in no token's (a character that several make up, a
    policy that names none) follows as that of a token without an id, so that the texts join up.
    """
    told = shown = 0
    for step in steps:
        model = step.attempt.model
        for token in step.tokens:
            told += len(token.text)
            yield {"model": model, "id": token.id, "text": token.text}
        shown += len(step.text)
        if shown > told:
            yield {"model": model, "id": None, "text": step.text[told - shown :]}
            told = shown


def _chat_report(tokens: Sequence[Token], most: int, _: int) -> dict[str, Any]:
    """A chat's log-probabilities, with at most so many alternatives, in the backend's order."""
    return {
        "content": [
            {
                **_entry(token.text, token.logprob),
                "top_logprobs": [_entry(top.text, top.logprob) for top in token.top[:most]],
            }
            for token in tokens
        ]
    }


def _entry(text: str, logprob: float | None) -> dict[str, Any]:
    known = FLOOR if logprob is None else logprob
    return {"token": text, "logprob": known, "bytes": list(text.encode())}


def _completion_report(tokens: Sequence[Token], most: int, offset: int) -> dict[str, Any]:
    """A completion's: lists side by side. Alternatives are the best so many and the token itself;
    offsets count characters from the beginning of the text.
    """
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "text_offset": offsets,
        "token_logprobs": [_known(token) for token in tokens],
        "tokens": [token.text for token in tokens],
        "top_logprobs": [
            {token.text: _known(token)}
            | {best.text: best.logprob for best in nlargest(most, token.top, key=_logprob)}
            for token in tokens
        ],
    }


def _known(token: Token) -> float:
    return FLOOR if token.logprob is None else token.logprob


def _logprob(alternative: Alternative) -> float:
    return alternative.logprob

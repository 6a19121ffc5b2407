"""An answer as vLLM 0.32 writes it, whole or in events: what chat and completions share.

Knows the field names and their places (a test compares them with a real vLLM's). Must not know the
engine's workings or HTTP: tokens come in, dicts go out. An answer belongs to one request and hears
its tokens in order; `opening`, `event` and `closing` make a stream, `whole` the single object.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

from deploy.pair.bodies import GenerationBody
from deploy.pair.engine import Generation, Ranked, Token
from deploy.pair.sampling import Scores
from deploy.pair.text import Codec

# Log-probabilities of minus infinity are not JSON; vLLM writes this.
FLOOR = -9999.0


@dataclass(frozen=True, slots=True)
class Head:
    """What is the same in every event of an answer."""

    id: str
    kind: str
    created: int
    model: str
    fingerprint: str

    def event(self, choices: list[dict[str, Any]], **fields: object) -> dict[str, Any]:
        """These choices under this head."""
        named = {"id": self.id, "object": self.kind, "created": self.created}
        return {**named, "model": self.model, "choices": choices, **fields}


@dataclass(slots=True)
class Spoken:
    """One choice, as far as it was heard."""

    generation: Generation
    ids: list[int] = field(default_factory=list)
    text: str = ""
    scores: list[Scores] = field(default_factory=list)
    finish: str | None = None
    stop_reason: int | str | None = None

    @property
    def prompt(self) -> tuple[int, ...]:
        """The ids it answers to."""
        return self.generation.job.prompt

    def add(self, token: Token) -> None:
        """Hear the next token."""
        self.ids.append(token.id)
        self.text += token.text
        self.scores.append(token.scores)
        self.finish, self.stop_reason = token.finish, token.stop_reason


class Answer(ABC):
    """The answer to one request; `spoken` holds its choices in order."""

    def __init__(
        self, head: Head, body: GenerationBody, codec: Codec, generations: Sequence[Generation]
    ) -> None:
        self.head = head
        self.codec = codec
        self.spoken = [Spoken(generation) for generation in generations]
        self.streams = bool(body.stream)
        self._per_prompt = body.n or 1
        self._as_ids = bool(body.return_tokens_as_token_ids)
        options = body.stream_options
        self._tells_usage = bool(options and options.include_usage)
        self.counts_on = self._tells_usage and bool(options and options.continuous_usage_stats)

    @abstractmethod
    def opening(self) -> Iterable[dict[str, Any]]:
        """Events before any token."""

    @abstractmethod
    def choice_event(self, index: int, spoken: Spoken, token: Token) -> dict[str, Any]:
        """The choice in one token's event; `spoken` ends with that token."""

    @abstractmethod
    def whole(self) -> dict[str, Any]:
        """The single object, when all tokens are heard."""

    def hear(self, index: int, token: Token) -> None:
        """Take in the next token of one choice."""
        self.spoken[index].add(token)

    def event(self, index: int, token: Token) -> dict[str, Any]:
        """Take in the next token of one choice, and tell it."""
        self.hear(index, token)
        spoken = self.spoken[index]
        event = self.head.event([self.choice_event(index, spoken, token)])
        if token.finish is not None and not self._tells_usage:
            event["system_fingerprint"] = self.head.fingerprint
        if self.counts_on:
            event["usage"] = counted(len(spoken.prompt), len(spoken.ids))
        return event

    def closing(self) -> Iterable[dict[str, Any]]:
        """Events after all tokens."""
        if self._tells_usage:
            fingerprint = self.head.fingerprint
            yield self.head.event([], usage=self._usage(), system_fingerprint=fingerprint)

    def told(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """The whole object's fields, as far as both endpoints have them."""
        details = {"prompt_tokens_details": None, "completion_tokens_details": None}
        return self.head.event(
            choices,
            service_tier=None,
            system_fingerprint=self.head.fingerprint,
            usage={**self._usage(), **details},
            kv_transfer_params=None,
            ec_transfer_params=None,
            metrics=None,
        )

    def spelled(self, token: int, before: Sequence[int]) -> str:
        """A token's text in a report."""
        return f"token_id:{token}" if self._as_ids else self.codec.token_text(token, before)

    def prompt_report(self, generation: Generation) -> list[dict[int, Any] | None] | None:
        """vLLM's `prompt_logprobs`: one entry a prompt token, null for the first."""
        job = generation.job
        if job.prompt_logprobs is None:
            return None
        return [
            None if ranked is None else self._ranked(ranked, job.prompt[:at])
            for at, ranked in enumerate(generation.prompt_scores)
        ]

    def _ranked(self, ranked: Ranked, before: Sequence[int]) -> dict[int, Any]:
        # The first is the prompt's own token with its rank; the likeliest others follow in order.
        others = (place for place in count(1) if place != ranked.rank)
        places = chain([ranked.rank], others)
        return {
            token: {
                "logprob": max(logprob, FLOOR),
                "rank": place,
                "decoded_token": self.codec.token_text(token, before),
            }
            for (token, logprob), place in zip(ranked.scores, places, strict=False)
        }

    def _usage(self) -> dict[str, int]:
        """Tokens of all prompts (each once, whatever `n`) and of all choices."""
        read = sum(len(spoken.prompt) for spoken in self.spoken[:: self._per_prompt])
        return counted(read, sum(len(spoken.ids) for spoken in self.spoken))


def counted(read: int, written: int) -> dict[str, int]:
    """OpenAI's `usage`."""
    return {
        "prompt_tokens": read,
        "total_tokens": read + written,
        "completion_tokens": written,
    }

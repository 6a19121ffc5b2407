"""Stage 3: the large model goes on from every token at which the small one would differ.

Where the exact answer is known it goes on to the end, so that the result can be checked; elsewhere
to the second end of a sentence, which is enough for a judge to compare (as in the paper).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from policies.training.token_gate.answers import Answered
from policies.training.token_gate.endpoint import Endpoint
from policies.training.token_gate.journal import Row

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?=\s)|[。！？]|\n+")  # noqa: RUF001  # Chinese
"""A point inside a number ends no sentence: space must follow."""
_SENTENCES = 2
_AT_ONCE = 32
"""Tokens asked for at a time; a sentence has about 20. The next piece finds its prefix cached."""
_LONGEST = 256
"""Tokens after which two sentences are taken to have ended."""


@dataclass(frozen=True, slots=True)
class Fork:
    """A token at which the small model would have gone another way."""

    answered: Answered
    position: int
    token: int
    to_the_end: bool

    @property
    def id(self) -> str:
        """Of its rows: the prompt's and the position."""
        return f"{self.answered.id}:{self.position}"


def forks(answered: Answered, predicted: Sequence[int], *, to_the_end: bool) -> Iterator[Fork]:
    """Every token of the answer that the small model would not have written."""
    for position, (token, other) in enumerate(zip(answered.answer, predicted, strict=True)):
        if token != other:
            yield Fork(answered, position, other, to_the_end)


@dataclass(frozen=True, slots=True)
class Continuing:
    """The large model; `ends` are the tokens after which nothing follows."""

    large: Endpoint
    ends: frozenset[int]
    max_tokens: int

    async def find(self, id_: str, fork: Fork) -> Row:
        """Texts to be compared: a whole answer, or what follows on both sides of the fork."""
        if fork.to_the_end:
            return {"id": id_, "answer": await self._whole(fork)}
        answer, at = fork.answered.answer, fork.position
        return {
            "id": id_,
            "before": await self.large.text(answer[:at]),
            "original": sentences(await self.large.text(answer[at : at + _LONGEST])),
            "other": await self._sentences(fork),
        }

    async def _whole(self, fork: Fork) -> str:
        answer = (*fork.answered.answer[: fork.position], fork.token)
        left = self.max_tokens - len(answer)
        if fork.token not in self.ends and left > 0:
            written = await self.large.complete((*fork.answered.prompt, *answer), left)
            answer += written.ids
        return await self.large.text(answer)

    async def _sentences(self, fork: Fork) -> str:
        before = (*fork.answered.prompt, *fork.answered.answer[: fork.position])
        ids: tuple[int, ...] = (fork.token,)
        text = await self.large.text(ids)
        while ids[-1] not in self.ends and len(ids) < _LONGEST and sentences(text) == text:
            written = await self.large.complete((*before, *ids), _AT_ONCE)
            ids += written.ids
            text = await self.large.text(ids)
            if written.finish != "length":
                break
        return sentences(text)


def sentences(text: str) -> str:
    """The text up to the end of its second sentence, or all of it."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text) if text[: match.end()].strip()]
    return text[: ends[_SENTENCES - 1]] if len(ends) >= _SENTENCES else text

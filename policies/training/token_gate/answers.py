"""Stage 1: the large model answers every prompt, greedily; its tokens are what the gate aims at.

An answer that is known to be wrong teaches nothing about where the small model goes astray, so its
prompt takes no further part; how many those are is told in the end.
"""

from __future__ import annotations

from dataclasses import dataclass

from policies.training.token_gate.endpoint import Endpoint
from policies.training.token_gate.journal import Row
from policies.training.token_gate.prompts import Prompt
from policies.training.token_gate.results import ResultFinder


@dataclass(frozen=True, slots=True)
class Answered:
    """A large model's answer in tokens, the end token included when it came."""

    id: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    ended: bool
    right: bool | None

    @classmethod
    def of(cls, row: Row) -> Answered:
        """From the journal."""
        ids = tuple(row["prompt"]), tuple(row["answer"])
        return cls(row["id"], *ids, row["finish"] == "stop", row["right"])

    @property
    def usable(self) -> bool:
        """Whether the small model is to be compared with it."""
        return self.right is not False and bool(self.answer)


@dataclass(frozen=True, slots=True)
class Answering:
    """How the large model is asked. The small one's template is what the gateway renders with."""

    small: Endpoint
    large: Endpoint
    results: ResultFinder
    max_tokens: int

    async def find(self, id_: str, prompt: Prompt) -> Row:
        """One prompt's answer."""
        ids = await self.small.prompt_ids(prompt.messages)
        written = await self.large.complete(ids, self.max_tokens)
        right = None if prompt.answer is None else self.results.right(written.text, prompt.answer)
        return {
            "id": id_,
            "prompt": ids,
            "answer": written.ids,
            "finish": written.finish,
            "right": right,
        }


def end_tokens(answers: list[Answered]) -> frozenset[int]:
    """The tokens that the large model ends its answers with."""
    return frozenset(each.answer[-1] for each in answers if each.ended and each.answer)

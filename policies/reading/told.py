"""A reading in one line of numbers, for people; and what such a line says, read back.

All that a log of decisions has of a request's documents without its body is the detail of the
reason, and outcomes are learned from that (`policies.training.context.traffic`). So who writes it
and who reads it are one thing. Knows numbers and names of targets: no word of a client's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from policies.reading.documents import TASKS, Way

__all__ = ["READ", "Told"]

READ: Mapping[str, Way] = MappingProxyType(
    {"passages": "passages", "whole": "whole", "second_pass": "whole"}
)
"""The reasons after which a client gets an answer that was read from documents, and how."""
_NUMBER = r"(\d+\.\d\d)"
_LINE = re.compile(
    f"({'|'.join(READ)}); "
    + ", ".join(f"{task} {_NUMBER}" for task in TASKS)
    + rf"; documents of (\d+) tokens; (\d+) of (\d+) to (\S+), expects {_NUMBER}(?:;.*)?"
)


@dataclass(frozen=True, slots=True)
class Told:
    """One reading: `chances` [tasks] how likely each task is, the tokens of the `documents`, and
    that `sent` of the `whole` prompt's tokens went to `target`, of which a score of `value` (0 to
    1) was expected.
    """

    chances: tuple[float, ...]
    documents: int
    sent: int
    whole: int
    target: str
    value: float

    def __str__(self) -> str:
        chances = ", ".join(
            f"{task} {chance:.2f}" for task, chance in zip(TASKS, self.chances, strict=True)
        )
        sent = f"{self.sent} of {self.whole} to {self.target}, expects {self.value:.2f}"
        return f"{chances}; documents of {self.documents} tokens; {sent}"

    @classmethod
    def read(cls, said: str) -> tuple[Way, Told] | None:
        """The way and the reading of a reason with its detail; None for any other.

        Chances were written with two digits; they sum to 1 again.
        """
        if (found := _LINE.fullmatch(said)) is None:
            return None
        reason, *numbers = found.groups()
        chances = [float(number) for number in numbers[: len(TASKS)]]
        documents, sent, whole, target, value = numbers[len(TASKS) :]
        if not (total := sum(chances)):
            return None
        told = cls(
            tuple(chance / total for chance in chances),
            int(documents), int(sent), int(whole), target, float(value),
        )  # fmt: skip
        return READ[reason], told

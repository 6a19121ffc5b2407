"""Exact answers: finding the result in a text, and telling whether it is the right one.

Knows texts only. Two results are the same when their texts are, or when both are numbers of the
same value: "1,200", "1200" and "1200.0" are one result.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from policies.training.token_gate.errors import TrainingError

LAST_NUMBER = "last-number"
"""Takes the last number of a text for its result."""
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")


@dataclass(frozen=True, slots=True)
class ResultFinder:
    """How the result is found: the word `last-number`, or a regular expression.

    Of an expression the last match counts, and of that the first group if it has one.
    """

    rule: str = LAST_NUMBER

    def __post_init__(self) -> None:
        try:
            re.compile(self.rule)
        except re.error as error:
            raise TrainingError(
                f"--result {self.rule!r} is no regular expression: {error}"
            ) from None

    def find(self, text: str) -> str | None:
        """The result that the text states, or None."""
        pattern = _NUMBER if self.rule == LAST_NUMBER else re.compile(self.rule)
        matches = [*pattern.finditer(text)]
        if not matches:
            return None
        last = matches[-1]
        found: str | None = last.group(1) if pattern.groups else last.group()
        return found

    def right(self, text: str, answer: str) -> bool:
        """Whether the text states this result."""
        found = self.find(text)
        return found is not None and _same(found, answer)


def _same(one: str, other: str) -> bool:
    if one.strip() == other.strip():
        return True
    values = _value(one), _value(other)
    return values[0] is not None and values[0] == values[1]


def _value(text: str) -> Decimal | None:
    try:
        value = Decimal(text.strip().replace(",", ""))
    except InvalidOperation:
        return None
    return value if value.is_finite() else None

"""Marks: what one answer is worth, from 0 to 1, by its exact result or by a judge's verdict.

A result is looked for in the text: by a regular expression if there is one, else the last number
where a number is right, else what the text says is its answer (`answers`). A judge is a model that
says one digit, 0 to 9, in one token; where its log-probabilities are known every digit counts by
its probability (as in G-Eval, arXiv 2303.16634), so that a judge in two minds gives half a mark.
Knows texts and the form of a chat answer; who is asked, and how, is not its affair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.training.outcomes.answers import same_formula, same_literal, stated
from policies.training.outcomes.errors import RowsError
from policies.training.token_gate.results import LAST_NUMBER, ResultFinder

__all__ = ["JUDGE_PROMPT", "Mark", "Marking", "asking", "digit_score", "read_template"]

JUDGE_PROMPT = Path(__file__).with_name("judge.txt")
QUESTION, ANSWER = "{question}", "{answer}"
BEST = 9


@dataclass(frozen=True, slots=True)
class Mark:
    """What an answer is worth, and whether a result was found in it at all."""

    score: float
    read: bool


@dataclass(frozen=True, slots=True)
class Marking:
    """How results are found: by the regular expression `result`, or as the file's head says.

    Raises TrainingError for what is no regular expression.
    """

    result: str | None = None

    def __post_init__(self) -> None:
        ResultFinder(self.result or LAST_NUMBER)

    def mark(self, text: str, answer: str) -> Mark:
        """1 if the text states this result, else 0."""
        finder = ResultFinder(self.result or LAST_NUMBER)
        if self.result is not None or _is_number(answer):
            found = finder.find(text) is not None
            if finder.right(text, answer):
                return Mark(1.0, read=True)
            if self.result is not None:
                return Mark(0.0, read=found)
        else:
            found = False
        said = stated(text)
        right = said is not None and (same_formula(said, answer) or same_literal(said, answer))
        return Mark(float(right), read=found or said is not None)


def _is_number(answer: str) -> bool:
    try:
        return math.isfinite(float(answer.replace(",", "")))
    except ValueError:
        return False


# ---------------------------------------------------------------------------------------- a judge


def read_template(file: Path) -> str:
    """What the judge is told. Raises `RowsError` for a text that has no place for the answer."""
    try:
        template = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RowsError(f"--judge-prompt: cannot read {file}: {error}") from None
    if ANSWER not in template:
        raise RowsError.at(file, f"has no place for {ANSWER}: write it where the answer belongs")
    return template


def asking(template: str, question: str, answer: str) -> str:
    """The template filled in; braces elsewhere stay as they are."""
    before, _, after = template.partition(ANSWER)
    filled = [part.replace(QUESTION, question) for part in (before, after)]
    return answer.join(filled)


def digit_score(choice: Mapping[str, Any]) -> float | None:
    """The verdict in a chat answer's choice, 0 to 1: the mean of the digits by their probability,
    or the digit that was said where there are no probabilities; None if it is no digit.
    """
    chances = _chances(choice)
    if whole := sum(chances.values()):
        return sum(digit * chance for digit, chance in chances.items()) / whole / BEST
    said = _digit((choice.get("message") or {}).get("content"))
    return None if said is None else said / BEST


def _chances(choice: Mapping[str, Any]) -> dict[int, float]:
    """The probability of each digit as the first token."""
    content = (choice.get("logprobs") or {}).get("content") or []
    chances: dict[int, float] = {}
    for listed in content[0].get("top_logprobs") or [] if content else []:
        digit = _digit(listed.get("token"))
        if digit is not None and listed.get("logprob") is not None:
            chances[digit] = chances.get(digit, 0.0) + math.exp(listed["logprob"])
    return chances


def _digit(text: Any) -> int | None:
    word = text.strip() if isinstance(text, str) else ""
    return int(word) if len(word) == 1 and word in "0123456789" else None

"""Votes: the answer that most drafts come to (self-consistency, arXiv 2203.11171).

Drafts are worded differently; what is compared is what they say the answer is. Two numbers are one
answer if their values are equal, two texts if they differ in case and surrounding space only. A
draft in which no answer is found has no vote, and one that was cut off neither: what it says last
is not what it would have said last.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from router.steps import Draft

_NUMBER = re.compile(r"(?:(?<![\w.)])-)?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
"""A minus right behind a number or a bracket is a sum's, not the number's."""
MOST_DIGITS = 400
"""Longer than this is no number that anybody means."""


@dataclass(frozen=True, slots=True)
class Majority:
    """Drafts vote by the answer that is found in them; without a setting by their last number."""

    pattern: str | None = None
    """Regular expression that finds the answer: the last match, of that the first group if any."""
    field: str | None = None
    """Field of a JSON answer that holds it; `a.b` is the field `b` of the object in `a`."""
    sure: float | None = None
    """Mean natural log-probability per token from which a single draft needs no others."""

    def __post_init__(self) -> None:
        if self.pattern is not None and self.field is not None:
            raise ValueError("majority.field: set this or majority.pattern, not both")
        if self.field == "":
            raise ValueError("majority.field: name a field")
        if self.sure is not None and not self.sure <= 0:
            raise ValueError("majority.sure: the logarithm of a probability is at most 0")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"majority.pattern: not a regular expression: {error}") from None


def votes(drafts: Sequence[Draft], majority: Majority) -> list[int]:
    """How many drafts come to each draft's own answer; 0 where it has none. To be computed."""
    return tally([vote_of(draft, majority) for draft in drafts])


def vote_of(draft: Draft, majority: Majority) -> str | None:
    """The answer that a draft votes for, if it has a vote."""
    if draft.finished.reason == "length":
        return None
    return answer_of(draft.text, majority.pattern, majority.field)


def tally(answers: Sequence[str | None]) -> list[int]:
    """How many votes each one's answer has; 0 where it has none."""
    counted = Counter(answer for answer in answers if answer is not None)
    return [0 if answer is None else counted[answer] for answer in answers]


def shares(
    answers: Sequence[str | None], logprobs: Sequence[float | None], total: int
) -> list[float | None]:
    """The marks of drafts that vote: shares of the `total` that were asked for, come or not.

    One that was asked for alone agrees with itself; its mark is its mean log-probability.
    """
    if total == 1:
        pairs = zip(answers, logprobs, strict=True)
        return [None if answer is None else logprob for answer, logprob in pairs]
    return [count / total if count else None for count in tally(answers)]


def best_of(marks: Sequence[float | None]) -> int | None:
    """The place of the highest mark, the first of equal ones; None where there is none."""
    known = [(mark, -at) for at, mark in enumerate(marks) if mark is not None]
    return -max(known)[1] if known else None


def answer_of(text: str, pattern: str | None = None, field: str | None = None) -> str | None:
    """What this text says its answer is, written so that equal answers are equal strings.

    By the last match of `pattern` (its first group, if it has one), or by the `field` of a JSON
    object (`a.b` is `b` in `a`), or else the last number.
    """
    if field is not None:
        return _field(text, field.split("."))
    last = None
    for match in re.finditer(_NUMBER if pattern is None else pattern, text):
        said = match[1] if match.re.groups else match[0]
        if said and not said.isspace():  # `.*` also finds the nothing at the end
            last = said
    return None if last is None else _plain(last)


def _plain(said: str) -> str:
    bare = said.strip().casefold()
    if len(bare) <= MOST_DIGITS:
        try:
            value = Decimal(bare.replace(",", ""))
        except InvalidOperation:
            return bare
        if value.is_finite():
            return f"{value.normalize()}" if value else "0"
    return bare


def _field(text: str, path: Sequence[str]) -> str | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    for name in path:
        if not (isinstance(value, dict) and name in value):
            return None
        value = value[name]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return json.dumps(value, sort_keys=True)
    return _plain(str(value))

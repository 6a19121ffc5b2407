"""The log of decisions, read back: what was asked, what could have been chosen, what came of it.

One JSON object a line. A decision has an `id`, the request's `surface` and `body`, the `arm` that
answered, the `chances` of all arms that could have come, and perhaps what it cost. A score comes
later, in a line of its own (`{"feedback": ID, "score": 0.8}`) or in another file with `id` and
`score`; the last one counts. Only chats that were answered and whose body was kept can be replayed;
the others are counted.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.tables import read_table
from router.faults import FaultError
from router.steps import Request, Surface
from router.wire import parse

__all__ = ["Decisions", "Logged", "lines_in", "read_decisions", "score_of"]

TARGET = "logged"
CHANCE = 1e-6
"""How far the chances of a decision may be from summing to 1: they were written as decimals."""


@dataclass(frozen=True, slots=True)
class Logged:
    """One decision. `score` is NaN as long as nobody has given one, `cost` (USD) if unknown, as
    `idealised_seconds` and `idealised_usd` are.
    """

    request: Request
    arm: str
    chances: Mapping[str, float]
    expected: Mapping[str, float]
    session: str
    score: float
    cost: float
    id: str = ""
    served: tuple[str, ...] = ()
    """The models that wrote what the client got."""
    idealised_seconds: float = math.nan
    idealised_usd: float = math.nan


@dataclass(frozen=True, slots=True)
class Decisions:
    """Those that can be replayed, and why others cannot be, with how many there are of each."""

    usable: Sequence[Logged]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def arms(self) -> tuple[str, ...]:
        """All that were chosen or could have been."""
        names = (name for one in self.usable for name in (*one.chances, one.arm))
        return tuple(dict.fromkeys(names))


def read_decisions(files: Sequence[Path], scores: Sequence[Path] = (), seed: int = 0) -> Decisions:
    """All decisions of these logs; raises `RowsError` with the file and line of what is wrong.

    `seed` fixes the draws of the requests, as `requests_of` does.
    """
    lines: list[tuple[Path, int, Mapping[str, Any]]] = []
    given: dict[str, float] = {}
    for file in files:
        for number, line in lines_in(file):
            if "feedback" in line:
                given[str(line["feedback"])] = score_of(line.get("score"), file, number)
            else:
                lines.append((file, number, line))
    for file in scores:
        given |= _scores(file)
    rng = random.Random(seed)
    usable: list[Logged] = []
    left_out: Counter[str] = Counter()
    for file, number, line in lines:
        found = _logged(line, given, rng, file, number)
        if isinstance(found, str):
            left_out[found] += 1
        else:
            usable.append(found)
    if not usable:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise RowsError(f"{files[0]}: no decision can be replayed ({why or 'there is none'})")
    return Decisions(usable, left_out)


def lines_in(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of a log with their numbers. Raises `RowsError`; a half last line is none."""
    try:
        written = file.read_bytes().rstrip(b"\n").split(b"\n")
    except OSError as error:
        raise RowsError.at(file, error.strerror or str(error)) from None
    for number, text in enumerate(written, start=1):
        if not text.strip():
            continue
        try:
            line = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            if number == len(written):
                return  # the gateway is still writing it
            raise RowsError.at(file, f"is not JSON: {error}", row=number) from None
        if isinstance(line, dict):
            yield number, line


def score_of(value: Any, file: Path, row: int) -> float:
    """A score that stands in this line. Raises `RowsError` for what is none."""
    if isinstance(value, (bool, int, float)) and 0 <= value <= 1:
        return float(value)
    raise RowsError.at(file, f"{value!r} is no score from 0 to 1", "score", row)


def _scores(file: Path) -> dict[str, float]:
    columns = read_table(file).columns
    for name in ("id", "score"):
        if name not in columns:
            raise RowsError.at(file, "is missing: scores need id and score", name)
    pairs = zip(columns["id"], columns["score"], strict=True)
    return {
        str(name): score_of(_plain(score), file, row)
        for row, (name, score) in enumerate(pairs, 1)
        if score is not None
    }


def _plain(score: Any) -> Any:
    """A CSV's number is a string."""
    try:
        return float(score) if isinstance(score, str) else score
    except ValueError:
        return score


def _logged(
    line: Mapping[str, Any], given: Mapping[str, float], rng: random.Random, file: Path, number: int
) -> Logged | str:
    """The decision in a line, or why it cannot be replayed."""
    if line.get("surface") not in (Surface.CHAT.value, Surface.CHAT.name.lower()):
        return "no chat"
    if not isinstance(line.get("body"), dict):
        return "without a body"
    if not isinstance(status := line.get("status", 200), int) or status >= 400:
        return "without an answer"
    chances, arm = line.get("chances"), line.get("arm")
    if not isinstance(arm, str) or not isinstance(chances, dict) or arm not in chances:
        raise RowsError.at(file, "holds no chance of the arm that was chosen", "chances", number)
    if abs(math.fsum(chances.values()) - 1) > CHANCE * len(chances):
        raise RowsError.at(file, "do not sum to 1", "chances", number)
    session = line.get("session")
    headers = {"x-session-id": session} if isinstance(session, str) and session else {}
    try:
        request = parse(Surface.CHAT, orjson.dumps(line["body"]), headers, TARGET, rng)
    except FaultError:
        return "that no gateway takes"
    named = str(line.get("id", f"{file}:{number}"))
    return Logged(
        request=request,
        arm=arm,
        chances=chances,
        expected=line.get("expected") or {},
        session=request.session or named,
        score=given.get(named, math.nan),
        cost=_number(line.get("cost")),
        id=named,
        served=tuple(line.get("served") or ()),
        idealised_seconds=_number(line.get("idealised_seconds")),
        idealised_usd=_number(line.get("idealised_usd")),
    )


def _number(stated: Any) -> float:
    return float(stated) if isinstance(stated, (int, float)) else math.nan

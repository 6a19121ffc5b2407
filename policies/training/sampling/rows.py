"""Rows: prompts with a small model's samples, their marks, and a large model's answer.

One JSON object a line, each complete, with everything that it depends on beside it: rows of other
models, another verifier or another temperature are never mixed. Texts are kept, so that what is
right may be decided anew. Knows files; must not know how rows come about or what they are for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MAKER = "tandem calibrate best-of --prompts"


class SamplesError(Exception):
    """Rows that cannot be used, or that do not suffice; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer. `logprob` is the mean natural one per token, `reason` why it ended.

    `answer` is what it comes to, where answers vote (None: nothing was found, or it was cut off);
    `mark` is the verifier's own where each sample has one.
    """

    text: str
    tokens: float
    reason: str | None = None
    logprob: float | None = None
    answer: str | None = None
    mark: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt: its `first` sample as a client asks for it, `samples` at the policy's
    temperature, the `large` model's answer. `reference` is the right answer, where it is known.

    `judged` are the tokens that the verifier's model read and wrote for one sample on average.
    """

    id: str
    reference: str | None
    prompt_tokens: float
    first: Sample
    samples: tuple[Sample, ...]
    large: Sample
    judged: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Origin:
    """What rows depend on: the models, the verifier's settings, the temperature of the samples."""

    small: str
    large: str
    verifier: Mapping[str, Any]
    temperature: float


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one origin."""

    origin: Origin
    rows: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def most(self) -> int:
        """How many samples every row has."""
        return min(len(row.samples) for row in self.rows)


def line_of(origin: Origin, row: Row) -> dict[str, Any]:
    """The row as an object of the file."""
    return {**asdict(row), "origin": asdict(origin)}


def read_rows(file: Path, most: int | None = None) -> Rows:
    """The first `most` rows of the file. Raises SamplesError with the line."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SamplesError(f"cannot read {file}: {error}") from error
    return rows_of([*_objects(file, lines)][:most], str(file))


def _objects(file: Path, lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise SamplesError(f"{file}, line {number}: {error}") from None


def rows_of(objects: Sequence[Mapping[str, Any]], source: str) -> Rows:
    """Rows from the objects of a file. Raises SamplesError."""
    if not objects:
        raise SamplesError(f"{source} holds no rows; `{MAKER}` makes some")
    try:
        rows = Rows(_origin(objects[0]["origin"]), tuple(map(_row, objects)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SamplesError(f"{source} holds no rows of `{MAKER}`: {error!r}") from None
    for name, value in objects[0]["origin"].items():
        if any(each["origin"].get(name) != value for each in objects):
            raise SamplesError(f"{source}: rows differ in {name}; make a file for each")
    if not rows.most:
        raise SamplesError(f"{source}: a row has no samples")
    return rows


def _origin(told: Mapping[str, Any]) -> Origin:
    return Origin(told["small"], told["large"], dict(told["verifier"]), float(told["temperature"]))


def _row(told: Mapping[str, Any]) -> Row:
    prompt, completion = told["judged"]
    return Row(
        id=told["id"],
        reference=told["reference"],
        prompt_tokens=float(told["prompt_tokens"]),
        first=_sample(told["first"]),
        samples=tuple(map(_sample, told["samples"])),
        large=_sample(told["large"]),
        judged=(float(prompt), float(completion)),
    )


def _sample(told: Mapping[str, Any]) -> Sample:
    return Sample(
        text=told["text"],
        tokens=float(told["tokens"]),
        reason=told["reason"],
        logprob=told["logprob"],
        answer=told["answer"],
        mark=told["mark"],
    )

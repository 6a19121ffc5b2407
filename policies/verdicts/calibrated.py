"""What a verifier's word is worth, measured: the file that `tandem calibrate best-of` writes.

After each stage of samples the best one's mark falls into a bin. A cell of the table belongs to the
bin before and the bin now, since a request that was not good enough one stage ago is a harder one
than its new mark says. It holds how often the best sample is right, how often the large model is,
and where the next stage leads. Nothing in it depends on prices.

Knows the file and its sizes. Must not know how it was fitted (`policies.training.sampling`) or what
is decided by it (`policies.verdicts.plan`). It is plain JSON, and what does not fit together is an
`ArtifactError` that says which file and what to do.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

FORMAT = 1
KIND = "best-of"
MAKER = "tandem calibrate best-of"
MOST_BINS = 16
"""Of one stage, the one without a verdict among them."""
CLOSE = 1e-3
"""How far chances may be from summing to 1: they are written in a few digits."""


class ArtifactError(ValueError):
    """A file that is no usable calibration."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of samples, 0 to 1, with the ends of its 95 % interval; all 0 where none was seen."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Cell:
    """What is known of requests in one bin after one stage, by the bin of the stage before.

    `count` is how many prompts that is measured on (fractions, since several orders of the samples
    count as one prompt). `right` is the chance that the best sample is right, `large` that the
    large model is; `large_tokens` is how long its answer is. `next` holds the chances of the next
    stage's bins and `next_tokens` what its new samples are long together; empty and 0 at the last.
    """

    count: float
    right: float
    large: float
    large_tokens: float
    next: tuple[float, ...] = ()
    next_tokens: float = 0.0

    def __post_init__(self) -> None:
        chances = (self.right, self.large, *self.next)
        if not all(0 <= chance <= 1 for chance in chances):
            raise ValueError("a chance lies between 0 and 1")
        if self.next and abs(math.fsum(self.next) - 1) > CLOSE:
            raise ValueError("the chances of the next bins must sum to 1")
        amounts = (self.count, self.large_tokens, self.next_tokens)
        if not all(0 <= amount < math.inf for amount in amounts):
            raise ValueError("a number of prompts or tokens is negative or not finite")


@dataclass(frozen=True, slots=True)
class Stage:
    """The table after one stage: `samples` in all, `cuts` between the bins of the best one's mark.

    `cells` [bins before, bins now]; the first stage has one row. The last bin of either is that of
    no verdict.
    """

    samples: int
    cuts: tuple[float, ...]
    cells: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        if not all(one < other for one, other in pairwise(self.cuts)):
            raise ValueError("cuts must grow")
        if not all(map(math.isfinite, self.cuts)) or self.bins > MOST_BINS:
            raise ValueError(f"cuts must be finite, and {MOST_BINS - 2} at most")
        if any(len(row) != self.bins for row in self.cells):
            raise ValueError(f"{len(self.cuts)} cuts need {self.bins} cells in a row")

    @property
    def bins(self) -> int:
        """How many there are, the one without a verdict being the last."""
        return len(self.cuts) + 2

    def bin_of(self, mark: float | None) -> int:
        """The bin of the best sample's mark; None: the verifier could say nothing of any."""
        return self.bins - 1 if mark is None else bisect_right(self.cuts, mark)


@dataclass(frozen=True, slots=True)
class Judging:
    """What a verifier that is a model of its own reads and writes for one sample, in tokens."""

    prompt: float
    completion: float


@dataclass(frozen=True, slots=True)
class Cap:
    """How many samples are worth drawing while the verifier makes its mistakes.

    `accuracy` and `cost` (in large answers) are those of drawing 1, 2, ... samples by `bar` alone;
    `most` is the number after which the next one costs more than it gains. `false_positive` is how
    often a wrong sample passes the bar, `true_positive` how often a right one does.
    """

    bar: float
    most: int
    accuracy: tuple[float, ...]
    cost: tuple[float, ...]
    false_positive: Rate
    true_positive: Rate

    def __post_init__(self) -> None:
        if not 1 <= self.most <= len(self.accuracy) == len(self.cost):
            raise ValueError("the cap's curve and its number do not fit together")


@dataclass(frozen=True, slots=True)
class Calibrated:
    """One verifier on one pair of models. `verifier` are its settings, as the policy states them.

    `prompt_tokens` and `large_tokens` are means over all prompts; `data` says what it was fitted
    on.
    """

    small: str
    large: str
    verifier: Mapping[str, Any]
    temperature: float
    prompt_tokens: float
    large_tokens: float
    stages: tuple[Stage, ...]
    cap: Cap
    judging: Judging | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        totals = [stage.samples for stage in self.stages]
        if not totals or totals[0] < 1 or totals != sorted(set(totals)):
            raise ValueError("its stages must be numbers of samples that grow")
        if totals[-1] > self.cap.most and len(totals) > 1:
            raise ValueError(
                f"its stages draw {totals[-1]} samples, and its cap is {self.cap.most}"
            )
        if not self.large_tokens > 0:
            raise ValueError("large_tokens must be above 0")
        for before, after in pairwise((None, *self.stages)):
            assert after is not None
            if len(after.cells) != (before.bins if before else 1):
                raise ValueError(f"stage {after.samples} has other rows than there are bins before")
            if before and any(len(cell.next) != after.bins for cell in _cells(before)):
                raise ValueError(f"stage {before.samples} leads to other bins than there are")
        if any(cell.next for cell in _cells(self.stages[-1])):
            raise ValueError("the last stage leads nowhere")

    @property
    def totals(self) -> tuple[int, ...]:
        """How many samples there are in all after each stage."""
        return tuple(stage.samples for stage in self.stages)

    def first(self, stages: int) -> Calibrated:
        """As if it had been fitted for so many stages only."""
        if stages == len(self.stages):
            return self
        *kept, last = self.stages[:stages]
        cells = tuple(
            tuple(replace(cell, next=(), next_tokens=0.0) for cell in row) for row in last.cells
        )
        return replace(self, stages=(*kept, replace(last, cells=cells)))

    def stranger(self, small: str, large: str | None, wanted: Mapping[str, Any]) -> str | None:
        """Why it says nothing about these models, or where such settings of the verifier and such a
        temperature are `wanted`; None if it does.
        """
        for role, own, named in (("small", self.small, small), ("large", self.large, large)):
            if own != named:
                return f"it was fitted for {role}: {own}, and this is {named or 'none'}"
        settings = {**self.verifier, "temperature": self.temperature}
        for name in dict.fromkeys((*settings, *wanted)):
            fitted, other = settings.get(name), wanted.get(name)
            if fitted != other:
                return f"it was fitted with {name}: {_said(fitted)}, and this is {_said(other)}"
        return None


def _cells(stage: Stage) -> Iterator[Cell]:
    return (cell for row in stage.cells for cell in row)


def _said(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# ------------------------------------------------------------------------------------ the file


def write_calibrated(file: Path, calibrated: Calibrated) -> None:
    """Write or replace the file; the same calibration gives the same bytes."""
    told = {"format": FORMAT, "kind": KIND, **asdict(calibrated)}
    text = json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False, default=dict)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n", encoding="utf-8")


def read_calibrated(file: Path) -> Calibrated:
    """The calibration in a file. Raises ArtifactError where it is none, or its parts disagree."""
    from pydantic import ValidationError  # only here: a policy without a file needs none

    try:
        text = file.read_text(encoding="utf-8")
        stated = json.loads(text)
    except OSError as error:
        raise ArtifactError(f"{file}: {error.strerror or error}; {_HINT}") from error
    except ValueError as error:
        raise ArtifactError(f"{file} is damaged: {error}; {_HINT}") from error
    for name, value in (("format", FORMAT), ("kind", KIND)):
        found = stated.get(name) if isinstance(stated, dict) else None
        if found != value:
            raise ArtifactError(
                f"{file}: {name} is {found!r}, and this version of Tandem reads {value!r}; {_HINT}"
            )
    try:
        calibrated: Calibrated = _schema().validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        reason = first["msg"].removeprefix("Value error, ")
        raise ArtifactError(f"{file} does not fit together: {where}: {reason}; {_HINT}") from None
    return calibrated


@cache
def _schema() -> Any:
    """What the file must hold, as pydantic has it: made once, which takes long."""
    from pydantic import TypeAdapter

    return TypeAdapter(Calibrated)


_HINT = f"`{MAKER}` makes such a file"

"""What a benchmark found: figures with intervals and targets, as a table and as JSON.

A figure is the median of interleaved repetitions with their smallest and largest value. For n
repetitions that interval covers the true median with probability 1 - 2**(1 - n), whatever the
distribution: 94 % for five.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["Figure", "Report", "Target", "machine", "ratios", "summary", "versions"]

PACKAGES = ("aiohttp", "uvicorn", "uvloop", "httptools", "orjson", "pydantic", "fastapi")
"""What a gateway's speed depends on, beside Python."""


@dataclass(frozen=True, slots=True)
class Target:
    """A bound that a figure has to keep: `at_least`, or else at most."""

    bound: float
    at_least: bool = True

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g}"

    def met(self, value: float) -> bool:
        """Whether `value` keeps the bound."""
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True, slots=True)
class Figure:
    """One result: a median within [low, high], and what it has to be, if anything."""

    name: str
    value: float
    low: float
    high: float
    unit: str = ""
    target: Target | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        return None if self.target is None else self.target.met(self.value)


@dataclass(slots=True)
class Report:
    """All figures of a run, and where it ran."""

    machine: dict[str, str]
    figures: list[Figure] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def met(self) -> bool:
        """Whether no target was missed."""
        return all(figure.met is not False for figure in self.figures)

    def as_json(self) -> str:
        """The report for programs."""
        rows = [
            {
                **asdict(figure),
                "target": str(figure.target) if figure.target else None,
                "met": figure.met,
            }
            for figure in self.figures
        ]
        tree: dict[str, Any] = {"machine": self.machine, "figures": rows, "remarks": self.remarks}
        return json.dumps({**tree, "met": self.met}, indent=2)

    def as_text(self) -> str:
        """The report for people."""
        lines = [f"{key}: {value}" for key, value in self.machine.items()]
        width = max((len(figure.name) for figure in self.figures), default=0)
        lines.append("")
        for figure in self.figures:
            value = f"{_short(figure.value)} [{_short(figure.low)} .. {_short(figure.high)}]"
            verdict = "" if figure.met is None else ("  ok" if figure.met else "  MISSED")
            wanted = f"  wanted {figure.target}{verdict}" if figure.target else ""
            lines.append(f"{figure.name:<{width}}  {value:>30} {figure.unit:<10}{wanted}")
            if figure.note:
                lines.append(f"{'':<{width}}  {figure.note}")
        return "\n".join([*lines, *(f"\n{remark}" for remark in self.remarks)])


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def summary(
    name: str, values: Sequence[float], unit: str, target: Target | None = None, note: str = ""
) -> Figure:
    """The figure of some repetitions."""
    return Figure(name, median(values), min(values), max(values), unit, target, note)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Repetition by repetition, so that what disturbed the machine disturbs both sides."""
    return [our / their for our, their in zip(ours, theirs, strict=True) if their]


def versions(names: Sequence[str] = PACKAGES) -> str:
    """Installed versions, in one line."""
    found = [f"Python {platform.python_version()}"]
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def machine() -> dict[str, str]:
    """What the run ran on, and how busy it was beforehand."""
    load = ", ".join(f"{average:.2f}" for average in os.getloadavg())
    return {
        "cpu": f"{_cpu()}, {os.cpu_count()} cores, load average before {load}",
        "system": platform.platform(),
        "versions": versions(),
    }


def _cpu() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

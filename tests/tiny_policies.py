"""A table of policies that do nothing, for tests of everything around policies.

Between them their settings use every shape that a reference can stand in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from router.config import Table
from router.fleet import Fleet
from router.phrases import route, serve
from router.steps import ModelName, Request, Steps, TargetName


@dataclass(frozen=True, slots=True)
class Direct:
    """One model."""

    reasons: ClassVar[tuple[str, ...]] = ()
    model: ModelName

    def route(self, request: Request, fleet: Fleet) -> Steps:
        return (yield from serve(self.model, request))


@dataclass(frozen=True, slots=True)
class Ladder:
    """References in a tuple, and a refusal of its own."""

    reasons: ClassVar[tuple[str, ...]] = ()
    targets: tuple[TargetName, ...]
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError("share: is a part of the time that is left: above 0, at most 1")

    def route(self, request: Request, fleet: Fleet) -> Steps:
        return (yield from route(self.targets[0], request, self.share))


@dataclass(frozen=True, slots=True)
class Arm:
    """A setting that is a group of settings."""

    target: TargetName
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError("weight: cannot be negative")


@dataclass(frozen=True, slots=True)
class Split:
    """References as keys of a mapping, in a nested dataclass, and behind None."""

    reasons: ClassVar[tuple[str, ...]] = ()
    weights: Mapping[TargetName, float]
    arms: tuple[Arm, ...] = ()
    judge: ModelName | None = None

    def route(self, request: Request, fleet: Fleet) -> Steps:
        return (yield from route(next(iter(self.weights)), request))


@dataclass(frozen=True, slots=True)
class Pair:
    """Defaults of every plain type; `artifact` is read when the policy is built."""

    reasons: ClassVar[tuple[str, ...]] = ()
    small: ModelName
    large: ModelName
    threshold: float = 0.9
    window: int = 5
    draft: bool = False
    stop: tuple[str, ...] = ()
    artifact: str | None = None

    def __post_init__(self) -> None:
        if self.artifact:
            Path(self.artifact).read_bytes()

    def route(self, request: Request, fleet: Fleet) -> Steps:
        return (yield from serve(self.small, request))


TABLE: Table = {"direct": Direct, "ladder": Ladder, "split": Split, "pair": Pair}

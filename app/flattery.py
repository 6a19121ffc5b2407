"""Rows that a policy was learned from: figures on those flatter, and whoever reads them is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from router.decide import Learned
from router.references import references
from router.steps import Policy

__all__ = ["flattering"]


def flattering(name: str, targets: Mapping[str, Policy], prompts: Sequence[str]) -> str | None:
    """How many of `prompts` the policy `name`, or one that it leads to, was trained on; in words.

    None where it is none.
    """
    counts = [
        policy.trained_on(prompts)
        for policy in _reached(name, targets, set())
        if isinstance(policy, Learned)
    ]
    if not (most := max(counts, default=0)):
        return None
    return f"{most} of {len(prompts)} prompts were trained on: figures on them flatter"


def _reached(name: str, targets: Mapping[str, Policy], seen: set[str]) -> Iterator[Policy]:
    """The policy, and all that its settings lead to."""
    if name in seen or name not in targets:
        return
    seen.add(name)
    yield targets[name]
    for reference in references(targets[name]):
        yield from _reached(reference.name, targets, seen)

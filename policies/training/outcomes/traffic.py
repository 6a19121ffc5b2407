"""A log of decisions as rows: of each request the score of the one model that answered it.

What the others would have been worth nobody knows, and stays unknown. A decision that nobody has
scored tells nothing of a model and is left out, as is one that another than the chosen arm answered
in the end: its score is not the arm's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from policies.training.decisions import Decisions, Logged, read_decisions
from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.rows import Rows, asked

__all__ = ["is_log", "rows_of_log"]

LOGGED = ("chances", "feedback")
"""What tells a line of such a log from outcomes."""


def is_log(file: Path) -> bool:
    """Whether this is a log of decisions, by its first line; False for what cannot be read."""
    if file.suffix.lower() != ".jsonl":
        return False
    try:
        with file.open("rb") as opened:
            line = next((line for line in opened if line.strip()), b"")
        read = orjson.loads(line)
    except (OSError, orjson.JSONDecodeError):
        return False
    return isinstance(read, dict) and any(name in read for name in LOGGED)


def rows_of_log(
    files: Sequence[Path], scores: Sequence[Path] = ()
) -> tuple[Rows, Mapping[str, int]]:
    """The rows of these logs, a model for each arm; and why decisions are left out, with how many.

    Raises `RowsError`, also where no decision has a score.
    """
    decisions = read_decisions(files, scores)
    left_out = Counter(decisions.left_out)
    kept: list[Logged] = []
    models = {model for one in decisions.usable for model in one.served}
    for one in decisions.usable:
        if why := _useless(one, models):
            left_out[why] += 1
        else:
            kept.append(one)
    if not kept:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise RowsError(
            f"{files[0]}: no decision has a score of its arm ({why}): send feedback, or give "
            "--scores FILE"
        )
    return _rows(kept, decisions), left_out


def _useless(one: Logged, models: set[str]) -> str | None:
    if math.isnan(one.score):
        return "without a score"
    if one.arm in models and one.served and one.arm not in one.served:
        return "answered by another than the arm that was chosen"
    return None


def _rows(kept: Sequence[Logged], decisions: Decisions) -> Rows:
    answered = {one.arm for one in kept}
    arms = tuple(arm for arm in decisions.arms if arm in answered)
    at = {arm: place for place, arm in enumerate(arms)}
    scores = np.full((len(kept), len(arms)), np.nan)
    costs = scores.copy()
    for row, one in enumerate(kept):
        scores[row, at[one.arm]] = one.score
        costs[row, at[one.arm]] = one.cost
    said: list[tuple[Mapping[str, Any], ...]] = [
        tuple(one.request.body["messages"]) for one in kept
    ]
    return Rows(
        prompts=tuple(asked(messages) for messages in said),
        models=arms,
        scores=scores,
        ids=tuple(one.id for one in kept),
        costs=None if np.isnan(costs).all() else costs,
        messages=tuple(said),
    )

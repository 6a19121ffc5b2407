"""`tandem eval --cross-fit`: what a router would be worth that is trained on rows like these.

The rows are split; for each part a router is trained on the others, built as for serving, and
replayed over that part. So every row is judged by a policy that has not seen it, and no rows need
to be held back. Split by task, each task is judged by a router that has seen none of its rows: what
it has learned must carry over.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.judged import Judged, JudgedError, Names, stage_of
from policies import TABLE
from policies.composition.artifact import Expert, write_artifact
from policies.composition.embedder import Embedder, Floats, Progress, minilm
from policies.composition.prior import Prior, shipped
from policies.training.experts.blending import Indices, folds_of
from policies.training.experts.pipeline import Trained, Training, train
from policies.training.experts.recipe import Recipe
from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.rows import Rows
from policies.training.replay import Replayed, replayed
from router.references import build_policy

KIND = "experts"
BY_TASK = "task"

Watch = Callable[[Sequence[Any], str, int], Any]
"""A progress bar around the parts."""


@dataclass(frozen=True, slots=True)
class CrossFit:
    """How a router is tried: `parts` of the rows, or None to split them by task; the policy's
    `settings`; whether it may use the prior.
    """

    parts: int | None
    settings: Mapping[str, Any]
    seed: int = 0
    features: str = "all"
    prior: bool = True


def judged_by_parts(names: Names) -> Judged:
    """What the report says was judged."""
    return Judged(KIND, KIND, stage_of(names, {}), names)


def replayed_by_parts(rows: Rows, names: Names, fit: CrossFit, watch: Watch) -> Replayed:
    """Every row replayed by a router that was trained without it.

    Raises `RowsError` or `JudgedError`.
    """
    parts = list(_parts(rows, fit))
    prior = _prior(rows) if fit.prior and fit.features == "all" else None
    embedder = Remembering(minilm()) if fit.features == "all" else None
    found: list[tuple[Indices, Replayed]] = []
    for part in watch(parts, "training", len(parts)):
        rest = np.setdiff1d(np.arange(len(rows)), part)
        trained = _trained(rows.at(rest), names, fit, Means(embedder, prior))
        policy = _policy(trained, fit.settings)
        replay = replayed(KIND, rows.at(part), stage_of(names, {KIND: policy}), fit.seed)
        found.append((part, replay))
    return _together(found, len(rows))


def _parts(rows: Rows, fit: CrossFit) -> Iterator[Indices]:
    if fit.parts is not None:
        yield from folds_of(rows.prompts, fit.parts, fit.seed)
        return
    tasks = np.asarray(rows.tasks or ())
    if len(np.unique(tasks)) < 2:
        raise RowsError("--cross-fit task: the rows name fewer than two tasks")
    for task in np.unique(tasks):
        yield np.flatnonzero(tasks == task)


def _prior(rows: Rows) -> Prior | None:
    """The prior's groups that know none of the rows, held back or not."""
    prior = shipped()
    strangers = prior.strangers(rows.prompts)
    return prior.of(strangers) if strangers else None


@dataclass(frozen=True, slots=True)
class Means:
    """What every part is trained with."""

    embedder: Embedder | None
    prior: Prior | None


class Remembering:
    """An embedder that embeds each text once: every part trains on nearly the same ones."""

    def __init__(self, embedder: Embedder) -> None:
        self.name = embedder.name
        self.dimension = embedder.dimension
        self.fingerprint = embedder.fingerprint
        self._embedder = embedder
        self._known: dict[str, Floats] = {}

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Floats:
        """As `Embedder`."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        self._known.update(zip(new, self._embedder.embed(new, progress), strict=True))
        shape = (len(texts), self.dimension)
        return np.array([self._known[text] for text in texts], np.float32).reshape(shape)


def _trained(rows: Rows, names: Names, fit: CrossFit, means: Means) -> Trained:
    """A router trained on these rows."""
    sizes = [None if np.isnan(size) else float(size) for size in names.params_b]
    training = Training(
        experts=tuple(Expert(m, size) for m, size in zip(rows.models, sizes, strict=True)),
        recipe=Recipe(seed=fit.seed, features="all" if fit.features == "all" else "lexical"),
        embedder=means.embedder,
        prior=means.prior,
    )
    return train(rows, training, lambda _: None)


def _policy(trained: Trained, settings: Mapping[str, Any]) -> Any:
    """The router, read from its artifact as a gateway would."""
    with tempfile.TemporaryDirectory() as folder:
        write_artifact(Path(folder), trained.card, trained.parts)
        policy, complaints = build_policy({"use": KIND, "artifact": folder, **settings}, TABLE)
    if policy is None:
        path, reason = complaints[0]
        raise JudgedError(f"--set {'.'.join(map(str, path))}: {reason}")
    return policy


def _together(found: Sequence[tuple[Indices, Replayed]], rows: int) -> Replayed:
    """The parts in the order of the rows."""
    first = found[0][1]
    shape = (rows, first.chances.shape[1])
    whole = {name: np.full(shape, np.nan) for name in ("chances", "asked", "expected")}
    reasons: dict[str, int] = {}
    for part, replay in found:
        for name, values in whole.items():
            values[part] = getattr(replay, name)
        for reason, count in replay.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    return Replayed(whole["chances"], whole["asked"], whole["expected"], reasons)

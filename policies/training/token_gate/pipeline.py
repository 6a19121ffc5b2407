"""The whole way from two models and a file of prompts to a gate's artifact.

Knows what comes after what: ask, train, choose a threshold, write. Must not know the command line.
The artifact is the folder that the engine loads; the picture lies beside the weights, and what the
models said in a folder of its own, from which other gates can be trained without asking again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from policies.gate.artifact import Artifact, fingerprint, write_artifact
from policies.gate.network import Dimensions
from policies.training.token_gate import curve
from policies.training.token_gate.arrays import Floats
from policies.training.token_gate.collect import Asking, Found, collect
from policies.training.token_gate.dataset import Examples, Split, build
from policies.training.token_gate.embedding import load_embedding
from policies.training.token_gate.errors import TrainingError
from policies.training.token_gate.prompts import Prompt
from policies.training.token_gate.recipe import Recipe
from policies.training.token_gate.threshold import Choice, auc, candidates, choose

Figures: TypeAlias = dict[str, float | int | str]

PICTURE = "recall.png"
_FEW = 100
"""Divergent tokens below which a gate's figures mean little: the 95 % interval of a recall of 0.95
is then wider than 0.9 to 0.98."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be made, where; `files` is the small model's folder, if its server's is not here.

    `hidden` False makes a gate for engines that show no hidden states. `recall` is the share of
    divergent tokens that the threshold must find, `held` the share of prompts for validation.
    """

    out: Path
    work: Path
    traces: Path
    recipe: Recipe = field(default_factory=Recipe)
    hidden: bool = True
    recall: float = 0.95
    held: float = 0.2
    files: Path | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What came out, and what the reader must be told."""

    figures: Figures
    warnings: tuple[str, ...]


def train(plan: Plan, asking: Asking, prompts: list[Prompt]) -> Report:
    """All of it. Raises TrainingError; whatever was asked until then is kept."""
    from policies.training.token_gate.fit import fit

    found = asyncio.run(collect(asking, prompts, plan.work, plan.traces))
    embedding = load_embedding(_files(plan, found))
    examples = _examples(plan, found)
    fitted = fit(examples, embedding, plan.recipe)
    scores, labels = fitted.scores[examples.held], examples.divergent[examples.held]
    choices = candidates(scores, labels)
    chosen = choose(choices, plan.recall)
    metrics: Figures = {
        "validation_loss": min(fitted.losses),
        "auc": auc(scores, labels),
        "recall": chosen.recall,
        "positive_rate": chosen.positive_rate,
        **examples.shares(),
    }
    data = _data(plan, found, examples)
    artifact = Artifact(
        hidden=plan.hidden,
        dimensions=_dimensions(examples, embedding, plan.recipe),
        threshold=chosen.threshold,
        model={"name": found.small, "fingerprint": fingerprint(embedding)},
        data=data,
        metrics=metrics,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        weights=fitted.weights,
    )
    write_artifact(plan.out, artifact)
    curve.draw(choices, chosen, f"gate for {found.small}", plan.out / PICTURE)
    figures = {"artifact": str(plan.out), "threshold": chosen.threshold, **metrics, **data}
    return Report(figures, tuple(_warnings(plan, chosen, int(labels.sum()))))


def _files(plan: Plan, found: Found) -> Path:
    folder = plan.files or (Path(found.small_root) if found.small_root else None)
    if folder is None or not folder.is_dir():
        raise TrainingError(
            f"the small model's files are not here ({folder or 'its server does not say where'}): "
            "name its Hugging Face folder with --small-files"
        )
    return folder


def _examples(plan: Plan, found: Found) -> Examples:
    split = Split(plan.recipe.seed, plan.held)
    examples = build(found.answers, found.traces.rows, found.verdicts.rows, plan.traces, split)
    if plan.hidden and examples.hidden is None:
        raise TrainingError(
            "the small model's engine recorded no hidden states: run it with those, or train with "
            "--no-hidden"
        )
    for name, part in (("learning", ~examples.held), ("validation", examples.held)):
        if not examples.divergent[part].any():
            raise TrainingError(
                f"no divergent token among the {int(part.sum())} of the {name} part: give more "
                "prompts, on which the small model goes astray at times"
            )
    return examples if plan.hidden else replace(examples, hidden=None)


def _dimensions(examples: Examples, embedding: Floats, recipe: Recipe) -> Dimensions:
    return Dimensions(
        hidden=0 if examples.hidden is None else examples.hidden.shape[1],
        embedding=embedding.shape[1],
        width=recipe.width,
        blocks=recipe.blocks,
        top=examples.logits.shape[1],
        vocabulary=len(embedding),
    )


def _data(plan: Plan, found: Found, examples: Examples) -> Figures:
    return {
        "hash": examples.hash,
        "prompts": len(found.answers),
        "wrong": found.wrong,
        "tokens": len(examples),
        "seed": plan.recipe.seed,
    }


def _warnings(plan: Plan, chosen: Choice, divergent: int) -> Iterator[str]:
    if chosen.recall < plan.recall:
        yield (
            f"no threshold finds {plan.recall:.0%} of the divergent tokens; "
            f"{chosen.threshold:.2f}, which finds {chosen.recall:.1%}, is taken"
        )
    if divergent < _FEW:
        yield (
            f"only {divergent} divergent tokens in the validation part: the figures are rough, and "
            "more prompts will make a better gate"
        )

"""How well tasks are told on documents that were not seen: from the question, and with measures.

Three ways to be unseen: cross-validation by document over all rows; documents of the half that no
setting was chosen on, told by heads that learned from the other half; and a kind of document that
was left out whole. Intervals are of resampled documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.bench.figures import Figure, Target, summary
from app.training import bar
from policies.composition.artifact import Embedding
from policies.composition.embedder import minilm
from policies.composition.features import forms, units
from policies.reading.artifact import reading_of
from policies.reading.counting import tokens
from policies.reading.documents import TASKS
from policies.reading.recipe import Recipe as Retrieval
from policies.reading.tasks import Question, worded
from policies.training.context.fit import Indices, Tried, tried
from policies.training.context.measuring import USED, hits_of, lengths
from policies.training.context.pipeline import asks_in
from policies.training.context.recipe import Recipe
from policies.training.context.rows import Asked, read_asked, with_documents
from policies.training.experts.blending import folds_of
from policies.training.experts.worth import calibration_error
from policies.training.outcomes.tables import read_table
from policies.training.scoring.resampling import difference, interval, resampled

if TYPE_CHECKING:
    from policies.training.calibrate import Interval
    from policies.training.experts.fit import Reals

__all__ = ["ALONE", "MEASURED", "QUESTIONS", "Judged", "groups", "judged", "tasks"]

QUESTIONS = "questions_32k.parquet"
CONTEXTS = "contexts_32k"
ALONE, MEASURED = "question alone", "with measures"
DRAWS = 2000
ACCURACY = Target(0.88)


@dataclass(frozen=True, slots=True)
class Judged:
    """The rows, and both heads on rows whose documents they had not seen.

    `asked` [heads] are the questions as each head reads them; `kinds` [rows] of documents;
    `whole` and `passages` [rows] the tokens of either way.
    """

    rows: Asked
    labels: Indices
    kinds: Sequence[str]
    read: Mapping[str, Question]
    heads: Mapping[str, Tried]
    whole: Sequence[int]
    passages: Sequence[int]
    seed: int


def judged(data: Path, seed: int) -> Judged:
    """Read, search, and tell tasks by cross-validation. Raises RowsError."""
    rows = with_documents(read_asked([data / QUESTIONS]), data / CONTEXTS)
    kinds = [str(kind) for kind in read_table(data / QUESTIONS).columns["context_type"]]
    embedder, asks = minilm(), asks_in(rows.questions)
    embedding = Embedding(embedder.name, embedder.fingerprint, embedder.dimension)
    reading = reading_of(units(forms(asks)), embedder.embed, embedding)
    question = worded(asks, reading.features(asks))
    measures = np.zeros((len(rows), len(USED)), np.float32)
    passages = [0] * len(rows)
    with bar("searching", len(rows)) as searching:
        for row, hits in hits_of(rows, Retrieval(), embedder):
            measures[row] = [getattr(hits.measures, name) for name in USED]
            passages[row] = sum(tokens(each.text) for each in hits.passages)
            searching.update()
    read = {ALONE: question, MEASURED: question.beside(units(measures).of(measures))}
    recipe, labels = Recipe(seed=seed), rows.labels()
    folds = folds_of(rows.groups, recipe.folds, seed)
    with bar("training", len(read) * (len(folds) + 1)) as training:
        heads = {
            name: tried(each, labels, rows.groups, folds, recipe, training.update)
            for name, each in read.items()
        }
    return Judged(rows, labels, kinds, read, heads, lengths(rows), passages, seed)


def tasks(found: Judged) -> Iterator[Figure]:
    """The figures of both heads, and of their difference."""
    everything = {name: each.unseen for name, each in found.heads.items()}
    yield from _compared("all documents", found, everything, np.arange(len(found.labels)))
    for name, likely in everything.items():
        right = (likely.argmax(axis=1) == found.labels).astype(float)
        off = [calibration_error(likely.max(axis=1), right)]
        yield summary(f"all documents: confidence off by, {name}", off, "")
    half = np.array([_half(source or "") for source in found.rows.sources])
    yield from _compared("half 2/2 from half 1/2", found, *_across(found, half == 1, half == 2))
    for kind in dict.fromkeys(found.kinds):
        here = np.array([each == kind for each in found.kinds])
        yield from _compared(f"{kind} from the others", found, *_across(found, ~here, here))


def _half(name: str) -> int:
    """1 or 2, by the hash of a document's name."""
    digest = hashlib.md5(name.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest) % 2 + 1


def _across(found: Judged, learn: Reals, tell: Reals) -> tuple[dict[str, Reals], Indices]:
    """What heads that learned from some rows say of others, and which those are."""
    recipe, seen, unseen = Recipe(seed=found.seed), np.flatnonzero(learn), np.flatnonzero(tell)
    of = [found.rows.groups[row] for row in seen]
    folds = folds_of(of, recipe.folds, found.seed)
    told = {}
    for name, read in found.read.items():
        learned = read.rows(seen.tolist())
        head = tried(learned, found.labels[seen], of, folds, recipe).head
        told[name] = head.probabilities(read.rows(unseen.tolist())).astype(float)
    return told, unseen


def _compared(
    what: str, found: Judged, told: Mapping[str, Reals], rows: Indices
) -> Iterator[Figure]:
    """Accuracy, macro-F1 and surprise of both heads on some rows, in pairs."""
    labels, of = found.labels[rows], groups(found.rows, rows)

    def measure(weights: Reals) -> Mapping[str, Reals]:
        return {
            f"{figure}, {name}": values
            for name, likely in told.items()
            for figure, values in _measured(likely, labels, weights).items()
        }

    values, draws = resampled(measure, of, DRAWS, found.seed, clusters=of)
    for figure in ("accuracy", "macro-F1", "nats"):
        for name in told:
            target = ACCURACY if (what, figure) == ("all documents", "accuracy") else None
            known = f"{figure}, {name}"
            yield _figure(f"{what}: {known}", interval(values[known], draws[known]), target)
        gain = difference(values, draws, f"{figure}, {MEASURED}", f"{figure}, {ALONE}")
        yield _figure(f"{what}: {figure}, what measures add", gain)


def _measured(likely: Reals, labels: Indices, weights: Reals) -> dict[str, Reals]:
    """Each figure for each resample: `weights` [resamples, rows]."""
    told = likely.argmax(axis=1)
    right = told == labels
    scores = []
    for task in range(len(TASKS)):
        true, said = weights[:, labels == task].sum(1), weights[:, told == task].sum(1)
        hits = weights[:, right & (labels == task)].sum(1)
        scores.append(2 * hits / np.maximum(true + said, 1e-12))
    nats = -np.log(np.maximum(likely[np.arange(len(labels)), labels], 1e-12))
    return {
        "accuracy": weights @ right / weights.sum(1),
        "macro-F1": np.mean(scores, axis=0),
        "nats": weights @ nats / weights.sum(1),
    }


def groups(rows: Asked, which: Indices) -> Indices:
    """The document of each of these rows as a number from 0."""
    names = [rows.groups[row] for row in which.tolist()]
    return np.unique(names, return_inverse=True)[1]


def _figure(name: str, of: Interval, target: Target | None = None) -> Figure:
    return Figure(name, of.value, of.low, of.high, target=target)

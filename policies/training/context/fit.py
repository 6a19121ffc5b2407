"""Fitting a head: questions and their tasks in, a classifier out, with rows it had not seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import sparse

from policies.composition.blocks import Categories, Grams
from policies.composition.lexical import NAMES, Floats
from policies.reading.documents import TASKS
from policies.reading.tasks import Head, Phrases, Question, outlined
from policies.training.context.recipe import Recipe
from policies.training.experts.fit import Counted, Reals, counted
from policies.training.experts.kinds import logistic, temperature, tempered
from policies.training.experts.recipe import Recipe as GramsRecipe

__all__ = ["Indices", "Tried", "fit_head", "tried"]

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tried:
    """A head fitted to all rows, and what heads that had not seen a row said of it.

    `unseen` [rows, tasks] are probabilities at the head's temperature.
    """

    head: Head
    unseen: Reals


def tried(
    asked: Question,
    of_rows: Indices,
    groups: Sequence[str],
    folds: Sequence[Indices],
    recipe: Recipe,
    done: Callable[[], object] = lambda: None,
) -> Tried:
    """Fit a head to all rows, and to all but each fold to see how honest it is.

    Calls `done` after each fit, folds first.
    """
    unseen = np.full((len(asked), len(TASKS)), 1 / len(TASKS))
    everything = np.arange(len(asked))
    for fold in folds:
        rest = np.setdiff1d(everything, fold)
        if len(rest) and len(fold):
            of = [groups[row] for row in rest]
            head = fit_head(asked.rows(rest.tolist()), of_rows[rest], of, recipe)
            unseen[fold] = head.probabilities(asked.rows(fold.tolist()))
        done()
    logs = np.log(np.maximum(unseen, 1e-12))
    heat = temperature(logs, of_rows)
    head = fit_head(asked, of_rows, groups, recipe)
    done()
    return Tried(replace(head, rest=replace(head.rest, temperature=heat)), tempered(logs, heat))


def fit_head(asked: Question, of_rows: Indices, groups: Sequence[str], recipe: Recipe) -> Head:
    """One logistic regression over all that is read of a question, cut into the head's parts.

    `of_rows` [rows] are numbers of `TASKS`, `groups` [rows] the rows' documents. Its temperature
    is 1.
    """
    limits = GramsRecipe(rarest=recipe.rarest)
    common = _common(asked, groups, recipe)
    grams = (asked.words, asked.frames, outlined(asked, common), asked.features.grams)
    words, frames, outlines, letters = (counted(each, limits) for each in grams)
    scale = _scale(asked, recipe)
    dense = sparse.csr_matrix(asked.features.dense * scale)
    parts = (words, frames, outlines, letters)
    rows = sparse.hstack([*(part.rows for part in parts), dense]).tocsr()
    weights, offset = logistic(rows, of_rows, len(TASKS), recipe.penalty)
    ends = np.cumsum([len(part.vocabulary) for part in parts])
    of_words, of_frames, of_outlines, of_letters, rest = np.split(weights, ends)
    none = np.zeros(len(TASKS), np.float32)
    columns = np.arange(len(scale), dtype=np.int32)
    return Head(
        _phrases(words, of_words),
        _phrases(frames, of_frames),
        _phrases(outlines, of_outlines),
        common,
        Grams(letters.vocabulary, letters.idf, of_letters, none),
        Categories(TASKS, columns, rest * scale[:, None], offset, 1.0),
    )


def _common(asked: Question, groups: Sequence[str], recipe: Recipe) -> frozenset[str]:
    """The tokens of frames that questions about enough documents use."""
    used = {
        (group, token) for group, each in zip(groups, asked.framed, strict=True) for token in each
    }
    counts = Counter(token for _, token in used)
    return frozenset(token for token, count in counts.items() if count >= recipe.common)


def _phrases(seen: Counted, weights: Floats) -> Phrases:
    return Phrases(seen.vocabulary, seen.idf, weights)


def _scale(asked: Question, recipe: Recipe) -> Floats:
    """How much each number of a dense row counts: the embedding, what is lexical, measures."""
    embedding = asked.features.embedding.shape[1]
    scale = np.full(asked.features.dense.shape[1], recipe.measure_scale, np.float32)
    scale[: embedding + len(NAMES)] = recipe.lexical_scale
    scale[:embedding] = 1.0
    return scale

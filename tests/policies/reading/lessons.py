"""Made-up questions about documents whose tasks can be told, and what is learned from them."""

from __future__ import annotations

import numpy as np

from policies.composition.embedder import Embedder
from policies.reading.documents import TASKS, Task
from policies.training.context.pipeline import Searched, Trained, train
from policies.training.context.recipe import Recipe
from policies.training.context.rows import Asked

QUICK = Recipe(folds=3)
MEASURES = ("absent", "coverage", "spread")
_NAMES = ("Anna", "Borneo", "Cepton", "Darwin", "Elba", "Fathom", "Genoa", "Hapi", "Ivan", "Jena")
_FORMS: dict[Task, str] = {
    "location": "What is the number of ships that {} had in {}?",
    "reasoning": "Why did {} leave the fleet in {}, and what follows from it?",
    "comp": "How do the ships of {} compare to those of {}?",
    "hallu": "What is the number of boats that {} had in {}?",
}


def asked(count: int = 80) -> Asked:
    """Questions of the four tasks in turns, about ten documents; one in four is worded as one of
    the first task whatever it is.
    """
    rng = np.random.default_rng(0)
    tasks: tuple[Task, ...] = tuple(TASKS[row % len(TASKS)] for row in range(count))
    asked_as: list[Task] = [task if row % 8 < 6 else "location" for row, task in enumerate(tasks)]
    questions = tuple(
        f"{_FORMS[form].format(*rng.choice(_NAMES, 2))} ({row})"
        for row, form in enumerate(asked_as)
    )
    sources = tuple(f"{row % 10}.txt" for row in range(count))
    return Asked(tuple(map(str, range(count))), questions, tasks, sources, {})


def searched(rows: Asked) -> Searched:
    """Measures of which the first tells what is not in the text."""
    rng = np.random.default_rng(1)
    measures = rng.normal(size=(len(rows), len(MEASURES))).astype(np.float32)
    measures[:, 0] += 3 * np.array([task == "hallu" for task in rows.tasks])
    return Searched(measures, MEASURES, {"chunk": 600})


def trained(embedder: Embedder | None = None, *, measured: bool = True) -> Trained:
    """A judge of these questions."""
    rows = asked()
    return train(rows, embedder, searched(rows) if measured else None, QUICK)

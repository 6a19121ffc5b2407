"""`tandem predict --policy context`: what is asked of documents, row by row, and how to read them.

Judged by what serves (`policies.reading`), question by question or, where the rows bring documents
or name their files, by what a search finds in them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app.training import bar, guarded

if TYPE_CHECKING:
    from policies.composition.lexical import Floats
    from policies.reading.artifact import Artifact
    from policies.reading.tasks import TaskJudge
    from policies.training.context.rows import Asked

__all__ = ["add_arguments", "main"]

BATCH = 128
"""Questions judged at a time."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that only this policy has."""
    add = parser.add_argument_group("--policy context").add_argument
    folder = "where the files are that rows name in a column file, at any depth"
    add("--documents", metavar="DIR", help=folder)
    model = "whose choice between passages and whole is told (default: the table's mean model)"
    add("--model", metavar="NAME", help=model)


def main(options: argparse.Namespace) -> int:
    """Judge every row, and write what is thought of it."""
    return guarded(_predict, options)


def _predict(options: argparse.Namespace) -> int:
    from policies.reading.artifact import opened
    from policies.training.outcomes.errors import RowsError
    from policies.training.outcomes.tables import write_table

    asked = _asked(options)
    try:
        artifact, judge = opened(str(options.artifact))
    except ValueError as error:
        raise RowsError(str(error)) from None
    if options.settings:
        raise RowsError("--set: the policy context has no settings here; see --model")
    if seen := artifact.trained_on(asked.questions):
        flatter = "figures on them flatter"
        print(f"tandem: {seen} of {len(asked)} prompts were trained on: {flatter}", file=sys.stderr)
    measures = _measures(asked, artifact, judge)
    likely = _likely(asked, judge, measures)
    columns = _columns(asked, likely)
    if asked.read:
        columns |= _choices(asked, artifact, likely, options.model)
    write_table(columns, options.out)
    print(_summary(options, columns, searched=measures is not None))
    return 0


def _asked(options: argparse.Namespace) -> Asked:
    from pathlib import Path

    from policies.training.context.rows import read_asked, with_documents

    asked = read_asked(options.rows)
    return asked if options.documents is None else with_documents(asked, Path(options.documents))


def _measures(asked: Asked, artifact: Artifact, judge: TaskJudge) -> Floats | None:
    """What the judge reads beside the questions, [rows, measures]; None where it reads nothing."""
    if not asked.read or not judge.measures:
        return None
    import numpy as np

    from policies.composition.embedder import minilm
    from policies.reading.recipe import Recipe
    from policies.training.context.measuring import hits_of

    rows = np.zeros((len(asked), len(judge.measures)), np.float32)
    with bar("searching", len(asked)) as searching:
        for row, hits in hits_of(asked, Recipe(**artifact.card.retrieval), minilm()):
            rows[row] = judge.row(hits.measures)
            searching.update()
    return rows


def _likely(asked: Asked, judge: TaskJudge, measures: Floats | None) -> Floats:
    """How likely each task is, [rows, tasks]."""
    import numpy as np

    from policies.training.context.pipeline import asks_in

    parts = []
    asks = asks_in(asked.questions)
    with bar("judging", len(asks)) as judging:
        for start in range(0, len(asks), BATCH):
            some = slice(start, start + BATCH)
            found = None if measures is None else measures[some]
            parts.append(judge.probabilities(asks[some], found))
            judging.update(len(parts[-1]))
    return np.concatenate(parts)


def _columns(asked: Asked, likely: Floats) -> dict[str, Sequence[Any]]:
    from policies.reading.documents import TASKS

    columns: dict[str, Sequence[Any]] = {
        "id": asked.ids,
        "prompt": asked.questions,
        "task": [TASKS[at] for at in likely.argmax(axis=1).tolist()],
        **{f"p/{task}": likely[:, at].astype(float).tolist() for at, task in enumerate(TASKS)},
    }
    if any(asked.tasks):
        columns["task_given"] = asked.tasks
    return columns


def _choices(
    asked: Asked, artifact: Artifact, likely: Floats, model: str | None
) -> dict[str, list[Any]]:
    """What each way is worth for the model, and the better one; of equals the cheaper."""
    from policies.training.context.measuring import lengths
    from policies.training.outcomes.models import facts

    size = None if model is None else facts(model).params_b
    tokens = lengths(asked)
    values = [
        artifact.table.value(model or "", length, row, params_b=size)
        for length, row in zip(tokens, likely.tolist(), strict=True)
    ]
    return {
        "tokens": tokens,
        "value/passages": [each["passages"] for each in values],
        "value/whole": [each["whole"] for each in values],
        "choice": ["whole" if each["whole"] > each["passages"] else "passages" for each in values],
    }


def _summary(
    options: argparse.Namespace, columns: dict[str, Sequence[Any]], *, searched: bool
) -> str:
    how = "with what a search found" if searched else "from the questions alone"
    lines = [f"{options.out}: {len(columns['task'])} rows, judged {how}"]
    for name in ("task", "choice"):
        if values := list(columns.get(name, ())):
            counted = (
                f"{each} {values.count(each) / len(values):.1%}" for each in sorted({*values})
            )
            lines.append(f"  {name}: {', '.join(counted)}")
    if (given := columns.get("task_given")) is not None:
        pairs = [pair for pair in zip(columns["task"], given, strict=True) if pair[1] is not None]
        right = sum(told == true for told, true in pairs) / len(pairs)
        lines.append(f"  as the rows say: {right:.1%} of {len(pairs)}")
    return "\n".join(lines)

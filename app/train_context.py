"""`tandem train context`: learn to judge questions about documents.

Only reads the command line and prints; the work is in `policies.training.context`, which needs the
`train` extra and is imported when the command runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.training import bar, check_folder, guarded

if TYPE_CHECKING:
    from policies.composition.embedder import Embedder
    from policies.reading.table import Table
    from policies.training.context.own import Own
    from policies.training.context.pipeline import Searched, Trained
    from policies.training.context.rows import Asked

__all__ = ["add_arguments", "confusion", "main", "taken"]

PICTURE = "confusion.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    rows = "questions: Parquet, JSON lines or CSV with question or prompt, and task"
    add("--rows", type=Path, nargs="+", action="extend", required=True, metavar="FILE", help=rows)
    folder = "where the files are that rows name in a column file, at any depth"
    add("--documents", type=Path, metavar="DIR", help=folder)
    none = "learn from the questions alone, whatever documents there are"
    add("--no-documents", action="store_true", help=none)
    own = "outcomes of your own: logs of decisions, or model, tokens, way, score, task or question"
    add("--outcomes", type=Path, nargs="+", action="extend", default=[], metavar="FILE", help=own)
    add("--out", type=Path, required=True, metavar="DIR", help="the artifact")
    add("--seed", type=int, default=0, help="default: %(default)s")
    add("--json", action="store_true", help="print the figures as JSON")


def main(options: argparse.Namespace) -> int:
    """Learn, write, and say how good it is."""
    return guarded(_train, options)


def _train(options: argparse.Namespace) -> int:
    from policies.composition.embedder import minilm
    from policies.reading.artifact import write_artifact
    from policies.training.context.outcomes import read_own
    from policies.training.context.picture import draw
    from policies.training.context.pipeline import train
    from policies.training.context.recipe import Recipe

    check_folder(options.out)
    own, asked, embedder = read_own(options.outcomes), _asked(options), minilm()
    recipe = Recipe(seed=options.seed)
    searched = None if options.no_documents else _searched(asked, embedder)
    data = {"files": [path.name for path in options.rows]}
    heads = 1 if searched is None else 2
    with bar("training", heads * (recipe.folds + 1)) as fitting:
        trained = train(asked, embedder, searched, recipe, fitting.update, data)
    table = _table(own, trained, embedder)
    write_artifact(options.out, trained.card, trained.parts, table)
    figures = trained.card.metrics
    draw(
        {_titled(name): each["confusion"] for name, each in figures.items()}, options.out / PICTURE
    )
    if options.json:
        outcomes = {"lines": own.lines, "taken": own.counts, "left_out": {**own.left_out}}
        print(json.dumps({**trained.card.data, **figures, "outcomes": outcomes}))
    else:
        print("\n".join([*_report(trained, options.out), *taken(own)]))
    return 0


def _asked(options: argparse.Namespace) -> Asked:
    from policies.training.context.rows import read_asked, with_documents
    from policies.training.outcomes.errors import RowsError

    asked = read_asked(options.rows)
    if options.documents is not None and not options.no_documents:
        return with_documents(asked, options.documents)
    if not options.no_documents and not asked.read:
        raise RowsError(
            "the rows bring no documents: say where they are with --documents DIR, or learn from "
            "the questions alone with --no-documents"
        )
    return asked


def _searched(asked: Asked, embedder: Embedder) -> Searched:
    from policies.reading.recipe import Recipe
    from policies.training.context.measuring import measured

    with bar("searching", len(asked)) as searching:
        return measured(asked, Recipe(), embedder, searching.update)


def _table(own: Own, trained: Trained, embedder: Embedder) -> Table:
    """What was published, and the outcomes of one's own."""
    from policies.reading.artifact import reading_of
    from policies.reading.table import published
    from policies.reading.tasks import TaskJudge
    from policies.training.context.pipeline import asks_in

    parts, embedding = trained.parts, trained.card.embedding
    judge = TaskJudge("", reading_of(parts.lexical, embedder.embed, embedding), parts.alone)
    outcomes = own.outcomes(lambda asked: judge.probabilities(asks_in(asked)).tolist())
    return published().learned(outcomes)


# ------------------------------------------------------------------------------------ what is said


def _titled(name: str) -> str:
    return {"alone": "the question alone", "measured": "with the measures of a search"}[name]


def _report(trained: Trained, out: Path) -> list[str]:
    card = trained.card
    about = f"{card.data['rows']} rows about {card.data['groups']} documents"
    lines = [f"{out}: {about}; unseen documents, in {PICTURE} too:"]
    for name, figures in card.metrics.items():
        right = f"right {figures['accuracy']:.1%}, macro-F1 {figures['macro_f1']:.3f}"
        lines.append(f"  {_titled(name)}: {right}, {figures['nats']:.3f} nats of surprise")
        lines += confusion(figures)
    return lines


def taken(own: Own) -> list[str]:
    """How many outcomes of one's own were taken, of whom, and why others were not."""
    if not own.lines:
        return []
    lines = [f"  outcomes of your own: {len(own.answers)} of {own.lines}"]
    for model, ways in own.counts.items():
        lines.append(f"    {model}: " + ", ".join(f"{n} {way}" for way, n in ways.items() if n))
    if own.left_out:
        why = ", ".join(f"{count} {reason}" for reason, count in own.left_out.items())
        lines.append(f"    left out: {why}")
    return lines


def confusion(figures: Mapping[str, Any]) -> list[str]:
    """Rows of true tasks, columns of told ones."""
    from policies.reading.documents import TASKS

    lines = [f"    {'':<10}" + "".join(f"{task:>10}" for task in TASKS)]
    lines += [
        f"    {task:<10}" + "".join(f"{count:>10}" for count in row)
        for task, row in zip(TASKS, figures["confusion"], strict=True)
    ]
    return lines

"""`tandem bench context`: how well questions about documents are judged, and what that is worth.

On LaRA's public data (`--data`: questions, contexts, predictions and the table of results). Tasks
are told by heads that had not seen the document (`context_tasks`); the value of choosing by them is
what the table says of each choice (`context_value`); refusals are looked for in the predictions
(`context_refusal`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from app.training import guarded

if TYPE_CHECKING:
    from app.bench.context_tasks import Judged
    from app.bench.figures import Figure

__all__ = ["add_arguments", "main"]

TIMED = 300
"""Questions that the time of one is taken of."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    data = "with questions_32k.parquet, contexts_32k, predictions_32k.parquet and table.csv"
    add("--data", type=Path, required=True, metavar="DIR", help=data)
    add("--seed", type=int, default=0, help="of folds and resamples (default %(default)s)")
    add("--plot", type=Path, metavar="FILE", help="draw the confusions, as a PNG")
    add("--json", action="store_true", help="print the figures as JSON")


def main(options: argparse.Namespace) -> int:
    """Run and print; 1 if a target was missed or nothing could be measured."""
    return guarded(_measure, options)


def _measure(options: argparse.Namespace) -> int:
    from app.bench.context_refusal import refusals, tokens
    from app.bench.context_tasks import judged, tasks
    from app.bench.context_value import placing, values
    from app.bench.figures import Report, machine, versions

    report = Report({**machine(), "versions": versions(("numpy", "scikit-learn", "onnxruntime"))})
    found = judged(options.data, options.seed)
    report.figures += tasks(found)
    report.figures += values(found)
    report.figures += placing()
    report.figures += refusals(options.data)
    report.figures += tokens(found, options.data)
    report.figures += _speed(found)
    report.remarks += _confusions(found)
    if options.plot is not None:
        _draw(found, options.plot)
    print(report.as_json() if options.json else report.as_text())
    return 0 if report.met else 1


def _speed(found: Judged) -> Iterator[Figure]:
    """How long the artifact that ships takes for a question, its embedding included."""
    from app.bench.embedder import quantile
    from app.bench.figures import summary
    from policies.reading.artifact import DEFAULT, opened
    from policies.training.context.pipeline import asks_in

    _, judge = opened(DEFAULT)
    times = []
    for ask in asks_in(found.rows.questions[:TIMED]):
        began = time.perf_counter()
        judge.judge(ask)
        times.append(1e3 * (time.perf_counter() - began))
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        yield summary(f"judging a new question: {name}", [quantile(times, share)], "ms")


def _confusions(found: Judged) -> list[str]:
    from app.train_context import confusion
    from policies.training.context.pipeline import figures

    remarks = []
    for name, tried in found.heads.items():
        lines = confusion(figures(tried, found.labels))
        remarks.append("\n".join([f"{name}: rows are true tasks, columns told ones", *lines]))
    return remarks


def _draw(found: Judged, file: Path) -> None:
    from policies.training.context.picture import draw
    from policies.training.context.pipeline import figures

    panels = {
        name: figures(tried, found.labels)["confusion"] for name, tried in found.heads.items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    draw(panels, file)
    print(f"{file}: drawn", file=sys.stderr)

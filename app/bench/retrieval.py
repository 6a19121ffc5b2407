"""`tandem bench retrieval`: how often a search finds what answers, and how long it takes.

Recall on the questions of LaRA (arXiv 2502.09977) that ask for one place of a document: of BM25
alone, of vectors alone, and of both as they are served. The settings were chosen on documents of
the half 1/2; the other half's figures are those to trust. Then times on one document of 128k tokens
made of the data's books, on one core: a first question, and later ones; and what a document of 20
MB takes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.bench.figures import Figure, Report

__all__ = ["add_arguments", "main"]

PACKAGES = ("bm25s", "semantic-text-splitter", "onnxruntime", "tokenizers", "numpy")
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PARTS = ("recall", "speed", "decision")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    from app.arguments import count

    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR",
        help="LaRA's: questions_LENGTH.parquet and contexts_LENGTH/TYPE/FILE")  # fmt: skip
    add("--length", default="32k", help="of the documents (default %(default)s)")
    add("--only", choices=PARTS, help="one part of the figures")
    add("--tokens", type=count, default=128_000, metavar="N",
        help="of the document whose search is timed (default %(default)s)")  # fmt: skip
    add("--asks", type=count, default=100, metavar="N",
        help="later questions of a repetition (default %(default)s)")  # fmt: skip
    add("--megabytes", type=count, default=20, metavar="N",
        help="of the document that is only cut and counted (default %(default)s)")  # fmt: skip
    add("--repetitions", type=count, default=3, metavar="N", help="(default %(default)s)")
    add("--json", action="store_true", help="print the figures as JSON")


def main(options: argparse.Namespace) -> int:
    """Run and print; 1 if a target was missed, 2 if nothing could be measured."""
    for name in ONE_THREAD:
        os.environ[name] = "1"  # before NumPy is imported, which reads it once
    from app.bench.figures import Report, machine, versions
    from policies.composition.embedder import EmbedderError
    from policies.training.outcomes.errors import RowsError

    report = Report({**machine(), "versions": versions(PACKAGES)})
    try:
        report.figures.extend(_figures(options, report))
    except ModuleNotFoundError as error:
        problem = f"{error.name} is not installed: install tandem-gateway[train]"
        print(f"tandem bench retrieval: {problem}", file=sys.stderr)
        return 2
    except (RowsError, EmbedderError) as error:
        print(f"tandem bench retrieval: {error}", file=sys.stderr)
        return 2
    print(report.as_json() if options.json else report.as_text())
    return 0 if report.met else 1


def _figures(options: argparse.Namespace, report: Report) -> Iterator[Figure]:
    from app.bench import retrieval_decision, retrieval_recall, retrieval_speed
    from app.bench.retrieval_rows import read
    from policies.composition.embedder import minilm

    rows = read(options.data, options.length)
    report.remarks.append(f"embedder: {minilm().name}")
    if options.only in {None, "recall"}:
        yield from retrieval_recall.measure(rows, minilm(), report)
    load = retrieval_speed.Load(
        options.tokens, options.asks, options.repetitions, options.megabytes
    )
    if options.only in {None, "decision"}:
        yield from retrieval_decision.measure(rows, load, report)
    if options.only in {None, "speed"}:
        yield from retrieval_speed.measure(rows, minilm(), load, report)

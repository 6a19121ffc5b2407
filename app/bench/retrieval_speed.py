"""How long a search takes on a long document: the first question, and later ones.

One document made of books, on one core where the system allows it, through the shelf as a policy
does. A first question includes cutting, counting and the vectors of its pool. Later questions come
twice: before the rest was embedded in the background (its thread is kept out of the way), and
after.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.bench.figures import Figure, Report
    from app.bench.retrieval_rows import Rows
    from policies.composition.embedder import LocalEmbedder
    from policies.reading.index import Index
    from policies.reading.shelf import Shelf

__all__ = ["FIRST_SECONDS", "LATER_MS", "Load", "asks_of", "document", "measure", "one_core"]

FIRST_SECONDS, LATER_MS = 3.0, 50.0
"""What a first question may take, and the 99th percentile of later ones."""
BEFORE = 10
"""Later questions asked before the background has done its work; each takes a second or so."""


@dataclass(frozen=True, slots=True)
class Load:
    """Tokens of the document, later questions of a repetition, repetitions.

    `megabytes` (of 1,000,000 characters) are those of the document that is only cut and counted.
    """

    tokens: int
    asks: int
    repetitions: int
    megabytes: int


@dataclass(slots=True)
class Times:
    """Of each repetition: seconds of the first question and of the background, ms of the others."""

    cutting: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    before: list[list[float]] = field(default_factory=list)
    background: list[float] = field(default_factory=list)
    after: list[list[float]] = field(default_factory=list)
    held: list[float] = field(default_factory=list)


def measure(rows: Rows, embedder: LocalEmbedder, load: Load, report: Report) -> Iterator[Figure]:
    """The figures of one long document."""
    from app.bench.embedder import quantile
    from app.bench.figures import Target, summary

    with one_core() as core:
        text, asks = document(rows, load.tokens), asks_of(rows, load.asks + 1)
        times = _times(text, asks, embedder, load.repetitions)
        seconds, held = _large(text, load.megabytes)
    where = f"core {core}" if core is not None else "all cores: this system binds no process to one"
    report.remarks.append(f"speed: {len(text):,} characters, {load.tokens:,} tokens, on {where}")
    target = Target(FIRST_SECONDS, at_least=False)
    yield summary("first question", times.first, "s", target)
    yield summary("of it, cutting and counting", times.cutting, "s")
    for name, values in (("before", times.before), ("after", times.after)):
        for share, quantity in ((0.5, "p50"), (0.99, "p99")):
            wanted = Target(LATER_MS, at_least=False) if name == "after" else None
            figures = [quantile(each, share) for each in values]
            yield summary(f"later, {name} the background: {quantity}", figures, "ms", wanted)
    yield summary("background", times.background, "s")
    yield summary("held, the text included", times.held, "MB")
    yield summary(f"{load.megabytes} MB of text: cutting and counting", [seconds], "s")
    yield summary(f"{load.megabytes} MB of text: held, the text included", [held], "MB")


def document(rows: Rows, tokens: int) -> str:
    """Books one after the other (any documents, if there are none), cut at so many tokens."""
    from policies.reading.counting import tokens as counted

    kinds = {row.file: row.kind for row in rows.rows}
    books = [file for file in rows.texts if kinds[file] == "book"] or [*rows.texts]
    parts: list[str] = []
    left, at = tokens, 0
    while left > 0:
        text = rows.texts[books[at % len(books)]]
        count = max(counted(text), 1)
        parts.append(text if count <= left else text[: len(text) * left // count])
        left -= count
        at += 1
    return "\n\n".join(parts)


def asks_of(rows: Rows, count: int) -> Sequence[str]:
    """So many questions about books (about any documents, if there are none)."""
    asks = [row.ask for row in rows.rows if row.kind == "book"] or [row.ask for row in rows.rows]
    return [asks[at % len(asks)] for at in range(count)]


def _times(text: str, asks: Sequence[str], embedder: LocalEmbedder, repetitions: int) -> Times:
    from tqdm import tqdm

    from policies.reading.recipe import Recipe
    from policies.reading.shelf import Shelf

    times = Times()
    Shelf().index([text[:10_000]], Recipe())  # libraries are loaded from here on
    embedder.embed(asks[:2])
    with tqdm(total=4 * repetitions, desc="speed", file=sys.stderr, disable=None) as bar:
        for _ in range(repetitions):
            shelf = Shelf()
            index, cutting, first = _first(shelf, text, asks[0], embedder)
            times.cutting.append(cutting)
            times.first.append(first)
            bar.update()
            times.before.append(_later(shelf, text, asks[1 : BEFORE + 1], embedder))
            bar.update()
            began = time.perf_counter()
            shelf.prepare(index, embedder.embed)
            shelf.settle()
            times.background.append(time.perf_counter() - began)
            bar.update()
            times.after.append(_later(shelf, text, asks[1:], embedder))
            times.held.append(shelf.held / 1e6)
            bar.update()
    return times


def _large(text: str, megabytes: int) -> tuple[float, float]:
    """Seconds until there is an index of the text, repeated to this size, and its megabytes."""
    from policies.reading.index import Index

    size = megabytes * 1_000_000
    repeated = (text * (size // len(text) + 1))[:size]
    began = time.perf_counter()
    index = Index([repeated])
    return time.perf_counter() - began, index.nbytes / 1e6


def _first(
    shelf: Shelf, text: str, ask: str, embedder: LocalEmbedder
) -> tuple[Index, float, float]:
    """The index, seconds until there is one, and seconds until the first answer."""
    from policies.reading.recipe import Recipe
    from policies.reading.search import search

    began = time.perf_counter()
    index = shelf.index([text], Recipe())
    cut = time.perf_counter()
    search(index, ask, Recipe(), embedder.embed)
    return index, cut - began, time.perf_counter() - began


def _later(shelf: Shelf, text: str, asks: Sequence[str], embedder: LocalEmbedder) -> list[float]:
    return [1e3 * _first(shelf, text, ask, embedder)[2] for ask in asks]


@contextmanager
def one_core() -> Iterator[int | None]:
    """Binds this thread, and those that it starts, to one core; None where that cannot be."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = os.sched_getaffinity(0)
    core = max(before)
    os.sched_setaffinity(0, {core})
    try:
        yield core
    finally:
        os.sched_setaffinity(0, before)

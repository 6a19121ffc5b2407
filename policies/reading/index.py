"""Some texts made ready for asks: cut into chunks and windows, their words counted, vectors kept.

Knows how to cut and count, and remembers vectors that it is given; must not know how asks are
matched (`search`) or where vectors come from. A chunk is what a search gives; a window is a part of
one chunk that an embedder can read, and the same windows are matched by words. Only vectors are
added later, under a lock; all else never changes, so any thread may use it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from policies.composition.embedder import Floats, Progress
from policies.reading.chunks import spans
from policies.reading.counting import tokens
from policies.reading.documents import Passage
from policies.reading.recipe import Recipe
from policies.reading.terms import terms
from policies.reading.words import Integers, Vocabulary, Words, counted

__all__ = ["LARGEST", "MOST_TOKENS", "WINDOW", "Embed", "Halves", "Index", "TooLarge"]

Embed: TypeAlias = Callable[[Sequence[str]], Floats]
"""From texts to vectors [texts, dimension], each of length 1; from any thread."""
Halves: TypeAlias = npt.NDArray[np.float16]

LARGEST = 32 << 20
"""Characters of all texts of an index together: some 7 million tokens of English."""
MOST_TOKENS = 8_000_000
"""Tokens of all texts of an index together; only text that no one reads has so many sooner."""
WINDOW = 120
"""Tokens of a window, at most and about: well below the 254 that the embedder reads, as a window of
a document's denser parts has more than the mean says."""
_DIMENSION = 384
"""Of the vectors that are reckoned with before any has come: the shipped embedder's."""
_AT_ONCE = 8
"""Windows that `complete` embeds at a time."""


class TooLarge(ValueError):  # noqa: N818  (what is wrong, not that)
    """The texts are larger than one index may be; the message says by how much."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Chunks or windows: `owner` is a chunk's document, or a window's chunk; then its characters.

    All [pieces]; `owner` ascends, and `first` [owners + 1] is where each owner's pieces begin.
    """

    owner: Integers
    start: Integers
    end: Integers
    first: Integers

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        arrays = (self.owner, self.start, self.end, self.first)
        return sum(array.nbytes for array in arrays)


class Index:
    """Texts that can be searched. `tokens` are those of each text (`counting.tokens`).

    `whole` says that a search looks at the vectors of all windows, not of a pool's alone: so it is
    where vectors came with the texts.
    """

    def __init__(self, texts: Sequence[str], recipe: Recipe | None = None) -> None:
        """Cuts and counts: 0.5 s for 128k tokens. Raises TooLarge, EmbedderError."""
        recipe = recipe or Recipe()
        size = sum(map(len, texts))
        if size > LARGEST:
            raise TooLarge(f"{size:,} characters are more than the {LARGEST:,} that can be indexed")
        self.texts = tuple(texts)
        self.recipe = recipe
        self.tokens = tuple(map(tokens, texts))
        if (count := sum(self.tokens)) > MOST_TOKENS:
            raise TooLarge(
                f"{count:,} tokens are more than the {MOST_TOKENS:,} that can be indexed"
            )
        self.chunks, self.windows = _cut(self.texts, self.tokens, recipe)
        self._count()
        self.whole = False
        self._lock = Lock()
        self._vectors: Halves | None = None
        self._known = np.zeros(len(self.windows), np.bool_)

    def _count(self) -> None:
        vocabulary = Vocabulary()
        texts = self.read(range(len(self.windows)))
        windows = [vocabulary.learn(terms(text)) for text in texts]
        chunks = [
            [term for window in windows[first:last] for term in window]
            for first, last in pairwise(self.windows.first.tolist())
        ]
        self.vocabulary = vocabulary
        self.by_chunk: Words = counted(chunks, vocabulary)
        self.by_window: Words = counted(windows, vocabulary)
        held = (vocabulary, self.chunks, self.windows, self.by_chunk, self.by_window)
        self._held = sum(map(sys.getsizeof, self.texts)) + sum(each.nbytes for each in held)

    @property
    def dimension(self) -> int | None:
        """Numbers in a vector; None before the first one came."""
        return None if self._vectors is None else self._vectors.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes with the vectors of all windows, whether they have come or not."""
        return self._held + len(self.windows) * (2 * (self.dimension or _DIMENSION) + 1)

    def passage(self, chunk: int, score: float = 0.0) -> Passage:
        """A chunk by its number."""
        document = int(self.chunks.owner[chunk])
        start, end = int(self.chunks.start[chunk]), int(self.chunks.end[chunk])
        return Passage(document, start, end, self.texts[document][start:end], score)

    def read(self, windows: Sequence[int] | Integers) -> list[str]:
        """The texts of windows, by their numbers."""
        owners = self.chunks.owner[self.windows.owner]
        return [
            self.texts[owners[at]][self.windows.start[at] : self.windows.end[at]] for at in windows
        ]

    def unread(self, windows: Integers | None = None) -> Integers:
        """Which of these windows (None: of all) have no vector yet, ascending."""
        wanted = np.arange(len(self.windows), dtype=np.int32) if windows is None else windows
        with self._lock:
            return wanted[~self._known[wanted]]

    def learn(self, windows: Sequence[int] | Integers, vectors: Floats) -> None:
        """Keep the vectors [windows, dimension] of these windows, in half precision.

        A window that has one keeps it. ValueError if the shape does not fit.
        """
        at = np.asarray(windows, np.int32)
        if vectors.ndim != 2 or len(vectors) != len(at):
            raise ValueError(f"{vectors.shape} is no shape for the vectors of {len(at)} windows")
        with self._lock:
            if self._vectors is None:
                self._vectors = np.zeros((len(self.windows), vectors.shape[1]), np.float16)
            if vectors.shape[1] != self._vectors.shape[1]:
                was = self._vectors.shape[1]
                raise ValueError(f"vectors of {vectors.shape[1]} numbers, where others have {was}")
            new = ~self._known[at]
            self._vectors[at[new]] = vectors[new].astype(np.float16)
            self._known[at] = True

    def known(self, windows: Integers) -> Floats:
        """The vectors of these windows, [windows, dimension]. ValueError if one has none."""
        with self._lock:
            if self._vectors is None or not self._known[windows].all():
                raise ValueError("some of these windows have no vectors yet")
            return self._vectors[windows].astype(np.float32)

    def complete(self, embed: Embed, progress: Progress | None = None) -> None:
        """Embed every window that has no vector yet; `progress` is told of each few."""
        unread = self.unread()
        for begin in range(0, len(unread), _AT_ONCE):
            some = unread[begin : begin + _AT_ONCE]
            self.learn(some, embed(self.read(some)))
            if progress is not None:
                progress(len(some))

    def vectors(self) -> Halves | None:
        """A copy of all vectors [windows, dimension], to be kept; None before it is complete."""
        with self._lock:
            if self._vectors is None or not self._known.all():
                return None
            return self._vectors.copy()

    def with_vectors(self, vectors: Halves | Floats) -> Index:
        """The same index, `whole`, with these vectors of all its windows.

        ValueError if they are not as many: they were made of other texts or by another recipe.
        """
        if vectors.ndim != 2 or len(vectors) != len(self.windows):
            count = len(self.windows)
            raise ValueError(f"{vectors.shape} is no shape for the vectors of {count} windows")
        twin = object.__new__(Index)
        twin.__dict__.update(self.__dict__)
        twin.whole = True
        twin._lock = Lock()
        twin._vectors = vectors.astype(np.float16)
        twin._known = np.ones(len(self.windows), np.bool_)
        return twin


def _cut(texts: Sequence[str], counts: Sequence[int], recipe: Recipe) -> tuple[Pieces, Pieces]:
    """Chunks of all texts, and windows of all chunks."""
    chunks: list[tuple[int, int, int]] = []
    windows: list[tuple[int, int, int]] = []
    for document, (text, count) in enumerate(zip(texts, counts, strict=True)):
        length = len(text) / max(count, 1)
        longest = _characters(recipe.chunk_tokens, length)
        overlap = min(_characters(recipe.overlap_tokens, length), longest // 2)
        window = _characters(WINDOW, length)
        for start, end in spans(text, longest, overlap):
            windows += [
                (len(chunks), start + first, start + last)
                for first, last in spans(text[start:end], window)
            ]
            chunks.append((document, start, end))
    return _pieces(chunks, len(texts)), _pieces(windows, len(chunks))


def _characters(count: int, length: float) -> int:
    """Of so many tokens of this mean length; a text is never cut into less than letters."""
    return max(int(count * length), min(count, 1))


def _pieces(rows: Sequence[tuple[int, int, int]], owners: int) -> Pieces:
    table = np.array(rows, np.int32).reshape(-1, 3)
    first = np.searchsorted(table[:, 0], np.arange(owners + 1)).astype(np.int32)
    return Pieces(table[:, 0].copy(), table[:, 1].copy(), table[:, 2].copy(), first)

"""The vectors of a corpus, kept beside its texts so that they are made once and not at every start.

One file, `vectors.safetensors`: the vector of each window by the digest of the window's text, and
the fingerprint of the embedder that made them. So a document that did not change keeps its vectors
whatever becomes of the others, and those of another embedder are not mistaken for them. A file that
is missing or broken is none: vectors are made anew then. Knows indexes and files, no requests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.composition.embedder import Floats
from policies.reading.corpus import VECTORS
from policies.reading.documents import digest
from policies.reading.index import Halves, Index
from policies.reading.recipe import Recipe

__all__ = ["builder", "encoded", "recall"]

FORMAT = "1"
_BYTES = 16
"""Of a digest."""
logger = logging.getLogger(__name__)


def builder(folder: Path, fingerprint: str) -> Callable[[Sequence[str], Recipe], Index]:
    """What builds an index and gives it the vectors that a corpus's folder holds: for a `Shelf`.

    It works for any texts; what is not of the corpus has no vectors there.
    """

    def build(texts: Sequence[str], recipe: Recipe) -> Index:
        return recall(Index(texts, recipe), folder, fingerprint)

    return build


def recall(index: Index, folder: Path, fingerprint: str) -> Index:
    """An index with the vectors that the folder holds: `whole` if it has them all."""
    kept = _kept(folder / VECTORS, fingerprint)
    if kept is None or not len(index.windows):
        return index
    digests, vectors = kept
    place = {key.tobytes(): row for row, key in enumerate(digests)}
    rows = np.array([place.get(key.tobytes(), -1) for key in _digests(index)], np.int64)
    known = np.flatnonzero(rows >= 0).astype(np.int32)
    if len(known) == len(rows):
        return index.with_vectors(vectors[rows])
    if len(known):
        index.learn(known, vectors[rows[known]].astype(np.float32))
    return index


def encoded(index: Index, fingerprint: str) -> bytes:
    """The file that keeps all vectors that an index has; to be written in one rename."""
    from safetensors.numpy import save

    windows = np.arange(len(index.windows), dtype=np.int32)
    known = np.setdiff1d(windows, index.unread())
    vectors: Floats = index.known(known) if len(known) else np.zeros((0, 1), np.float32)
    arrays: dict[str, npt.NDArray[Any]] = {
        "digests": _digests(index)[known],
        "vectors": vectors.astype(np.float16),
    }
    return bytes(save(arrays, {"format": FORMAT, "embedder": fingerprint}))


def _digests(index: Index) -> npt.NDArray[np.uint8]:
    """Of the text of each window, [windows, 16]."""
    texts = index.read(range(len(index.windows)))
    joined = "".join(digest([text]) for text in texts)
    return np.frombuffer(bytes.fromhex(joined), np.uint8).reshape(-1, _BYTES)


def _kept(file: Path, fingerprint: str) -> tuple[npt.NDArray[np.uint8], Halves] | None:
    """The digests [rows, 16] and the vectors [rows, dimension] of a file, if it has any for us."""
    from safetensors import SafetensorError, safe_open

    if not file.exists():
        return None
    try:
        with safe_open(file, framework="numpy") as opened:
            told = opened.metadata() or {}
            if told.get("format") != FORMAT or told.get("embedder") != fingerprint:
                return None
            digests, vectors = opened.get_tensor("digests"), opened.get_tensor("vectors")
    except (OSError, SafetensorError) as error:
        logger.warning("%s: vectors are made anew: %s", file, error)
        return None
    fits = digests.dtype == np.uint8 and digests.ndim == 2 and digests.shape[1] == _BYTES
    if not fits or vectors.dtype != np.float16 or vectors.shape[:1] != digests.shape[:1]:
        logger.warning("%s: vectors are made anew: these do not fit", file)
        return None
    return digests, vectors

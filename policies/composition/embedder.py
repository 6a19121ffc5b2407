"""From texts to vectors of length 1: what an embedder is, and the one that ships.

Knows the files in `deploy/embedder` and onnxruntime. Must not know what the vectors are for. Every
text is a run of its own: activations are scaled by the largest of a run, so a text that shared one
would get another vector than alone, and on a core of its own a batch is hardly faster. Many texts
are spread over threads instead; both libraries let go of Python's lock while they work.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

__all__ = ["Embedder", "EmbedderError", "Floats", "LocalEmbedder", "Progress", "digest", "minilm"]

Floats: TypeAlias = npt.NDArray[np.float32]
Progress: TypeAlias = Callable[[int], object]
"""Is told of so many further texts that are done, as `tqdm.update` is."""

SHIPPED = Path(__file__).parents[2] / "deploy" / "embedder"
GRAPH, TOKENIZER, CARD = "model.onnx", "tokenizer.json", "card.json"

CHARACTERS_PER_TOKEN = 32
"""Of a text no more is read than its token limit times this: 8,192 characters. English has 4 to 5
and indented code up to 10, so only a text that is mostly blanks or unbroken lines of more than a
hundred letters is cut earlier than its tokens would."""
FEW = 8
"""Up to so many texts are embedded in the calling thread; more are spread over all cores."""
_DIGITS = 16


class EmbedderError(Exception):
    """No vectors can be had; the message says why, where, and what to do."""


class Embedder(Protocol):
    """Turns texts into vectors; the same text always into the same, whatever comes with it."""

    @property
    def name(self) -> str:
        """For people: the model and its precision."""

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits: vectors of two embedders compare if, and only if, these agree."""

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Floats:
        """Vectors [texts, dimension], float32, each of length 1. May be called from any thread."""


class LocalEmbedder:
    """A graph and a tokenizer from a folder like `deploy/embedder`."""

    def __init__(self, folder: Path) -> None:
        """Reads and checks the files (0.2 s). Raises EmbedderError."""
        try:
            card = json.loads(_read(folder, CARD))
            self.name = str(card["name"])
            self.dimension = int(card["dimension"])
            self._longest = int(card["max_tokens"]) * CHARACTERS_PER_TOKEN
        except (ValueError, KeyError, TypeError) as error:
            raise EmbedderError(_damaged(folder / CARD, error)) from error
        graph, tokenizer = _read(folder, GRAPH), _read(folder, TOKENIZER)
        self.fingerprint = digest(graph, tokenizer)
        self._session = _session(folder, graph)
        self._tokenizer = _tokenizer(folder, tokenizer)

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Floats:
        """Vectors [texts, dimension]; a text beyond 256 tokens counts as its beginning."""
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for at, vector in enumerate(self._each(texts)):
            vectors[at] = vector
            if progress is not None:
                progress(1)
        return vectors

    def tokens(self, text: str) -> npt.NDArray[np.int32]:
        """Token ids [tokens] as the model gets them: at most 256, the two that enclose included."""
        # Half a character, as a client's JSON may spell it, is no text for the tokenizer.
        read = text[: self._longest].encode("utf-8", "replace").decode()
        # A batch of one, because only a batch lets go of Python's lock.
        return np.array(self._tokenizer.encode_batch_fast([read])[0].ids, np.int32)

    def _each(self, texts: Sequence[str]) -> Iterator[Floats]:
        if len(texts) <= FEW:
            yield from map(self._one, texts)
            return
        with ThreadPoolExecutor(_cores()) as pool:
            yield from pool.map(self._one, texts)

    def _one(self, text: str) -> Floats:
        vector: Floats = self._session.run(None, {"tokens": self.tokens(text)[None]})[0][0]
        return vector


_loading = Lock()
_loaded: list[LocalEmbedder] = []


def minilm() -> LocalEmbedder:
    """The shipped embedder, all-MiniLM-L6-v2 in int8: loaded by the first call, then the same one.

    Raises EmbedderError.
    """
    with _loading:
        if not _loaded:
            _loaded.append(LocalEmbedder(SHIPPED))
        return _loaded[0]


def digest(*parts: bytes) -> str:
    """The first 16 hexadecimal digits of a SHA-256 over what an embedder is made of."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()[:_DIGITS]


def _session(folder: Path, graph: bytes) -> InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Beyond basic, additions and LayerNorm become one operator, which takes six times as long.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds have no common one below Exception
        raise EmbedderError(_damaged(folder / GRAPH, error)) from error


def _tokenizer(folder: Path, content: bytes) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_buffer(content)
    except Exception as error:  # a bare one is all that tokenizers raises
        raise EmbedderError(_damaged(folder / TOKENIZER, error)) from error


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise EmbedderError(f"{folder / name}: {error.strerror or error}; {_REMEDY}") from error


def _damaged(file: Path, error: Any) -> str:
    return f"{file} is damaged ({error}); {_REMEDY}"


_REMEDY = "restore the repository's files (git checkout), or install Tandem again"


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""What a judge remembers: its judgements, and the embeddings that they were made from.

Both are bounded in bytes and drop what was not used for longest. A judgement is kept under a hash
of the whole ask. An embedding is kept under what the embedder reads of a text, so that a prompt
that has only grown behind that costs no second one. Safe to use from many threads; knows texts and
arrays, no models.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from hashlib import blake2b
from threading import Lock
from typing import Generic, TypeVar

import numpy as np

from policies.composition.lexical import Floats

JUDGEMENTS = 4 << 20
EMBEDDINGS = 16 << 20
"""Bytes of either: 20 MB a policy, for some 7,000 judgements and 9,000 embeddings of 384 each."""
ENTRY = 256
"""Bytes of an entry beside its value: the key, and its places in a dictionary."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memory(Generic[K, V]):
    """Values by key, as many as fit `most` bytes; `size` says what one takes."""

    def __init__(self, most: int, size: Callable[[V], int]) -> None:
        self._most = most
        self._size = size
        self._held = 0
        self._known: OrderedDict[K, V] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._known)

    @property
    def held(self) -> int:
        """Bytes that the values and their places take, about."""
        return self._held

    def get(self, key: K) -> V | None:
        """The value of this key, if it is still remembered."""
        with self._lock:
            if (known := self._known.get(key)) is not None:
                self._known.move_to_end(key)
            return known

    def put(self, key: K, value: V) -> None:
        """Remember it."""
        with self._lock:
            if (former := self._known.pop(key, None)) is not None:
                self._held -= self._size(former) + ENTRY
            self._known[key] = value
            self._held += self._size(value) + ENTRY
            while self._held > self._most:
                _, dropped = self._known.popitem(last=False)
                self._held -= self._size(dropped) + ENTRY


class Vectors:
    """Embeddings of texts by what is read of them: `read` gives that, a text itself or its tokens.

    Two texts of which the same is read are one.
    """

    def __init__(self, read: Callable[[str], bytes], most: int = EMBEDDINGS) -> None:
        self._read = read
        self._memory: Memory[bytes, Floats] = Memory(most, lambda vector: vector.nbytes)

    def known(self, text: str) -> Floats | None:
        """The vector of this text, [dimension], if it is still remembered."""
        return self._memory.get(self._key(text))

    def learn(self, texts: Sequence[str], vectors: Floats) -> None:
        """Remember the vectors [texts, dimension] of these texts."""
        for text, vector in zip(texts, vectors, strict=True):
            self._memory.put(self._key(text), vector.copy())

    def of(self, texts: Sequence[str], embed: Callable[[Sequence[str]], Floats]) -> Floats:
        """The vectors of all texts, [texts, dimension]; only what is new is embedded."""
        keys = [self._key(text) for text in texts]
        found = {key: vector for key in keys if (vector := self._memory.get(key)) is not None}
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if new:
            for key, vector in zip(new, embed([*new.values()]), strict=True):
                found[key] = vector.copy()
                self._memory.put(key, found[key])
        return np.stack([found[key] for key in keys])

    def _key(self, text: str) -> bytes:
        return digest(self._read(text))


def digest(content: bytes) -> bytes:
    """16 bytes that stand for it."""
    return blake2b(content, digest_size=16).digest()


def spelled(text: str) -> bytes:
    """The text itself, for an embedder of which nobody knows where it stops reading."""
    return text.encode("utf-8", "surrogatepass")

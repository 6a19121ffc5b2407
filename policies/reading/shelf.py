"""Indexes kept between requests, under a budget of bytes: the second question costs no indexing.

Knows digests, recipes and bytes, nothing of asks. Safe to use from many threads; two that want one
index build it once. `shared` gives policies that are alike one shelf, so that one that is built
anew when the configuration is swapped finds the indexes of the one before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import TypeAlias
from weakref import WeakValueDictionary

from policies.reading.documents import digest
from policies.reading.index import Embed, Index, TooLarge
from policies.reading.preparing import Preparing
from policies.reading.recipe import Recipe

__all__ = ["MEGABYTES", "Shelf", "shared"]

MEGABYTES = 256
"""The budget by default, for some fifty documents of 128k tokens."""

REFUSED = 64
"""Refusals that are remembered."""
Key: TypeAlias = tuple[str, int, int]
Build: TypeAlias = Callable[[Sequence[str], Recipe], Index]


class Shelf:
    """Indexes by what the texts are and how they were cut; the one not used for longest goes first.

    Vectors of two embedders do not compare, so each embedder has a shelf of its own.
    """

    def __init__(self, megabytes: float = MEGABYTES, build: Build = Index) -> None:
        """`megabytes` of 1,000,000 bytes; an index that is larger is built, used and not kept."""
        self.most = int(megabytes * 1e6)
        self.hits = 0
        """How often an index was there already, or being built."""
        self.misses = 0
        """How often one was built."""
        self._build = build
        self._kept: OrderedDict[Key, Index] = OrderedDict()
        self._building: dict[Key, Future[Index]] = {}
        self._refused: OrderedDict[Key, str] = OrderedDict()
        """What was too large lately: to find that out again takes a second."""
        self._lock = Lock()
        self._preparing = Preparing()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def held(self) -> int:
        """Bytes that the kept indexes take, about, the vectors to come included."""
        with self._lock:
            return self._held()

    def index(self, texts: Sequence[str], recipe: Recipe) -> Index:
        """The index of these texts, built if it is not there. Raises TooLarge, EmbedderError."""
        key = (digest(texts), recipe.chunk_tokens, recipe.overlap_tokens)
        with self._lock:
            if (refused := self._refused.get(key)) is not None:
                raise TooLarge(refused)
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                self.hits += 1
                self._trim()
                return kept
            if (building := self._building.get(key)) is not None:
                self.hits += 1
            else:
                mine = self._building[key] = Future()
                self.misses += 1
        if building is not None:
            return building.result()
        return self._built(key, mine, texts, recipe)

    def prepare(self, index: Index, embed: Embed) -> None:
        """Embed the index's other windows in the background, for as long as somebody holds it."""
        self._preparing.add(index, embed)

    def settle(self, seconds: float | None = None) -> bool:
        """Wait until nothing is left to prepare; False if that takes longer than `seconds`."""
        return self._preparing.settle(seconds)

    def _built(self, key: Key, mine: Future[Index], texts: Sequence[str], recipe: Recipe) -> Index:
        try:
            index = self._build(texts, recipe)
        except BaseException as error:
            with self._lock:
                del self._building[key]
                if isinstance(error, TooLarge):
                    self._refused[key] = str(error)
                    if len(self._refused) > REFUSED:
                        self._refused.popitem(last=False)
            mine.set_exception(error)
            raise
        with self._lock:
            del self._building[key]
            self._kept[key] = index
            self._trim()
        mine.set_result(index)
        return index

    def _held(self) -> int:
        return sum(index.nbytes for index in self._kept.values())

    def _trim(self) -> None:
        """Let go of what is beyond the budget: what is too large for it, then the oldest."""
        for key in [key for key, index in self._kept.items() if index.nbytes > self.most]:
            del self._kept[key]
        while self._held() > self.most:
            self._kept.popitem(last=False)


_lock = Lock()
_shelves: WeakValueDictionary[tuple[float, str], Shelf] = WeakValueDictionary()


def shared(megabytes: float, embedder: str) -> Shelf:
    """The one shelf of this budget for this embedder (its fingerprint, or a backend's name).

    It lives as long as somebody holds it.
    """
    with _lock:
        key = (megabytes, embedder)
        shelf = _shelves.get(key)
        if shelf is None:
            shelf = _shelves[key] = Shelf(megabytes)
        return shelf

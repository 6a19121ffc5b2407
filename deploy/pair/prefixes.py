"""KV caches kept after their request, for the next one that begins alike.

A chat's second turn repeats the first, and a model that takes over an answer, stops and takes over
again repeats all it had before: that is fed once. Knows caches and token prefixes. Must not know
why a request begins as it does. The rule: what is reused is only ever an exact common prefix of
token ids, and the prompt's last token is always fed anew, because its logits are needed.
"""

from __future__ import annotations

from collections.abc import Sequence

from deploy.pair.graph import Graph, KVCache

# Kept caches may hold this much memory in all; the least recently used goes first.
_KEPT_BYTES = 32 * 2**20


class PrefixPool:
    """Idle caches, least recently used first."""

    def __init__(self, graph: Graph, kept_bytes: int = _KEPT_BYTES) -> None:
        self._graph = graph
        self._kept_bytes = kept_bytes
        self._idle: list[KVCache] = []

    @property
    def bytes(self) -> int:
        """Memory of all that are kept."""
        return sum(each.bytes for each in self._idle)

    def take(
        self, prompt: Sequence[int], room: int, reuse: bool = True, salt: str | None = None
    ) -> KVCache:
        """A cache with `room` for that many tokens, holding as much of `prompt` as is known.

        A kept cache is used where it saves at least half of the prompt: it loses what it held
        beyond the common prefix, and a first turn should not cost another chat its whole history.
        Of equally good ones the shortest goes, because it loses least. One that was filled under
        another `salt` is not looked at: nobody can tell by the time what others have asked.
        """
        kept = [cache for cache in self._idle if cache.salt == salt]
        fitting = [cache for cache in kept if reuse and cache.capacity >= room]
        shared = {cache: common_prefix(cache.tokens, prompt) for cache in fitting}
        best = max(fitting, key=lambda cache: (shared[cache], -len(cache.tokens)), default=None)
        if best is None or 2 * shared[best] < len(prompt):
            fresh = self._graph.cache(room)
            fresh.salt = salt
            return fresh
        self._idle.remove(best)
        best.rewind(min(shared[best], len(prompt) - 1))
        return best

    def give_back(self, cache: KVCache) -> None:
        """Keep a cache for later, at the cost of older ones."""
        self._idle.append(cache)
        while self.bytes > self._kept_bytes:
            self._idle.pop(0)

    def clear(self) -> None:
        """Keep none."""
        self._idle.clear()


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many leading ids are the same."""
    pairs = zip(left, right, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))

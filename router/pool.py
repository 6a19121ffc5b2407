"""A pool: the backends of one model, and which of them gets the next call.

Filter, score, pick, over what is known right now: drop backends that are unhealthy, shut off by
their breaker or already tried; take two at random, and the one that holds the longest prefix of
this prompt if that is a third; send to the cheapest. Choosing between two spreads load nearly as
well as looking at all and does not let every caller run to the same idle one (Mitzenmacher 2001).
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from zlib import crc32

from router.backend import Backend, Clock
from router.breaker import BreakerSettings
from router.fleet import Abilities, ModelView
from router.line import HIGH, LOW, Bounds, Line
from router.sections import BreakerConfig, ModelConfig
from router.steps import Surface

BLOCK = 512
"""Bytes per block of remembered prefix: about 128 tokens, eight of vLLM's 16-token blocks."""
MOST_BLOCKS = 32
"""Blocks looked at per prompt (16 KiB): beyond that, two prompts agree for good or differ."""
REMEMBERED = 20_000
"""Prefix blocks remembered per pool (about 3 MB)."""
MOST_NEWS = 200
"""Prefixes told to other processes at once: those of a second of a busy one."""
HELD = 0.4
"""Factor on the score of a backend that holds the whole prefix: worth about 1.5 more in flight."""
UNKNOWN = Abilities()
"""Of a pool that nobody has probed yet."""
UNKNOWN_LATENCY = 0.001
"""Seconds assumed before the first answer: small, so that a new backend is tried soon."""


def seen_by(salt: str, prompt: bytes) -> bytes:
    """What is remembered of a prompt: nothing that a request with another salt would match."""
    return salt.encode() + prompt[: MOST_BLOCKS * BLOCK] if salt else prompt


def prefix_blocks(prompt: bytes) -> list[int]:
    """Chained checksums of the prompt's leading blocks: equal lists mean equal prefixes.

    They are alike in all processes. Two prefixes in four billion that share one cost a detour.
    """
    chain, blocks = 0, []
    for start in range(0, min(len(prompt), MOST_BLOCKS * BLOCK) - BLOCK + 1, BLOCK):
        chain = crc32(prompt[start : start + BLOCK], chain)
        blocks.append(chain)
    return blocks


class PrefixMemory:
    """Which backend last saw which prefix; the least recently seen is forgotten first.

    `news` are the longest prefixes that another backend than before has seen since somebody last
    took them, at most `MOST_NEWS`: what other processes should know.
    """

    def __init__(self) -> None:
        self.news: deque[tuple[int, Backend]] = deque(maxlen=MOST_NEWS)
        self._last: OrderedDict[int, Backend] = OrderedDict()

    def longest(self, blocks: Sequence[int]) -> tuple[Backend | None, float]:
        """The backend that holds the longest prefix, and what share of these blocks that is."""
        for count in range(len(blocks), 0, -1):
            if backend := self._last.get(blocks[count - 1]):
                return backend, count / len(blocks)
        return None, 0.0

    def learn(self, blocks: Sequence[int], backend: Backend) -> None:
        """`backend` is about to read this prompt."""
        if blocks and self._last.get(blocks[-1]) is not backend:
            self.news.append((blocks[-1], backend))
        self.hear(blocks, backend)

    def hear(self, blocks: Sequence[int], backend: Backend) -> None:
        """`backend` holds these prefixes, as another process says."""
        for block in blocks:
            self._last[block] = backend
            self._last.move_to_end(block)
        while len(self._last) > REMEMBERED:
            self._last.popitem(last=False)

    def forget(self, backend: Backend) -> None:
        """`backend` has lost all that it held."""
        for block in [block for block, holder in self._last.items() if holder is backend]:
            del self._last[block]


class Pool:
    """The backends of one model. Backends that an earlier pool had keep their live state.

    `credentials` are the headers by which its backends know the gateway: a secret.
    """

    def __init__(
        self,
        name: str,
        settings: ModelConfig,
        breaker: BreakerConfig,
        previous: Pool | None = None,
        clock: Clock = time.monotonic,
        *,
        key: str | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.price = settings.charge
        self.idealised = settings.alone
        before: tuple[Backend, ...] = previous.backends if previous else ()
        known = {backend.url: backend for backend in before}
        rules = BreakerSettings(breaker.failures, breaker.wait, breaker.longest)
        self.backends: tuple[Backend, ...] = tuple(
            known.get(url) or Backend(url, rules, clock) for url in settings.backends
        )
        self.line: Line = previous.line if previous else Line(clock)
        self._prefixes = PrefixMemory()
        self.credentials: Mapping[str, str] = {"authorization": f"Bearer {key}"} if key else {}

    def candidates(self, avoid: frozenset[str] = frozenset()) -> list[Backend]:
        """The backends that may get a call now."""
        return [b for b in self.backends if b.name not in avoid and b.ready]

    def serves(self, surface: Surface) -> bool:
        """Whether its backends have this API, as far as that is known."""
        known = self.settings.surfaces or self.abilities.surfaces
        return known is None or surface in known

    def pick(
        self, prompt: bytes, avoid: frozenset[str], rng: random.Random, prefer: str = ""
    ) -> Backend | None:
        """The backend for a call with this prompt, or None if there is none to be had.

        The one named by `prefer` is taken if it can be: it holds what the caller goes on with. One
        that sleeps is taken if waking it is quicker than waiting for those that are awake.
        """
        candidates = self.candidates(avoid)
        if len(self.backends) == 1 or not candidates:
            return candidates[0] if candidates else None
        awake = [b for b in candidates if b.awake]
        if prefer and (preferred := next((b for b in awake if b.name == prefer), None)):
            return preferred
        if self.settings.queue and (free := self._free(candidates)):
            candidates, awake = free, [b for b in free if b.awake]
        blocks = prefix_blocks(prompt)
        holder, share = self._prefixes.longest(blocks)
        two = rng.sample(awake, min(len(awake), 2))  # in random order: no favourite
        if holder in awake and holder not in two:
            two = [*two, holder]
        if len(awake) < len(candidates):
            two.append(min((b for b in candidates if not b.awake), key=lambda b: score(b, 0.0)))
        chosen = min(two, key=lambda b: score(b, share if b is holder else 0.0))
        self._prefixes.learn(blocks, chosen)
        return chosen

    def _free(self, candidates: Sequence[Backend]) -> list[Backend]:
        """Those that have a place to give: there may be none for an answer that goes on anyway."""
        assert self.settings.queue
        most = max(self.settings.queue.in_flight * self.line.share, 1.0)
        return [backend for backend in candidates if backend.in_flight + 1 <= most]

    def has_place(self, taken: int, share: float) -> bool:
        """Whether its line has a place to give beside those taken. Whether any server is up for
        the first server's worth of them is found out when a backend is picked.
        """
        queue = self.settings.queue
        assert queue
        return taken + 1 <= queue.in_flight * share or taken < self.bounds(share).places

    def bounds(self, share: float) -> Bounds:
        """The bounds of its line, of which this process has such a share: a place at least."""
        queue = self.settings.queue
        assert queue, "only a pool with a limit sends anybody to the line"
        ready = sum(backend.ready for backend in self.backends)
        places = max(int(queue.in_flight * ready * share), 1) if ready else 0
        return Bounds(places, queue.waiting, queue.longest, queue.floor)

    @property
    def prefixes(self) -> PrefixMemory:
        """Which of its backends holds what."""
        return self._prefixes

    def view(self) -> ModelView:
        """This pool as policies see it: what all its backends can do."""
        return ModelView(
            name=self.name,
            params_b=self.settings.params_b,
            context=self.settings.context or self.abilities.context,
            price=self.price,
            abilities=self.abilities,
            healthy=len(self.candidates()),
            in_flight=sum(backend.in_flight for backend in self.backends),
            wake=min((backend.rest.expected for backend in self.candidates()), default=0.0),
            queue=self.line.expected(HIGH) if self.settings.queue else 0.0,
            queue_low=self.line.expected(LOW) if self.settings.queue else 0.0,
        )

    @property
    def waiting(self) -> int:
        """Calls that wait for one of its servers to wake."""
        return sum(len(backend.rest.line) for backend in self.backends)

    def queued(self, *, low: bool) -> int:
        """Requests that wait for a place; answers that are under way count as high."""
        return self.line.waiting(LOW) if low else self.line.waiting() - self.line.waiting(LOW)

    @property
    def full(self) -> bool:
        """Whether no further call may wait for a server to wake."""
        return self.settings.sleep is not None and self.waiting >= self.settings.sleep.queue

    def forget(self, backend: Backend) -> None:
        """`backend` sleeps: its prefix cache is gone."""
        self._prefixes.forget(backend)

    @property
    def abilities(self) -> Abilities:
        """Those of the first backend that has been probed: a pool's backends serve one model."""
        for backend in self.backends:
            if backend.probed:
                return backend.abilities
        return UNKNOWN


def score(backend: Backend, held: float) -> float:
    """Expected wait, in rough seconds: lower is better. `held` is the share of the prefix."""
    latency = max(backend.expected, UNKNOWN_LATENCY)
    ahead = backend.in_flight + len(backend.rest.line)
    return backend.rest.expected + latency * (ahead + 1) * (1 - (1 - HELD) * held)

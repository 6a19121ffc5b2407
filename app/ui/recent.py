"""The last decisions: a listener that keeps what an operator wants to see of each request.

Bounded, in memory, and without prompts: there are none in an observation. The message of a fault
that is the client's is left out, as in the log: it may be a backend's words that quote the request.
Keeping one costs 1-2 us (`python -m tests.bench.listeners`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from router.cost import saved
from router.faults import Blame
from router.observe import Observation, RequestEnded

__all__ = ["KEPT", "TOLD", "Decision", "Recent"]

KEPT = 200
"""Requests: as many as anybody scrolls through; the log has them all."""
TOLD = 10
"""Of these, how many a process tells the others in one exchange: a sample, where it is busy."""


@dataclass(slots=True)
class Decision:
    """One request that is over. `when` is in seconds since 1970, other times in seconds, costs in
    USD. `said` are the reasons of all who had a hand in it; `written` counts tokens by model. Not
    frozen, since one is made for every request; nobody changes it.
    """

    when: float
    id: str
    policy: str
    revision: int
    key: str | None
    stream: bool
    status: int
    fault: Blame | None
    message: str
    reason: str
    said: tuple[str, ...]
    written: Mapping[str, int]
    attempts: int
    prompt: int
    cost: float
    baseline: float
    seconds: float
    first: float | None

    @property
    def tokens(self) -> int:
        """Tokens of the answer."""
        return sum(self.written.values())

    @property
    def saved(self) -> float:
        """The part of the baseline that was not spent; negative if more was."""
        return saved(self.cost, self.baseline)


class Recent:
    """Keeps the last `KEPT` decisions. `now` is seconds since 1970.

    `news` are those of this process that nobody has told the others yet, at most `TOLD`.
    """

    def __init__(self, now: Callable[[], float] = time.time, kept: int = KEPT) -> None:
        self.news: deque[Decision] = deque(maxlen=TOLD)
        self._now = now
        self._kept: deque[Decision] = deque(maxlen=kept)

    def __call__(self, observation: Observation) -> None:
        """Keep what became of a request; anything else is not for us."""
        if isinstance(observation, RequestEnded):
            decision = _decision(observation, self._now())
            self._kept.append(decision)
            self.news.append(decision)

    def hear(self, decision: Decision) -> None:
        """Keep one of another process."""
        self._kept.append(decision)

    async def decisions(self) -> Sequence[Decision]:
        """Those that are kept, newest first."""
        return sorted(self._kept, key=lambda decision: decision.when, reverse=True)


def _decision(ended: RequestEnded, now: float) -> Decision:
    return Decision(
        when=now,
        id=ended.id,
        policy=ended.policy,
        revision=ended.revision,
        key=ended.key,
        stream=ended.stream,
        status=ended.status,
        fault=ended.blame,
        message="" if ended.blame is Blame.CLIENT else ended.message,
        reason=ended.reason,
        said=ended.said,
        written=ended.completion_by_model,
        attempts=len(ended.attempts),
        prompt=ended.delivered.prompt,
        cost=ended.cost,
        baseline=ended.baseline,
        seconds=ended.seconds,
        first=ended.first_byte if ended.stream else None,
    )

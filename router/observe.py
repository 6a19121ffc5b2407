"""Observations: facts about what happened, for whoever listens (metrics, log, training data).

The core emits them and does not know who hears. A listener must be quick and must not raise; one
that raises is dropped from that observation and reported on stderr, and the answer goes on.
Nothing in an observation is a secret or a prompt: keys appear by their configured name only.
Listeners must not change what they are handed; the two that are made for every request are not
frozen, since that would triple what making them costs.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from router.faults import Blame
from router.idealised import Ideal
from router.steps import Surface, Usage
from router.trace import Trace

NOTHING = Usage()


@dataclass(slots=True)
class AttemptEnded:
    """One call to one backend is over. Times in seconds; `blame` is None if it went well.

    `first_byte` counts from sending the call to the first piece of its answer. `answer` says
    whether the client got it (False: a draft, a grade, a hedge that lost). `usage` is None if
    nothing is known, and `estimated` if the backend did not say because the answer was cut short:
    then it is a count of the pieces that came, and of the prompt's bytes. `cost` is in USD, at the
    prices of the request's own revision. `emitted` counts the tokens that a policy passed on
    one by one, None if it did not. Of its prompt's tokens the request had paid for `held` before: a
    continuation finds them in the backend's prefix cache. `choices` are the answers that were asked
    for. `ideal` is what it takes alone (`router.idealised`), None where that is not known. It
    `began` so long after its request; `span` is its own in the request's trace, 0 if it has none.
    """

    model: str
    backend: str
    blame: Blame | None
    seconds: float
    first_byte: float | None
    usage: Usage | None
    answer: bool
    cost: float = 0.0
    estimated: bool = False
    emitted: int | None = None
    held: int = 0
    choices: int = 1
    ideal: Ideal | None = None
    surface: Surface = Surface.CHAT
    began: float = 0.0
    span: int = 0

    @property
    def written(self) -> int:
        """Tokens of it that the client got: fewer than it used where a gate stopped it."""
        if self.emitted is not None:
            return self.emitted
        return self.usage.completion if self.answer and self.usage else 0

    @property
    def charged(self) -> Usage:
        """What it used and was not paid for before."""
        known = self.usage or Usage()
        return Usage(max(known.prompt - self.held, 0), known.completion, known.cached)


@dataclass(slots=True)
class Queued:
    """A wait for a place with `model`, in seconds; `shed` says why none came of it: `full` or
    `slow` at once, `timeout` in the end. Empty if one did.
    """

    model: str
    low: bool
    seconds: float
    shed: str = ""


@dataclass(slots=True)
class RequestEnded:
    """One request is over, however it ended. Times in seconds since its first byte arrived.

    `policy` is the configured target's name (a policy or a model). `said` are the reasons, with
    their details, of all who had a hand in the answer; that of who was asked first comes first.
    `gaps` are the times between pieces of a streamed answer. `upstream` is the time during which
    the gateway did nothing but wait for backends or for the client to read; `seconds - upstream` is
    the gateway's own share. `delivered` counts the tokens of the answer, its prompt once;
    `baseline` is what they would have cost on the baseline model alone. Costs in USD. `ideal` is
    what all attempts take, each alone and one after the other; None where it is not known of one.
    `queued` are its waits for a place, as far as it had to wait. `trace` is None where nothing is
    traced.
    """

    id: str
    surface: Surface
    policy: str
    revision: int
    key: str | None
    stream: bool
    status: int
    blame: Blame | None
    message: str
    reason: str
    detail: str
    attempts: tuple[AttemptEnded, ...]
    first_byte: float | None
    seconds: float
    upstream: float
    gaps: tuple[float, ...]
    cost: float
    baseline: float
    delivered: Usage = NOTHING
    ideal: Ideal | None = None
    said: tuple[str, ...] = ()
    trace: Trace | None = None
    queued: tuple[Queued, ...] = ()

    @property
    def completion_by_model(self) -> dict[str, int]:
        """Completion tokens that the client got, by the model that wrote them."""
        tokens: dict[str, int] = {}
        for attempt in self.attempts:
            if attempt.written:
                tokens[attempt.model] = tokens.get(attempt.model, 0) + attempt.written
        return tokens


@dataclass(frozen=True, slots=True)
class Refused:
    """A request ended before any policy saw it: bad body, unknown model, key refused."""

    surface: str
    status: int
    blame: Blame
    code: str | None
    key: str | None


@dataclass(frozen=True, slots=True)
class RevisionActivated:
    """Another revision serves now."""

    number: int
    etag: str


@dataclass(frozen=True, slots=True)
class BackendChanged:
    """A backend's health or breaker changed; `state` is one of `healthy`, `unhealthy`, `open`."""

    model: str
    backend: str
    state: str
    why: str


@dataclass(frozen=True, slots=True)
class Shadowed:
    """What the shadow would have done with a request that `policy` served.

    `arm` and `shadow_arm` say where the two send it. Costs are in USD: what was spent, and what the
    same tokens cost on the shadow's arm; both are None where the second is not known. Scores, 0 to
    1, are those that one of the two policies expects of both arms; None if neither does.
    """

    id: str
    policy: str
    shadow: str
    arm: str
    shadow_arm: str
    cost: float | None = None
    shadow_cost: float | None = None
    score: float | None = None
    shadow_score: float | None = None

    @property
    def agreed(self) -> bool:
        """Whether both send it to the same place."""
        return self.arm == self.shadow_arm


@dataclass(frozen=True, slots=True)
class ShadowFailed:
    """A comparison that was not made: `why` is `error` (a policy raised) or `dropped` (no room)."""

    id: str
    policy: str
    shadow: str
    why: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of lines for the log of decisions.

    `kind` is `decision` or `feedback`, `outcome` one of `logged`, `dropped` (no room), `failed` (a
    policy raised, or the disk did).
    """

    kind: str
    outcome: str
    number: int = 1


@dataclass(frozen=True, slots=True)
class SleepChanged:
    """A server was woken or put to sleep, or would not be. `change` is one of `woken`, `slept`,
    `wake_failed`, `sleep_failed`; it took so many seconds.
    """

    model: str
    backend: str
    change: str
    seconds: float
    why: str = ""


Observation: TypeAlias = (
    AttemptEnded
    | RequestEnded
    | Refused
    | RevisionActivated
    | BackendChanged
    | Shadowed
    | ShadowFailed
    | Kept
    | SleepChanged
)
Listener: TypeAlias = Callable[[Observation], None]


class Observers:
    """Hands each observation to every listener, in order."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def __call__(self, observation: Observation) -> None:
        """Tell everyone."""
        for listener in self._listeners:
            try:
                listener(observation)
            except Exception:  # noqa: BLE001  # a listener's mistake must not reach an answer
                traceback.print_exc(file=sys.stderr)

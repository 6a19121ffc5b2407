"""The vocabulary: what a policy may ask (steps) and what it hears (events). Start reading here.

A policy is a plain generator. It yields steps, hears replies, and returns how it ended; it does no
I/O, has no clock and knows no HTTP. `router.engine` performs the steps; a test or an offline replay
can perform them just as well, which is why the same object serves traffic and is scored on a log.

Ten words, one meaning each:

    Model        what a client can name, and what a pool of backends serves
    Backend      one endpoint that serves a model
    Fleet        a frozen picture of all models and their backends (`router.fleet`)
    Request      the parsed call plus its raw body
    Attempt      one call to one backend
    Step         what a policy asks
    Event        what a policy hears
    Observation  a fact for listeners: metrics, log, training data (`router.observe`)
    Policy       the generator and its settings
    Runtime      config, policies and artifacts, swapped as one (`router.runtime`)

This file must stay free of behaviour: values only, so that it can be read in one sitting. What can
be asked of a model beside an answer stands in `router.questions`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Protocol,
    TypeAlias,
    runtime_checkable,
)

from router.faults import Blame, Fault
from router.questions import (
    Embed,
    Parse,
    Parsed,
    Render,
    Score,
    ScoreApi,
    Scorer,
    Scores,
    Spell,
    Vectors,
)
from router.request import Request, Surface, Usage

if TYPE_CHECKING:
    from router.fleet import Fleet

__all__ = [
    "Alternative", "Attempt", "Begin", "Blame", "Close", "Compute", "Delta", "Draft", "Embed",
    "Emit", "Ended", "Event", "Failed", "Fault", "Finished", "ModelName", "Next", "Note", "Open",
    "Parse", "Parsed", "Particular", "Policy", "Relay", "Render", "Request", "Route", "Score",
    "ScoreApi", "Scorer", "Scores", "Spell", "Step", "Steps", "Surface", "TargetName", "TimedOut",
    "Token", "Usage", "UNCHANGED", "Vectors",
]  # fmt: skip

ModelName = Annotated[str, "model"]
"""A policy field that names a model of the config; a dangling one is refused when it is built."""

TargetName = Annotated[str, "target"]
"""A policy field that names a model or another policy; dangling and cyclic ones are refused."""

UNCHANGED: Mapping[str, Any] = MappingProxyType({})
"""No change to the request's body: the client's own bytes travel, except for the model's name."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A handle on one call to one backend. `backend` is empty if no backend could be picked."""

    number: int
    model: str
    backend: str


@dataclass(frozen=True, slots=True)
class Open:
    """Pick a backend of `model` and prepare the call. Reply: `Attempt`, always.

    The call goes out with the first step that waits for it (`Next` or `Relay`), and what fails is
    heard there. `changes` sets top-level fields of the body; `avoid` names backends already tried.
    `share` is the part of the remaining time that the call may be silent for, as in `Route`.
    `prefer` names the backend to take if it may be taken at all: the one whose prefix cache holds
    the first `held` tokens of the prompt, which are not charged to this request again. Where the
    model has a limit it may have to wait for a place; unless it `waits`, it fails instead.
    """

    model: str
    request: Request
    changes: Mapping[str, Any] = field(default_factory=lambda: UNCHANGED)
    avoid: frozenset[str] = frozenset()
    share: float = 1.0
    prefer: str = ""
    held: int = 0
    waits: bool = True


@dataclass(frozen=True, slots=True)
class Next:
    """Wait for the first event of any of these attempts. Reply: `Event`.

    With a `timeout` (seconds) the reply may be `TimedOut`; the attempts run on regardless. Waiting
    on several attempts starts all of them.
    """

    attempts: tuple[Attempt, ...]
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Relay:
    """Pass this attempt's whole answer to the client, from its first byte. Reply: `Ended`.

    The fast path: bytes go through without waking the policy and without parsing tokens. What
    `Next` has heard of the attempt before is passed on too. From the first byte on, the answer is
    committed: a later failure ends it with an honest error and is never restarted elsewhere.

    `choice` is the only one of the attempt's several to be passed on, as if no other had been
    asked for; the attempt must have been heard to its end. The usage that the client is told counts
    them all, with those of the attempts `beside`, and the prompt once.
    """

    attempt: Attempt
    choice: int | None = None
    beside: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True)
class Emit:
    """Write `text` into the client's answer, in the name of the attempt's model. Reply: None.

    `tokens` are those that the text is made of, for log-probabilities and for who wrote what; a
    token whose character is not complete yet may come with no text. `finish` ends the choice. The
    attempt may have been closed or have broken since it was heard.
    `message` is a whole message in place of text: what `Parse` has found in it. The usage that the
    client is told counts everything that the attempts `beside` have generated, too.
    """

    attempt: Attempt
    text: str
    tokens: tuple[Token, ...] = ()
    choice: int = 0
    finish: Finished | None = None
    message: Mapping[str, Any] | None = None
    beside: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True)
class Close:
    """Cancel this attempt and release its backend. Reply: None. Closing twice is harmless."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Compute:
    """Run CPU work of more than about 1 ms off the event loop. Reply: what it returns."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """Hand the request to another policy or model. Reply: how that ended.

    `share` is the part of the remaining time that it may use up before its first byte, so that one
    silent backend does not eat the time of those that could still answer.
    """

    target: str
    request: Request
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Begin:
    """The steps of another policy or model, for this policy to perform. Reply: `Steps`.

    What they would give the client is this policy's to keep or to give; it must close them.
    `router.overheard` is the phrase for it.
    """

    target: str
    request: Request


@dataclass(frozen=True, slots=True)
class Note:
    """Say why: `reason` is one of the policy's `reasons`, `detail` is for people. Reply: None.

    `expected` is the score from 0 to 1 that the policy expects of each target's answer, if it has
    an idea of it; `cited` the passages that the answer is made from, as a client is shown them;
    `sent` the share of the client's prompt that the model is given. None leaves both as they are.
    """

    reason: str
    detail: str = ""
    expected: Mapping[str, float] = field(default_factory=lambda: UNCHANGED)
    cited: tuple[Mapping[str, Any], ...] | None = None
    sent: float | None = None


Step: TypeAlias = (
    Open | Next | Relay | Emit | Close | Compute | Render | Spell | Parse | Embed | Score | Route
    | Begin | Note
)  # fmt: skip


# ------------------------------------------------------------------------------------ the events


@dataclass(frozen=True, slots=True)
class Alternative:
    """One of the top-k tokens at a position, with its natural-log probability."""

    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Token:
    """A token of an answer. `logprob` is natural; it and `top` are there only if asked for."""

    text: str
    id: int | None = None
    logprob: float | None = None
    top: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """More text. `tokens` is empty unless log-probabilities were asked for; `choice` is `n`'s."""

    attempt: Attempt
    text: str
    tokens: tuple[Token, ...] = ()
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The attempt's answer is complete. `reason` is OpenAI's finish_reason of the first choice,
    `reasons` those of all choices in their order; empty where there is only one.
    """

    attempt: Attempt
    reason: str | None = None
    stop_reason: int | str | None = None
    usage: Usage | None = None
    reasons: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt broke. `sent`: part of its answer is already with the client.

    `spare`: the pool has another backend that may be tried, and the retry budget allows it.
    """

    attempt: Attempt
    fault: Fault
    sent: bool = False
    spare: bool = False


@dataclass(frozen=True, slots=True)
class TimedOut:
    """`Next` heard nothing in time; its attempts are still running."""


Event: TypeAlias = Delta | Finished | Failed | TimedOut
Ended: TypeAlias = Finished | Failed
Steps: TypeAlias = Generator[Step, Any, Ended]


@dataclass(frozen=True, slots=True)
class Draft:
    """A whole answer that the client has not seen: one choice's, with how that finished.

    Where a policy wrote it piece by piece, these are `emits`, and `attempt` is the first writer.
    `opened` are all attempts that a policy has opened on its way to this draft.
    """

    attempt: Attempt
    text: str
    tokens: tuple[Token, ...]
    finished: Finished
    choice: int = 0
    emits: tuple[Emit, ...] = ()
    opened: tuple[Attempt, ...] = ()


class Policy(Protocol):
    """A frozen dataclass whose fields are its settings, and one generator method.

    The fields are the schema of the YAML block, the documentation and the repr; `ModelName` and
    `TargetName` mark the fields that refer to something. `reasons` is the closed set of words that
    it may `Note`: they become label values of a metric.
    """

    reasons: ClassVar[tuple[str, ...]]

    def route(self, request: Request, fleet: Fleet) -> Steps:
        """Answer `request`. Must end with the outcome of what the client was given."""
        ...


@runtime_checkable
class Particular(Protocol):
    """A policy that not every model will do for."""

    def misfit(self, fleet: Fleet) -> str | None:
        """Why it cannot work with these models, as far as they are known; None if it can.

        Asked when a config is checked and when the backends have been probed at start; what comes
        to light later must be dealt with in `route`.
        """
        ...

"""What the admin API answers, as types: they are its OpenAPI schema and its documentation.

Each is made from the router's own values by a function beside it. No secret can get in: the
configuration holds none, and nothing here reads the environment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.state.member import Sign
from router.backend import Backend
from router.decode import Problem
from router.rest import Rest
from router.revisions import Revision
from router.runtime import Runtime


class View(BaseModel):
    """An answer, or a part of one."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class ProblemView(View):
    """One thing that is wrong with a document."""

    path: str
    """The setting: `policies.canary.targets.1`. Empty if it is the document as a whole."""
    reason: str
    """What is wrong with it, and where known what would be right."""
    line: int | None = None
    """The line of a YAML document, counted from 1."""


class ErrorBody(View):
    """Why a request was refused."""

    message: str
    code: str
    """One word for programs, such as `invalid_config` or `stale`."""
    problems: list[ProblemView] = Field(default_factory=list)
    """Everything that is wrong with the document, if that is why."""


class ErrorView(View):
    """Every answer of this API that is not a success."""

    error: ErrorBody


class CheckView(View):
    """The verdict on a document that was checked and not swapped in."""

    ok: bool
    etag: str | None = None
    """What its ETag would be."""
    problems: list[ProblemView] = Field(default_factory=list)


class RevisionView(View):
    """One configuration that served, or serves."""

    number: int
    etag: str
    when: datetime
    what: str
    """How it came: `started from gateway.yaml`, `PUT policies/auto`, `rolled back to 3`."""
    who: str
    """On whose word; empty for a start."""
    active: bool


class RevisionDetail(RevisionView):
    """A revision with its document."""

    config: dict[str, Any]


class MemberView(View):
    """One of the processes that act as one."""

    name: str
    host: str
    pid: int
    revision: int
    """What it serves."""
    etag: str
    behind: bool
    """Whether that is not the active revision."""
    problem: str
    """Why it cannot serve the active revision, if it cannot."""
    draining: bool
    """Whether it is about to end."""
    alive: bool
    """Whether it gave a sign within 3 seconds. One that is gone is listed for a minute."""
    age: float
    """Seconds since its last sign."""


class StoreView(View):
    """What the processes share."""

    kind: str
    """`memory`, `sqlite` or `redis`."""
    problem: str
    """Why it cannot be reached from the process that answers; empty if it can."""


class RevisionsView(View):
    """The revisions that are remembered, newest first, and which process serves which."""

    active: int
    revisions: list[RevisionView]
    members: list[MemberView]
    store: StoreView


class PolicyView(View):
    """One configured policy."""

    name: str
    use: str
    """Its kind."""
    settings: dict[str, Any]
    """As written; what is left out has its default."""
    default: bool
    """Whether it answers requests that name no policy and no model."""


class PoliciesView(View):
    """The configured policies; models are targets too and are not listed here."""

    policies: list[PolicyView]


class AbilitiesView(View):
    """What probing found; null means that nobody could tell."""

    version: str | None
    surfaces: list[str] | None
    served: list[str]
    context: int | None
    max_logprobs: int | None
    token_ids: bool | None
    tokenizer: str | None
    """A short name for how it splits text: equal for equal tokenizers."""
    derender: bool | None
    """Whether it reads tool calls and reasoning out of tokens that others wrote."""
    gate: int | None
    """The token on which a rule inside the engine stops a request; null without such a rule."""
    salts: bool | None
    """Whether it keeps the prefix caches of tenants apart (`cache_salt`)."""
    scores: list[str] | None
    """By which APIs it tells a reward model's scores: `score`, `classify`, `pooling`."""


class SleepView(View):
    """One server that may sleep, now."""

    state: str
    """`awake`, `falling asleep`, `asleep`, `waking` or, before it was reached, `unknown`."""
    draining: bool
    """Whether it gets no new calls, since it is about to make room for another."""
    waiting: int
    """Calls that wait for it to wake."""
    wake: float
    """Seconds that waking takes: measured, or the configured guess."""
    why: str
    """Why it cannot sleep, if so."""


class BackendView(View):
    """One backend of one model, now."""

    model: str
    backend: str
    """Host and port, as metrics and headers show it."""
    url: str
    state: str
    """`healthy`, `unhealthy`, `open` (shut off by its breaker) or `probing`."""
    ready: bool
    """Whether a call would be sent to it now."""
    in_flight: int
    latency: float
    """Recent peak of its time to first byte, in seconds; 0 before its first answer."""
    sleep: SleepView | None
    """How it sleeps; null if its model does not."""
    abilities: AbilitiesView


class FeedbackView(View):
    """Feedback that was taken."""

    taken: int
    """How many scores."""


class BackendsView(View):
    """All backends of all models."""

    backends: list[BackendView]


class HealthView(View):
    """The admin listener is up."""

    status: str = "ok"
    revision: int


def problem_views(problems: Iterable[Problem]) -> list[ProblemView]:
    """Problems as the API shows them."""
    return [ProblemView(**asdict(problem)) for problem in problems]


def revision_view(revision: Revision, active: Revision) -> RevisionView:
    """A revision without its document."""
    return RevisionView(
        number=revision.number,
        etag=revision.etag,
        when=revision.when,
        what=revision.what,
        who=revision.who,
        active=revision is active,
    )


def member_view(sign: Sign, active: Revision) -> MemberView:
    """What a process last said of itself, beside what all should serve."""
    behind = sign.revision != active.number
    return MemberView(**asdict(sign), alive=sign.alive, behind=behind)


def revision_detail(revision: Revision, active: Revision) -> RevisionDetail:
    """A revision with its document."""
    head = revision_view(revision, active)
    return RevisionDetail(**head.model_dump(), config=dict(revision.written.tree))


def policy_views(runtime: Runtime) -> list[PolicyView]:
    """The configured policies, in the order of the document."""
    return [
        PolicyView(
            name=name,
            use=block["use"],
            settings={key: value for key, value in block.items() if key != "use"},
            default=name == runtime.default,
        )
        for name, block in runtime.config.policies.items()
    ]


def backend_views(runtime: Runtime) -> list[BackendView]:
    """All backends, in the order of the document."""
    return [
        _backend_view(model, backend)
        for model, pool in runtime.pools.items()
        for backend in pool.backends
    ]


def _sleep_view(rest: Rest) -> SleepView:
    return SleepView(
        state=rest.state,
        draining=rest.draining,
        waiting=len(rest.line),
        wake=rest.wakes_in,
        why=rest.why,
    )


def _backend_view(model: str, backend: Backend) -> BackendView:
    found = backend.abilities
    surfaces = None if found.surfaces is None else sorted(found.surfaces)
    return BackendView(
        model=model,
        backend=backend.name,
        url=backend.url,
        state=backend.state,
        ready=backend.ready,
        in_flight=backend.in_flight,
        latency=backend.latency.value,
        sleep=_sleep_view(backend.rest) if backend.rest.managed else None,
        abilities=AbilitiesView(
            **{
                **asdict(found),
                "surfaces": surfaces,
                "scores": None if found.scores is None else sorted(found.scores),
                "tokenizer": found.fingerprint,
            }
        ),
    )

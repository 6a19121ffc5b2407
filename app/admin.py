"""The admin API: read, check, replace and roll back the configuration; see how backends are doing.

A thin coat over `router.revisions`: each handler reads a request, makes one call and shapes the
answer. It holds no state and decides nothing. It is served on a listener of its own, never beside
the clients' API; who may use it is decided in `app.admin_guard`, before a handler is reached.

Answers carry the active revision's ETag. Replacing the whole document needs `If-Match` (the ETag
that was read, or `*`), so that two operators cannot undo each other unawares; for one policy and
for a rollback it is optional.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from enum import Enum
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from fastapi.responses import JSONResponse

from app.admin_audit import get_audit, note_revision
from app.admin_corpora import add_corpora
from app.admin_errors import AdminError, answer_errors
from app.admin_guard import FORMS, caller, expected_etags, guarded, read_document
from app.admin_keys import add_keys
from app.admin_models import (
    BackendsView,
    CheckView,
    FeedbackView,
    HealthView,
    PoliciesView,
    RevisionDetail,
    RevisionsView,
    RevisionView,
    StoreView,
    backend_views,
    member_view,
    policy_views,
    problem_views,
    revision_detail,
    revision_view,
)
from app.audit import Audit
from app.decisions import Decisions
from app.feedback import SCHEMA, FeedbackError, read_feedback
from app.operators import Operators, Role
from app.state.member import Member, member_name
from app.state.memory import MemoryStore
from router.config import ConfigError, Form
from router.decode import decode
from router.revisions import Revision, Revisions

YAML = "application/yaml"
"""RFC 9512's media type."""


def admin_app(
    revisions: Revisions,
    operators: Operators,
    decisions: Decisions | None = None,
    audit: Audit | None = None,
    member: Member | None = None,
) -> FastAPI:
    """The admin API over `revisions` for these operators; if there are none, for this machine.

    Feedback goes to `decisions`, what is changed and who is turned away to `audit`; `member` knows
    the other processes, and is None where this one is alone.
    """
    app = FastAPI(
        title="Tandem admin",
        description="Read, check, replace and roll back the configuration of a running gateway.",
        docs_url="/admin/docs",
        redoc_url=None,
        redirect_slashes=False,
        swagger_ui_oauth2_redirect_url=None,
        openapi_url="/admin/openapi.json",
    )
    app.state.revisions = revisions
    app.state.operators = operators
    app.state.decisions = decisions
    app.state.audit = audit
    app.state.keys = None
    app.state.checking = asyncio.Lock()
    app.state.member = member or Member(MemoryStore(), revisions, member_name())
    for routes in _routes():
        app.include_router(routes)
    app.add_api_route("/healthz", get_health, tags=["health"])
    answer_errors(app)
    return app


def _routes() -> Iterator[APIRouter]:
    """What viewers may ask, and what only operators may."""
    see, change = guarded(Role.VIEWER), guarded(Role.OPERATOR)
    tell = guarded(Role.OPERATOR, audited=False)
    config: list[str | Enum] = ["configuration"]
    policies: list[str | Enum] = ["policies"]
    document, one = _body("document"), _body("one")
    add = see.add_api_route
    add("/config", get_config, tags=config, responses=_DOCUMENT, response_model=dict[str, Any])
    add("/config/check", check_config, methods=["POST"], tags=config, openapi_extra=document)
    add("/policies", get_policies, tags=policies)
    add("/revisions", get_revisions, tags=["revisions"])
    add("/revisions/{number}", get_revision, tags=["revisions"])
    add("/backends", get_backends, tags=["backends"])
    add("/audit", get_audit, tags=["audit"])
    add, put, post = change.add_api_route, ["PUT"], ["POST"]
    add("/config", put_config, methods=put, tags=config, openapi_extra=document)
    add("/policies/{name:path}", put_policy, methods=put, tags=policies, openapi_extra=one)
    add("/policies/{name:path}", delete_policy, methods=["DELETE"], tags=policies)
    add("/revisions/{number}/activate", activate_revision, methods=post, tags=["revisions"])
    tell.add_api_route(
        "/feedback", post_feedback, methods=post, status_code=202, tags=["feedback"],
        openapi_extra=_FEEDBACK,
    )  # fmt: skip
    add_keys(see)
    add_corpora(see, change)
    yield from (see, change, tell)


_DOCUMENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The document as it was written.", "content": {YAML: {}}}
}
_WORDS = {
    "document": "A whole configuration.",
    "one": "One policy's block: `{use: KIND, ...}`.",
}


def _body(what: str) -> dict[str, Any]:
    content = {kind: {"schema": {"type": "object"}} for kind in FORMS}
    return {"requestBody": {"required": True, "description": _WORDS[what], "content": content}}


_FEEDBACK = {
    "requestBody": {
        "required": True,
        "description": "One score, or a list of them.",
        "content": {"application/json": {"schema": SCHEMA}},
    }
}


def _revisions(request: Request) -> Revisions:
    revisions: Revisions = request.app.state.revisions
    return revisions


Active = Annotated[Revisions, Depends(_revisions)]


def _member(request: Request) -> Member:
    member: Member = request.app.state.member
    return member


Here = Annotated[Member, Depends(_member)]
IfMatch = Annotated[
    str | None, Header(description='The ETag that the change was meant for, or "*" for any.')
]


# ------------------------------------------------------------------------------------- handlers


async def get_health(revisions: Active) -> HealthView:
    """Whether the gateway runs; needs no token."""
    return HealthView(revision=revisions.active.number)


async def get_config(request: Request, revisions: Active) -> Response:
    """The active document, as it was written: YAML with its comments if `Accept` asks for YAML."""
    active = revisions.active
    headers = {"etag": f'"{active.etag}"', "vary": "accept"}
    if "yaml" in request.headers.get("accept", ""):
        return Response(active.written.yaml, media_type=YAML, headers=headers)
    return JSONResponse(dict(active.written.tree), headers=headers)


async def put_config(
    request: Request, response: Response, revisions: Active, if_match: IfMatch = None
) -> RevisionView:
    """Replace the whole document: checked and built completely, then swapped in, or refused."""
    if if_match is None:
        raise AdminError(428, "if_match_required", "send If-Match: the ETag you read, or *")
    text, form = await read_document(request)
    revision = await revisions.replace(text, form, expected_etags(if_match), caller(request).name)
    return _swapped(revision, request, response)


async def check_config(request: Request, revisions: Active) -> CheckView:
    """Say what a PUT of this document would find wrong, without swapping anything."""
    text, form = await read_document(request)
    checking: asyncio.Lock = request.app.state.checking
    try:
        async with checking:  # one at a time: each may take seconds of the one interpreter
            document = await revisions.check(text, form)
    except ConfigError as error:
        return CheckView(ok=False, problems=problem_views(error.problems))
    return CheckView(ok=True, etag=document.written.etag)


async def get_policies(revisions: Active) -> PoliciesView:
    """The configured policies with their settings."""
    return PoliciesView(policies=policy_views(revisions.runtime))


async def put_policy(
    name: str, request: Request, response: Response, revisions: Active, if_match: IfMatch = None
) -> RevisionView:
    """Create or replace one policy; everything else stays as it is."""
    text, form = await read_document(request)
    block = decode(text, form, "the policy")
    if block.problems:
        raise ConfigError("the policy", block.problems)
    revision = await revisions.replace_policy(
        name, block.tree, expected_etags(if_match), caller(request).name
    )
    return _swapped(revision, request, response)


async def delete_policy(
    name: str, request: Request, response: Response, revisions: Active, if_match: IfMatch = None
) -> RevisionView:
    """Remove one policy; refused while anything refers to it."""
    revision = await revisions.remove_policy(name, expected_etags(if_match), caller(request).name)
    return _swapped(revision, request, response)


async def get_revisions(revisions: Active, member: Here) -> RevisionsView:
    """The revisions that are remembered, newest first, and which process serves which."""
    active = revisions.active
    newest_first = reversed(revisions.history())
    return RevisionsView(
        active=active.number,
        revisions=[revision_view(revision, active) for revision in newest_first],
        members=[member_view(sign, active) for sign in await member.signs()],
        store=StoreView(kind=member.kind, problem=member.trouble),
    )


async def get_revision(number: int, revisions: Active) -> RevisionDetail:
    """One revision with its document."""
    return revision_detail(revisions.revision(number), revisions.active)


async def activate_revision(
    number: int, request: Request, response: Response, revisions: Active, if_match: IfMatch = None
) -> RevisionView:
    """Serve what this revision said, as a new revision: a rollback can be rolled back."""
    revision = await revisions.activate(number, expected_etags(if_match), caller(request).name)
    return _swapped(revision, request, response)


async def get_backends(revisions: Active) -> BackendsView:
    """Every backend: its health, breaker, load, latency, and what probing found."""
    return BackendsView(backends=backend_views(revisions.runtime))


async def post_feedback(request: Request) -> FeedbackView:
    """Log how good answers were: `{"id": "req-...", "score": 0.8}`, or a list of such."""
    decisions: Decisions | None = request.app.state.decisions
    text, form = await read_document(request)
    if decisions is None or not decisions.configured:
        why = "decisions are not logged: give `decisions` a file in the configuration, and restart"
        raise AdminError(409, "no_decisions", why)
    if form is not Form.JSON:
        raise AdminError(415, "unknown_notation", "send application/json")
    try:
        several = read_feedback(text)
    except FeedbackError as error:
        raise AdminError(422, "invalid_feedback", str(error)) from None
    if not decisions.feedback([(one.id, one.score) for one in several]):
        raise AdminError(503, "busy", "the log is behind with its lines: send it again later")
    return FeedbackView(taken=len(several))


def _swapped(revision: Revision, request: Request, response: Response) -> RevisionView:
    revisions = _revisions(request)
    note_revision(request, revision)
    response.headers["etag"] = f'"{revision.etag}"'
    return revision_view(revision, revisions.active)

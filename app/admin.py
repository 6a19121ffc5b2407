"""The admin API: read, check, replace and roll back the configuration; see how backends are doing.

A thin coat over `router.revisions`: each handler reads a request, makes one call and shapes the
answer. It holds no state and decides nothing. It is served on a listener of its own, never beside
the clients' API; who may use it is decided in `app.admin_guard`, before a handler is reached.

Answers carry the active revision's ETag. Replacing the whole document needs `If-Match` (the ETag
that was read, or `*`), so that two operators cannot undo each other unawares; for one policy and
for a rollback it is optional.
"""

from __future__ import annotations

from enum import Enum
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.admin_corpora import corpora_routes
from app.admin_guard import FORMS, AdminError, authorise, expected_etags, read_document
from app.admin_models import (
    BackendsView,
    CheckView,
    ErrorBody,
    ErrorView,
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
from app.decisions import Decisions
from app.feedback import SCHEMA, FeedbackError, read_feedback
from app.state.member import Member, member_name
from app.state.memory import MemoryStore
from router.config import ConfigError, Form, Problem
from router.decode import decode
from router.revisions import JournalError, Revision, Revisions, StaleError, UnknownError

YAML = "application/yaml"
"""RFC 9512's media type."""


def admin_app(
    revisions: Revisions,
    token: str | None,
    decisions: Decisions | None = None,
    member: Member | None = None,
) -> FastAPI:
    """The admin API over `revisions`; without a `token` only this machine is answered.

    Feedback goes to `decisions`; `member` knows the other processes, and is None where this one
    is alone.
    """
    app = FastAPI(
        title="Tandem admin",
        description="Read, check, replace and roll back the configuration of a running gateway.",
        docs_url="/admin/docs",
        redoc_url=None,
        openapi_url="/admin/openapi.json",
    )
    app.state.revisions = revisions
    app.state.token = token
    app.state.decisions = decisions
    app.state.member = member or Member(MemoryStore(), revisions, member_name())
    app.include_router(_routes())
    app.add_api_route("/healthz", get_health, tags=["health"])
    app.add_exception_handler(AdminError, _on_refusal)
    app.add_exception_handler(ConfigError, _on_problems)
    app.add_exception_handler(StaleError, _on_stale)
    app.add_exception_handler(JournalError, _on_journal)
    app.add_exception_handler(UnknownError, _on_unknown)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_parameters)
    app.add_exception_handler(Exception, _on_mistake)
    return app


def _routes() -> APIRouter:
    routes = APIRouter(
        prefix="/admin",
        dependencies=[Depends(authorise)],
        responses={"4XX": {"model": ErrorView}, "5XX": {"model": ErrorView}},
    )
    add, put, post = routes.add_api_route, ["PUT"], ["POST"]
    config: list[str | Enum] = ["configuration"]
    policies: list[str | Enum] = ["policies"]
    add("/config", get_config, tags=config, responses=_DOCUMENT, response_model=dict[str, Any])
    add("/config", put_config, methods=put, tags=config, openapi_extra=_body("document"))
    add("/config/check", check_config, methods=post, tags=config, openapi_extra=_body("document"))
    add("/policies", get_policies, tags=policies)
    add("/policies/{name:path}", put_policy, methods=put, tags=policies, openapi_extra=_body("one"))
    add("/policies/{name:path}", delete_policy, methods=["DELETE"], tags=policies)
    add("/revisions", get_revisions, tags=["revisions"])
    add("/revisions/{number}", get_revision, tags=["revisions"])
    add("/revisions/{number}/activate", activate_revision, methods=post, tags=["revisions"])
    add("/backends", get_backends, tags=["backends"])
    add(
        "/feedback", post_feedback, methods=post, status_code=202, tags=["feedback"],
        openapi_extra=_FEEDBACK,
    )  # fmt: skip
    routes.include_router(corpora_routes())
    return routes


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
    revision = await revisions.replace(text, form, expected_etags(if_match))
    return _swapped(revision, revisions, response)


async def check_config(request: Request, revisions: Active) -> CheckView:
    """Say what a PUT of this document would find wrong, without swapping anything."""
    try:
        document = await revisions.check(*await read_document(request))
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
    revision = await revisions.replace_policy(name, block.tree, expected_etags(if_match))
    return _swapped(revision, revisions, response)


async def delete_policy(
    name: str, response: Response, revisions: Active, if_match: IfMatch = None
) -> RevisionView:
    """Remove one policy; refused while anything refers to it."""
    revision = await revisions.remove_policy(name, expected_etags(if_match))
    return _swapped(revision, revisions, response)


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
    number: int, response: Response, revisions: Active, if_match: IfMatch = None
) -> RevisionView:
    """Serve what this revision said, as a new revision: a rollback can be rolled back."""
    revision = await revisions.activate(number, expected_etags(if_match))
    return _swapped(revision, revisions, response)


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


def _swapped(revision: Revision, revisions: Revisions, response: Response) -> RevisionView:
    response.headers["etag"] = f'"{revision.etag}"'
    return revision_view(revision, revisions.active)


# --------------------------------------------------------------------------------------- errors


def _error(
    status: int, code: str, message: str, problems: tuple[Problem, ...] = ()
) -> JSONResponse:
    body = ErrorBody(message=message, code=code, problems=problem_views(problems))
    headers = {"www-authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else None
    return JSONResponse(ErrorView(error=body).model_dump(), status, headers)


async def _on_refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, AdminError)
    return _error(error.status, error.code, str(error))


async def _on_problems(_: Request, error: Exception) -> Response:
    assert isinstance(error, ConfigError)
    count = len(error.problems)
    message = f"{error.source} was refused: {count} problem{'s' if count > 1 else ''}"
    return _error(422, "invalid_config", message, error.problems)


async def _on_stale(_: Request, error: Exception) -> Response:
    return _error(412, "stale", str(error))


async def _on_journal(_: Request, error: Exception) -> Response:
    return _error(503, "store_unavailable", str(error))


async def _on_unknown(_: Request, error: Exception) -> Response:
    return _error(404, "unknown", str(error))


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, "http", error.detail)


async def _on_parameters(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()[0]
    where = ".".join(map(str, found["loc"]))
    return _error(422, "invalid_parameter", f"{where}: {found['msg']}")


async def _on_mistake(_request: Request, _exception: Exception) -> Response:
    return _error(500, "mistake", "Tandem made a mistake; its log has the details")

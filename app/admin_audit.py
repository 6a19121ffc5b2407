"""The audit log over the admin API: how requests get into it, and how it is read.

Every route that `app.admin_guard` guards is an `AuditedRoute`. It notes who was turned away; and
where a change was announced by `announce`, it notes how that ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from http import HTTPStatus
from itertools import islice
from typing import Annotated, Any

from fastapi import Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import Field, ValidationError

from app.admin_errors import AdminError, code_of
from app.admin_models import View
from app.audit import LONGEST, MOST_CHANGES, Audit, AuditError, Entry, changes_between
from app.operators import Operator
from router.revisions import Revision, Revisions

AWAY = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class ChangedView(View):
    """A setting that is not what it was; null where it is not there."""

    path: str
    before: Any = None
    after: Any = None


class EntryView(View):
    """One change, or one request that was turned away."""

    id: str
    when: datetime
    """When it ended, or when it was asked if that is not known."""
    who: str | None = None
    """The name of the token; null if it was nobody's."""
    role: str | None = None
    address: str
    """Where the connection came from."""
    what: str
    """The method and the path."""
    outcome: str
    """`done`, `refused`, `failed`, `turned away`; `asked` while, or if, its end is not known."""
    code: str | None = None
    """Of the error, if it was one."""
    before: dict[str, Any] | None = None
    """Revision and ETag of what was changed."""
    after: dict[str, Any] | None = None
    """Revision and ETag of what came of it."""
    changes: list[ChangedView] = Field(default_factory=list)
    """Settings that are not what they were; long values are cut."""
    more_changes: int = 0
    """Settings beyond those listed."""
    left_out: int = 0
    """Requests that were turned away before this one and are not listed."""


class AuditView(View):
    """The last entries of the audit log, newest first."""

    entries: list[EntryView]


class AuditedRoute(APIRoute):
    """Writes down what a request came to, if that belongs into the audit log."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, listened to."""
        answer = super().get_route_handler()

        async def audited(request: Request) -> Response:
            audit: Audit | None = request.app.state.audit
            if audit is None:
                return await answer(request)
            try:
                response = await answer(request)
            except Exception as error:
                await asyncio.to_thread(_refused, audit, request, error)
                raise
            if (entry := _entry(request)) is not None:
                await asyncio.to_thread(audit.ended, entry, "done")
            return response

        return audited


def _entry(request: Request) -> Entry | None:
    entry: Entry | None = getattr(request.state, "entry", None)
    return entry


def _refused(audit: Audit, request: Request, error: Exception) -> None:
    code = code_of(error)
    if (entry := _entry(request)) is not None:
        audit.ended(entry, "refused" if code else "failed", code)
    elif isinstance(error, AdminError) and error.status in AWAY:
        operator: Operator | None = getattr(request.state, "operator", None)
        audit.turned_away(_of(request, operator), error.code)


def _of(request: Request, operator: Operator | None) -> Entry:
    return Entry(
        who=operator.name if operator else None,
        role=operator.role if operator else None,
        address=request.client.host if request.client else "",
        what=f"{request.method} {request.scope['path'][:LONGEST]}",
    )


async def announce(request: Request, operator: Operator) -> None:
    """`operator` is about to change something: `AdminError` 503 if that cannot be written down."""
    audit: Audit | None = request.app.state.audit
    if audit is None:
        return
    entry = _of(request, operator)
    try:
        await asyncio.to_thread(audit.asked, entry)
    except AuditError as error:
        why = f"nothing was changed, since it could not be written down: {error}"
        raise AdminError(503, "audit", why) from None
    request.state.entry = entry


def note(
    request: Request, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> None:
    """What was changed, from which state to which."""
    if (entry := _entry(request)) is not None:
        entry.before, entry.after = before, after


def note_revision(request: Request, revision: Revision) -> None:
    """`revision` was swapped in."""
    revisions: Revisions = request.app.state.revisions
    if (entry := _entry(request)) is not None:
        _fill(entry, _before(revision, revisions), revision)


def note_start(audit: Audit, revision: Revision) -> None:
    """The gateway begins to serve `revision`. Raises `AuditError`."""
    entry = Entry(None, None, "", revision.what, after=_mark(revision))
    audit.started(entry)


def _before(revision: Revision, revisions: Revisions) -> Revision | None:
    earlier = (each for each in reversed(revisions.history()) if each.number < revision.number)
    return next(earlier, None)


def _fill(entry: Entry, before: Revision | None, after: Revision) -> None:
    entry.after = _mark(after)
    if before is not None:
        entry.before = _mark(before)
        changes = changes_between(before.written.tree, after.written.tree)
        entry.changes = tuple(islice(changes, MOST_CHANGES))
        entry.more_changes = sum(1 for _ in changes)


def _mark(revision: Revision) -> dict[str, Any]:
    return {"revision": revision.number, "etag": revision.etag}


async def get_audit(
    request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 50
) -> AuditView:
    """Who changed what, newest first, at most `limit`; who was turned away, too."""
    audit: Audit | None = request.app.state.audit
    if audit is None:
        raise AdminError(409, "no_audit", "there is no audit log: give it a file in `admin.audit`")
    try:
        found = await asyncio.to_thread(audit.last, limit)
    except AuditError as error:
        raise AdminError(503, "audit", str(error)) from None
    return AuditView(entries=[view for line in found if (view := _view(line)) is not None])


def _view(line: Mapping[str, Any]) -> EntryView | None:
    try:
        return EntryView.model_validate(line)
    except ValidationError:
        return None  # somebody has written into the file by hand

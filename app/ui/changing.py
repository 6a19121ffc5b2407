"""The pages that change something: policies, the whole document, revisions.

Each change is two steps that send the same form: *check* says what the change would do and what is
wrong with it, *activate* does it. Both carry the ETag of the revision that the page was made from,
so that two operators cannot undo each other unawares: whoever comes second is told, keeps what was
typed, and may repeat it. All of it goes through `router.revisions`, as the admin API does, and what
is done is written into the audit log, as what is done there.
"""

from __future__ import annotations

import asyncio
import difflib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Response
from fastapi.responses import RedirectResponse

from app.admin_audit import AuditedRoute, announce, note_revision
from app.admin_errors import AdminError, code_of
from app.admin_models import member_view, policy_views
from app.audit import Audit, AuditError
from app.ui.entry import EntryError, Visitor, changing
from app.ui.forms import Names, block_in, by_setting, fields_of, in_yaml, read_block
from app.ui.looking import Around, Here, Looks, ToldError
from app.ui.paper import HEADERS
from policies import TABLE
from router.config import ConfigError, Form, Problem
from router.revisions import JournalError, Revision, StaleError, UnknownError

__all__ = ["changing_routes"]

ENTRIES = 50
"""Of the audit log, on the page of revisions."""

Changes = Annotated[tuple[Visitor, Mapping[str, str]], Depends(changing)]


def changing_routes() -> APIRouter:
    """Their paths."""
    routes = APIRouter(prefix="/ui", include_in_schema=False, route_class=AuditedRoute)
    add = routes.add_api_route
    add("/policies", get_policies)
    add("/new-policy", get_new_policy)
    add("/new-policy", post_new_policy, methods=["POST"])
    add("/policies/{name:path}", get_policy)
    add("/policies/{name:path}", post_policy, methods=["POST"])
    add("/config", get_config)
    add("/config", post_config, methods=["POST"])
    add("/revisions", get_revisions)
    add("/revisions/{number:int}", get_revision)
    add("/revisions/{number:int}", post_revision, methods=["POST"])
    return routes


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found, or an activation. `code` is that of the refusal, if it was one."""

    problems: Sequence[Problem] = ()
    stale: str = ""
    good: bool = False
    code: str = ""

    @property
    def status(self) -> int:
        """The status of the page that tells it."""
        return 422 if self.problems else 412 if self.stale else 200


def _refused(error: ConfigError | StaleError) -> Verdict:
    code = code_of(error) or ""
    if isinstance(error, ConfigError):
        return Verdict(error.problems, code=code)
    return Verdict(stale=str(error), code=code)


async def _change(
    here: Here, visitor: Visitor, change: Callable[[], Awaitable[Revision]]
) -> Revision:
    """Make a change; what it was and who made it is written down."""
    try:
        await announce(here.request, visitor.operator)
    except AdminError as error:
        raise EntryError(error.status, error.code, str(error)) from None
    try:
        revision = await change()
    except JournalError as error:
        raise EntryError(503, "store_unavailable", str(error)) from None
    note_revision(here.request, revision)
    return revision


async def _done(here: Here, activated: int | None) -> int | None:
    """The revision that was just activated, maybe by another process; None if there is no such."""
    revisions = here.sources.revisions
    if activated is not None and activated > revisions.active.number:
        with suppress(JournalError):
            await revisions.follow()
    known = activated is not None and activated <= revisions.active.number
    return activated if known else None


def _told(
    here: Here, visitor: Visitor, template: str, verdict: Verdict, told: Mapping[str, Any]
) -> Response:
    """The page that tells this verdict. Raises `ToldError` with it if it is a refusal."""
    page = here.page(template, visitor, verdict.status, verdict=verdict, **told)
    if verdict.code:
        raise ToldError(page, verdict.status, verdict.code)
    return page


@dataclass(frozen=True, slots=True)
class Draft:
    """A policy's block as somebody would have it. `text` is what they typed, if it was YAML."""

    name: str
    use: str
    block: Mapping[str, Any] = field(default_factory=dict)
    text: str | None = None
    is_new: bool = False


# -------------------------------------------------------------------------------------- policies


async def get_policies(visitor: Looks, here: Around) -> Response:
    """The configured policies."""
    runtime = here.sources.revisions.runtime
    views = policy_views(runtime)
    told = {view.name: in_yaml(view.settings).rstrip() if view.settings else "" for view in views}
    return here.page("policies.html", visitor, policies=views, told=told, kinds=list(TABLE))


async def get_new_policy(visitor: Looks, here: Around, use: str = "") -> Response:
    """An empty form of this kind of policy."""
    if use not in TABLE:
        raise EntryError(404, "unknown", f'there is no kind of policy called "{use}"')
    return _policy_page(here, visitor, Draft("", use, is_new=True), Verdict())


async def get_policy(
    name: str, visitor: Looks, here: Around, activated: int | None = None
) -> Response:
    """One policy's settings, as a form and as YAML."""
    activated = await _done(here, activated)
    block = _blocks(here).get(name)
    if block is None:
        raise EntryError(404, "unknown", f'there is no policy called "{name}"')
    draft = Draft(name, block["use"], block)
    return _policy_page(here, visitor, draft, Verdict(), activated=activated)


async def post_new_policy(changes: Changes, here: Around) -> Response:
    """Check a new policy, or serve it."""
    visitor, form = changes
    name = form.get("name", "").strip()
    draft, problems = _draft(name, form, is_new=True)
    if name in _blocks(here):
        problems.append(Problem("name", "there is a policy of this name already"))
    return await _judged(here, visitor, form, draft, problems)


async def post_policy(name: str, changes: Changes, here: Around) -> Response:
    """Check this policy's new block, serve it, or remove the policy."""
    visitor, form = changes
    if form.get("do") != "remove":
        return await _judged(here, visitor, form, *_draft(name, form, is_new=False))
    block = _blocks(here).get(name, {})
    draft = Draft(name, block.get("use", ""), block)
    revisions, etags = here.sources.revisions, {form.get("etag", "")}
    try:
        await _change(here, visitor, partial(revisions.remove_policy, name, etags, visitor.name))
    except UnknownError as error:
        raise EntryError(404, "unknown", str(error)) from None
    except (ConfigError, StaleError) as error:
        return _policy_page(here, visitor, draft, _refused(error))
    return RedirectResponse("/ui/policies", 303, HEADERS)


async def _judged(
    here: Here,
    visitor: Visitor,
    form: Mapping[str, str],
    draft: Draft,
    problems: Sequence[Problem],
) -> Response:
    """Check the draft or serve it, as the form wants, unless there are problems already."""
    revisions, etags = here.sources.revisions, {form.get("etag", "")}
    if problems:
        return _policy_page(here, visitor, draft, Verdict(problems, code="invalid_config"))
    try:
        if form.get("do") == "activate":
            change = partial(revisions.replace_policy, draft.name, draft.block, etags, visitor.name)
            revision = await _change(here, visitor, change)
            to = f"/ui/policies/{quote(draft.name)}?activated={revision.number}"
            return RedirectResponse(to, 303, HEADERS)
        await revisions.check(_with_policy(here, draft), Form.JSON)
        verdict = Verdict(good=True)
    except (ConfigError, StaleError) as error:
        verdict = _refused(error)
    return _policy_page(here, visitor, draft, verdict)


def _draft(name: str, form: Mapping[str, str], *, is_new: bool) -> tuple[Draft, list[Problem]]:
    """What the form says, whichever of its two ways was taken."""
    use = form.get("use", "")
    if "text" in form:
        text = form["text"]
        try:
            block = read_block(text)
        except ConfigError as error:
            return Draft(name, use, {}, text, is_new), list(error.problems)
        return Draft(name, str(block.get("use", "")), block, text, is_new), []
    if use not in TABLE:
        raise EntryError(404, "unknown", f'there is no kind of policy called "{use}"')
    block, wrong = block_in(use, TABLE[use], form)
    problems = [Problem(f"policies.{name}.{one.path}", one.reason) for one in wrong]
    return Draft(name, use, block, None, is_new), problems


def _policy_page(
    here: Here, visitor: Visitor, draft: Draft, verdict: Verdict, activated: int | None = None
) -> Response:
    """The form as it was filled, and what came of it."""
    runtime, old = here.sources.revisions.runtime, _blocks(here).get(draft.name)
    names = Names(list(runtime.pools), [n for n in runtime.config.policies if n != draft.name])
    kind = TABLE.get(draft.use)
    wrong = by_setting(verdict.problems, draft.name)
    text = in_yaml(dict(draft.block)) if draft.text is None else draft.text
    told = {
        "draft": draft,
        "about": (kind.__doc__ or "").split("\n\n")[0] if kind else "",
        "fields": fields_of(kind, draft.block, names, wrong) if kind else [],
        "text": text if draft.block or draft.text else f"use: {draft.use}\n",
        "diff": diff(old or {}, draft.block) if verdict.good or verdict.stale else [],
        "activated": activated,
    }
    return _told(here, visitor, "policy.html", verdict, told)


def _blocks(here: Here) -> Mapping[str, Mapping[str, Any]]:
    return here.sources.revisions.runtime.config.policies


def _with_policy(here: Here, draft: Draft) -> str:
    tree = here.sources.revisions.active.written.tree
    policies = {**(tree.get("policies") or {}), draft.name: draft.block}
    return json.dumps({**tree, "policies": policies})


# ------------------------------------------------------------------------------ the whole document


async def get_config(visitor: Looks, here: Around, activated: int | None = None) -> Response:
    """The document as it was written."""
    activated = await _done(here, activated)
    text = here.sources.revisions.active.written.yaml
    return _config_page(here, visitor, text, Verdict(), activated)


async def post_config(changes: Changes, here: Around) -> Response:
    """Check this document, or serve it."""
    visitor, form = changes
    text, etags = form.get("text", ""), {form.get("etag", "")}
    revisions = here.sources.revisions
    try:
        if form.get("do") == "activate":
            change = partial(revisions.replace, text, Form.YAML, etags, visitor.name)
            revision = await _change(here, visitor, change)
            return RedirectResponse(f"/ui/config?activated={revision.number}", 303, HEADERS)
        await revisions.check(text, Form.YAML)
        verdict = Verdict(good=True)
    except (ConfigError, StaleError) as error:
        verdict = _refused(error)
    return _config_page(here, visitor, text, verdict)


def _config_page(
    here: Here, visitor: Visitor, text: str, verdict: Verdict, activated: int | None = None
) -> Response:
    changed = diff_of_texts(here.sources.revisions.active.written.yaml, text)
    told = {
        "text": text,
        "diff": changed if verdict.good or verdict.stale else [],
        "activated": activated,
    }
    return _told(here, visitor, "config.html", verdict, told)


# ------------------------------------------------------------------------------------- revisions


async def get_revisions(visitor: Looks, here: Around, activated: int | None = None) -> Response:
    """All that are remembered, newest first; which process serves which; who changed what, where
    that is written down.
    """
    activated = await _done(here, activated)
    active, member = here.sources.revisions.active, here.sources.member
    return here.page(
        "revisions.html",
        visitor,
        members=[member_view(sign, active) for sign in await member.signs()],
        trouble=member.trouble,
        revisions=list(reversed(here.sources.revisions.history())),
        entries=await _entries(here.request.app.state.audit),
        activated=activated,
    )


async def _entries(audit: Audit | None) -> Sequence[Mapping[str, Any]] | None:
    """The last lines of the audit log; None without one."""
    if audit is None:
        return None
    try:
        return await asyncio.to_thread(audit.last, ENTRIES)
    except AuditError as error:
        raise EntryError(503, "audit", str(error)) from None


async def get_revision(number: int, visitor: Looks, here: Around) -> Response:
    """One revision, and what would change if it served again."""
    return _revision_page(here, visitor, _revision(here, number), Verdict())


async def post_revision(number: int, changes: Changes, here: Around) -> Response:
    """Serve what this revision said."""
    visitor, form = changes
    revision, etags = _revision(here, number), {form.get("etag", "")}
    change = partial(here.sources.revisions.activate, number, etags, visitor.name)
    try:
        new = await _change(here, visitor, change)
    except (ConfigError, StaleError) as error:
        return _revision_page(here, visitor, revision, _refused(error))
    return RedirectResponse(f"/ui/revisions?activated={new.number}", 303, HEADERS)


def _revision(here: Here, number: int) -> Revision:
    try:
        return here.sources.revisions.revision(number)
    except UnknownError as error:
        raise EntryError(404, "unknown", str(error)) from None


def _revision_page(here: Here, visitor: Visitor, revision: Revision, verdict: Verdict) -> Response:
    active = here.sources.revisions.active
    told = {"revision": revision, "diff": diff(active.written.tree, revision.written.tree)}
    return _told(here, visitor, "revision.html", verdict, told)


# ------------------------------------------------------------------------------------------- diffs


@dataclass(frozen=True, slots=True)
class Changed:
    """A line of a difference: `mark` is `+`, `-`, a space, or `@` where lines are left out."""

    mark: str
    text: str


def diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Changed]:
    """What changes between two trees, by the lines of their YAML."""
    texts = [in_yaml(dict(tree)) if tree else "" for tree in (old, new)]
    return diff_of_texts(*texts)


def diff_of_texts(old: str, new: str) -> list[Changed]:
    """What changes between two texts, with three lines around each change."""
    found = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=3)
    lines = [line for line in list(found)[2:] if not line.startswith("@@ -1,")]
    return [
        Changed("@", "...") if line.startswith("@@") else Changed(line[:1], line[1:])
        for line in lines
    ]

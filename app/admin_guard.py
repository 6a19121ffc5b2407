"""Who may talk to the admin listener, from where, and how much they may say.

With tokens, each request must carry one, and whose it is decides what may be asked. Without any,
the listener binds the loopback interface whatever the configuration says, and a request must look
as if it came from a program on this machine: a `Host` that is not loopback is how a web page
reaches us by DNS rebinding, and a foreign `Origin` is how it posts a form. Both are refused.

The rule: deny by default. Every route belongs to a router that `guarded` made for one role, and
handlers get nothing of a request before that role was asked for, not even its body.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.admin_audit import AuditedRoute, announce
from app.admin_errors import AdminError
from app.admin_models import ErrorView
from app.operators import LOCAL, Operator, Operators, Role
from router.config import Form
from router.sections import AdminConfig

LARGEST_BODY = 256 * 1024
"""Bytes of a document: some thousand models. Reading YAML costs about 10 microseconds a byte of
the one interpreter that also serves requests, so a larger one would be felt."""

FORMS = {
    "application/json": Form.JSON,
    "application/yaml": Form.YAML,
    "application/x-yaml": Form.YAML,
    "text/yaml": Form.YAML,
    "text/x-yaml": Form.YAML,
}
"""Content types of a document. A web form can send none of them."""

_BEARER = HTTPBearer(auto_error=False, description="A token that `admin` names.")


def admin_address(admin: AdminConfig, operators: Operators) -> tuple[str, str]:
    """The host to bind the admin listener to, and a sentence to print that explains it."""
    if operators:
        return admin.host, "admin: a bearer token is required"
    cure = f"set {admin.token_env}" if admin.token_env else "set admin.token_env"
    if is_loopback(admin.host):
        return admin.host, f"admin: open to every program on this machine; {cure} to require one"
    return "127.0.0.1", f"admin: no token, so 127.0.0.1 instead of {admin.host}; {cure} to open it"


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address, IPv6 with or without brackets) is this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def guarded(role: Role, *, audited: bool = True) -> APIRouter:
    """A router of the admin API whose every route needs this role.

    What an operator is needed for is a change and goes into the audit log, if it is `audited`.
    """
    return APIRouter(
        prefix="/admin",
        dependencies=[Depends(_needing(role, audited=audited and role is Role.OPERATOR))],
        responses={"4XX": {"model": ErrorView}, "5XX": {"model": ErrorView}},
        route_class=AuditedRoute,
    )


def caller(request: Request) -> Operator:
    """Who asks, once a guarded route was reached."""
    operator: Operator = request.state.operator
    return operator


def authorise(request: Request, token: str, role: Role) -> Operator:
    """Who asks with this token, if they may; else `AdminError`. From here on `caller` tells it.

    401 for a token that is nobody's, 403 for a role that does not do and for a web page.
    """
    operators: Operators = request.app.state.operators
    if not operators:
        _must_be_local(request)
        request.state.operator = LOCAL
        return LOCAL
    operator = request.state.operator = operators.of(token)
    if operator is None:
        raise AdminError(401, "unauthorised", "send an admin token: Authorization: Bearer ...")
    if not operator.may(role):
        why = f"{operator.name} is a {operator.role}; this needs the role {role}"
        raise AdminError(403, "operator_needed", why)
    return operator


def _needing(role: Role, *, audited: bool) -> Callable[..., Any]:
    async def authorised(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
    ) -> None:
        operator = authorise(request, credentials.credentials if credentials else "", role)
        if audited:
            await announce(request, operator)

    return authorised


def _must_be_local(request: Request) -> None:
    if not _names_loopback(f"//{request.headers.get('host', '')}"):
        raise AdminError(403, "foreign_host", "without a token, only loopback names are answered")
    if not _names_loopback(request.headers.get("origin", "//localhost")):
        raise AdminError(403, "foreign_origin", "without a token, web pages are not answered")


def _names_loopback(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:  # not a URL
        return False


async def read_document(request: Request) -> tuple[str, Form]:
    """The request's body as text, and its notation; `AdminError` 413 or 415 if it is unfit."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in FORMS:
        raise AdminError(415, "unknown_notation", f"send one of: {', '.join(FORMS)}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise AdminError(413, "too_large", f"a document has at most {LARGEST_BODY} bytes")
    try:
        return body.decode(), FORMS[kind]
    except UnicodeDecodeError:
        raise AdminError(415, "unknown_notation", "a document is written in UTF-8") from None


def expected_etags(if_match: str | None) -> frozenset[str] | None:
    """The etags that `If-Match` names, None for any. Weak ones never match (RFC 9110, 13.1.1)."""
    if if_match is None or if_match.strip() == "*":
        return None
    tags = (tag.strip() for tag in if_match.split(","))
    return frozenset(tag[1:-1] for tag in tags if len(tag) > 1 and tag[0] == tag[-1] == '"')

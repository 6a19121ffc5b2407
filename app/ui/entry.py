"""Who looks at the pages, and how a browser proves it.

A token is typed once, into the page of the sign-in, and exchanged for a cookie that says whose it
is and until when, signed with a key that is made of the token. Nothing is kept: any process that
knows the token knows the cookie, and a cookie ends with its token. Scripts cannot read it
(`HttpOnly`), and no other site can send it (`SameSite=Strict`).

A change needs more than the cookie: that the browser says the form comes from this very origin (a
page of another port of this machine is another origin, but may have our cookies), and a word that
stands in our forms only. Without a configured token the rules of `app.admin_guard` hold, and the
same for forms.

The rule: handlers get nothing of a request before `looking`, `changing` or `asking` has let it
pass.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from fastapi import Request, Response

from app.admin_errors import AdminError
from app.admin_guard import LARGEST_BODY, authorise
from app.operators import Operator, Operators, Role

__all__ = [
    "FIELD", "HEADER", "LASTS", "EntryError", "SignInError", "Visitor", "asking", "changing",
    "leave", "looking", "own_form", "sign_in", "welcome",
]  # fmt: skip

LASTS = 12 * 3600
"""Seconds that a sign-in lasts: a working day."""
FIELD: Final = "form_token"
"""The field of our forms that no other site knows the value of."""
HEADER: Final = "tandem-form"
"""The header that stands for it where the script sends what is no form."""


class EntryError(AdminError):
    """The visitor may not, or what is asked for is not there; said on a page."""


class SignInError(Exception):
    """Nobody has signed in, or it was too long ago."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who looks. `proof` is the value that forms must come back with; `signed` tells whether a
    token was needed, so that there is something to sign out of. `fresh` is the cookie that a page
    must set for its forms to be proved by, if the visitor came with none.
    """

    operator: Operator
    proof: str
    signed: bool
    fresh: str = ""

    @property
    def name(self) -> str:
        """Whose token it was."""
        return self.operator.name

    @property
    def may_change(self) -> bool:
        """Whether the pages offer changes at all."""
        return self.operator.may(Role.OPERATOR)


# --------------------------------------------------------------------------------------- looking


def looking(request: Request) -> Visitor:
    """Whoever may see the pages. Raises `SignInError`, or `EntryError` 403."""
    sent = request.cookies.get(_cookie_name(request), "")
    if not (operators := _operators(request)):
        try:
            local = authorise(request, "", Role.VIEWER)
        except AdminError as error:
            raise EntryError(error.status, error.code, str(error)) from None
        fresh = "" if sent else secrets.token_hex(16)
        return Visitor(local, _proof(b"", sent or fresh), False, fresh)
    name = _signed_name(sent)
    for operator, key in operators.keys().items():
        if operator.name == name and _is_good(sent, key, time.time()):
            request.state.operator = operator
            return Visitor(operator, _proof(key, sent), signed=True)
    raise SignInError


async def changing(request: Request) -> tuple[Visitor, Mapping[str, str]]:
    """An operator who sends one of our forms, and its fields. Raises `EntryError`."""
    visitor = looking(request)
    form = await read_form(request)
    _must_be_ours(request, visitor, form.get(FIELD, ""))
    if not visitor.may_change:
        why = f"{visitor.name} is a {visitor.operator.role} and may look, but not change anything"
        raise EntryError(403, "operator_needed", why)
    return visitor, form


def asking(request: Request) -> Visitor:
    """Whoever may ask the models from here: an operator, or anybody who brings an API key."""
    visitor = looking(request)
    _must_be_ours(request, visitor, request.headers.get(HEADER, ""))
    if not visitor.may_change and not request.headers.get("x-api-key"):
        raise EntryError(403, "operator_needed", "a viewer needs an API key to ask the models")
    return visitor


async def own_form(request: Request) -> dict[str, str]:
    """A form of ours from whoever it may be: the sign-in's. Raises `EntryError`."""
    _must_be_same_origin(request)
    return await read_form(request)


def _must_be_ours(request: Request, visitor: Visitor, proof: str) -> None:
    _must_be_same_origin(request)
    if not hmac.compare_digest(proof.encode(), visitor.proof.encode()):
        why = "this form is not of this sign-in: load its page again, and repeat it"
        raise EntryError(403, "foreign_form", why)


def _must_be_same_origin(request: Request) -> None:
    """The browser says where a form comes from, and no page can make it lie."""
    site = request.headers.get("sec-fetch-site")
    if site is None:
        origin = urlsplit(request.headers.get("origin", ""))
        same = bool(origin.netloc) and origin.netloc == request.headers.get("host")
    else:
        same = site == "same-origin"
    if not same:
        raise EntryError(403, "foreign_form", "this was sent by another site, or by no browser")


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form; of two with one name the last. Raises `EntryError` 413 or 415."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise EntryError(415, "unknown_notation", "this is not a form")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BODY:
            raise EntryError(413, "too_large", f"a form has at most {LARGEST_BODY} bytes")
    text = body.decode("utf-8", "replace")
    fields = parse_qsl(text, keep_blank_values=True, max_num_fields=500)
    return {name: value.replace("\r\n", "\n") for name, value in fields}


# --------------------------------------------------------------------------------------- cookies


def sign_in(request: Request, response: Response, token: str) -> bool:
    """Give `response` the cookie of whoever has this token; False if nobody has it."""
    operators = _operators(request)
    operator = operators.of(token)
    if operator is None:
        return False
    head = f"{_encoded(operator.name)}.{int(time.time()) + LASTS}.{secrets.token_hex(16)}"
    _set(request, response, f"{head}.{_signature(operators.keys()[operator], head)}")
    return True


def welcome(request: Request, response: Response, visitor: Visitor) -> None:
    """Give a visitor who came without a cookie the one to prove forms by."""
    if visitor.fresh:
        _set(request, response, visitor.fresh)


def leave(request: Request, response: Response) -> None:
    """Take the cookie away."""
    response.delete_cookie(_cookie_name(request), path="/ui", httponly=True, samesite="strict")


def _operators(request: Request) -> Operators:
    operators: Operators = request.app.state.operators
    return operators


def _set(request: Request, response: Response, value: str) -> None:
    response.set_cookie(
        _cookie_name(request), value, max_age=LASTS, path="/ui", httponly=True, samesite="strict",
        secure=request.headers.get("origin", "").startswith("https://"),
    )  # fmt: skip


def _cookie_name(request: Request) -> str:
    """Browsers tell hosts apart, not ports; two gateways on one machine must not sign each other's
    operators out.
    """
    host = request.headers.get("host", "")
    port = host.rpartition(":")[2]
    return f"tandem-{port}" if port.isdigit() else "tandem"


def _encoded(name: str) -> str:
    return urlsafe_b64encode(name.encode()).decode().rstrip("=")


def _signed_name(cookie: str) -> str:
    encoded = cookie.partition(".")[0]
    try:
        return urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
    except ValueError:
        return ""


def _is_good(cookie: str, key: bytes, now: float) -> bool:
    head, _, signature = cookie.rpartition(".")
    if not hmac.compare_digest(signature.encode(), _signature(key, head).encode()):
        return False
    return now < int(head.split(".")[1])


def _signature(key: bytes, head: str) -> str:
    return hmac.new(key, b"tandem sign-in " + head.encode(), hashlib.sha256).hexdigest()


def _proof(key: bytes, cookie: str) -> str:
    return hmac.new(key, b"tandem form " + cookie.encode(), hashlib.sha256).hexdigest()

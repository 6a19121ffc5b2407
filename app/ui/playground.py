"""The playground: a chat, asked of the clients' own application without a socket in between.

A browser may not call the clients' port from here: it is another origin. So this endpoint hands the
request to the gateway's ASGI application in this process, with the header that makes it tell who
wrote what, and the browser's connection with it: the answer streams, a slow browser slows it down,
and one that hangs up stops the models, all as for any client. Nothing of it is looked at or kept.

With API keys configured the visitor types one into the page; it travels as a client's would, and
is the gateway's to judge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fastapi import APIRouter, Depends, Response
from starlette.types import Receive, Scope, Send

from app.admin_audit import AuditedRoute
from app.gateway import Gateway
from app.report import QUESTION
from app.ui.entry import asking
from app.ui.looking import Around, Looks
from router.runtime import Runtime
from router.wire import EXPLAIN

__all__ = ["playground_routes"]

PATH = "/v1/chat/completions"
PASSED = frozenset({b"content-type", b"content-length", b"x-api-key"})
"""Headers that go on to the gateway: the visitor's cookie is none of its business."""


def playground_routes() -> APIRouter:
    """Its page, and what the page asks."""
    routes = APIRouter(prefix="/ui/playground", include_in_schema=False, route_class=AuditedRoute)
    routes.add_api_route("", get_playground)
    guard = [Depends(asking)]
    routes.add_api_route("/chat", post_chat, methods=["POST"], dependencies=guard)
    return routes


@dataclass(frozen=True, slots=True)
class Target:
    """What can be asked: a policy, or a model."""

    name: str
    kind: str
    default: bool


def targets_of(runtime: Runtime) -> Iterator[Target]:
    """Policies first, as they stand in the document, then models."""
    for name in (*runtime.config.policies, *runtime.pools):
        yield Target(name, runtime.kinds[name], name == runtime.default)


async def get_playground(visitor: Looks, here: Around) -> Response:
    """The page: the script does the rest."""
    runtime = here.sources.revisions.runtime
    keyed = here.sources.gateway.keys is not None
    return here.page(
        "playground.html",
        visitor,
        targets=list(targets_of(runtime)),
        large=runtime.baseline,
        keyed=keyed,
        may_ask=keyed or visitor.may_change,
        question=QUESTION,
    )


async def post_chat(here: Around) -> Response:
    """A client's chat, as OpenAI's API has it; what comes back is the gateway's own answer."""
    return Handed(here.sources.gateway)


class Handed(Response):
    """Not an answer but who gives it."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__()
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the gateway answer."""
        headers = [(name, value) for name, value in scope["headers"] if name in PASSED]
        headers.append((EXPLAIN.encode(), b"1"))
        await self._gateway({**scope, "path": PATH, "headers": headers}, receive, send)

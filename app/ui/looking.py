"""The pages that only show: overview, backends, decisions, and the sign-in before them.

Handlers read the sources, shape what they say, and hand it to a template. They are `async` and
quick: a page costs some milliseconds of the loop that also serves clients, of which reading the
metrics is the largest part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from app.admin_audit import AuditedRoute
from app.admin_models import backend_views
from app.ui.entry import (
    EntryError,
    Visitor,
    leave,
    looking,
    own_form,
    sign_in,
)
from app.ui.figures import charts_of, figures_of, money_of, styles_of
from app.ui.paper import HEADERS, Paper
from app.ui.recent import Decision
from app.ui.sources import Sources

__all__ = ["Around", "Here", "Looks", "ToldError", "around", "looking_routes"]

WINDOWS = {"5m": ("5 minutes", 300.0), "1h": ("hour", 3600.0), "6h": ("6 hours", 21_600.0)}
"""What an overview can look back over."""
SHOWN = 12
"""Decisions on the overview."""

Looks = Annotated[Visitor, Depends(looking)]


class ToldError(EntryError):
    """A refusal that has a page of its own."""

    def __init__(self, page: Response, status: int, code: str) -> None:
        super().__init__(status, code, code)
        self.page = page


@dataclass(frozen=True, slots=True)
class Here:
    """What every handler works with."""

    sources: Sources
    paper: Paper
    request: Request

    def page(
        self, template: str, visitor: Visitor | None, status: int = 200, **told: Any
    ) -> Response:
        """A page with what stands on all of them: which revision serves."""
        revisions, runtime = self.sources.revisions, self.sources.revisions.runtime
        common = {
            "active": revisions.active,
            "behind": revisions.behind,
            "runtime": runtime,
            "styles": styles_of(runtime),
        }
        return self.paper.page(template, self.request, visitor, {**common, **told}, status)


def around(request: Request) -> Here:
    """The room that this request is in."""
    return Here(request.app.state.ui_sources, request.app.state.ui_paper, request)


Around = Annotated[Here, Depends(around)]


def looking_routes() -> APIRouter:
    """Their paths."""
    routes = APIRouter(prefix="/ui", include_in_schema=False, route_class=AuditedRoute)
    routes.add_api_route("", get_overview)
    routes.add_api_route("/backends", get_backends)
    routes.add_api_route("/decisions", get_decisions)
    routes.add_api_route("/sign-in", get_sign_in)
    routes.add_api_route("/sign-in", post_sign_in, methods=["POST"])
    routes.add_api_route("/sign-out", post_sign_out, methods=["POST"])
    routes.add_api_route("/static/{digest}/{name}", get_static)
    return routes


async def get_overview(visitor: Looks, here: Around, window: str = "5m") -> Response:
    """Traffic, cost, savings, latency, errors, and the last decisions."""
    chosen = window if window in WINDOWS else "5m"
    runtime = here.sources.revisions.runtime
    found = await here.sources.history.window(WINDOWS[chosen][1])
    decisions = await here.sources.decisions()
    return here.page(
        "overview.html",
        visitor,
        window=chosen,
        windows=WINDOWS,
        figures=figures_of(found, runtime),
        charts=charts_of(found, runtime),
        age=found.age,
        machines=len({sign.host for sign in await here.sources.member.signs() if sign.alive}),
        total=money_of(here.sources.history.whole(found)),
        backends=backend_views(runtime),
        decisions=decisions[:SHOWN],
    )


async def get_backends(visitor: Looks, here: Around) -> Response:
    """Every backend: state, load, how its calls ended, sleep, and what it can do."""
    runtime = here.sources.revisions.runtime
    found = await here.sources.history.window(WINDOWS["5m"][1])
    views = backend_views(runtime)
    calls = {
        view.backend: found.by("tandem_attempts_total", "outcome", backend=view.backend)
        for view in views
    }
    return here.page("backends.html", visitor, backends=views, calls=calls, seconds=found.seconds)


async def get_decisions(
    visitor: Looks, here: Around, policy: str = "", reason: str = "", failed: str = ""
) -> Response:
    """The last decisions, of one policy or one reason if asked."""
    kept = await here.sources.decisions()
    shown = [
        one
        for one in kept
        if (not policy or one.policy == policy)
        and (not reason or one.reason == reason)
        and (not failed or one.fault is not None)
    ]
    return here.page(
        "decisions.html",
        visitor,
        decisions=shown,
        kept=len(kept),
        policies=_distinct(kept, "policy"),
        reasons=_distinct(kept, "reason"),
        chosen={"policy": policy, "reason": reason, "failed": failed},
    )


def _distinct(decisions: Sequence[Decision], what: str) -> Sequence[str]:
    return sorted({value for one in decisions if (value := getattr(one, what))})


# ------------------------------------------------------------------------------- entry, and files


async def get_sign_in(here: Around, to: str = "/ui") -> Response:
    """Ask for the token."""
    return here.paper.page("sign_in.html", here.request, None, {"to": _inside(to), "problem": ""})


async def post_sign_in(here: Around) -> Response:
    """Exchange it for a cookie."""
    form = await own_form(here.request)
    to = _inside(form.get("to", ""))
    response: Response = RedirectResponse(to, 303, HEADERS)
    if sign_in(here.request, response, form.get("token", "")):
        return response
    told = {"to": to, "problem": "this is not the token of anybody"}
    page = here.paper.page("sign_in.html", here.request, None, told, 401)
    raise ToldError(page, 401, "unauthorised")


async def post_sign_out(here: Around) -> Response:
    """Forget the cookie; a viewer may do that, too."""
    await own_form(here.request)
    response = RedirectResponse("/ui/sign-in", 303, HEADERS)
    leave(here.request, response)
    return response


async def get_static(here: Around, digest: str, name: str) -> Response:
    """The style sheet, the script, the icon: they need no sign-in."""
    if (file := here.paper.file(name, digest)) is None:
        raise EntryError(404, "unknown", "there is no such file")
    return file


def _inside(path: str) -> str:
    """`path` if it is one of ours, lest a link lead from our sign-in to somebody else's page."""
    parts = urlsplit(path)
    ours = not parts.scheme and not parts.netloc and parts.path.split("/")[1:2] == ["ui"]
    return path if ours and "\\" not in path else "/ui"

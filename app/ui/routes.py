"""The pages' place on the admin listener: all of their paths, and what is said where one fails."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from app.ui.changing import changing_routes
from app.ui.entry import EntryError, SignInError, looking
from app.ui.looking import ToldError, around, looking_routes
from app.ui.paper import HEADERS, Paper
from app.ui.playground import playground_routes
from app.ui.sources import Sources

__all__ = ["add_ui"]


def add_ui(app: FastAPI, sources: Sources) -> None:
    """Add the pages to the admin application."""
    app.state.ui_sources = sources
    app.state.ui_paper = Paper()
    app.include_router(looking_routes())
    app.include_router(playground_routes())
    app.include_router(changing_routes())
    rest = APIRouter(prefix="/ui", include_in_schema=False)
    rest.add_api_route("/{path:path}", get_nothing, dependencies=[Depends(looking)])
    app.include_router(rest)
    app.add_exception_handler(EntryError, _on_refusal)
    app.add_exception_handler(SignInError, _on_stranger)


async def get_nothing(path: str) -> Response:
    """A page that is not there."""
    if not path:
        return RedirectResponse("/ui", 308, HEADERS)
    raise EntryError(404, "unknown", f"there is no page /ui/{path}")


async def _on_refusal(request: Request, error: Exception) -> Response:
    """Say why, on a page; to the script, in words alone."""
    assert isinstance(error, EntryError)
    if isinstance(error, ToldError):
        return error.page
    if "text/html" not in request.headers.get("accept", ""):
        return Response(str(error), error.status, HEADERS, "text/plain; charset=utf-8")
    try:
        visitor = looking(request)
    except (EntryError, SignInError):
        told = {"message": str(error), "number": error.status}
        return around(request).paper.page("stranger.html", request, None, told, error.status)
    return around(request).page(
        "refusal.html", visitor, error.status, message=str(error), number=error.status
    )


async def _on_stranger(request: Request, _error: Exception) -> Response:
    """Ask for the token, and come back here afterwards; a change is not repeated."""
    if "text/html" not in request.headers.get("accept", ""):
        return Response("sign in first", 401, HEADERS, "text/plain; charset=utf-8")
    to = quote(request.url.path) if request.method == "GET" else "/ui"
    return RedirectResponse(f"/ui/sign-in?to={to}", 303, HEADERS)

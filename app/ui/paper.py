"""What every page is made of: templates, static files, and the headers that keep a page to itself.

A page may load and send nothing but what comes from its own origin; there is no inline script and
no inline style. Templates escape whatever they are given. Static files are named by what is in
them, so that a browser keeps them until they change.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.ui.entry import FIELD, Visitor, welcome
from app.ui.words import FILTERS

__all__ = ["HEADERS", "Paper"]

HERE = Path(__file__).parent
KINDS = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""On everything below /ui. A stricter referrer policy would hide from us where our forms come
from."""
KEEP = "public, max-age=31536000, immutable"


class Paper:
    """Templates and static files, read once."""

    def __init__(self) -> None:
        self._static = {path.name: path.read_bytes() for path in (HERE / "static").iterdir()}
        self._templates = _environment()

    def address(self, name: str) -> str:
        """Where a static file is; another one once it has changed."""
        return f"/ui/static/{self._digest(name)}/{name}"

    def file(self, name: str, digest: str) -> Response | None:
        """A static file; None if there is none of that name. At an address that another version of
        this program has given it, it is not kept.
        """
        if name not in self._static:
            return None
        kind = KINDS[Path(name).suffix]
        keep = KEEP if digest == self._digest(name) else "no-store"
        headers = {**HEADERS, "Cache-Control": keep}
        return Response(self._static[name], media_type=kind, headers=headers)

    def _digest(self, name: str) -> str:
        return hashlib.sha256(self._static[name]).hexdigest()[:12]

    def page(
        self,
        template: str,
        request: Request,
        visitor: Visitor | None,
        told: Mapping[str, Any],
        status: int = 200,
    ) -> Response:
        """A page, which nobody may keep: it shows what is now."""
        body = self._templates.get_template(template).render(
            {"visitor": visitor, "path": request.url.path, "static": self.address, **told}
        )
        response = HTMLResponse(body, status, {**HEADERS, "Cache-Control": "no-store"})
        if visitor is not None:
            welcome(request, response, visitor)
        return response


@functools.cache
def _environment() -> Environment:
    """The templates, compiled now and not while clients wait."""
    templates = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.filters.update(FILTERS)
    templates.globals["FORM_FIELD"] = FIELD
    for name in templates.list_templates():
        templates.get_template(name)
    return templates

"""A visitor of the pages who has no eyes: reads them as a browser does, fills forms, sends them.

Every page that is read is looked at: its tags are balanced, every field has a label, what is
referred to is there, and nothing comes from elsewhere or stands in the page as a script or a style.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import httpx

from app.admin import admin_app
from app.audit import Audit
from app.operators import Operator, Operators, Role
from app.serve import listening
from app.ui.routes import add_ui
from tests.running import Running, http

VOID = {"meta", "link", "input", "img", "br"}
HTML = {"accept": "text/html"}
OLGA, VERA = Operator("olga", Role.OPERATOR), Operator("vera", Role.VIEWER)
TOKENS = {OLGA: "olgas-canary-token", VERA: "veras-canary-token"}
"""Those who may sign in, where a test wants a sign-in."""


@dataclass(slots=True)
class Sent:
    """A form: where it goes to, its fields as they stand, and the buttons that send it."""

    method: str
    action: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[tuple[str, str]] = field(default_factory=list)
    disabled: int = 0


class Page(HTMLParser):
    """One page, read."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.answer = answer
        self.status = answer.status_code
        self.forms: list[Sent] = []
        self.ids: set[str] = set()
        self.referred: set[str] = set()
        self.unlabelled: list[str] = []
        self.words: list[str] = []
        self._labels: set[str] = set()
        self._open: list[str] = []
        self._fields: list[tuple[str, bool]] = []
        self._text: str | None = None
        self._select: tuple[str, list[tuple[str, bool]]] | None = None
        self.feed(answer.text)
        assert not self._open, self._open
        assert not self.referred - self.ids, self.referred - self.ids
        self.unlabelled = [
            name for name, inside in self._fields if not inside and name not in self._labels
        ]
        assert not self.unlabelled, self.unlabelled

    @property
    def text(self) -> str:
        """All words of the page, with one blank between."""
        return " ".join(" ".join(self.words).split()).replace(" :", ":")

    def form(self, action: str) -> Sent:
        """The first form that goes there."""
        return next(form for form in self.forms if form.action == action)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        assert "style" not in told
        assert not [name for name in told if name.startswith("on")]
        for name in ("src", "href", "action"):
            assert not re.match(r"[a-z]+:|//", told.get(name, "")), told[name]
        if tag == "script":
            assert told.get("src")
        if tag not in VOID:
            self._open.append(tag)
        if "id" in told:
            assert told["id"] not in self.ids, told["id"]
            self.ids.add(told["id"])
        for name in ("aria-describedby", "aria-labelledby", "for"):
            self.referred |= set(told.get(name, "").split())
        self._labels |= {told["for"]} if tag == "label" and "for" in told else set()
        self._take(tag, told)

    def _take(self, tag: str, told: Mapping[str, str]) -> None:
        if tag == "form":
            self.forms.append(Sent(told.get("method", "get"), told.get("action", "")))
            return
        if tag in ("input", "select", "textarea") and told.get("type") != "hidden":
            self._fields.append((told.get("id", "?"), "label" in self._open))
        if tag == "option" and self._select:
            self._select[1].append((told.get("value", "\0"), "selected" in told))
        if not self.forms:
            return
        form = self.forms[-1]
        if tag in ("input", "select", "textarea", "button") and "disabled" in told:
            form.disabled += 1
        elif tag == "input" and (told.get("type") != "checkbox" or "checked" in told):
            form.fields[told.get("name", "")] = told.get("value", "")
        elif tag == "button":
            form.buttons.append((told.get("name", ""), told.get("value", "")))
        elif tag == "textarea":
            self._text = ""
            form.fields[told.get("name", "")] = ""
        elif tag == "select":
            self._select = (told.get("name", ""), [])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._text is not None:
            self._text += data
        elif self._select and self._select[1] and self._select[1][-1][0] == "\0":
            self._select[1][-1] = (data, self._select[1][-1][1])

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self._open.pop() == tag, tag
        if tag == "textarea" and self._text is not None:
            self.forms[-1].fields[list(self.forms[-1].fields)[-1]] = self._text.removeprefix("\n")
            self._text = None
        if tag == "select" and self._select:
            name, options = self._select
            chosen = [value for value, selected in options if selected]
            self.forms[-1].fields[name] = (chosen or [options[0][0]])[-1]
            self._select = None


@dataclass(slots=True)
class Guest:
    """A browser: keeps cookies, says where it comes from."""

    url: str
    client: httpx.AsyncClient
    running: Running

    async def read(self, path: str = "/ui") -> Page:
        """The page there; a redirection is followed."""
        return Page(await self.client.get(path, headers=HTML, follow_redirects=True))

    async def send(self, form: Sent, do: str = "", /, **changes: str) -> Page:
        """Send this form with these changes, by the button that says `do`."""
        fields = {**form.fields, **changes, **({"do": do} if do else {})}
        assert not do or ("do", do) in form.buttons
        head = {**HTML, "origin": self.url, "sec-fetch-site": "same-origin"}
        return Page(
            await self.client.post(form.action, data=fields, headers=head, follow_redirects=True)
        )

    async def sign_in(self, token: str) -> Page:
        """Sign in with this token."""
        page = await self.read()
        return await self.send(page.form("/ui/sign-in"), token=token)

    async def revision(self) -> int:
        """The number of the revision that serves."""
        return self.running.rooms.revisions.active.number


@asynccontextmanager
async def visiting(
    running: Running, operators: Operators | None = None, audit: Audit | None = None
) -> AsyncIterator[Guest]:
    """A guest of this gateway's pages, on a listener of their own."""
    app: Any = admin_app(running.rooms.revisions, operators or Operators({}), None, audit)
    add_ui(app, running.rooms.sources)
    async with listening(app) as url, http(url) as client:
        yield Guest(url, client, running)

"""Files and documents that a request's body holds as values of their own: their text, or why none.

Knows the shapes: the `documents` field of vLLM and Cohere, the file parts of OpenAI's chat and
responses, the document blocks of Anthropic's messages. Only what is text is decoded; a PDF or a
picture is for a model that can read it. Nothing here raises on any JSON.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

READABLE = {
    "txt": "text/plain", "text": "text/plain", "log": "text/plain", "rst": "text/plain",
    "md": "text/markdown", "markdown": "text/markdown", "csv": "text/csv",
    "tsv": "text/tab-separated-values", "html": "text/html", "htm": "text/html",
    "xhtml": "text/html", "json": "application/json", "jsonl": "application/json",
}  # fmt: skip
"""The media type of files whose text is read, by what their names end in."""
_TEXT_TYPES = frozenset({
    *READABLE.values(), "text/x-markdown", "application/xhtml+xml", "application/x-ndjson",
    "application/jsonl", "application/csv",
})  # fmt: skip
_EMPTY, _UNKNOWN = "a file without content", "a file of unknown kind"
_KIND = re.compile(r"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,80}|[a-z0-9]{1,8}")
"""A media type, or what a name ends in. Reasons name kinds, and no other word of a client's."""
_HTML = frozenset({"text/html", "application/xhtml+xml"})
_IDS = ("id", "document_id", "doc_id")
_TITLES = ("title", "name", "filename", "file_name", "source", "url", "path")
_BODIES = ("text", "contents", "content", "snippet", "page_content", "body", "passage")
_MOST_ID = 200
"""Characters of an id or a title: they are written before every passage."""


@dataclass(frozen=True, slots=True)
class Filed:
    """A text with the client's names for it, either of which may be empty."""

    text: str
    id: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True)
class Unread:
    """A file whose text cannot be had here; `kind` says what it is: `application/pdf`."""

    kind: str


def documents_in(value: Any) -> list[Filed] | str:
    """The documents of a `documents` field, or a sentence that says why they cannot be read."""
    if not isinstance(value, list):
        return "the field `documents` is not a list"
    found = [_document(each) for each in value]
    read = [each for each in found if each is not None]
    if len(read) < len(found):
        return "the field `documents` holds something that is no document"
    return read


def _document(value: Any) -> Filed | None:
    if isinstance(value, str):
        return Filed(value)
    if not isinstance(value, Mapping):
        return None
    inner = value.get("data", value.get("document"))
    if isinstance(inner, str):
        return Filed(inner, name_in(value, _IDS), name_in(value, _TITLES))
    told = inner if isinstance(inner, Mapping) else value
    text = _body(told)
    if text is None:
        return None
    ids = name_in(value, _IDS) or name_in(told, _IDS)
    return Filed(text, ids, name_in(told, _TITLES) or name_in(value, _TITLES))


def _body(told: Mapping[str, Any]) -> str | None:
    """The text of a document: its known field, or all that it says, a line a field."""
    for key in _BODIES:
        value = told.get(key)
        if isinstance(value, str):
            return value
        if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
            return "\n".join(value)
    known = {*_IDS, *_TITLES}
    lines = [
        f"{key}: {value}"
        for key, value in told.items()
        if key not in known and isinstance(value, str | int | float)
    ]
    return "\n".join(lines) if lines else None


def name_in(told: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """The first of these that is a name, in one line and of a bearable length."""
    for key in keys:
        value = told.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return " ".join(str(value)[: 2 * _MOST_ID].split())[:_MOST_ID]
    return ""


# --------------------------------------------------------------------------------- parts


def file_in(part: Mapping[str, Any]) -> Filed | Unread:
    """The text of a file part, whichever API it is of."""
    if part.get("type") == "document":
        return _block(part)
    file = part.get("file") if part.get("type") == "file" else part
    if not isinstance(file, Mapping):
        return Unread(_EMPTY)
    name = name_in(file, ("filename",))
    data = file.get("file_data")
    if not isinstance(data, str):
        return Unread("a file by reference")
    kind, encoded = _split(data)
    return decoded(encoded, kind or kind_of(name), name)


def _block(part: Mapping[str, Any]) -> Filed | Unread:
    """Anthropic's document block."""
    source, title = part.get("source"), name_in(part, ("title",))
    if not isinstance(source, Mapping):
        return Unread(_EMPTY)
    kind, data = source.get("type"), source.get("data")
    if kind == "base64" and isinstance(data, str):
        return decoded(data, str(source.get("media_type", "")), title)
    if kind == "text" and isinstance(data, str):
        return Filed(data, title=title)
    if kind != "content":
        return Unread("a file by reference")
    content = source.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = [text for each in parts if (text := _text(each)) is not None]
    if len(texts) < len(parts):
        return Unread("a document with pictures")
    return Filed("\n\n".join(texts), title=title)


def _text(part: Any) -> str | None:
    text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
    return text if isinstance(text, str) else None


def _split(data: str) -> tuple[str, str]:
    """The media type and the base64 of a data URL; bare base64 has no type."""
    if not data.startswith("data:"):
        return "", data
    comma = data.find(",", 0, 1000)
    if comma < 0:
        return _EMPTY, ""
    head = data[len("data:") : comma].split(";")
    return head[0].strip() or "text/plain", data[comma + 1 :] if "base64" in head else ""


def kind_of(name: str) -> str:
    """The media type that a file's name tells, or what it ends in."""
    ending = name.rpartition(".")[2].lower() if "." in name else ""
    return READABLE.get(ending, ending or _UNKNOWN)


def decoded(encoded: str, kind: str, name: str) -> Filed | Unread:
    """A file of this media type from its base64."""
    kind = kind.partition(";")[0].strip().lower()
    if kind not in _TEXT_TYPES:
        return Unread(kind if kind == _EMPTY or _KIND.fullmatch(kind) else _UNKNOWN)
    try:
        data = base64.b64decode(encoded, validate=False)
    except (binascii.Error, ValueError):
        return Unread(f"{kind} that is not base64")
    text = text_of(data, page=kind in _HTML)
    return Unread(f"{kind} that is not UTF-8") if text is None else Filed(text, title=name)


def text_of(data: bytes, *, page: bool = False) -> str | None:
    """The text of a file; None where it is none: not UTF-8 (nor UTF-16 that says so), or binary."""
    marked = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    return plain(text) if page else text


# ---------------------------------------------------------------------------------- HTML


_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "br", "dd", "div", "dl", "dt",
    "figcaption", "footer", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav",
    "ol", "p", "pre", "section", "table", "title", "tr", "ul",
})  # fmt: skip
_HIDDEN = frozenset({"script", "style", "template", "noscript", "svg", "!--"})
_MARKUP = re.compile(r"<(/?)(!--|[a-z][a-z0-9]*)[^<>]*>?|<[!?][^<>]*>", re.IGNORECASE)


def plain(page: str) -> str:
    """What a page of HTML shows, in paragraphs. Each character is looked at a few times at most."""
    said: list[str] = []
    endless: set[str] = set()
    at = 0
    while mark := _MARKUP.search(page, at):
        said.append(page[at : mark.start()])
        at, name = mark.end(), (mark[2] or "").lower()
        if name in _HIDDEN and not mark[1] and name not in endless:
            start = mark.start() + len("<!--") if name == "!--" else at
            found = re.compile("-->" if name == "!--" else f"</{name}[^<>]*>", re.IGNORECASE)
            if end := found.search(page, start):
                at = end.end()
            else:
                endless.add(name)
        elif name in _BLOCKS:
            said.append("\n\n")
    said.append(page[at:])
    paragraphs = html.unescape("".join(said)).split("\n\n")
    return "\n\n".join(line for each in paragraphs if (line := " ".join(each.split())))

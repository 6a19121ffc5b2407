"""The admin API's corpora: documents that are kept with the gateway.

Handlers over `app.corpora`: they read a request, make one call in a thread, and shape the answer.
Where corpora lie, and how large they may be, the active configuration says. Who may use this is
decided in `app.admin_guard`, as for the rest of the admin API; what a web form could send
(`multipart/form-data`) is refused there by its `Origin`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from email import message_from_bytes
from email.policy import HTTP
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.admin_audit import note
from app.admin_errors import AdminError
from app.admin_guard import expected_etags
from app.admin_models import ProblemView, View
from app.corpora import Corpora, Given, StaleCorpusError, TooLargeError, UnknownCorpusError
from app.corpus_files import FileError, document_of, files_below, import_folder, read_file
from policies.reading.corpus import CorpusError, Manifest
from policies.reading.documents import digest
from router.revisions import Revisions
from router.sections import CorporaConfig

T = TypeVar("T")
IfMatch = Annotated[
    str | None, Header(description='The ETag that the change was meant for, or "*" for any.')
]
MEBIBYTE = 1 << 20


# -------------------------------------------------------------------------------------- answers


class EntryView(View):
    """A document of a corpus."""

    id: str
    title: str
    path: str
    """The file that it came from; empty if it came as text."""
    characters: int


class CorpusView(View):
    """A corpus, without its documents."""

    name: str
    revision: int
    """How often it has changed, from 1."""
    etag: str
    folder: str
    """What a policy calls it."""
    documents: int
    characters: int


class CorporaView(View):
    """The corpora that can be read, by name."""

    corpora: list[CorpusView]
    damaged: list[str]
    """Why others cannot be read, a line each."""


class CorpusDetail(CorpusView):
    """A corpus and what is in it."""

    entries: list[EntryView]


class CorpusChange(CorpusView):
    """A corpus after a change, and the files that could not be taken up."""

    problems: list[ProblemView] = Field(default_factory=list)


# --------------------------------------------------------------------------------------- bodies


class DocumentBody(BaseModel):
    """A document that comes as text."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: str = ""
    title: str = ""
    text: str


class CorpusBody(BaseModel):
    """What is put into a corpus."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str
    documents: list[DocumentBody] = Field(default_factory=list)
    folder: str | None = None
    replace: bool = False


_POST = {
    "requestBody": {
        "required": True,
        "description": (
            "JSON: documents as text, or a folder below `corpora.import_from`. Or a form: the "
            "fields `name` and `replace`, and files."
        ),
        "content": {
            "application/json": {"schema": CorpusBody.model_json_schema()},
            "multipart/form-data": {"schema": {"type": "object"}},
        },
    }
}


def add_corpora(see: APIRouter, change: APIRouter) -> None:
    """Add the paths below `/corpora` to the routes of viewers and to those of operators."""
    tags: list[str | Enum] = ["corpora"]
    add = see.add_api_route
    add("/corpora", get_corpora, tags=tags)
    add("/corpora/{name}", get_corpus, tags=tags)
    add = change.add_api_route
    add("/corpora", post_corpus, methods=["POST"], tags=tags, openapi_extra=_POST)
    add("/corpora/{name}", delete_corpus, methods=["DELETE"], tags=tags)
    document = "/corpora/{name}/documents/{document:path}"
    add(document, delete_document, methods=["DELETE"], tags=tags)


# ------------------------------------------------------------------------------------- handlers


async def get_corpora(request: Request) -> CorporaView:
    """The corpora that are kept here."""
    corpora = _corpora(request)
    manifests = await _done(corpora.every)
    views = [CorpusView(**_told(corpora, each)) for each in manifests]
    return CorporaView(corpora=views, damaged=await _done(corpora.damaged))


async def get_corpus(name: str, request: Request, response: Response) -> CorpusDetail:
    """One corpus with the names and sizes of its documents."""
    corpora = _corpora(request)
    manifest = await _done(lambda: corpora.one(name))
    response.headers["etag"] = f'"{manifest.etag}"'
    entries = [
        EntryView(id=e.id, title=e.title, path=e.path, characters=e.characters)
        for e in manifest.entries
    ]
    return CorpusDetail(**_told(corpora, manifest), entries=entries)


async def post_corpus(
    request: Request, response: Response, if_match: IfMatch = None
) -> CorpusChange:
    """Make a corpus, add to it or replace it: documents with the same id replace each other."""
    settings, corpora = _settings(request), _corpora(request)
    body = await _read(request, corpora.limit)
    kind = request.headers.get("content-type", "")
    expected = expected_etags(if_match)

    def change() -> tuple[Manifest, list[ProblemView]]:
        wanted, given, problems = _given(kind, body, settings)
        if not given:
            first = f": {problems[0].path}: {problems[0].reason}" if problems else ""
            raise CorpusError(f"there is no document in what was sent{first}")
        before = _known(corpora, wanted.name)
        put = corpora.put(wanted.name, given, anew=wanted.replace, expected=expected)
        note(request, before, _mark(put))
        return put, problems

    manifest, problems = await _done(change)
    response.headers["etag"] = f'"{manifest.etag}"'
    return CorpusChange(**_told(corpora, manifest), problems=problems)


async def delete_corpus(name: str, request: Request, if_match: IfMatch = None) -> CorporaView:
    """Remove a corpus, and list those that are left; policies that name it find no documents."""
    corpora, expected = _corpora(request), expected_etags(if_match)
    before = await asyncio.to_thread(_known, corpora, name)
    await _done(lambda: corpora.drop(name, expected))
    note(request, before, None)
    return await get_corpora(request)


async def delete_document(
    name: str, document: str, request: Request, response: Response, if_match: IfMatch = None
) -> CorpusChange:
    """Remove one document of a corpus, by its id."""
    corpora, expected = _corpora(request), expected_etags(if_match)
    before = await asyncio.to_thread(_known, corpora, name)
    manifest = await _done(lambda: corpora.take(name, document, expected))
    note(request, before, _mark(manifest))
    response.headers["etag"] = f'"{manifest.etag}"'
    return CorpusChange(**_told(corpora, manifest))


def _settings(request: Request) -> CorporaConfig:
    revisions: Revisions = request.app.state.revisions
    return revisions.runtime.config.corpora


def _corpora(request: Request) -> Corpora:
    settings = _settings(request)
    return Corpora(Path(settings.folder), int(settings.limit_mb * MEBIBYTE))


def _told(corpora: Corpora, manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "revision": manifest.revision,
        "etag": manifest.etag,
        "folder": str(corpora.folder / manifest.name),
        "documents": len(manifest.entries),
        "characters": manifest.characters,
    }


def _mark(manifest: Manifest) -> dict[str, Any]:
    """How the audit log calls a state of a corpus."""
    return {"corpus": manifest.name, "revision": manifest.revision, "etag": manifest.etag}


def _known(corpora: Corpora, name: str) -> dict[str, Any] | None:
    try:
        return _mark(corpora.one(name))
    except CorpusError:
        return None


async def _done(call: Callable[[], T]) -> T:
    """What a call gives, made in a thread; what it refuses is an answer."""
    try:
        return await asyncio.to_thread(call)
    except CorpusError as error:
        _refuse(error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise AdminError(507, "disk", f"{where}{error.strerror or error}") from None


def _refuse(error: CorpusError) -> NoReturn:
    if isinstance(error, UnknownCorpusError):
        raise AdminError(404, "unknown", str(error)) from None
    if isinstance(error, StaleCorpusError):
        raise AdminError(412, "stale", str(error)) from None
    if isinstance(error, TooLargeError):
        raise AdminError(413, "too_large", str(error)) from None
    raise AdminError(422, "invalid_corpus", str(error)) from None


# -------------------------------------------------------------------------------------- reading


async def _read(request: Request, most: int) -> bytes:
    """The request's body; `AdminError` 413 if it is larger."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            why = f"an upload has at most {most / MEBIBYTE:g} MiB (corpora.limit_mb)"
            raise AdminError(413, "too_large", why)
    return bytes(body)


def _given(
    kind: str, body: bytes, settings: CorporaConfig
) -> tuple[CorpusBody, list[Given], list[ProblemView]]:
    """What is wanted, its documents, and the files that are none. Raises CorpusError."""
    named = kind.partition(";")[0].strip().lower()
    if named == "multipart/form-data":
        fields, files = _form(kind, body)
        wanted = _wanted({**fields, "replace": fields.get("replace", "false") == "true"})
        return wanted, *_documents(files)
    if named != "application/json":
        raise AdminError(415, "unknown_notation", "send application/json or multipart/form-data")
    try:
        wanted = _wanted(json.loads(body))
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"the body is not JSON: {error}") from None
    given = [
        Given(each.id or digest([each.text])[:12], each.title, each.text)
        for each in wanted.documents
    ]
    if wanted.folder is None:
        return wanted, given, []
    found, problems = _imported(wanted.folder, settings)
    return wanted, [*given, *found], problems


def _wanted(tree: Any) -> CorpusBody:
    try:
        return CorpusBody.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CorpusError(f"{where}: {first['msg']}" if where else first["msg"]) from None


def _form(kind: str, body: bytes) -> tuple[dict[str, str], dict[str, bytes]]:
    """A form's fields and its files by name."""
    head = f"content-type: {kind}\r\n\r\n".encode("ascii", "replace")
    form = message_from_bytes(head + body, policy=HTTP)
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for part in form.iter_parts() if form.is_multipart() else ():
        data = part.get_payload(decode=True)
        name = part.get_param("name", header="content-disposition")
        if not isinstance(data, bytes):
            continue
        if (file := part.get_filename()) is not None:
            files[file] = data
        elif isinstance(name, str):
            fields[name] = data.decode(errors="replace").strip()
    return fields, files


def _documents(files: Mapping[str, bytes]) -> tuple[list[Given], list[ProblemView]]:
    given: list[Given] = []
    problems: list[ProblemView] = []
    for name, data in files.items():
        try:
            given.append(document_of(name, data))
        except FileError as error:
            problems.append(ProblemView(path=name, reason=str(error)))
    return given, problems


def _imported(folder: str, settings: CorporaConfig) -> tuple[list[Given], list[ProblemView]]:
    """The documents of a folder on this machine."""
    given: list[Given] = []
    problems: list[ProblemView] = []
    size = 0
    try:
        place = import_folder(folder, settings.import_from)
    except FileError as error:
        raise CorpusError(str(error)) from None
    for file in files_below(place):
        name = file.relative_to(place).as_posix()
        try:
            given.append(document_of(name, read_file(file)))
        except FileError as error:
            problems.append(ProblemView(path=name, reason=str(error)))
            continue
        size += len(given[-1].text)
        if size > settings.limit_mb * MEBIBYTE:
            raise TooLargeError(f"the folder has more than {settings.limit_mb:g} MiB of text")
    return given, problems

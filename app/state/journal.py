"""Revisions in a store: one order for all processes, each with its document as it was written.

At a start there are two documents: the file's, and the one that the others serve. The file counts
if it is not the one that the others once started from: somebody has edited it. Otherwise what they
serve counts, since it came from that file by changes that an operator made while it served. Hence
every entry names the file that it descends from, by its etag. It holds the document's content
beside its text: to read YAML again would take the loop some milliseconds for each revision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from app.state.store import Entry, Json, Store, StoreError
from router.config import Document, Form, Table, Written, parse
from router.revisions import JournalError, Revision, first

LOG = "revisions"


class StoredJournal:
    """The journal in `store`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def publish(self, revision: Revision) -> bool:
        """Write down this revision; False if there is one of its number, or a later one."""
        try:
            number = await self._store.append(LOG, _said(revision), after=revision.number - 1)
        except StoreError as error:
            raise JournalError(f"nothing can be changed now: {error}") from error
        return number is not None

    async def since(self, number: int) -> Sequence[Revision]:
        """The revisions after this one, oldest first."""
        try:
            entries = await self._store.entries(LOG, number)
        except StoreError as error:
            raise JournalError(f"nothing can be changed now: {error}") from error
        return [_revision(entry) for entry in entries]

    async def begin(self, document: Document, table: Table) -> tuple[Document, Sequence[Revision]]:
        """What to serve at a start with the file `document`, and the revisions up to it.

        Raises `JournalError`, and `ConfigError` if what the others serve cannot be read here.
        """
        while True:
            past = await self.since(0)
            origin = document.written.etag
            if past and past[-1].origin == origin:
                written = past[-1].written
                if written.etag == origin:
                    return document, past
                source = f"revision {past[-1].number}, which the store says serves now"
                served = await asyncio.to_thread(parse, written.text, table, source, written.form)
                return served, past
            number = past[-1].number + 1 if past else 1
            revision = replace(first(document), number=number)
            if await self.publish(revision):
                return document, [*past, revision]


def _said(revision: Revision) -> Json:
    written = revision.written
    return {
        "when": revision.when.isoformat(),
        "what": revision.what,
        "who": revision.who,
        "origin": revision.origin,
        "tree": written.tree,
        "text": written.text,
        "form": written.form.value,
        "source": written.source,
    }


def _revision(entry: Entry) -> Revision:
    said = entry.value
    return Revision(
        number=entry.number,
        when=datetime.fromisoformat(said["when"]),
        what=said["what"],
        written=Written(said["tree"], said["text"], Form(said["form"]), said["source"]),
        origin=said["origin"],
        who=said["who"],
    )

"""A corpus: documents that stay with the gateway, read from its folder while requests come.

The folder holds `manifest.json`, which says what the corpus is, and `texts`, whose files are named
by the digests of what they hold. `app.corpora` writes it: texts first, then the manifest in one
rename, so whatever is read here is one revision or another and never a mixture. This file knows the
folder's shape and how to read it; it writes nothing and knows no request.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

from policies.reading.documents import Document, digest

MANIFEST = "manifest.json"
TEXTS = "texts"
VECTORS = "vectors.safetensors"
"""What `policies.reading.kept_vectors` keeps there."""
FORMAT = 1
"""Of the manifest; a later one is refused, not guessed at."""
LOOK = 1.0
"""Seconds between two looks at a manifest."""
_TRIES = 3
"""A corpus may be written while it is read: then its texts are gone, and it is read again."""

Stamp: TypeAlias = tuple[int, int, int] | None
logger = logging.getLogger(__name__)


class CorpusError(Exception):
    """A corpus cannot be read or written; the message is one line, for people."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A document in a manifest.

    `path` is the file that it came from and `source` the digest of that file's bytes, both empty
    for one that came as text.
    """

    id: str
    title: str
    path: str
    source: str
    digest: str
    characters: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a corpus holds, in its order; `revision` counts the changes from 1."""

    name: str
    revision: int
    entries: tuple[Entry, ...]

    @property
    def etag(self) -> str:
        """A hash of what it says; an empty corpus that was made anew is the same one."""
        told = (f"{e.id}\0{e.title}\0{e.path}\0{e.digest}" for e in self.entries)
        return digest([self.name, str(self.revision), *told])[:16]

    @property
    def characters(self) -> int:
        """Of all its documents."""
        return sum(entry.characters for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Documents:
    """A corpus at one time. `digest` is equal for equal texts in the same order.

    `trouble` says why there are no documents, or not the newest ones; it is empty if all is well.
    """

    documents: tuple[Document, ...]
    digest: str
    revision: int = 0
    trouble: str = ""


class Corpus:
    """The corpus in a folder, which may come, change and go while requests are served.

    Nothing is read before `now` is called. Any thread may call it. `clock` is monotonic seconds.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self._clock = clock
        self._lock = Lock()
        self._stamp: Stamp = (0, 0, 0)
        self._looked = float("-inf")
        self._held = Documents((), digest([]), trouble=f"{folder}: not read yet")

    def now(self) -> Documents:
        """Its documents, at most `LOOK` seconds old. A broken one leaves the former ones.

        Reads files when the manifest has changed, so it is to be computed off the event loop; those
        who ask meanwhile get the former documents, if there are any.
        """
        if self._clock() - self._looked < LOOK:
            return self._held
        if not self._lock.acquire(blocking=not self._held.documents):
            return self._held
        try:
            if self._clock() - self._looked >= LOOK:
                self._look()
                self._looked = self._clock()
        finally:
            self._lock.release()
        return self._held

    def _look(self) -> None:
        for _ in range(_TRIES):
            stamp = stamp_of(self.folder)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            if stamp is None:
                self._held = Documents((), digest([]), trouble=f"{self.folder}: there is no corpus")
                return
            try:
                self._held = load(self.folder)
            except CorpusError as error:
                self._trouble(str(error))  # unless it has changed meanwhile
            else:
                logger.info("%s: revision %d", self.folder, self._held.revision)

    def _trouble(self, why: str) -> None:
        logger.warning("the former documents stay in use: %s", why)
        former = self._held
        self._held = Documents(former.documents, former.digest, former.revision, why)


def load(folder: Path) -> Documents:
    """The corpus in a folder, every text checked against its digest. Raises CorpusError."""
    manifest = read_manifest(folder)
    documents = tuple(
        Document(entry.id, entry.title, read_text(folder, entry)) for entry in manifest.entries
    )
    return Documents(documents, digest([d.text for d in documents]), manifest.revision)


def text_path(folder: Path, name: str) -> Path:
    """Where the text with this digest lies."""
    return folder / TEXTS / f"{name}.txt"


def read_text(folder: Path, entry: Entry) -> str:
    """A document's text. Raises CorpusError where it is missing or another one."""
    file = text_path(folder, entry.digest)
    try:
        text = file.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{file}: {_said(error)}") from error
    if digest([text]) != entry.digest:
        raise CorpusError(f"{file}: this is not the text that the manifest names")
    return text


def read_manifest(folder: Path) -> Manifest:
    """What a folder's manifest says. Raises CorpusError."""
    file = folder / MANIFEST
    try:
        tree = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CorpusError(f"{file}: {_said(error)}") from error
    if not isinstance(tree, Mapping) or tree.get("format") != FORMAT:
        raise CorpusError(f"{file}: not a manifest of format {FORMAT}")
    try:
        return Manifest(
            name=_typed(tree, "name", str),
            revision=_typed(tree, "revision", int),
            entries=tuple(map(_entry, _typed(tree, "documents", list))),
        )
    except (KeyError, TypeError) as error:
        raise CorpusError(f"{file}: {error.args[0]} is missing or of the wrong kind") from error


def written(manifest: Manifest) -> bytes:
    """A manifest as `read_manifest` reads it."""
    documents = [
        {
            "id": entry.id,
            "title": entry.title,
            "path": entry.path,
            "source": entry.source,
            "digest": entry.digest,
            "characters": entry.characters,
        }
        for entry in manifest.entries
    ]
    tree = {
        "format": FORMAT,
        "name": manifest.name,
        "revision": manifest.revision,
        "documents": documents,
    }
    return json.dumps(tree, indent=1).encode()


def stamp_of(folder: Path) -> Stamp:
    """Changes whenever a manifest does; None if there is none."""
    try:
        found = (folder / MANIFEST).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _entry(tree: Any) -> Entry:
    if not isinstance(tree, Mapping):
        raise TypeError("a document")
    name = _typed(tree, "digest", str)
    if not name.isalnum():  # it becomes a part of a path
        raise TypeError("digest")
    return Entry(
        id=_typed(tree, "id", str),
        title=_typed(tree, "title", str),
        path=_typed(tree, "path", str),
        source=_typed(tree, "source", str),
        digest=name,
        characters=_typed(tree, "characters", int),
    )


def _typed(tree: Mapping[str, Any], key: str, kind: type) -> Any:
    if not isinstance(value := tree[key], kind):
        raise TypeError(key)
    return value


def _said(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__

"""Corpora on disk: made, added to, taken from, listed; by the admin API and by the command line.

A corpus is a folder below `corpora.folder`; `policies.reading.corpus` says what is in it and reads
it. A change writes new texts under names of their own, then the manifest in one rename, then takes
away what no longer belongs: at whatever point it is cut off, the folder holds the old revision or
the new one. One change at a time, across processes too, by a lock on a file beside the folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from policies.reading.corpus import (
    MANIFEST,
    TEXTS,
    VECTORS,
    CorpusError,
    Entry,
    Manifest,
    read_manifest,
    stamp_of,
    text_path,
    written,
)
from policies.reading.documents import digest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")
_LONGEST_ID = 512
"""Characters of an id, a title or a path: they stand in every prompt, or in an answer."""
NEW = ".new"
"""A file that is being written."""
KEPT = frozenset({MANIFEST, TEXTS, VECTORS})
"""What a corpus's folder may hold; all else in it is a leftover of a change that was cut off."""


class UnknownCorpusError(CorpusError):
    """There is no such corpus, or no such document in it."""


class StaleCorpusError(CorpusError):
    """The corpus has changed since it was read."""


class TooLargeError(CorpusError):
    """More than `corpora.limit_mb`."""


@dataclass(frozen=True, slots=True)
class Given:
    """A document to be kept; `path` and `source` are those of an `Entry`."""

    id: str
    title: str
    text: str
    path: str = ""
    source: str = ""


class Corpora:
    """The corpora of one folder, none of which may grow beyond `limit` bytes of text.

    Every method reads or writes files and blocks. Raises CorpusError; OSError where the disk fails.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit

    def every(self) -> list[Manifest]:
        """The manifests of all corpora that can be read, by name."""
        return [each for each in self._all() if isinstance(each, Manifest)]

    def damaged(self) -> list[str]:
        """Of those that cannot be read: why not, by name, a line each."""
        return [str(each) for each in self._all() if isinstance(each, CorpusError)]

    def _all(self) -> Iterator[Manifest | CorpusError]:
        for folder in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            if _NAME.fullmatch(folder.name) and stamp_of(folder) is not None:
                try:
                    yield read_manifest(folder)
                except CorpusError as error:
                    yield error

    def one(self, name: str) -> Manifest:
        """The manifest of a corpus."""
        folder = self._place(name)
        if stamp_of(folder) is None:
            raise UnknownCorpusError(f"there is no corpus {name!r}")
        return read_manifest(folder)

    def put(
        self,
        name: str,
        given: Sequence[Given],
        *,
        anew: bool = False,
        expected: frozenset[str] | None = None,
    ) -> Manifest:
        """Add documents, in place of those with the same ids; or with `anew` replace all.

        Nothing is written where nothing changes. `expected` are ETags, one of which the corpus must
        have; None for any.
        """
        folder = self._place(name)
        for each in given:
            _check(each)
        with self._locked(name):
            former = self._former(name, expected)
            entries = {} if anew else {entry.id: entry for entry in former.entries}
            texts: dict[str, str] = {}
            for each in given:
                key = digest([each.text])
                texts[key] = each.text
                entries[each.id] = Entry(
                    each.id, each.title, each.path, each.source, key, len(each.text)
                )
            manifest = replace(former, entries=tuple(entries.values()))
            if manifest == former and former.revision:
                _tidy(folder, {entry.digest for entry in former.entries})
                return former
            self._write(folder, manifest, texts)
            return read_manifest(folder)

    def take(self, name: str, document: str, expected: frozenset[str] | None = None) -> Manifest:
        """Remove one document."""
        with self._locked(name):
            former = self._known(name, expected)
            left = [entry for entry in former.entries if entry.id != document]
            if len(left) == len(former.entries):
                raise UnknownCorpusError(f"the corpus {name!r} has no document {document!r}")
            return self._leave(former, left)

    def keep(self, name: str, documents: Container[str]) -> Manifest:
        """Remove every document but these."""
        with self._locked(name):
            former = self._known(name, None)
            left = [entry for entry in former.entries if entry.id in documents]
            return former if len(left) == len(former.entries) else self._leave(former, left)

    def _leave(self, former: Manifest, entries: Sequence[Entry]) -> Manifest:
        folder = self._place(former.name)
        self._write(folder, replace(former, entries=tuple(entries)), {})
        return read_manifest(folder)

    def drop(self, name: str, expected: frozenset[str] | None = None) -> None:
        """Remove a corpus with all its documents."""
        with self._locked(name):
            self._known(name, expected)
            folder = self._place(name)
            (folder / MANIFEST).unlink()  # from here on it is gone
            shutil.rmtree(folder)

    def keep_vectors(self, name: str, data: bytes) -> None:
        """Put a file of vectors beside the texts (`policies.reading.kept_vectors.encoded`)."""
        with self._locked(name):
            self._known(name, None)
            write_whole(self._place(name) / VECTORS, data)

    # ------------------------------------------------------------------------------ writing

    def _place(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise CorpusError(
                "a corpus's name has at most 128 letters, digits and ._@+-, and begins with a "
                "letter or a digit"
            )
        return self.folder / name

    def _former(self, name: str, expected: frozenset[str] | None) -> Manifest:
        """The corpus that is there, or an empty one of revision 0."""
        if stamp_of(self._place(name)) is None and expected is None:
            return Manifest(name, 0, ())
        return self._known(name, expected)

    def _known(self, name: str, expected: frozenset[str] | None) -> Manifest:
        former = self.one(name)
        if expected is not None and former.etag not in expected:
            raise StaleCorpusError(f"revision {former.revision} of {name!r} is the newest")
        return former

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        import fcntl  # not on Windows, where a gateway without corpora should still start

        self._place(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f".{name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, folder: Path, manifest: Manifest, texts: dict[str, str]) -> None:
        """The next revision: new texts, the manifest, and then what is left over."""
        encoded = {key: text.encode() for key, text in texts.items()}
        self._fit(folder, manifest, encoded)
        (folder / TEXTS).mkdir(parents=True, exist_ok=True)
        new = [file for key in encoded if not (file := text_path(folder, key)).exists()]
        try:
            for key, data in encoded.items():
                write_whole(text_path(folder, key), data)
            _settle(folder / TEXTS)
            following = replace(manifest, revision=manifest.revision + 1)
            write_whole(folder / MANIFEST, written(following))
        except OSError:
            for file in new:  # on a full disk they would stand in the way of what makes room
                file.unlink(missing_ok=True)
            raise
        _settle(folder)
        _tidy(folder, {entry.digest for entry in manifest.entries})

    def _fit(self, folder: Path, manifest: Manifest, encoded: dict[str, bytes]) -> None:
        size = 0
        for key in {entry.digest for entry in manifest.entries}:
            known = encoded.get(key)
            size += _size(text_path(folder, key)) if known is None else len(known)
        if size > self.limit:
            raise TooLargeError(
                f"the corpus would hold {size / 2**20:.1f} MiB of text, and at most "
                f"{self.limit / 2**20:g} are allowed (corpora.limit_mb)"
            )


def _check(given: Given) -> None:
    """Raise CorpusError for a document that cannot be kept."""
    if not given.id.strip():
        raise CorpusError("a document needs an id")
    for what, value in (("id", given.id), ("title", given.title), ("path", given.path)):
        if len(value) > _LONGEST_ID or not value.isprintable():
            raise CorpusError(
                f"{what}s have at most {_LONGEST_ID} characters and no control characters"
            )
    try:
        given.text.encode()
    except UnicodeEncodeError:
        raise CorpusError(f"document {given.id!r}: half a surrogate pair is no text") from None


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        raise CorpusError(f"{file} is missing: send its document again, or replace all") from None


def write_whole(file: Path, data: bytes) -> None:
    """Write a file so that at any time there is the old one or the new one, on the disk too.

    One at a time in a folder. OSError, with the file's name, leaves nothing behind.
    """
    new = file.parent / NEW
    try:
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666)
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        new.replace(file)
    except OSError as error:
        new.unlink(missing_ok=True)
        error.filename, error.filename2 = str(file), None
        raise


def _settle(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _tidy(folder: Path, digests: Iterable[str]) -> None:
    """Remove what the newest revision does not name."""
    named = {text_path(folder, key).name for key in digests}
    for file in [*folder.iterdir(), *(folder / TEXTS).iterdir()]:
        kept = KEPT if file.parent == folder else named
        if file.name not in kept and file.is_file():
            file.unlink(missing_ok=True)

"""The audit log: who changed what on the admin listener, when, and what came of it.

A file that lines of JSON are appended to, each with one write and on the disk before anything else
happens, so that several processes may share it. A change has two lines of one id: `asked` before
it is made and, after it, how it ended. A change whose first line cannot be written is not made; one
whose second cannot be is made already, and the log of the process says so.

Somebody who is turned away has one line. Since anybody can be turned away as often as they like,
there are at most `TURNED_AWAY` such lines a minute, and the next one says how many were left out.

Lines hold no secret: the configuration has none, and of a refused document only the code of the
refusal is kept. What came from outside is cut short, and is ASCII once written.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from app.limits import Bucket
from app.linefile import LineFile
from router.secrets import OTHERS

__all__ = ["Audit", "AuditError", "Change", "Entry", "changes_between"]

MODE = 0o600
TURNED_AWAY = 60
"""Lines a minute about requests that were turned away: a disk must not fill by them."""
LONGEST = 256
"""Characters of a path or a value that came from outside."""
MOST_CHANGES = 100
"""Settings that a line lists; a document that is new altogether has more."""
BLOCK = 1 << 16
"""Bytes that are read at once from the end of the file."""

logger = logging.getLogger("tandem.audit")

Tree: TypeAlias = Mapping[str, Any]


class AuditError(Exception):
    """The audit log cannot be written or read; the message is one line and names the file."""


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that is not what it was; None where it is not there."""

    path: str
    before: Any
    after: Any


@dataclass(slots=True)
class Entry:
    """One request that asks for a change. What was changed is filled in by whoever changes it."""

    who: str | None
    role: str | None
    address: str
    what: str
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    changes: tuple[Change, ...] = ()
    more_changes: int = 0
    """Those beyond `MOST_CHANGES`."""


class Audit:
    """The log in the file `path`, which is made if it is not there. Raises `AuditError`.

    To be called from threads: each line waits for the disk.
    """

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._away = Bucket(TURNED_AWAY, clock())
        self._left_out = 0
        try:
            self._file = LineFile(path, MODE)
            mode = Path(path).stat().st_mode
        except OSError as error:
            raise AuditError(f"cannot open {path} (admin.audit): {error.strerror}") from None
        if mode & OTHERS:
            logger.warning("%s may be read or written by others: chmod 600 it", path)

    def started(self, entry: Entry) -> None:
        """The gateway serves from now on. Raises `AuditError`."""
        self._write(entry, "done")

    def asked(self, entry: Entry) -> None:
        """A change is about to be made. Raises `AuditError`: then it must not be."""
        self._write(entry, "asked")

    def ended(self, entry: Entry, outcome: str, code: str | None = None) -> None:
        """It was made (`done`), `refused`, or it `failed`, with the code of the error."""
        try:
            self._write(entry, outcome, code=code)
        except AuditError as error:
            logger.error("%s by %s %s, and %s", entry.what, entry.who, outcome, error)  # noqa: TRY400

    def turned_away(self, entry: Entry, code: str) -> None:
        """Somebody may not ask this."""
        now = self._clock()
        with self._lock:
            if self._away.wait(now):
                self._left_out += 1
                return
            self._away.take(1, now)
            left_out, self._left_out = self._left_out, 0
        try:
            self._write(entry, "turned away", code=code, left_out=left_out or None)
        except AuditError as error:
            logger.error("%s was turned away, and %s", entry.what, error)  # noqa: TRY400

    def _write(self, entry: Entry, outcome: str, **more: Any) -> None:
        when = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        facts = {"when": when, **asdict(entry), "outcome": outcome, **more}
        kept = {name: value for name, value in facts.items() if value not in (None, (), 0)}
        line = json.dumps(kept, separators=(",", ":")).encode() + b"\n"
        try:
            with self._lock:
                self._file.write(line)
                self._file.sync()
        except OSError as error:
            raise AuditError(f"{self.path} cannot be written: {error.strerror}") from None

    def last(self, limit: int) -> list[dict[str, Any]]:
        """The last entries, newest first, each as it stands now. Raises `AuditError`."""
        found: dict[str, dict[str, Any]] = {}
        try:
            for line in _backwards(Path(self.path)):
                entry = _read(line)
                if entry is not None and entry["id"] not in found:
                    if len(found) == limit:
                        break
                    found[entry["id"]] = entry
        except OSError as error:
            raise AuditError(f"{self.path} cannot be read: {error.strerror}") from None
        return list(found.values())

    def close(self) -> None:
        """Write no more."""
        self._file.close()


def _read(line: bytes) -> dict[str, Any] | None:
    """A line's entry; None where a crash or somebody's hand has left something else."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("id"), str) else None


def _backwards(path: Path) -> Iterator[bytes]:
    """The lines of a file, the last one first."""
    with path.open("rb") as file:
        at, rest = file.seek(0, os.SEEK_END), b""
        while at > 0:
            size = min(BLOCK, at)
            at -= size
            file.seek(at)
            first, *lines = (file.read(size) + rest).split(b"\n")
            yield from reversed(lines)
            rest = first
        yield rest


# ---------------------------------------------------------------------------------------- changes


def short(value: Any) -> Any:
    """A value as a line holds it: what is long is cut."""
    if isinstance(value, int | float | None):
        return value
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def changes_between(before: Any, after: Any, path: str = "") -> Iterator[Change]:
    """The settings by which two documents differ, in the order of the first."""
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        if before != after or type(before) is not type(after):
            yield Change(path, short(before), short(after))
        return
    for name in {**before, **after}:
        here = f"{path}.{name}" if path else str(name)
        yield from changes_between(before.get(name), after.get(name), here)

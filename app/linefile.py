"""A file that lines are appended to while others may rotate, delete or read it.

A file that was renamed or deleted is noticed by its inode before the next write and opened anew, so
logrotate needs no signal. Several processes may append to one file. It knows bytes only: what a
line says, and what becomes of one that cannot be written, is its owner's business.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["STDOUT", "LineFile"]

STDOUT = "-"
"""The path that means standard output, which is never closed and never moves."""


class LineFile:
    """The file under the name `path`, whichever file that is at the time of a write.

    It is made if it is not there, with the permissions `mode`. Raises OSError if it cannot be
    opened. For one thread at a time.
    """

    def __init__(self, path: str, mode: int) -> None:
        self._path = None if path == STDOUT else Path(path)
        self._mode = mode
        self._fd = self._open()

    def _open(self) -> int:
        if self._path is None:
            return sys.stdout.fileno()
        return os.open(
            self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, self._mode
        )

    def write(self, data: bytes) -> None:
        """Append `data`. Raises OSError."""
        if self._moved():
            fresh = self._open()
            os.close(self._fd)
            self._fd = fresh
        left = memoryview(data)
        while left:
            left = left[os.write(self._fd, left) :]

    def sync(self) -> None:
        """Return once all of it is on the disk. Raises OSError."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Write no more."""
        if self._path is not None:
            os.close(self._fd)

    def _moved(self) -> bool:
        if self._path is None:
            return False
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            return True

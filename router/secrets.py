"""Secrets: read from the environment or from a file, by a name that the configuration gives.

The only place that reads one. What is wrong is said in one line that tells the name and never the
value. A secret is one line of printable ASCII without spaces: it becomes a header's value, where
anything else could end the header and begin another.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path

__all__ = ["SecretError", "read_secret"]

LONGEST = 8192
"""Bytes of a secret: beyond what HTTP servers take as a header."""
OTHERS = stat.S_IWGRP | stat.S_IRWXO
"""Permissions that no file of a secret should give."""

logger = logging.getLogger("tandem.secrets")


class SecretError(Exception):
    """A secret cannot be had; the message is a reason, without the value."""


def read_secret(variable: str | None, file: Path | None, environment: Mapping[str, str]) -> str:
    """What the environment holds under `variable`, or else what stands in `file`.

    Raises `SecretError`. A file that others may read is used, and warned about.
    """
    if variable is not None:
        secret = environment.get(variable, "")
        if not secret:
            raise SecretError(f"the environment variable {variable} is not set where Tandem runs")
        return _vetted(secret, f"the environment variable {variable}")
    if file is None:
        raise SecretError("neither a variable nor a file is named")
    return _vetted(_contents(file), str(file))


def _contents(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            found = os.fstat(opened.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise SecretError(f"{file} is no regular file")
            data = opened.read(LONGEST + 1)
    except OSError as error:
        raise SecretError(f"{file} cannot be read: {error.strerror}") from None
    if found.st_mode & OTHERS:
        mode = stat.S_IMODE(found.st_mode)
        logger.warning("%s holds a secret and has mode %04o: chmod 600 it", file, mode)
    return data.decode("latin-1").strip(" \t\r\n")


def _vetted(secret: str, where: str) -> str:
    if not secret:
        raise SecretError(f"{where} is empty")
    if len(secret) > LONGEST:
        raise SecretError(f"{where} holds more than {LONGEST} bytes")
    if not all("!" <= character <= "~" for character in secret):
        raise SecretError(f"{where} must hold one line of printable ASCII without spaces")
    return secret

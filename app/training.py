"""What commands that learn from rows share: progress, a folder checked in time, and one line for
whatever goes wrong.

Imported with every `tandem` command, so all that is heavy is imported when a function runs.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["bar", "check_folder", "guarded"]

MISSING = "install tandem-gateway[train], in a checkout `make train-tools`"


def guarded(work: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Turns what can go wrong into one line."""
    try:
        from policies.composition.embedder import EmbedderError
        from policies.training.experts.maps import MapError
        from policies.training.outcomes.errors import RowsError

        try:
            return work(options)
        except (EmbedderError, MapError, RowsError) as error:
            reason = str(error)
    except ModuleNotFoundError as error:
        reason = f"{error.name} is not installed: {MISSING}"
    except OSError as error:
        reason = f"{error.filename or ''}: {error.strerror or error}".removeprefix(": ")
    print(f"tandem: {reason}", file=sys.stderr)
    return 1


def check_folder(out: Path) -> None:
    """Now, and not when all the work is done."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(errno.EEXIST, "is a file: name a folder", str(out))


@contextmanager
def bar(about: str, total: int) -> Iterator[Any]:
    """A progress bar on a terminal; none where there is nothing to wait for."""
    from tqdm import tqdm

    with tqdm(total=total, desc=about, file=sys.stderr, disable=None if total else True) as bar:
        yield bar

"""Files as documents of a corpus: which of a folder, and the text of each, or why it has none.

A folder is walked without following symbolic links, and files are opened so that a link put in
their place is not followed either. PDFs are read in a process of their own (`app.pdf`), which a
limit on time and memory ends: a broken one costs itself and no other. Everything here blocks.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from app.corpora import Given
from policies.reading.documents import digest
from policies.reading.files import READABLE, kind_of, text_of

PDF_SECONDS = 60
"""Longest reading of one PDF; its process has some three times the memory that files may have."""
LARGEST_FILE = 256 << 20
"""Bytes of one file; text is bounded further, by `corpora.limit_mb`."""
ENDINGS = (*READABLE, "pdf")
"""What names of files end in that can be read."""


class FileError(Exception):
    """A file is no document; the message says why, and does not name it."""


def source_of(data: bytes) -> str:
    """What tells files apart: equal for equal bytes."""
    return digest([data.decode("latin-1")])


def document_of(name: str, data: bytes) -> Given:
    """A file as a document whose id is its name. Raises FileError."""
    kind = kind_of(Path(name).name)
    if kind == "pdf":
        text = pdf_text(data)
    elif kind in READABLE.values():
        read = text_of(data, page=kind == "text/html")
        if read is None:
            raise FileError("it is not UTF-8 text")
        text = read
    else:
        raise FileError(f"its name ends in none of: {', '.join(ENDINGS)}")
    if not text.strip():
        raise FileError("there is no text in it")
    return Given(name, Path(name).name, text, name, source_of(data))


def pdf_text(data: bytes, seconds: float = PDF_SECONDS) -> str:
    """The text of a PDF, pages apart by blank lines. Raises FileError."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "app.pdf"],
            input=data,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise FileError(f"reading it takes longer than {seconds:g} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise FileError(said[-1][:200] if said else "it cannot be read as a PDF")
    return done.stdout.decode()


def files_below(folder: Path) -> Iterator[Path]:
    """The regular files of a folder and its folders, by name, hidden ones and links left out."""
    for here, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(here) / name
            if not name.startswith(".") and stat.S_ISREG(file.lstat().st_mode):
                yield file


def read_file(file: Path) -> bytes:
    """A file's bytes; a symbolic link is not followed. Raises FileError."""
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as opened:
            found = os.fstat(opened.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise FileError("it is no regular file")
            if found.st_size > LARGEST_FILE:
                raise FileError(f"it has more than {LARGEST_FILE >> 20} MiB")
            return opened.read(LARGEST_FILE)
    except OSError as error:
        raise FileError(error.strerror or str(error)) from error


def import_folder(wanted: str, below: str | None) -> Path:
    """The folder to import, which lies below the configured one. Raises FileError."""
    if below is None:
        raise FileError("folders are not imported here: set corpora.import_from")
    root, path = Path(below).resolve(), Path(wanted)
    if path.is_relative_to(Path(below).absolute()):
        path = path.relative_to(Path(below).absolute())
    folder = Path(os.path.normpath(root / path))
    if "\0" in wanted or not folder.is_relative_to(root):
        raise FileError("the folder does not lie below corpora.import_from")
    if folder.resolve() != folder:
        raise FileError("there is a symbolic link on the way to the folder")
    if not folder.is_dir():
        raise FileError("there is no such folder below corpora.import_from")
    return folder

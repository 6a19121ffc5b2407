"""The text of a PDF: bytes on standard input, text on standard output, in a process of its own.

`python -m app.pdf`. A PDF may be made to hang or to swallow memory; here that ends this process
only, by the limits below and by the time that `app.corpus_files` gives it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import resource
import sys

PAGES = 5000
"""Most pages of a PDF."""
MEMORY = 2 << 30
"""Bytes of address space of this process."""


def main() -> int:
    """Read, write, and say in one line why not."""
    with contextlib.suppress(ValueError, OSError):  # where a system has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        text = text_of(sys.stdin.buffer.read())
    except Exception as error:  # noqa: BLE001  (a broken PDF breaks pypdf in any way)
        print(reason(error), file=sys.stderr)
        return 1
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    return 0


def text_of(data: bytes) -> str:
    """The pages' texts, a blank line between each two. Raises what pypdf raises, and ValueError."""
    from pypdf import PdfReader

    reader = PdfReader(io.BytesIO(data))
    if reader.is_encrypted and not reader.decrypt(""):
        raise ValueError("it is encrypted")
    if len(reader.pages) > PAGES:
        raise ValueError(f"it has more than {PAGES} pages")
    pages = (page.extract_text().strip() for page in reader.pages)
    return "\n\n".join(page for page in pages if page)


def reason(error: Exception) -> str:
    """Why it cannot be read, in one line."""
    if isinstance(error, MemoryError):
        return "reading it takes too much memory"
    if type(error) is ValueError:
        return str(error)
    said = " ".join(str(error).split())[:120]
    return f"it cannot be read as a PDF: {said or type(error).__name__}"


if __name__ == "__main__":
    sys.exit(main())

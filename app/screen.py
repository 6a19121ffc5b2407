"""What a conversation looks like in a terminal: text in the colour of its model, figures below it.

The text of an answer goes to standard output, everything about it to standard error, so that an
answer can be piped. Colours are for terminals only, and for those who want them. What a model
writes is shown, never obeyed: control characters do not reach a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TextIO

COLOURS = (36, 33, 35, 32, 34, 31)
"""ANSI's cyan, yellow, magenta, green, blue, red, in the order of the gateway's models. The first
two differ on dark and on light, and also for those who do not tell red from green."""
DIM = 2
UNSEEN = {n: None for n in (*range(32), *range(127, 160)) if chr(n) not in "\t\n"}
"""Characters that move cursors, ring bells and rename windows."""


@dataclass(slots=True)
class Screen:
    """Where a conversation is shown. `models` has the names in the order of their colours."""

    models: list[str]
    colours: bool
    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)
    _open: bool = False

    def say(self, text: str, model: str, *, aside: bool) -> None:
        """Show more of an answer; `aside` if it is not the answer itself."""
        if self.out.isatty():
            text = text.translate(UNSEEN)
        self._open = not text.endswith("\n")
        if self._coloured(self.out):
            text = f"\x1b[{f'{DIM};' * aside}{self._colour(model)}m{text}\x1b[0m"
        self._write(self.out, text)

    def end(self) -> None:
        """The answer is over, whole or not: what follows has a line of its own."""
        if self._open:
            self._write(self.out, "\n")
        self._open = False

    def line(self, text: str) -> None:
        """A line of the answer's kind, for programs to read."""
        self._write(self.out, f"{text}\n")

    def tell(self, text: str) -> None:
        """Say something about the conversation, in the background."""
        shown = f"\x1b[{DIM}m{text}\x1b[0m" if self._coloured(self.err) else text
        self._write(self.err, f"{shown}\n")

    def ask(self, prompt: str) -> str:
        """The user's next line. Raises `EOFError` after the last."""
        if self.out.isatty():
            return input(prompt)
        self._write(self.err, prompt)
        return input()

    def complain(self, error: Exception) -> None:
        """Say what went wrong; a backend may have been quoted."""
        self._write(self.err, f"tandem: {str(error).translate(UNSEEN)}\n")

    def named(self, model: str) -> str:
        """A model's name as `tell` shows it: in the colour of what it writes."""
        seen = model.translate(UNSEEN)
        return f"\x1b[{self._colour(model)}m{seen}\x1b[39m" if self._coloured(self.err) else seen

    def _coloured(self, stream: TextIO) -> bool:
        return self.colours and stream.isatty()

    def _colour(self, model: str) -> int:
        if model not in self.models:
            self.models.append(model)
        return COLOURS[self.models.index(model) % len(COLOURS)]

    def _write(self, stream: TextIO, text: str) -> None:
        stream.write(text)
        stream.flush()


def wants_colours(environment: Mapping[str, str]) -> bool:
    """Whether the user's environment allows colours (https://no-color.org)."""
    return not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"

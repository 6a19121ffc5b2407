"""Stop strings over a growing text that comes in pieces, from whomever.

A backend looks for stop strings in its own text only, and a string may begin in one model's text
and end in another's. So the answer's text passes through here: what could still become a stop
string is held back until it is clear.
"""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """Looks for the one of `strings` that is complete first, however the text was cut; of two that
    end alike, the one named first. `keep` leaves it in the text.
    """

    def __init__(self, strings: Sequence[str], *, keep: bool = False) -> None:
        self._strings = tuple(string for string in strings if string)
        self._longest = max(map(len, self._strings), default=0)
        self._keep = keep
        self._held = ""
        self.found: str | None = None

    def feed(self, text: str) -> str:
        """What may be shown now. Once a stop string was `found`, nothing more is."""
        if not self._strings:
            return text
        if self.found is not None:
            return ""
        held = self._held + text
        first = min(
            (
                (at + len(string), order, string)
                for order, string in enumerate(self._strings)
                if (at := held.find(string)) >= 0
            ),
            default=None,
        )
        if first is not None:
            end, _, self.found = first
            self._held = ""
            return held[:end] if self._keep else held[: end - len(self.found)]
        keep = self._could_begin(held)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def rest(self) -> str:
        """What was held back in vain, when no more text comes."""
        held, self._held = self._held, ""
        return held

    def _could_begin(self, text: str) -> int:
        """Length of the longest end of `text` that some stop string begins with."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[-length:]
            if any(string.startswith(end) for string in self._strings):
                return length
        return 0

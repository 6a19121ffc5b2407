"""The answer so far as text, where two models share no tokenizer; `page` is the same in token ids.

It comes in pieces, one token each where a backend tells them apart, and is divided into steps. How
the pieces were cut makes no difference to where a step ends or what the client gets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from policies.duet.asked import Asked
from policies.duet.stops import Stops
from router.phrases import Phrase
from router.steps import Attempt, Delta, Emit, Finished, Request, Token


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text, its tokens as far as they are told, and how many there must be."""

    text: str
    tokens: tuple[Token, ...]
    count: int

    def cut(self, at: int) -> tuple[Piece, tuple[Piece, ...]]:
        """The first `at` characters, with the tokens, and the rest, where there is any."""
        if at >= len(self.text):
            return self, ()
        return self.worded(self.text[:at]), (Piece(self.text[at:], (), 0),)

    def worded(self, text: str) -> Piece:
        """The same tokens, with a part of their text."""
        tokens = self.tokens if len(self.tokens) != 1 else (replace(self.tokens[0], text=text),)
        return Piece(text, tokens, self.count)


def pieces(delta: Delta) -> Iterator[Piece]:
    """One for each token that can be told apart; a backend that tells none sends one at a time.

    A token's own text need not be in the answer's: a special one has no part in it, and half a
    character is spelled with the other half. Such tokens share a piece, up to where the next one's
    text is found again.
    """
    at, loose = 0, list[Token]()
    for token in delta.tokens:
        found = delta.text.find(token.text, at) if token.text else -1
        if not 0 <= found - at <= sum(len(strange.text) for strange in loose):
            loose.append(token)
            continue
        if loose:
            yield Piece(delta.text[at:found], tuple(loose), len(loose))
            loose.clear()
        yield Piece(token.text, (token,), 1)
        at = found + len(token.text)
    if loose or at < len(delta.text):
        yield Piece(delta.text[at:], tuple(loose), len(loose) or int(not delta.tokens))


def refuse_no_border(separator: str, longest: int) -> None:
    """Raises ValueError for settings by which no step would ever end, or none end well."""
    if not separator or separator.endswith(" "):
        raise ValueError("separator: must end in a character that a token ends with, not a space")
    if longest < 1:
        raise ValueError("longest: at least 1 token")


class Border:
    """Looks for the end of a step: after `separator`, after `final`, or after `longest` tokens.

    White space alone is no step: a separator counts only behind something else. `before` is the end
    of the text before the step, in which `final` may begin. `over` once the end was found.
    """

    def __init__(self, separator: str, longest: int, final: str | None, before: str) -> None:
        self._separator = separator
        self._final = final
        self._before = before
        self._left = longest
        self.text = ""
        self.over = False
        self.last = False

    def take(self, piece: Piece) -> tuple[Piece, tuple[Piece, ...]]:
        """What of `piece` belongs to the step, and what stands behind its end."""
        known = len(self.text)
        self.text += piece.text
        self._left -= piece.count
        end, self.last = min(self._ends(known), default=(None, False))
        self.over = end is not None or self._left <= 0
        if end is None:
            return piece, ()
        self.text = self.text[:end]
        return piece.cut(end - known)

    def _ends(self, known: int) -> Iterator[tuple[int, bool]]:
        begins = len(self.text) - len(self.text.lstrip())
        at = self.text.find(self._separator, max(begins, known + 1 - len(self._separator)))
        if at >= 0:
            yield at + len(self._separator), False
        if self._final is not None:
            since = max(len(self._before) + known + 1 - len(self._final), 0)
            at = (self._before + self.text).find(self._final, since)
            if at >= 0:
                yield at + len(self._final) - len(self._before), True


@dataclass(slots=True)
class Sheet:
    """The answer so far. `begun` once something of it was sent, `final` if one model is to end it;
    `wrote` counts the tokens of each model.
    """

    request: Request
    asked: Asked
    begun: bool = False
    final: bool = False
    wrote: Counter[str] = field(default_factory=Counter)
    _parts: list[str] = field(default_factory=list)
    _stops: Stops = field(init=False)

    def __post_init__(self) -> None:
        self._stops = Stops(self.asked.stops, keep=self.asked.keeps_stop)

    @property
    def text(self) -> str:
        """All that was written, what is still held back from the client included."""
        return "".join(self._parts)

    def tail(self, length: int) -> str:
        """Its last characters."""
        return "".join(self._parts[-length:])[-length:] if length else ""

    def room(self) -> int | None:
        """Tokens that may still be written; None if the client has set no limit."""
        return None if self.asked.room is None else max(self.asked.room - self.wrote.total(), 0)

    def write(self, attempt: Attempt, piece: Piece) -> Phrase[Finished | None]:
        """More of the answer; how the answer ends, if that is its end."""
        self.begun = True
        self.wrote[attempt.model] += piece.count
        if piece.text:
            self._parts.append(piece.text)
        yield Emit(attempt, self._stops.feed(piece.text), piece.tokens)
        if self._stops.found is not None:
            return (yield from self.end(Finished(attempt, "stop", self._stops.found)))
        if self.room() == 0:
            return (yield from self.end(Finished(attempt, "length")))
        return None

    def end(self, finished: Finished) -> Phrase[Finished]:
        """The answer is complete: write what was held back in vain, and why it ends."""
        self.begun = True
        finished = replace(finished, reason=finished.reason or "stop")
        yield Emit(finished.attempt, self._stops.rest(), finish=finished)
        return finished

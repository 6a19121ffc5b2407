"""A particle: one partial answer, and how it grows by what a call says.

It is a value, so a copy is the same particle once more. A call's choices are strands: each begins
with a particle and ends with a longer one. How the text was cut into events makes no difference.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

from policies.duet.asked import Asked
from policies.duet.handoff import Length, Repeats
from policies.duet.sheet import Border, Piece, pieces
from policies.duet.stops import Stops
from router.phrases import Phrase
from router.steps import Attempt, Delta, Emit, Finished, Token


@dataclass(frozen=True, slots=True)
class Part:
    """What one call wrote of it, as the client would see it."""

    attempt: Attempt
    text: str
    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Particle:
    """One partial answer. `text` is all of it, what a stop string holds back or takes away
    included; `written` counts its tokens; `finished` once it is complete. `mark` (0 to 1) is the
    last one that it got, None before the first; `stale` if it has grown since.
    """

    stops: Stops
    text: str = ""
    parts: tuple[Part, ...] = ()
    written: int = 0
    finished: Finished | None = None
    mark: float | None = None
    stale: bool = True

    @property
    def shown(self) -> str:
        """The answer: once complete as the client would get it, before that all of its text."""
        return "".join(part.text for part in self.parts) if self.finished else self.text

    @property
    def whole(self) -> bool:
        """Whether it came to its own end, and was not cut off."""
        return self.finished is not None and self.finished.reason != "length"


class Strand:
    """One choice of a call. It is `over` at the border, where there is one, or with the answer.

    `counted`: a backend that tells no tokens has one counted for each of its events.
    """

    def __init__(
        self, start: Particle, asked: Asked, border: Border | None, repeats: Repeats
    ) -> None:
        self._start = start
        self._border = border
        self._repeats = repeats
        self._stops = copy.copy(start.stops)
        self._room = None if asked.room is None else asked.room - start.written
        self._counted = asked.logprobs is None
        self._text: list[str] = []
        self._shown: list[str] = []
        self._tokens: list[Token] = []
        self._written = 0
        self._ended: tuple[str, str | int | None] | None = None
        self.began = False

    @property
    def over(self) -> bool:
        """Whether it needs to hear no more."""
        return self._ended is not None or (self._border is not None and self._border.over)

    def take(self, delta: Delta) -> None:
        """Some more of its choice's text; what comes behind its end is dropped."""
        self.began = True
        for piece in pieces(delta):
            if self.over:
                return
            if left := self._repeats.strip(piece):
                kept = left if self._border is None else self._border.take(left)[0]
                self._keep(kept)

    def ends(self, reason: str | None, stop: str | int | None, length: Length) -> None:
        """Its choice ends so. If only the step's length is used up, the answer goes on."""
        if self.over:
            return
        goes_on = reason == "length" and self._border is not None and length.extendable
        if not (goes_on and any(self._text)):
            self._ended = (reason or "stop", stop)

    def grown(self, attempt: Attempt) -> Particle:
        """The particle that it has become."""
        finished = None
        if self._ended is not None:
            finished = Finished(attempt, *self._ended)
            self._shown.append(self._stops.rest())
        part = Part(attempt, "".join(self._shown), tuple(self._tokens))
        start = self._start
        return replace(
            start,
            stops=self._stops,
            text=start.text + "".join(self._text),
            parts=(*start.parts, part),
            written=start.written + self._written,
            finished=finished,
            stale=start.stale or any(self._text),
        )

    def _keep(self, piece: Piece) -> None:
        self._text.append(piece.text)
        self._shown.append(self._stops.feed(piece.text))
        self._tokens += piece.tokens or ([Token(piece.text)] if self._counted else [])
        self._written += piece.count
        if self._stops.found is not None:
            self._ended = ("stop", self._stops.found)
        elif self._room is not None and self._written >= self._room:
            self._ended = ("length", None)


def distinct(particles: list[Particle]) -> Iterator[tuple[str, list[int]]]:
    """Every text among them, and the places of the particles that have it."""
    places: dict[str, list[int]] = {}
    for at, particle in enumerate(particles):
        places.setdefault(particle.shown, []).append(at)
    yield from places.items()


def given(particle: Particle, drawn: tuple[Attempt, ...]) -> Phrase[Finished]:
    """Write a complete particle into the client's answer, each part in its own call's name."""
    assert particle.finished is not None
    for part in particle.parts:
        if part.text or part.tokens:
            yield Emit(part.attempt, part.text, part.tokens)
    yield Emit(particle.finished.attempt, "", finish=particle.finished, beside=drawn)
    return particle.finished

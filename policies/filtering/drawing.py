"""Drawing: the calls by which all particles of one request grow by a step.

Particles with the same text share a call (`n`), so that it is read once; the first step of all of
them is one call. Every call streams and is closed when the last of its choices has come to the
step's end: few servers say at which string they stopped, so the end is looked for here. What the
others have written meanwhile is paid for and dropped.

Calls are bounded: at most one a particle and step, and one more a request where a backend refuses
several choices, or gives one only; beside what the retry budget allows after failures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policies.duet.asked import Asked
from policies.duet.handoff import Handoff, Length
from policies.duet.sheet import Border
from policies.duet.stops import Stops
from policies.filtering.particle import Particle, Strand, distinct
from router.phrases import Phrase, close, next_event, together, unseen
from router.steps import Attempt, Blame, Delta, Failed, Finished, Request, TimedOut


@dataclass(frozen=True, slots=True)
class Steps:
    """What ends a step: this string, or so many tokens."""

    separator: str
    longest: int


@dataclass(slots=True)
class Drawing:
    """All that is drawn for one request. `changes` are fields of every call.

    `attempts` are those that particles are made of. `singly` once a call for several choices was
    refused, for which `why` has the words.
    """

    handoff: Handoff
    request: Request
    asked: Asked
    steps: Steps
    changes: Mapping[str, Any]
    attempts: list[Attempt] = field(default_factory=list)
    singly: bool = False
    why: str = ""

    def start(self, number: int) -> list[Particle]:
        """So many particles that have said nothing yet."""
        stops = Stops(self.asked.stops, keep=self.asked.keeps_stop)
        return [Particle(stops) for _ in range(number)]

    def grown(
        self, particles: list[Particle], *, last: bool
    ) -> Phrase[tuple[list[Particle], Failed | None]]:
        """All particles one step later, or complete if this is the `last`.

        Those whose call failed are gone; one of the failures is told.
        """
        if failed := (yield from self.handoff.ready(self.request)):
            return [one for one in particles if one.finished], failed
        going = [at for at, one in enumerate(particles) if one.finished is None]
        groups = [
            [going[at] for at in places] for _, places in distinct([particles[at] for at in going])
        ]
        heard = yield from together(
            [self._drawn(particles[places[0]], places, last=last) for places in groups]
        )
        grown = dict(enumerate(particles))
        failure = None
        for places, result in zip(groups, heard, strict=True):
            for at, one in zip(places, result, strict=True):
                if isinstance(one, Failed):
                    failure = one
                    del grown[at]
                else:
                    grown[at] = one
        return list(grown.values()), failure

    def _drawn(
        self, start: Particle, places: Sequence[int], *, last: bool
    ) -> Phrase[list[Particle | Failed]]:
        """What becomes of this particle, once for each of these places among all of them."""
        several = len(places) > 1
        if several and self.singly:
            return (yield from self._one_by_one(start, places, last=last))
        changes = self._asking(start, places, last=last)
        asked = self.handoff.continuing(self.request, self.asked, start.text, changes)

        def hear(attempt: Attempt) -> Phrase[list[Particle | None] | Failed]:
            return (yield from self._heard(attempt, start, len(places), last=last))

        heard = yield from unseen(self.handoff.model, asked, hear)
        if isinstance(heard, Failed):
            if several and heard.fault.blame is Blame.CLIENT:
                self._refused(len(places), heard.fault.summary)
                return (yield from self._one_by_one(start, places, last=last))
            return [heard] * len(places)
        lacking = [at for at, one in zip(places, heard, strict=True) if one is None]
        if not lacking:
            return [one for one in heard if one is not None]
        self._refused(len(places), f"{len(places) - len(lacking)} came")
        more = iter((yield from self._one_by_one(start, lacking, last=last)))
        return [next(more) if one is None else one for one in heard]

    def _one_by_one(
        self, start: Particle, places: Sequence[int], *, last: bool
    ) -> Phrase[list[Particle | Failed]]:
        drawn = yield from together([self._drawn(start, [at], last=last) for at in places])
        return [one for (one,) in drawn]

    def _refused(self, number: int, said: str) -> None:
        self.singly = True
        self.why = self.why or f"n={number} was refused: {said}"

    def _heard(
        self, attempt: Attempt, start: Particle, number: int, *, last: bool
    ) -> Phrase[list[Particle | None] | Failed]:
        """Every choice up to its border, and none for those that did not come."""
        length = self._length(start, last=last)
        strands = [self._strand(start, last=last) for _ in range(number)]
        while not all(strand.over for strand in strands):
            match (yield from next_event(attempt)):
                case Delta() as delta:
                    if delta.choice < number:
                        strands[delta.choice].take(delta)
                case Finished() as finished:
                    came = _end(strands, finished, length)
                    break
                case Failed() as failed:
                    return failed
                case TimedOut():
                    pass
        else:
            came = [True] * number
        yield from close(attempt)
        self.attempts.append(attempt)
        return [
            strand.grown(attempt) if here else None
            for strand, here in zip(strands, came, strict=True)
        ]

    def _strand(self, start: Particle, *, last: bool) -> Strand:
        steps = self.steps
        border = None if last else Border(steps.separator, steps.longest, None, "")
        return Strand(start, self.asked, border, self.handoff.repeats(start.text))

    def _length(self, start: Particle, *, last: bool) -> Length:
        room = None if self.asked.room is None else self.asked.room - start.written
        return self.handoff.length(None if last else self.steps.longest, room, start.written)

    def _asking(self, start: Particle, places: Sequence[int], *, last: bool) -> Mapping[str, Any]:
        """The fields of a call for as many choices as there are places.

        A backend seeds its choices by counting up, so no two particles of a step are seeded alike.
        """
        length = self._length(start, last=last)
        seed = self.asked.seed_at(start.written, places[0])
        asking = self.handoff.asking(self.request, self.asked, length, 0, seed)
        several = {"n": len(places)} if len(places) > 1 else {}
        return {**asking, **self.changes, **several}


def _end(strands: Sequence[Strand], finished: Finished, length: Length) -> list[bool]:
    """End what has not ended, as the backend says; which of them there were at all.

    Where no ends of several are told, those have come of which something was heard.
    """
    reasons = finished.reasons or (finished.reason,)
    came = list[bool]()
    for number, strand in enumerate(strands):
        reason = reasons[number] if number < len(reasons) else None
        strand.ends(reason, finished.stop_reason if number == 0 else None, length)
        came.append(number == 0 or strand.began or reason is not None)
    return came

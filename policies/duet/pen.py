"""A pen: one of two models that write one text in turns, and the call by which it writes.

Every call streams, and a writer is stopped by closing its call, so that nothing depends on how a
server names what it stopped at. If a backend breaks, another one of the model goes on from the text
that was reached.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from policies.duet.handoff import UNLIMITED, Handoff, Length, Repeats
from policies.duet.sheet import Border, Piece, Sheet, pieces
from router.phrases import DRAFT_SHARE, Phrase, close, next_event
from router.steps import (
    Attempt,
    Blame,
    Delta,
    Ended,
    Failed,
    Fault,
    Finished,
    Open,
    TimedOut,
)


@dataclass(slots=True)
class Pen:
    """One model. `looks` is how many alternatives per token are looked at.

    `sees` once alternatives came; `steps` counts what it was given; `lost` if it cannot go on.
    """

    handoff: Handoff
    looks: int = 0
    sees: bool = False
    steps: int = 0
    lost: bool = False
    _attempt: Attempt | None = None
    _over: Finished | None = None
    _pieces: deque[Piece] = field(default_factory=deque)
    _repeats: Repeats = field(default_factory=lambda: Repeats(""))
    _length: Length = UNLIMITED
    _heard: int = 0
    _began: int = 0
    _backend: str = ""
    _avoid: frozenset[str] = frozenset()

    @property
    def model(self) -> str:
        """Its name."""
        return self.handoff.model

    def hear(self, sheet: Sheet, most: int | None = None) -> Phrase[Piece | Finished | Failed]:
        """The next piece of its call, which is opened for `most` tokens if there is none."""
        if self._attempt is None and (failed := (yield from self._open(sheet, most))):
            return failed
        while not self._pieces:
            if self._over is not None:
                return self._over
            assert self._attempt is not None
            match (yield from next_event(self._attempt)):
                case Delta(choice=0) as delta:
                    self._take(delta)
                case Finished() as finished:
                    self._over = finished
                case Failed() as failed:
                    self._forget()
                    return failed
                case Delta() | TimedOut():
                    pass
        return self._pieces.popleft()

    def put_back(self, heard: Sequence[Piece]) -> None:
        """These are to be heard again."""
        self._pieces.extendleft(reversed(heard))

    def drop(self) -> Phrase[None]:
        """Close its call, if there is one."""
        if self._attempt is not None:
            yield from close(self._attempt)
            self._forget()

    def refuse(self, message: str, code: str) -> Phrase[Failed]:
        """Close its call: what the backend sends cannot be used."""
        assert self._attempt is not None
        failed = Failed(self._attempt, Fault(Blame.BACKEND, message, 502, code))
        yield from self.drop()
        return failed

    def moves(self, failed: Failed) -> bool:
        """Whether another backend takes over from the one that failed."""
        self._avoid |= {failed.attempt.backend}
        self._backend = ""
        return failed.spare

    def pour(
        self, sheet: Sheet, border: Border | None = None, most: int | None = None
    ) -> Phrase[Ended | None]:
        """Write on up to the border, or to the end of the answer. None if it goes on after that."""
        while True:
            heard = yield from self.hear(sheet, most)
            match heard:
                case Failed() if not self.moves(heard):
                    return heard
                case Failed():
                    continue
                case Finished() if self._used_up(sheet):
                    yield from self.drop()
                    if border is not None:
                        return None
                    continue
                case Finished():
                    return (yield from sheet.end(heard))
                case Piece():
                    kept, rest = (heard, ()) if border is None else border.take(heard)
            assert self._attempt is not None
            if ended := (yield from sheet.write(self._attempt, kept)):
                return ended
            self.put_back(rest)
            if border is not None and border.over:
                sheet.final = border.last
                return None

    def _open(self, sheet: Sheet, most: int | None) -> Phrase[Failed | None]:
        hand = self.handoff
        if failed := (yield from hand.ready(sheet.request)):
            return failed
        text, written = sheet.text, sheet.wrote.total()
        self._repeats, self._began, self._heard = hand.repeats(text), written, 0
        self._length = hand.length(most, sheet.room(), written)
        seed = sheet.asked.seed_at(written, 0)
        asking = hand.asking(sheet.request, sheet.asked, self._length, self.looks, seed)
        self._attempt = yield Open(
            self.model,
            hand.continuing(sheet.request, sheet.asked, text, asking),
            avoid=self._avoid,
            share=DRAFT_SHARE,
            prefer=self._backend,
        )
        self._backend = self._attempt.backend
        return None

    def _take(self, delta: Delta) -> None:
        self.sees = self.sees or any(token.top for token in delta.tokens)
        for piece in pieces(delta):
            self._heard += piece.count
            if left := self._repeats.strip(piece):
                self._pieces.append(left)

    def _used_up(self, sheet: Sheet) -> bool:
        """Whether only the call was at its limit, not the answer; not if it has brought nothing."""
        limit = self._length.asked if self._length.extendable else None
        if self._over is None or self._over.reason != "length" or limit is None:
            return False
        heard = max(self._heard, self._over.usage.completion if self._over.usage else 0)
        return heard >= limit and sheet.wrote.total() > self._began and sheet.room() != 0

    def _forget(self) -> None:
        self._attempt = self._over = None
        self._pieces.clear()

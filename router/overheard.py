"""Overhearing: another policy's whole answer, kept from the client, for a policy that chooses.

The other policy's steps are performed as ever: it opens, waits and closes. Only what it would give
the client is kept here, as drafts that `relay_one` can still give. So whatever can answer a request
can be sampled, two models that write one answer among them. Bounded by the length of the answers.
Knows steps and drafts; must not know why anybody listens.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from router.phrases import DRAFT_SHARE, Phrase, begin, collect_all
from router.steps import (
    Attempt,
    Delta,
    Draft,
    Emit,
    Ended,
    Event,
    Failed,
    Finished,
    Next,
    Open,
    Relay,
    Request,
    Route,
    Step,
)


def overheard(
    target: str, request: Request, share: float = DRAFT_SHARE
) -> Phrase[tuple[Draft, ...] | Failed]:
    """What `target`, a policy or a model, would have answered: a draft per choice.

    Its calls may be silent for `share` of the time that is left: somebody has yet to answer.
    """
    kept = _Kept()
    ended = yield from _said(target, request, share, kept)
    return ended if isinstance(ended, Failed) else kept.drafts(ended)


def _said(target: str, request: Request, share: float, kept: _Kept) -> Phrase[Ended]:
    """Perform a policy up to its end, which is returned; the client hears nothing of it."""
    steps = yield from begin(target, request)
    reply: object = None
    try:
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as stop:
                ended: Ended = stop.value
                return ended
            match step:
                case Emit():
                    kept.emits.append(step)
                    reply = None
                case Relay():
                    reply = yield from kept.relayed(step)
                case Route():
                    before, within = len(kept.emits), share * step.share
                    reply = yield from _said(step.target, step.request, within, kept)
                    if isinstance(reply, Failed):  # nobody has seen what it wrote
                        del kept.emits[before:]
                case Open():
                    reply = yield replace(step, share=share * step.share)
                case _:
                    reply = yield step
            kept.hear(step, reply)
    finally:
        steps.close()


@dataclass(slots=True)
class _Kept:
    """What the client would have been given, and what was heard before it was to be relayed."""

    emits: list[Emit] = field(default_factory=list)
    opened: list[Attempt] = field(default_factory=list)
    heard: dict[Attempt, list[Event]] = field(default_factory=dict)
    whole: tuple[Draft, ...] = ()

    def hear(self, step: Step, reply: object) -> None:
        """Remember what a later `Relay` would pass on, too."""
        if isinstance(step, Open) and isinstance(reply, Attempt) and reply.number >= 0:
            self.opened.append(reply)
        if isinstance(step, Next) and isinstance(reply, Delta | Finished):
            self.heard.setdefault(reply.attempt, []).append(reply)

    def relayed(self, step: Relay) -> Phrase[Ended]:
        """Hear the attempt to its end, in place of the client."""
        drafts = yield from collect_all(step.attempt, self.heard.get(step.attempt, ()))
        if isinstance(drafts, Failed):
            return drafts
        chosen = [one for one in drafts if step.choice in (None, one.choice)]
        self.whole = tuple(chosen)
        return drafts[0].finished

    def drafts(self, ended: Finished) -> tuple[Draft, ...]:
        """A draft per choice, in their order."""
        opened = tuple(self.opened)
        if not self.emits:
            return tuple(replace(one, opened=opened) for one in self.whole)
        numbers = sorted({emit.choice for emit in self.emits})
        return tuple(self._written(number, ended, opened) for number in numbers)

    def _written(self, number: int, ended: Finished, opened: tuple[Attempt, ...]) -> Draft:
        emits = tuple(emit for emit in self.emits if emit.choice == number)
        finish = next((emit.finish for emit in reversed(emits) if emit.finish), ended)
        return Draft(
            attempt=emits[0].attempt,
            text="".join(emit.text for emit in emits),
            tokens=tuple(token for emit in emits for token in emit.tokens),
            finished=finish,
            choice=number,
            emits=emits,
            opened=opened,
        )

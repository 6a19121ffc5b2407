"""Drawing: several answers to one request, by a model or a policy, for a verifier to choose from.

A model is asked once for all of them (`n`), so that the prompt is read once; a policy as often as
answers are wanted, side by side. Nothing of it is seen by the client. What the answers are worth,
and how many there should be, is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policies.duet.asked import offers_tools
from policies.verdicts.marking import Drawn, Verifier
from router.fleet import Fleet
from router.overheard import overheard
from router.phrases import Phrase, collect_all, compute, rewritten, together, unseen
from router.steps import UNCHANGED, Blame, Failed, Request, Surface

ASKS_OTHERWISE = {
    "n": "the client wants several answers",
    "best_of": "the client has the backend choose",
}
"""Fields that count answers, and what more than one of them means."""
ALONE = {
    "functions": "function calls are no text to compare",
    "use_beam_search": "a beam search draws no samples",
    "echo": "a sample would begin with the prompt",
}
"""Fields with which there is nothing to choose among, and why."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """How `small` is sampled: at `temperature` at least, and with what the verifier needs."""

    small: str
    temperature: float
    verifier: Verifier

    def draw(self, request: Request, fleet: Fleet, drawn: Drawn, n: int) -> Phrase[Failed | None]:
        """Add `n` samples to those that were drawn; fewer where a backend gives fewer."""
        if n < 1:
            return None
        changes = self._changes(request, len(drawn.samples), n)
        drawn.heated |= "temperature" in changes and request.body.get("temperature") is not None
        if self.small not in fleet.models:
            return (yield from self._apart(request, drawn, n, changes))
        heard = yield from unseen(self.small, request, collect_all, changes)
        if isinstance(heard, Failed) and heard.fault.blame is Blame.CLIENT and changes:
            if drawn.samples:
                return heard
            drawn.why = f"n={n} was refused: {heard.fault.summary}"
            n, drawn.heated = 1, False
            heard = yield from unseen(self.small, request, collect_all)
        if isinstance(heard, Failed):
            return heard
        drawn.samples += heard[:n]
        return None

    def _apart(
        self, request: Request, drawn: Drawn, n: int, changes: Mapping[str, Any]
    ) -> Phrase[Failed | None]:
        """The same of a policy, which is not asked for several answers at once but several times.

        Those that fail are missing; it has failed where all have.
        """
        own = {name: value for name, value in changes.items() if name != "n"}
        first = own.get("seed", request.body.get("seed"))
        requests = []
        for number in range(n):
            seed = {"seed": first + number} if isinstance(first, int) else {}
            requests.append((yield from compute(rewritten, request, {**own, **seed})))
        heard = yield from together([overheard(self.small, asked) for asked in requests])
        failed = [one for one in heard if isinstance(one, Failed)]
        drawn.samples += [one[0] for one in heard if not isinstance(one, Failed)]
        return failed[0] if len(failed) == n else None

    def _changes(self, request: Request, before: int, n: int) -> Mapping[str, Any]:
        """What a call for `n` samples asks for, after so many `before`.

        A single first sample is drawn as the client has it. A seed moves on, since the same one
        would draw the same samples again.
        """
        changes = dict(self.verifier.asking(request))
        if before + n == 1:
            return changes or UNCHANGED
        body = request.body
        asked, seed = body.get("temperature"), body.get("seed")
        if not isinstance(asked, int | float) or asked < self.temperature:
            changes["temperature"] = self.temperature
        if before and isinstance(seed, int):
            changes["seed"] = seed + before
        return {**changes, "n": n}


def not_sampled(request: Request) -> Iterator[str]:
    """Why several answers to `request` cannot be compared, if they cannot."""
    body = request.body
    if request.surface not in (Surface.CHAT, Surface.COMPLETIONS):
        yield f"{request.surface.value} gives one answer a call"
    for name, why in ASKS_OTHERWISE.items():
        if body.get(name) not in (None, 1):
            yield f"{name}: {why}"
    for name, why in ALONE.items():
        if body.get(name):
            yield f"{name}: {why}"
    if offers_tools(body):
        yield "tools: calls are no text to compare"
    if body.get("top_k") == 1:
        yield "top_k: samples would be equal"
    if request.surface is Surface.COMPLETIONS and _several(body.get("prompt")):
        yield "prompt: more than one"


def _several(prompt: Any) -> bool:
    """Whether this is a list of prompts; one of numbers is a single one, in token ids."""
    return isinstance(prompt, list) and len(prompt) > 1 and isinstance(prompt[0], str | list)

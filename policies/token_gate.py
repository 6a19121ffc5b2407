"""The token gate: the small model writes, except for the tokens where the two would part ways.

R2R (arXiv 2505.21600): a small network in the small model's engine looks at each token that it is
about to write; where it expects the large model to go another way, the engine stops, the large
model writes exactly one token in its place, and the small one goes on. Two baselines of the same
shape stand beside the learned rule: the entropy of that one distribution, and chance.

Most tokens that are handed over come back as the small model would have written them. With
`optimistic` it already goes on from its own candidate while the large model writes: if that is what
comes back, nobody has waited, and if not, the branch is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from policies.duet.answer import REASONS, answered
from policies.duet.page import Page
from policies.duet.turn import Fired, Line, Paused, Turn, Writer, open_line, write_on
from policies.gate.chance import later
from policies.gate.settings import GateSettings, Rule
from router.fleet import Fleet, ModelView, tokenizers_differ
from router.phrases import Phrase, close
from router.steps import Ended, Failed, ModelName, Request, Steps, TargetName

SEEDS = 1 << 62
"""Any number of them that a seed of 64 signed bits has room for."""


@dataclass(frozen=True, slots=True)
class TokenGate:
    """The small model writes; single tokens, where it matters, are the large one's."""

    reasons: ClassVar[tuple[str, ...]] = REASONS
    returns: ClassVar[bool] = False

    small: ModelName
    """The model that writes."""
    large: ModelName
    """The model that writes the tokens that matter."""
    artifact: str | None = None
    """The learned gate: a folder's name, below the engines' folder of gates (`tandem train
    token-gate` writes it). Needed by the rule `neural`."""
    rule: Literal["neural", "entropy", "random"] = "neural"
    """What decides: the learned gate, or one of the baselines."""
    threshold: float | None = None
    """From where on a token is handed over: a score from 0 to 1 (`neural`; default: the artifact's
    own), or bits of the token's own distribution (`entropy`)."""
    rate: float | None = None
    """How often `random` hands over, 0 to 1."""
    burst: int = 1
    """Tokens that the large model writes before the small one goes on; 1 in the paper."""
    optimistic: bool = False
    """Go on from the small model's own candidate while the large one writes. Costs the branches
    that are dropped; needs gates in the engines and a burst of 1."""
    alone: TargetName | None = None
    """Who answers what two models cannot write together; default: the large model."""
    reasoning: bool = False
    """Whether the backends tell the models' reasoning from their answer (a reasoning parser). Then
    vLLM's derender reads each answer as a whole, and it arrives in one piece at its end."""

    def __post_init__(self) -> None:
        if self.burst < 1:
            raise ValueError("burst: at least 1")
        if self.optimistic and self.burst > 1:
            raise ValueError("optimistic: needs a burst of 1, there is one candidate only")
        if self.small == self.large:
            raise ValueError("large: must be another model than small")
        if self.rule != "neural" and self.artifact is not None:
            raise ValueError(f"artifact: the rule {self.rule} has none")
        try:
            self._rule(seed=0)
        except ValueError as error:
            raise ValueError(str(error).removeprefix("tandem_gate_")) from None

    def route(self, request: Request, fleet: Fleet) -> Steps:
        """Write the answer with both models."""
        return (yield from answered(self, request, fleet))

    def misfit(self, fleet: Fleet) -> str | None:
        """Token ids are handed over, so both must mean the same by them."""
        return tokenizers_differ(fleet.models[self.small], fleet.models[self.large])

    def unfit(self, small: ModelView, large: ModelView) -> str | None:
        """A learned gate sees what only the engine knows."""
        if self.rule == "neural" and small.abilities.gate is None:
            return f"the engines of {small.name} have no gate, and a learned one runs nowhere else"
        return None

    def write(self, page: Page, small: Writer, large: Writer) -> Phrase[Ended]:
        """Fill one page: the small model's tokens, with some of the large one's."""
        optimistic = self.optimistic and small.gate is not None and page.asked.logprobs is None
        ahead: Line | None = None
        while True:
            turn = self._small_turn(page, large, optimistic)
            turned = yield from write_on(page, small, turn, ahead)
            ahead = None
            if isinstance(turned, Failed) and turned.fault.elsewhere and not large.lost:
                small.lost = True
                return (yield from self._finish(page, large))
            if not isinstance(turned, Fired):
                assert not isinstance(turned, Paused)
                return turned
            turn, line = Turn(until=len(page.ids) + self.burst), None
            if optimistic and _may_guess(page, turned):
                line = yield from open_line(page, large, turn)
                assert turned.candidate is not None
                guess = [turned.candidate]
                small_turn = self._small_turn(page, large, optimistic, ahead=1)
                ahead = yield from open_line(page, small, small_turn, guess)
                page.guesses += 1
            turned = yield from write_on(page, large, turn, line, ahead)
            if isinstance(turned, Failed) and turned.fault.elsewhere:
                large.lost = True
            elif not isinstance(turned, Paused):
                yield from _drop(ahead)
                assert not isinstance(turned, Fired)
                return turned
            if ahead and (ahead.broken or large.lost or page.split or page.ids[-1:] != guess):
                yield from _drop(ahead)
                ahead = None
            page.kept += ahead is not None

    def _finish(self, page: Page, large: Writer) -> Phrase[Ended]:
        turned = yield from write_on(page, large, Turn())
        assert not isinstance(turned, Fired | Paused)
        return turned

    def _small_turn(self, page: Page, large: Writer, optimistic: bool, ahead: int = 0) -> Turn:
        if large.lost:
            return Turn()
        seed = _seed(page, len(page.ids) + ahead) if self.rule == "random" else 0
        return Turn(rule=self._rule(seed), candidate=optimistic)

    def _rule(self, seed: int) -> GateSettings:
        return GateSettings(
            Rule(self.rule), artifact=self.artifact, threshold=self.threshold, rate=self.rate,
            seed=seed,
        )  # fmt: skip


def _may_guess(page: Page, fired: Fired) -> bool:
    """Whether something may come after the candidate that is told."""
    return fired.candidate is not None and not page.split and page.room() != 1


def _drop(ahead: Line | None) -> Phrase[None]:
    if ahead is not None:
        yield from close(ahead.attempt)


def _seed(page: Page, position: int) -> int:
    """Every position of an answer has its own coin, whoever came to it and in how many calls, so a
    replay tosses the same ones.
    """
    return later(hash((page.request.draw, page.choice)) % SEEDS, position)

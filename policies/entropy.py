"""Entropy-adaptive switching: the small model writes while it is sure, the large one otherwise.

EAD (arXiv 2502.06833): both models share a tokenizer, one of them runs; it is handed over when the
mean entropy of the running model's last distributions crosses a threshold, and not before some
tokens have passed. The rule runs inside the engines (`policies.engine_gate`), on the exact
distribution, and stops them at the token at which it fires; a backend without a gate is watched
from here, over its top-k log-probabilities. What the paper leaves open is a setting with a default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from policies.duet.answer import REASONS, answered
from policies.duet.page import Page
from policies.duet.turn import Fired, Paused, Turn, Writer, write_on
from policies.duet.watch import Estimate
from policies.gate.settings import MAX_WINDOW, GateSettings, Rule
from router.fleet import Fleet, ModelView, tokenizers_differ
from router.phrases import Phrase
from router.steps import Ended, Failed, ModelName, Request, Steps, TargetName


@dataclass(frozen=True, slots=True)
class Entropy:
    """Hands over when the running model becomes unsure, and back when it is sure again."""

    reasons: ClassVar[tuple[str, ...]] = REASONS
    returns: ClassVar[bool] = True

    small: ModelName
    """The model that writes while it is sure."""
    large: ModelName
    """The model that writes where the small one is not."""
    threshold: float = 0.9
    """Mean entropy in bits from which on the large model writes; depends on the pair, and
    `tandem calibrate entropy` finds it for a share or a quality. Not published."""
    back: float | None = None
    """Mean entropy in bits below which the large model hands back; default: the threshold. A lower
    one (hysteresis) hands over less often. Not in the paper."""
    window: int = 5
    """Distributions that the mean is taken over, as in the paper; 1 decides on each alone."""
    dwell: int = 10
    """Tokens that a model writes at least before it hands over, as in the paper."""
    start: Literal["small", "large"] = "small"
    """Who begins. Not published."""
    keep: bool = False
    """Whether the running model still writes the token at which it became unsure. Not published."""
    estimate: Estimate = "middle"
    """Without a gate in the engine the entropy is only known to lie between two bounds: which point
    of that range counts."""
    alone: TargetName | None = None
    """Who answers what two models cannot write together; default: the large model."""
    reasoning: bool = False
    """Whether the backends tell the models' reasoning from their answer (a reasoning parser). Then
    vLLM's derender reads each answer as a whole, and it arrives in one piece at its end."""

    def __post_init__(self) -> None:
        if self.threshold < 0 or (self.back is not None and self.back < 0):
            raise ValueError("threshold, back: an entropy is at least 0 bits")
        if self.back is not None and self.back > self.threshold:
            raise ValueError("back: must not be above the threshold, or the two would never agree")
        if not 1 <= self.window <= MAX_WINDOW:
            raise ValueError(f"window: 1 to {MAX_WINDOW}")
        if self.dwell + 1 < self.window:
            raise ValueError(
                "dwell: at least window - 1, so that a window never holds the entropies of two "
                "models: those of the one cannot be told to the other's engine"
            )
        if self.small == self.large:
            raise ValueError("large: must be another model than small")

    def route(self, request: Request, fleet: Fleet) -> Steps:
        """Write the answer with both models."""
        return (yield from answered(self, request, fleet))

    def misfit(self, fleet: Fleet) -> str | None:
        """Token ids are handed over, so both must mean the same by them."""
        return tokenizers_differ(fleet.models[self.small], fleet.models[self.large])

    def unfit(self, small: ModelView, large: ModelView) -> str | None:
        """Any pair with one tokenizer will do."""
        return None

    def write(self, page: Page, small: Writer, large: Writer) -> Phrase[Ended]:
        """Fill one page, in turns."""
        writer, other = (small, large) if self.start == "small" else (large, small)
        while True:
            rule = None if other.lost else self._rule(page, back=writer is large)
            turn = Turn(rule=rule, estimate=self.estimate)
            turned = yield from write_on(page, writer, turn)
            match turned:
                case Fired() | Paused():
                    pass
                case Failed() if other.lost or not turned.fault.elsewhere:
                    return turned
                case Failed():
                    writer.lost = True
                case _:
                    return turned
            writer, other = other, writer

    def _rule(self, page: Page, *, back: bool) -> GateSettings:
        """The rule in the small model's engine, or in the large one's: when to hand `back`.

        Who was handed the pen writes a token, or two models could hand it to and fro for ever.
        """
        bits = self.threshold if not back or self.back is None else self.back
        return GateSettings(
            Rule.ENTROPY, threshold=bits, window=self.window, below=back, keep=self.keep,
            dwell=max(self.dwell, 1) if page.turns else self.dwell,
        )  # fmt: skip

"""Runs of one policy with one threshold after the other, until the one that is wanted is found.

Knows how to try a threshold on a running trial and what to count. The search itself and the
intervals are `policies.training.calibrate`'s; files and the command line are `app.calibrate`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from app.trial import Answered, Messages, Run
from policies.training.calibrate import BITS, SCORES, Halving, Interval, Scale, ratio
from policies.training.token_gate.prompts import Prompt
from policies.training.token_gate.results import ResultFinder
from router.config import Document

CLOSE = 0.05
"""Of the wanted share: a run that comes so near ends the search."""

Right: TypeAlias = Callable[[Answered, Prompt], bool]


class CalibrationError(Exception):
    """No threshold can be found; the message says why and what to do."""


class Trial(Protocol):
    """Where policies are tried out: `app.trial.Trial`, or a test's own."""

    async def put(self, name: str, block: Mapping[str, Any]) -> None:
        """Serve this policy under this name."""
        ...

    async def run(self, target: str, prompts: Sequence[Messages], label: str = "") -> Run:
        """Answer all prompts."""
        ...


@dataclass(frozen=True, slots=True)
class Policy:
    """A token policy whose threshold is sought: its name, and its block in the configuration."""

    name: str
    block: Mapping[str, Any]

    @property
    def scale(self) -> Scale:
        """Where its thresholds lie. Raises `CalibrationError` if it has none."""
        match self.block.get("use"), self.block.get("rule", "neural"):
            case ("entropy", _) | ("token_gate", "entropy"):
                return BITS
            case "token_gate", "neural":
                return SCORES
            case "token_gate", _:
                raise CalibrationError(
                    f"policies.{self.name}: the rule `random` has no threshold: its rate is the "
                    "large model's share"
                )
            case use, _:
                raise CalibrationError(f"policies.{self.name}: `use: {use}` has no threshold")

    def at(self, threshold: float) -> dict[str, Any]:
        """The block with this threshold; a lower one for the way back keeps its ratio to it."""
        block = {**self.block, "threshold": threshold}
        if self.block.get("back") is not None:
            old = self.block.get("threshold", threshold)
            block["back"] = float(f"{threshold * self.block['back'] / old:.3g}")
        return block


def chosen(document: Document, use: str, name: str | None) -> Policy:
    """The policy of this name, or the only one of this kind, or of several the config's default.

    Raises `CalibrationError` if that is none.
    """
    blocks = document.config.policies
    fitting = [each for each in blocks if blocks[each].get("use") == use]
    if name is None:
        name = fitting[0] if len(fitting) == 1 else document.default
    if name not in fitting:
        there = f"there are {', '.join(fitting)}" if fitting else "it has none"
        raise CalibrationError(
            f"name a policy of {document.written.source} with `use: {use}` by --policy: {there}"
        )
    return Policy(name, blocks[name])


def stated(results: ResultFinder, answered: Answered, prompt: Prompt) -> bool:
    """Whether the answer states the prompt's exact result."""
    return prompt.answer is not None and results.right(answered.text, prompt.answer)


@dataclass(frozen=True, slots=True)
class Tried:
    """What came out at one threshold. `accuracy` is of the answers; `kept` is that over the large
    model's own accuracy, where it was asked for.
    """

    threshold: float
    share: Interval
    accuracy: Interval | None = None
    kept: Interval | None = None


@dataclass(slots=True)
class Search:
    """A threshold being sought, on these prompts, with at most `runs` runs."""

    trial: Trial
    policy: Policy
    prompts: Sequence[Prompt]
    right: Right | None = None
    runs: int = 10
    tried: list[Tried] = field(default_factory=list)
    last: Run | None = None
    complete: bool = False
    """Whether more runs would tell nothing."""

    async def for_share(self, share: float) -> Tried:
        """The threshold whose large-token share is nearest to this one."""
        halving = Halving(self.policy.scale)
        while (threshold := self._next(halving)) is not None:
            found = (await self._try(threshold, None)).share.value
            if abs(found - share) <= CLOSE * share:
                self.complete = True
                break
            halving.heard(threshold, too_low=found > share)
        return min(self.tried, key=lambda tried: abs(tried.share.value - share))

    async def for_quality(self, quality: float) -> Tried:
        """The highest threshold that keeps this part of the large model's accuracy.

        Raises `CalibrationError` if none of those tried does.
        """
        if self.right is None or any(prompt.answer is None for prompt in self.prompts):
            raise CalibrationError('a quality can only be kept where every prompt has an "answer"')
        alone = await self._run(str(self.policy.block["large"]), "the large model alone")
        if not any(self._rights(alone)):
            raise CalibrationError("the large model has no answer right: nothing can be kept of it")
        halving = Halving(self.policy.scale)
        while (threshold := self._next(halving)) is not None:
            tried = await self._try(threshold, alone)
            assert tried.kept is not None
            halving.heard(threshold, too_low=tried.kept.value >= quality)
        good = [tried for tried in self.tried if tried.kept and tried.kept.value >= quality]
        if not good:
            best = max(tried.kept.value for tried in self.tried if tried.kept)
            raise CalibrationError(
                f"no threshold that was tried keeps {quality:.1%} of the large model's accuracy; "
                f"the best keeps {best:.1%}: allow less, more --runs, or another rule"
            )
        return max(good, key=lambda tried: tried.threshold)

    def _next(self, halving: Halving) -> float | None:
        threshold = halving.next()
        self.complete = threshold is None
        return threshold if len(self.tried) < self.runs else None

    async def _try(self, threshold: float, alone: Run | None) -> Tried:
        await self.trial.put(self.policy.name, self.policy.at(threshold))
        number = f"run {len(self.tried) + 1} of at most {self.runs}"
        run = await self._run(self.policy.name, f"{number}, threshold {threshold:g}")
        large = str(self.policy.block["large"])
        share = ratio([a.tokens(large) for a in run.answers], [a.tokens() for a in run.answers])
        tried = Tried(threshold, share, *self._quality(run, alone))
        self.tried.append(tried)
        self.last = run
        return tried

    def _quality(self, run: Run, alone: Run | None) -> tuple[Interval | None, Interval | None]:
        if self.right is None or any(prompt.answer is None for prompt in self.prompts):
            return None, None
        rights = self._rights(run)
        accuracy = ratio(rights, [1.0] * len(rights))
        return accuracy, None if alone is None else ratio(rights, self._rights(alone))

    def _rights(self, run: Run) -> list[float]:
        assert self.right is not None
        pairs = zip(run.answers, self.prompts, strict=True)
        return [float(self.right(answered, prompt)) for answered, prompt in pairs]

    async def _run(self, target: str, label: str) -> Run:
        return await self.trial.run(target, [prompt.messages for prompt in self.prompts], label)

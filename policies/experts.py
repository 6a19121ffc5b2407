"""Experts: which of several models answers this request, learned from what they were worth.

Composition of experts (arXiv 2412.01868) in two steps: the prompt is put into a category, and a map
that was solved offline under budgets names the category's expert. Beside it a quality model expects
each expert's score for this very prompt; two models and a threshold are its special case. A prompt
of which nothing can be said goes to the fallback. What is learned is an artifact (`tandem train
experts`), read when the policy is built and never changed; budgets are settings.

Within a conversation a switch throws a prefix cache away. With `sticky` the choices of the earlier
turns are made again, from the same text and so with the same result, and a switch must be worth
what it costs: no state, and every replica agrees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from policies.composition.artifact import Artifact
from policies.composition.ask import Ask, Source, ask_of, asks_of, told_apart
from policies.composition.choice import SHARE, Rule, Wish, rule_for
from policies.composition.judge import Judge, Judgement
from policies.composition.opening import opened, trained_on
from router.fleet import Fleet
from router.phrases import Phrase, compute, embed, note, route
from router.steps import Failed, ModelName, Request, Steps, Surface, TargetName, Vectors

ANSWERED = frozenset({Surface.CHAT, Surface.COMPLETIONS, Surface.RESPONSES, Surface.MESSAGES})
"""Surfaces whose answers are text; vectors of two models must not be mixed."""
MOST_TURNS = 32
"""Turns of a conversation whose choices are made again: beyond, the first are forgotten."""
CHARACTERS = 4
"""Of a prompt per token, for an estimate."""
CANNOT = float("inf")
TOLD = 3
"""Experts that a reason names: a header holds no more."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a request may cost on average: one of these."""

    params_b: float | None = None
    """Active parameters, in billions."""
    usd: float | None = None
    """USD per request, as the training rows or prices said."""
    large_share: float | None = None
    """The share of requests, 0 to 1, that the strongest expert answers."""

    def __post_init__(self) -> None:
        several = (self.params_b, self.usd, self.large_share)
        stated = [value for value in several if value is not None]
        if len(stated) != 1:
            raise ValueError("set one of params_b, usd, large_share")
        if stated[0] < 0:
            raise ValueError("must not be negative")
        if (self.large_share or 0) > 1:
            raise ValueError("large_share: a share is at most 1")

    @property
    def stated(self) -> tuple[str, float]:
        """The unit, and how much of it."""
        for unit, value in (("params_b", self.params_b), ("usd", self.usd)):
            if value is not None:
                return unit, value
        assert self.large_share is not None
        return SHARE, self.large_share


@dataclass(frozen=True, slots=True)
class Risk:
    """At most this share of requests gets a worse answer than the strongest expert's."""

    worse: float
    """The share, 0 to 1."""
    confidence: float = 0.9
    """How sure that is, over the rows it is tried on."""

    def __post_init__(self) -> None:
        if not 0 < self.worse < 1:
            raise ValueError("worse: must lie between 0 and 1")
        if not 0 < self.confidence < 1:
            raise ValueError("confidence: must lie between 0 and 1")


@dataclass(frozen=True, slots=True)
class Experts:
    """Each request to the expert that is worth most for it, under a budget."""

    reasons: ClassVar[tuple[str, ...]] = (
        "expert",
        "abstained",
        "stayed",
        "unavailable",
        "unread",
        "expert_failed",
    )

    artifact: str
    """The folder that `tandem train experts` made, relative to where Tandem is started."""
    fallback: TargetName | None = None
    """Who answers what is too uncertain, and what an expert failed to answer; default: the expert
    with the best mean score in training."""
    experts: Mapping[str, TargetName] = field(default_factory=dict)
    """The model or policy here for each expert of the artifact; one left out has its own name."""
    by: Literal["quality", "category"] = "quality"
    """What decides: the quality expected of each expert for this prompt, or its category's map."""
    budget: Budget | None = None
    """What a request may cost on average; without one the best expert is taken at any price."""
    risk: Risk | None = None
    """In place of a budget: the cheapest expert, as long as answers are seldom worse than the
    strongest expert's."""
    confidence: float | None = None
    """Below this probability of its category a prompt is uncertain; default: the artifact's."""
    similarity: float | None = None
    """Below this mean cosine to the nearest prompts of training, too; default: the artifact's."""
    text: Source = "ask"
    """What is read: the last turn of a person (`ask`), all of them (`user`), or `all` that was
    said. What harnesses wrap in tags is left out."""
    sticky: float | None = None
    """Expected quality that a switch within a conversation must gain for every 1,000 tokens so far,
    which the other model has yet to read; 0.01, say. Without it each turn is decided alone."""
    patience: float = 0.01
    """Expected quality that a second of waiting for a sleeping model costs."""
    embedder: ModelName | None = None
    """The model that embeds prompts, for an artifact that was trained with one of `/v1/embeddings`;
    else the local one does."""
    _artifact: Artifact = field(init=False, repr=False, compare=False)
    _judge: Judge = field(init=False, repr=False)
    _rule: Rule = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.budget is not None and self.risk is not None:
            raise ValueError("risk: a budget is set already; both cannot be kept")
        if self.risk is not None and self.by == "category":
            raise ValueError("risk: is bounded by quality only, not by category")
        if (self.sticky or 0) < 0:
            raise ValueError("sticky: must not be negative")
        if self.patience < 0:
            raise ValueError("patience: must not be negative")
        if not 0 <= (self.confidence or 0) <= 1:
            raise ValueError("confidence: a probability lies between 0 and 1")
        if not -1 <= (self.similarity or 0) <= 1:
            raise ValueError("similarity: a cosine lies between -1 and 1")
        artifact, judge = opened(Path(self.artifact), remote=self.embedder is not None)
        names = [expert.name for expert in artifact.card.experts]
        if strange := [name for name in self.experts if name not in names]:
            raise ValueError(
                f"experts: the artifact has no expert {strange[0]}; it has {', '.join(names)}"
            )
        object.__setattr__(self, "_artifact", artifact)
        object.__setattr__(self, "_judge", judge)
        wish = Wish(
            by_category=self.by == "category",
            budget=self.budget.stated if self.budget else None,
            risk=(self.risk.worse, self.risk.confidence) if self.risk else None,
            confidence=self.confidence,
            similarity=self.similarity,
        )
        try:
            object.__setattr__(self, "_rule", rule_for(artifact, wish))
        except ValueError as error:
            raise ValueError(f"budget: {error}") from None

    def misfit(self, fleet: Fleet) -> str | None:
        """Every expert must be somebody here; one that is mapped was looked up already."""
        for expert in self._artifact.card.experts:
            if expert.name not in self.experts and expert.name not in fleet.models:
                known = ", ".join(fleet.models)
                return (
                    f"the artifact's expert {expert.name} is no model here ({known}); say who it "
                    f"is: experts: {{{expert.name}: NAME}}"
                )
        return None

    def foretold(self, requests: Sequence[Request]) -> Sequence[Mapping[str, str | float]]:
        """The category and how sure it is, each expert's expected score, and the choice, as if
        every expert could be asked and nothing had been said before.
        """
        if self.embedder is not None:
            raise ValueError("embedder: nothing can be foretold where a backend makes embeddings")
        read = [ask_of(request.body, self.text) for request in requests]
        return [self._row(judgement) for judgement in self._judge.judge_all(read)]

    def trained_on(self, prompts: Sequence[str]) -> int:
        """How many of these prompts its artifact, or the artifact's prior, was trained on."""
        return trained_on(self._artifact, prompts)

    def _row(self, judgement: Judgement) -> Mapping[str, str | float]:
        card = self._artifact.card
        chosen = self._rule.choose(judgement, [0.0] * len(card.experts))
        uncertain = self._rule.uncertain(judgement) is not None or chosen is None
        return {
            "category": card.categories[judgement.category].name,
            "confidence": judgement.confidence,
            "similarity": judgement.similarity,
            **{
                f"quality/{expert.name}": quality
                for expert, quality in zip(card.experts, judgement.quality, strict=True)
            },
            "choice": self._last if uncertain or chosen is None else self._target(chosen),
            "reason": "abstained" if uncertain else "expert",
        }

    # ------------------------------------------------------------------------------- serving

    def route(self, request: Request, fleet: Fleet) -> Steps:
        """Hand the request to an expert, and to the fallback if that fails."""
        turns = 1 if self.sticky is None else MOST_TURNS
        asks = told_apart(asks_of(request.body, self.text, turns), request.ask)
        if request.surface not in ANSWERED or not asks:
            yield from note("unread", "nobody asked anything in words")
            return (yield from route(self._last, request))
        judged = yield from self._judged(asks, request)
        if isinstance(judged, str):
            yield from note("unread", f"the embedder failed: {judged}")
            return (yield from route(self._last, request))
        target, reason, detail = self._decide(asks, judged, fleet)
        yield from note(reason, detail, self._expected(judged[-1]))
        if target == self._last:
            return (yield from route(target, request))
        ended = yield from route(target, request, share=0.5)
        if isinstance(ended, Failed) and ended.fault.elsewhere and not ended.sent:
            yield from note("expert_failed", f"{target}: {ended.fault.summary}")
            return (yield from route(self._last, request))
        return ended

    def _judged(self, asks: Sequence[Ask], request: Request) -> Phrase[list[Judgement] | str]:
        """What the judge thinks of each turn: remembered, or thought about off the event loop.

        A string says why nothing can be thought.
        """
        known = {ask: self._judge.remembered(ask) for ask in asks}
        new = [ask for ask, judged in known.items() if judged is None]
        if new:
            texts: tuple[str, ...] = ()
            vectors: Vectors = ()
            if self.embedder is not None:
                every = dict.fromkeys(ask.text for ask in new)
                texts = tuple(text for text in every if self._judge.vectors.known(text) is None)
            if self.embedder is not None and texts:
                embedded = yield from embed(self.embedder, request, texts)
                if isinstance(embedded, Failed):
                    return embedded.fault.summary
                vectors = embedded
            thought = yield from compute(_thought, self._judge, new, texts, vectors)
            if isinstance(thought, str):
                return thought
            known |= dict(zip(new, thought, strict=True))
        return [judged for ask in asks if (judged := known[ask]) is not None]

    def _decide(
        self, asks: Sequence[Ask], judged: Sequence[Judgement], fleet: Fleet
    ) -> tuple[str, str, str]:
        """The target, the reason and the detail: the turns of the conversation in their order."""
        losses = self._losses(fleet, asks[-1])
        current: int | None = None
        for ask, judgement in zip(asks, judged, strict=True):
            best, held = self._rule.choose(judgement, losses), current
            uncertain = self._rule.uncertain(judgement)
            stays = held is not None and losses[held] < CANNOT
            if uncertain is not None and not stays:
                current = None
            elif uncertain is None and not (stays and self._keeps(ask, judgement, held, best)):
                current = best
        about = self._about(judged[-1])
        if current is None:
            if uncertain is None:
                return self._last, "unavailable", f"no expert can be asked; {about}"
            return self._last, "abstained", f"{uncertain}; {about}"
        stayed = current == held and (uncertain is not None or current != best)
        return self._target(current), "stayed" if stayed else "expert", about

    def _keeps(self, ask: Ask, judgement: Judgement, held: int | None, best: int | None) -> bool:
        """Whether a switch from the expert that has read the conversation is not worth it."""
        if held is None or best is None:
            return best is None
        gain = self._rule.worth(judgement, best) - self._rule.worth(judgement, held)
        return gain <= (self.sticky or 0.0) * ask.before / CHARACTERS / 1000

    def _losses(self, fleet: Fleet, ask: Ask) -> list[float]:
        """What each expert loses by circumstance: all of it, if it cannot be asked at all."""
        tokens = (ask.before + ask.length) / CHARACTERS
        losses = []
        for expert in range(len(self._artifact.card.experts)):
            model = fleet.models.get(self._target(expert))
            if model is None:  # a policy, which finds its own way
                losses.append(0.0)
            elif not model.healthy or (model.context or CANNOT) < tokens or model.wake == CANNOT:
                losses.append(CANNOT)
            else:
                losses.append(self.patience * model.wake)
        return losses

    @property
    def _last(self) -> str:
        """Who answers when no expert does."""
        return self.fallback or self._target(self._artifact.card.strong)

    def _target(self, expert: int) -> str:
        name = self._artifact.card.experts[expert].name
        return self.experts.get(name, name)

    def _expected(self, judgement: Judgement) -> Mapping[str, float]:
        """The expected score of each target; of two experts behind one, the better."""
        found: dict[str, float] = {}
        for expert, quality in enumerate(judgement.quality):
            target = self._target(expert)
            found[target] = max(quality, found.get(target, 0.0))
        return found

    def _about(self, judgement: Judgement) -> str:
        """For people: what the prompt is about, and what is expected of the best few."""
        category = self._artifact.card.categories[judgement.category].name
        best = sorted(self._expected(judgement).items(), key=lambda pair: -pair[1])[:TOLD]
        told = ", ".join(f"{name} {quality:.2f}" for name, quality in best)
        return f"{category} {judgement.confidence:.2f}; expects {told}"


def _thought(
    judge: Judge, asks: Sequence[Ask], texts: Sequence[str], vectors: Vectors
) -> list[Judgement] | str:
    """What is thought of `asks`, given the embeddings of these texts; or why nothing is."""
    try:
        if texts:
            judge.learn(texts, vectors)
        return judge.think(asks)
    except (ValueError, LookupError) as error:
        return str(error)

"""Particles: several beginnings of one answer, of which after each step those that look good go on.

Particle filtering for inference-time scaling (arXiv 2502.01618). The small model writes a step of
every particle, a grader or a reward model marks what there is so far, and particles are copied and
dropped by their marks before the next step. Best of N spends as much on an answer that went wrong
in its first line as on one that did not; here that is spent on copies of what went well. By chance,
not by rank: a grader has its faults too, and what it takes for second best may be right.

The answer is one particle, written to the client once it is chosen. What ends a step, how a text is
continued and how answers become weights is in `policies.duet` and `policies.filtering`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from policies.duet.asked import Asked, asked_as_text
from policies.duet.handoff import Handoff
from policies.duet.sheet import refuse_no_border
from policies.filtering.drawing import Drawing
from policies.filtering.drawing import Steps as Stepping
from policies.filtering.marking import best_of, marked
from policies.filtering.particle import Particle, given
from policies.filtering.weights import effective, survivors, weights_of
from policies.gate.chance import uniform
from policies.verdicts.grading import StepGrade
from policies.verdicts.scoring import Scoring, unscored
from policies.verdicts.votes import Majority, answer_of
from router.fleet import Fleet
from router.phrases import Phrase, compute, note, route
from router.steps import (
    Blame,
    Failed,
    ModelName,
    Request,
    Steps,
    Surface,
    TargetName,
)

LEAST = 2
MOST = 16
"""Particles of one request, as many as samples of `best_of`."""
MOST_CALLS = 512
"""Calls of the small model that one request may come to, and as many grades."""
MANTISSA = 1 << 53
"""Whole numbers that a draw from 0 to 1 can tell apart."""
SEEDS = 1 << 63
ROUNDING = 1e-9
"""Equal weights are as many as there are, or a rounding fewer."""


@dataclass(slots=True)
class Cloud:
    """The particles of one request. `steps` and `resampled` count; `why` once no more marks come,
    with what went wrong; `lost` says what became of particles that are gone.
    """

    drawing: Drawing
    particles: list[Particle]
    seed: int
    steps: int = 0
    resampled: int = 0
    why: str = ""
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The answer: one particle, how good it is by what was asked, and all weights' effective size.

    `mark` is None where nothing can be said of it.
    """

    particle: Particle
    mark: float | None
    effective: float


@dataclass(frozen=True, slots=True)
class ParticleFilter:
    """Several beginnings of the small model's answer; after each step the good ones go on."""

    reasons: ClassVar[tuple[str, ...]] = (
        "sure",
        "best",
        "unsure",
        "no_verdict",
        "draft_failed",
        "not_sampled",
    )

    small: ModelName
    """The model that is sampled."""
    grade: StepGrade | None = None
    """Mark what there is after each step by another model's verdict in one token."""
    score: Scoring | None = None
    """Mark it by a served reward model's score, from 0 to 1."""
    large: TargetName | None = None
    """Who answers where no particle is good enough; by default the best particle does."""
    particles: int = 4
    """How many answers are written side by side."""
    most_steps: int = 16
    """Steps after which what there is is written to its end, without resampling."""
    bar: float = 0.7
    """What is good enough: the mark of the answer, or with `majority` the share of the weights that
    agree; 0 to 1."""
    majority: Majority | None = None
    """Give the answer that most of the weight comes to, not that of the best mark."""
    softness: float = 1.0
    """Weights are the odds of marks to the power of its inverse: 1 in the paper; the higher, the
    less the grader is trusted."""
    effective: float = 0.5
    """The share of the particles that must be effective, or they are resampled; 1 does that after
    every step whose marks differ, as in the paper."""
    separator: str = "\n\n"
    """What ends a step, where white space alone is none. Not a space at its end."""
    longest: int = 512
    """Tokens after which a step ends without a separator."""
    temperature: float = 0.7
    """What steps are drawn at, where the client asks for less, or for none."""
    handoff: Literal["message", "prompt"] = "message"
    """How a chat is continued: as a last message, or as the prompt that the chat template makes."""
    alone: TargetName | None = None
    """Who answers what is not sampled; default: the large model, or without one the small one."""

    def __post_init__(self) -> None:
        if why := next(self._wrong(), None):
            raise ValueError(why)
        refuse_no_border(self.separator, self.longest)

    def _wrong(self) -> Iterator[str]:
        if (self.grade is None) == (self.score is None):
            yield "set exactly one of grade, score"
        if not LEAST <= self.particles <= MOST:
            yield f"particles: from {LEAST} to {MOST}"
        if self.most_steps < 1:
            yield "most_steps: at least 1"
        if (calls := self.particles * (self.most_steps + 1)) > MOST_CALLS:
            yield (
                f"most_steps: {self.particles} particles may come to {calls} calls and as many "
                f"grades; {MOST_CALLS} are the most"
            )
        if not 1 / self.particles < self.effective <= 1:
            yield "effective: more than one particle of all, which there always is; 1 at most"
        if self.majority and self.majority.sure is not None:
            yield "majority.sure: there is no first particle that could do alone"
        if not 0 < self.bar <= 1:
            yield "bar: above 0, and at most 1"
        if not self.softness > 0:
            yield "softness: above 0"
        if not 0 < self.temperature <= 2:
            yield "temperature: above 0, where particles would be equal, and at most 2"

    def misfit(self, fleet: Fleet) -> str | None:
        """Whether the reward model's servers are known not to tell scores so."""
        return None if self.score is None else unscored(self.score, fleet)

    def route(self, request: Request, fleet: Fleet) -> Steps:
        """Write one of the particles, or give the large model's answer."""
        asked = _asked(request)
        if isinstance(asked, str):
            yield from note("not_sampled", asked)
            return (yield from route(self._alone, request))
        cloud = self._cloud(request, asked, fleet)
        while True:
            cloud.steps += 1
            last = cloud.steps > self.most_steps or bool(cloud.why)
            cloud.particles, failed = yield from cloud.drawing.grown(cloud.particles, last=last)
            if failed is not None:
                if not cloud.particles:
                    return (yield from self._undrawn(request, cloud, failed))
                cloud.lost = f"{len(cloud.particles)} left: {failed.fault.summary}"
            yield from self._mark(request, fleet, cloud)
            if all(particle.finished for particle in cloud.particles):
                return (yield from self._answer(request, cloud))
            self._resample(cloud)

    @property
    def _alone(self) -> str:
        return self.alone or self.large or self.small

    # ------------------------------------------------------------------------------ a step

    def _cloud(self, request: Request, asked: Asked, fleet: Fleet) -> Cloud:
        renders = self.handoff == "prompt" and request.surface is Surface.CHAT
        hand = Handoff(self.small, renders, fleet.models[self.small].context)
        steps = Stepping(self.separator, self.longest)
        drawing = Drawing(hand, request, asked, steps, self._changes(request))
        seed = int(request.draw * MANTISSA) if asked.seed is None else asked.seed % SEEDS
        return Cloud(drawing, drawing.start(self.particles), seed)

    def _changes(self, request: Request) -> Mapping[str, Any]:
        asked = request.body.get("temperature")
        warm = isinstance(asked, int | float) and asked >= self.temperature
        return {} if warm else {"temperature": self.temperature}

    def _mark(self, request: Request, fleet: Fleet, cloud: Cloud) -> Phrase[None]:
        """New marks for all particles, unless whoever gives them has failed before."""
        by = self.grade or self.score
        if by is None or cloud.why:
            return
        cloud.particles, why = yield from marked(by, request, fleet, cloud.particles)
        if why:
            cloud.why = f"{why} in step {cloud.steps}"

    def _resample(self, cloud: Cloud) -> None:
        """Copy and drop by weight, if that has become uneven; not where marks are missing."""
        if cloud.why:
            return
        weights = self._weights(cloud.particles)
        if effective(weights) >= self.effective * len(weights) - ROUNDING:
            return
        draw = float(uniform(np.array([cloud.seed]), np.array([cloud.steps]))[0])
        cloud.particles = [cloud.particles[at] for at in survivors(weights, draw)]
        cloud.resampled += 1

    def _weights(self, particles: Sequence[Particle]) -> list[float]:
        """All alike if there are no marks; where only some have one, the others have the lowest."""
        known = [particle.mark for particle in particles if particle.mark is not None]
        lowest = min(known, default=0.5)
        marks = [lowest if one.mark is None else one.mark for one in particles]
        return weights_of(marks, self.softness)

    # ------------------------------------------------------------------------------ the end

    def _undrawn(self, request: Request, cloud: Cloud, failed: Failed) -> Steps:
        """No particle is left: somebody else answers, if that can help."""
        if cloud.steps > 1 and failed.fault.blame is Blame.CLIENT:
            yield from note("not_sampled", f"no step goes on: {failed.fault.summary}")
            return (yield from route(self._alone, request))
        if not failed.fault.elsewhere or self.large is None:
            return failed
        yield from note("draft_failed", failed.fault.summary)
        return (yield from route(self.large, request))

    def _answer(self, request: Request, cloud: Cloud) -> Steps:
        """The chosen particle if it is good enough, or if there is nobody else to ask."""
        chosen = yield from self._chosen(cloud)
        unmarked = all(particle.mark is None for particle in cloud.particles)
        if chosen.mark is None or cloud.why:
            reason, asks_large = "no_verdict", unmarked or not cloud.why
        elif chosen.mark >= self.bar:
            reason, asks_large = "sure", False
        else:
            reason, asks_large = ("best" if self.large is None else "unsure"), True
        yield from note(reason, self._said(request, cloud, chosen))
        if self.large is not None and asks_large:
            return (yield from route(self.large, request))
        return (yield from given(chosen.particle, tuple(cloud.drawing.attempts)))

    def _chosen(self, cloud: Cloud) -> Phrase[Chosen]:
        particles, weights = cloud.particles, self._weights(cloud.particles)
        size = effective(weights)
        best = particles[best_of(particles)]
        if self.majority is None:
            return Chosen(best, best.mark, size)
        texts = tuple(one.shown if one.whole else None for one in particles)
        shares = yield from compute(shares_of, texts, tuple(weights), self.majority)
        if not any(shares):
            return Chosen(best, None, size)
        share = max(shares)
        agree = [one for one, of in zip(particles, shares, strict=True) if of == share]
        return Chosen(agree[best_of(agree)], share, size)

    def _said(self, request: Request, cloud: Cloud, chosen: Chosen) -> str:
        """The detail, for people."""
        by = "majority" if self.majority else "grade" if self.grade else "score"
        mark = "" if chosen.mark is None else f" {chosen.mark:.2f}"
        asked = request.body.get("temperature")
        heated = asked is not None and "temperature" in cloud.drawing.changes
        said = (
            f"{by}{mark} of {len(cloud.particles)} particles",
            f"{cloud.steps} step{'s' * (cloud.steps > 1)}",
            f"resampled {cloud.resampled}x",
            f"{chosen.effective:.1f} effective",
            f"drawn at temperature {self.temperature:g}" if heated else "",
            cloud.drawing.why,
            cloud.lost,
            cloud.why,
        )
        return ", ".join(filter(None, said))


def shares_of(
    texts: Sequence[str | None], weights: Sequence[float], majority: Majority
) -> list[float]:
    """The part of all weight that comes to each text's answer; 0 where there is none, as in one
    that was cut off (None). To be computed.
    """
    answers = [
        None if text is None else answer_of(text, majority.pattern, majority.field)
        for text in texts
    ]
    sums = defaultdict[str, list[float]](list)
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            sums[answer].append(weight)
    return [0.0 if answer is None else math.fsum(sums[answer]) for answer in answers]


def _asked(request: Request) -> Asked | str:
    """What `request` asks, or why it is not sampled."""
    if request.body.get("top_k") == 1:
        return "top_k: particles would be equal"
    return asked_as_text(request)

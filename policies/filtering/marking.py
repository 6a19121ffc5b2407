"""Marking: what somebody thinks of the particles of one request, after each step.

Every text is shown once, however many particles have it, and none that is as it was when it got its
mark. A mark is from 0 to 1. Whoever cannot be asked leaves the particles with the marks they had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from policies.filtering.particle import Particle, distinct
from policies.verdicts.grading import Grade, all_graded, likelihood
from policies.verdicts.scoring import Scoring, scores_of
from router.fleet import Fleet
from router.phrases import Phrase, close
from router.steps import Draft, Failed, Finished, Request


def marked(
    by: Grade | Scoring, request: Request, fleet: Fleet, particles: list[Particle]
) -> Phrase[tuple[list[Particle], str]]:
    """All particles with the probability that the grader accepts them, or with the reward model's
    score; and what went wrong, if anything did.
    """
    stale = [
        places for _, places in distinct(particles) if any(particles[at].stale for at in places)
    ]
    shown = [particles[places[0]] for places in stale]
    if isinstance(by, Scoring):
        told, verb = (yield from _scored(by, request, shown)), "score"
    else:
        told, verb = (yield from _graded(by, request, fleet, shown)), "grade"
    known, why = list(particles), ""
    for places, mark in zip(stale, told, strict=True):
        if isinstance(mark, Failed):
            why = f"{by.by} did not {verb}: {mark.fault.summary}"
            continue
        for at in places:
            known[at] = replace(known[at], mark=mark, stale=False)
    return known, why


def _graded(
    grade: Grade, request: Request, fleet: Fleet, shown: Sequence[Particle]
) -> Phrase[list[float | Failed]]:
    heard = yield from all_graded(grade, request, fleet, [_draft(one) for one in shown])
    yield from close(*(one.attempt for one in heard if isinstance(one, Draft)))
    return [one if isinstance(one, Failed) else likelihood(grade, one) for one in heard]


def _scored(
    scoring: Scoring, request: Request, shown: Sequence[Particle]
) -> Phrase[list[float | Failed]]:
    """Answers and beginnings of answers apart: a chat template puts an end behind the former."""
    told: dict[int, float | Failed] = {}
    for whole in (False, True):
        places = [at for at, one in enumerate(shown) if one.whole is whole]
        if not places:
            continue
        texts = tuple(shown[at].shown for at in places)
        scores = yield from scores_of(scoring, request, texts, whole=whole)
        several = [scores] * len(places) if isinstance(scores, Failed) else scores
        told |= dict(zip(places, several, strict=True))
    return [told[at] for at in range(len(shown))]


def best_of(particles: Sequence[Particle]) -> int:
    """The place of the one with the highest mark; of equal ones the first.

    Those that were cut off come last: right so far is not right.
    """
    ranks = [(one.whole, -1.0 if one.mark is None else one.mark) for one in particles]
    return max(range(len(ranks)), key=lambda at: (ranks[at], -at))


def _draft(particle: Particle) -> Draft:
    attempt = particle.parts[-1].attempt
    return Draft(attempt, particle.shown, (), particle.finished or Finished(attempt))

"""Marking: what somebody thinks of the particles of one request, after each step.

Every text is shown once, however many particles have it, and none that is as it was when it got its
mark. A mark is from 0 to 1. Whoever cannot be asked leaves the particles with the marks they had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from policies.filtering.particle import Particle, distinct
from policies.verdicts.grading import Grade, asking_top, graded, likelihood
from router.fleet import Fleet
from router.phrases import Phrase, close, together
from router.steps import Draft, Failed, Finished, Request


def marked(
    grade: Grade, request: Request, fleet: Fleet, particles: list[Particle]
) -> Phrase[tuple[list[Particle], str]]:
    """All particles with the probability that the grader accepts them; and what went wrong, if
    anything did.
    """
    texts = [
        (text, places)
        for text, places in distinct(particles)
        if any(particles[at].stale for at in places)
    ]
    asking = asking_top(fleet.models[grade.by].abilities.max_logprobs)
    verdicts = yield from together(
        [graded(grade, request, _draft(particles[places[0]]), asking) for _, places in texts]
    )
    yield from close(*(one.attempt for one in verdicts if isinstance(one, Draft)))
    known, why = list(particles), ""
    for (_, places), verdict in zip(texts, verdicts, strict=True):
        if isinstance(verdict, Failed):
            why = f"{grade.by} did not grade: {verdict.fault.summary}"
            continue
        mark = likelihood(grade, verdict)
        for at in places:
            known[at] = replace(known[at], mark=mark, stale=False)
    return known, why


def best_of(particles: Sequence[Particle]) -> int:
    """The place of the one with the highest mark; of equal ones the first.

    Those that were cut off come last: right so far is not right.
    """
    ranks = [(one.whole, -1.0 if one.mark is None else one.mark) for one in particles]
    return max(range(len(ranks)), key=lambda at: (ranks[at], -at))


def _draft(particle: Particle) -> Draft:
    attempt = particle.parts[-1].attempt
    return Draft(attempt, particle.shown, (), particle.finished or Finished(attempt))

"""Scoring: what a served reward model makes of answers, or of their beginnings.

A number a text, more is better; how the server is asked for it is a setting (`router.steps.Scorer`
says what each of its values means). All texts are scored by one step. Whoever asks decides what a
score is good for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from policies.verdicts.grading import question_of
from router.fleet import Fleet
from router.phrases import Phrase, score
from router.steps import Failed, ModelName, Request, ScoreApi, Scorer, Scores


@dataclass(frozen=True, slots=True)
class Scoring:
    """A served reward model's score of an answer."""

    by: ModelName
    """The reward model, as a vLLM with `--runner pooling` serves it. It answers no client."""
    api: ScoreApi = "score"
    """Where it tells its scores: `/v1/score` takes the question with all answers, and the server
    makes a text of each pair; `/classify` and `/pooling` are sent a chat per answer, of which the
    model's own chat template makes a text."""
    label: int = -1
    """Which of several numbers is the score, counted from 0, or from the end if negative: a label's
    probability (`classify`), or a number of the last token (`pooling`)."""
    scale: Literal["raw", "sigmoid"] = "raw"
    """`raw` takes the number as it is served; `sigmoid` asks for the one before any squashing, and
    squashes it to 0 to 1 here."""


def scores_of(
    scoring: Scoring, request: Request, texts: tuple[str, ...], *, whole: bool = True
) -> Phrase[Scores | Failed]:
    """The score of each text as an answer to `request`; unless `whole`, as the beginning of one."""
    squashes = scoring.scale == "sigmoid"
    by = Scorer(scoring.api, scoring.label, squashes, whole)
    told = yield from score(scoring.by, request, question_of(request), texts, by)
    if isinstance(told, Failed) or not squashes:
        return told
    return tuple(map(sigmoid, told))


def sigmoid(logit: float) -> float:
    """From 0 to 1; 0.5 for 0. Never overflows."""
    return 0.5 + 0.5 * math.tanh(0.5 * logit)


def unscored(scoring: Scoring, fleet: Fleet) -> str | None:
    """Why this model cannot be asked so, as far as its servers are known; None if it can."""
    known = fleet.models[scoring.by].abilities.scores
    if known is None or scoring.api in known:
        return None
    found = ", ".join(sorted(known)) or "none of them"
    return (
        f"score.api: {scoring.by} does not serve {scoring.api} (of score, classify and pooling its "
        f"servers have {found}); a reward model is served with vLLM's --runner pooling"
    )

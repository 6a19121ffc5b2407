"""Scoring: the step `Score` as calls to a served reward model, and what it answers as numbers.

Three APIs of vLLM's tell scores (its pooling models, entrypoints/pooling): `/v1/score` takes one
question and many answers; `/classify` and `/pooling` take one chat a call, so here every text is a
call of its own, all of them at once. A call is an attempt like any other: it waits for its place,
is counted, priced and logged, and tried elsewhere if it fails. One that stays without a number
leaves the whole step without: a policy compares answers, and a missing one would lose.

It knows no policy. These paths are asked on a policy's behalf only; what a client may reach is
`Surface`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from time import monotonic
from typing import Any

import orjson

from router.attempts import Attempts, Live
from router.dialect import SCORED_AT
from router.faults import FaultError
from router.refusals import no_scores
from router.steps import (
    Attempt,
    Failed,
    Next,
    Open,
    Score,
    Scores,
    Surface,
    TimedOut,
)
from router.upstream import broken

__all__ = ["bodies", "numbers", "scored"]

MISSING = 404
Json = Mapping[str, Any]


def bodies(step: Score) -> Sequence[Json]:
    """What is sent, a body a call, without the model's name."""
    squashed: Json = {"use_activation": False} if step.by.logits else {}
    if step.by.api == "score":
        return [{"text_1": step.asked, "text_2": list(step.texts), **squashed}]
    return [
        {
            "messages": [
                {"role": "user", "content": step.asked},
                {"role": "assistant", "content": text},
            ],
            "add_generation_prompt": False,
            "continue_final_message": not step.by.whole,
            **squashed,
        }
        for text in step.texts
    ]


def numbers(step: Score, said: bytes) -> Scores:
    """The scores in one answer, in the order of its texts. Raises `FaultError`."""
    path, wanted = SCORED_AT[step.by.api], len(step.texts) if step.by.api == "score" else 1
    try:
        rows = orjson.loads(said)["data"]
        found = {row.get("index", at): row for at, row in enumerate(rows)}
        told = len(rows)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise broken(f"the backend's {path} does not answer with scores", "bad_json") from None
    if told != wanted or found.keys() != set(range(wanted)):
        message = f"the backend's {path} answers with {told} scores where {wanted} were asked for"
        raise broken(message, "bad_json")
    try:
        scores = tuple(_number(found[at], step) for at in range(wanted))
    except (IndexError, KeyError, TypeError, ValueError):
        scores = ()
    if not scores or not all(map(isfinite, scores)):
        raise broken(f"the backend's {path} answers with a score that is no number", "bad_json")
    return scores


def _number(row: Json, step: Score) -> float:
    """The score in a row: `score`, one of `probs`, or the last of `data`."""
    match step.by.api:
        case "score":
            value = row["score"]
        case "classify":
            value = row["probs"][step.by.label]
        case "pooling":
            last = row["data"][-1]  # of the last token, where each has its own
            value = (last if isinstance(last, list) else row["data"])[step.by.label]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


async def scored(step: Score, attempts: Attempts, until: float) -> Scores | Failed:
    """The scores of all texts, in the step's share of the time until then (monotonic).

    Waiting in the model's line and other backends' tries are in it.
    """
    path = SCORED_AT[step.by.api]
    now = monotonic()
    until = now + step.share * max(until - now, 0.0)
    asks = [
        Open(step.model, step.request.asking(body, Surface.SCORE))
        for body in (bodies(step) if step.texts else ())
    ]
    found: dict[int, Scores] = {}
    waiting: dict[Attempt, int] = {}
    own = "" if step.by.api == "score" else path  # for its own the surface is held to be served
    try:
        for at, ask in enumerate(asks):
            waiting[await attempts.open(ask, until, own)] = at
        while waiting:
            event = await attempts.next(Next(tuple(waiting)))
            assert not isinstance(event, TimedOut)
            at = waiting.pop(event.attempt)
            heard = (
                event if isinstance(event, Failed) else await _read(step, attempts, event.attempt)
            )
            if not isinstance(heard, Failed):
                found[at] = heard
            elif heard.spare:
                asks[at] = replace(asks[at], avoid=asks[at].avoid | {event.attempt.backend})
                waiting[await attempts.open(asks[at], until, own)] = at
            else:
                missing = heard.fault.status == MISSING and heard.fault.quotes
                return replace(heard, fault=no_scores(step, path)) if missing else heard
        return tuple(number for at in range(len(asks)) for number in found[at])
    finally:
        for attempt in waiting:
            attempts.drop(attempt.number, None)


async def _read(step: Score, attempts: Attempts, attempt: Attempt) -> Scores | Failed:
    """The scores in an answer that was heard to its end, and its connection is free again."""
    live = attempts.known(attempt)
    assert isinstance(live, Live)
    try:
        scores = numbers(step, b"".join(live.call.held))
    except FaultError as error:
        return attempts.broke(live, error.fault)
    await attempts.close(attempt)
    return scores

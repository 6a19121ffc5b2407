"""What `tandem eval --log` does: estimates another policy's worth from what one policy did.

The policy is asked, offline, with which chance it would have taken each arm of each decision that
was logged; `policies.training.scoring.logged` makes estimates of that.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from app.evaluation import Method
from app.evaluation_report import plain
from app.judged import Judged, JudgedError, judged
from policies.training.calibrate import Interval
from policies.training.decisions import Decisions, Logged
from policies.training.outcomes.rows import asked
from policies.training.scoring.logged import Estimates, Log, estimated, outcome_model
from policies.training.scoring.trails import Floats, Integers
from router.decide import decided

__all__ = ["Found", "figures", "judge_log", "report", "warnings"]

MOST_UNSUPPORTED = 0.05
"""Above this share of decisions without support no estimate is given: it could be anything."""
IDEALISED = {
    "idealised_seconds": "idealised runtime (seconds)",
    "idealised_usd": "idealised cost (USD)",
}
"""What the log calls them, and what they are called here."""
FEW = 100
"""Effective decisions below which intervals of a bootstrap are too short."""


@dataclass(frozen=True, slots=True)
class Found:
    """Estimates of the mean score and the mean cost, None where nothing is known of it."""

    judged: Judged
    decisions: Decisions
    arms: Sequence[str]
    score: Estimates | None
    cost: Estimates | None
    idealised: Mapping[str, Estimates]
    """Of what answers take served alone, by its name in the log, as far as decisions hold it."""
    model: str
    """What the outcome model of DR is: `ridge` on vectors of the prompts, what the logged policy
    `expected`, or the arms' `means`."""


def judge_log(options: argparse.Namespace, decisions: Decisions, method: Method) -> Found:
    """Judge the policy on logged decisions; raises `JudgedError`, `RowsError` or `ConfigError`."""
    policy = judged(options, decisions.arms, logged=True)
    target = [_chances(policy, one) for one in method.watch(
        decisions.usable, "replaying", len(decisions.usable)
    )]  # fmt: skip
    arms = tuple(dict.fromkeys((*decisions.arms, *(arm for one in target for arm in one))))
    whole = _log(decisions.usable, target, arms)
    _check_support(whole, decisions, arms)
    kind, features = _features(decisions.usable, method)
    stated = _expected(decisions.usable, arms) if method.embed is None else None
    kind = kind if stated is None else "expected"
    score = _estimates("score", whole, decisions, (features, stated), method)
    cost = _estimates("cost", whole, decisions, (features, None), method)
    if score is None and cost is None:
        raise JudgedError("no decision has a score or a cost: give scores with --scores FILE")
    told = {
        name: _estimates(name, whole, decisions, (features, None), method) for name in IDEALISED
    }
    idealised = {name: estimates for name, estimates in told.items() if estimates is not None}
    return Found(policy, decisions, arms, score, cost, idealised, kind)


def _check_support(log: Log, decisions: Decisions, arms: Sequence[str]) -> None:
    if log.unsupported <= MOST_UNSUPPORTED:
        return
    never = [arm for arm in arms if not any(one.chances.get(arm) for one in decisions.usable)]
    named = f" ({', '.join(never)})" if never else ""
    raise JudgedError(
        f"{log.unsupported:.1%} of this policy's decisions are for what the log had no chance of "
        f"choosing{named}: let a share of the traffic explore (`split`), then ask again"
    )


def _estimates(
    name: str,
    whole: Log,
    decisions: Decisions,
    told: tuple[Floats, Floats | None],
    method: Method,
) -> Estimates | None:
    """Of one outcome, over the decisions of which it is known; None if it is of none.

    `told` are the prompts' features, and what is expected of each arm if that was logged.
    """
    features, stated = told
    values = np.asarray([getattr(one, name) for one in decisions.usable], dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values))
    if not len(known):
        return None
    log = _of(whole, values, known)
    model = outcome_model(log, features[known], method.seed) if stated is None else stated[known]
    return estimated(log, model, method.draws, method.seed)


def _chances(policy: Judged, one: Logged) -> Mapping[str, float]:
    """The chances of all arms under the policy, called as the log calls them."""
    stage, columns = policy.stage, policy.names.columns
    try:
        chances = decided(policy.name, one.request, stage.targets, stage.fleet).chances
    except KeyError as error:
        known = ", ".join(stage.fleet.models)
        raise JudgedError(f"the policy asks {error.args[0]}, and the log knows {known}") from None
    return {columns.get(arm, arm): chance for arm, chance in chances.items()}


def _log(
    usable: Sequence[Logged], target: Sequence[Mapping[str, float]], arms: Sequence[str]
) -> Log:
    places = {arm: place for place, arm in enumerate(arms)}
    sessions = {name: at for at, name in enumerate(dict.fromkeys(o.session for o in usable))}
    return Log(
        arm=np.asarray([places[one.arm] for one in usable], dtype=np.intp),
        logged=np.asarray([[one.chances.get(arm, 0.0) for arm in arms] for one in usable]),
        target=np.asarray([[one.get(arm, 0.0) for arm in arms] for one in target]),
        outcome=np.zeros(len(usable)),
        clusters=np.asarray([sessions[one.session] for one in usable], dtype=np.intp),
    )


def _of(log: Log, outcome: Floats, rows: Integers) -> Log:
    """Only these decisions, with this outcome."""
    clusters = np.unique(log.clusters[rows], return_inverse=True)[1]
    return Log(log.arm[rows], log.logged[rows], log.target[rows], outcome[rows], clusters)


def _features(usable: Sequence[Logged], method: Method) -> tuple[str, Floats]:
    if method.embed is None:
        return "means", np.zeros((len(usable), 1))
    texts = [asked(tuple(one.request.body["messages"])) for one in usable]
    return "ridge", np.asarray(method.embed(texts), dtype=np.float64)


def _expected(usable: Sequence[Logged], arms: Sequence[str]) -> Floats | None:
    """What the policy that was logged expected of every arm, [n, k], if it always said so."""
    if not all(arm in one.expected for one in usable for arm in arms):
        return None
    return np.asarray([[one.expected[arm] for arm in arms] for one in usable], dtype=np.float64)


# ------------------------------------------------------------------------------------- the report


def report(found: Found) -> str:
    """The estimates, for people."""
    lines = [f"{len(found.decisions.usable)} decisions; arms: {', '.join(found.arms)}"]
    lines += [f"left out: {number} {reason}" for reason, number in found.decisions.left_out.items()]
    alone = ((IDEALISED[name], estimates) for name, estimates in found.idealised.items())
    for name, estimates in (("score", found.score), ("cost (USD)", found.cost), *alone):
        if estimates is None:
            continue
        lines += ["", f"{name}, {estimates.decisions} decisions"]
        for called, figure in _rows(estimates, found.model):
            lines += [f"  {called:<44}{_shown(figure)}"]
        lines += [f"  {'effective sample size':<44}{estimates.effective:.0f}"]
        lines += [f"  {'decisions without support':<44}{estimates.unsupported:.1%}"]
    return "\n".join([*lines, "", "95 % intervals; sessions are resampled whole"])


def _rows(estimates: Estimates, model: str) -> Iterator[tuple[str, Interval]]:
    yield "as it was logged", estimates.logged
    yield "inverse propensity (IPS)", estimates.ips
    yield "self-normalised IPS", estimates.snips
    yield f"doubly robust ({model})", estimates.dr
    yield "doubly robust, above what was logged", estimates.gain


def _shown(figure: Interval) -> str:
    return f"{figure.value:.4g} ({figure.low:.4g} to {figure.high:.4g})"


def figures(found: Found) -> dict[str, Any]:
    """All of it, for programs."""
    whole: dict[str, Any] = {
        "decisions": len(found.decisions.usable),
        "left_out": dict(found.decisions.left_out),
        "arms": [*found.arms],
        "policy": found.judged.kind,
        "outcome_model": found.model,
        "score": None if found.score is None else asdict(found.score),
        "cost": None if found.cost is None else asdict(found.cost),
        **{name: asdict(estimates) for name, estimates in found.idealised.items()},
        "warnings": [*warnings(found)],
    }
    return {name: plain(value) for name, value in whole.items()}


def warnings(found: Found) -> Iterator[str]:
    """What makes the estimates worth less."""
    whole = len(found.decisions.usable)
    for name, estimates in (("score", found.score), ("cost", found.cost)):
        if estimates is None:
            yield f"no decision has a {name}"
            continue
        if estimates.decisions < whole:
            yield (
                f"{estimates.decisions} of {whole} decisions have a {name}; the estimate is of "
                "those, and they may be others than the rest"
            )
        if estimates.unsupported:
            yield (
                f"{estimates.unsupported:.1%} of this policy's decisions are for what the log had "
                f"no chance of choosing: of these the {name} is the outcome model's guess"
            )
        if estimates.effective < FEW:
            yield (
                f"the {name} rests on {estimates.effective:.0f} effective decisions: fewer than "
                f"{FEW} are too few for their intervals"
            )

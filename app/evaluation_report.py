"""What `tandem eval` found on rows: a table for people, JSON for programs, a picture, warnings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from app.evaluation import LENGTH, NEAREST, RANDOM, Evaluation, TaskResult
from policies.training.calibrate import Interval
from policies.training.outcomes.costs import Unit
from policies.training.scoring.contest import (
    LEVELS,
    ORACLE,
    POLICY,
    ZERO,
    Band,
    Result,
    band,
    bounds,
)
from policies.training.scoring.picture import Picture, Point, draw

__all__ = ["figures", "plain", "plot", "report", "warnings"]

SHARE = "large share"
PAIR_FIGURES = ("apgr", *LEVELS, "aiq")
_KEYS = {Unit.IDEALISED: "idealised_seconds", Unit.IDEALISED_USD: "idealised_usd"}
_COLUMNS = {Unit.IDEALISED: "idealised s", Unit.IDEALISED_USD: "idealised USD"}
BAND_DRAWS = 200
"""Resamples for a curve's band: a picture shows no third digit."""


# ------------------------------------------------------------------------------------ for people


def report(found: Evaluation) -> str:
    """All figures, as tables."""
    parts = [_heading(found), _points(found), _rankings(found), _tasks(found)]
    return "\n\n".join(part for part in parts if part)


def _heading(found: Evaluation) -> str:
    field = found.contest.field
    sizes = ", ".join(
        name if math.isnan(size) else f"{name} ({size:g}B)"
        for name, size in zip(field.models, field.params_b.tolist(), strict=True)
    )
    lines = [f"{len(found.rows)} rows; models: {sizes}"]
    if found.left_out:
        lines += [f"{found.left_out} rows left out: a model's score is not known there"]
    for model, share in found.rows.unread.items():
        if model in field.models:
            lines += [f"no result could be read in {share:.1%} of the answers of {model}: wrong"]
    if found.reasons:
        said = sorted(found.reasons.items(), key=lambda reason: -reason[1])
        lines += ["reasons: " + ", ".join(f"{reason} {number}" for reason, number in said)]
    if found.abstained is not None:
        lines += [f"abstained on {found.abstained:.1%}"]
    lines += [f"cost: {found.unit.said}; 95 % intervals from {found.method.draws} resamples"]
    return "\n".join(lines)


def _points(found: Evaluation) -> str:
    """Where everything stands, the policy and what it is compared with."""
    pair = found.contest.field.pair
    units = list(found.idealised)
    head = ["", "score", "", SHARE if pair else "", "cost", "active (B)"]
    head += [*(_COLUMNS[unit] for unit in units), "policy is above by"]
    rows = [
        [
            point["name"],
            *_spread(point["score"]),
            f"{point['share']:.1%}" if pair and point["share"] is not None else "",
            _number(point["cost"]),
            _number(point["params_b"]),
            *(_number(point[_KEYS[unit]]) for unit in units),
            _gap(point["policy_above"]),
        ]
        for point in _standing(found)
    ]
    way = found.result.interval(f"{POLICY}/way")
    where = SHARE if found.contest.field.by_share else "cost"
    text = (
        f"of the way from the best single model of equal or lower {where} to the oracle of equal "
        f"{where}: {_share(way)}"
    )
    return f"{_table([head, *rows])}\n\n{text}"


def _rankings(found: Evaluation) -> str:
    """What the rankings are worth, at every setting."""
    ranked = list(_ranked(found.contest.field.pair, found.result, found.rankers))
    if not ranked:
        return ""
    main = "apgr" if found.contest.field.pair else "aiq"
    names = [name for name in PAIR_FIGURES if any(name in one["figures"] for one in ranked)]
    rows = [["ranking", *(part for name in names for part in (name.upper(), "")), "policy above"]]
    for one in ranked:
        cells = [one["name"]]
        for name in names:
            cells += _spread(one["figures"].get(name))
        above = one["policy_above"].get(main)
        rows.append([*cells, f"{_gap(above)} {main.upper()}" if above else ""])
    return _table(rows)


def _tasks(found: Evaluation) -> str:
    if not found.tasks:
        return ""
    pair = found.contest.field.pair
    figure = "apgr" if pair else "score"
    rows = [["task", "rows", *found.contest.field.models, "policy", "", RANDOM]]
    rows[0] += ["APGR" if pair else "above random", ""]
    for task, one in found.tasks.items():
        values = one.result.values
        cells = [task, str(one.rows)]
        cells += [f"{values[f'{model}/score']:.3f}" for model in found.contest.field.models]
        cells += _spread(one.result.interval(f"{POLICY}/score"))
        cells += [f"{values[f'{RANDOM}/score']:.3f}"]
        if figure == "apgr":
            name = f"{POLICY}/apgr"
            cells += _spread(one.result.interval(name) if name in values else None)
        else:
            cells += _spread(one.result.above(f"{POLICY}/score", f"{RANDOM}/score"), "+.3f")
        rows.append(cells)
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _spread(figure: Interval | None, form: str = ".3f") -> list[str]:
    if figure is None or math.isnan(figure.value):
        return ["", ""]
    value, low, high = (format(round(end, 3) + 0.0, form) for end in _ends(figure))
    return [value, f"({low} to {high})"]


def _gap(figure: Interval | None) -> str:
    return " ".join(_spread(figure, "+.3f")).strip()


def _share(figure: Interval) -> str:
    if math.isnan(figure.value):
        return "there is no way: the oracle is no better"
    return f"{figure.value:.0%} ({figure.low:.0%} to {figure.high:.0%})"


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4g}"


# ------------------------------------------------------------------------------------- both forms


def _standing(found: Evaluation) -> Iterator[dict[str, Any]]:
    """Every point, the policy's first, with how far the policy is above it."""
    result = found.result
    ways = [POLICY, *found.contest.field.models, RANDOM]
    others = [name for name in found.rankers if name != POLICY]
    for name in [*ways, *others, ZERO, ORACLE]:
        own = name in ways
        values = result.values
        yield {
            "name": name if own else f"{name}, same {_where(found)}",
            "score": result.interval(f"{name}/score"),
            "share": values[f"{name}/share"] if own else None,
            "cost": values[f"{name}/cost"] if own else None,
            "params_b": values[f"{name}/params_b"] if own else None,
            **{key: found.idealised.get(unit, {}).get(name) for unit, key in _KEYS.items()},
            "policy_above": None
            if name == POLICY
            else result.above(f"{POLICY}/score", f"{name}/score"),
        }
    yield {
        "name": f"{ORACLE}, at any {_where(found)}",
        "score": result.interval(f"{ORACLE}/most"),
        "share": None,
        "cost": None,
        "params_b": None,
        **dict.fromkeys(_KEYS.values()),
        "policy_above": result.above(f"{POLICY}/score", f"{ORACLE}/most"),
    }


def _where(found: Evaluation) -> str:
    return "share" if found.contest.field.by_share else "cost"


def _ranked(pair: bool, result: Result, rankers: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every ranking's figures, with how far the policy's are above them."""
    told = POLICY in rankers
    for name in [*rankers, ZERO, ORACLE]:
        names = [figure for figure in PAIR_FIGURES if f"{name}/{figure}" in result.values]
        figures = {figure: result.interval(f"{name}/{figure}") for figure in names}
        above: dict[str, Interval] = {}
        if told and name != POLICY:
            above = {
                figure: result.above(f"{POLICY}/{figure}", f"{name}/{figure}") for figure in names
            }
        if figures:
            yield {"name": name, "figures": figures, "policy_above": above}
    if pair:
        own = result.interval(f"{POLICY}/apgr") if told else None
        lots = Interval(0.5, 0.5, 0.5)
        above = {} if own is None else {"apgr": Interval(*(end - 0.5 for end in _ends(own)))}
        yield {"name": RANDOM, "figures": {"apgr": lots}, "policy_above": above}


def _ends(figure: Interval) -> tuple[float, float, float]:
    return figure.value, figure.low, figure.high


def warnings(found: Evaluation) -> Iterator[str]:
    """What makes the figures worth less, or says something of the policy."""
    pair = found.contest.field.pair
    if pair and math.isnan(found.result.values[f"{LENGTH}/apgr"]):
        yield "the large model is no better than the small one here: APGR and CPT mean nothing"
    if chance := [task for task, one in found.tasks.items() if _at_chance(one, pair)]:
        yield (
            f"inside {len(chance)} of {len(found.tasks)} tasks the policy is at chance (no better "
            f"than lots, by its interval): {', '.join(chance)}"
        )
    if found.few:
        yield f"too few rows to look at by itself: {', '.join(found.few)}"
    if 0 < found.said < 1:
        yield (
            f"the policy said what it expects on {found.said:.1%} of the rows; on the others it is "
            "taken to expect its mean"
        )
    if NEAREST in found.rankers and found.method.train is None:
        yield (
            "k-NN was fitted to these same rows, each tenth told by the other nine; give it what "
            "the policy learned from with --train"
        )


def _at_chance(one: TaskResult, pair: bool) -> bool:
    name = f"{POLICY}/apgr"
    if pair and name in one.result.values:
        return one.result.interval(name).low <= 0.5
    return one.result.above(f"{POLICY}/score", f"{RANDOM}/score").low <= 0


# ----------------------------------------------------------------------------------- for programs


def figures(found: Evaluation) -> dict[str, Any]:
    """All of it, curves included; a figure that means nothing is null."""
    field = found.contest.field
    whole = {
        "rows": len(found.rows),
        "left_out": found.left_out,
        "models": {
            name: {"params_b": float(size)}
            for name, size in zip(field.models, field.params_b, strict=True)
        },
        "unread": dict(found.rows.unread),
        "policy": {
            "kind": found.judged.kind,
            "reasons": dict(found.reasons),
            "abstained": found.abstained,
            "expected": found.said,
        },
        "cost_unit": found.unit.value,
        "place": SHARE if field.by_share else "cost",
        "resamples": found.method.draws,
        "seed": found.method.seed,
        "points": [*_standing(found)],
        "way": found.result.interval(f"{POLICY}/way"),
        "rankings": [*_ranked(field.pair, found.result, found.rankers)],
        "tasks": {task: _task(one, field.pair, found) for task, one in found.tasks.items()},
        "curves": plain({**_curves(found), **_lines(found)}),
        "warnings": [*warnings(found)],
    }
    found_: dict[str, Any] = plain(whole)
    return found_


def _task(one: TaskResult, pair: bool, found: Evaluation) -> dict[str, Any]:
    scores = [POLICY, *found.contest.field.models, RANDOM]
    return {
        "rows": one.rows,
        "scores": {name: one.result.interval(f"{name}/score") for name in scores},
        "above_random": one.result.above(f"{POLICY}/score", f"{RANDOM}/score"),
        "rankings": [*_ranked(pair, one.result, found.rankers)],
        "at_chance": _at_chance(one, pair),
    }


def plain(value: Any) -> Any:
    """As JSON has it: NaN is null."""
    match value:
        case Interval():
            return plain({"value": value.value, "low": value.low, "high": value.high})
        case Band():
            parts = {"place": value.places, "score": value.quality}
            if value.low is not value.quality:
                parts |= {"low": value.low, "high": value.high}
            return plain(parts)
        case Mapping():
            return {key: plain(held) for key, held in value.items()}
        case list() | tuple() | np.ndarray():
            return [plain(held) for held in value]
        case float():
            return None if math.isnan(value) else float(value)
        case _:
            return value


# ------------------------------------------------------------------------------------ the picture


def plot(found: Evaluation, file: Path) -> None:
    """Draw quality over the large share or the cost; raises `OSError`."""
    field = found.contest.field
    result = found.result

    def point(name: str) -> Point:
        figure = result.interval(f"{name}/score")
        return Point(result.values[f"{name}/place"], figure.value, figure.low, figure.high)

    draw(
        Picture(
            title=f"{found.judged.kind}, {len(found.rows)} rows",
            axis="calls to the large model (share)" if field.by_share else found.unit.said,
            curves=_curves(found),
            lines=_lines(found),
            singles={name: point(name) for name in field.models},
            policy=point(POLICY),
        ),
        file,
    )


def _curves(found: Evaluation) -> dict[str, Band]:
    """Of every ranker; the policy's, which comes first, with its interval."""
    field, method = found.contest.field, found.method
    return {
        name: band(field, expected, BAND_DRAWS if name == POLICY else 0, method.seed)
        for name, expected in found.contest.rankers.items()
    }


def _lines(found: Evaluation) -> dict[str, Band]:
    """The hull of the single models, and the oracle's."""
    field = found.contest.field
    zero, oracle = bounds(field)
    return {RANDOM if field.by_share else ZERO: zero, ORACLE: oracle}

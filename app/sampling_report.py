"""What `tandem calibrate best-of` found, for people and for programs, and what to be warned of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from app.sampling_calibration import Found
from policies.training.calibrate import Interval
from policies.training.sampling.rows import Rows
from policies.training.sampling.trial import Worth
from policies.verdicts.calibrated import Rate, Stage
from policies.verdicts.plan import Action, planned

WIDE = 0.02
"""Half of an interval of the kept accuracy from which more rows are worth their price."""


def report(found: Found, rows: Rows, block: Mapping[str, Any], name: str) -> str:
    """All of it for people, with the block for the configuration at the end."""
    parts = [
        "\n".join(_facts(found, rows)),
        _table(found),
        "\n".join(_plan(found)),
        "\n".join(["policies:", f"  {name}: {_flow(block)}"]),
    ]
    return "\n\n".join(parts)


def figures(found: Found, rows: Rows, block: Mapping[str, Any], name: str) -> dict[str, Any]:
    """All of it for programs."""
    calibrated = found.calibrated
    return {
        "policy": name,
        "block": dict(block),
        "worth": found.worth,
        "rows": dict(calibrated.data),
        "unreferenced": len(rows) - calibrated.data["references"],
        "held_out": _figures(found.held_out, found.large),
        "beside": {one: _figures(worth, found.large) for one, worth in found.beside.items()},
        "curve": [
            {
                "worth": worth,
                "accuracy": float(one.right.mean()),
                "cost": float(one.cost.mean()),
                "large": float(one.handed.mean()),
            }
            for worth, one in found.curve.items()
        ],
        "cap": asdict(calibrated.cap),
        "stages": [
            {"samples": stage.samples, "bins": [*_bins(found, at)]}
            for at, stage in enumerate(calibrated.stages)
        ],
    }


def block_of(stated: Mapping[str, Any], found: Found, out: Path | None) -> dict[str, Any]:
    """The policy's block with what was found; its bar and its stages are the file's now."""
    kept = {name: value for name, value in stated.items() if name not in ("bar", "stages")}
    return {**kept, "artifact": str(out or "FILE.json"), "worth": found.worth}


def warnings(found: Found, rows: Rows) -> Iterator[str]:
    """What makes the figures worth less."""
    missing = len(rows) - found.calibrated.data["references"]
    if missing:
        yield (
            f"{missing} of {len(rows)} prompts have no answer: there, what the large model says is "
            "taken for right"
        )
    kept = found.held_out.kept(found.large)
    if (kept.high - kept.low) / 2 > WIDE:
        yield f"{len(rows)} prompts leave {kept.low:.1%} to {kept.high:.1%} open: take more"
    if found.held_out.cost.mean() >= 1:
        yield "the plan costs as much as the large model alone: answer with that"


def _facts(found: Found, rows: Rows) -> Iterator[str]:
    data, cap = found.calibrated.data, found.calibrated.cap
    yield (
        f"rows      {data['prompts']} prompts, {data['references']} with an answer, "
        f"{data['samples']} samples each"
    )
    use = rows.origin.verifier["use"]
    yield f"verifier  {use}, bar {cap.bar:g}: wrong ones pass in {_rate(cap.false_positive)},"
    yield f"          right ones in {_rate(cap.true_positive)} of the cases"
    yield f"cap       {_samples(cap.most)}: the next costs more than it gains"
    stages = ", ".join(map(str, found.calibrated.totals))
    yield f"stages    {stages} in all after each"
    yield f"worth     a right answer is worth {found.worth:g} large answers"


def _table(found: Found) -> str:
    head = "| held out | accuracy (95 %) | of the large one's | cost | large answers |"
    rows = {"this plan": found.held_out, **found.beside}
    lines = [
        f"| {name} | {_shown(one.accuracy)} | {_shown(one.kept(found.large))} "
        f"| {one.mean_cost.value:.2f} ({one.mean_cost.low:.2f} to {one.mean_cost.high:.2f}) "
        f"| {one.handed.mean():.1%} |"
        for name, one in rows.items()
    ]
    return "\n".join([head, "|---|---|---|---|---|", *lines])


def _plan(found: Found) -> Iterator[str]:
    """Each stage's bins, and what is done in them."""
    for at, stage in enumerate(found.calibrated.stages):
        yield f"after {_samples(stage.samples)}"
        for one in _bins(found, at):
            if one["prompts"]:
                yield (
                    f"  {one['mark']:<24}{one['prompts']:>9.1f} prompts, right {one['right']:.2f}, "
                    f"large right {one['large_right']:.2f}: {one['then']}"
                )


def _bins(found: Found, at: int) -> Iterator[dict[str, Any]]:
    """Of one stage, over all bins before; where these differ in what is done, all ways are told."""
    calibrated = found.calibrated
    steps = planned(calibrated, found.prices, found.worth).steps
    stage = calibrated.stages[at]
    for now in range(stage.bins):
        cells = [row[now] for row in stage.cells]
        weight = sum(cell.count for cell in cells)
        reached = [
            before for before, cell in enumerate(cells) if cell.count and _leads(steps, at, before)
        ]
        actions = dict.fromkeys(steps[at][before][now].action.value for before in reached)
        yield {
            "mark": _range(stage, now),
            "prompts": round(weight, 2),
            "right": sum(cell.count * cell.right for cell in cells) / weight if weight else 0.0,
            "large_right": sum(cell.count * cell.large for cell in cells) / weight
            if weight
            else 0.0,
            "then": " or ".join(actions) or "never reached",
        }


def _leads(steps: Any, at: int, before: int) -> bool:
    """Whether the plan ever draws on from this bin of the stage before."""
    return not at or any(row[before].action is Action.MORE for row in steps[at - 1])


def _range(stage: Stage, now: int) -> str:
    if now == stage.bins - 1:
        return "no verdict"
    low = f"{stage.cuts[now - 1]:g}" if now else ""
    high = f"{stage.cuts[now]:g}" if now < len(stage.cuts) else ""
    if low and high:
        return f"{low} to {high}"
    return f"from {low}" if low else f"below {high}" if high else "any mark"


def _figures(worth: Worth, large: Worth) -> dict[str, Any]:
    return {
        "accuracy": asdict(worth.accuracy),
        "kept": asdict(worth.kept(large)),
        "cost": asdict(worth.mean_cost),
        "large": float(worth.handed.mean()),
    }


def _flow(block: Mapping[str, Any]) -> str:
    flow = yaml.safe_dump(dict(block), default_flow_style=True, sort_keys=False, width=float("inf"))
    return str(flow).strip()


def _shown(figure: Interval) -> str:
    return f"{figure.value:.1%} ({figure.low:.1%} to {figure.high:.1%})"


def _samples(number: int) -> str:
    return f"{number} sample{'s' * (number > 1)}"


def _rate(rate: Rate) -> str:
    return f"{rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%})"

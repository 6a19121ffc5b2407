"""What `tandem calibrate` found, for people and for programs, and what they must be warned of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import yaml

from app.calibration import Search, Tried
from policies.training.calibrate import Interval


def report(search: Search, found: Tried) -> str:
    """The threshold, what it does, and the line for the configuration."""
    lines = [f"threshold           {found.threshold:g} ({_decided(search)})"]
    lines += [f"large-token share   {_shown(found.share)}"]
    if found.accuracy is not None:
        lines += [f"accuracy            {_shown(found.accuracy)}"]
    if found.kept is not None:
        lines += [f"of the large one's  {_shown(found.kept)}"]
    lines += [f"                    95 % intervals, {len(search.prompts)} prompts"]
    return "\n".join([*lines, "", "policies:", f"  {_line(search, found)}"])


def figures(search: Search, found: Tried) -> dict[str, Any]:
    """All of it, every run included."""
    return {
        "policy": search.policy.name,
        "block": search.policy.at(found.threshold),
        "prompts": len(search.prompts),
        "decided": _decided(search),
        **asdict(found),
        "runs": [asdict(tried) for tried in search.tried],
    }


def warnings(search: Search) -> Iterator[str]:
    """What makes the figures worth less."""
    assert search.last is not None
    answers = search.last.answers
    if alone := [answered for answered in answers if answered.reason == "one_model"]:
        yield (
            f"{len(alone)} of {len(answers)} prompts were answered by one model: {alone[0].detail}"
        )
    if not search.complete:
        yield f"the search ended after {search.runs} runs; more --runs may come closer"


def _line(search: Search, found: Tried) -> str:
    block = search.policy.at(found.threshold)
    flow = yaml.safe_dump(block, default_flow_style=True, sort_keys=False, width=float("inf"))
    return f"{search.policy.name}: {flow.strip()}"


def _decided(search: Search) -> str:
    """`in_engine` or `estimated`: a threshold holds for the estimator that it was found with."""
    assert search.last is not None
    return ", ".join(sorted({answered.reason for answered in search.last.answers}))


def _shown(figure: Interval) -> str:
    return f"{figure.value:.1%} ({figure.low:.1%} to {figure.high:.1%})"

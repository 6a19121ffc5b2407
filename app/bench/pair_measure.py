"""Measures policies on the embedded pair: every row of the table, and the points of its curves.

The whole of Tandem is in the loop: both model servers, a gateway on a loopback port, HTTP. Each
policy answers the same problems, greedily, one policy after the other. Before that both servers are
timed alone, as `tandem bench backend` does it, so that every row has an idealised runtime.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from app import embedded
from app.bench import backend_measure
from app.bench.backend_measure import Found
from app.bench.backend_report import coefficients
from app.bench.pair_lineup import (
    BASELINES,
    USUAL,
    Block,
    Entry,
    frontier,
    learned_share,
    lineup,
    matched,
    messages,
)
from app.bench.pair_rows import Row, related, row
from app.bench.processes import BenchError
from app.trial import Asking, Trial, trying
from deploy.pair.problems import TUNE_SEEDS, Problem, problems
from policies import TABLE
from router.config import Document, Form, parse

Heard: TypeAlias = Callable[[Found], None]
"""Who is told how long a server takes alone."""
ROUNDS = 20
"""Most answers of each pair of lengths: a tiny model gives them in no time, and not evenly."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: `names` of policies, none for the usual ones; on which problems.

    `frontier` stands for every way to answer; `curve` adds the points of the curves. `tuning`
    problems fix the share of the baselines; `more` are policies in YAML, a line each, beside the
    pair's own. `idealised` is for how many seconds each server is timed alone at first; 0 leaves
    that out, and idealised runtimes with it.
    """

    asked: Sequence[Problem]
    names: Sequence[str] = ()
    curve: bool = False
    tuning: int = 300
    more: Sequence[str] = ()
    idealised: float = 0.0
    frontier: bool = False


async def measure(plan: Plan, heard: Heard = lambda _: None) -> list[Row]:
    """All rows. Raises `BenchError`, `TrialError`, `EmbeddedError` or `ConfigError`."""
    pair = await embedded.start()
    try:
        text = pair.document
        for line in plan.more:
            text = text.replace("policies:\n", f"policies:\n  {line}\n", 1)
        document = parse(text, TABLE, "the embedded pair")
        chosen = _chosen(plan, lineup(document.config.policies))
        if plan.idealised:
            document = await _timed(document, plan.idealised, heard)
        async with trying(document, Asking()) as trial:
            if any(entry.name in BASELINES for entry in chosen):
                chosen = await _matched(trial, chosen, plan.tuning)
            measuring = Measuring(trial, plan)
            return related([row for entry in chosen for row in await measuring.rows(entry)])
    finally:
        await pair.close()


async def _timed(document: Document, seconds: float, heard: Heard) -> Document:
    """The same models, each with what its server takes alone."""
    tree = json.loads(json.dumps(document.written.tree))
    for name, model in tree["models"].items():
        (url,) = model["backends"]
        alone = backend_measure.Plan(url, rounds=ROUNDS, limit=seconds)
        found = await backend_measure.measure(alone)
        heard(found)
        model["idealised"] = coefficients(found)
        assert name == found.model
    return parse(json.dumps(tree), TABLE, document.written.source, Form.JSON)


def _chosen(plan: Plan, entries: Mapping[str, Entry]) -> list[Entry]:
    if unknown := [name for name in plan.names if name not in entries]:
        raise BenchError(f"no policy {', '.join(unknown)}: there are {', '.join(entries)}")
    names = frontier(entries) if plan.frontier else plan.names or USUAL
    return [entries[name] for name in names]


async def _matched(trial: Trial, chosen: Sequence[Entry], n: int) -> list[Entry]:
    """The same, the baselines with the learned gate's share on `n` problems for tuning."""
    tuning = list(problems(TUNE_SEEDS.start, n))
    share = await learned_share(trial, tuning)
    return [
        await matched(trial, entry, share, tuning) if entry.name in BASELINES else entry
        for entry in chosen
    ]


@dataclass(frozen=True, slots=True)
class Measuring:
    """A gateway that is measured, and the plan."""

    trial: Trial
    plan: Plan

    async def rows(self, entry: Entry) -> list[Row]:
        """The entry's own row, and those of its curve."""
        rows = [await self._row(entry, None, entry.block)]
        if self.plan.curve:
            rows += [await self._row(entry, *point) for point in entry.points()]
        return rows

    async def _row(self, entry: Entry, setting: float | None, block: Block | None) -> Row:
        if block is not None:
            await self.trial.put(entry.name, block)
        asked = self.plan.asked
        label = entry.name if setting is None else f"{entry.name} {setting:g}"
        run = await self.trial.run(entry.name, [messages(problem) for problem in asked], label)
        measured = row(label, run, asked, embedded.PARAMS_B)
        return replace(measured, line=entry.family or entry.name, setting=setting)

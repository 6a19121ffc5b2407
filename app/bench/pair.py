"""`tandem bench pair`: quality and cost of policies on the embedded pair, on problems with answers.

The command line only: it is imported with every `tandem` command, so the benchmark itself is not.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from app.bench import seeds

if TYPE_CHECKING:
    from app.bench.backend_measure import Found

ALONE = 30.0
"""Seconds for which each server is timed alone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    seeds.add_arguments(parser)
    add("--n", type=int, default=500, help="problems per policy (default: %(default)s)")
    add("--policy", action="append", metavar="NAME", help="only this one; may be repeated")
    more = "a policy to add, as YAML: 'NAME: {use: ...}'; may be repeated"
    add("--add", action="append", metavar="YAML", help=more)
    add("--frontier", action="store_true", help="every way to answer that there is")
    add("--curve", action="store_true", help="measure several thresholds of each policy too")
    plot = "draw accuracy over active parameters, and over idealised cost"
    add("--plot", type=Path, metavar="FILE.png", help=plot)
    alone = "do not time the servers alone first, which takes about a minute"
    add("--no-idealised", action="store_true", help=alone)
    add("--json", action="store_true", help="print the rows as JSON")


def main(options: argparse.Namespace) -> int:
    """Measure and print."""
    if why := seeds.refusal(options):
        return _fail(why, 2)
    if options.frontier and options.policy:
        return _fail("--frontier measures everything: leave --policy out", 2)
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        return _fail("--plot needs matplotlib: pip install 'tandem-gateway[train]'", 1)
    return _measured(options)


def _measured(options: argparse.Namespace) -> int:
    import uvloop

    from app.bench.backend_report import as_tree, summary
    from app.bench.pair_measure import Plan, measure
    from app.bench.pair_rows import table
    from app.bench.processes import BenchError
    from app.calibration import CalibrationError
    from app.embedded import EmbeddedError
    from app.trial import TrialError
    from deploy.pair.problems import problems
    from router.config import ConfigError

    asked = list(problems(options.seed, options.n))
    plan = Plan(
        asked,
        options.policy or (),
        options.curve,
        more=options.add or (),
        idealised=0.0 if options.no_idealised else ALONE,
        frontier=options.frontier,
    )
    timed: list[Found] = []
    try:
        rows = uvloop.run(measure(plan, timed.append))
    except (BenchError, CalibrationError, ConfigError, EmbeddedError, TrialError) as error:
        return _fail(str(error), 1)
    told = {"seed": options.seed, "n": options.n, "rows": [asdict(row) for row in rows]}
    told["backends"] = [as_tree(found) for found in timed]
    print(json.dumps(told) if options.json else "\n\n".join([table(rows), *map(summary, timed)]))
    if options.plot:
        from app.bench.pair_plot import draw

        draw(rows, options.plot)
    return 0


def _fail(reason: str, status: int) -> int:
    print(f"tandem: {reason}", file=sys.stderr)
    return status

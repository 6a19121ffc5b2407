"""`tandem bench verifier`: what a verifier's faults do to sampling, on the embedded pair.

The command line only: it is imported with every `tandem` command, so the benchmark itself is not.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path

from app.bench import seeds

ERRORS = (0.0, 0.05, 0.1, 0.2)
"""False-positive rates that are tried if nothing is said."""
MOST = 16
"""Samples per problem: as many as the policy `best_of` draws at most."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    seeds.add_arguments(parser)
    add("--n", type=int, default=500, help="problems (default: %(default)s)")
    about = "false-positive rates to inject (default: 0 0.05 0.1 0.2)"
    add("--errors", type=_rate, nargs="+", default=ERRORS, metavar="RATE", help=about)
    add("--plot", type=Path, metavar="FILE.png", help="draw accuracy over the number of samples")
    add("--json", action="store_true", help="print the points as JSON")


def _rate(text: str) -> float:
    rate = float(text)
    if not 0 <= rate <= 1:
        raise argparse.ArgumentTypeError("a rate is from 0 to 1")
    return rate


def main(options: argparse.Namespace) -> int:
    """Measure and print."""
    if why := seeds.refusal(options):
        return _fail(why, 2)
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        return _fail("--plot needs matplotlib: pip install 'tandem-gateway[train]'", 1)
    return _measured(options)


def _measured(options: argparse.Namespace) -> int:
    import uvloop

    from app.bench.verifier_measure import curves, drawn
    from app.bench.verifier_rows import table
    from app.embedded import EmbeddedError
    from app.trial import TrialError
    from deploy.pair.problems import problems

    asked = list(problems(options.seed, options.n))
    try:
        samples = uvloop.run(drawn(asked, MOST))
    except (EmbeddedError, TrialError) as error:
        return _fail(str(error), 1)
    points = curves(samples, options.errors)
    told = {"seed": options.seed, "n": options.n, "points": [asdict(point) for point in points]}
    print(json.dumps(told) if options.json else table(points))
    if options.plot:
        from app.bench.verifier_plot import draw

        draw(points, options.plot)
    return 0


def _fail(reason: str, status: int) -> int:
    print(f"tandem: {reason}", file=sys.stderr)
    return status

"""`tandem bench overload`: what is left of a model's throughput when more is asked than it can do.

The command line only: it is imported with every `tandem` command, so the benchmark itself
(`app.bench.overload_measure`) is not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

LOADS = (0.5, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    loads = "offered loads, in capacities, with commas (default: 0.5,0.8,1,1.5,2,3,5)"
    add("--loads", type=_loads, default=LOADS, metavar="X,X", help=loads)
    add("--seconds", type=float, default=10.0, help="per load (default: %(default)s)")
    add("--repetitions", type=int, default=1, help="of everything (default: %(default)s)")
    add("--slots", type=int, default=16, help="answers at once (default: %(default)s)")
    add("--answer", type=float, default=0.4, help="seconds of an answer (default: %(default)s)")
    patience = "seconds until a client gives up (default: %(default)s)"
    add("--patience", type=float, default=2.0, help=patience)
    add("--json", action="store_true", help="print the figures as JSON")
    add("--plot", type=Path, metavar="FILE", help="draw goodput over load, as a PNG")


def main(options: argparse.Namespace) -> int:
    """Measure and print; 1 if it could not be done, or if a target was missed."""
    import uvloop

    from app.bench.overload_measure import Plan, measure
    from app.bench.processes import BenchError

    plan = Plan(
        loads=options.loads,
        seconds=options.seconds,
        repetitions=options.repetitions,
        slots=options.slots,
        answer=options.answer,
        patience=options.patience,
    )
    try:
        found = uvloop.run(measure(plan))
    except (BenchError, OSError) as error:
        print(f"tandem: {error}", file=sys.stderr)
        return 1
    print(found.as_json() if options.json else found.as_text())
    if options.plot:
        from app.bench.overload_plot import draw

        draw(found.points, options.plot)
    return 0 if found.report.met else 1


def _loads(text: str) -> tuple[float, ...]:
    """An argument of positive numbers, with commas between them."""
    loads = tuple(float(part) for part in text.split(","))
    if min(loads) <= 0:
        raise ValueError
    return loads

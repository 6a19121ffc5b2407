"""`tandem bench overhead`: what the gateway costs, against a bare relay and against other gateways.

Everything runs on this machine against a mock backend, one core per process where there are enough,
and every claim is a ratio within one run: absolute figures belong to the machine, ratios travel.

The command line only: it is imported with every `tandem` command, so the benchmark itself is not.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.bench.figures import Report

__all__ = ["Options", "add_arguments", "main", "run"]


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure: repetitions, seconds for each of them, config swaps, and against whom."""

    repetitions: int = 5
    seconds: float = 2.0
    swaps: int = 1000
    rivals: bool = False
    progress: bool = True


def run(options: Options) -> Report:
    """The whole benchmark; raises `BenchError` if nothing can be measured."""
    from app.bench.comparison import compare

    return compare(options)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    defaults = Options()
    parser.add_argument(
        "--repetitions", type=int, default=defaults.repetitions, metavar="N",
        help="interleaved repetitions (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=float, default=defaults.seconds, metavar="S",
        help="length of each measurement (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--swaps", type=int, default=defaults.swaps, metavar="N",
        help="config swaps under load (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--rivals", action="store_true",
        help="also against LiteLLM's proxy and vllm-router, installed from PyPI on first use",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def main(args: argparse.Namespace) -> int:
    """Run and print; 1 if a target was missed, 2 if nothing could be measured."""
    from app.bench.processes import BenchError

    options = Options(args.repetitions, args.seconds, args.swaps, args.rivals, sys.stderr.isatty())
    try:
        report = run(options)
    except BenchError as error:
        print(f"tandem bench overhead: {error}", file=sys.stderr)
        return 2
    print(report.as_json() if args.json else report.as_text())
    return 0 if report.met else 1

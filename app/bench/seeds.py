"""Which problems a benchmark of the embedded pair may report on: an option, and a refusal.

It is imported with every `tandem` command. Seeds that training or tuning may have seen are refused
unless they are asked for by name.
"""

from __future__ import annotations

import argparse

from deploy.pair.problems import REPORT_SEED_FROM


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which problems."""
    seed = "of the problems (default: %(default)s)"
    parser.add_argument("--seed", type=int, default=REPORT_SEED_FROM, help=seed)
    tuning = "allow seeds that are for training and tuning"
    parser.add_argument("--tuning", action="store_true", help=tuning)


def refusal(options: argparse.Namespace) -> str | None:
    """Why these problems are not reported on; None if they may be."""
    if options.seed >= REPORT_SEED_FROM or options.tuning:
        return None
    return (
        f"seeds below {REPORT_SEED_FROM} are for training and tuning and never reported on; "
        "add --tuning if that is what you do"
    )

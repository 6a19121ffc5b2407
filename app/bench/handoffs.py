"""`tandem bench handoffs`: its command line.

It is imported with every `tandem` command, so what it does (`app.bench.handoffs_measure`) is not:
numpy must not be there before `tandem serve` has said how many threads it may use.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE", help="models to use; default: the embedded pair")
    add("--small", default="small", help="of the config's models (default: %(default)s)")
    add("--large", default="large", help="of the config's models (default: %(default)s)")
    add("--n", type=int, default=10, help="answers per batch (default: %(default)s)")
    add("--repeat", type=int, default=5, help="batches per rate (default: %(default)s)")
    add("--json", action="store_true", help="print the figures as JSON")


def main(options: argparse.Namespace) -> int:
    """Measure and print."""
    from app.bench.handoffs_measure import measured

    return measured(options)

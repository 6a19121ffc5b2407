"""`tandem bench backend`: how long one idle server takes, by lengths: the `idealised` of its model.

The command line only: it is imported with every `tandem` command, so the measuring
(`app.bench.backend_measure`) is not.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from app.arguments import count

if TYPE_CHECKING:
    from app.bench.backend_measure import Plan

PROMPTS, ANSWERS = (16, 64, 256, 1024), (1, 16, 64, 256)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    add("url", metavar="URL", help="an OpenAI-compatible server that serves nobody else now")
    add("--model", metavar="NAME", help="which of its models (default: the only one)")
    add("--key-env", metavar="NAME", help="environment variable that holds its API key")
    prompts = "lengths of prompts, in tokens (default: 16,64,256,1024)"
    add("--prompts", type=_lengths, default=PROMPTS, metavar="N,N", help=prompts)
    answers = "lengths of answers, in tokens (default: 1,16,64,256)"
    add("--answers", type=_lengths, default=ANSWERS, metavar="N,N", help=answers)
    rounds = "of all pairs of lengths (default: %(default)s)"
    add("--repetitions", type=count, default=5, metavar="N", help=rounds)
    limit = "end after so long, but for the first repetition (default: %(default)g)"
    add("--seconds", type=_amount, default=300.0, metavar="S", help=limit)
    seed = "of prompts and their order (default: %(default)s)"
    add("--seed", type=int, default=0, metavar="S", help=seed)
    accelerators = "that the server takes, for the YAML (default: %(default)s)"
    add("--accelerators", type=count, default=1, metavar="N", help=accelerators)
    usd = "price of one accelerator, for the YAML"
    add("--usd-per-hour", type=_amount, metavar="USD", help=usd)
    add("--plot", type=Path, metavar="FILE.png", help="draw seconds foretold over measured")
    add("--json", action="store_true", help="print everything as JSON")


def main(options: argparse.Namespace) -> int:
    """Measure, fit and print; 1 if it could not be done."""
    import uvloop

    from app.bench.backend_measure import measure
    from app.bench.backend_report import Priced, as_json, as_text
    from app.bench.figures import machine
    from app.bench.processes import BenchError

    if options.plot and importlib.util.find_spec("matplotlib") is None:
        return _fail("--plot needs matplotlib: pip install 'tandem-gateway[train]'")
    before = machine()
    try:
        found = uvloop.run(measure(_plan(options)))
        if options.plot:
            from app.bench.backend_plot import draw

            draw(found, options.plot)
    except (BenchError, OSError) as error:
        return _fail(str(error))
    priced = Priced(options.accelerators, options.usd_per_hour)
    print(as_json(found, priced, before) if options.json else as_text(found, priced))
    return 0


def _plan(options: argparse.Namespace) -> Plan:
    from app.bench.backend_measure import Plan
    from app.bench.processes import BenchError

    key = None
    if options.key_env and not (key := os.environ.get(options.key_env)):
        raise BenchError(f"--key-env: the environment has no {options.key_env}; export it first")
    if len(options.prompts) < 2 or len(options.answers) < 2:
        raise BenchError("two lengths of --prompts and two of --answers are the least to fit")
    return Plan(
        url=options.url.rstrip("/").removesuffix("/v1"),
        model=options.model,
        key=key,
        prompts=options.prompts,
        answers=options.answers,
        rounds=options.repetitions,
        limit=options.seconds,
        seed=options.seed,
    )


def _fail(reason: str) -> int:
    print(f"tandem: {reason}", file=sys.stderr)
    return 1


def _amount(text: str) -> float:
    """An argument that is a number from 0 on."""
    if not 0 <= (value := float(text)) < math.inf:
        raise ValueError
    return value


def _lengths(text: str) -> tuple[int, ...]:
    """An argument of different numbers from 1 on, with commas between them."""
    lengths = tuple(int(part) for part in text.split(","))
    if min(lengths) < 1 or len(set(lengths)) < len(lengths):
        raise ValueError
    return lengths

"""`tandem bench serving`: how fast a policy serves, against the large model alone.

Made for GPUs: on models as tiny as the embedded pair HTTP costs more than the models do. The
command line only: it is imported with every `tandem` command, so the benchmark itself is not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

STREAMS = (1, 8, 32)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE", help="gateway.yaml; default: the embedded pair")
    add("--policy", required=True, metavar="NAME", help="what is measured")
    add("--against", metavar="NAME", help="the model to compare with (default: its `large`)")
    add("--prompts", type=Path, required=True, metavar="FILE", help='JSON lines with "prompt"')
    streams = "how many at once, several with commas (default: 1,8,32)"
    add("--streams", type=_counts, default=STREAMS, metavar="N,N", help=streams)
    add("--each", type=int, default=4, help="answers per stream (default: %(default)s)")
    add("--repetitions", type=int, default=3, help="of everything (default: %(default)s)")
    add("--max-tokens", type=int, default=512, help="of an answer (default: %(default)s)")
    add("--json", action="store_true", help="print the figures as JSON")


def main(options: argparse.Namespace) -> int:
    """Measure and print; 1 if it could not be done."""
    import uvloop

    from app.bench.processes import BenchError
    from app.bench.serving_load import Plan, measure
    from app.embedded import EmbeddedError
    from policies.training.token_gate.errors import TrainingError

    plan = Plan(
        policy=options.policy,
        prompts=options.prompts,
        config=options.config,
        against=options.against,
        streams=options.streams,
        each=options.each,
        repetitions=options.repetitions,
        max_tokens=options.max_tokens,
    )
    try:
        report = uvloop.run(measure(plan))
    except (BenchError, EmbeddedError, TrainingError, OSError) as error:
        print(f"tandem: {error}", file=sys.stderr)
        return 1
    print(report.as_json() if options.json else report.as_text())
    return 0


def _counts(text: str) -> tuple[int, ...]:
    """An argument of numbers from 1 on, with commas between them."""
    counts = tuple(int(part) for part in text.split(","))
    if min(counts) < 1:
        raise ValueError
    return counts

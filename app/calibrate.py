"""`tandem calibrate`: the threshold of a token policy for a share of tokens, or for a quality.

Only reads the command line; it is imported with every `tandem` command, so what it does is not. The
runs are made by `app.calibration`, and `app.calibration_report` says what they found.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from app import arguments

if TYPE_CHECKING:
    from app.calibration import Search, Tried

USES = {"entropy": "entropy", "token-gate": "token_gate"}
"""What the command calls a kind of policy, and what `use` does."""


def add_arguments(parser: argparse.ArgumentParser, kind: str) -> None:
    """The command's options."""
    parser.set_defaults(kind=kind)
    add = parser.add_argument
    goal = parser.add_mutually_exclusive_group(required=True)
    share = "the large model's part of the tokens, 0 to 1"
    goal.add_argument("--large-share", type=arguments.share, metavar="SHARE", help=share)
    quality = "the part of the large model's accuracy to keep, 0 to 1; every prompt needs an answer"
    goal.add_argument("--quality", type=arguments.share, metavar="PART", help=quality)
    prompts = 'JSON lines with "prompt" or "messages", and "answer" where it is known'
    add("--prompts", type=Path, required=True, metavar="FILE", help=prompts)
    add("--n", type=arguments.count, metavar="N", help="use only the first so many prompts")
    add("--config", type=Path, metavar="FILE", help="gateway.yaml; default: the embedded pair")
    add("--policy", metavar="NAME", help="default: the only one, or the config's default")
    result = "regular expression that finds the result in an answer (default: its last number)"
    add("--result", metavar="REGEX", help=result)
    longest = "longest answer, in tokens (default: %(default)s)"
    add("--max-tokens", type=arguments.count, default=1024, metavar="N", help=longest)
    at_once = "answers at a time (default: %(default)s)"
    add("--at-once", type=arguments.count, default=8, metavar="N", help=at_once)
    runs = "most runs over all prompts (default: %(default)s)"
    add("--runs", type=arguments.count, default=10, metavar="N", help=runs)
    add("--json", action="store_true", help="print the figures as JSON")


def main(options: argparse.Namespace) -> int:
    """Find the threshold, and print it with what it does."""
    import uvloop

    from app.calibration import CalibrationError
    from app.calibration_report import figures, report, warnings
    from app.embedded import EmbeddedError
    from app.trial import TrialError
    from policies.training.token_gate.errors import TrainingError
    from router.config import ConfigError

    try:
        search, found = uvloop.run(_found(options))
    except (CalibrationError, ConfigError, EmbeddedError, TrainingError, TrialError) as error:
        print(f"tandem: {error}", file=sys.stderr)
        return 1
    for warning in warnings(search):
        print(f"tandem: {warning}", file=sys.stderr)
    print(json.dumps(figures(search, found)) if options.json else report(search, found))
    return 0


async def _found(options: argparse.Namespace) -> tuple[Search, Tried]:
    from app import embedded
    from app.calibration import Search, chosen, stated
    from app.trial import Asking, trying
    from policies.training.token_gate.prompts import read_prompts
    from policies.training.token_gate.results import LAST_NUMBER, ResultFinder

    prompts = read_prompts(options.prompts, options.n)
    right = partial(stated, ResultFinder(options.result or LAST_NUMBER))
    asking = Asking(options.at_once, options.max_tokens)
    async with embedded.running(options.config) as document:
        policy = chosen(document, USES[options.kind], options.policy)
        async with trying(document, asking) as trial:
            search = Search(trial, policy, prompts, right, options.runs)
            if options.quality is not None:
                return search, await search.for_quality(options.quality)
            return search, await search.for_share(options.large_share)

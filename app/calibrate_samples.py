"""`tandem calibrate best-of`: how many samples are worth their price, and when the large model is.

Only reads the command line; it is imported with every `tandem` command, so what it does is not.
Samples are drawn by `app.sampling_collect`, what follows from them is `app.sampling_calibration`'s,
and `app.sampling_report` says what was found.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import arguments

if TYPE_CHECKING:
    from app.calibration import Policy
    from app.sampling_calibration import Found, Wish
    from policies.training.sampling.rows import Rows
    from router.config import Document

USE = "best_of"
MOST = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    prompts = 'JSON lines with "prompt" or "messages", and "answer" where it is known'
    add("--prompts", type=Path, metavar="FILE", help=prompts)
    rows = "samples, marks and large answers: written with --prompts, else read"
    add("--rows", type=Path, required=True, metavar="ROWS.jsonl", help=rows)
    add("--n", type=arguments.count, metavar="N", help="use only the first so many prompts")
    add("--config", type=Path, metavar="FILE", help="gateway.yaml; default: the embedded pair")
    add("--policy", metavar="NAME", help="default: the only one, or the config's default")
    goal = parser.add_mutually_exclusive_group()
    target = "the part of the large model's accuracy to keep, 0 to 1, at the least cost"
    goal.add_argument("--target", type=arguments.share, metavar="PART", help=target)
    worth = "what a right answer is worth, in large answers (default: %(default)s)"
    goal.add_argument("--worth", type=_positive, default=20.0, metavar="W", help=worth)
    stages = "samples in all after each stage; may be repeated, the best is taken (default: the "
    stages += "policy's)"
    add("--stages", type=_stages, action="append", metavar="N,N,...", help=stages)
    samples = "samples to draw for each prompt (default: %(default)s)"
    add("--samples", type=arguments.count, default=MOST, metavar="N", help=samples)
    orders = "orders of each prompt's samples to learn from (default: %(default)s)"
    add("--orders", type=arguments.count, default=8, metavar="N", help=orders)
    result = "regular expression that finds the result in an answer (default: its last number)"
    add("--result", metavar="REGEX", help=result)
    longest = "longest answer, in tokens (default: %(default)s)"
    add("--max-tokens", type=arguments.count, default=1024, metavar="N", help=longest)
    at_once = "prompts at a time (default: %(default)s)"
    add("--at-once", type=arguments.count, default=2, metavar="N", help=at_once)
    add("--out", type=Path, metavar="FILE.json", help="write the calibration to this file")
    add("--plot", type=Path, metavar="FILE.png", help="draw accuracy over cost, and the cap")
    add("--json", action="store_true", help="print the figures as JSON")


def main(options: argparse.Namespace) -> int:
    """Draw, fit, and print what was found."""
    from app.calibration import CalibrationError
    from app.embedded import EmbeddedError
    from app.trial import TrialError
    from policies.training.sampling.rows import SamplesError
    from policies.training.token_gate.errors import TrainingError
    from router.config import ConfigError

    if options.plot and importlib.util.find_spec("matplotlib") is None:
        return _fail("--plot needs matplotlib: pip install 'tandem-gateway[train]'")
    try:
        return _calibrated(options)
    except (CalibrationError, ConfigError, EmbeddedError) as error:
        return _fail(str(error))
    except (SamplesError, TrainingError, TrialError) as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        return _fail(
            f"{error.name} is not installed: install tandem-gateway[train], in a checkout `make "
            "train-tools`"
        )


def _calibrated(options: argparse.Namespace) -> int:
    from app.sampling_report import block_of, figures, report, warnings
    from policies.training.sampling.picture import draw
    from policies.verdicts.calibrated import write_calibrated

    rows, policy, found = _found(options)
    block = block_of(policy.block, found, options.out)
    for warning in warnings(found, rows):
        print(f"tandem: {warning}", file=sys.stderr)
    told = (found, rows, block, policy.name)
    print(json.dumps(figures(*told)) if options.json else report(*told))
    if options.out:
        write_calibrated(options.out, found.calibrated)
    if options.plot:
        curve = [*found.curve.values()]
        draw(curve, found.held_out, found.beside, found.calibrated.cap, options.plot)
    return 0


def _found(options: argparse.Namespace) -> tuple[Rows, Policy, Found]:
    """The rows, drawn or read, the policy, and what follows from them."""
    import uvloop

    from app import embedded
    from app.calibration import chosen
    from app.sampling_calibration import Calibrating, Marking, of_origin, offered
    from policies.training.sampling.rows import read_rows
    from policies.training.token_gate.results import LAST_NUMBER, ResultFinder

    if options.prompts:
        rows, document = uvloop.run(_drawn(options))
    else:
        rows, document = read_rows(options.rows, options.n), embedded.written(options.config)
    policy = chosen(document, USE, options.policy)
    best_of = document.policies[policy.name]
    of_origin(rows, best_of)
    marking = Marking(ResultFinder(options.result or LAST_NUMBER))
    found = Calibrating(rows, marking, offered(document, best_of), _wish(options, best_of)).found()
    return rows, policy, found


async def _drawn(options: argparse.Namespace) -> tuple[Rows, Document]:
    from app import embedded
    from app.calibration import chosen
    from app.sampling_collect import Collecting, plan_of
    from app.trial import Asking, trying
    from policies.training.token_gate.journal import Journal
    from policies.training.token_gate.prompts import read_prompts

    prompts = read_prompts(options.prompts, options.n)
    asking = Asking(options.at_once, options.max_tokens)
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    async with embedded.running(options.config) as document:
        policy = document.policies[chosen(document, USE, options.policy).name]
        plan = plan_of(policy, document.config.models, options.samples)
        async with trying(document, asking) as trial:
            rows = await Collecting(trial, plan, Journal(options.rows)).run(prompts)
            return rows, document


def _wish(options: argparse.Namespace, policy: Any) -> Wish:
    from app.sampling_calibration import Wish, bars_of

    return Wish(
        schedules=tuple(options.stages or (policy.totals,)),
        own=policy.totals,
        bars=bars_of(policy),
        bar=policy.bar if policy.mean_logprob is None else policy.mean_logprob,
        target=options.target,
        worth=options.worth,
        orders=options.orders,
    )


def _positive(text: str) -> float:
    if not 0 < (value := float(text)) < float("inf"):
        raise ValueError
    return value


def _stages(text: str) -> tuple[int, ...]:
    totals = tuple(map(int, text.split(",")))
    if totals[0] < 1 or list(totals) != sorted(set(totals)):
        raise ValueError
    return totals


def _fail(reason: str) -> int:
    print(f"tandem: {reason}", file=sys.stderr)
    return 1

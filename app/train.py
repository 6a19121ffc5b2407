"""`tandem train token-gate`: learns a gate from two running models and a file of prompts.

Only reads the command line and prints; the work is in `policies.training`, which needs the `train`
extra and is imported when the command runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from app import arguments

if TYPE_CHECKING:
    from policies.training.token_gate.collect import Address, Asking
    from policies.training.token_gate.pipeline import Plan

NEEDED = ("torch", "safetensors", "matplotlib")
"""Of the `train` extra; looked for before hours are spent on asking."""
TRACES = "TANDEM_GATE_TRACES"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    _add_models(parser)
    _add_files(parser)
    _add_recipe(parser)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _add_models(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the models").add_argument
    add("--small", required=True, metavar="URL", help="server of the small model, with the gate")
    add("--large", required=True, metavar="URL", help="server of the large model")
    add("--judge", metavar="URL", help="who compares texts where no answer is known")
    for role in ("small", "large", "judge"):
        add(f"--{role}-model", metavar="NAME", help="needed if its server has several")
    add("--judge-prompt", type=Path, metavar="FILE", help="what the judge is told, instead")
    add("--key-env", metavar="NAME", help="environment variable that holds the API key of all")
    add(
        "--at-once",
        type=arguments.count,
        default=8,
        metavar="N",
        help="calls at a time (default: %(default)s)",
    )
    tokens = "longest answer, in tokens (default: %(default)s)"
    add("--max-tokens", type=arguments.count, default=4096, metavar="N", help=tokens)


def _add_files(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("files").add_argument
    prompts = 'JSON lines with "prompt" or "messages", and "answer" where it is known'
    add("--prompts", type=Path, required=True, metavar="FILE", help=prompts)
    add("--n", type=arguments.count, metavar="N", help="use only the first so many prompts")
    result = "regular expression that finds the result in an answer (default: its last number)"
    add("--result", metavar="REGEX", help=result)
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the artifact")
    work = "folder of what the models said (default: DIR/work); give an earlier run's to reuse it"
    add("--work", type=Path, metavar="DIR", help=work)
    traces = f"folder in which the small model's server writes (default: ${TRACES})"
    add("--traces", type=Path, metavar="DIR", help=traces)
    add("--small-files", type=Path, metavar="DIR", help="the small model's Hugging Face folder")


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the gate").add_argument
    hidden = "whether it reads hidden states (default: yes)"
    add("--hidden", action=argparse.BooleanOptionalAction, default=True, help=hidden)
    add("--width", type=arguments.count, default=64, help="of the network (default: %(default)s)")
    add("--blocks", type=arguments.count, default=1, help="residual blocks (default: %(default)s)")
    add("--rate", type=float, help="learning rate (default: 0.0512 / width)")
    add("--epochs", type=arguments.count, default=12, help="at most (default: %(default)s)")
    add("--seed", type=int, default=0, help="default: %(default)s")
    recall = "share of divergent tokens that the threshold must find (default: %(default)s)"
    add("--recall", type=arguments.share, default=0.95, help=recall)


def main(options: argparse.Namespace) -> int:
    """Train, and print the figures."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return _fail(
            f"training needs {', '.join(missing)}: pip install 'tandem-gateway[train]', or in a "
            "checkout `make train-tools`"
        )
    from policies.training.token_gate.errors import TrainingError
    from policies.training.token_gate.pipeline import train
    from policies.training.token_gate.prompts import read_prompts

    try:
        prompts = read_prompts(options.prompts, options.n)
        report = train(_plan(options), _asking(options), prompts)
    except (TrainingError, OSError) as error:
        return _fail(str(error))
    for warning in report.warnings:
        print(f"tandem: {warning}", file=sys.stderr)
    if options.json:
        print(json.dumps(report.figures))
    else:
        print("\n".join(f"{name:<16} {_shown(value)}" for name, value in report.figures.items()))
    return 0


def _plan(options: argparse.Namespace) -> Plan:
    from policies.training.token_gate.errors import TrainingError
    from policies.training.token_gate.pipeline import Plan
    from policies.training.token_gate.recipe import Recipe

    traces = options.traces or os.environ.get(TRACES)
    if not traces:
        raise TrainingError(
            f"name the folder in which the small model's server writes its traces: --traces, or "
            f"{TRACES}, as for that server"
        )
    recipe = Recipe(
        width=options.width,
        blocks=options.blocks,
        rate=options.rate,
        epochs=options.epochs,
        seed=options.seed,
    )
    return Plan(
        out=options.out,
        work=options.work or options.out / "work",
        traces=Path(traces),
        recipe=recipe,
        hidden=options.hidden,
        recall=options.recall,
        files=options.small_files,
    )


def _asking(options: argparse.Namespace) -> Asking:
    from policies.training.token_gate.collect import Asking
    from policies.training.token_gate.results import LAST_NUMBER, ResultFinder
    from policies.training.token_gate.verdicts import JUDGE_PROMPT

    small, large = _address(options, "small"), _address(options, "large")
    assert small is not None
    assert large is not None
    return Asking(
        small=small,
        large=large,
        judge=_address(options, "judge"),
        judge_prompt=options.judge_prompt or JUDGE_PROMPT,
        results=ResultFinder(options.result or LAST_NUMBER),
        max_tokens=options.max_tokens,
        at_once=options.at_once,
        key=_key(options.key_env),
    )


def _address(options: argparse.Namespace, role: str) -> Address | None:
    from policies.training.token_gate.collect import Address

    url = getattr(options, role)
    return Address(url, getattr(options, f"{role}_model")) if url else None


def _key(variable: str | None) -> str | None:
    from policies.training.token_gate.errors import TrainingError

    if variable and variable not in os.environ:
        raise TrainingError(f"there is no environment variable {variable} (--key-env)")
    return os.environ[variable] if variable else None


def _shown(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _fail(reason: str) -> int:
    print(f"tandem: {reason}", file=sys.stderr)
    return 1

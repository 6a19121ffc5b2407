"""`tandem outcomes`: rows of outcomes from running models: who answers which prompt how well.

Only reads the command line and prints; it is imported with every `tandem` command, so what it does
(`app.outcomes_collect`) is not.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import arguments

if TYPE_CHECKING:
    from app.outcomes_collect import Collected, Plan
    from router.config import Config

WRITES = "pyarrow"
"""Of the `train` extra; looked for before hours are spent on asking."""
MANY = 0.02
"""Shares of answers, cut short or without a result, from which a warning is worth a line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    prompts = "JSON lines, Parquet or CSV with prompt or messages, perhaps answer, task, id"
    add(
        "--prompts",
        type=Path,
        nargs="+",
        action="extend",
        required=True,
        metavar="FILE",
        help=prompts,
    )
    out = "the rows, with a journal beside them from which a broken run goes on"
    add("--out", type=Path, required=True, metavar="ROWS.parquet", help=out)
    add("--config", type=Path, metavar="FILE", help="gateway.yaml; default: the embedded pair")
    add("--models", metavar="A,B,...", help="only these models, in this order; default: all")
    add("--n", type=arguments.count, metavar="N", help="use only the first so many prompts")
    longest = "longest answer, in tokens (default: %(default)s)"
    add("--max-tokens", type=arguments.count, default=1024, metavar="N", help=longest)
    at_once = "answers at a time (default: %(default)s)"
    add("--at-once", type=arguments.count, default=8, metavar="N", help=at_once)
    result = "regular expression that finds the result in an answer (default: its last number)"
    add("--result", metavar="REGEX", help=result)
    add("--judge", metavar="MODEL", help="the model that marks where no answer is known")
    add("--judge-prompt", type=Path, metavar="FILE", help="what the judge is told, instead")
    add("--json", action="store_true", help="print the figures as JSON")


def main(options: argparse.Namespace) -> int:
    """Ask, mark, write, and say what came of it."""
    if options.out.suffix.lower() != ".parquet":
        return _fail(f"--out {options.out}: rows are written as Parquet; name a file so")
    if importlib.util.find_spec(WRITES) is None:
        missing = f"{WRITES} is not installed: install tandem-gateway[train]"
        return _fail(f"{missing}, in a checkout `make train-tools`")
    import uvloop

    from app.embedded import EmbeddedError
    from app.outcomes_collect import OutcomesError
    from policies.training.outcomes.errors import RowsError
    from policies.training.token_gate.errors import TrainingError
    from router.config import ConfigError

    try:
        collected = uvloop.run(_collected(options))
    except (ConfigError, EmbeddedError, OutcomesError, RowsError, TrainingError) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))
    for warning in _warnings(collected):
        print(f"tandem: {warning}", file=sys.stderr)
    print(json.dumps(_figures(collected)) if options.json else _report(collected, options.out))
    return 0


async def _collected(options: argparse.Namespace) -> Collected:
    from app import embedded
    from app.outcomes_collect import Collecting, journal_beside
    from app.trial import Asking, trying
    from policies.training.outcomes.tables import write_table
    from policies.training.token_gate.journal import Journal

    async with embedded.running(options.config) as document:
        plan = _plan(options, document.config)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        journal = Journal(journal_beside(options.out))
        async with trying(document, Asking(options.at_once, options.max_tokens)) as trial:
            collected = await Collecting(trial, plan, journal).run()
    columns = dict(collected.rows.columns())
    if any(answer is not None for answer in plan.questions.answers):
        columns["answer"] = plan.questions.answers
    write_table(columns, options.out)
    return collected


def _plan(options: argparse.Namespace, config: Config) -> Plan:
    from app.outcomes_collect import OutcomesError, Plan, models_of
    from policies.training.outcomes.marks import JUDGE_PROMPT, Marking, read_template
    from policies.training.outcomes.questions import read_questions

    questions = read_questions(options.prompts).first(options.n)
    models = models_of(config, options.models, options.judge)
    unknown = questions.answers.count(None)
    if unknown and options.judge is None:
        raise OutcomesError(
            f"{unknown} of {len(questions)} prompts have no answer: name a model that judges with "
            "--judge, or add a column answer"
        )
    template = read_template(options.judge_prompt or JUDGE_PROMPT)
    return Plan(questions, models, Marking(options.result), options.judge, template)


# ------------------------------------------------------------------------------------ what is said


def _warnings(collected: Collected) -> Iterator[str]:
    for model, (count, reason) in collected.failures.items():
        yield (
            f"{model} failed {count} times, these places are empty and the same command asks "
            f"again: {reason}"
        )
    for model, share in collected.cut.items():
        if share > MANY:
            yield f"{share:.1%} of {model}'s answers were cut short: raise --max-tokens"
    for model, share in collected.unread.items():
        if share > MANY:
            yield (
                f"no result was found in {share:.1%} of {model}'s answers, which count as wrong: "
                "say with --result how it is found"
            )
    if collected.unjudged:
        yield (
            f"{collected.unjudged} answers have no score: the judge said no digit about them, or "
            "failed"
        )


def _figures(collected: Collected) -> dict[str, Any]:
    rows = collected.rows
    return {
        "rows": len(rows),
        "models": {model: _of(collected, at) for at, model in enumerate(rows.models)},
        "unjudged": collected.unjudged,
    }


def _of(collected: Collected, at: int) -> dict[str, Any]:
    """One model's figures: means over the rows on which they are known."""
    import numpy as np

    rows, model = collected.rows, collected.rows.models[at]
    means: dict[str, float | None] = {}
    kinds = ("mean_score", rows.scores), ("mean_cost", rows.costs), ("mean_chars", rows.lengths)
    for name, values in kinds:
        column = np.array([np.nan]) if values is None else values[:, at]
        known = column[~np.isnan(column)]
        means[name] = float(known.mean()) if len(known) else None
    return {
        "scored": int((~np.isnan(rows.scores[:, at])).sum()),
        **means,
        "cut_short": collected.cut.get(model, 0.0),
        "unread": collected.unread.get(model, 0.0),
        "failed": collected.failures.get(model, (0, ""))[0],
    }


def _report(collected: Collected, out: Path) -> str:
    figures = _figures(collected)
    lines = [f"{out}: {figures['rows']} rows"]
    for model, of in figures["models"].items():
        mean, dollars = of["mean_score"], of["mean_cost"]
        said = "no score" if mean is None else f"mean score {mean:.3f} of {of['scored']}"
        price = "" if dollars is None else f", {dollars:.3g} USD an answer"
        lines.append(f"  {model}: {said}{price}")
    lines.append(f"  learn from it: tandem train experts --rows {out} --out DIR")
    return "\n".join(lines)


def _fail(reason: str) -> int:
    print(f"tandem: {reason}", file=sys.stderr)
    return 1

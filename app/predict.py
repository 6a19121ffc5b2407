"""`tandem predict`: what a trained router thinks of rows of prompts, a row each.

Only reads the command line, and writes the table; the judging is done by the policy that serves.
What is thought of questions about documents is asked by `app.predict_context`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import predict_context
from app.arguments import parquet

if TYPE_CHECKING:
    from policies.training.outcomes.rows import Rows
    from router.decide import Foretelling
    from router.steps import Policy

BATCH = 256
"""Rows foretold at a time."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    about = "the folder that `tandem train` made; `default` is the one that ships, for context"
    add("artifact", type=Path, metavar="ARTIFACT", help=about)
    policy = "whose artifact it is (default: %(default)s)"
    add("--policy", choices=("experts", "context"), default="experts", help=policy)
    rows = "prompts: Parquet, JSON lines or CSV with prompt or messages (context: or question)"
    add("--rows", type=Path, nargs="+", action="extend", required=True, metavar="FILE", help=rows)
    add("--out", type=parquet, required=True, metavar="OUT.parquet", help="the file to write")
    setting = "a setting of the policy, such as budget='{large_share: 0.3}'; may be repeated"
    add("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE", help=setting)
    predict_context.add_arguments(parser)


def main(options: argparse.Namespace) -> int:
    """Ask the policy about every row, and write what it says."""
    if options.policy == "context":
        return predict_context.main(options)
    if options.documents or options.model:
        option = "--documents" if options.documents else "--model"
        print(f"tandem: {option}: belongs to --policy context", file=sys.stderr)
        return 1
    try:
        from app.flattery import flattering
        from app.judged import JudgedError
        from policies.training.outcomes.errors import RowsError
        from policies.training.outcomes.rows import read_prompts
        from policies.training.outcomes.tables import write_table
        from router.decide import Foretelling

        try:
            rows = read_prompts(options.rows)
            policy = _policy(options)
            if (seen := flattering("it", {"it": policy}, rows.prompts)) is not None:
                print(f"tandem: {seen}", file=sys.stderr)
            assert isinstance(policy, Foretelling)
            columns = {**_carried(rows), **predicted(policy, rows)}
            write_table(columns, options.out)
        except (JudgedError, RowsError, ValueError) as error:
            reason = str(error)
        else:
            print(_summary(columns, options.out))
            return 0
    except ModuleNotFoundError as error:
        reason = f"{error.name} is not installed: install tandem-gateway[train]"
        reason += ", in a checkout `make train-tools`"
    print(f"tandem: {reason}", file=sys.stderr)
    return 1


def _policy(options: argparse.Namespace) -> Policy:
    from policies import TABLE
    from router.references import build_policy

    block = {"use": "experts", "artifact": str(options.artifact), **_settings(options.settings)}
    policy, complaints = build_policy(block, TABLE)
    if complaints:
        path, reason = complaints[0]
        where = ".".join(map(str, path))
        raise ValueError(f"{where}: {reason}" if where else reason)
    assert policy is not None
    return policy


def _settings(stated: Sequence[str]) -> dict[str, Any]:
    from app.judged import settings_of

    settings = settings_of(stated)
    if "use" in settings:
        raise ValueError("--set use: the policy is the artifact's")
    if "embedder" in settings:
        raise ValueError(
            "--set embedder: no server is asked here, so an artifact that was trained with "
            "--embeddings cannot be asked about rows"
        )
    return settings


def predicted(policy: Foretelling, rows: Rows) -> dict[str, list[Any]]:
    """What the policy says of each row, by column."""
    from tqdm import tqdm

    from policies.training.outcomes.requests import requests_of

    columns: dict[str, list[Any]] = {}
    requests = list(requests_of(rows))
    with tqdm(total=len(requests), desc="predicting", file=sys.stderr, disable=None) as bar:
        for start in range(0, len(requests), BATCH):
            part = requests[start : start + BATCH]
            for row in policy.foretold(part):
                for name, value in row.items():
                    columns.setdefault(name, []).append(value)
            bar.update(len(part))
    return columns


def _carried(rows: Rows) -> dict[str, Sequence[Any]]:
    """What the rows say themselves, beside what is predicted."""
    carried: dict[str, Sequence[Any]] = {"id": rows.ids, "prompt": rows.prompts}
    return carried if rows.tasks is None else {**carried, "task": rows.tasks}


def _summary(columns: Mapping[str, Sequence[Any]], out: Path) -> str:
    choices = list(columns["choice"])
    lines = [f"{out}: {len(choices)} rows"]
    lines += [
        f"  {name}: {choices.count(name) / len(choices):.1%}" for name in dict.fromkeys(choices)
    ]
    abstained = list(columns["reason"]).count("abstained")
    lines.append(f"  too uncertain to choose for: {abstained / len(choices):.1%}")
    return "\n".join(lines)

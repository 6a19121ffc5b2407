"""`tandem predict`: what a trained router thinks of rows of prompts, a row each.

Only reads the command line, and writes the table; the judging is done by the policy that serves.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policies.training.outcomes.rows import Rows
    from router.decide import Foretelling

BATCH = 256
"""Rows foretold at a time."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    add("artifact", type=Path, metavar="ARTIFACT", help="the folder that `tandem train` made")
    rows = "prompts: Parquet, JSON lines or CSV with prompt or messages; may be repeated"
    add("--rows", type=Path, nargs="+", action="extend", required=True, metavar="FILE", help=rows)
    add("--out", type=Path, required=True, metavar="OUT.parquet", help="the file to write")
    setting = "a setting of the policy, such as budget='{large_share: 0.3}'; may be repeated"
    add("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE", help=setting)


def main(options: argparse.Namespace) -> int:
    """Ask the policy about every row, and write what it says."""
    try:
        from policies.training.outcomes.errors import RowsError
        from policies.training.outcomes.rows import read_prompts
        from policies.training.outcomes.tables import write_table

        try:
            rows = read_prompts(options.rows)
            columns = {**_carried(rows), **predicted(_policy(options), rows)}
            write_table(columns, options.out)
        except (RowsError, ValueError) as error:
            reason = str(error)
        else:
            print(_summary(columns, options.out))
            return 0
    except ModuleNotFoundError as error:
        reason = f"{error.name} is not installed: install tandem-gateway[train]"
        reason += ", in a checkout `make train-tools`"
    print(f"tandem: {reason}", file=sys.stderr)
    return 1


def _policy(options: argparse.Namespace) -> Foretelling:
    import yaml

    from policies import TABLE
    from router.decide import Foretelling
    from router.references import build_policy

    block: dict[str, Any] = {"use": "experts", "artifact": str(options.artifact)}
    for one in options.settings:
        name, equals, value = one.partition("=")
        if not (name and equals):
            raise ValueError(f"--set {one}: write NAME=VALUE")
        block[name] = yaml.safe_load(value)
    policy, complaints = build_policy(block, TABLE)
    if complaints:
        path, reason = complaints[0]
        where = ".".join(map(str, path))
        raise ValueError(f"{where}: {reason}" if where else reason)
    assert isinstance(policy, Foretelling)
    return policy


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

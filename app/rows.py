"""`tandem rows`: outcomes of any known shape, or a log of decisions, as one file of rows.

Only reads the command line; it is imported with every `tandem` command, so what it does is not.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from app.arguments import parquet

if TYPE_CHECKING:
    from policies.training.outcomes.rows import Rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    files = (
        "Parquet, JSON lines or CSV, with score/MODEL, correct/MODEL, or output/MODEL and answer"
    )
    files += "; or logs of decisions (JSON lines)"
    add("files", type=Path, nargs="+", metavar="FILE", help=files)
    add("--out", type=parquet, required=True, metavar="OUT.parquet", help="the file to write")
    models = "only these models, in this order"
    add("--models", metavar="A,B,...", help=models)
    rename = "call a model otherwise; may be repeated"
    add("--rename", action="append", default=[], metavar="OLD=NEW", help=rename)
    add("--task", metavar="NAME", help="the task of all rows, over what the files say")
    part = "only the I-th of N parts of the rows, which are told apart by a hash of their ids"
    add("--part", type=_part, metavar="I/N", help=part)
    scores = "scores of logged decisions: a file with id and score; may be repeated"
    add("--scores", type=Path, nargs="+", action="extend", default=[], metavar="FILE", help=scores)


def main(options: argparse.Namespace) -> int:
    """Convert, write, and say what there is."""
    from policies.training.outcomes.errors import RowsError
    from policies.training.outcomes.tables import write_table

    try:
        rows = _as_asked(options, _read(options))
        write_table(rows.columns(), options.out)
    except RowsError as error:
        print(f"tandem: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        missing = f"{error.name} is not installed: install tandem-gateway[train]"
        print(f"tandem: {missing}, in a checkout `make train-tools`", file=sys.stderr)
        return 1
    print(_summary(rows, options.out))
    return 0


def _read(options: argparse.Namespace) -> Rows:
    from policies.training.outcomes.errors import RowsError
    from policies.training.outcomes.rows import read_rows
    from policies.training.outcomes.traffic import is_log, rows_of_log

    logs = [file for file in options.files if is_log(file)]
    if not logs:
        if options.scores:
            raise RowsError("--scores: belong to a log of decisions, and none of the files is one")
        return read_rows(options.files)
    if len(logs) < len(options.files):
        raise RowsError(f"{logs[0]}: is a log of decisions; convert logs and outcomes apart")
    rows, left_out = rows_of_log(logs, options.scores)
    for why, count in left_out.items():
        print(f"tandem: {count} decisions left out: {why}", file=sys.stderr)
    return rows


def _as_asked(options: argparse.Namespace, rows: Rows) -> Rows:
    """The chosen models under their new names."""
    from policies.training.outcomes.errors import RowsError

    renamed = dict(_renaming(options.rename))
    if options.models:
        rows = rows.of([name.strip() for name in options.models.split(",")])
    if strange := [name for name in renamed if name not in rows.models]:
        raise RowsError(f"--rename: there is no model {strange[0]}: {', '.join(rows.models)}")
    rows = rows.called([renamed.get(name, name) for name in rows.models])
    if len(set(rows.models)) < len(rows.models):
        raise RowsError("--rename: two models would have one name")
    if options.part:
        which, parts = options.part
        rows = rows.at([at for at, name in enumerate(rows.ids) if _part_of(name, parts) == which])
    return replace(rows, tasks=(options.task,) * len(rows)) if options.task else rows


def _part_of(name: str, parts: int) -> int:
    """The part that a row with this id is in, 1 to `parts`, on any machine."""
    digest = hashlib.md5(name.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest) % parts + 1


def _part(text: str) -> tuple[int, int]:
    """An argument such as 1/2."""
    which, _, parts = text.partition("/")
    if not 1 <= int(which) <= int(parts):
        raise ValueError
    return int(which), int(parts)


def _renaming(stated: Sequence[str]) -> list[tuple[str, str]]:
    from policies.training.outcomes.errors import RowsError

    pairs = []
    for one in stated:
        old, equals, new = one.partition("=")
        if not (old and equals and new):
            raise RowsError(f"--rename {one}: write OLD=NEW")
        pairs.append((old, new))
    return pairs


def _summary(rows: Rows, out: Path) -> str:
    import numpy as np

    lines = [f"{out}: {len(rows)} rows"]
    if rows.tasks is not None:
        kinds = sorted(set(rows.tasks))
        lines[0] += f", tasks: {', '.join(f'{task} ({rows.tasks.count(task)})' for task in kinds)}"
    for place, model in enumerate(rows.models):
        known = rows.scores[:, place][~np.isnan(rows.scores[:, place])]
        said = f"mean score {known.mean():.3f} of {len(known)}" if len(known) else "no score"
        unread = rows.unread.get(model)
        more = "" if unread is None else f"; no result could be read in {unread:.1%} of its answers"
        lines.append(f"  {model}: {said}{more}")
    return "\n".join(lines)

"""The table: what was injected, what was promised, what happened. Rows come from tests, in any
order and from several processes, and become JSON with all of them and a page that sums them up.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FOLDER = Path("build/faults")
PROPERTY = "fault"
WRONG = "WRONG"


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was tried; `outcome` is a word to count by, `happened` has the details.

    `group` is the part of the table; `policy` and `stream` are empty where they say nothing.
    """

    group: str
    injected: str
    promised: str
    outcome: str
    happened: str = ""
    scope: str = ""
    policy: str = ""
    stream: bool | None = None
    seconds: float = 0.0


def write(rows: Sequence[Row]) -> str:
    """Write both files; gives the page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "table.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    page = "\n\n".join(_parts(rows)) + "\n"
    (FOLDER / "table.md").write_text(page)
    return page


def rows_of(properties: Iterable[tuple[str, Any]]) -> list[Row]:
    """The rows among a test's properties."""
    return [Row(**json.loads(said)) for name, said in properties if name == PROPERTY]


def _parts(rows: Sequence[Row]) -> Iterable[str]:
    matrix = [row for row in rows if row.policy]
    single = [row for row in rows if not row.policy]
    if matrix:
        yield _counted("What a backend did", matrix, "injected")
        yield _counted("By policy", matrix, "policy")
    for group in dict.fromkeys(row.group for row in single):
        yield _told(group, [row for row in single if row.group == group])
    wrong = sum(row.outcome == WRONG for row in rows)
    yield f"{len(rows)} rows, {wrong} of them wrong."


def _counted(title: str, rows: Sequence[Row], by: str) -> str:
    """A line for each kind of fault, or for each policy, with its outcomes counted."""
    outcomes = [*dict.fromkeys(row.outcome for row in rows if row.outcome != WRONG), WRONG]
    promise = ["promised"] if by == "injected" else ["streamed"]
    head = [by, *promise, "requests", *outcomes, "slowest"]
    lines = [_line(head), _line(["---"] * (2) + ["---:"] * (len(head) - 2))]
    keys = dict.fromkeys((getattr(row, by), _beside(row, by)) for row in rows)
    for name, beside in keys:
        found = [row for row in rows if (getattr(row, by), _beside(row, by)) == (name, beside)]
        counts = Counter(row.outcome for row in found)
        slowest = max(row.seconds for row in found)
        cells = [str(counts[outcome] or "") for outcome in outcomes]
        lines.append(_line([name, beside, str(len(found)), *cells, f"{slowest:.1f} s"]))
    return f"### {title}\n\n" + "\n".join(lines)


def _beside(row: Row, by: str) -> str:
    if by == "injected":
        return row.promised
    return "yes" if row.stream else "no"


def _told(title: str, rows: Sequence[Row]) -> str:
    head = ["injected", "promised", "happened", "verdict"]
    lines = [_line(head), _line(["---"] * 4)]
    lines += [_line([row.injected, row.promised, row.happened, row.outcome]) for row in rows]
    return f"### {title}\n\n" + "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

"""A log of decisions as outcomes of reading: who answered from what, and how good that was.

What was read stands in what policies said while they served (`policies.reading.told`), so a log
without bodies will do. An answer that nobody scored, that ended badly, that two models wrote or
that was not read from documents teaches nothing; each is counted. A refusal that a client got
(`kept_refusal`) and a text that was cut are worth something, but no way of the table is.

How likely each task was is judged anew where there is a body: by the judge that has just been
trained, which knows its own training's questions and will be the one to ask the table. It sees the
question alone, since measures would need every document indexed again. Elsewhere what was logged
counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from policies.reading.found import Found, find
from policies.reading.told import Told
from policies.training.context.own import Answered, Own
from policies.training.decisions import lines_in, score_of
from router.steps import Surface

__all__ = ["read_log"]

LEAST = 4000
"""Characters of a document that nothing but its length sets apart: the policy's own default."""
UNKNOWN = frozenset({"kept_refusal", "cut", "too_long", "reader_failed", "no_documents"})
"""The reasons of a policy that reads, for answers that are of no way."""


def read_log(files: Sequence[Path]) -> Own:
    """The scored readings in these logs. Raises RowsError with the file and line."""
    given: dict[str, float] = {}
    found: list[tuple[str, Answered]] = []
    left_out: Counter[str] = Counter()
    lines = 0
    for file in files:
        for number, line in lines_in(file):
            if "feedback" in line:
                given[str(line["feedback"])] = score_of(line.get("score"), file, number)
                continue
            lines += 1
            answered = _answered(line)
            if isinstance(answered, str):
                left_out[answered] += 1
            else:
                found.append((str(line.get("id")), answered))
    scored = [replace(one, score=given[name]) for name, one in found if name in given]
    if unscored := len(found) - len(scored):
        left_out["without a score"] = unscored
    return Own(scored, lines, left_out)


def _answered(line: Mapping[str, Any]) -> Answered | str:
    """What was read for the answer in a line, its score yet to come; or why it tells nothing."""
    said = [one for one in line.get("said") or () if isinstance(one, str)]
    readings = [reading for one in said if (reading := Told.read(one)) is not None]
    if len(readings) != 1:
        reasons = (one.partition(";")[0] for one in said)
        return next((why for why in reasons if why in UNKNOWN), "not read from documents")
    if line.get("status") != 200 or line.get("blame") is not None:
        return "without a whole answer"
    way, told = readings[0]
    served = [*(line.get("served") or (told.target,))]
    if len(served) > 1:
        return "written by several models"
    question = _question(line)
    tasks = told.chances if question is None else ()
    return Answered(served[0], told.documents, way, 0.0, question, tasks)


def _question(line: Mapping[str, Any]) -> str | None:
    """The ask in the body; None where there is no body, or no document is found in it.

    The documents of a corpus are not in it, and without them an ask cannot be told from a text.
    """
    body = line.get("body")
    try:
        surface = Surface(line.get("surface", ""))
    except ValueError:
        return None
    found = find(body, surface, LEAST) if isinstance(body, dict) else None
    return found.ask if isinstance(found, Found) else None

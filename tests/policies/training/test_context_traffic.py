"""A log of decisions as outcomes of reading: what becomes one, and why other lines do not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from policies.context import Context
from policies.reading.documents import TASKS
from policies.reading.told import READ, Told
from policies.training.context.outcomes import read_own
from policies.training.context.traffic import UNKNOWN
from policies.training.outcomes.errors import RowsError

CHANCES = (0.6, 0.2, 0.1, 0.1)
ASK = "Who was the captain?"
BODY = {"documents": [{"text": "A ferry."}], "messages": [{"role": "user", "content": ASK}]}


def said(reason: str = "passages", target: str = "small", tokens: int = 32_000) -> str:
    return f"{reason}; {Told(CHANCES, tokens, 2_000, tokens + 50, target, 0.7)}; 3 of 9 passages"


def decision(number: int, *said: str, **other: Any) -> dict[str, Any]:
    return {
        "id": f"req-{number}", "surface": "chat/completions", "arm": "small",
        "chances": {"small": 1.0}, "reason": "", "detail": "", "said": said,
        "served": {"small": 9}, "status": 200, "blame": None, **other,
    }  # fmt: skip


def feedback(number: int, score: float) -> dict[str, Any]:
    return {"feedback": f"req-{number}", "score": score}


def log(path: Path, *lines: object) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


def judged(questions: Sequence[str]) -> list[tuple[float, ...]]:
    """Everybody asks who the captain was, and that is a comparison."""
    assert list(questions) == [ASK]
    return [(0.0, 0.0, 1.0, 0.0)]


def test_what_was_read_and_scored_is_an_outcome(tmp_path: Path) -> None:
    file = log(
        tmp_path / "d.jsonl",
        decision(1, said()),
        decision(2, said("second_pass", "read"), arm="read", served={"large": 3}),
        decision(3, "drawn; read", said("whole", "mixed"), "fell_back; from large"),
        decision(4, said("whole", "large"), served={}),
        *(feedback(number, score) for number, score in ((1, 0), (1, 0.25), (2, 1), (3, 0), (4, 1))),
    )
    own = read_own([file])
    found = own.outcomes(judged)
    assert [(one.model, one.way, one.score) for one in found] == [
        ("small", "passages", 0.25),
        ("large", "whole", 1),
        ("small", "whole", 0),
        ("large", "whole", 1),
    ]
    assert {one.tokens for one in found} == {32_000}
    assert all(one.tasks == pytest.approx(CHANCES) for one in found)
    assert own.counts == {
        "large": {"passages": 0, "whole": 2},
        "small": {"passages": 1, "whole": 1},
    }
    assert (own.lines, own.left_out) == (4, {})


def test_the_rest_is_counted(tmp_path: Path) -> None:
    nothing = [
        decision(2, "kept_refusal; unanswerable 0.90; and so on"),
        decision(3, "no_documents; the request is short", "expert; sums 0.98"),
        decision(4, "drawn; small"),
        decision(5, said(), status=499, blame="gone"),
        decision(6, said(), blame="backend"),
        decision(7, said(), served={"small": 3, "large": 1}),
        decision(8, said(), said("whole")),
        {**decision(9), "said": None},
    ]
    scores = [feedback(number, 1) for number in range(1, 10)]
    own = read_own([log(tmp_path / "d.jsonl", decision(1, said()), *nothing, *scores)])
    assert len(own.answers) == 1
    assert own.lines == 9
    assert own.left_out == {
        "kept_refusal": 1,
        "no_documents": 1,
        "not read from documents": 3,
        "without a whole answer": 2,
        "written by several models": 1,
    }


def test_every_reason_of_the_policy_is_of_a_way_or_of_none() -> None:
    assert {*READ, *UNKNOWN} == {*Context.reasons}
    assert not UNKNOWN & READ.keys()


def test_the_ask_of_a_body_is_judged_anew(tmp_path: Path) -> None:
    lines = [
        decision(1, said(), body=BODY),
        decision(2, said(), body={"messages": BODY["messages"]}),  # a corpus's
        decision(3, said(), body=BODY, surface="rerank"),
        decision(4, said(), body=BODY),
    ]
    own = read_own([log(tmp_path / "d.jsonl", *lines, *(feedback(n, 1) for n in range(1, 5)))])
    told = [TASKS[one.tasks.index(max(one.tasks))] for one in own.outcomes(judged)]
    assert told == ["comp", "location", "location", "comp"]


def test_logs_and_files_of_outcomes_may_be_mixed(tmp_path: Path) -> None:
    plain = {"model": "m", "tokens": 5, "way": "whole", "score": 1, "task": "comp"}
    files = [
        log(tmp_path / "plain.jsonl", plain),
        log(tmp_path / "old.jsonl", decision(1, said()), decision(2, said())),
        log(tmp_path / "new.jsonl", feedback(1, 0.5)),
    ]
    own = read_own(files)
    assert [(one.model, one.score) for one in own.answers] == [("m", 1), ("small", 0.5)]
    assert (own.lines, own.left_out) == (3, {"without a score": 1})


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ((decision(1, said()),), "d.jsonl: no decision tells .* .1 without a score"),
        ((decision(1, "drawn; small"), feedback(1, 1)), "1 not read from documents"),
        ((feedback(1, 1),), "d.jsonl: no decision tells"),
        ((decision(1, said()), feedback(1, 7)), "d.jsonl: column score, row 2, 7 is no score"),
    ],
)
def test_a_log_that_teaches_nothing_is_refused(
    tmp_path: Path, lines: Sequence[object], why: str
) -> None:
    with pytest.raises(RowsError, match=why):
        read_own([log(tmp_path / "d.jsonl", *lines)])

"""The log of decisions, read back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from policies.training.decisions import read_decisions
from policies.training.outcomes.errors import RowsError

SAID = {"messages": [{"role": "user", "content": "Hi"}]}


def decision(name: str, **changed: Any) -> dict[str, Any]:
    whole = {
        "at": 1.0,
        "id": name,
        "policy": "auto",
        "surface": "chat/completions",
        "session": None,
        "body": SAID,
        "arm": "small",
        "chances": {"small": 0.75, "large": 0.25},
        "expected": {"small": 0.5},
        "status": 200,
        "cost": 0.001,
    }
    return {**whole, **changed}


def log(tmp_path: Path, *lines: object, end: str = "\n") -> Path:
    file = tmp_path / "decisions.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines) + end, encoding="utf-8")
    return file


def test_decisions_meet_their_scores(tmp_path: Path) -> None:
    file = log(
        tmp_path,
        {"feedback": "b", "score": 0.1, "at": 0},
        decision("a"),
        decision("b", session="s", arm="large", cost=None),
        {"feedback": "b", "score": 1, "at": 2},
    )
    found = read_decisions([file])
    a, b = found.usable
    assert (a.arm, a.chances, a.expected) == (
        "small",
        {"small": 0.75, "large": 0.25},
        {"small": 0.5},
    )
    assert (a.session, a.cost) == ("a", 0.001)
    assert math.isnan(a.score)
    assert (b.session, b.score, b.request.session) == ("s", 1.0, "s")
    assert math.isnan(b.cost)
    assert a.request.body["messages"] == SAID["messages"]
    assert found.arms == ("small", "large")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_scores_may_come_in_a_file_of_their_own(tmp_path: Path, kind: str) -> None:
    scores = tmp_path / f"scores.{kind}"
    texts = {"csv": "id,score\na,0.5\n", "jsonl": '{"id": "a", "score": 0.5}'}
    scores.write_text(texts[kind], encoding="utf-8")
    found = read_decisions([log(tmp_path, decision("a"), decision("b"))], [scores])
    assert found.usable[0].score == 0.5
    assert math.isnan(found.usable[1].score)


def test_what_cannot_be_replayed_is_counted(tmp_path: Path) -> None:
    file = log(
        tmp_path,
        decision("a"),
        decision("b", body=None),
        decision("c", surface="embeddings"),
        decision("d", status=502),
        decision("e", body={}),
        end='\n{"at": 1, "id": ',
    )
    found = read_decisions([file])
    assert len(found.usable) == 1
    assert found.left_out == {
        "without a body": 1,
        "no chat": 1,
        "without an answer": 1,
        "that no gateway takes": 1,
    }


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([decision("a", chances={"large": 1.0})], "row 1, holds no chance of the arm"),
        ([decision("a", chances={"small": 0.5, "large": 0.2})], "row 1, do not sum to 1"),
        ([{"feedback": "a", "score": 2}], "row 1, 2 is no score"),
        ([decision("a", body=None)], "no decision can be replayed .1 without a body"),
        ([], "no decision can be replayed"),
    ],
)
def test_a_bad_log_is_named(tmp_path: Path, lines: list[object], complaint: str) -> None:
    with pytest.raises(RowsError, match=complaint):
        read_decisions([log(tmp_path, *lines)])


def test_a_broken_line_and_a_missing_file_are_named(tmp_path: Path) -> None:
    file = tmp_path / "decisions.jsonl"
    file.write_text("{\n" + json.dumps(decision("a")), encoding="utf-8")
    with pytest.raises(RowsError, match="row 1, is not JSON"):
        read_decisions([file])
    with pytest.raises(RowsError, match="No such file"):
        read_decisions([tmp_path / "none.jsonl"])

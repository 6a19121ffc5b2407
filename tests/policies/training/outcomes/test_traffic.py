"""A log of decisions as rows: one score a row, and what is left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.cli import main
from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.rows import read_rows
from policies.training.outcomes.traffic import is_log, rows_of_log


def decision(number: int, arm: str, **other: Any) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"q{number}"},
    ]
    return {
        "id": f"req-{number}",
        "surface": "chat/completions",
        "body": {"model": "auto", "messages": messages},
        "arm": arm,
        "chances": {"a": 0.5, "b": 0.5},
        "served": {arm: 7},
        "status": 200,
        "cost": 0.25,
        **other,
    }


def feedback(number: int, score: float) -> dict[str, Any]:
    return {"feedback": f"req-{number}", "score": score}


def log(file: Path, *lines: object) -> Path:
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return file


def columns(file: Path) -> list[Sequence[Any]]:
    rows = read_rows([file])
    return [rows.models, rows.ids, rows.prompts, rows.scores.tolist()]


def test_only_the_arm_that_answered_has_a_score(tmp_path: Path) -> None:
    file = log(
        tmp_path / "d.jsonl", decision(1, "a"), decision(2, "b"), feedback(2, 0.5), feedback(1, 1)
    )
    rows, left_out = rows_of_log([file])
    assert rows.models == ("a", "b")
    assert rows.prompts == ("q1", "q2")
    assert rows.ids == ("req-1", "req-2")
    assert rows.scores.tolist() == [[1, pytest.approx(np.nan, nan_ok=True)], [
        pytest.approx(np.nan, nan_ok=True), 0.5]]  # fmt: skip
    assert rows.costs is not None
    assert np.nanmean(rows.costs, axis=0).tolist() == [0.25, 0.25]
    assert rows.messages is not None
    assert rows.messages[0] is not None
    assert [message["role"] for message in rows.messages[0]] == ["system", "user"]
    assert not left_out


def test_what_teaches_nothing_is_left_out_and_counted(tmp_path: Path) -> None:
    file = log(
        tmp_path / "d.jsonl",
        decision(1, "a"),
        decision(2, "a"),
        decision(3, "b", served={"a": 3}),
        decision(4, "cascade", chances={"cascade": 1.0}, served={"a": 3}),
        decision(5, "b", body=None),
        decision(6, "b", status=502),
        *(feedback(number, 1) for number in (1, 3, 4, 5, 6)),
        decision(7, "b"),
        feedback(7, 0),
    )
    rows, left_out = rows_of_log([file])
    assert rows.ids == ("req-1", "req-4", "req-7")
    assert rows.models == ("a", "b", "cascade"), "a policy that asks models itself is an arm"
    assert left_out == {
        "without a score": 1,
        "answered by another than the arm that was chosen": 1,
        "without a body": 1,
        "without an answer": 1,
    }


def test_a_log_is_told_from_outcomes(tmp_path: Path) -> None:
    assert is_log(log(tmp_path / "d.jsonl", decision(1, "a")))
    assert is_log(log(tmp_path / "f.jsonl", feedback(1, 1)))
    assert not is_log(log(tmp_path / "o.jsonl", {"prompt": "a", "score/a": 1}))
    assert not is_log(log(tmp_path / "l.jsonl", [1]))
    assert not is_log(tmp_path / "nowhere.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    assert not is_log(tmp_path / "empty.jsonl")
    (tmp_path / "d.parquet").write_bytes((tmp_path / "d.jsonl").read_bytes())
    assert not is_log(tmp_path / "d.parquet")


def test_who_takes_a_log_for_rows_is_told(tmp_path: Path) -> None:
    file = log(tmp_path / "d.jsonl", decision(1, "a"), feedback(1, 1))
    with pytest.raises(
        RowsError, match="is a log of decisions: make rows of it with `tandem rows`"
    ):
        read_rows([file])


def test_without_a_score_there_are_no_rows(tmp_path: Path) -> None:
    file = log(tmp_path / "d.jsonl", decision(1, "a"), decision(2, "b"))
    with pytest.raises(
        RowsError, match=r"no decision has a score of its arm \(2 without a score\)"
    ):
        rows_of_log([file])


def test_the_command_writes_what_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = log(tmp_path / "1.jsonl", decision(1, "a"), decision(2, "b"), feedback(1, 0))
    two = log(tmp_path / "2.jsonl", feedback(9, 1), decision(3, "b"))
    scores = log(tmp_path / "scores.jsonl", {"id": "req-3", "score": 0.5})
    out = tmp_path / "rows.parquet"
    arguments = [str(one), str(two), "--scores", str(scores), "--out", str(out)]
    assert main(["rows", *arguments, "--rename", "a=small", "--task", "traffic"]) == 0
    heard = capsys.readouterr()
    assert heard.err == "tandem: 1 decisions left out: without a score\n"
    assert heard.out.splitlines() == [
        f"{out}: 2 rows, tasks: traffic (2)",
        "  small: mean score 0.000 of 1",
        "  b: mean score 0.500 of 1",
    ]
    models, ids, prompts, scored = columns(out)
    assert (models, ids, prompts) == (("small", "b"), ("req-1", "req-3"), ("q1", "q3"))
    assert scored[0][0] == 0
    assert np.isnan(scored[0][1])


def test_what_does_not_go_together_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_log = str(log(tmp_path / "d.jsonl", decision(1, "a"), feedback(1, 1)))
    outcomes = str(log(tmp_path / "o.jsonl", {"prompt": "a", "score/a": 1}))
    for given, why in (
        ([a_log, outcomes], f"{a_log}: is a log of decisions; convert logs and outcomes apart"),
        ([outcomes, "--scores", outcomes], "--scores: belong to a log of decisions"),
        ([a_log, "--models", "z"], "the rows hold no model z"),
    ):
        assert main(["rows", *given, "--out", str(tmp_path / "rows.parquet")]) == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert why in err

"""Rows from files of every shape: what is kept, what is scored, and what a bad file is told."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.training.outcomes.costs import Unit, costs_of
from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.models import active, facts, told
from policies.training.outcomes.requests import requests_of
from policies.training.outcomes.rows import Rows, asked, read_rows
from policies.training.outcomes.tables import write_table
from router.fleet import Price
from router.steps import Surface

DATA = Path(__file__).parents[5] / "shared/data/outcomes"
shared = pytest.mark.skipif(not DATA.exists(), reason=f"there are no shared outcomes in {DATA}")


def parquet(file: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    write_table(columns, file)
    return file


def jsonl(file: Path, *rows: object) -> Path:
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return file


def same(one: object, other: object) -> bool:
    return bool(np.array_equal(np.asarray(one), np.asarray(other), equal_nan=True))


# ---------------------------------------------------------------------------------------- shapes


def test_the_three_kinds_of_files_say_the_same(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "prompt": "12", "task": "sums", "score/a": 0.5, "score/b": None, "cost/a": 1.0},
        {"id": "2", "prompt": 'x,\n"y"', "task": "", "score/a": 1.0, "score/b": 0.0, "cost/a": 2},
    ]
    lined = jsonl(tmp_path / "lined.jsonl", *rows)
    tabled = parquet(tmp_path / "tabled.parquet", {k: [r[k] for r in rows] for k in rows[0]})
    written = tmp_path / "written.csv"
    written.write_text(
        'id,prompt,task,score/a,score/b,cost/a\n1,12,sums,0.5,,1.0\n2,"x,\n""y""",,1.0,0,2\n',
        encoding="utf-8",
    )
    for file in (lined, tabled, written):
        found = read_rows([file])
        assert found.prompts == ("12", 'x,\n"y"')
        assert found.models == ("a", "b")
        assert found.ids == ("1", "2")
        assert found.tasks == ("sums", file.stem)
        assert same(found.scores, [[0.5, math.nan], [1, 0]])
        assert found.costs is not None
        assert same(found.costs, [[1, math.nan], [2, math.nan]])


def test_yes_and_no_are_scores(tmp_path: Path) -> None:
    file = parquet(
        tmp_path / "a.parquet", {"prompt": ["p", "q"], "correct/a": [True, None], "chars/a": [8, 9]}
    )
    found = read_rows([file])
    assert same(found.scores, [[1], [math.nan]])
    assert same(found.lengths, [[8], [9]])
    assert found.tasks is None
    assert found.ids == ("a/1", "a/2")
    written = tmp_path / "b.csv"
    written.write_text("prompt,correct/a\np,True\nq,false\nr,\n", encoding="utf-8")
    assert same(read_rows([written]).scores, [[1], [0], [math.nan]])


def test_outputs_are_scored_against_the_answer(tmp_path: Path) -> None:
    file = jsonl(
        tmp_path / "a.jsonl",
        {"prompt": "p", "task": "crux", "answer": "'x'", "output/a": '{"answer": "x"}'},
        {"prompt": "q", "task": "math-l5", "answer": "1/2", "output/a": r"so \boxed{0.5}"},
        {"prompt": "r", "task": "math-l5", "answer": "7", "output/a": "who knows"},
        {"prompt": "s", "task": "math-l5", "answer": "7", "output/a": '{"answer": "8"}'},
        {"prompt": "t", "task": "math-l5", "answer": "7", "output/a": None},
    )
    found = read_rows([file])
    assert same(found.scores, [[1], [1], [0], [0], [math.nan]])
    assert found.unread == {"a": 0.25}
    assert found.outputs is not None
    assert found.outputs[2] == ("who knows",)


def test_several_files_stand_below_each_other(tmp_path: Path) -> None:
    one = jsonl(tmp_path / "one.jsonl", {"prompt": "p", "score/Llama-3.1-8B": 1, "score/b": 0})
    two = jsonl(tmp_path / "two.jsonl", {"prompt": "q", "task": "t", "correct/c": True})
    three = jsonl(tmp_path / "three.jsonl", {"prompt": "r", "score/Meta-llama-3.1-8b": 0.5})
    found = read_rows([one, two, three])
    assert found.models == ("Llama-3.1-8B", "b", "c")
    assert found.tasks == ("one", "t", "three")
    none = math.nan
    assert same(found.scores, [[1, 0, none], [none, none, 1], [0.5, none, none]])
    assert found.of(["META-Llama-3.1-8B"]).models == ("META-Llama-3.1-8B",)
    assert found.of(["Llama-3.1-8B"]).complete().prompts == ("p", "r")


def test_conversations_are_kept(tmp_path: Path) -> None:
    said = [{"role": "system", "content": "Brief."}, {"role": "user", "content": "Hi"}]
    file = jsonl(
        tmp_path / "a.jsonl",
        {"messages": said, "score/a": 1},
        {"messages": json.dumps(said), "prompt": "its own", "score/a": 1},
    )
    found = read_rows([file])
    assert found.prompts == ("Hi", "its own")
    assert [dict(request.body)["messages"] for request in requests_of(found)] == [said, said]


def test_what_is_asked_is_the_last_user_message() -> None:
    part = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}
    assert asked(({"role": "user", "content": "x"}, part, {"role": "assistant"})) == "a"
    assert asked(({"role": "user", "content": None},)) == ""
    assert asked(()) == ""


def test_rows_are_written_and_read_back(tmp_path: Path) -> None:
    found = Rows(
        prompts=("p", "q"),
        models=("a", "b"),
        scores=np.array([[0.5, np.nan], [1, 0]]),
        tasks=("s", "t"),
        ids=("1", "2"),
        costs=np.array([[0.1, 0.2], [0.3, np.nan]]),
        lengths=np.array([[8.0, 9], [10, 11]]),
        outputs=(("x", None), ("y", "z")),
        messages=(None, ({"role": "user", "content": "q"},)),
    )
    back = read_rows([parquet(tmp_path / "made/it.parquet", found.columns())])
    for name in ("prompts", "models", "tasks", "ids", "outputs", "messages"):
        assert getattr(back, name) == getattr(found, name), name
    for name in ("scores", "costs", "lengths"):
        assert same(getattr(back, name), getattr(found, name)), name


def test_rows_can_be_chosen() -> None:
    found = Rows(
        ("p", "q"),
        ("a", "b"),
        np.array([[0.5, 1], [1, 0]]),
        tasks=("s", "t"),
        costs=np.array([[1.0, 2], [3, 4]]),
        outputs=(("x", "y"), ("z", None)),
    )
    turned = found.of(["b", "a"]).at([1, 1])
    assert (turned.prompts, turned.models, turned.tasks) == (("q", "q"), ("b", "a"), ("t", "t"))
    assert turned.outputs == ((None, "z"), (None, "z"))
    assert same(turned.scores, [[0, 1], [0, 1]])
    assert same(turned.costs, [[4, 3], [4, 3]])


# -------------------------------------------------------------------------------------- bad files


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"score/a": 1}, "has no column prompt"),
        ({"prompt": None, "score/a": 1}, "column prompt, row 1, there is no text"),
        ({"prompt": "p"}, "has no scores: add a column score/MODEL"),
        ({"prompt": "p", "output/a": "x"}, "has no scores"),
        ({"prompt": "p", "score/a": 1.5}, "column score/a, row 1, 1.5 is not within 0 to 1"),
        ({"prompt": "p", "score/a": -1}, "column score/a, row 1, -1 is not within"),
        ({"prompt": "p", "score/a": "good"}, "column score/a, row 1, 'good' is not a number"),
        (
            {"prompt": "p", "score/a": 1, "cost/a": -1},
            "column cost/a, row 1, -1 is not within 0 or",
        ),
        ({"prompt": "p", "score/a": 1, "correct/a": True}, "there is a score/a too"),
        (
            {"prompt": "p", "score/X-8b": 1, "score/meta-x-8B": 1},
            "column score/X-8b, is there twice",
        ),
        ({"messages": "no", "score/a": 1}, "column messages, row 1, is not JSON"),
        ({"messages": [1], "score/a": 1}, "column messages, row 1, must be a list"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: object, complaint: str) -> None:
    file = jsonl(tmp_path / "bad.jsonl", row)
    with pytest.raises(RowsError) as raised:
        read_rows([file])
    assert str(raised.value).startswith(f"{file}: ")
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.jsonl", "", "holds no rows"),
        ("a.csv", "", "holds no rows"),
        ("a.csv", "prompt,score/a\n", "holds no rows"),
        ("a.csv", "prompt,score/a\nx\n", "row 1, has 1 values, and there are 2 columns"),
        ("a.csv", "prompt,score/a,score/a\nx,1,1\n", "column score/a, is there twice"),
        ("a.jsonl", "{}\n[]", "row 2, is no JSON object"),
        ("a.jsonl", "{", "row 1, is not JSON"),
        ("a.parquet", "no", "is no Parquet file"),
        ("a.txt", "no", "is none of .parquet, .jsonl, .csv"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RowsError, match=complaint):
        read_rows([file])


def test_a_missing_file_and_a_missing_model_are_named(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match=r"none\.csv: No such file"):
        read_rows([tmp_path / "none.csv"])
    with pytest.raises(RowsError, match="at least one file"):
        read_rows([])
    with pytest.raises(RowsError, match="no model c: they hold a, b"):
        Rows(("p",), ("a", "b"), np.zeros((1, 2))).of(["c"])


# --------------------------------------------------------------------------------------- requests


def test_a_row_is_asked_as_a_gateway_would_be() -> None:
    rows = Rows(("What?", "Why?"), ("a",), np.zeros((2, 1)))
    first, second = requests_of(rows, seed=7)
    assert first.surface is Surface.CHAT
    assert first.body["messages"] == [{"role": "user", "content": "What?"}]
    assert json.loads(first.raw) == first.body
    assert 0 <= first.draw < 1
    assert first.draw != second.draw
    assert [*requests_of(rows, seed=7)] == [first, second]
    assert next(requests_of(rows, seed=8)).draw != first.draw


# ----------------------------------------------------------------------------- models and costs


@pytest.mark.parametrize(
    ("name", "params_b"),
    [
        ("Meta-Llama-3.1-8B-Instruct", 8.03),
        ("meta-llama/Llama-3.1-70B-Instruct", 70.6),
        ("llama-3.3-nemotron-super-49b-v1", 49.9),
        ("Mixtral-8x7B-Instruct-v0.1", 12.9),
        ("Qwen1.5-7B-Chat", 7.72),
        ("new-model-13b-chat", 13.0),
        ("New-1.5B", 1.5),
        ("qwen9-30b-a3b", 3.0),
        ("new-4x7b", None),
        ("gpt", None),
        ("gpt-4-1106-preview", None),
        ("llama-3.1-8bx", None),
    ],
)
def test_sizes_come_from_the_table_then_from_the_name(name: str, params_b: float | None) -> None:
    assert facts(name).params_b == params_b


def test_prices_come_from_the_table_alone() -> None:
    assert facts("llama-3.1-8b-instruct").price == Price(0.2, 0.2)
    assert facts("new-13b").price is None


def test_sizes_can_be_told() -> None:
    assert told(["a=7", "b/c=0.5"]) == {"a": 7.0, "b/c": 0.5}
    assert active(["gpt", "Llama-3.1-8B"], {"GPT": 9.0, "other": 1.0}) == [9.0, 8.03]
    assert math.isnan(active(["gpt"], {})[0])
    for wrong in ("a", "a=", "=7", "a=-1", "a=b"):
        with pytest.raises(RowsError, match="NAME=BILLIONS"):
            told([wrong])


SIZES = (8.0, 70.0)
NO_PRICES = (None, None)


def test_a_cost_is_in_the_best_unit_that_is_known() -> None:
    rows = Rows(("p", "q"), ("a", "b"), np.array([[0.0, 1], [0, 0]]))
    plain = costs_of(rows, SIZES, NO_PRICES)
    assert plain.unit is Unit.PARAMETERS
    assert same(plain.values, [[8, 70], [8, 70]])
    lengths = np.array([[40, 80], [np.nan, 2]])
    worked = costs_of(replace(rows, lengths=lengths), SIZES, NO_PRICES)
    assert worked.unit is Unit.WORK
    assert same(worked.values, [[80, 1400], [80, 70]])
    texts = replace(rows, outputs=(("x" * 40, "y" * 80), (None, "zz")))
    assert same(costs_of(texts, SIZES, NO_PRICES).values, worked.values)
    paid = replace(rows, costs=np.full((2, 2), 0.1), lengths=lengths)
    assert costs_of(paid, SIZES, NO_PRICES).unit is Unit.USD
    assert costs_of(paid, SIZES, NO_PRICES, Unit.PARAMETERS).unit is Unit.PARAMETERS


def test_without_a_size_a_price_counts_and_without_that_a_rank() -> None:
    rows = Rows(("p", "q"), ("a", "b"), np.array([[1.0, 1], [1, 0]]), lengths=np.ones((2, 2)))
    sizes = (8.0, math.nan)
    listed = costs_of(rows, sizes, (Price(1, 2), Price(10, 30)))
    assert (listed.unit, listed.values[0].tolist()) == (Unit.PRICE, [2, 30])
    ranked = costs_of(rows, sizes, (Price(1, 2), None))
    assert (ranked.unit, ranked.values[0].tolist()) == (Unit.RANK, [2, 1])


def test_a_cost_that_is_not_known_is_refused() -> None:
    rows = Rows(("p", "q"), ("a", "b"), np.zeros((2, 2)))
    for unit in (Unit.USD, Unit.WORK, Unit.PARAMETERS, Unit.PRICE):
        with pytest.raises(RowsError, match=f"--cost {unit}: "):
            costs_of(rows, (8.0, math.nan), NO_PRICES, unit)
    gap = replace(rows, costs=np.array([[1, 1], [1, np.nan]]))
    with pytest.raises(RowsError, match="row 2: cost of model 2 is missing"):
        costs_of(gap, SIZES, NO_PRICES)


# ------------------------------------------------------------------------------- the shared files


@shared
def test_the_shared_outcomes_are_read() -> None:
    found = read_rows(sorted(DATA.glob("*.parquet")))
    assert len(found) == 12_482
    assert "llama-3.1-8b-instruct" in found.models
    crux, math_l5 = (read_rows([DATA / f"zeroeval_{name}.parquet"]) for name in ("crux", "math-l5"))
    small = "Llama-3.1-8B-Instruct"
    assert crux.of([small]).scores.mean() == pytest.approx(0.40, abs=0.02)
    assert math_l5.of([small]).scores.mean() == pytest.approx(0.22, abs=0.02)
    assert max(crux.unread.values()) < 0.03
    assert max(math_l5.unread.values()) < 0.2
    assert not np.isnan(active(found.models, {})).any()


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads of a process")
def test_no_thread_of_arrows_is_left_that_could_abort_the_program(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    write_table({"prompt": ["a", "b"], "score/m": [0.0, 1.0]}, file)
    script = (
        "import os, sys, pathlib, pyarrow.parquet\n"
        "from policies.training.outcomes.tables import read_table\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "read_table(pathlib.Path(sys.argv[1]))\n"
        "print(len(os.listdir('/proc/self/task')) - before)"
    )
    done = subprocess.run(  # our own interpreter
        [sys.executable, "-c", script, str(file)], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) <= 1, "one is the allocator's"

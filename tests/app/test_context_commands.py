"""`tandem train context`, `tandem predict --policy context` and the artifact that ships."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from app.cli import main
from policies.reading.artifact import SHIPPED, opened, read_artifact
from policies.reading.documents import TASKS
from policies.reading.table import published
from policies.training.context import recipe
from policies.training.context.outcomes import read_own
from policies.training.context.pipeline import asks_in
from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.tables import read_table, write_table
from tests.policies.reading.lessons import asked

Said = Callable[[], tuple[str, str]]
TEXT = "The fleet of Anna had seven ships. The harbour of Jena is grey. " * 40


@pytest.fixture(autouse=True, scope="module")
def _three_folds() -> Iterator[None]:
    """Enough for so few rows."""
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        patch.setattr(recipe, "Recipe", partial(recipe.Recipe, folds=3))
        yield


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    def read() -> tuple[str, str]:
        out, err = capsys.readouterr()
        return out, err

    return read


def table(path: Path, **more: Sequence[Any]) -> Path:
    """The made-up questions as a file, under other names of tasks."""
    rows = asked(48)
    spelled = {"comp": "Comparison", "hallu": "hallucination"}
    tasks = [spelled.get(str(task), task) for task in rows.tasks]
    columns: Mapping[str, Sequence[Any]] = {
        "question": rows.questions,
        "task": tasks,
        "file": rows.sources,
    }
    write_table({**columns, **more}, path)
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, a folder of documents, outcomes, and an artifact of all of them."""
    home = tmp_path_factory.mktemp("context")
    table(home / "rows.parquet")
    (home / "texts" / "deep").mkdir(parents=True)
    for name in range(10):
        (home / "texts" / "deep" / f"{name}.txt").write_text(TEXT, encoding="utf-8")
    outcome = '{"model": "mine", "tokens": 40000, "way": "whole", "score": 1, '
    lines = [outcome + '"task": "comparison"}', outcome + '"question": "Why did Anna leave?"}']
    (home / "own.jsonl").write_text("\n".join(lines), encoding="utf-8")
    own = ("--outcomes", f"{home}/own.jsonl")
    assert main(train(home, "--documents", f"{home}/texts", *own)) == 0
    return home


def train(home: Path, *more: str, out: str = "made") -> list[str]:
    rows, folder = f"{home}/rows.parquet", f"{home}/{out}"
    return ["train", "context", "--rows", rows, "--out", folder, *more]


def predict(artifact: str | Path, rows: Path, out: Path, *more: str) -> list[str]:
    named = ["--policy", "context", "--rows", str(rows), "--out", str(out)]
    return ["predict", str(artifact), *named, *more]


# --------------------------------------------------------------------------------------- training


def test_a_training_leaves_an_artifact(home: Path) -> None:
    artifact, judge = opened(home / "made")
    assert artifact.card.retrieval["chunk_tokens"] == 600
    assert "cosine" in judge.measures
    assert "chunks" not in judge.measures
    assert artifact.card.data["rows"] == 48
    assert (home / "made" / "confusion.png").stat().st_size > 1000
    counts = artifact.table.own["mine"][1]
    assert counts[:, 2, 1].sum() > 1
    assert counts.sum() == pytest.approx(2)


def test_without_documents_the_question_alone_is_learned(home: Path, said: Said) -> None:
    assert main(train(home, "--no-documents", "--json", out="alone")) == 0
    figures = json.loads(said()[0])
    assert figures["rows"] == 48
    assert np.sum(figures["alone"]["confusion"]) == 48
    assert "measured" not in figures
    assert read_artifact(home / "alone").parts.measured is None


@pytest.mark.parametrize(
    ("change", "more", "why"),
    [
        ({}, (), "the rows bring no documents: say where they are with --documents DIR"),
        (
            {"file": ["else.txt"] * 48},
            ("--documents", "docs"),
            "row 1: there is no else.txt below docs",
        ),
        ({"task": ["sums"] * 48}, ("--no-documents",), "column task, row 1, 'sums' is none of"),
        ({"task": [None] * 48}, ("--no-documents",), "row 1 has no task"),
        ({"task": ["comp"] * 48}, ("--no-documents",), "48 different questions of 1 tasks are too"),
        ({"question": [""] * 48}, ("--no-documents",), "column question, row 1, must be a text"),
        ({}, ("--documents", "nowhere"), "nowhere: is no folder of documents"),
    ],
)
def test_rows_that_teach_nothing_are_refused(
    tmp_path: Path, said: Said, change: dict[str, Any], more: tuple[str, ...], why: str
) -> None:
    table(tmp_path / "rows.parquet", **change)
    assert main(train(tmp_path, *more)) == 1
    assert why in said()[1]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"model": "m", "tokens": 1, "way": "whole"}', "has no column score"),
        ('{"model": "m", "tokens": 1, "way": "half", "score": 1, "task": "comp"}', "none of pass"),
        ('{"model": "m", "tokens": 1, "way": "whole", "score": 7, "task": "comp"}', "from 0 to 1"),
        ('{"model": "m", "tokens": "x", "way": "whole", "score": 1, "task": "comp"}', "from 0 on"),
        ('{"model": "m", "tokens": 1, "way": "whole", "score": 1}', "names no task and no quest"),
    ],
)
def test_outcomes_that_say_nothing_are_refused(tmp_path: Path, line: str, why: str) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text(line, encoding="utf-8")
    with pytest.raises(RowsError, match=why):
        read_own([own])


# -------------------------------------------------------------------------------------- predicting


def test_predictions_are_what_serves(home: Path, tmp_path: Path, said: Said) -> None:
    out = tmp_path / "out.parquet"
    assert main(predict(home / "made", home / "rows.parquet", out)) == 0
    told, rows = read_table(out).columns, asked(48)
    _, judge = opened(home / "made")
    likely = judge.probabilities(asks_in(rows.questions))
    for at, task in enumerate(TASKS):
        np.testing.assert_allclose(told[f"p/{task}"], likely[:, at], atol=1e-6)
    assert told["task"] == [TASKS[at] for at in likely.argmax(axis=1)]
    assert told["task_given"] == list(rows.tasks)
    assert told["prompt"] == list(rows.questions)
    assert told["id"][:2] == ["rows/1", "rows/2"]
    assert "choice" not in told
    printed, warned = said()
    assert "48 of 48 prompts were trained on" in warned
    assert "from the questions alone" in printed


def test_with_documents_a_way_is_chosen(home: Path, tmp_path: Path) -> None:
    plain, found = tmp_path / "plain.parquet", tmp_path / "found.parquet"
    named, rows = ("--documents", str(home / "texts"), "--model", "gpt-4o"), home / "rows.parquet"
    assert main(predict(home / "made", rows, plain)) == 0
    assert main(predict(home / "made", rows, found, *named)) == 0
    alone, told = read_table(plain).columns, read_table(found).columns
    assert alone["p/hallu"] != told["p/hallu"]
    for row in range(48):
        likely = [told[f"p/{task}"][row] for task in TASKS]
        value = published().value("gpt-4o", told["tokens"][row], likely)
        assert told["value/whole"][row] == pytest.approx(value["whole"])
        better = "whole" if value["whole"] > value["passages"] else "passages"
        assert told["choice"][row] == better


def test_rows_may_bring_their_texts(home: Path, tmp_path: Path, said: Said) -> None:
    rows = tmp_path / "rows.jsonl"
    line = {"prompt": "Why is the harbour of Jena grey?", "document": TEXT, "id": "one"}
    rows.write_text(json.dumps(line), encoding="utf-8")
    assert main(predict(home / "made", rows, tmp_path / "out.parquet")) == 0
    told = read_table(tmp_path / "out.parquet").columns
    assert told["choice"] == ["passages"]  # so short a text is its own passages
    assert told["id"] == ["one"]
    assert "task_given" not in told
    assert "with what a search found" in said()[0]


def test_the_one_that_ships_tells_tasks(tmp_path: Path, said: Said) -> None:
    rows, out = tmp_path / "rows.csv", tmp_path / "out.parquet"
    questions = {
        "location": "What was the total revenue as of March 31, 2024?",
        "reasoning": "Why did the narrator decide to leave, and what does this suggest about him?",
        "comp": "How do the methods in paper 0 and paper 1 differ in their evaluation?",
        "hallu": "What are the company's plans for expansion into the Asian market?",
    }
    lines = ["question", *(f'"{text}"' for text in questions.values())]
    rows.write_text("\n".join(lines), encoding="utf-8")
    assert main(predict("default", rows, out)) == 0
    assert read_table(out).columns["task"] == list(questions)
    assert "trained on" not in said()[1]


def test_the_one_that_ships_is_small_and_holds_no_question() -> None:
    held = [file.read_bytes() for file in SHIPPED.iterdir()]
    assert sum(map(len, held)) < 4e6
    artifact = read_artifact(SHIPPED)
    assert artifact.card.metrics["alone"]["accuracy"] >= 0.88
    assert len(artifact.parts.prompts) > 800
    assert artifact.table.own == {}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--set", "budget=1", "--policy", "context"), "--set: the policy context has no settings"),
        (("--documents", "x"), "--documents: belongs to --policy context"),
        (("--model", "x"), "--model: belongs to --policy context"),
        (("--policy", "context", "--documents", "nowhere"), "nowhere: is no folder of documents"),
    ],
)
def test_what_makes_no_sense_is_refused(
    home: Path, said: Said, arguments: tuple[str, ...], why: str
) -> None:
    named = ["--rows", f"{home}/rows.parquet", "--out", f"{home}/none.parquet"]
    assert main(["predict", f"{home}/made", *named, *arguments]) == 1
    assert why in said()[1]


def test_another_artifact_is_refused(tmp_path: Path, home: Path, said: Said) -> None:
    (tmp_path / "card.json").write_text('{"format": 1, "kind": "experts"}', encoding="utf-8")
    assert main(predict(tmp_path, home / "rows.parquet", tmp_path / "out.parquet")) == 1
    assert said()[1].count("\n") == 1

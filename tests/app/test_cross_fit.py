"""`tandem eval --cross-fit`: every row is judged by a router that was not trained on it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app import cross_fit
from app.cli import main
from app.cross_fit import Remembering
from policies.training.experts.pipeline import Trained, Training, train
from policies.training.outcomes.rows import Rows
from policies.training.outcomes.tables import write_table
from tests.policies.training.experts.planted import QUICK, Hashing, planted

ROWS = 120


def file(folder: Path, *, tasks: bool = False) -> Path:
    rows = planted(ROWS)
    columns: dict[str, Any] = {
        "prompt": rows.prompts,
        **{f"score/{m}": rows.scores[:, at].tolist() for at, m in enumerate(rows.models)},
    }
    if tasks:
        columns["task"] = [f"task {number % 3}" for number in range(ROWS)]
    write_table(columns, folder / "rows.parquet")
    return folder / "rows.parquet"


def figures(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["eval", "--policy", "experts", "--no-knn", "--bootstrap", "50", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small forests: what is learned is not the point here."""
    monkeypatch.setattr(cross_fit, "Recipe", lambda **settings: replace(QUICK, **settings))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The prompts of each training."""
    trained: list[set[str]] = []

    def remembering(rows: Rows, training: Training, progress: Any) -> Trained:
        trained.append(set(rows.prompts))
        return train(rows, training, progress)

    monkeypatch.setattr(cross_fit, "train", remembering)
    return trained


@pytest.mark.slow
def test_each_part_is_judged_by_a_router_trained_on_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seen: list[set[str]]
) -> None:
    found = figures(capsys, "--rows", str(file(tmp_path)), "--cross-fit", "3", "--json")
    assert found["rows"] == ROWS
    prompts = set(planted(ROWS).prompts)
    left_out = [prompts - each for each in seen]
    assert len(seen) == 3
    assert set.union(*left_out) == prompts
    assert sum(map(len, left_out)) == len(prompts)


@pytest.mark.slow
def test_by_task_no_router_has_seen_the_task_that_it_is_judged_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seen: list[set[str]]
) -> None:
    rows = file(tmp_path, tasks=True)
    figures(capsys, "--rows", str(rows), "--cross-fit", "task", "--json")
    prompts = planted(ROWS).prompts
    for number, each in enumerate(seen):
        assert not each & {prompts[at] for at in range(number, ROWS, 3)}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--policy", "{use: direct, model: a}", "--cross-fit", "3"], "say --policy experts"),
        (["--policy", "experts", "--cross-fit", "task"], "fewer than two tasks"),
        (["--policy", "experts", "--cross-fit", "3", "--set", "nonsense=1"], "--set nonsense"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "--rows", str(file(tmp_path)), "--no-knn", *arguments]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert complaint in said[-1]


def test_a_text_is_embedded_once() -> None:
    counted: list[str] = []
    hashing = Hashing()

    class Counting:
        name, dimension, fingerprint = hashing.name, hashing.dimension, hashing.fingerprint

        def embed(self, texts: Any, progress: Any = None) -> Any:
            counted.extend(texts)
            return hashing.embed(texts, progress)

    remembering = Remembering(Counting())
    first = remembering.embed(["a", "b", "a"])
    second = remembering.embed(["b", "c"])
    assert counted == ["a", "b", "c"]
    np.testing.assert_array_equal(first[1], second[0])
    assert remembering.embed([]).shape == (0, hashing.dimension)

"""`tandem bench context`: its figures are what they say, on data made so that they are known."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from app.bench import context_value
from app.bench.context_refusal import NAMED, refusals
from app.bench.context_tasks import ALONE, MEASURED, Judged
from app.bench.context_value import placing, sent, values
from app.bench.figures import Figure
from app.cli import main
from policies.reading.documents import TASKS
from policies.reading.table import STRENGTH, published, stated
from policies.training.context.fit import Tried
from policies.training.outcomes.tables import write_table
from tests.policies.reading.lessons import asked, trained


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are looked at here, no intervals."""
    monkeypatch.setattr(context_value, "DRAWS", 40)


def judged(certain: float) -> Judged:
    """Rows whose tasks are told rightly, as surely as that; 1 / 4 tells nothing."""
    rows, made = asked(), trained(measured=False)
    labels = rows.labels()
    likely = np.full((len(rows), len(TASKS)), (1 - certain) / 3)
    likely[np.arange(len(rows)), labels] = certain
    told = Tried(made.alone.head, likely)
    heads = MappingProxyType({ALONE: told, MEASURED: told})
    count = len(rows)
    return Judged(rows, labels, ["book"] * count, {}, heads, [30_000] * count, [3000] * count, 0)


def by_name(figures: object) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures}  # type: ignore[attr-defined]


def test_who_knows_the_task_is_the_oracle() -> None:
    found = by_name(values(judged(1.0)))
    oracle = found["value, 32k: oracle that knows the task"].value
    assert oracle == pytest.approx(71.3, abs=0.05)
    assert found["value, 32k: always whole"].value == pytest.approx(67.5, abs=0.05)
    assert found["value, 32k: always passages"].value == pytest.approx(65.1, abs=0.05)
    assert found["value, 128k (tasks told on 32k): always passages"].value == pytest.approx(
        59.1, abs=0.05
    )
    assert found[f"value, 32k, {MEASURED}"].value == pytest.approx(oracle)
    assert found[f"value, 32k, {MEASURED}: of the gap"].value == pytest.approx(100)
    left = found[f"value, 32k, model left out, {MEASURED}"].value
    assert left == pytest.approx(
        found["value, 32k, model left out: told tasks that are true"].value
    )
    assert left <= oracle


def test_who_knows_nothing_chooses_by_model_alone() -> None:
    """With all tasks alike, each model reads in the one way that is better for it on the whole."""
    scores = [each.scores[0].mean(axis=0).max() for each in published().models]
    found = by_name(values(judged(0.25)))
    assert found[f"value, 32k, {ALONE}"].value == pytest.approx(100 * np.mean(scores))


def test_what_is_sent_is_one_way_or_the_other() -> None:
    """Where all tasks are comparisons all is read whole, by all models but one."""
    likely = np.eye(len(TASKS))[np.full(80, TASKS.index("comp"))]
    assert sorted(sent(judged(1.0), likely)) == [3000, *[30_000] * 10]


def test_the_strength_is_what_is_measured() -> None:
    found = by_name(placing())
    assert found["placing: outcomes that weigh as much"].value == pytest.approx(STRENGTH, abs=0.05)


def data(folder: Path) -> Path:
    """A small folder like LaRA's: 80 questions about ten texts, one prediction each per model."""
    rows = asked()
    kinds = ["book" if int(str(name)[0]) % 2 else "paper" for name in rows.sources]
    columns = {"question": rows.questions, "task": rows.tasks, "file": rows.sources}
    write_table({**columns, "context_type": kinds}, folder / "questions_32k.parquet")
    (folder / "contexts_32k").mkdir()
    for at in range(10):
        text = f"The ships of Anna, harbour {at}. " * 200
        (folder / "contexts_32k" / f"{at}.txt").write_text(text, encoding="utf-8")
    said = [
        (model, mode, task, question, "It is not mentioned." if task == "hallu" else "Seven.")
        for model in NAMED
        for mode in ("full", "rag")
        for task, question in zip(rows.tasks, rows.questions, strict=True)
    ]
    names = ("model", "mode", "task", "question", "prediction")
    write_table(
        dict(zip(names, zip(*said, strict=True), strict=True)), folder / "predictions_32k.parquet"
    )
    models = stated(published())["models"]
    lines = [f"32k,{name},hallucination,98,100" for name in models]
    lines.insert(0, "length,model,task,long_context,rag")
    (folder / "table.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_refusals_are_counted(tmp_path: Path) -> None:
    found = by_name(refusals(data(tmp_path)))
    assert found["refusals, all models: error of the share"].value == pytest.approx(1.0)
    assert found["taken for refusals, whole: location"].value == 0
    assert found["answer held back"].low == len("Seven.")


@pytest.mark.slow
def test_the_command_prints_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with threadpool_limits(1):
        plot = ["--plot", str(tmp_path / "seen" / "plot.png")]
        main(["bench", "context", "--data", str(data(tmp_path)), "--json", *plot])
    report = json.loads(capsys.readouterr().out)
    names = {figure["name"] for figure in report["figures"]}
    assert f"all documents: accuracy, {ALONE}" in names
    assert "book from the others: macro-F1, what measures add" in names
    assert "tokens, passages first: identity" in names
    assert len(report["remarks"]) == 2
    assert (tmp_path / "seen" / "plot.png").exists()


def test_no_data_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "context", "--data", str(tmp_path)]) == 1
    assert "questions_32k.parquet" in capsys.readouterr().err

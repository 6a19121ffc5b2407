"""`tandem predict`, and that `tandem eval` and the policy itself say the same of every row."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from app.cli import main
from app.evaluate import add_arguments
from app.judged import judged
from policies import TABLE
from policies.composition.artifact import Expert, write_artifact
from policies.composition.embedder import minilm
from policies.composition.prior import shipped
from policies.training.experts.pipeline import Training, train
from policies.training.outcomes.requests import requests_of
from policies.training.outcomes.rows import Rows, read_prompts
from policies.training.outcomes.tables import read_table, write_table
from policies.training.replay import replayed
from router.decide import Foretelling
from router.references import build_policy
from tests.policies.training.experts.planted import EXPERTS, QUICK, planted

Said = Callable[[], tuple[str, str]]
LEXICAL = Training(EXPERTS, replace(QUICK, features="lexical"))


def made(folder: Path, rows: Rows, training: Training = LEXICAL) -> Path:
    with threadpool_limits(1):
        trained = train(rows, training, lambda _: None)
    write_artifact(folder, trained.card, trained.parts)
    return folder


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("lexical"), planted(100, tasks=True))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of three experts with the embedder that ships and a group of the prior."""
    rows = planted(100)
    middle = np.full((100, 1), 0.6)
    more = Rows(rows.prompts, ("sums", "words", "middle"), np.hstack([rows.scores, middle]))
    experts = (*EXPERTS, Expert("middle", 5.0))
    training = Training(experts, QUICK, minilm(), prior=shipped().of(["crux"]))
    return made(tmp_path_factory.mktemp("three"), more, training)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    def both() -> tuple[str, str]:
        heard = capsys.readouterr()
        return heard.out, heard.err

    return both


def prompts_file(file: Path, rows: Rows, **more: Sequence[Any]) -> Path:
    """Prompts alone, in another order than they were made in."""
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    columns: dict[str, Sequence[Any]] = {"prompt": [rows.prompts[row] for row in order]}
    write_table({**columns, **more}, file)
    return file


def predict(artifact: Path, rows: Path, out: Path, *more: str) -> int:
    return main(["predict", str(artifact), "--rows", str(rows), "--out", str(out), *more])


def table(file: Path) -> Mapping[str, Sequence[Any]]:
    return read_table(file).columns


NEW = planted(40, seed=6)
"""Rows that no artifact here was trained on."""


# ------------------------------------------------------------------------------- what comes out


def test_every_row_has_what_is_thought_of_it(artifact: Path, tmp_path: Path, said: Said) -> None:
    ids = [f"row {number}" for number in range(40)]
    rows = prompts_file(tmp_path / "rows.parquet", NEW, id=ids)
    assert predict(artifact, rows, tmp_path / "deep" / "out.parquet") == 0
    found = table(tmp_path / "deep" / "out.parquet")
    assert [*found] == [
        "id", "prompt", "category", "confidence", "similarity", "quality/sums", "quality/words",
        "choice", "reason",
    ]  # fmt: skip
    assert list(found["id"]) == ids
    assert list(found["prompt"]) == table(rows)["prompt"]
    assert set(found["category"]) == {"sums", "words"}
    for name in ("confidence", "quality/sums", "quality/words"):
        assert all(0 < value <= 1 for value in found[name])
    right = ["sums" if text.startswith("What") else "words" for text in found["prompt"]]
    told = zip(found["choice"], found["reason"], right, strict=True)
    assert all(choice == kind for choice, reason, kind in told if reason == "expert")
    out, err = said()
    assert "40 rows" in out
    assert "too uncertain to choose for" in out
    assert not err


def test_scores_are_of_no_interest_and_tasks_are_carried(artifact: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [
        {"prompt": prompt, "task": f"kind {number % 2}", "score/sums": "none", "id": number}
        for number, prompt in enumerate(NEW.prompts)
    ]
    rows.write_text("\n".join(map(json.dumps, lines)))
    assert predict(artifact, rows, tmp_path / "out.parquet") == 0
    found = table(tmp_path / "out.parquet")
    assert list(found["task"][:3]) == ["kind 0", "kind 1", "kind 0"]
    assert list(found["id"][:3]) == ["0", "1", "2"]


def test_conversations_are_read_by_their_last_turn(artifact: Path, tmp_path: Path) -> None:
    def said(prompt: str) -> list[dict[str, str]]:
        first = {"role": "user", "content": "Write a story about the river and the stone ."}
        answer = {"role": "assistant", "content": "There was a river."}
        return [first, answer, {"role": "user", "content": prompt}]

    rows = tmp_path / "rows.parquet"
    write_table({"messages": [json.dumps(said(prompt)) for prompt in NEW.prompts]}, rows)
    assert predict(artifact, rows, tmp_path / "out.parquet") == 0
    found = table(tmp_path / "out.parquet")
    assert list(found["prompt"]) == list(NEW.prompts)
    sums = [n for n, reason in enumerate(found["reason"]) if reason == "expert" and n % 2 == 0]
    assert sums
    assert {found["category"][number] for number in sums} == {"sums"}


def test_settings_change_the_choice_alone(artifact: Path, tmp_path: Path) -> None:
    rows, out = prompts_file(tmp_path / "rows.parquet", NEW), tmp_path / "out.parquet"
    found = {}
    for share in ("0.0", "1.0"):
        settings = ("by=category", f"budget={{large_share: {share}}}", "experts={sums: little}")
        stated = [word for one in settings for word in ("--set", one)]
        assert predict(artifact, rows, out, "--set", "confidence=0", *stated) == 0
        found[share] = table(out)
    assert set(found["0.0"]["choice"]) == {"little"}
    assert set(found["1.0"]["choice"]) == {"little", "words"}, "dearer only where it is better"
    for column in ("category", "confidence", "quality/sums", "quality/words"):
        assert found["0.0"][column] == found["1.0"][column]


def test_what_is_too_uncertain_goes_to_the_fallback(
    three: Path, tmp_path: Path, said: Said
) -> None:
    """No prompt is the same as all of its neighbours."""
    rows, out = prompts_file(tmp_path / "rows.parquet", NEW), tmp_path / "out.parquet"
    assert predict(three, rows, out, "--set", "similarity=1.0", "--set", "fallback=words") == 0
    found = table(out)
    assert set(found["reason"]) == {"abstained"}
    assert set(found["choice"]) == {"words"}
    assert "too uncertain to choose for: 100.0%" in said()[0]


# --------------------------------------------------------------------- they agree with the policy


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"budget": {"params_b": 4.0}},
        {"risk": {"worse": 0.2}},
        {"by": "category", "budget": {"large_share": 0.4}},
        {"confidence": 0.9},
    ],
    ids=str,
)
def test_prediction_evaluation_and_service_are_one(
    three: Path, tmp_path: Path, settings: Mapping[str, Any]
) -> None:
    """The table that `predict` writes, the replay of `eval`, and the policy that serves."""
    file = prompts_file(tmp_path / "rows.parquet", NEW)
    stated = [
        word
        for name, value in settings.items()
        for word in ("--set", f"{name}={json.dumps(value)}")
    ]
    assert predict(three, file, tmp_path / "out.parquet", *stated) == 0
    predicted = table(tmp_path / "out.parquet")
    prompts = read_prompts([file])

    block = {"use": "experts", "artifact": str(three), **settings}
    policy, complaints = build_policy(block, TABLE)
    assert isinstance(policy, Foretelling), complaints
    for row, told in enumerate(policy.foretold([*requests_of(prompts)])):
        for name, value in told.items():
            assert predicted[name][row] == value or predicted[name][row] == pytest.approx(
                value, abs=1e-5
            )

    models = ("sums", "words", "middle")
    held = Rows(prompts.prompts, models, np.full((40, 3), 0.5))
    options = _options("--rows", str(file), "--policy", str(three), *stated)
    judging = judged(options, models)
    replay = replayed(judging.name, held, judging.stage)
    assert (replay.chances.max(axis=1) == 1).all()
    assert [models[at] for at in replay.chances.argmax(axis=1)] == list(predicted["choice"])
    sure = np.array(predicted["reason"]) == "expert"
    for at, model in enumerate(models):
        told = np.array(predicted[f"quality/{model}"])
        assert replay.expected[sure, at] == pytest.approx(told[sure], abs=1e-5)


def _options(*arguments: str) -> Any:
    import argparse

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


# ------------------------------------------------------------------------- figures that flatter


def test_rows_that_were_trained_on_are_warned_of(
    artifact: Path, tmp_path: Path, said: Said
) -> None:
    mixed = Rows((*planted(100).prompts[:10], *NEW.prompts), (), np.zeros((50, 0)))
    rows = prompts_file(tmp_path / "rows.parquet", mixed)
    assert predict(artifact, rows, tmp_path / "out.parquet") == 0
    assert said()[1] == "tandem: 10 of 50 prompts were trained on: figures on them flatter\n"


def test_rows_of_the_prior_are_warned_of(
    three: Path, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the groups that the artifact uses, and no other."""
    from policies.composition import opening, prior

    def knowing(name: str) -> Any:
        hashes = prior.hashed(NEW.prompts[:7])
        groups = [
            replace(group, prompts=hashes) if group.name == name else group
            for group in shipped().groups
        ]
        return replace(shipped(), groups=tuple(groups))

    rows, out = prompts_file(tmp_path / "rows.parquet", NEW), tmp_path / "out.parquet"
    warning = "tandem: 7 of 40 prompts were trained on: figures on them flatter\n"
    for name, warned in (("crux", warning), ("math", "")):
        found = knowing(name)
        monkeypatch.setattr(opening, "shipped", lambda found=found: found)
        assert predict(three, rows, out) == 0
        assert said()[1] == warned


def test_an_evaluation_warns_of_them_too(artifact: Path, tmp_path: Path, said: Said) -> None:
    ours, others = planted(100).at(range(20)), planted(40, seed=6)
    rows = Rows(
        (*ours.prompts, *others.prompts), ours.models, np.vstack([ours.scores, others.scores])
    )
    write_table(rows.columns(), tmp_path / "rows.parquet")
    arguments = ["--rows", str(tmp_path / "rows.parquet"), "--no-knn", "--bootstrap", "10"]
    assert main(["eval", *arguments, "--policy", str(artifact)]) == 0
    assert "20 of 60 prompts were trained on: figures on them flatter" in said()[1]
    config = tmp_path / "gateway.yaml"
    config.write_text(
        json.dumps(
            {
                "models": {name: {"backends": [f"http://{name}"]} for name in ("sums", "words")},
                "policies": {
                    "learned": {"use": "experts", "artifact": str(artifact)},
                    "explored": {"use": "split", "weights": {"learned": 9, "words": 1}},
                    "other": {"use": "direct", "model": "words"},
                },
                "default": "explored",
            }
        )
    )
    for policy, warns in (("explored", True), ("other", False)):
        assert main(["eval", *arguments, "--config", str(config), "--policy", policy]) == 0
        assert ("20 of 60 prompts were trained on" in said()[1]) is warns


# ------------------------------------------------------------------------------------ what fails


def test_what_is_wrong_is_one_line(artifact: Path, tmp_path: Path, said: Said) -> None:
    rows = prompts_file(tmp_path / "rows.parquet", NEW)
    write_table({"text": ["a"]}, tmp_path / "no-prompts.parquet")
    other = tmp_path / "other"
    other.mkdir()
    (other / "experts.json").write_text('{"kind": "token-gate"}')
    damaged = Path(shutil.copytree(artifact, tmp_path / "damaged"))
    (damaged / "experts.safetensors").write_bytes(b"\x00" * 100)
    cut = Path(shutil.copytree(artifact, tmp_path / "cut"))
    (cut / "grams.json").write_text("[]")
    (tmp_path / "file").write_text("")
    out = tmp_path / "out.parquet"
    for arguments, why in (
        ([artifact, tmp_path / "none.parquet", out], "none.parquet: No such file"),
        ([artifact, tmp_path / "no-prompts.parquet", out], "has no column prompt"),
        ([tmp_path / "nowhere", rows, out], "nowhere/experts.json: No such file or directory"),
        ([other, rows, out], "No such file"),
        ([damaged, rows, out], f"a file in {damaged} is damaged"),
        ([cut, rows, out], f"the files in {cut} do not fit together"),
        ([artifact, rows, tmp_path / "file" / "out.parquet"], "cannot be written"),
        ([artifact, rows, out, "--set", "budget"], "--set budget: write NAME=VALUE"),
        ([artifact, rows, out, "--set", "budget={"], "--set budget={: the value is no YAML"),
        ([artifact, rows, out, "--set", "use=direct"], "the policy is the artifact's"),
        ([artifact, rows, out, "--set", "embedder=minilm"], "no server is asked here"),
        ([artifact, rows, out, "--set", "budgets=1"], "budgets: "),
        ([artifact, rows, out, "--set", "budget={usd: 1}"], "does not know usd of sums, words"),
    ):
        assert predict(*arguments) == 1, why
        heard, err = said()
        assert not heard
        assert err.startswith("tandem: "), err
        assert err.count("\n") == 1, err
        assert why in err, err
    assert not out.exists()


def test_a_table_is_written_as_parquet_under_no_other_name(tmp_path: Path, said: Said) -> None:
    for name in ("out.jsonl", "out.csv", "out"):
        with pytest.raises(SystemExit) as stop:
            predict(tmp_path, tmp_path / "rows.jsonl", tmp_path / name)
        assert stop.value.code == 2
        assert "is written as Parquet; name a file so" in said()[1]

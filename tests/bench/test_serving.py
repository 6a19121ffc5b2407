"""`tandem bench serving`: what it counts, on the embedded pair, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.cli import main


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "What is 36 - 17 + 25?"}\n{"prompt": "What is 20 + 4?"}\n')
    return file


@pytest.mark.xdist_group("pair")
@pytest.mark.slow
def test_a_policy_against_its_large_model(
    prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", "serving", "--policy", "ead", "--prompts", str(prompts), "--json"]
    few = ["--streams", "1,2", "--each", "1", "--repetitions", "1"]
    assert main([*command, *few]) == 0
    figures = {row["name"]: row["value"] for row in json.loads(capsys.readouterr().out)["figures"]}
    for at in ("1 stream", "2 streams"):
        assert figures[f"large, {at}"] > 0
        assert figures[f"ead, {at}: first"] > 0
        ratio = figures[f"ead, {at}"] / figures[f"large, {at}"]
        assert figures[f"ead / large, {at}"] == pytest.approx(ratio)


def test_what_has_no_large_model_needs_another_to_compare_with(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text("policies: {plain: {use: direct, model: small}}")
    command = ["bench", "serving", "--prompts", str(prompts), "--config", str(config)]
    assert main([*command, "--policy", "plain"]) == 1
    assert "--against" in capsys.readouterr().err
    assert main([*command, "--policy", "nobody"]) == 1
    assert "no policy nobody" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--policy", "plain", "--streams", "0"])

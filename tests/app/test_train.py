"""`tandem train token-gate` at the command line: what it refuses, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import train
from app.cli import main

NEEDED = ["train", "token-gate", "--small", "http://a", "--large", "http://b", "--out", "gate"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prompts; and an environment in which nothing is missing or set."""
    monkeypatch.setattr(train, "NEEDED", ())
    monkeypatch.delenv(train.TRACES, raising=False)
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a", "answer": "b"}\n', encoding="utf-8")
    return file


def refused(capsys: pytest.CaptureFixture[str], *options: object) -> str:
    assert main([*NEEDED, *map(str, options)]) == 1
    return capsys.readouterr().err


def test_what_is_not_installed_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "NEEDED", ("torch_that_is_nowhere",))
    assert "tandem-gateway[train]" in refused(capsys, "--prompts", file)


def test_the_traces_folder_must_be_known(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--traces, or TANDEM_GATE_TRACES" in refused(capsys, "--prompts", file)


def test_a_key_must_be_there(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--prompts", file, "--traces", file.parent, "--key-env", "NOWHERE"
    assert "no environment variable NOWHERE" in refused(capsys, *options)


def test_prompts_must_be_readable(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("{}\n", encoding="utf-8")
    assert "line 1" in refused(capsys, "--prompts", file, "--traces", file.parent)


@pytest.mark.parametrize(
    "wrong", [["--recall", "2"], ["--n", "0"], ["--width", "many"], ["--hidden=2"]]
)
def test_numbers_must_make_sense(
    file: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([*NEEDED, "--prompts", str(file), *wrong])
    assert left.value.code == 2
    assert wrong[0].split("=")[0] in capsys.readouterr().err

"""`tandem bench backend` against a real vLLM that serves nobody else."""

from __future__ import annotations

import json

import pytest

from app.cli import main
from tests.real_vllm.servers import Server

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(600)]

LOOSE = 0.5
"""Median error that no fit of such lengths has, however busy the machine: 0.15 is aimed at."""


def test_what_was_fitted_foretells_other_lengths(
    large: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = ["--prompts", "16,128,1024", "--answers", "1,16,128", "--repetitions", "3"]
    assert main(["bench", "backend", large.url, *lengths, "--seconds", "60", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["model"] == "large"
    # Prompts as token ids, answers of exactly the length that was asked for, nothing from a cache.
    fitted = {(one["prompt"], one["completion"]) for one in tree["fitted"]}
    assert fitted == {(prompt, answer) for prompt in (16, 128, 1024) for answer in (1, 16, 128)}
    assert not [told for told in tree["warnings"] if "cache" in told or "early" in told]
    assert tree["terms"]["decode"]["low"] > 0
    assert 0 < tree["median_error"] < LOOSE, tree


def test_a_model_that_it_does_not_serve(large: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "backend", large.url, "--model", "huge"]) == 1
    assert "serves large, not huge" in capsys.readouterr().err

"""What an engine gives to its gate, and what it refuses."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from policies.gate.artifact import write_artifact
from policies.gate.resources import Model, Resources, reserved_token
from policies.gate.settings import GateSettings, Rule
from tests.policies.gate.test_artifact import SIZES, artifact

MODEL = Model(vocabulary=9, hidden=3, embedding=4, fingerprint="f")
NEURAL = GateSettings(Rule.NEURAL, artifact="mine")


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    write_artifact(tmp_path / "gates" / "mine", artifact(fingerprint="f"))
    environ = {
        "TANDEM_GATE_ARTIFACTS": str(tmp_path / "gates"),
        "TANDEM_GATE_TRACES": str(tmp_path / "traces"),
    }
    return Resources.of(environ, lambda name: 7 if name == "<|gate|>" else None, MODEL)


@pytest.mark.parametrize(
    ("environ", "vocabulary", "wanted"),
    [
        ({}, {"<|gate|>": 7, "<|fim_pad|>": 8}, 7),
        ({}, {"<|fim_pad|>": 8}, 8),
        ({}, {"<unused0>": 0}, 0),
        ({}, {"the": 5}, None),
        ({"TANDEM_GATE_TOKEN": "3"}, {"<|gate|>": 7}, 3),
    ],
)
def test_the_reserved_token(
    environ: dict[str, str], vocabulary: dict[str, int], wanted: int | None
) -> None:
    assert reserved_token(environ, dict[str, int | None](vocabulary).get) == wanted


def test_a_reserved_token_is_named_by_its_id() -> None:
    with pytest.raises(ValueError, match="TANDEM_GATE_TOKEN is a token id, not '<x>'"):
        reserved_token({"TANDEM_GATE_TOKEN": "<x>"}, lambda _: None)


def test_a_request_may_name_its_own(resources: Resources) -> None:
    probe = GateSettings(Rule.PROBE)
    assert resources.reserved(probe) == 7
    assert resources.reserved(replace(probe, token=4)) == 4


def test_what_is_there_is_given(resources: Resources, tmp_path: Path) -> None:
    resources.check(NEURAL)
    assert resources.artifact(NEURAL).dimensions == SIZES
    traced = GateSettings(Rule.TRACE, force=(8,), record="x")
    resources.check(traced)
    assert resources.trace(traced) is not resources.trace(traced)
    assert (tmp_path / "traces").is_dir()


def test_a_folder_for_traces_that_cannot_be(resources: Resources, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    resources.traces = tmp_path / "file" / "traces"
    with pytest.raises(ValueError, match=r"TANDEM_GATE_TRACES: .*Not a directory"):
        resources.check(GateSettings(Rule.TRACE, force=(8,), record="x"))


def test_an_artifact_is_read_once_and_again_when_it_changes(
    resources: Resources, tmp_path: Path
) -> None:
    read = resources.artifact(NEURAL)
    assert resources.artifact(NEURAL) is read
    write_artifact(tmp_path / "gates" / "mine", replace(artifact(fingerprint="f"), threshold=0.75))
    # Written within one tick of the file system's clock, perhaps.
    os.utime(tmp_path / "gates" / "mine" / "gate.json", ns=(1, 1))
    assert resources.artifact(NEURAL).threshold == 0.75


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (GateSettings(Rule.PROBE, token=9), "tandem_gate_token 9 is not below"),
        (GateSettings(Rule.PROBE, force=(8, 9)), r"tandem_gate_force has ids .*: \[9\]"),
        (replace(NEURAL, artifact="other"), "no gate 'other' here; there are: mine"),
    ],
)
def test_refusals(resources: Resources, asked: GateSettings, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        resources.check(asked)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (GateSettings(Rule.PROBE), "no token to stop on.*TANDEM_GATE_TOKEN"),
        (replace(NEURAL, token=1), "start it with TANDEM_GATE_ARTIFACTS"),
        (
            GateSettings(Rule.TRACE, token=1, force=(1,), record="x"),
            "start it with TANDEM_GATE_TRACES",
        ),
    ],
)
def test_an_engine_that_has_nothing_says_what_is_missing(asked: GateSettings, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Resources.of({}, lambda _: None, MODEL).check(asked)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vocabulary": 10}, "its vocabulary is 9, this model's is 10"),
        ({"embedding": 5}, "its embedding is 4"),
        ({"hidden": 4}, "its hidden is 3"),
        ({"fingerprint": "g"}, "its fingerprint is f, this model's is g"),
        ({"hidden": None}, "reads hidden states, which this engine does not show"),
    ],
)
def test_a_gate_for_another_model(resources: Resources, change: dict[str, Any], said: str) -> None:
    resources.model = replace(MODEL, **change)
    with pytest.raises(ValueError, match=said):
        resources.check(NEURAL)


def test_what_nobody_looked_at_is_not_compared(resources: Resources) -> None:
    resources.model = replace(MODEL, embedding=None, fingerprint=None)
    resources.check(NEURAL)

"""A learned gate's folder: written and read, and refused with a reason where it does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from policies.gate.arrays import Arrays
from policies.gate.artifact import (
    Artifact,
    ArtifactError,
    fingerprint,
    read_artifact,
    write_artifact,
)
from policies.gate.network import Dimensions, shapes
from policies.gate.rules import Gate, Network, Rules, Step
from policies.gate.settings import GateSettings, Rule

SIZES = Dimensions(hidden=3, embedding=4, width=5, blocks=2, top=6, vocabulary=9)


def artifact(sizes: Dimensions = SIZES, **model: Any) -> Artifact:
    rng = np.random.default_rng(0)
    return Artifact(
        hidden=sizes.hidden > 0,
        dimensions=sizes,
        threshold=0.25,
        model={"name": "small", **model},
        data={"hash": "abc", "prompts": 7},
        metrics={"recall": 0.95},
        created="2026-11-21T08:00:00+00:00",
        weights={
            name: rng.normal(size=shape).astype("f4") for name, shape in shapes(sizes).items()
        },
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_artifact(tmp_path / "gate", artifact())
    return tmp_path / "gate"


@pytest.mark.parametrize("sizes", [SIZES, replace(SIZES, hidden=0, blocks=0)])
def test_there_and_back(tmp_path: Path, sizes: Dimensions) -> None:
    written = artifact(sizes)
    write_artifact(tmp_path / "a" / "b", written)
    read = read_artifact(tmp_path / "a" / "b")
    assert read.dimensions == sizes
    assert (read.hidden, read.threshold, read.created) == (
        written.hidden,
        written.threshold,
        written.created,
    )
    assert (read.model, read.data, read.metrics) == (written.model, written.data, written.metrics)
    assert read.weights.keys() == written.weights.keys()
    for name, weight in written.weights.items():
        np.testing.assert_array_equal(read.weights[name], weight)


def test_the_card_says_what_it_is(folder: Path) -> None:
    card = json.loads((folder / "gate.json").read_text())
    assert (card["format"], card["kind"], card["estimator"]) == (1, "token-gate", "score")
    assert card["dimensions"] == {
        "hidden": 3, "embedding": 4, "width": 5, "blocks": 2, "top": 6, "vocabulary": 9,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format is 2 and must be 1"),
        ({"kind": "experts"}, "kind is 'experts'"),
        ({"estimator": None}, "estimator"),
        ({"hidden": False}, "hidden states if, and only if"),
        ({"hidden": 1}, "hidden is missing or of the wrong kind"),
        ({"threshold": 1.5}, "threshold is a score"),
        ({"threshold": "0.5"}, "threshold is missing or of the wrong kind"),
        ({"threshold": True}, "threshold is missing or of the wrong kind"),
        ({"model": None}, "model is missing"),
        ({"created": 7}, "created"),
        ({"dimensions": []}, "dimensions is missing"),
        ({"dimensions": {"hidden": 3}}, "dimensions.embedding must be a whole number"),
        ({"dimensions": {"hidden": -1}}, "dimensions.hidden must be a whole number"),
    ],
)
def test_a_card_that_is_not_right(folder: Path, change: dict[str, Any], said: str) -> None:
    file = folder / "gate.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ArtifactError, match=said) as caught:
        read_artifact(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("embedding", 5, r"input.weight of shape \(5, 13\), it has one of shape \(5, 12\)"),
        ("blocks", 3, r"blocks.2.contract.bias of shape \(5,\), it has one of shape None"),
        ("blocks", 1, r"blocks.1.contract.bias of shape None"),
        ("top", 7, r"logits.weight of shape \(5, 7\)"),
    ],
)
def test_dimensions_that_the_weights_have_not(
    folder: Path, name: str, size: int, said: str
) -> None:
    file = folder / "gate.json"
    card = json.loads(file.read_text())
    card["dimensions"][name] = size
    file.write_text(json.dumps(card))
    with pytest.raises(ArtifactError, match=said):
        read_artifact(folder)


def test_weights_of_another_type(folder: Path) -> None:
    weights = load_file(folder / "gate.safetensors")
    weights["norm.bias"] = weights["norm.bias"].astype(np.float16)
    save_file(weights, folder / "gate.safetensors")
    with pytest.raises(ArtifactError, match=r"norm\.bias must be float32"):
        read_artifact(folder)


@pytest.mark.parametrize("name", ["gate.json", "gate.safetensors"])
def test_missing_and_damaged_files(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"{[")
    with pytest.raises(ArtifactError, match=rf"{folder} is damaged.*tandem train token-gate"):
        read_artifact(folder)
    (folder / name).write_bytes(b"[]") if name == "gate.json" else (folder / name).write_bytes(b"")
    with pytest.raises(ArtifactError, match=str(folder)):
        read_artifact(folder)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=r"No such file.*tandem train token-gate"):
        read_artifact(folder)


def test_a_fingerprint_is_of_the_matrix_and_not_of_its_precision() -> None:
    matrix = np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32)
    halves = (matrix.view(np.uint32) >> 16).astype(np.uint16)
    coarse = (halves.astype(np.uint32) << 16).view(np.float32)
    assert fingerprint(coarse) == fingerprint(np.vstack([coarse, np.zeros((4, 8), np.float32)]))
    # Rounded to the nearest, not cut off.
    above = (coarse.view(np.uint32) + 0x8001).view(np.float32)
    below = (coarse.view(np.uint32) + 0x7FFF).view(np.float32)
    assert fingerprint(below) == fingerprint(coarse) != fingerprint(above)
    assert fingerprint(coarse) != fingerprint(coarse[:, ::-1])


def test_a_gate_that_was_read_can_be_run(arrays: Arrays, folder: Path) -> None:
    embedding = arrays.up(np.random.default_rng(2).normal(size=(9, 4)).astype(np.float32))
    network = Network.of(read_artifact(folder), arrays, lambda ids: embedding[ids])
    rules = Rules(1, arrays)
    rules.begin(0, Gate(GateSettings(Rule.NEURAL, artifact="x", threshold=0.0), 7, network))
    row = np.random.default_rng(3).normal(size=(1, 12)).astype(np.float32)
    found = rules.decide(Step([0], [0], arrays.up(row[:, :9]), arrays.up(row[:, 9:])))
    assert arrays.down(found).tolist() == [7]

"""Artifacts: what was written is read, and what is damaged is refused in one line that says so."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from policies.composition import opening
from policies.composition.artifact import ARRAYS, CARD, GRAMS, read_artifact, write_artifact
from policies.composition.ask import Ask
from policies.composition.embedder import EmbedderError
from policies.composition.judge import Judge
from policies.composition.opening import opened
from tests.policies.composition import make_artifacts
from tests.policies.composition.make_artifacts import (
    LEXICAL,
    REMOTE,
    Letters,
    local,
    prompts,
    write,
)

ASKS = [Ask(text, len(text)) for several in prompts().values() for text in several]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy to damage."""
    copy = tmp_path / "artifact"
    shutil.copytree(LEXICAL, copy)
    return copy


def judge_of(folder: Path) -> Judge:
    _, judge = opened(folder, remote=folder.name == "remote")
    if folder.name == "remote":
        texts = [ask.text for ask in ASKS]
        judge.learn(texts, Letters().embed(texts).tolist())
    return judge


# ------------------------------------------------------------------------------ written and read


@pytest.mark.parametrize("source", [LEXICAL, REMOTE], ids=["lexical", "remote"])
def test_what_is_written_is_read(source: Path, tmp_path: Path) -> None:
    artifact = read_artifact(source)
    again = tmp_path / source.name
    write_artifact(again, artifact.card, artifact.parts)
    assert read_artifact(again).card == artifact.card
    assert judge_of(again).judge_all(ASKS) == judge_of(source).judge_all(ASKS)
    assert {file.name for file in again.iterdir()} == {CARD, ARRAYS, GRAMS}


@pytest.mark.parametrize("name", ["lexical", "remote"])
def test_the_artifacts_here_are_what_their_script_makes(name: str, tmp_path: Path) -> None:
    trained = getattr(make_artifacts, name)()
    fresh, kept = write(tmp_path / name, trained), make_artifacts.FOLDER / name
    for one, other in zip(
        judge_of(fresh).judge_all(ASKS), judge_of(kept).judge_all(ASKS), strict=True
    ):
        assert one.category == other.category
        assert one.quality == pytest.approx(other.quality, abs=0.02)
    card, known = read_artifact(fresh).card, read_artifact(kept).card
    assert (card.experts, card.strong, card.created) == (known.experts, known.strong, known.created)
    assert [each.name for each in card.categories] == [each.name for each in known.categories]


def test_an_artifact_with_an_embedder_and_a_prior(tmp_path: Path) -> None:
    artifact = read_artifact(folder := write(tmp_path / "local", local()))
    assert artifact.card.embedding is not None
    assert artifact.card.prior is not None
    right = [
        artifact.card.categories[judged.category].name == task
        for task, several in prompts().items()
        for judged in judge_of(folder).judge_all([Ask(text, len(text)) for text in several])
    ]
    assert sum(right) > 0.9 * len(right)


def test_its_fingerprint_tells_it_from_any_other(folder: Path, tmp_path: Path) -> None:
    artifact = read_artifact(folder)
    assert artifact.fingerprint == read_artifact(LEXICAL).fingerprint
    changed = replace(artifact.card, created="2027-01-01T00:00:00+00:00")
    write_artifact(tmp_path / "other", changed, artifact.parts)
    assert read_artifact(tmp_path / "other").fingerprint != artifact.fingerprint


# --------------------------------------------------------------------------------------- damage


def stating(**fields: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        card = json.loads((folder / CARD).read_text())
        (folder / CARD).write_text(json.dumps(card | fields))

    return damage


def without_field(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        card = json.loads((folder / CARD).read_text())
        del card[name]
        (folder / CARD).write_text(json.dumps(card))

    return damage


def with_array(name: str, change: Callable[[Any], Any] | None) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        arrays = load_file(folder / ARRAYS)
        assert name in arrays
        if change is None:
            del arrays[name]
        else:
            arrays[name] = np.ascontiguousarray(change(arrays[name]))
        save_file(arrays, folder / ARRAYS)

    return damage


def holding(name: str, content: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return damage


def missing(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no card": (missing(CARD), "experts.json: No such file or directory"),
    "no arrays": (missing(ARRAYS), "experts.safetensors: No such file or directory"),
    "no grams": (missing(GRAMS), "grams.json: No such file or directory"),
    "no json": (holding(CARD, b"{"), "is damaged"),
    "no text": (holding(CARD, b"\xff\xfe"), "is damaged"),
    "a list": (holding(CARD, b"[]"), "format is None"),
    "cut": (holding(ARRAYS, b"\x10\x00"), "is damaged"),
    "version": (stating(format=99), "format is 99, and this version of Tandem reads 1; train it"),
    "kind": (stating(kind="gate"), "kind is 'gate'"),
    "numbers": (stating(lexical=["length"]), r"lexical is \['length'\]"),
    "no maps": (without_field("maps"), "do not fit together: maps is missing"),
    "no experts": (stating(experts=[]), "do not fit together: strong and resident"),
    "strong": (stating(strong=7), "do not fit together: strong and resident"),
    "map": (
        stating(maps=[{"unit": "usd", "budget": 1, "cost": 1, "quality": 1, "experts": [0]}]),
        "a map names other experts or categories",
    ),
    "grams": (holding(GRAMS, b'["a"]'), "grams.json and experts.safetensors hold different"),
    "no array": (with_array("blend.offset", None), "blend.offset is missing"),
    "outputs": (with_array("blend.offset", lambda a: a[:2]), "3 experts need 4 outputs"),
    "block": (stating(blocks=[{"kind": "oracle"}]), "there is no block of kind 'oracle'"),
    "classes": (
        with_array("categories.offset", lambda a: a[:1]),
        "the classifier knows other categories",
    ),
    "reference": (
        with_array("reference.actual", lambda a: a[:, :1]),
        "the reference rows are of other experts",
    ),
    "widths": (with_array("categories.weights", lambda a: a[:3]), "do not fit together"),
    "values": (with_array("block1.values", lambda a: a[:1]), "do not fit together"),
    "infinite": (with_array("blend.offset", lambda a: a * np.nan), "its arrays are not finite"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused_in_one_line(name: str, folder: Path) -> None:
    damage, reason = DAMAGES[name]
    damage(folder)
    with pytest.raises(ValueError, match=reason) as refused:
        opened(folder, remote=False)
    said = str(refused.value)
    assert said.startswith("artifact: ")
    assert "\n" not in said
    assert str(folder) in said
    assert re.search("train", said), "it says what to do"


def test_an_embedder_that_cannot_be_had_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise EmbedderError("model.onnx is damaged (x); restore it")

    stated = read_artifact(REMOTE)
    assert stated.card.embedding is not None
    here = replace(
        stated, card=replace(stated.card, embedding=replace(stated.card.embedding, local=True))
    )
    monkeypatch.setattr(opening, "read_artifact", lambda _: here)
    monkeypatch.setattr(opening, "minilm", broken)
    with pytest.raises(ValueError, match=r"artifact: model.onnx is damaged \(x\); restore it"):
        opened(REMOTE, remote=False)

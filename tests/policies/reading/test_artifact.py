"""The folder: what was written is read, and what does not fit is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from policies.reading.artifact import (
    ArtifactError,
    opened,
    read_artifact,
    write_artifact,
)
from policies.reading.table import Outcome, published
from policies.training.context.pipeline import Trained
from tests.policies.reading.lessons import MEASURES, asked, trained


@pytest.fixture(scope="module")
def lesson() -> Trained:
    return trained()


@pytest.fixture
def folder(lesson: Trained, tmp_path: Path) -> Path:
    outcomes = [Outcome("mine", 50_000, (1.0, 0.0, 0.0, 0.0), "whole", 1.0)]
    write_artifact(tmp_path, lesson.card, lesson.parts, published().learned(outcomes))
    return tmp_path


def test_what_was_written_is_read(lesson: Trained, folder: Path) -> None:
    artifact = read_artifact(folder)
    assert artifact.card == lesson.card
    assert artifact.card.measures == MEASURES
    assert artifact.trained_on(["Never asked?", asked().questions[3].upper()]) == 1
    mine, other = (artifact.table.by_task(name, 50_000)[0, 1] for name in ("mine", "other"))
    assert mine > other


@pytest.mark.slow
def test_the_same_training_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = trained()
    other = tmp_path / "again"
    outcomes = [Outcome("mine", 50_000, (1.0, 0.0, 0.0, 0.0), "whole", 1.0)]
    write_artifact(other, again.card, again.parts, published().learned(outcomes))
    for file in other.iterdir():
        assert file.read_bytes() == (folder / file.name).read_bytes()


def test_no_question_is_in_it(folder: Path) -> None:
    held = b"".join(file.read_bytes() for file in folder.iterdir())
    assert not [text for text in asked().questions if text.encode() in held]


Spoil = Callable[[dict[str, object]], object]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda card: card.update(kind="experts"), "kind is 'experts', and this version of"),
        (lambda card: card.update(tasks=["a"]), r"tasks is \['a'\]"),
        (lambda card: card.pop("table"), "do not fit together: table is missing"),
        (lambda card: card.update(measures=[]), "measures and the head that reads them"),
        (lambda card: card.update(measures=["absent"]), "units of other measures"),
        (lambda card: card.update(measures=["a", *MEASURES[1:]]), "nobody measures a here"),
        (lambda card: card.update(own=["a", "b"]), "own.1 is missing"),
        (lambda card: card.update(temperatures={}), "alone is missing"),
        (
            lambda card: card.update(
                embedding={"name": "x", "fingerprint": "0", "dimension": 3, "local": True}
            ),
            "was trained with the embedder x",
        ),
    ],
)
def test_a_card_that_does_not_fit_is_refused(folder: Path, spoil: Spoil, why: str) -> None:
    card = json.loads((folder / "card.json").read_text())
    spoil(card)
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=why) as refused:
        opened(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    ["alone.words", "measured.rest", "alone.offset", "words.idf", "measures.centre", "own.0"],
)
def test_arrays_of_another_shape_are_refused(folder: Path, name: str) -> None:
    arrays = load_file(folder / "arrays.safetensors")
    save_file({**arrays, name: np.zeros((2, 2), np.float32)}, folder / "arrays.safetensors")
    with pytest.raises(ArtifactError, match="do not fit together") as refused:
        opened(folder)
    assert "`tandem train context` makes such a folder" in str(refused.value)


def test_arrays_that_are_not_finite_are_refused(folder: Path) -> None:
    arrays = load_file(folder / "arrays.safetensors")
    arrays["alone.offset"][:] = np.nan
    save_file(arrays, folder / "arrays.safetensors")
    with pytest.raises(ArtifactError, match="its arrays are not finite"):
        opened(folder)


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file or directory; `tandem train context`"):
        opened(tmp_path / "nowhere")


def test_damage_is_refused(folder: Path) -> None:
    (folder / "arrays.safetensors").write_bytes(b"none")
    with pytest.raises(ArtifactError, match="is damaged"):
        read_artifact(folder)

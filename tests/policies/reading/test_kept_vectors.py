"""Vectors of a corpus between starts: by what they were made of and by whom, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from policies.composition.embedder import Floats
from policies.reading.corpus import VECTORS
from policies.reading.index import Index
from policies.reading.kept_vectors import builder, encoded, recall
from policies.reading.recipe import Recipe
from tests.policies.reading.bodies import STORY

RECIPE = Recipe(chunk_tokens=100, overlap_tokens=0)
OTHER = STORY.replace("ferry", "mail boat")


def embed(texts: list[str]) -> Floats:
    """A vector that a text alone decides."""
    made = np.array([[len(text), text.count("e"), 1.0] for text in texts], np.float32)
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float32)


def completed(*texts: str) -> Index:
    index = Index(texts, RECIPE)
    index.complete(lambda some: embed(list(some)))
    return index


def test_vectors_come_back_whole(tmp_path: Path) -> None:
    index = completed(STORY, OTHER)
    (tmp_path / VECTORS).write_bytes(encoded(index, "maker"))
    again = builder(tmp_path, "maker")([STORY, OTHER], RECIPE)
    assert again.whole
    kept, made = again.vectors(), index.vectors()
    assert kept is not None
    assert made is not None
    assert np.array_equal(kept, made)


def test_a_document_keeps_its_vectors_when_others_change(tmp_path: Path) -> None:
    (tmp_path / VECTORS).write_bytes(encoded(completed(STORY, OTHER), "maker"))
    fewer = recall(Index([OTHER], RECIPE), tmp_path, "maker")
    assert fewer.whole
    more = recall(Index([STORY, "A new one.", OTHER], RECIPE), tmp_path, "maker")
    assert not more.whole
    assert more.read(more.unread()) == ["A new one."]


def test_what_is_made_so_far_is_kept(tmp_path: Path) -> None:
    index = Index([STORY], RECIPE)
    first = index.unread()[:2]
    index.learn(first, embed(index.read(first)))
    (tmp_path / VECTORS).write_bytes(encoded(index, "maker"))
    again = recall(Index([STORY], RECIPE), tmp_path, "maker")
    assert list(again.unread()) == list(index.unread())
    (tmp_path / VECTORS).write_bytes(encoded(Index([STORY], RECIPE), "maker"))
    assert len(recall(Index([STORY], RECIPE), tmp_path, "maker").unread()) == len(index.windows)


@pytest.mark.parametrize("data", [b"", b"junk", b"\xff" * 100])
def test_a_broken_file_is_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / VECTORS).write_bytes(data)
    assert not recall(Index([STORY], RECIPE), tmp_path, "maker").whole


def test_vectors_of_another_embedder_are_none(tmp_path: Path) -> None:
    assert not recall(Index([STORY], RECIPE), tmp_path, "maker").whole
    (tmp_path / VECTORS).write_bytes(encoded(completed(STORY), "another"))
    assert not recall(Index([STORY], RECIPE), tmp_path, "maker").whole
    assert not recall(Index([], RECIPE), tmp_path, "another").whole

"""From rows to an artifact: what it learns, what it takes, and what it leaves in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.composition.artifact import read_artifact, write_artifact
from policies.composition.budget import chosen
from policies.composition.embedder import minilm
from policies.composition.features import Reading
from policies.composition.opening import trained_on
from policies.composition.prior import Prior, hashed, shipped
from policies.training.experts.pipeline import Trained, Training, asks_in, steps, train
from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.rows import Rows
from tests.policies.training.experts.planted import (
    EXPERTS,
    QUICK,
    SUMS,
    WORDS,
    Hashing,
    planted,
    prompts,
)

TRAINING = Training(EXPERTS, QUICK, Hashing())
LEXICAL = Training(EXPERTS, replace(QUICK, features="lexical"))


def trained(rows: Rows, training: Training = TRAINING) -> Trained:
    return train(rows, training, lambda _: None)


def choices(of: Trained, rows: Rows, training: Training = TRAINING) -> np.ndarray:
    """Who is expected to do best on these rows."""
    best: np.ndarray = quality(of, rows, training).argmax(axis=1)
    return best


def quality(of: Trained, rows: Rows, training: Training = TRAINING) -> np.ndarray:
    parts, embedder = of.parts, training.reads
    reading = Reading(
        None if embedder is None else embedder.embed,
        training.prior,
        parts.directions,
        parts.direction_units,
        parts.lexical_units,
        parts.prior_units,
    )
    return parts.blend.quality(reading.features(asks_in(rows)))


@pytest.fixture(scope="module")
def plain() -> Trained:
    return trained(planted())


@pytest.fixture(scope="module")
def new() -> tuple[Rows, np.ndarray]:
    """Rows that no training has seen, and who is better at each."""
    return planted(80, seed=7), prompts(80, seed=7)[1]


# ------------------------------------------------------------------------------- what is learned


def test_a_planted_rule_is_learned(plain: Trained, new: tuple[Rows, np.ndarray]) -> None:
    rows, better = new
    assert (choices(plain, rows) == better).mean() > 0.95
    told = quality(plain, rows)
    assert told[better == SUMS, SUMS].mean() == pytest.approx(0.85, abs=0.12)
    assert told[better == WORDS, SUMS].mean() == pytest.approx(0.1, abs=0.12)


def test_the_reference_rows_are_the_folds(plain: Trained) -> None:
    rows = planted()
    assert plain.card.reference == "folds"
    assert plain.parts.reference.predicted.shape == (160, 2)
    assert (plain.parts.reference.actual == rows.scores).all()
    right = chosen(plain.parts.reference.predicted, np.array([2.0, 8.0]), 0.0)
    assert (right == prompts(160)[1]).mean() > 0.9


def test_a_card_says_what_it_is(plain: Trained) -> None:
    card, metrics = plain.card, plain.card.metrics
    assert card.experts == EXPERTS
    assert card.source == "clusters"
    assert card.embedding is not None
    assert (card.embedding.name, card.embedding.local) == ("hashed words", True)
    assert card.prior is None
    assert card.data["rows"] == 160
    assert sum(category.share for category in card.categories) == pytest.approx(1)
    assert {one.unit for one in card.maps} == {"params_b", "share"}
    assert metrics["category_accuracy"] > 0.8
    assert metrics["experts"]["sums"]["squared_error"] < 0.15
    assert metrics["experts"]["sums"]["squared_error_of_the_mean"] == pytest.approx(0.25, abs=0.01)
    assert 0 < metrics["abstained"] < 0.06
    best = max(one.quality for one in card.maps)
    assert best > 0.85, "categories tell sums from words"


def test_a_frontier_lies_between_its_bounds(plain: Trained) -> None:
    curve = plain.card.metrics["frontier"]
    assert curve["unit"] == "share"
    assert curve["rows"] == 160
    assert [point["cost"] for point in curve["points"]] == pytest.approx(
        np.linspace(0, 1, 11).tolist()
    )
    middle = curve["points"][5]
    assert middle["lots"] + 0.2 < middle["score"] <= middle["oracle"]
    assert middle["low"] <= middle["score"] <= middle["high"]
    assert curve["points"][0]["score"] == pytest.approx(planted().scores[:, SUMS].mean())


def test_tasks_are_the_categories() -> None:
    found = trained(planted(100, tasks=True))
    assert found.card.source == "task"
    assert [category.name for category in found.card.categories] == ["sums", "words"]
    whole = next(one for one in found.card.maps[::-1] if one.unit == "params_b")
    assert whole.experts == (SUMS, WORDS)
    assert found.card.metrics["category_accuracy"] > 0.95


def test_one_task_is_none() -> None:
    rows = planted(100)
    assert trained(replace(rows, tasks=("all",) * 100)).card.source == "clusters"


# --------------------------------------------------------------------------------- what it takes


def test_scores_of_a_log_are_enough(new: tuple[Rows, np.ndarray]) -> None:
    """One expert's score a row, whoever it was."""
    rows = planted(300)
    scores = rows.scores.copy()
    drawn = np.random.default_rng(5).integers(0, 2, 300)
    scores[np.arange(300), 1 - drawn] = np.nan
    found = trained(replace(rows, scores=scores))
    assert (choices(found, new[0]) == new[1]).mean() > 0.9
    assert np.isnan(found.parts.reference.actual).sum() == 300
    assert found.card.metrics["frontier"] is None, "no row knows both"
    assert found.card.metrics["experts"]["sums"]["squared_error"] < 0.2


def test_without_an_embedder_the_form_is_enough(new: tuple[Rows, np.ndarray]) -> None:
    found = trained(planted(100), LEXICAL)
    assert found.card.embedding is None
    assert found.parts.familiar.points.size == 0
    assert (choices(found, new[0], LEXICAL) == new[1]).mean() > 0.95


def test_an_embedder_is_left_alone_where_only_the_form_is_looked_at() -> None:
    found = trained(planted(100), replace(LEXICAL, embedder=Hashing()))
    assert found.card.embedding is None


def test_rows_that_were_held_back_are_the_reference() -> None:
    held = planted(60, seed=3)
    turned = replace(held.of(["words", "sums"]), models=("words", "sums"))
    found = trained(planted(100), replace(TRAINING, held=turned))
    assert found.card.reference == "rows"
    assert (found.parts.reference.actual == held.scores).all(), "columns in the rows' order"
    assert found.parts.reference.predicted == pytest.approx(quality(found, held), abs=1e-5)
    assert found.card.metrics["frontier"]["rows"] == 60


def test_held_rows_must_know_the_experts() -> None:
    held = replace(planted(60, seed=3), models=("sums", "others"))
    with pytest.raises(RowsError, match="no model words"):
        trained(planted(100), replace(TRAINING, held=held))


def test_memory_limits_who_is_used() -> None:
    experts = tuple(replace(expert, memory_gb=30.0) for expert in EXPERTS)
    found = trained(planted(100), replace(TRAINING, experts=experts, resident_gb=40.0))
    assert len(found.card.resident) == 1
    (only,) = found.card.resident
    assert found.card.strong == only, "the fallback is in memory too"
    assert {expert for one in found.card.maps for expert in one.experts} == {only}
    assert found.card.metrics["frontier"] is None, "there is no choice"


def test_conversations_are_read_as_they_are_served() -> None:
    """The last turn is routed on, with what stood before it as a size."""
    rows = planted(100)
    said: list[Any] = [
        (
            {"role": "system", "content": "x" * 500},
            {"role": "user", "content": "earlier"},
            {"role": "assistant", "content": "answered"},
            {"role": "user", "content": f"<system-reminder>no</system-reminder>{prompt}"},
        )
        for prompt in rows.prompts
    ]
    asks = asks_in(replace(rows, messages=tuple(said)))
    assert [ask.text for ask in asks] == list(rows.prompts)
    assert (asks[0].system, asks[0].turns) == (500, 2)
    some = asks_in(replace(rows, messages=(said[0], *[None] * 99)))
    assert (some[0].turns, some[1].turns) == (2, 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows.at(range(49)), "49 different prompts are too few"),
        (lambda rows: rows.at([0, 1] * 40), "2 different prompts are too few"),
        (lambda rows: rows.of(["words"]), "nothing to choose: the rows hold words only"),
        (lambda rows: unknown(rows, 30), "30 known scores of sums are too few: 50 at least"),
        (lambda rows: unknown(rows, 0), "0 known scores of sums are too few"),
    ],
)
def test_rows_that_teach_nothing_are_refused(change: Callable[[Rows], Rows], said: str) -> None:
    with pytest.raises(RowsError, match=said):
        trained(change(planted(100)))


def unknown(rows: Rows, known: int) -> Rows:
    scores = rows.scores.copy()
    scores[known:, SUMS] = np.nan
    return replace(rows, scores=scores)


# ---------------------------------------------------------------------------------- the progress


@pytest.mark.parametrize("training", [TRAINING, LEXICAL, Training(EXPERTS, QUICK)])
def test_every_step_is_told(training: Training) -> None:
    told: list[str] = []
    train(planted(60), training, told.append)
    assert len(told) == steps(training)
    assert (told[0], told[-1]) == ("embedding", "maps")


def test_every_embedding_is_told() -> None:
    counts: list[int] = []
    trained(planted(60), replace(TRAINING, held=planted(30, seed=2), embedded=counts.append))
    assert sum(counts) == 90


# ---------------------------------------------------------------------------------- the artifact


def test_the_same_seed_gives_the_same_artifact(tmp_path: Path) -> None:
    for name in ("one", "other"):
        found = trained(planted(80))
        write_artifact(tmp_path / name, replace(found.card, created=""), found.parts)
    for file in ("experts.json", "experts.safetensors", "grams.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
    changed = trained(planted(80), replace(TRAINING, recipe=replace(QUICK, seed=1)))
    assert (changed.parts.reference.predicted != found.parts.reference.predicted).any()


def test_an_artifact_is_plain_files(plain: Trained, tmp_path: Path) -> None:
    """JSON, and tensors behind a JSON header: reading them runs nothing."""
    write_artifact(tmp_path, plain.card, plain.parts)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    tensors = files.pop("experts.safetensors")
    size = int.from_bytes(tensors[:8], "little")
    header = json.loads(tensors[8 : 8 + size])
    ends = [each["data_offsets"][1] for each in header.values()]
    assert 8 + size + max(ends) == len(tensors), "nothing else is in there"
    assert set(files) == {"experts.json", "grams.json"}
    for content in files.values():
        json.loads(content, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_an_artifact_knows_what_it_was_trained_on(plain: Trained, tmp_path: Path) -> None:
    write_artifact(tmp_path, plain.card, plain.parts)
    read = read_artifact(tmp_path)
    rows = planted()
    assert read.parts.prompts.tolist() == np.unique(hashed(rows.prompts)).tolist()
    strangers = [f"never seen {number}" for number in range(5)]
    assert trained_on(read, [*strangers, rows.prompts[3].upper(), rows.prompts[4]]) == 2


def test_rows_held_back_are_known_too(tmp_path: Path) -> None:
    held = planted(60, seed=3)
    found = trained(planted(80), replace(TRAINING, held=held))
    write_artifact(tmp_path, found.card, found.parts)
    assert trained_on(read_artifact(tmp_path), held.prompts) == 60


# ------------------------------------------------------------------------------------- the prior


@pytest.fixture(scope="module")
def real_prior() -> Prior:
    return shipped()


def test_a_prior_is_a_feature_of_the_artifact(real_prior: Prior, tmp_path: Path) -> None:
    prior = real_prior.of(["crux"])
    found = trained(planted(60), replace(TRAINING, embedder=minilm(), prior=prior))
    assert found.card.prior is not None
    assert found.card.prior.groups == ("crux",)
    assert found.parts.prior_units is not None
    assert len(found.parts.prior_units.centre) == len(prior.groups[0].models)
    write_artifact(tmp_path, found.card, found.parts)
    assert trained_on(read_artifact(tmp_path), ["nothing that it knows"]) == 0


def test_without_an_embedder_there_is_no_prior(real_prior: Prior) -> None:
    found = trained(planted(60), replace(LEXICAL, prior=real_prior))
    assert found.card.prior is None
    assert found.parts.prior_units is None

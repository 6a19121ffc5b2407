"""Making a prior: what is written is what was fitted, and the one that ships is of its sources."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from policies.composition.embedder import minilm
from policies.composition.prior import Prior, hashed, read_prior, shipped
from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.rows import read_rows
from policies.training.prior import write_prior
from tests.policies.training.experts.planted import Hashing, planted, prompts

DATA = Path(__file__).parents[4] / "shared/data/outcomes"
shared = pytest.mark.skipif(not DATA.exists(), reason=f"there are no shared outcomes in {DATA}")


@pytest.fixture
def prior(tmp_path: Path) -> Prior:
    rows = planted(120)
    scores = rows.scores.copy()
    scores[100:, 0] = np.nan
    groups = {"whole": rows, "part": replace(rows, scores=scores, models=("a", "b"))}
    write_prior(groups, Hashing(), tmp_path / "made")
    return read_prior(tmp_path / "made")


def test_what_is_read_is_what_was_fitted(prior: Prior) -> None:
    assert prior.embedder == Hashing().fingerprint
    assert prior.names == ("whole", "part")
    assert [group.models for group in prior.groups] == [("sums", "words"), ("a", "b")]
    texts, kinds = prompts(60, seed=5)
    told = prior(Hashing().embed(texts))
    assert told.shape == (60, 4)
    assert told.dtype == np.float32
    assert (told[:, :2].argmax(axis=1) == kinds).mean() > 0.95


def test_rows_that_do_not_know_every_score_are_left_out(prior: Prior) -> None:
    rows = planted(120)
    whole, part = prior.groups
    assert whole.prompts.tolist() == hashed(rows.prompts).tolist()
    assert part.prompts.tolist() == hashed(rows.prompts[:100]).tolist()
    assert prior.strangers(rows.prompts[110:]) == ("part",)
    assert prior.strangers(["never seen"]) == ("whole", "part")
    assert prior.known([*rows.prompts[90:], "never seen"]) == 30


def test_a_source_without_a_complete_row_is_refused(tmp_path: Path) -> None:
    rows = planted(60)
    scores = rows.scores.copy()
    scores[::2, 0] = scores[1::2, 1] = np.nan
    with pytest.raises(RowsError, match="public: no row holds a score of every one of sums, words"):
        write_prior({"public": replace(rows, scores=scores)}, Hashing(), tmp_path)


def test_embeddings_are_told(tmp_path: Path) -> None:
    counts: list[int] = []
    write_prior({"one": planted(60)}, Hashing(), tmp_path, counts.append)
    assert sum(counts) == 60


def test_the_same_rows_give_the_same_prior(tmp_path: Path, prior: Prior) -> None:
    write_prior({"whole": planted(120)}, Hashing(), tmp_path / "again")
    again = read_prior(tmp_path / "again")
    assert (again.groups[0].dual == prior.groups[0].dual).all()


# ------------------------------------------------------------------------------ the one that ships


def test_the_one_that_ships_reads_the_embedder_that_ships() -> None:
    assert shipped().embedder == minilm().fingerprint


@shared
@pytest.mark.parametrize(
    ("group", "file"),
    [
        ("mmlu_pro", "mmlu_pro"),
        ("mixed", "mixed_train"),
        ("crux", "zeroeval_crux"),
        ("math", "zeroeval_math-l5"),
    ],
)
def test_the_one_that_ships_is_of_these_rows_alone(group: str, file: str) -> None:
    """So that a training on them leaves the group out."""
    rows = read_rows([DATA / f"{file}.parquet"]).complete()
    one = shipped().of([group]).groups[0]
    assert one.models == rows.models
    assert sorted(one.prompts.tolist()) == sorted(hashed(rows.prompts).tolist())
    card = json.loads((Path(__file__).parents[3] / "deploy/prior/prior.json").read_text())
    told = next(each for each in card["groups"] if each["name"] == group)
    assert told["rows"] == len(rows)


@shared
def test_the_one_that_ships_foretells_what_it_was_fitted_to() -> None:
    rows = read_rows([DATA / "zeroeval_crux.parquet"]).complete().at(range(0, 800, 32))
    told = shipped().of(["crux"])(minilm().embed(rows.prompts))
    hard = rows.scores.mean(axis=1)
    assert np.corrcoef(told.mean(axis=1), hard)[0, 1] > 0.3

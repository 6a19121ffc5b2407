"""The prior: what other models' answers say, from groups that know none of a training's prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from policies.composition.embedder import minilm
from policies.composition.prior import Prior, hashed, read_prior, shipped
from policies.training.outcomes.rows import Rows
from policies.training.prior import write_prior
from tests.policies.composition.make_artifacts import Letters, prompts, rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior of two groups: one of the made-up prompts, one of the same with another beginning."""
    made = tmp_path_factory.mktemp("prior")
    known = rows()
    others = tuple(f"Please! {prompt}" for prompt in known.prompts)
    other = Rows(others, known.models, known.scores)
    write_prior({"first": known, "second": other}, Letters(), made, lambda _: None)
    return made


@pytest.fixture
def prior(folder: Path) -> Prior:
    return read_prior(folder)


def test_what_was_written_is_read(prior: Prior, folder: Path) -> None:
    assert prior.names == ("first", "second")
    assert prior.embedder == Letters.fingerprint
    assert read_prior(folder).fingerprint == prior.fingerprint
    assert [group.models for group in prior.groups] == [("small", "large", "other")] * 2


def test_it_expects_what_it_learned(prior: Prior) -> None:
    expected = prior(Letters().embed(rows().prompts))
    assert expected.shape == (len(rows()), 6)
    assert expected.dtype == np.float32
    apart = np.abs(expected[:, :3] - rows().scores).mean()
    mean = np.abs(rows().scores.mean(axis=0) - rows().scores).mean()
    assert apart < 0.7 * mean


def test_only_some_groups_may_be_asked(prior: Prior) -> None:
    embedding = Letters().embed(["What is 3 + 4?"])
    part = prior.of(["second"])
    assert part.fingerprint == prior.fingerprint
    np.testing.assert_allclose(part(embedding), prior(embedding)[:, 3:], atol=1e-6)
    with pytest.raises(KeyError, match="third"):
        prior.of(["third"])


def test_a_group_that_knows_a_prompt_is_no_stranger(prior: Prior) -> None:
    told = prompts()["sums"][0]
    assert prior.strangers(["Never seen", "Nor this"]) == ("first", "second")
    assert prior.strangers(["Never seen", told]) == ("second",)
    assert prior.strangers([told, f"Please! {told}"]) == ()
    assert prior.strangers([]) == ("first", "second")
    assert prior.known([told, f"Please! {told}", "Never seen"]) == 2


def test_spaces_and_case_make_no_other_prompt() -> None:
    assert hashed(["What  is\nTHIS? "]) == hashed(["what is this?"])
    assert len(set(hashed(["a", "b", "ab", "a b", "\ud800", ""]).tolist())) == 6
    assert hashed([]).dtype == np.uint64


def test_the_shipped_one_is_of_the_shipped_embedder() -> None:
    prior = shipped()
    assert prior.embedder == minilm().fingerprint
    expected = prior(minilm().embed(["What is 3 + 4?", "Prove that pi is irrational."]))
    assert np.isfinite(expected).all()
    assert expected.shape[1] == sum(len(group.models) for group in prior.groups)

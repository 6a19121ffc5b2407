"""Training on a problem that is easy to solve, where torch is installed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from policies.gate.network import Inputs, score
from policies.training.token_gate.arrays import Floats
from policies.training.token_gate.dataset import Examples
from policies.training.token_gate.recipe import Fitted, Recipe
from policies.training.token_gate.threshold import auc

torch = pytest.importorskip("torch")

TOKENS, HIDDEN, TOP, VOCABULARY, EMBEDDING = 3000, 6, 10, 20, 5
RECIPE = Recipe(width=16, blocks=1, epochs=20, batch=128)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def embedding() -> Floats:
    return np.random.default_rng(1).normal(3, 2, (VOCABULARY, EMBEDDING)).astype(np.float32)


@pytest.fixture(scope="module")
def examples() -> Examples:
    """A token is divergent if the best two logits are close and one hidden number is large."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(5, 3, (TOKENS, HIDDEN)).astype(np.float16)
    logits = np.sort(rng.normal(0, 10, (TOKENS, TOP)).astype(np.float32))[:, ::-1].copy()
    divergent = (logits[:, 0] - logits[:, 1] < 4) & (hidden[:, 2] > 7)
    return Examples(
        hidden=hidden,
        logits=logits,
        predicted=rng.integers(0, VOCABULARY, TOKENS),
        divergent=divergent,
        differs=divergent,
        held=rng.random(TOKENS) < 0.3,
        hash="",
    )


@pytest.fixture(scope="module")
def fitted(examples: Examples, embedding: Floats) -> Fitted:
    from policies.training.token_gate.fit import fit

    return fit(examples, embedding, RECIPE)


def test_it_finds_what_there_is_to_find(fitted: Fitted, examples: Examples) -> None:
    assert 0.05 < examples.divergent.mean() < 0.3
    assert auc(fitted.scores[examples.held], examples.divergent[examples.held]) > 0.95
    assert fitted.losses[0] > min(fitted.losses)


def test_the_gates_own_network_gives_the_same_scores(
    fitted: Fitted, examples: Examples, embedding: Floats
) -> None:
    """So names, order and activation agree, and the standardisation is in the weights."""
    assert examples.hidden is not None
    inputs = Inputs(
        examples.hidden.astype(np.float32), embedding[examples.predicted], examples.logits
    )
    assert np.allclose(score(np, fitted.weights, inputs), fitted.scores, atol=1e-4)


def test_the_same_seed_gives_the_same_gate(
    fitted: Fitted, examples: Examples, embedding: Floats
) -> None:
    from policies.training.token_gate.fit import fit

    again = fit(examples, embedding, RECIPE)
    assert again.losses == fitted.losses


def test_a_wider_gate_learns_more_slowly() -> None:
    assert Recipe(width=1024).learning_rate == pytest.approx(5e-5)
    assert Recipe(width=64).learning_rate == pytest.approx(8e-4)
    assert Recipe(width=64, rate=1e-3).learning_rate == 1e-3

"""The accounting, held against the cost identities that the policies' papers publish.

Each paper's figure is reproduced from attempts, not from the formula alone: if these sums are
wrong, every saving that Tandem reports is wrong.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cost import active_params, baseline, cost, delivered, priced, saved
from router.fleet import Price
from router.observe import AttemptEnded
from router.steps import Usage


def attempt(
    model: str, prompt: int, completion: int, *, answer: bool = True, cached: int = 0
) -> AttemptEnded:
    usage = Usage(prompt, completion, cached)
    return AttemptEnded(model, f"{model}:80", None, 1.0, 0.1, usage, answer)


def silent(model: str) -> AttemptEnded:
    """An attempt whose backend did not report its usage."""
    return AttemptEnded(model, f"{model}:80", None, 1.0, 0.1, None, True)


def test_cost_is_quoted_per_million_tokens() -> None:
    assert cost(Usage(2_000_000, 500_000), Price(input=0.3, output=1.2)) == pytest.approx(1.2)


def test_cached_prompt_tokens_cost_the_full_input_price() -> None:
    price = Price(input=1.0, output=1.0)
    assert cost(Usage(100, 10, cached=90), price) == cost(Usage(100, 10), price)


def test_spent_includes_drafts_grades_and_lost_hedges() -> None:
    prices = {"small": Price(1.0, 2.0), "large": Price(10.0, 20.0)}
    attempts = (
        attempt("small", 100, 50, answer=False),  # the draft that was thrown away
        attempt("small", 150, 1, answer=False),  # its grade
        attempt("large", 100, 80),
        silent("large"),
    )
    spent = 100 * 1 + 50 * 2 + 150 * 1 + 1 * 2 + 100 * 10 + 80 * 20
    assert priced(attempts, prices) == pytest.approx(spent * 1e-6)


def test_a_model_without_a_price_is_an_error_not_a_free_answer() -> None:
    with pytest.raises(KeyError, match="large"):
        priced([attempt("large", 1, 1)], {})


def test_the_baseline_reads_the_prompt_once_however_often_it_was_handed_over() -> None:
    attempts = (
        attempt("small", 100, 40, cached=64),
        attempt("large", 140, 1),
        attempt("small", 141, 30),
        attempt("large", 100, 9, answer=False),
    )
    assert delivered(attempts) == Usage(prompt=100, completion=71, cached=64)
    assert baseline(attempts, Price(10.0, 20.0)) == pytest.approx((1000 + 71 * 20) * 1e-6)


def test_an_answer_without_usage_has_no_baseline_and_saves_nothing() -> None:
    assert baseline([silent("large")], Price(10.0, 20.0)) == 0.0
    assert saved(0.0, 0.0) == 0.0


def test_a_policy_may_cost_more_than_it_spares() -> None:
    assert saved(spent=3.0, baseline=2.0) == -0.5


@pytest.mark.parametrize(
    ("small_b", "large_b", "large_share", "published"),
    [(3, 11, 0.43, 0.415), (1.5, 14, 0.25, 0.67)],
    ids=["llama-3b-11b", "qwen-1.5b-14b"],
)
def test_entropy_adaptive_switching_saves_what_its_paper_says(
    small_b: float, large_b: float, large_share: float, published: float
) -> None:
    """arXiv 2502.06833: saved = (1 - f)(1 - P_small / P_large), priced by parameters."""
    tokens = 1000
    from_large = round(large_share * tokens)
    attempts = (attempt("small", 0, tokens - from_large), attempt("large", 0, from_large))
    prices = {"small": Price(output=small_b), "large": Price(output=large_b)}

    share = saved(priced(attempts, prices), baseline(attempts, prices["large"]))

    assert share == pytest.approx((1 - large_share) * (1 - small_b / large_b))
    assert share == pytest.approx(published, abs=0.005)


def test_small_large_token_routing_activates_what_its_paper_says() -> None:
    """arXiv 2505.21600: 1.5B + 32B at 5.6B per token, with 11-15 % of tokens from the large one.

    The small model takes every step, also those whose token the large one then replaces.
    """
    attempts = (
        attempt("small", 0, 872),
        attempt("small", 0, 128, answer=False),
        attempt("large", 0, 128),
    )
    assert active_params(attempts, {"small": 1.5, "large": 32}) == pytest.approx(5.6, abs=0.01)


def test_active_params_of_nothing_is_zero() -> None:
    assert active_params([silent("small")], {"small": 1.5}) == 0.0


@pytest.mark.parametrize("accepted", [0.0, 0.3, 1.0])
def test_a_cascade_pays_for_every_draft_and_for_the_large_model_when_it_is_refused(
    accepted: float,
) -> None:
    """spent = small + (1 - accepted) x large, over many requests with the same lengths."""
    prices = {"small": Price(1.0, 1.0), "large": Price(10.0, 10.0)}
    kept = [attempt("small", 60, 40)]
    refused = [attempt("small", 60, 40, answer=False), attempt("large", 60, 40)]
    n, n_kept = 100, round(100 * accepted)
    spent = n_kept * priced(kept, prices) + (n - n_kept) * priced(refused, prices)
    small, large = 100 * 1e-6, 1000 * 1e-6
    assert spent / n == pytest.approx(small + (1 - accepted) * large)


def test_self_route_reads_the_long_context_only_when_the_chunks_did_not_answer() -> None:
    """arXiv 2407.16833: tokens = tokens_RAG + (1 - answerable) x tokens_LC."""
    rag, long, answerable = 3_000, 100_000, 0.65
    price = {"model": Price(input=1.0)}
    answered = [attempt("model", rag, 0)]
    asked_again = [attempt("model", rag, 0, answer=False), attempt("model", long, 0)]
    mean = answerable * priced(answered, price) + (1 - answerable) * priced(asked_again, price)
    assert mean * 1e6 == pytest.approx(rag + (1 - answerable) * long)


def test_experts_cost_the_mean_of_the_experts_over_the_categories() -> None:
    """arXiv 2412.01868: sum over categories of w_c x P[m(c)], here as active parameters."""
    shares = {"code": 0.5, "maths": 0.3, "chat": 0.2}
    params_b = {"code": 7.0, "maths": 27.0, "chat": 9.0}
    attempts = [attempt(expert, 0, round(1000 * share)) for expert, share in shares.items()]
    expected = sum(shares[c] * params_b[c] for c in shares)
    assert active_params(attempts, params_b) == pytest.approx(expected)


tokens = st.integers(0, 1_000_000)
usages = st.builds(Usage, tokens, tokens, tokens)
rates = st.floats(0, 1000)
rated = st.builds(Price, rates, rates)


@given(usages, usages, rated)
def test_cost_is_additive(one: Usage, other: Usage, price: Price) -> None:
    assert cost(one + other, price) == pytest.approx(cost(one, price) + cost(other, price))


@given(st.lists(st.tuples(tokens, tokens, st.booleans()), max_size=6), rated)
def test_one_model_alone_never_costs_less_than_its_own_baseline(
    rows: list[tuple[int, int, bool]], price: Price
) -> None:
    attempts = [attempt("only", p, c, answer=a) for p, c, a in rows]
    spent = priced(attempts, {"only": price})
    assert spent >= baseline(attempts, price) - 1e-9

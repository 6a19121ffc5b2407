"""Idealised runtimes: what an answer takes alone, and that money says the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cost import cost
from router.fleet import Price
from router.idealised import Ideal, Idealised, together
from router.ledger import Ledger, Tally
from router.outgoing import outgoing
from router.pool import Pool
from router.sections import BreakerConfig, ModelConfig
from router.steps import Open, Usage
from tests.fleets import request

USED = Usage(100, 10)
ALONE = Idealised(call=0.5, prefill=0.001, decode=0.02, context=0.0001)
tokens = st.integers(0, 100_000)
times = st.floats(0, 10, allow_subnormal=False)
models = st.builds(
    Idealised,
    call=times,
    prefill=times,
    decode=times,
    context=times,
    accelerators=st.integers(1, 64),
    usd_per_hour=st.floats(0, 1000, allow_subnormal=False),
)
usages = st.builds(Usage, prompt=st.integers(1, 100_000), completion=tokens)


def test_a_call_a_prompt_an_answer_and_what_stands_before_each_of_its_tokens() -> None:
    seconds = ALONE.seconds(Usage(prompt=100, completion=3))
    before = 100 + 101 + 102
    assert seconds == pytest.approx(0.5 + 100 * 0.001 + 3 * 0.02 + before * 0.0001)


def test_what_it_goes_on_from_is_not_read_again_but_stands_before() -> None:
    whole, goes_on = Usage(100, 10), ALONE.seconds(Usage(100, 10), held=90)
    assert goes_on == pytest.approx(ALONE.seconds(whole) - 90 * 0.001)


def test_hits_of_a_prefix_cache_depend_on_others_and_do_not_count() -> None:
    assert ALONE.seconds(Usage(100, 10, cached=96)) == ALONE.seconds(Usage(100, 10))


@given(models, st.integers(0, 10_000), st.integers(1, 500), st.integers(1, 8))
def test_choices_come_one_after_another_and_the_prompt_once(
    alone: Idealised, prompt: int, each: int, choices: int
) -> None:
    one = alone.seconds(Usage(prompt, each))
    several = alone.seconds(Usage(prompt, each * choices), choices=choices)
    again = alone.call + alone.prefill * prompt
    assert several == pytest.approx(one + (choices - 1) * (one - again), rel=1e-9, abs=1e-9)


@given(models, usages, tokens, st.integers(1, 8))
def test_a_price_that_follows_from_it_is_the_same_money(
    alone: Idealised, usage: Usage, held: int, choices: int
) -> None:
    price = alone.price
    assert price is not None
    ideal = alone.ideal(usage, held, choices)
    assert ideal.accelerator_seconds == pytest.approx(ideal.seconds * alone.accelerators)
    assert cost(usage, price, held, choices) == pytest.approx(ideal.usd, rel=1e-9, abs=1e-12)


@given(models, usages, st.integers(1, 10_000))
def test_more_tokens_never_take_less(alone: Idealised, usage: Usage, more: int) -> None:
    longer = replace(usage, completion=usage.completion + more)
    assert alone.seconds(longer) >= alone.seconds(usage)
    assert alone.seconds(replace(usage, prompt=usage.prompt + more)) >= alone.seconds(usage)


def test_without_the_price_of_an_hour_there_is_time_and_no_money() -> None:
    assert ALONE.price is None
    assert ALONE.ideal(Usage(1, 1)).usd is None


def test_attempts_come_one_after_another() -> None:
    assert together([Ideal(1.0, 2.0, 0.25), Ideal(0.5, 0.5, 0.5)]) == Ideal(1.5, 2.5, 0.75)
    assert together([Ideal(1.0, 2.0, 0.1), Ideal(0.5, 0.5)]) == Ideal(1.5, 2.5)
    assert together([Ideal(1.0, 2.0), None]) is None, "a part would look like the whole"
    assert together([]) is None


# --------------------------------------------------------------------------------- in the ledger


def tally(idealised: Idealised | None, usage: Usage | None = USED) -> Tally:
    told = Tally("m", "m:1", 1.0, Price(), 400, usage=usage)
    told.idealised = idealised
    return told


def ended(*tallies: Tally) -> Ideal | None:
    return Ledger(request(), "auto", 1, None, 0.0, Price(), tallies=[*tallies]).ended(9.0).ideal


def test_a_request_is_the_sum_of_its_attempts() -> None:
    goes_on = tally(ALONE)
    goes_on.held = 60
    found = ended(tally(ALONE), goes_on, tally(ALONE, None))
    assert found is not None
    assert found.seconds == pytest.approx(2 * ALONE.seconds(Usage(100, 10)) - 60 * 0.001)


def test_a_request_that_asked_a_model_of_which_nothing_is_known_has_none() -> None:
    assert ended(tally(ALONE), tally(None)) is None


def test_how_many_choices_are_asked_for_is_what_the_backend_is_sent() -> None:
    pool = Pool("small", settings(), BreakerConfig())
    asked = {"model": "small", "messages": [], "n": 3}
    assert outgoing(Open("small", request(body=asked)), pool).choices == 3
    assert outgoing(Open("small", request(body=asked), {"n": 5}), pool).choices == 5
    for odd in (None, 0, -1, "4"):
        assert outgoing(Open("small", request(body={**asked, "n": odd})), pool).choices == 1


# ------------------------------------------------------------------------------ in a configuration


def settings(**more: object) -> ModelConfig:
    return ModelConfig.model_validate({"backends": ("http://a:1",), **more})


TIMED = {"idealised": {"call": 0.02, "prefill": 1e-4, "decode": 0.02}, "accelerators": 2}


def test_a_price_that_was_written_is_what_counts() -> None:
    written = settings(**TIMED, usd_per_hour=3.6, price={"input": 1.0, "call": 0.5})
    assert written.charge == Price(1.0, 0.0, 0.5)
    assert settings(**TIMED, usd_per_hour=3.6, price={}).charge == Price()


def test_without_one_it_follows_and_the_call_is_not_lost() -> None:
    charge = settings(**TIMED, usd_per_hour=3.6).charge
    a_second = 2 * 3.6 / 3600
    assert charge.input == pytest.approx(1e6 * 1e-4 * a_second)
    assert charge.output == pytest.approx(1e6 * 0.02 * a_second)
    assert charge.call == pytest.approx(0.02 * a_second)


def test_without_the_price_of_an_hour_it_costs_nothing_as_before() -> None:
    assert settings(**TIMED).charge == Price()
    assert settings().alone is None


def test_a_call_without_any_token_costs_nothing() -> None:
    assert cost(Usage(), Price(1.0, 1.0, call=0.5)) == 0.0

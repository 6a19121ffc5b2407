"""What two models' answers cost: the papers' identities, on answers that were really played."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as limited
from hypothesis import strategies as st

from policies.entropy import Entropy
from policies.token_gate import TokenGate
from router.cost import active_params, delivered
from router.observe import AttemptEnded
from router.steps import Usage
from tests.fleets import request
from tests.policies.duet.play import Play, able
from tests.policies.duet.world import PROMPT, World

PARAMS = {"small": 3.0, "large": 11.0}
seeds = st.integers(0, 2**32)


def played(policy: Entropy | TokenGate, seed: int) -> Play:
    asked = request(body={"messages": [], "stream": True})
    return Play(World(seed), policy, asked, able(), random.Random(seed)).run()


def without_gate_steps(attempts: list[AttemptEnded]) -> list[AttemptEnded]:
    """The same, as if looking at a token and not writing it had cost nothing."""
    kept = [one for one in attempts if one.usage is not None]
    return [replace(one, usage=Usage(0, one.written)) for one in kept]


def share(play: Play) -> float:
    """The large model's part of the answer's tokens."""
    return play.writers[0].count("large") / len(play.writers[0])


@limited(max_examples=30)
@given(seeds, st.sampled_from((0.5, 1.0, 1.3)))
def test_ead_saves_what_its_identity_says(seed: int, threshold: float) -> None:
    """saved = (1 - f)(1 - P_small/P_large), arXiv 2502.06833, in tokens that are written."""
    play = played(Entropy("small", "large", threshold=threshold, window=2, dwell=2), seed)
    saved = 1 - active_params(without_gate_steps(play.attempts), PARAMS) / PARAMS["large"]
    identity = (1 - share(play)) * (1 - PARAMS["small"] / PARAMS["large"])
    assert saved == pytest.approx(identity, abs=1e-12)


@pytest.mark.parametrize(
    ("small", "large", "by_large", "saved"), [(3, 11, 0.43, 0.415), (1.5, 14, 0.25, 0.67)]
)
def test_the_identity_gives_the_published_savings(
    small: float, large: float, by_large: float, saved: float
) -> None:
    attempts = [
        AttemptEnded(model, "a:1", None, 1.0, 0.1, Usage(0, count), answer=True)
        for model, count in (
            ("small", round(1e3 - 1e3 * by_large)),
            ("large", round(1e3 * by_large)),
        )
    ]
    params = {"small": small, "large": large}
    assert 1 - active_params(attempts, params) / large == pytest.approx(saved, abs=2e-3)


@limited(max_examples=30)
@given(seeds, st.sampled_from((0.3, 0.7, 0.9)))
def test_r2r_averages_over_all_steps_of_the_small_model(seed: int, threshold: float) -> None:
    """(P_small x small steps + P_large x large tokens) / tokens, arXiv 2505.21600: a token that
    the gate hands over was a step of the small model, too.
    """
    play = played(TokenGate("small", "large", artifact="g", threshold=threshold), seed)
    written = play.writers[0]
    firings = sum(call.said.stop_reason == 1 and call.state == "complete" for call in play.calls)
    steps = written.count("small") + firings
    average = (PARAMS["small"] * steps + PARAMS["large"] * written.count("large")) / len(written)
    assert active_params(play.attempts, PARAMS) == pytest.approx(average, abs=1e-12)


@limited(max_examples=30)
@given(seeds)
def test_dropped_branches_are_paid_for(seed: int) -> None:
    gate = TokenGate("small", "large", artifact="g", threshold=0.6)
    plain, hopeful = (played(replace(gate, optimistic=hope), seed) for hope in (False, True))
    computed = [sum(call.told for call in play.calls) for play in (plain, hopeful)]
    more = PARAMS["small"] * (computed[1] - computed[0]) / len(plain.ids[0])
    assert more >= 0
    expected = active_params(plain.attempts, PARAMS) + more
    assert active_params(hopeful.attempts, PARAMS) == pytest.approx(expected, abs=1e-12)


@limited(max_examples=30)
@given(seeds)
def test_the_client_is_told_its_prompt_once_and_every_token(seed: int) -> None:
    play = played(TokenGate("small", "large", artifact="g", threshold=0.6, optimistic=True), seed)
    assert delivered(play.attempts) == Usage(len(PROMPT), len(play.ids[0]))


@limited(max_examples=30)
@given(seeds)
def test_no_prompt_token_is_charged_twice_to_a_backend_that_holds_it(seed: int) -> None:
    """Each model reads the prompt and the answer once, however often it is handed over to."""
    play = played(TokenGate("small", "large", artifact="g", threshold=0.6), seed)
    whole = len(PROMPT) + len(play.ids[0])
    for model in PARAMS:
        read = sum(one.charged.prompt for one in play.attempts if one.model == model)
        assert read <= whole

"""Whatever the chunks, the order and the failures: the answer is what a plain loop composes."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import event, example, given
from hypothesis import settings as limited
from hypothesis import strategies as st

from policies.entropy import Entropy
from policies.token_gate import SEEDS, TokenGate
from router.steps import Failed, Finished
from tests.fleets import request
from tests.policies.duet.composed import Composed, Setting, cut, ead, gated, text_of
from tests.policies.duet.play import Play, able
from tests.policies.duet.world import World, shown

Policy = Entropy | TokenGate
PAIR: dict[str, Any] = {"small": "small", "large": "large"}
EXACT = (0.0, 0.5, 1.0, 1.25, 2.0)
"""Bits that the mean of a few of the worlds' entropies often is: ties."""
BETWEEN = (0.13, 0.61, 1.07, 1.71)
"""Bits that no such mean is: an estimate is right but for its last digits."""
STRINGS = ("a", "b c", "é", "ab", "🚲", " ", "ca", "cab")


@st.composite
def switching(draw: st.DrawFn, thresholds: tuple[float, ...] = EXACT) -> Entropy:
    window = draw(st.integers(1, 4))
    threshold = draw(st.sampled_from(thresholds))
    lower = [bits for bits in thresholds if bits <= threshold]
    return Entropy(
        **PAIR,
        threshold=threshold,
        back=draw(st.none() | st.sampled_from(lower)),
        window=window,
        dwell=window - 1 + draw(st.integers(0, 3)),
        start=draw(st.sampled_from(("small", "large"))),
        keep=draw(st.booleans()),
    )


@st.composite
def gates(draw: st.DrawFn, thresholds: tuple[float, ...] = EXACT) -> TokenGate:
    burst = draw(st.sampled_from((1, 1, 1, 2, 4)))
    optimistic = burst == 1 and draw(st.booleans())
    rules: tuple[dict[str, Any], ...] = (
        {"rule": "neural", "artifact": "g", "threshold": draw(st.sampled_from((0.3, 0.7, 0.9)))},
        {"rule": "entropy", "threshold": draw(st.sampled_from(thresholds))},
        {"rule": "random", "rate": draw(st.sampled_from((0.0, 0.1, 0.5, 1.0)))},
    )
    rule = draw(st.sampled_from(rules))
    return TokenGate(**PAIR, burst=burst, optimistic=optimistic, **rule)


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [], "stream": True, "temperature": 0}
    if room := draw(st.none() | st.integers(1, 25)):
        body["max_tokens"] = room
    if stop_ids := draw(st.lists(st.integers(3, 8), max_size=1)):
        body["stop_token_ids"] = stop_ids
    return body


seeds = st.integers(0, 2**32)


def setting(world: World, body: dict[str, Any], **changes: Any) -> Setting:
    coins = hash((0.0, 0)) % SEEDS
    stop_ids = tuple(body.get("stop_token_ids", ()))
    return Setting(world, body.get("max_tokens"), stop_ids, coins, **changes)


def composed(policy: Policy, asked: Setting) -> Composed:
    return ead(policy, asked) if isinstance(policy, Entropy) else gated(policy, asked)


def same(play: Play, answer: Composed, choice: int = 0) -> None:
    """The play's answer is the composed one, in ids, writers, text and end."""
    assert play.ids[choice] == answer.ids
    assert play.writers[choice] == answer.writers
    assert play.text(choice) == text_of(answer)
    finish = play.finishes[choice]
    assert (finish.reason, finish.stop_reason) == (answer.reason, answer.stop_reason)
    assert isinstance(play.ended, Finished)


@limited(max_examples=100)
@given(st.one_of(switching(), gates()), bodies(), seeds, seeds, st.integers(1, 6))
def test_it_is_what_a_plain_loop_composes(
    policy: Policy, body: dict[str, Any], seed: int, chance: int, pieces: int
) -> None:
    world = World(seed, marks=True)
    play = Play(world, policy, request(body=body), able(), random.Random(chance), pieces).run()
    answer = composed(policy, setting(world, body))
    event(f"firings: {min(len(answer.firings), 3)}")
    same(play, answer)


@limited(max_examples=60)
@given(st.one_of(switching(BETWEEN), gates(BETWEEN)), bodies(), seeds, seeds, st.integers(1, 6))
def test_it_is_the_same_where_the_gateway_watches_for_a_gate(
    policy: Policy, body: dict[str, Any], seed: int, chance: int, pieces: int
) -> None:
    world = World(seed)
    if isinstance(policy, TokenGate) and policy.rule == "neural":
        return
    fleet = able(gate=None)
    play = Play(world, policy, request(body=body), fleet, random.Random(chance), pieces).run()
    same(play, composed(policy, setting(world, body)))


@limited(max_examples=60)
@given(st.one_of(switching(), gates()), bodies(), seeds, seeds, st.booleans())
@example(Entropy(**PAIR), {"messages": [], "max_tokens": 1}, 0, 0, True)
def test_stop_strings_cut_where_the_joined_text_first_contains_one(
    policy: Policy, body: dict[str, Any], seed: int, chance: int, keep: bool
) -> None:
    world, rng = World(seed), random.Random(chance)
    strings = rng.sample(STRINGS, rng.randint(1, 3))
    body = {**body, "stop": strings, "include_stop_str_in_output": keep}
    play = Play(world, policy, request(body=body), able(), rng, rng.randint(1, 6)).run()
    answer = composed(policy, setting(world, body))
    text, found = cut(text_of(answer), strings, keep=keep)
    event(f"found: {found is not None}")
    assert play.text() == text
    finish = play.finishes[0]
    if found is None:
        same(play, answer)
    else:
        assert (finish.reason, finish.stop_reason) == ("stop", found)
        assert play.ids[0] == answer.ids[: len(play.ids[0])]
        assert cut(shown(play.ids[0]), strings, keep=keep) == (text, found)


@limited(max_examples=60)
@given(st.one_of(switching().filter(lambda p: p.window == 1), gates()), bodies(), seeds, seeds)
def test_a_backend_that_fails_is_replaced_from_the_token_reached(
    policy: Policy, body: dict[str, Any], seed: int, chance: int
) -> None:
    """With a window of 1: what a longer one saw is lost with its engine."""
    if isinstance(policy, Entropy) and policy.keep:
        return  # so is a firing whose stop was still to come
    world, rng = World(seed, marks=True), random.Random(chance)
    play = Play(world, policy, request(body=body), able(), rng, 4, failures=2).run()
    if not play.lost:
        same(play, composed(policy, setting(world, body, broken=frozenset(play.broken))))


@limited(max_examples=60)
@given(
    st.one_of(
        switching().filter(lambda p: p.window == 1 and not p.keep),
        gates().filter(lambda p: not p.optimistic),
    ),
    bodies(),
    seeds,
    seeds,
    st.sampled_from(("small", "large")),
)
def test_a_model_that_is_lost_leaves_the_rest_to_the_other(
    policy: Policy, body: dict[str, Any], seed: int, chance: int, lose: str
) -> None:
    world, rng = World(seed), random.Random(chance)
    play = Play(world, policy, request(body=body), able(), rng, 4, failures=2, lose=lose).run()
    event(f"lost: {', '.join(play.lost)}")
    if len(play.lost) == 2:
        assert isinstance(play.ended, Failed)
        assert play.ended.sent == bool(play.ids[0])
    else:
        broken = frozenset(play.broken)
        same(play, composed(policy, setting(world, body, lost=play.lost, broken=broken)))


@pytest.mark.slow
@limited(max_examples=60)
@given(gates().filter(lambda p: p.burst == 1), bodies(), seeds, seeds)
def test_optimism_changes_nothing_but_the_waiting(
    policy: TokenGate, body: dict[str, Any], seed: int, chance: int
) -> None:
    world, plays = World(seed), []
    for optimistic in (False, True):
        tried = replace(policy, optimistic=optimistic)
        rng = random.Random(chance)
        plays.append(Play(world, tried, request(body=body), able(), rng).run())
    plain, hopeful = plays
    assert (plain.ids, plain.text()) == (hopeful.ids, hopeful.text())
    assert plain.finishes[0].reason == hopeful.finishes[0].reason


@pytest.mark.slow
@limited(max_examples=60)
@given(st.one_of(switching(), gates()), bodies(), seeds, seeds, st.integers(2, 3))
def test_choices_are_written_side_by_side_and_do_not_mix(
    policy: Policy, body: dict[str, Any], seed: int, chance: int, choices: int
) -> None:
    world, rng = World(seed, marks=True), random.Random(chance)
    play = Play(world, policy, request(body={**body, "n": choices}), able(), rng).run()
    for choice in range(choices):
        asked = setting(world, body)
        asked = Setting(world, asked.room, asked.stop_ids, hash((0.0, choice)) % SEEDS)
        same(play, composed(policy, asked), choice)

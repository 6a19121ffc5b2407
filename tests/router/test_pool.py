"""Pools: who gets the next call, spread over the backends, and yet near what they hold."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.backend import Backend
from router.faults import Blame
from router.fleet import Abilities
from router.pool import BLOCK, MOST_BLOCKS, REMEMBERED, Pool, PrefixMemory, prefix_blocks
from router.sections import BreakerConfig, ModelConfig
from router.steps import Surface

NONE: frozenset[str] = frozenset()


def pool(size: int, now: float = 0.0) -> Pool:
    urls = [f"http://b{number}:1" for number in range(size)]
    return Pool("small", ModelConfig(backends=tuple(urls)), BreakerConfig(), clock=lambda: now)


class Clock:
    """Virtual time in seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def two() -> ModelConfig:
    return ModelConfig(backends=("http://b0:1", "http://b1:1"))


def prompt(number: int, blocks: int = 8) -> bytes:
    return (b"%08d" % number) * (BLOCK // 8) * blocks


def spread(of: Pool, prompts: list[bytes], *, seed: int = 7) -> Counter[str]:
    """How many calls each backend has in flight, if none ends."""
    rng = random.Random(seed)
    for said in prompts:
        picked = of.pick(said, NONE, rng)
        assert picked
        picked.enter()
    return Counter({backend.name: backend.in_flight for backend in of.backends})


# ------------------------------------------------------------------------------------- filters


@given(
    size=st.integers(1, 6),
    ill=st.sets(st.integers(0, 5)),
    avoided=st.sets(st.integers(0, 5)),
    seed=st.integers(0, 1000),
)
def test_an_unhealthy_or_avoided_backend_is_never_picked(
    size: int, ill: set[int], avoided: set[int], seed: int
) -> None:
    held = pool(size)
    rng = random.Random(seed)
    for _ in range(20):  # all of them hold prefixes
        held.pick(prompt(1), NONE, rng)
    for number, backend in enumerate(held.backends):
        backend.healthy = number not in ill
    avoid = frozenset(f"b{number}:1" for number in avoided)
    fit = {b.name for n, b in enumerate(held.backends) if n not in ill and n not in avoided}
    for said in (b"", prompt(1), prompt(2)):
        picked = held.pick(said, avoid, rng)
        assert (picked.name in fit) if picked else not fit


def test_a_backend_whose_breaker_is_open_is_not_picked() -> None:
    held = pool(2)
    first, second = held.backends
    for _ in range(BreakerConfig().failures):
        first.enter().leave(Blame.BACKEND)
    assert held.candidates() == [second]
    assert held.pick(prompt(1), NONE, random.Random(1)) is second
    assert held.view().healthy == 1


# -------------------------------------------------------------------------------------- spreading


@pytest.mark.parametrize("size", [2, 3, 8])
def test_different_prompts_are_spread(size: int) -> None:
    counted = spread(pool(size), [prompt(number) for number in range(100 * size)])
    assert min(counted.values()) > 80
    assert max(counted.values()) < 120


def test_short_prompts_are_spread_too() -> None:
    counted = spread(pool(4), [b"hello"] * 400)
    assert min(counted.values()) > 80


@pytest.mark.parametrize("size", [2, 4])
def test_calls_one_after_the_other_do_not_all_go_to_the_first(size: int) -> None:
    held, rng, counted = pool(size), random.Random(7), Counter[str]()
    for number in range(200):
        picked = held.pick(prompt(number), NONE, rng)
        assert picked
        picked.enter().leave(None)
        counted[picked.name] += 1
    assert min(counted[backend.name] for backend in held.backends) > 100 / size


def test_the_busier_of_two_is_not_picked() -> None:
    held = pool(2)
    for _ in range(5):
        held.backends[0].enter()
    assert held.pick(prompt(1), NONE, random.Random(1)) is held.backends[1]


def test_the_slower_of_two_is_not_picked() -> None:
    held = pool(2)
    held.backends[0].heard(2.0)
    held.backends[1].heard(0.1)
    assert held.pick(prompt(1), NONE, random.Random(1)) is held.backends[1]


def test_one_slow_answer_does_not_keep_a_backend_without_calls_for_good() -> None:
    clock = Clock()
    held = Pool("small", two(), BreakerConfig(), clock=clock)
    slow, quick = held.backends
    slow.heard(60.0)  # it had to compile, say
    rng, calls = random.Random(7), 0
    while slow.in_flight == 0:
        clock.now += 1.0
        calls += 1
        picked = held.pick(prompt(calls), NONE, rng)
        assert picked
        if picked is quick:
            quick.enter().leave(None)
            quick.heard(0.1)
        else:
            slow.enter()
    assert 10 < calls < 120


# --------------------------------------------------------------------------------------- prefixes


def test_the_same_prompt_goes_back_to_the_same_backend() -> None:
    held, rng = pool(8), random.Random(7)
    homes = {number: held.pick(prompt(number), NONE, rng) for number in range(50)}
    for number, home in homes.items():
        assert held.pick(prompt(number), NONE, rng) is home


def test_a_longer_conversation_goes_to_who_holds_its_beginning() -> None:
    held, rng = pool(8), random.Random(7)
    home = held.pick(prompt(1, blocks=6), NONE, rng)
    for _ in range(20):
        assert held.pick(prompt(1, blocks=6) + prompt(2, blocks=1), NONE, rng) is home


def test_one_prompt_for_all_is_spread_all_the_same() -> None:
    """A system prompt that everybody sends must not put everybody on one backend."""
    counted = spread(pool(4), [prompt(1)] * 400)
    assert min(counted.values()) > 50


def test_affinity_yields_to_load() -> None:
    held, rng = pool(2), random.Random(7)
    home = held.pick(prompt(1), NONE, rng)
    assert home
    for _ in range(10):
        home.enter()
    assert held.pick(prompt(1), NONE, rng) is not home


@given(st.binary(max_size=3 * BLOCK), st.binary(max_size=3 * BLOCK))
def test_blocks_are_equal_where_prefixes_are(one: bytes, other: bytes) -> None:
    same = 0
    while (
        same < 3
        and one[: (same + 1) * BLOCK] == other[: (same + 1) * BLOCK]
        and (len(one) >= (same + 1) * BLOCK)
    ):
        same += 1
    first, second = prefix_blocks(one), prefix_blocks(other)
    assert len(first) == len(one) // BLOCK
    agree = sum(a == b for a, b in zip(first, second, strict=False))
    assert agree == same


def test_only_the_beginning_of_a_long_prompt_is_looked_at() -> None:
    assert len(prefix_blocks(b"x" * BLOCK * MOST_BLOCKS * 10)) == MOST_BLOCKS


def test_the_least_recently_seen_prefix_is_forgotten() -> None:
    memory, (one, other) = PrefixMemory(), pool(2).backends
    memory.learn([-1], one)
    memory.learn(range(REMEMBERED - 1), other)
    memory.learn([-1], one)
    memory.learn([-2], other)
    assert memory.longest([-1]) == (one, 1.0)
    assert memory.longest([0]) == (None, 0.0)


# ----------------------------------------------------------------------------------- its backends


def test_backends_that_stay_keep_their_state() -> None:
    before = pool(2)
    before.backends[0].enter()
    settings = ModelConfig(backends=("http://new:1", "http://b0:1"))
    after = Pool("small", settings, BreakerConfig(), before)
    assert after.backends[1] is before.backends[0]
    assert after.view().in_flight == 1


def test_it_can_do_what_its_first_probed_backend_can() -> None:
    held = pool(2)
    assert held.serves(Surface.RERANK), "unknown: let the backend say"
    known: Backend = held.backends[1]
    known.probed, known.abilities = True, Abilities(surfaces=frozenset({Surface.CHAT}), context=99)
    assert held.serves(Surface.CHAT)
    assert not held.serves(Surface.RERANK)
    assert held.view().context == 99


# ------------------------------------------------------------------------------------- who sleeps


def lay_down(backend: Backend, wake: float) -> None:
    backend.rest.manage(wake)
    backend.rest.enter("asleep")


def test_one_that_sleeps_is_taken_only_if_nobody_is_awake() -> None:
    three, rng = pool(3), random.Random(1)
    for sleeper in three.backends[:2]:
        lay_down(sleeper, 5.0)
    assert {three.pick(prompt(n), NONE, rng) for n in range(20)} == {three.backends[2]}
    lay_down(three.backends[2], 1.0)
    assert three.pick(prompt(1), NONE, rng) is three.backends[2], "it wakes soonest"
    three.backends[2].healthy = False
    assert three.pick(prompt(1), NONE, rng) in three.backends[:2]


def test_waking_one_may_be_quicker_than_waiting_for_those_awake() -> None:
    both, rng = pool(2), random.Random(1)
    busy, asleep = both.backends
    busy.heard(2.0)
    lay_down(asleep, 5.0)
    for number in range(2):
        assert both.pick(prompt(number), NONE, rng) is busy
        busy.enter()
    assert both.pick(prompt(3), NONE, rng) is asleep


def test_the_preferred_one_has_forgotten_everything_in_its_sleep() -> None:
    both, rng = pool(2), random.Random(1)
    lay_down(both.backends[0], 5.0)
    assert both.pick(prompt(1), NONE, rng, both.backends[0].name) is both.backends[1]


def test_prefixes_are_forgotten_in_sleep() -> None:
    memory, (one, other) = PrefixMemory(), pool(2).backends
    memory.learn([1, 2], one)
    memory.learn([3], other)
    memory.forget(one)
    assert memory.longest([1, 2]) == (None, 0.0)
    assert memory.longest([3]) == (other, 1.0)


def test_a_model_is_awake_if_one_of_its_servers_is() -> None:
    both = pool(2)
    assert both.view().wake == 0
    lay_down(both.backends[0], 5.0)
    assert both.view().wake == 0
    lay_down(both.backends[1], 3.0)
    assert both.view().wake == 3
    both.backends[1].rest.drain(draining=False, free_at=30.0)
    assert both.view().wake == 5

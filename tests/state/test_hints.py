"""What processes tell each other of backends: played by several sets of pools on one store."""

from __future__ import annotations

import random

from app.state.hints import Hints
from app.state.store import Store
from router.backend import Backend
from router.faults import Blame
from router.pool import BLOCK, Pool
from router.sections import BreakerConfig, ModelConfig

URLS = tuple(f"http://10.0.0.{number}:8000" for number in range(1, 9))
PROMPT = b"".join(bytes([n]) * BLOCK for n in range(6))
RULES = BreakerConfig(failures=3)


class Process:
    """One process: its pool, and its hints."""

    def __init__(self, store: Store, name: str, urls: tuple[str, ...] = URLS) -> None:
        self.pool = Pool("small", ModelConfig(backends=urls), RULES)
        self.hints = Hints(store, name, lambda: [self.pool])
        self.rng = random.Random(name)

    def ask(self, prompt: bytes) -> str:
        """The backend that a call with this prompt goes to, which is answered at once."""
        backend = self.pool.pick(prompt, frozenset(), self.rng)
        assert backend
        return backend.name

    def fail(self, times: int) -> Backend:
        """The first backend, after so many failures in a row."""
        backend = self.pool.backends[0]
        for _ in range(times):
            backend.enter().leave(Blame.BACKEND)
        return backend


async def test_a_conversation_stays_with_its_backend_whichever_process_it_comes_to(
    store: Store,
) -> None:
    one, two = Process(store, "one"), Process(store, "two")
    first = one.ask(PROMPT)
    await one.hints.exchange()
    await two.hints.exchange()
    longer = PROMPT + b"and then" * BLOCK
    assert {Process.ask(two, longer) for _ in range(5)} == {first}


async def test_what_nobody_told_is_anywhere(store: Store) -> None:
    one, two = Process(store, "one"), Process(store, "two")
    one.ask(PROMPT)
    await two.hints.exchange()
    others = {two.ask(bytes([n]) * 6 * BLOCK) for n in range(40)}
    assert len(others) > 3


async def test_only_what_is_new_is_told(store: Store) -> None:
    one = Process(store, "one")
    for _ in range(5):
        one.ask(PROMPT)
        await one.hints.exchange()
    assert len(await store.entries("hints", 0)) == 1


async def test_a_backend_that_fails_elsewhere_has_one_chance_here(store: Store) -> None:
    one, two = Process(store, "one"), Process(store, "two")
    await two.hints.exchange()
    assert one.fail(3).failing
    await one.hints.exchange()
    await two.hints.exchange()
    backend = two.pool.backends[0]
    assert not backend.failing, "what another has seen closes nothing"
    assert two.fail(1) is backend
    assert backend.failing
    assert not two.pool.backends[1].failing


async def test_a_success_makes_up_for_a_warning(store: Store) -> None:
    two = Process(store, "two")
    two.pool.backends[0].warn()
    two.pool.backends[0].enter().leave(None)
    assert not two.fail(2).failing
    two.pool.backends[0].warn()
    assert two.fail(1).failing
    two.pool.backends[0].warn()
    assert two.pool.backends[0].failing, "an open breaker is not moved by it"


async def test_old_failures_do_not_count_for_one_that_starts(store: Store) -> None:
    one = Process(store, "one")
    one.fail(3)
    one.ask(PROMPT)
    await one.hints.exchange()
    late = Process(store, "late")
    await late.hints.exchange()
    assert not late.fail(2).failing


async def test_an_opening_is_told_once(store: Store) -> None:
    one = Process(store, "one")
    one.fail(3)
    await one.hints.exchange()
    await one.hints.exchange()
    assert len(await store.entries("hints", 0)) == 1


async def test_hints_about_unknown_models_and_backends_are_passed_over(store: Store) -> None:
    one, other = Process(store, "one"), Process(store, "other", ("http://10.9.9.9:1",))
    one.fail(3)
    one.ask(PROMPT)
    await other.hints.exchange()
    await one.hints.exchange()
    await other.hints.exchange()
    assert not other.pool.backends[0].failing

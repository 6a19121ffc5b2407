"""Who waits for a place, who need not, and that every place is given back, whatever happens."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

import pytest

from policies.fallback import Fallback
from policies.hedge import Hedge
from policies.overload import Overload
from router.engine import Drive
from router.faults import Blame
from router.fleet import Fleet
from router.http1 import HungUpError
from router.phrases import close, emit, next_event, open_attempt, relay, serve
from router.pool import Pool
from router.steps import Ended, Failed, Finished, Open, Policy, Request, Steps
from tests.fleets import request
from tests.in_memory import STREAM, Canned, Client, Core, core, policy, refusing, streaming

LOW = replace(STREAM, low=True)


@dataclass(slots=True)
class Held(Canned):
    """A stream whose last part comes when the test lets it, or all of it if it is silent."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    silent: bool = False

    async def read(self) -> bytes:
        if len(self.parts) == 1 or self.silent:
            await self.gate.wait()
        return await Canned.read(self)


def held(*texts: str) -> Held:
    """A stream of these texts, but for its end."""
    return Held(streaming(*texts or ("Yes",)).parts)


@dataclass(slots=True)
class Asked:
    """A request under way: its client, its drive, and how it ends."""

    client: Client
    drive: Drive
    task: asyncio.Task[Ended]

    @property
    def queued(self) -> list[tuple[str, bool, str]]:
        """Where it waited, whether it got a place in the end, and why not."""
        waits = self.drive.ledger.queued
        return [(wait.model, wait.seconds > 0, wait.shed) for wait in waits]


@dataclass(slots=True)
class Busy:
    """A core whose models have a limit, and all that is asked of it."""

    core: Core
    several: list[Asked] = field(default_factory=list)

    def pool(self, name: str = "small") -> Pool:
        """A model's pool."""
        return self.core.runtime.pools[name]

    async def ask(self, asked: Request = STREAM, within: float = 10.0) -> Asked:
        """Ask, and let it get as far as it can."""
        client = Client()
        drive = replace(self.core, client=client).drive(asked)
        task = asyncio.create_task(drive.run(monotonic() + within))
        self.several.append(Asked(client, drive, task))
        for _ in range(20):
            await asyncio.sleep(0)
        return self.several[-1]

    async def over(self) -> None:
        """All of it is over, and nothing is left."""
        await asyncio.gather(*(each.task for each in self.several), return_exceptions=True)
        assert self.core.in_flight() == 0
        for pool in self.core.runtime.pools.values():
            assert pool.line.taken == 0
            assert pool.line.waiting() == 0


def busy(each: int = 1, targets: dict[str, Any] | None = None, **queue: Any) -> Busy:
    """Two models whose servers write one answer each at once."""
    limit = {"in_flight": 1, **queue}
    models = {
        "small": {"backends": [f"http://{n}:1" for n in "abc"[:each]], "queue": limit},
        "large": {"backends": [f"http://{n}:1" for n in "xyz"[:each]], "queue": limit},
    }
    return Busy(core({"auto": Fallback(("small",)), **(targets or {})}, models=models))


def writes(number: int, host: str, made: Busy) -> list[Held]:
    """So many answers of this backend, each held."""
    replies = [held() for _ in range(number)]
    made.core.upstreams.add(host, *replies)
    return replies


async def test_a_request_waits_until_another_has_ended() -> None:
    made = busy()
    first, second = writes(2, "a:1", made)
    one, two = await made.ask(), await made.ask()
    assert one.client.text == "Yes" or not first.gate.is_set()
    assert made.core.in_flight() == 1
    assert made.pool().line.waiting() == 1
    first.gate.set()
    second.gate.set()
    await made.over()
    assert (one.client.text, two.client.text) == ("Yes", "Yes")
    assert one.queued == []
    assert two.queued == [("small", True, "")]
    assert "queue;dur=" in two.client.head["server-timing"]
    assert "queue;dur=" not in one.client.head["server-timing"]


async def test_a_full_line_is_an_answer_at_once_and_no_fault_of_the_backends() -> None:
    made = busy(waiting=0)
    (first,) = writes(1, "a:1", made)
    await made.ask()
    refused = await made.ask()
    assert refused.client.status == 503
    assert refused.client.json["error"]["code"] == "queue_full"
    assert refused.client.json["error"]["type"] == "overloaded_error"
    assert int(refused.client.head["retry-after"]) >= 1
    assert refused.drive.ledger.tallies == []
    assert refused.queued == [("small", False, "full")]
    fault = refused.drive.ledger.fault
    assert fault
    assert fault.blame is Blame.BUSY
    first.gate.set()
    await made.over()
    assert made.pool().backends[0].state != "open"


async def test_a_wait_has_an_end() -> None:
    made = busy(longest=0.05)
    (first,) = writes(1, "a:1", made)
    await made.ask()
    late = await made.ask()
    await late.task
    assert late.client.json["error"]["code"] == "queue_timeout"
    assert late.queued == [("small", True, "timeout")]
    first.gate.set()
    await made.over()


async def test_a_request_waits_no_longer_than_it_has_time() -> None:
    made = busy()
    (first,) = writes(1, "a:1", made)
    await made.ask()
    late = await made.ask(within=0.1)
    await late.task
    assert late.client.json["error"]["code"] in ("queue_timeout", "deadline")
    assert made.pool().line.waiting() == 0
    first.gate.set()
    await made.over()


async def test_a_client_that_leaves_leaves_the_line() -> None:
    made = busy()
    first, third = writes(2, "a:1", made)
    await made.ask()
    gone, there = await made.ask(), await made.ask()
    gone.task.cancel()
    first.gate.set()
    third.gate.set()
    await made.over()
    assert gone.task.cancelled()
    assert there.client.text == "Yes"
    assert len(made.core.upstreams.sent) == 2


async def test_what_is_shed_by_one_model_is_answered_by_another() -> None:
    made = busy(targets={"auto": Fallback(("small", "large"))}, waiting=0)
    (first,) = writes(1, "a:1", made)
    made.core.upstreams.add("x:1", streaming("Large"))
    await made.ask()
    other = await made.ask()
    assert other.client.text == "Large"
    first.gate.set()
    await made.over()
    assert other.drive.ledger.reason == "fell_back"
    assert other.queued == [("small", False, "full")]


async def test_low_priority_waits_behind_high() -> None:
    made = busy(floor=0.0)
    replies = writes(3, "a:1", made)
    order: list[str] = []
    first = await made.ask()
    low, high = await made.ask(LOW), await made.ask()
    for name, asked in (("first", first), ("low", low), ("high", high)):
        asked.task.set_name(name)
        asked.task.add_done_callback(lambda task: order.append(task.get_name()))
    for reply in replies:
        reply.gate.set()
    await made.over()
    assert order == ["first", "high", "low"]
    assert [wait.low for wait in low.drive.ledger.queued] == [True]


async def test_whoever_waits_gets_the_backend_that_is_free_then() -> None:
    made = busy(each=2)
    on_a, on_b = writes(1, "a:1", made), writes(1, "b:1", made)
    await made.ask()
    await made.ask()
    assert [backend.in_flight for backend in made.pool().backends] == [1, 1]
    third = await made.ask()
    made.core.upstreams.add("b:1", streaming("Free"))
    on_b[0].gate.set()
    await third.task
    assert third.client.text == "Free"
    assert [backend.in_flight for backend in made.pool().backends] == [1, 0]
    on_a[0].gate.set()
    await made.over()


async def test_nobody_waits_for_servers_that_are_down() -> None:
    made = busy()
    (first,) = writes(1, "a:1", made)
    await made.ask()
    waits = await made.ask()
    made.pool().backends[0].healthy = False
    comes = await made.ask()
    for asked in (waits, comes):
        assert asked.client.json["error"]["code"] == "no_backend"
    first.gate.set()
    await made.over()


async def test_a_backend_that_is_lost_takes_its_places_with_it() -> None:
    made = busy(each=2)
    (on_a,), (on_b,) = writes(1, "a:1", made), writes(1, "b:1", made)
    await made.ask()
    made.pool().backends[0].healthy = made.pool().backends[1].in_flight == 1
    made.pool().backends[1].healthy = not made.pool().backends[0].healthy
    waits = await made.ask()
    assert made.pool().line.waiting() == 1, "one server, one place"
    for backend in made.pool().backends:
        backend.healthy = True
    more = await made.ask()
    assert made.pool().line.waiting() == 1, "the first of the two got the other server"
    for reply in (on_a, on_b):
        reply.gate.set()
    made.core.upstreams.add("a:1", streaming("Yes"))
    made.core.upstreams.add("b:1", streaming("Yes"))
    await made.over()
    assert waits.client.text == more.client.text == "Yes"


@pytest.mark.parametrize(("share", "places"), [(1.0, 4), (0.5, 2), (0.3, 1), (0.01, 1)])
def test_a_process_has_its_share_and_at_least_one_place(share: float, places: int) -> None:
    made = busy(each=2, in_flight=2)
    assert made.pool().bounds(share).places == places


async def test_the_share_is_asked_for_with_each_request() -> None:
    made = busy(in_flight=2)
    first, second = writes(2, "a:1", made)
    await made.ask()
    drive = replace(made.core, client=Client()).drive(STREAM)
    drive.shared = replace(drive.shared, share=lambda: 0.5)
    drive = replace(drive)
    task = asyncio.create_task(drive.run(monotonic() + 10))
    await asyncio.sleep(0)
    assert made.pool().line.waiting() == 1
    first.gate.set()
    second.gate.set()
    assert isinstance(await task, Finished)
    await made.over()


def test_a_revision_takes_over_who_waits_and_who_has_a_place() -> None:
    made = busy()
    before = made.pool()
    place = before.line.enter(before)
    assert place
    settings = before.settings.model_copy(
        update={"queue": before.settings.queue.model_copy(update={"in_flight": 2})}  # type: ignore[union-attr]
    )
    after = Pool("small", settings, made.core.runtime.config.breaker, before)
    assert after.line is before.line
    more = after.line.enter(after)
    assert more
    assert after.line.enter(after) is None
    place.leave()
    more.leave()
    assert after.line.taken == 0


# ------------------------------------------------------------------------------ several calls


def in_turns(asked: Request, _: Fleet) -> Steps:
    """Two models write one answer: one call of small, one of large, one of small."""
    for model in ("small", "large", "small"):
        attempt = yield from open_attempt(model, asked)
        event = yield from next_event(attempt)
        if isinstance(event, Failed):
            return event
        yield from emit(attempt, f"{model} ")
        while not isinstance(event, Finished | Failed):
            event = yield from next_event(attempt)
        yield from close(attempt)
    assert isinstance(event, Finished | Failed)
    return event


async def test_an_answer_that_is_written_in_turns_counts_once_until_it_ends() -> None:
    made = busy(targets={"auto": policy(in_turns)})
    made.core.upstreams.add("a:1", streaming("a"))
    (on_large,) = writes(1, "x:1", made)
    turns = await made.ask()
    assert turns.client.text == "small large ", "it writes with the large model now"
    assert made.pool().line.taken == 1
    assert made.core.in_flight() == 1
    made.core.upstreams.add("a:1", streaming("a"), streaming("new"))
    new = await made.ask(request(target="small", body={"messages": [], "stream": True}))
    assert new.client.text == ""
    on_large.gate.set()
    await made.over()
    assert turns.client.text == "small large small "
    assert new.client.text == "new"
    assert turns.queued == []


async def test_an_answer_that_has_begun_goes_on_where_there_is_no_place() -> None:
    made = busy(targets={"auto": policy(in_turns)}, waiting=0)
    (on_large,) = writes(1, "x:1", made)
    await made.ask(request(target="large", body={"messages": [], "stream": True}))
    made.core.upstreams.add("a:1", streaming("a"), streaming("a"))
    made.core.upstreams.add("x:1", streaming("x"))
    turns = await made.ask()
    await turns.task
    assert turns.client.text == "small large small "
    assert turns.queued == []
    on_large.gate.set()
    await made.over()


def drafting(asked: Request, _: Fleet) -> Steps:
    """A draft that nobody sees, and an answer of the large model."""
    drafted = yield from open_attempt("small", asked)
    event = yield from next_event(drafted)
    while not isinstance(event, Finished | Failed):
        event = yield from next_event(drafted)
    return (yield from serve("large", asked))


async def test_an_answer_under_way_goes_before_new_ones_and_is_not_refused_at_once() -> None:
    made = busy(targets={"auto": policy(drafting)}, waiting=1)
    replies = writes(3, "x:1", made)
    made.core.upstreams.add("a:1", streaming("draft"))
    large = request(target="large", body={"messages": [], "stream": True})
    await made.ask(large)
    new = await made.ask(large)
    under_way = await made.ask()
    assert made.pool("large").line.waiting() == 2
    assert made.pool("small").line.taken == 0, "the draft is complete: its place is free"
    replies[0].gate.set()
    replies[1].gate.set()
    await under_way.task
    assert under_way.client.text == "Yes"
    assert not new.task.done()
    replies[2].gate.set()
    await made.over()


def side_by_side(asked: Request, _: Fleet) -> Steps:
    """Two calls of one model at once, of which the second answers."""
    first = yield from open_attempt("small", asked)
    second = yield from open_attempt("small", asked)
    yield from close(first)
    return (yield from relay(second))


async def test_two_calls_of_one_answer_take_one_place() -> None:
    made = busy(targets={"auto": policy(side_by_side)})
    made.core.upstreams.add("a:1", streaming("both"))
    both = await made.ask()
    await made.over()
    assert both.client.text == "both"
    assert both.queued == []


async def test_a_hedge_never_waits_for_its_second_backend() -> None:
    made = busy(targets={"auto": Hedge("small", 0.01, "large")})
    slow, other = held(), held()
    slow.silent = True
    made.core.upstreams.add("a:1", slow)
    made.core.upstreams.add("x:1", other)
    await made.ask(request(target="large", body={"messages": [], "stream": True}))
    hedged = await made.ask()
    async with asyncio.timeout(10):
        while not hedged.queued:
            await asyncio.sleep(0)
    slow.gate.set()
    await hedged.task
    assert hedged.client.text == "Yes"
    assert hedged.queued == [("large", False, "full")]
    other.gate.set()
    await made.over()


def opening(asked: Request, _: Fleet) -> Steps:
    """A call that nobody ever hears."""
    attempt = yield Open("small", asked)
    assert attempt.backend
    raise ValueError("the policy broke")


async def test_a_policy_that_breaks_gives_its_place_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = busy(targets={"auto": policy(opening)})
    broken = await made.ask()
    await made.over()
    assert broken.client.status == 500
    assert "the policy broke" in capsys.readouterr().err


# --------------------------------------------------------------------------------- a storm


def breaking() -> Canned:
    """A stream that breaks off."""
    return Canned([*streaming("Half ", "of it").parts[:1], HungUpError("cut")])


@dataclass(slots=True)
class Storm:
    """What happens to a core, drawn by chance."""

    rng: random.Random
    made: Busy
    replies: list[Canned] = field(default_factory=list)

    def answers(self) -> None:
        """What its backends will say: most of it well, and some of it held."""
        kinds = [held, lambda: streaming("Yes"), lambda: refusing(503), breaking]
        for backend in self.made.core.backends:
            several = [self.rng.choices(kinds, (3, 6, 1, 1))[0]() for _ in range(100)]
            self.made.core.upstreams.add(backend.name, *several)
            self.replies += several

    async def asks(self, target: str) -> None:
        """Somebody asks; perhaps somebody leaves, or a server goes or comes back."""
        asked = request(target=target, body={"messages": [], "stream": True})
        await self.made.ask(replace(asked, low=self.rng.random() < 0.3))
        if self.rng.random() < 0.3:
            self.rng.choice(self.made.several).task.cancel()
        if self.rng.random() < 0.1:
            backend = self.rng.choice(self.made.core.backends)
            backend.healthy = not backend.healthy

    def lets_go(self, share: float) -> None:
        """Some of those who hold their last word say it."""
        for reply in self.replies:
            if isinstance(reply, Held) and self.rng.random() < share:
                reply.gate.set()


@pytest.mark.parametrize("seed", range(6))
async def test_nothing_is_left_after_a_storm(seed: int) -> None:
    """Every kind of policy, clients that leave, backends that refuse, break and come back."""
    targets: dict[str, Policy] = {
        "turns": policy(in_turns),
        "drafts": policy(drafting),
        "both": policy(side_by_side),
        "fallback": Fallback(("small", "large")),
        "hedge": Hedge("small", 0.001, "large"),
        "overload": Overload("small", "large", wait=0.0),
    }
    made = busy(each=2, targets=targets, in_flight=2, waiting=6, longest=0.1, floor=0.3)
    storm = Storm(random.Random(seed), made)
    storm.answers()
    for _ in range(80):
        await storm.asks(storm.rng.choice([*targets, "small", "large"]))
        storm.lets_go(0.2)
        assert all(pool.queued(low=True) <= 6 for pool in made.core.runtime.pools.values())
    for backend in made.core.backends:
        backend.healthy = True
    storm.lets_go(1.0)
    await made.over()
    assert sum(each.client.text != "" for each in made.several) > 10

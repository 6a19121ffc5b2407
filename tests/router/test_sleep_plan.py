"""Who wakes and who makes room: single decisions, and whole days of a host in simulated time."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.sleep_plan import NEVER, TINY, Plan, Resident, State, plan

NOW = 1000.0


def server(name: str, state: State = "asleep", memory: float = 6.0, **said: Any) -> Resident:
    return Resident(name=name, model=said.pop("model", name), state=state, memory=memory, **said)


def decided(*residents: Resident, budget: float = 10.0) -> Plan:
    return plan(residents, budget, NOW)


# ------------------------------------------------------------------------------ single decisions


def test_nobody_moves_while_nobody_waits() -> None:
    quiet = decided(server("a", "awake"), server("b"))
    assert quiet == Plan(free_at=quiet.free_at)


def test_one_that_fits_is_woken_at_once() -> None:
    assert decided(server("a", "awake", 4), server("b", wanted=NOW)).wake == ("b",)


def test_room_is_made_first_and_then_it_wakes() -> None:
    before = decided(server("a", "awake"), server("b", wanted=NOW))
    assert (before.wake, before.sleep) == ((), ("a",))
    during = decided(server("a", "falling asleep"), server("b", wanted=NOW))
    assert (during.wake, during.sleep) == ((), ())
    assert decided(server("a"), server("b", wanted=NOW)).wake == ("b",)


def test_one_with_calls_gets_no_new_ones_and_does_not_sleep() -> None:
    busy = decided(server("a", "awake", in_flight=1), server("b", wanted=NOW))
    assert busy.sleep == ()
    assert busy.drain == {"a"}


def test_within_its_residence_it_goes_on_and_the_plan_says_until_when() -> None:
    fresh = server("a", "awake", since=NOW - 20, residence=60)
    early = decided(fresh, server("b", wanted=NOW))
    assert early.sleep == ()
    assert early.drain == frozenset()
    assert early.again == early.free_at["b"] == NOW + 40
    assert plan([fresh, server("b", wanted=NOW)], 10, NOW + 40).sleep == ("a",)


def test_idle_ones_leave_first_then_those_that_were_not_used_for_longest() -> None:
    residents = [
        server("busy", "awake", 3, in_flight=1, used=1),
        server("late", "awake", 3, used=9),
        server("early", "awake", 3, used=2),
        server("new", memory=3, wanted=NOW),
    ]
    assert plan(residents, 9, NOW).drain == {"early"}
    assert plan([replace(r, in_flight=1) for r in residents[:3]] + residents[3:], 9, NOW).drain == {
        "busy"
    }


def test_no_more_leave_than_must() -> None:
    residents = [
        server("tiny", "awake", 1, used=1),
        server("big", "awake", 8, used=2),
        server("new", memory=7, wanted=NOW),
    ]
    assert plan(residents, 9, NOW).drain == {"big"}


def test_whoever_has_waited_longest_is_first_and_nobody_delays_it() -> None:
    resident = server("a", "awake", 6, since=NOW, residence=60)
    first, second = server("first", memory=6, wanted=1), server("second", memory=4, wanted=2)
    assert plan([resident, first, second], 10, NOW).wake == ("second",), "it is in nobody's way"
    assert plan([resident, replace(first, memory=8), second], 10, NOW).wake == ()


def test_nobody_slips_in_while_the_first_waits_for_one_that_is_on_its_way() -> None:
    waking = server("a", "waking", 6)
    first, second = server("first", memory=8, wanted=1), server("second", memory=4, wanted=2)
    assert plan([waking, first, second], 10, NOW).wake == ()
    assert plan([waking, replace(first, wanted=None), second], 10, NOW).wake == ("second",)


def test_one_that_cannot_be_woken_holds_nobody_up() -> None:
    fixed = server("fixed", "awake", 6, sleeps=False)
    never, other = server("never", memory=6, wanted=1), server("other", memory=4, wanted=2)
    found = plan([fixed, never, other], 10, NOW)
    assert found.wake == ("other",)
    assert found.free_at["never"] == NEVER


def test_a_server_does_not_leave_for_another_of_its_own_model() -> None:
    found = decided(server("a", "awake", model="m"), server("b", model="m", wanted=NOW))
    assert found.drain == frozenset()
    assert found.free_at["b"] == NEVER


def test_more_than_should_be_are_found_awake() -> None:
    assert decided(server("a", "awake", used=2), server("b", "awake", used=1)).sleep == ("b",)


def test_nobody_leaves_for_one_of_which_nothing_is_known() -> None:
    assert decided(server("a", "awake"), server("b", "unknown")).drain == frozenset()


def test_what_is_unknown_may_hold_its_memory() -> None:
    assert decided(server("a", "unknown"), server("b", wanted=NOW)).wake == ()


def test_what_sleepers_keep_counts() -> None:
    asleep = server("a", kept=1), server("b", memory=9.5, wanted=NOW)
    assert decided(*asleep).wake == ()
    assert plan(asleep, 10.5, NOW).wake == ("b",)


# ------------------------------------------------------------------------------ simulated days

WAKING, FALLING = 3.0, 2.0
"""Seconds that it takes to wake and to fall asleep."""


@dataclass
class Day:
    """A host whose servers do what the plans say; every rule is checked at every moment."""

    servers: dict[str, Resident]
    budget: float
    calls: list[tuple[float, str, float]]
    lines: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    drain: frozenset[str] = frozenset()
    longest: float = 0.0
    now: float = 0.0
    _events: list[tuple[float, int, str, str, float]] = field(default_factory=list)
    _number: itertools.count[int] = field(default_factory=itertools.count)

    def run(self) -> None:
        """To the end: until nothing can happen any more."""
        self.lines = {name: [] for name in self.servers}
        for at, name, seconds in self.calls:
            self._at(at, "call", name, seconds)
        self._replan()
        while self._events:
            at, _, what, name, seconds = heapq.heappop(self._events)
            assert at >= self.now
            self.now = at
            self._happen(what, name, seconds)
            self._replan()

    def _at(self, when: float, what: str, name: str, seconds: float = 0.0) -> None:
        heapq.heappush(self._events, (when, next(self._number), what, name, seconds))

    def _happen(self, what: str, name: str, seconds: float) -> None:
        match what:
            case "call":
                self.lines[name].append((self.now, seconds))
            case "awake":
                self._set(name, state="awake", since=self.now)
                self.drain -= {name}
                self._serve()  # as `Rest` does: whoever wakes serves its line before all else
            case "asleep":
                self._set(name, state="asleep")
            case _:  # a call ended, or it is time to look again
                if what == "look":
                    return
                self._set(name, in_flight=self.servers[name].in_flight - 1, used=self.now)

    def _set(self, name: str, **changes: Any) -> None:
        self.servers[name] = replace(self.servers[name], **changes)

    def _replan(self) -> None:
        for name, line in self.lines.items():
            self._set(name, wanted=line[0][0] if line else None)
        found = plan(list(self.servers.values()), self.budget, self.now)
        self.drain = found.drain
        for name in found.sleep:
            each = self.servers[name]
            assert each.in_flight == 0
            assert self.now >= each.since + each.residence
            self._set(name, state="falling asleep")
            self._at(self.now + FALLING, "asleep", name)
        for name in found.wake:
            assert self.servers[name].state == "asleep"
            self._set(name, state="waking")
            self._at(self.now + WAKING, "awake", name)
        self._serve()
        if found.again is not None:
            assert found.again > self.now
            self._at(found.again, "look", "")
        assert sum(each.holds for each in self.servers.values()) <= self.budget + TINY

    def _serve(self) -> None:
        for name, line in self.lines.items():
            if self.servers[name].state == "awake" and name not in self.drain:
                for asked, seconds in line:
                    self.longest = max(self.longest, self.now - asked)
                    self._at(self.now + seconds, "ended", name)
                self._set(name, in_flight=self.servers[name].in_flight + len(line), wanted=None)
                line.clear()


LONGEST_CALL, LONGEST_RESIDENCE = 20.0, 30.0


@st.composite
def days(draw: st.DrawFn) -> Day:
    count = draw(st.integers(1, 5))
    names = "abcde"[:count]
    residence = st.floats(0, LONGEST_RESIDENCE)
    servers = {
        name: server(
            name,
            memory=draw(st.integers(2, 9)),
            kept=draw(st.sampled_from([0.0, 0.25, 1.0])),
            residence=draw(residence),
        )
        for name in names
    }
    needed = sum(each.kept for each in servers.values()) + max(s.frees for s in servers.values())
    budget = needed + draw(st.floats(0, 15))
    calls = draw(
        st.lists(
            st.tuples(st.floats(0, 200), st.sampled_from(names), st.floats(0, LONGEST_CALL)),
            max_size=40,
        )
    )
    return Day(servers, budget, calls)


@given(days())
def test_every_call_is_served_in_time_and_no_rule_is_broken(day: Day) -> None:
    day.run()
    assert not any(day.lines.values())
    assert not any(each.in_flight for each in day.servers.values())
    turn = LONGEST_RESIDENCE + LONGEST_CALL + WAKING + FALLING
    assert day.longest <= len(day.servers) * turn


@pytest.mark.parametrize("residence", [0.0, 10.0])
def test_a_model_in_constant_use_gives_way_all_the_same(residence: float) -> None:
    hot, cold = server("hot", residence=residence), server("cold", residence=residence)
    calls = [(float(second), "hot", 1.5) for second in range(100)]
    day = Day({"hot": hot, "cold": cold}, 10, [*calls, (20.0, "cold", 5.0)])
    day.run()
    assert not any(day.lines.values())
    assert day.longest <= 2 * residence + 1.5 + 5.0 + 2 * (WAKING + FALLING)


@given(days(), st.floats(0, 100))
def test_the_forecast_is_kept_where_nothing_else_happens(day: Day, now: float) -> None:
    """Whoever is told when there is room for it finds it then, if it is the only one to ask."""
    day.run()
    residents = list(day.servers.values())
    asleep = [each for each in residents if each.state == "asleep"]
    told = plan(residents, day.budget, day.now + now).free_at
    for each in asleep:
        asked = [replace(r, wanted=day.now) if r is each else r for r in residents]
        at = told[each.name]
        assert at < NEVER
        then = plan(asked, day.budget, max(at, day.now + now))
        assert each.name in then.wake or then.drain

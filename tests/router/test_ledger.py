"""The ledger: what is known of a request, told as listeners hear it."""

from __future__ import annotations

import pytest

from router.faults import Blame, Fault
from router.fleet import Price
from router.ledger import BYTES_PER_TOKEN, Ledger, Tally
from router.steps import Usage
from tests.fleets import request

DEAR = Price(10.0, 20.0)
USED = Usage(5, 7)


def ledger() -> Ledger:
    return Ledger(request(), "auto", 3, "ann", 100.0, DEAR)


def tally(model: str = "small", usage: Usage | None = USED, *, answer: bool = True) -> Tally:
    return Tally(model, f"{model}:1", 101.0, Price(1.0, 2.0), 400, usage=usage, answer=answer)


def test_times_are_told_as_seconds_since_the_beginning() -> None:
    kept = ledger()
    kept.first_byte = 102.5
    one = tally()
    one.first_byte, one.ended = 102.0, 103.0
    kept.tallies.append(one)
    ended = kept.ended(104.0)
    assert (ended.first_byte, ended.seconds) == (2.5, 4.0)
    assert (ended.attempts[0].first_byte, ended.attempts[0].seconds) == (1.0, 2.0)


def test_an_attempt_under_way_lasts_until_now() -> None:
    assert tally().told(105.0, 100.0).seconds == 4.0


def test_an_answer_that_was_cut_short_is_estimated() -> None:
    cut = tally(usage=None)
    cut.pieces, cut.blame = 9, Blame.GONE
    told = cut.told(105.0, 100.0)
    assert told.estimated
    assert told.usage == Usage(400 // BYTES_PER_TOKEN, 9)
    assert told.cost == pytest.approx((100 * 1 + 9 * 2) * 1e-6)


@pytest.mark.parametrize(("pieces", "blame"), [(0, Blame.GONE), (9, None)])
def test_nothing_is_made_up_of_an_attempt_that_said_nothing_or_all(
    pieces: int, blame: Blame | None
) -> None:
    silent = tally(usage=None)
    silent.pieces, silent.blame = pieces, blame
    assert (silent.told(105.0, 100.0).usage, silent.told(105.0, 100.0).estimated) == (None, False)


def test_who_wrote_the_answer_and_what_everything_cost() -> None:
    kept = ledger()
    kept.tallies += [
        tally("small", answer=False),
        tally("large", Usage(5, 3)),
        tally("small", Usage(8, 4)),
        tally("large", None),
    ]
    assert kept.written() == {"large": 3, "small": 4}
    assert kept.delivered(105.0) == Usage(5, 7)
    assert kept.spent == pytest.approx(((5 + 5 + 8) * 1 + (7 + 3 + 4) * 2) * 1e-6)
    ended = kept.ended(105.0)
    assert ended.cost == pytest.approx(kept.spent)
    assert ended.baseline == pytest.approx((5 * 10 + 7 * 20) * 1e-6)


def test_why_is_the_reason_with_its_detail() -> None:
    kept = ledger()
    assert kept.why == ""
    kept.reason = "drawn"
    assert kept.why == "drawn"
    kept.detail = "large"
    assert kept.why == "drawn; large"


def test_a_fault_is_told() -> None:
    kept = ledger()
    kept.fault, kept.status = Fault(Blame.BUSY, "full", 503), 503
    ended = kept.ended(105.0)
    assert (ended.status, ended.blame, ended.message) == (503, Blame.BUSY, "full")
    assert kept.ended(105.0).key == "ann"


def test_what_runs_side_by_side_is_waited_for_once_per_model() -> None:
    made = ledger()
    made.tallies = [
        Tally("small", "a:1", 1.0, Price(), 0, ended=3.0),
        Tally("judge", "j:1", 3.0, Price(), 0, ended=4.0),
        Tally("judge", "j:1", 3.5, Price(), 0),
        Tally("small", "a:1", 2.0, Price(), 0, ended=2.5),
    ]
    made.asked.append(("embedder", 0.0, 0.5))
    assert made.waits(5.0) == {"embedder": 0.5, "small": 2.0, "judge": 2.0}

"""The last decisions: how many are kept, in which order, and what is left out."""

from __future__ import annotations

from dataclasses import replace

from app.ui.recent import Recent
from router.faults import Blame
from router.observe import Refused
from tests.app.observations import ENDED, attempt


async def test_the_last_are_kept_newest_first() -> None:
    times = iter(range(100))
    recent = Recent(lambda: next(times), kept=3)
    recent(Refused("models", 404, Blame.CLIENT, None, None))
    for number in range(5):
        recent(replace(ENDED, id=f"req-{number}"))
    kept = await recent.decisions()
    assert [one.id for one in kept] == ["req-4", "req-3", "req-2"]
    assert [one.when for one in kept] == [4, 3, 2]


async def test_a_decision_holds_what_an_operator_asks_for() -> None:
    recent = Recent(lambda: 1.0)
    told = (attempt("small", answer=False), attempt("large", cost=0.5))
    recent(replace(ENDED, attempts=told, cost=0.6, baseline=1.0, reason="why", said=("a", "b")))
    (one,) = await recent.decisions()
    assert one.written == {"large": 50}
    assert one.tokens == 50
    assert one.attempts == 2
    assert one.saved == 0.4
    assert one.said == ("a", "b")


async def test_what_a_backend_says_of_a_bad_request_is_not_kept() -> None:
    recent = Recent()
    recent(replace(ENDED, blame=Blame.CLIENT, message="your prompt was ..."))
    recent(replace(ENDED, blame=Blame.BACKEND, message="refused"))
    assert [one.message for one in await recent.decisions()] == ["refused", ""]

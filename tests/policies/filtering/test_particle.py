"""A particle grows by the same text however that is cut into events."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from policies.duet.asked import Asked
from policies.duet.handoff import Length, Repeats
from policies.duet.sheet import Border
from policies.duet.stops import Stops
from policies.filtering.particle import Particle, Strand, distinct
from policies.filtering.particle import given as written
from router.steps import Attempt, Emit, Finished
from tests.fleets import attempt, delta

ONE = attempt("small", "a:1")
TWO = attempt("small", "b:1", 1)
ENDS = Length(512, extendable=True)


def grown(
    start: Particle, pieces: list[str], asked: Asked, of: Attempt = ONE, *, last: bool = False
) -> Particle:
    """By these events, and by the end of the call."""
    border = None if last else Border("\n\n", 512, None, "")
    strand = Strand(start, asked, border, Repeats("\n\n" if start.text.endswith("\n\n") else ""))
    for piece in pieces:
        strand.take(delta(of, piece))
    strand.ends("stop", None, ENDS)
    return strand.grown(of)


def start(asked: Asked) -> Particle:
    return Particle(Stops(asked.stops, keep=asked.keeps_stop))


@given(st.text("a7\n.", max_size=20), st.lists(st.integers(0, 20), max_size=6), st.booleans())
def test_the_cuts_make_no_difference(text: str, cuts: list[int], stops: bool) -> None:
    asked = Asked(stops=("7\n", ".\n\n7") if stops else ())
    edges = [0, *sorted(cut for cut in cuts if cut <= len(text)), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges) if a < b]
    whole, cut = (grown(start(asked), parts, asked) for parts in ([text] if text else [], pieces))
    assert cut.shown == whole.shown
    assert (cut.finished, cut.stale) == (whole.finished, whole.stale)
    if whole.finished:  # what stands behind a stop string is nobody's business
        return
    assert cut.text == whole.text
    again, later = (grown(one, ["\n\n7\n\nOver"], asked, TWO) for one in (whole, cut))
    assert later.shown == again.shown


def test_white_space_that_a_template_stripped_is_not_written_twice() -> None:
    asked = Asked()
    first = grown(start(asked), ["So\n\n", "lost"], asked)
    assert (first.text, first.finished) == ("So\n\n", None)
    second = grown(first, ["\n", "\n7"], asked, TWO)
    assert second.text == "So\n\n7"


def test_it_is_written_in_the_name_of_the_calls_that_it_came_from() -> None:
    asked = Asked()
    first = grown(start(asked), ["So\n\n"], asked)
    second = grown(first, ["7"], asked, TWO, last=True)
    end = Finished(TWO, "stop")
    steps = list(written(second, (ONE, TWO)))
    assert [(step.attempt, step.text) for step in steps if isinstance(step, Emit)] == [
        (ONE, "So\n\n"), (TWO, "7"), (TWO, ""),
    ]  # fmt: skip
    assert steps[-1] == Emit(TWO, "", finish=end, beside=(ONE, TWO))


def test_particles_with_one_text_are_found() -> None:
    asked = Asked()
    one, other = (grown(start(asked), [text], asked) for text in ("7\n\n", "8\n\n"))
    assert list(distinct([one, other, one])) == [("7\n\n", [0, 2]), ("8\n\n", [1])]

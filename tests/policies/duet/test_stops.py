"""Stop strings are found where they are complete first, however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.duet.stops import Stops
from tests.policies.duet.composed import cut

texts = st.text("ab ", max_size=12)


def fed(stops: Stops, *pieces: str) -> list[str]:
    return [stops.feed(piece) for piece in pieces]


def test_without_strings_nothing_is_held_back() -> None:
    assert fed(Stops(()), "a", "b") == ["a", "b"]
    assert fed(Stops(("",)), "a", "b") == ["a", "b"]


def test_what_may_become_a_stop_string_is_held_back() -> None:
    stops = Stops(("END",))
    assert fed(stops, "the E", "N", "tire EN") == ["the ", "", "ENtire "]
    assert stops.rest() == "EN"
    assert stops.rest() == ""


def test_it_may_begin_in_one_models_text_and_end_in_the_others() -> None:
    stops = Stops(("END",))
    assert fed(stops, "the E", "N", "D of it", "more") == ["the ", "", "", ""]
    assert (stops.found, stops.rest()) == ("END", "")


def test_it_may_be_kept() -> None:
    stops = Stops(("END",), keep=True)
    assert fed(stops, "the E", "ND of it") == ["the ", "END"]


@pytest.mark.parametrize("pieces", [("abc",), ("ab", "c"), ("a", "b", "c")])
def test_of_two_the_one_that_is_complete_first_counts(pieces: tuple[str, ...]) -> None:
    stops = Stops(("abc", "b"))
    assert "".join(fed(stops, *pieces)) == "a"
    assert stops.found == "b"


def test_of_two_that_end_alike_the_one_named_first_counts() -> None:
    for strings, shown in ((("cab", "ab"), "x"), (("ab", "cab"), "xc")):
        stops = Stops(strings)
        assert fed(stops, "xcab") == [shown]
        assert stops.found == strings[0]


@given(st.lists(texts, max_size=6), st.lists(texts, max_size=3), st.booleans())
def test_the_cuts_of_the_text_make_no_difference(
    pieces: list[str], strings: list[str], keep: bool
) -> None:
    stops = Stops(strings, keep=keep)
    shown = "".join(fed(stops, *pieces)) + stops.rest()
    assert (shown, stops.found) == cut("".join(pieces), strings, keep=keep)

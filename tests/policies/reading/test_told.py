"""A reading in one line: who writes it and who reads it agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.reading.told import READ, Told
from router.ledger import told as reason_of

LINE = (
    "passages; location 0.80, reasoning 0.10, comp 0.07, hallu 0.03; documents of 6000 tokens; "
    "1700 of 6100 to small, expects 0.71"
)


@st.composite
def readings(draw: st.DrawFn) -> Told:
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=3, max_size=3)))
    ends = zip([0, *cuts], [*cuts, 100], strict=True)
    count = st.integers(0, 10**9)
    return Told(
        tuple((end - begin) / 100 for begin, end in ends),
        draw(count),
        draw(count),
        draw(count),
        draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:@+/-]*", fullmatch=True)),
        draw(st.integers(0, 100)) / 100,
    )


@given(readings(), st.sampled_from([*READ]), st.sampled_from(["", "; 3 of 9 passages: 1:0-40"]))
def test_what_is_written_is_read_back(told: Told, reason: str, more: str) -> None:
    found = Told.read(reason_of(reason, f"{told}{more}"))
    assert found is not None
    way, read = found
    assert way == READ[reason]
    assert read.chances == pytest.approx(told.chances)
    assert (read.documents, read.sent, read.whole) == (told.documents, told.sent, told.whole)
    assert (read.target, read.value) == (told.target, told.value)


def test_rounded_chances_sum_to_one_again() -> None:
    said = f"whole; {Told((1 / 3, 1 / 3, 1 / 3, 0.0), 1, 1, 1, 'a', 0.5)}"
    found = Told.read(said)
    assert found is not None
    assert "0.33, " in said
    assert sum(found[1].chances) == pytest.approx(1)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "passages",
        LINE.replace("passages", "kept_refusal; unanswerable 0.90"),
        LINE.replace("passages", "cut"),
        LINE.replace("small", "small large"),
        LINE.replace("6000", "many"),
        LINE.replace("comp", "sums"),
        LINE + " and more",
        LINE.replace("0.80", "0.00")
        .replace("0.10", "0.00")
        .replace("0.07", "0.00")
        .replace("0.03", "0.00"),
    ],
)
def test_nothing_else_is_taken_for_a_reading(said: str) -> None:
    assert Told.read(LINE) is not None
    assert Told.read(said) is None


@given(st.text())
def test_any_text_is_read_or_is_none(said: str) -> None:
    assert Told.read(said) is None
    Told.read(f"passages; {said}")

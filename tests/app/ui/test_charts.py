"""Charts as paths, and numbers as words."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from app.ui.charts import Line, areas, ceiling, lines
from app.ui.words import DASH, count, dollars, pace, seconds, share, span, stamp


def test_areas_stand_on_one_another() -> None:
    small, large = Line("small", "w0", [1, 2, 1]), Line("large", "w1", [3, 0, 1])
    chart = areas("Who", "tokens/s", [small, large], pace)
    assert (chart.top, chart.middle) == ("5", "2.5")
    assert chart.areas[0].line == "M0.0 80.0h1L300.0 60.0L600.0 80.0"
    assert chart.areas[1].line == "M0.0 20.0h1L300.0 60.0L600.0 60.0"
    assert chart.areas[1].fill.endswith("L600.0 80.0L300.0 60.0L0.0 80.0Z")
    assert chart.told == "Who, tokens/s: at most 4; at the end small 1, large 1."


def test_a_line_has_gaps_where_nothing_is_known() -> None:
    chart = lines("Time", "s", [Line("half", "half", [None, 1.0, None, 2.0, 2.0, None])], seconds)
    assert chart.areas[0].line == "M120.0 50.0h1M360.0 0.0h1L480.0 0.0"
    assert chart.areas[0].latest == "2.00 s"
    assert not chart.areas[0].fill


@pytest.mark.parametrize("values", [[], [None, None], [0.0, 0.0]])
def test_nothing_is_drawn_as_nothing(values: list[float | None]) -> None:
    chart = lines("Cost", "USD", [Line("spent", "spent", values)], dollars)
    assert chart.empty
    assert "nan" not in chart.areas[0].line


@pytest.mark.parametrize("value", [1e-9, 0.7, 1, 1.01, 2.4, 9.99, 10, 123, 99_999, 1e12])
def test_an_axis_has_room_and_not_too_much(value: float) -> None:
    top = ceiling(value)
    assert value * 0.999 <= top <= value * 2.51
    assert top / 10 ** math.floor(math.log10(top)) == pytest.approx(
        round(top / 10 ** math.floor(math.log10(top)), 1)
    )


def test_numbers_as_people_read_them() -> None:
    assert [count(n) for n in (0, 1234, 12_345, 5e6, 2e9, None)] == [
        "0", "1,234", "12.3k", "5M", "2G", DASH,
    ]  # fmt: skip
    assert [pace(n) for n in (0, 0.0123, 4.567, 1234, None)] == [
        "0",
        "0.0123",
        "4.57",
        "1,234",
        DASH,
    ]
    assert [seconds(n) for n in (0.00123, 0.0994, 0.42, 12.3, None)] == [
        "1.23 ms", "99.4 ms", "0.42 s", "12 s", DASH,
    ]  # fmt: skip
    assert [share(n) for n in (0, 0.034, 0.5, -0.057, 1.0, None)] == [
        "0 %", "3.4 %", "50 %", "-5.7 %", "100 %", DASH,
    ]  # fmt: skip
    assert [dollars(n) for n in (1.25, 0.0000075, -0.5, 0, None)] == [
        "$1.25", "$0.0000075", "-$0.50", "$0.00", DASH,
    ]  # fmt: skip
    assert [span(n) for n in (0, 59.6, 61, 3600, 90_061)] == [
        "0 s", "1 min", "1 min 1 s", "1 h", "1 d 1 h",
    ]  # fmt: skip
    assert stamp(0.0) == stamp(datetime(1970, 1, 1, tzinfo=UTC)) == "1970-01-01T00:00:00Z"

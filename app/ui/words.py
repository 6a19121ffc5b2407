"""Numbers and times as people read them: units always, and no digit that says nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from app.chat import usd

__all__ = ["FILTERS", "count", "pace", "seconds", "share", "span", "stamp", "usd"]

DASH = "\N{EN DASH}"
"""Stands where nothing is known."""
THOUSANDS = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))
"""From where on a number is told in which unit: a thousand still has all its digits."""
SPANS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def count(number: float | None) -> str:
    """How many: 1,234, then 12.3k."""
    if number is None:
        return DASH
    for least, unit, letter in THOUSANDS:
        if number >= least:
            return f"{number / unit:.3g}{letter}"
    return f"{number:,.0f}"


def pace(number: float | None) -> str:
    """How many a second, with as many digits as say something."""
    if number is None:
        return DASH
    return count(number) if number >= 100 else f"{number:.3g}" if number >= 0.001 else "0"


def seconds(value: float | None) -> str:
    """A time of answering: 42 ms, 1.25 s."""
    if value is None:
        return DASH
    if value < 0.0995:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def share(value: float | None) -> str:
    """A part of a whole, in percent; with one digit more where it is small."""
    if value is None:
        return DASH
    percent = value * 100
    return f"{percent:.1f} %" if 0 < abs(percent) < 10 else f"{percent:.0f} %"


def span(value: float) -> str:
    """A long time, in its two largest units: 3 d 4 h, 5 min 10 s."""
    left = round(value)
    parts = []
    for size, name in SPANS:
        if left >= size:
            parts.append(f"{left // size} {name}")
            left %= size
    if left or not parts:
        parts.append(f"{left} s")
    return " ".join(parts[:2])


def stamp(when: float | datetime) -> str:
    """A moment as a machine reads it; the script tells it in the reader's own time."""
    moment = when if isinstance(when, datetime) else datetime.fromtimestamp(when, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def dollars(value: float | None) -> str:
    """USD; a loss has its sign before the dollar's."""
    if value is None:
        return DASH
    return f"-{usd(-value)}" if value < 0 else usd(value)


FILTERS: Mapping[str, Callable[..., Any]] = {
    "count": count,
    "pace": pace,
    "seconds": seconds,
    "share": share,
    "span": span,
    "stamp": stamp,
    "usd": dollars,
}
"""What templates may say of a number."""

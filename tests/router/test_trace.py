"""Trace context: what is read of a client's headers, and what a backend is told."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.trace import LONGEST_STATE, MOST_SPANS, Caller, Trace, caller

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BY = Caller(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, sampled=True)


def test_a_caller_is_read() -> None:
    assert caller({"traceparent": PARENT}) == BY
    assert caller({"traceparent": PARENT[:-1] + "0"}) == Caller(BY.trace, BY.span, sampled=False)


def test_a_later_version_may_say_more() -> None:
    assert caller({"traceparent": f"cc{PARENT[2:]}-what-else"}) == BY


@pytest.mark.parametrize(
    "said",
    [
        "",
        PARENT.upper(),
        PARENT + "-more",
        "ff" + PARENT[2:],
        PARENT[:-3],
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        f" {PARENT}",
        f"{PARENT}\n",
    ],
)
def test_what_is_not_as_w3c_says_names_nobody(said: str) -> None:
    assert caller({"traceparent": said}) is None


@settings(max_examples=30)
@given(st.text(), st.text())
def test_no_header_breaks_anything(parent: str, state: str) -> None:
    found = caller({"traceparent": parent, "tracestate": state})
    assert found is None or found.trace > 0


def test_a_backend_hears_of_the_attempts_span() -> None:
    trace = Trace(BY.trace, 7, sampled=True)
    assert trace.headers(9) == {"traceparent": f"00-{BY.trace:032x}-{9:016x}-01"}
    assert caller(trace.headers(9)) == Caller(BY.trace, 9, sampled=True)


def test_without_one_of_its_own_it_hears_of_the_requests() -> None:
    told = Trace(BY.trace, 7, sampled=False).headers(0)
    assert caller(told) == Caller(BY.trace, 7, sampled=False)


def test_only_so_many_attempts_have_spans() -> None:
    trace, rng = Trace(1, 2, sampled=True), random.Random(0)
    spans = [trace.child(number, rng) for number in range(MOST_SPANS + 10)]
    assert all(spans[:MOST_SPANS])
    assert len(set(spans[:MOST_SPANS])) == MOST_SPANS
    assert not any(spans[MOST_SPANS:])


def test_the_callers_state_goes_on_with_its_trace_and_with_no_other() -> None:
    by = caller({"traceparent": PARENT, "tracestate": "vendor=1"})
    assert by is not None
    assert Trace(by.trace, 7, True, by, continued=True).headers(0)["tracestate"] == "vendor=1"
    assert "tracestate" not in Trace(3, 7, True, by, continued=False).headers(0)


def test_a_state_that_is_too_long_is_left_out() -> None:
    long = {"traceparent": PARENT, "tracestate": "v=" + "x" * LONGEST_STATE}
    assert caller(long) == BY

"""The overhead benchmark's own parts: what it sends, counts, compares and calls a failure."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from app.bench.figures import Figure, Report, Target, ratios, summary
from app.bench.load import PROMPT_BYTES, Plan, Result, request_bytes
from app.bench.processes import BenchError, Running, free_port, load, module, running
from app.bench.swaps import verdict

CHUNKS = 8


@pytest.fixture(scope="module")
def backend() -> Iterator[Running]:
    port = free_port()
    with running(module("app.bench.upstream", port, CHUNKS, 1), port, cpu=None) as process:
        yield process


def result(marks: dict[str, int], errors: int = 0) -> Result:
    answers = sum(marks.values())
    return Result(answers, 0, errors, 1.0, 1.0, 1.0, marks, "")


def test_a_request_is_one_kilobyte_of_json_with_its_key() -> None:
    head, _, body = request_bytes(Plan(80, 1, 1.0, stream=True, key="k")).partition(b"\r\n\r\n")
    assert len(body) == PROMPT_BYTES
    assert json.loads(body)["stream"] is True
    assert b"authorization: Bearer k" in head


def test_whole_answers_are_counted_with_the_model_that_they_name(backend: Running) -> None:
    plan = Plan(backend.port, 2, 0.2, warmup=0.0, model="some", collect=True)
    found = load(plan, backend, None).result
    assert found.answers > 0
    assert (found.errors, found.chunks, set(found.marks)) == (0, 0, {":some"})


def test_streams_are_counted_by_event(backend: Running) -> None:
    found = load(Plan(backend.port, 2, 0.3, stream=True, warmup=0.0), backend, None).result
    assert found.errors == 0
    # Its events and the closing one for each stream but those two that may have begun before.
    assert found.chunks >= (found.answers - 2) * (CHUNKS + 1) > 0


def test_an_open_loop_keeps_its_rate(backend: Running) -> None:
    found = load(Plan(backend.port, 8, 0.5, rate=200, warmup=0.1), backend, None).result
    assert 0 < found.answers <= 1.5 * 200 * found.seconds


def test_what_a_proxy_refuses_is_told(backend: Running) -> None:
    silent = free_port()
    plan = Plan(silent, 1, 0.2, warmup=0.0)
    found = load(plan, backend, None).result
    assert found.answers == 0
    assert found.complaint.startswith("no connection")


def test_a_process_that_ends_at_once_is_an_error_with_its_words() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such thing')"]
    with (
        pytest.raises(BenchError, match="no such thing"),
        running(command, free_port(), cpu=None),
    ):
        pass


@pytest.mark.parametrize(
    ("marks", "errors", "met"),
    [
        ({"2:a": 5, "3:b": 1}, 0, (True, True)),
        ({"2:a": 5, "3:a": 1}, 0, (True, False)),
        ({"2:a,b": 1}, 0, (True, False)),
        ({":a": 1}, 0, (True, False)),
        ({"2:a": 5}, 1, (False, True)),
    ],
    ids=["well", "another config's", "half and half", "no revision", "failed"],
)
def test_a_swap_that_shows(marks: dict[str, int], errors: int, met: tuple[bool, bool]) -> None:
    meant = {"2": "a", "3": "b"}
    failed, mixed, _ = verdict(meant, [result(marks, errors)], [1.0])
    assert (failed.met, mixed.met) == met


def test_a_missed_target_fails_the_report() -> None:
    good = summary("good", [0.7, 0.6, 0.9], "", Target(0.65))
    bad = Figure("bad", 6.0, 5.0, 7.0, "ms", Target(5.0, at_least=False))
    assert (good.value, good.low, good.high, good.met, bad.met) == (0.7, 0.6, 0.9, True, False)
    report = Report({}, [good, bad])
    assert not report.met
    assert "MISSED" in report.as_text()
    assert [figure["met"] for figure in json.loads(report.as_json())["figures"]] == [True, False]
    assert Report({}, [good]).met


def test_ratios_are_taken_repetition_by_repetition() -> None:
    assert ratios([1.0, 4.0], [2.0, 2.0]) == [0.5, 2.0]

"""The log as somebody reads it: real files and pipes, and what happens when they fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.log import Log, LogError
from router.faults import Blame
from router.observe import (
    BackendChanged,
    Kept,
    Refused,
    RevisionActivated,
    Shadowed,
    ShadowFailed,
    SleepChanged,
)
from router.steps import Usage
from tests.app.observations import attempt, request

NOON = 1_790_000_000.25  # 2026-09-21T14:13:20.250Z
PATIENCE = 10.0


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def until(condition: Callable[[], object]) -> None:
    """Wait for the writing thread to get there."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.001)


def logged(path: Path, *observations: Any) -> list[dict[str, Any]]:
    log = Log(str(path), now=lambda: NOON)
    for observation in observations:
        log(observation)
    log.close()
    return lines(path)


def test_a_request_is_one_line_with_its_attempts(tmp_path: Path) -> None:
    draft = attempt("small", Usage(100, 40, 0), answer=False)
    lost = attempt("large", None, blame=Blame.BACKEND, answer=False)
    answer = attempt(cost=0.2, estimated=True)
    ended = request(attempts=(draft, lost, answer), reason="draft_refused", cost=0.2)

    (line,) = logged(tmp_path / "log", ended)

    assert line["time"] == "2026-09-21T14:13:20.250Z"
    assert line["event"] == "request"
    assert (line["id"], line["key"], line["policy"], line["revision"]) == (
        "req-1",
        "alice",
        "auto",
        3,
    )
    assert line["surface"] == "chat/completions"
    assert line["overhead"] == pytest.approx(0.0005)
    assert line["tokens"] == {"large": 50}
    assert [a["fault"] for a in line["attempts"]] == [None, "backend", None]
    assert [a["estimated"] for a in line["attempts"]] == [False, False, True]
    assert [a["cost_usd"] for a in line["attempts"]] == [0.0, 0.0, 0.2]
    assert [a["completion"] for a in line["attempts"]] == [40, None, 50]


def test_everything_else_that_happens_is_a_line_too(tmp_path: Path) -> None:
    refused, backend, slept, revision = logged(
        tmp_path / "log",
        Refused("chat/completions", 401, Blame.CLIENT, "invalid_api_key", None),
        BackendChanged("large", "l.test:1", "open", "5 failures in a row"),
        SleepChanged("large", "l.test:1", "wake_failed", 2.5, "/wake_up answered 500"),
        RevisionActivated(2, "abc"),
        attempt(),  # told with its request
    )
    assert (refused["event"], refused["status"], refused["fault"]) == ("refused", 401, "client")
    assert (backend["event"], backend["state"]) == ("backend", "open")
    assert (slept["event"], slept["change"], slept["seconds"]) == ("sleep", "wake_failed", 2.5)
    assert (revision["event"], revision["number"]) == ("revision", 2)


def test_a_shadow_and_lines_that_were_lost_elsewhere_are_lines(tmp_path: Path) -> None:
    shadow, failed, lost = logged(
        tmp_path / "log",
        Shadowed("req-1", "auto", "next", "small", "large", 0.1, 0.2),
        ShadowFailed("req-2", "auto", "next", "error"),
        Kept("decision", "logged", 3),  # they are in a file of their own
        Kept("decision", "failed", 2),
    )
    assert (shadow["event"], shadow["id"], shadow["agreed"]) == ("shadow", "req-1", False)
    assert (shadow["cost_usd"], shadow["shadow_cost_usd"], shadow["score"]) == (0.1, 0.2, None)
    assert (failed["event"], failed["id"], failed["why"]) == ("shadow_failed", "req-2", "error")
    assert (lost["event"], lost["kind"], lost["count"]) == ("decisions", "decision", 2)


def test_a_message_that_may_quote_the_request_is_held_back(tmp_path: Path) -> None:
    quoting = request(status=400, blame=Blame.CLIENT, message="input_value='my canary prompt'")
    own = request(status=504, blame=Blame.GATEWAY, message="no answer within 30 s")
    theirs, ours = logged(tmp_path / "log", quoting, own)
    assert "canary" not in json.dumps(theirs)
    assert ours["message"] == "no answer within 30 s"


def test_a_second_process_appends(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logged(path, request(id="a"))
    assert [line["id"] for line in logged(path, request(id="b"))] == ["a", "b"]


@pytest.mark.parametrize("take_away", [Path.unlink, lambda p: p.rename(p.with_suffix(".1"))])
def test_rotation_needs_no_signal(tmp_path: Path, take_away: Callable[[Path], object]) -> None:
    path = tmp_path / "log"
    log = Log(str(path), interval=0.001)
    log(request(id="before"))
    until(lambda: path.stat().st_size)
    take_away(path)
    log(request(id="after"))
    log.close()
    assert [line["id"] for line in lines(path)] == ["after"]


def test_what_does_not_fit_is_dropped_and_the_count_is_told(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(str(path), capacity=2, interval=3600)
    for i in range(5):
        log(request(id=str(i)))
    assert log.dropped == 3
    log.close()
    *kept, told = lines(path)
    assert [line["id"] for line in kept] == ["0", "1"]
    assert (told["event"], told["count"]) == ("dropped", 3)


def test_a_line_that_cannot_be_encoded_does_not_stop_the_log(tmp_path: Path) -> None:
    broken, told = request(id="a", detail="\ud800"), request(id="b")
    assert [line.get("id") for line in logged(tmp_path / "log", broken, told)] == ["b", None]


def test_a_pipe_that_nobody_reads_does_not_hold_up_the_loop(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = Log(str(path), capacity=100, interval=0.001)
    while not log.dropped:
        log(request())  # returns at once, though the writing thread hangs
    log(request())

    os.set_blocking(reader, True)
    drain = threading.Thread(
        target=lambda: [None for _ in iter(lambda: os.read(reader, 65536), b"")]
    )
    drain.start()
    log.close()
    drain.join(PATIENCE)
    os.close(reader)
    assert not drain.is_alive()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full")
def test_a_failing_disk_loses_lines_and_says_so_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = Log("/dev/full", interval=0.001)
    log(request())
    until(lambda: log.dropped == 1)
    log(request())
    until(lambda: log.dropped == 2)
    log.close()
    assert capsys.readouterr().err.count("lines are lost") == 1


def test_a_write_that_the_system_cuts_short_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: whole(fd, data[:7]))
    assert [line["id"] for line in logged(tmp_path / "log", request(id="a"))] == ["a"]


def test_standard_output_is_a_dash() -> None:
    program = (
        "from app.log import Log; from router.observe import RevisionActivated;"
        "log = Log('-'); log(RevisionActivated(1, 'abc')); log.close(); print('still open')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    line, rest = done.stdout.splitlines()
    assert json.loads(line)["event"] == "revision"
    assert rest == "still open"


def test_a_log_that_cannot_be_opened_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"no/such/log: No such file.*folder that exists"):
        Log(str(tmp_path / "no" / "such" / "log"))

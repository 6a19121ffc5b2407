"""The log of decisions: what a line says, what it must not say, and what becomes of failures."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from app import decisions as module
from app.decisions import Decisions, DecisionsError, drawn, hashed
from policies import TABLE
from router.config import Form, parse
from router.faults import Blame
from router.fleet import Fleet
from router.observe import Kept, Observation, RequestEnded, Shadowed, ShadowFailed
from router.phrases import compute, note, route
from router.runtime import Runtime, build
from router.sections import DecisionsConfig
from router.steps import Policy, Request, Steps
from tests.app import observations
from tests.fleets import fleet
from tests.fleets import request as asked
from tests.running import config, eventually

NOON = 1_790_000_000.25
DOCS = Path(__file__).parents[2] / "docs/learning-from-traffic.md"
ID = "req-0123456789abcdef01234567"
SPLIT = {"use": "split", "weights": {"small": 1, "large": 3}, "sticky": False}


@dataclass(frozen=True)
class Judge:
    """Expects something of both, in an array library's numbers, off the loop."""

    reasons: ClassVar[tuple[str, ...]] = ("judged",)

    small: float
    large: float

    def route(self, request: Request, fleet: Fleet) -> Steps:
        expected = yield from compute(self._expected)
        yield from note("judged", "by eye", expected)
        return (yield from route(max(expected, key=lambda name: expected[name]), request))

    def _expected(self) -> Mapping[str, float]:
        assert threading.current_thread() is not threading.main_thread()
        return {"small": np.float32(self.small), "large": np.float32(self.large)}  # type: ignore[dict-item]


@dataclass(frozen=True)
class Broken:
    """Raises."""

    reasons: ClassVar[tuple[str, ...]] = ()

    def route(self, request: Request, fleet: Fleet) -> Steps:
        raise RuntimeError("no idea")


KINDS: dict[str, type[Policy]] = {**TABLE, "judge": Judge, "broken": Broken}


def runtime(policies: Mapping[str, Any], **sections: Any) -> Runtime:
    models = {"small": "http://127.0.0.1:1", "large": "http://127.0.0.1:2"}
    tree = config(models, policies=dict(policies), **sections)
    tree["models"]["large"]["price"] = {"input": 10.0, "output": 20.0}
    return build(parse(json.dumps(tree), KINDS, form=Form.JSON), KINDS, 3)


def ended(**changes: Any) -> RequestEnded:
    return observations.request(**{"id": ID, **changes})


class Book:
    """A log of decisions in a file, and what listeners heard of it."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.path = path
        self.heard: list[Observation] = []
        asked_for = {"capacity", "interval"} & settings.keys()
        limits = {name: settings.pop(name) for name in asked_for}
        section = DecisionsConfig(file=str(path), **settings)
        self.decisions = Decisions(section, self.heard.append, now=lambda: NOON, **limits)

    def write(
        self, under: Runtime, request: Request | None = None, end: RequestEnded | None = None
    ) -> None:
        self.decisions(under, fleet(), request or asked(), end or ended())

    def lines(self) -> list[dict[str, Any]]:
        """What the file holds after the last word."""
        self.decisions.close()
        return [json.loads(line) for line in self.path.read_bytes().split(b"\n")[:-1]]


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path / "decisions.jsonl")


# -------------------------------------------------------------------------------- what a line says


async def test_a_line_has_exactly_the_fields_of_the_schema(book: Book) -> None:
    end = ended(cost=0.2, baseline=0.3, seconds=1.5, said=("drawn; large",))
    request = asked(session="alice", draw=0.9, body={"messages": [], "seed": 7})
    book.write(runtime({"auto": SPLIT}), request, end)
    (line,) = book.lines()
    assert line == {
        "at": NOON,
        "id": ID,
        "policy": "auto",
        "revision": 3,
        "surface": "chat/completions",
        "stream": False,
        "session": hashed("alice"),
        "body": {"model": "auto", "messages": [], "seed": 7},
        "arm": "large",
        "chances": {"small": 0.25, "large": 0.75},
        "expected": {},
        "reason": "drawn",
        "detail": "large",
        "said": ["drawn; large"],
        "served": {"large": 50},
        "status": 200,
        "blame": None,
        "cost": 0.2,
        "baseline": 0.3,
        "idealised_seconds": None,
        "idealised_usd": None,
        "seconds": 1.5,
        "prompt_tokens": 100,
        "completion_tokens": 50,
    }
    assert book.heard == [Kept("decision", "logged")]


async def test_the_documentation_shows_the_lines_as_they_are(book: Book) -> None:
    page = DOCS.read_text(encoding="utf-8")
    shown = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL)]
    book.write(runtime({"auto": SPLIT}))
    book.decisions.feedback([(ID, 1)])
    assert [list(line) for line in shown] == [list(line) for line in book.lines()]
    table = page.partition("| field | |")[2].partition("\n\n")[0]
    told = [
        name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])
    ]
    assert told == list(shown[0])


async def test_what_is_expected_is_computed_off_the_loop_and_logged(book: Book) -> None:
    book.write(runtime({"auto": {"use": "judge", "small": 0.25, "large": 0.75}}))
    (line,) = book.lines()
    assert line["expected"] == {"small": 0.25, "large": 0.75}
    assert (line["arm"], line["reason"], line["detail"]) == ("large", "judged", "by eye")


async def test_an_answer_that_failed_is_a_line_too(book: Book) -> None:
    end = ended(status=502, blame=Blame.BACKEND, attempts=())
    book.write(runtime({"auto": SPLIT}), end=end)
    (line,) = book.lines()
    assert (line["status"], line["blame"], line["served"]) == (502, "backend", {})
    assert (line["prompt_tokens"], line["completion_tokens"]) == (0, 0)


async def test_a_model_by_its_own_name_decides_nothing(book: Book) -> None:
    under = runtime({"auto": SPLIT, "alias": {"use": "direct", "model": "small"}})
    book.write(under, end=ended(policy="small"))
    book.write(under, end=ended(policy="alias"))
    assert [line["policy"] for line in book.lines()] == ["alias"]


async def test_prompts_are_left_out_if_so_configured(tmp_path: Path) -> None:
    book = Book(tmp_path / "log", prompts=False)
    book.write(runtime({"auto": SPLIT}))
    (line,) = book.lines()
    assert "body" not in line
    assert "What is" not in book.path.read_text()


async def test_a_body_keeps_its_bytes_on_one_line(book: Book) -> None:
    raw = b'{"model": "auto",\r\n "messages": [],\n "big": 12345678901234567890123, "t": "a\\nb"}\n'
    book.write(runtime({"auto": SPLIT}), replace(asked(), body=json.loads(raw), raw=raw))
    (line,) = book.lines()
    assert line["body"] == json.loads(raw)
    assert b"12345678901234567890123" in book.path.read_bytes()


async def test_a_session_is_told_by_its_hash_alone(book: Book) -> None:
    body = {"messages": [], "user": "canary-user", "prompt_cache_key": "canary-key"}
    book.write(runtime({"auto": SPLIT}), asked(body=body, session="canary-header"))
    (line,) = book.lines()
    assert b"canary" not in book.path.read_bytes()
    assert line["session"] == hashed("canary-header")
    assert line["body"]["user"] == hashed("canary-user")
    assert line["body"]["prompt_cache_key"] == hashed("canary-key")
    assert len(hashed("")) == 16


async def test_the_file_is_its_owners_alone(book: Book) -> None:
    book.lines()
    assert book.path.stat().st_mode & 0o077 == 0


# ---------------------------------------------------------------------------------------- a share


def test_a_share_is_drawn_by_the_id_and_not_by_what_policies_draw_with() -> None:
    ids = [f"req-{number * 2654435761 % 2**32:024x}" for number in range(4000)]
    assert all(drawn(name, 1.0) for name in ids)
    assert sum(drawn(name, 0.25) for name in ids) == pytest.approx(1000, rel=0.1)


async def test_what_is_not_in_the_share_is_no_line(tmp_path: Path) -> None:
    book = Book(tmp_path / "log", share=0.5)
    under = runtime({"auto": SPLIT})
    for last in ("00000000", "7fffffff", "80000000", "ffffffff"):
        book.write(under, end=ended(id=f"req-0000000000000000{last}"))
    assert [line["id"][-8:] for line in book.lines()] == ["00000000", "7fffffff"]


async def test_a_shadow_is_asked_whatever_the_share(tmp_path: Path) -> None:
    book = Book(tmp_path / "log", share=0.5)
    under = runtime({"auto": SPLIT}, shadow="large")
    book.write(under, end=ended(id="req-0000000000000000ffffffff"))
    assert book.lines() == []
    assert [type(seen) for seen in book.heard] == [Shadowed]


# -------------------------------------------------------------------------------------- failures


async def test_what_does_not_fit_is_dropped_and_counted(tmp_path: Path) -> None:
    book = Book(tmp_path / "log", capacity=2, interval=3600.0)
    under = runtime({"auto": SPLIT}, shadow="large")
    for number in range(5):
        book.write(under, end=ended(id=f"req-{number}"))
    assert book.heard.count(Kept("decision", "dropped")) == 3
    assert book.heard.count(ShadowFailed("req-4", "auto", "large", "dropped")) == 1
    assert [line["id"] for line in book.lines()] == ["req-0", "req-1"]
    assert book.heard.count(Kept("decision", "logged", 2)) == 1


async def test_large_bodies_are_bounded_by_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST", 1000)
    book = Book(tmp_path / "log", interval=0.001)
    under, large = runtime({"auto": SPLIT}), asked(body={"messages": [], "pad": "x" * 600})
    book.write(under, asked(body={"messages": [], "pad": "x" * 2000}))
    assert book.heard == [Kept("decision", "dropped")]
    for number in range(1, 4):  # each fits once the one before it has been written
        book.write(under, large)
        await eventually(lambda number=number: len(book.heard) > number)  # type: ignore[misc]
    assert len(book.lines()) == 3


async def test_a_policy_that_raises_is_counted_and_told_of_once(
    book: Book, capsys: pytest.CaptureFixture[str]
) -> None:
    under = runtime({"auto": {"use": "broken"}, "good": SPLIT}, shadow="good")
    book.write(under)
    book.write(under)
    book.write(under, end=ended(policy="good"))
    assert [line["policy"] for line in book.lines()] == ["good"]
    assert book.heard.count(Kept("decision", "failed")) == 2
    assert book.heard.count(ShadowFailed(ID, "auto", "good", "error")) == 2
    assert capsys.readouterr().err.count("Traceback") == 1


async def test_a_shadow_that_raises_does_not_cost_the_line(book: Book) -> None:
    book.write(runtime({"auto": SPLIT, "bad": {"use": "broken"}}, shadow="bad"))
    assert len(book.lines()) == 1
    assert ShadowFailed(ID, "auto", "bad", "error") in book.heard


async def test_a_line_that_cannot_be_encoded_does_not_stop_the_log(book: Book) -> None:
    under = runtime({"auto": SPLIT})
    book.write(under, end=ended(policy="auto", id="req-\ud800"))
    book.write(under)
    assert [line["id"] for line in book.lines()] == [ID]
    assert Kept("decision", "failed") in book.heard


@pytest.mark.parametrize("take_away", [Path.unlink, lambda p: p.rename(p.with_suffix(".1"))])
async def test_rotation_needs_no_signal(
    tmp_path: Path, take_away: Callable[[Path], object]
) -> None:
    book = Book(tmp_path / "log", interval=0.001)
    under = runtime({"auto": SPLIT})
    book.write(under, end=ended(id="before"))
    await eventually(lambda: book.path.stat().st_size > 0)
    take_away(book.path)
    book.write(under, end=ended(id="after"))
    assert [line["id"] for line in book.lines()] == ["after"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full")
async def test_a_failing_disk_loses_lines_and_says_so_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    book = Book(Path("/dev/full"), interval=0.001)
    under = runtime({"auto": SPLIT})
    for number in (1, 2):
        book.write(under)
        await eventually(lambda number=number: len(book.heard) == number)  # type: ignore[misc]
    assert book.heard == [Kept("decision", "failed")] * 2
    book.decisions.close()
    assert capsys.readouterr().err.count("lines are lost") == 1


async def test_a_pipe_that_nobody_reads_does_not_hold_up_the_loop(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    book = Book(path, capacity=100, interval=0.001)
    under = runtime({"auto": SPLIT})
    large = asked(body={"messages": [], "pad": "x" * 10_000})
    while Kept("decision", "dropped") not in book.heard:
        book.write(under, large)  # returns at once, though the thread hangs
    os.set_blocking(reader, True)
    drain = threading.Thread(
        target=lambda: [None for _ in iter(lambda: os.read(reader, 65536), b"")]
    )
    drain.start()
    book.decisions.close()
    drain.join(10)
    os.close(reader)
    assert not drain.is_alive()


def test_a_log_that_cannot_be_opened_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DecisionsError, match=r"no/such: No such file.*decisions\.file"):
        Book(tmp_path / "no" / "such")


def test_standard_output_is_no_place_for_prompts() -> None:
    with pytest.raises(DecisionsError, match=r"decisions\.file: .*standard output"):
        Book(Path("-"))


# -------------------------------------------------------------------------------------- feedback


async def test_feedback_is_a_line_behind_its_decision(book: Book) -> None:
    book.write(runtime({"auto": SPLIT}))
    assert book.decisions.feedback([(ID, 0.8), ("req-2", 0)])
    decision, first, second = book.lines()
    assert decision["id"] == ID
    assert first == {"feedback": ID, "score": 0.8, "at": NOON}
    assert second == {"feedback": "req-2", "score": 0, "at": NOON}
    assert Kept("feedback", "logged", 2) in book.heard


async def test_feedback_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    book = Book(tmp_path / "log", capacity=2, interval=3600.0)
    assert book.decisions.feedback([("req-1", 1)])
    assert not book.decisions.feedback([("req-2", 1), ("req-3", 1)])
    assert [line["feedback"] for line in book.lines()] == ["req-1"]


# ------------------------------------------------------------------------------------ the shadow


async def test_without_a_log_only_the_shadow_is_asked() -> None:
    heard: list[Observation] = []
    alone = Decisions(None, heard.append)
    assert not alone.configured
    alone(runtime({"auto": SPLIT}), fleet(), asked(), ended())
    assert alone._thread is None
    alone(runtime({"auto": SPLIT}, shadow="small"), fleet(), asked(), ended(cost=0.5))
    alone.close()
    (seen,) = heard
    assert isinstance(seen, Shadowed)
    assert (seen.policy, seen.shadow, seen.agreed) == ("auto", "small", True)
    assert seen.cost == 0.5
    assert seen.shadow_cost == pytest.approx((100 * 1 + 50 * 2) / 1e6)


async def test_a_policy_is_not_compared_with_itself(book: Book) -> None:
    book.write(runtime({"auto": SPLIT}, shadow="auto"))
    assert len(book.lines()) == 1
    assert book.heard == [Kept("decision", "logged")]


async def test_a_split_in_the_shadow_draws_what_the_request_drew(book: Book) -> None:
    """Two equal splits part nowhere, and unequal ones only where their shares differ."""
    half = {**SPLIT, "weights": {"small": 1, "large": 1}}
    for shadow in ("same", "half"):
        under = runtime({"auto": SPLIT, "same": SPLIT, "half": half}, shadow=shadow)
        for draw in (0.1, 0.3, 0.6, 0.9):
            book.write(under, asked(draw=draw))
    book.lines()
    seen = [seen for seen in book.heard if isinstance(seen, Shadowed)]
    assert [one.agreed for one in seen] == [True] * 4 + [True, False, True, True]
    assert (seen[5].arm, seen[5].shadow_arm) == ("large", "small")


async def test_an_end_with_work_undone_is_told(
    book: Book, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    monkeypatch.setattr(module, "decided", lambda *_: let_go.wait(10))
    book.write(runtime({"auto": SPLIT}))
    book.write(runtime({"auto": SPLIT}))
    book.decisions.close()
    let_go.set()
    assert "are lost at the end" in capsys.readouterr().err
    assert book.decisions._thread is not None
    book.decisions._thread.join(10)

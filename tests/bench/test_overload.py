"""`tandem bench overload`: what it makes of points, and a short run of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.bench.figures import Report
from app.bench.overload_measure import Found, Outcome, Plan, Point, _figures, _point
from app.cli import main


def point(way: str, load: float, good: float, repetition: int = 0) -> Point:
    return Point(way, load, 40 * load, good, 0.1, 0.2, 0.0, 0.5, repetition)


def test_what_is_left_is_a_share_of_the_large_models_peak() -> None:
    points = [
        *(point("queue", load, good) for load, good in ((1.0, 36.0), (3.0, 38.0))),
        *(point("queue", load, good, 1) for load, good in ((1.0, 40.0), (3.0, 30.0))),
        *(point("unlimited", load, good) for load, good in ((1.0, 40.0), (3.0, 4.0))),
        *(point("overload", load, good) for load, good in ((1.0, 40.0), (3.0, 120.0))),
    ]
    found = {figure.name: figure for figure in _figures(points)}
    queue = found["goodput at 3x / peak, queue"]
    assert (queue.value, queue.low, queue.high) == (0.85, 0.75, 0.95)
    assert queue.met is False
    assert found["goodput at 3x / peak, unlimited"].value == 0.1
    assert found["goodput at 3x / peak, overload"].value == 3.0
    assert found["goodput at 3x / peak, unlimited"].met is None


def test_requests_are_good_shed_late_or_answered_by_the_smaller_model() -> None:
    outcomes = [
        Outcome(200, "queue", whole=True, seconds=0.5),
        Outcome(200, "small", whole=True, seconds=0.1),
        Outcome(200, "small", whole=True, seconds=0.3),
        Outcome(503),
        Outcome(200, "queue"),
        Outcome(),
    ]
    made = _point(Plan((1.0,), seconds=2.0), "overload", 1.0, outcomes, 0)
    assert (made.offered, made.good, made.seconds) == (3.0, 1.5, 0.3)
    assert (made.shed, made.late, made.cheaper) == (1 / 6, 2 / 6, 2 / 6)


def test_the_table_has_a_line_for_each_load() -> None:
    points = [point(way, 1.0, 40.0) for way in ("unlimited", "queue", "overload")]
    lines = Found(Report({}), points).as_text().splitlines()
    assert [line.split()[:3] for line in lines[-3:]] == [
        [way, "1x", "40.0"] for way in ("unlimited", "queue", "overload")
    ]


@pytest.mark.slow
def test_a_short_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "overload.png"
    few = ["--loads", "0.5,3", "--seconds", "2", "--slots", "8", "--patience", "1.5"]
    main(["bench", "overload", "--json", "--plot", str(picture), *few])
    tree = json.loads(capsys.readouterr().out)
    good = {(each["way"], each["load"]): each["good"] for each in tree["points"]}
    assert good["queue", 3.0] > 2 * good["unlimited", 3.0]
    assert good["overload", 3.0] > good["queue", 3.0]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_loads_are_positive() -> None:
    with pytest.raises(SystemExit):
        main(["bench", "overload", "--loads", "1,0"])

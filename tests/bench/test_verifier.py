"""`tandem bench verifier`: the sums are those of a simulation, and the command measures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from app.bench.verifier_measure import Samples, curves
from app.bench.verifier_rows import Point, best, table
from app.cli import main

RIGHT = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 0]], float)
SAMPLES = Samples(RIGHT, np.full(4, 10.0), np.array([1.0, 1.0, 1.0, 0.0]), np.full(4, 20.0))


def of(points: list[Point], error: float, *, large: bool) -> dict[int, Point]:
    return {p.most: p for p in points if (p.error, p.large) == (error, large)}


def test_a_verifier_without_faults_only_gains_by_more_samples() -> None:
    own = of(curves(SAMPLES, [0.0]), 0.0, large=False)
    shares = [own[most].accuracy for most in sorted(own)]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(3 / 4)  # all but the problem of which no sample is right
    assert {point.deceived for point in own.values()} == {0.0}


def test_one_that_accepts_everything_stops_at_the_first() -> None:
    own = of(curves(SAMPLES, [1.0]), 1.0, large=True)
    assert len({round(point.accuracy, 9) for point in own.values()}) == 1
    assert own[4].avg_params == pytest.approx(own[1].avg_params)
    assert own[4].accepted == pytest.approx(1)


def test_the_large_model_answers_what_is_not_accepted() -> None:
    own = of(curves(SAMPLES, [0.0]), 0.0, large=True)
    assert own[4].accuracy == pytest.approx(1)  # it knows what no sample does
    assert own[4].accepted == pytest.approx(3 / 4)


@pytest.mark.parametrize("large", [False, True])
def test_the_sums_are_those_of_a_simulation(large: bool) -> None:
    error, most = 0.3, 3
    rng, tries, good, used = np.random.default_rng(1), 20_000, 0.0, 0.0
    for _ in range(tries):
        problem = rng.integers(4)
        for right in rng.permutation(RIGHT[problem])[:most]:
            used += 1
            if right or rng.random() < error:
                good += right
                break
        else:
            good += SAMPLES.large_right[problem] if large else 0.0
    point = of(curves(SAMPLES, [error]), error, large=large)[most]
    assert point.accuracy == pytest.approx(good / tries, abs=0.03)
    assert point.accuracy_low <= point.accuracy <= point.accuracy_high


def test_the_best_number_is_the_smallest_of_equal_ones_and_stands_in_the_table() -> None:
    points = curves(SAMPLES, [0.0, 1.0])
    assert best(points, 1.0, large=False).most == 1
    lines = table(points).splitlines()
    assert len(lines) == 2 + 4
    assert len({line.count("|") for line in lines}) == 1


def test_seeds_of_training_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "verifier", "--seed", "5"]) == 2
    assert "--tuning" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_measures_on_the_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "verifier.png"
    asked = ["--seed", "1000003", "--tuning", "--n", "6", "--errors", "0", "0.2"]
    assert main(["bench", "verifier", *asked, "--json", "--plot", str(plot)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["points"]) == 2 * 2 * 16
    assert plot.stat().st_size > 10_000

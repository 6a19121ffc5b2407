"""Estimates from a log: against a truth that is known, and what they cannot tell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from policies.training.scoring.logged import Estimates, Log, estimated, outcome_model
from policies.training.scoring.trails import Floats

ARMS = 2


@dataclass(frozen=True, slots=True)
class World:
    """Rows of which it is known what each arm is worth: by a feature, and differently for both."""

    features: Floats
    worth: Floats
    logged: Floats
    target: Floats

    @property
    def truth(self) -> float:
        return float((self.target * self.worth).sum(axis=1).mean())


def world(rows: int, seed: int) -> World:
    """Who explores a quarter of the time, and who knows when the second arm is worth it."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 3))
    worth = np.stack([0.5 + 0.0 * features[:, 0], 0.5 + 0.3 * np.tanh(features[:, 0])], axis=1)
    second = np.clip(0.5 + 0.25 * np.sign(features[:, 1]), 0, 1)
    better = (features[:, 0] > 0).astype(np.float64)
    return World(
        features,
        worth,
        np.stack([1 - second, second], axis=1),
        np.stack([1 - better, better], axis=1),
    )


def logged(of: World, seed: int, clusters: int | None = None) -> Log:
    rng = np.random.default_rng(seed)
    rows = len(of.worth)
    arm = (rng.random(rows) < of.logged[:, 1]).astype(np.intp)
    outcome = (rng.random(rows) < of.worth[np.arange(rows), arm]).astype(np.float64)
    belongs = np.arange(rows) if clusters is None else np.arange(rows) % clusters
    return Log(arm, of.logged, of.target, outcome, belongs)


def judged(log: Log, of: World, draws: int = 200) -> Estimates:
    return estimated(log, outcome_model(log, of.features, 0), draws, 0)


def test_the_truth_is_found_and_covered_as_often_as_is_said() -> None:
    """The truth is that of a large world; each log is a sample of it."""
    truth = world(200_000, 0).truth
    covered = dict.fromkeys(("ips", "snips", "dr"), 0)
    middle = dict.fromkeys(covered, 0.0)
    width = dict.fromkeys(covered, 0.0)
    for seed in range(100):
        of = world(400, seed + 1)
        found = judged(logged(of, seed), of)
        for name in covered:
            figure = getattr(found, name)
            covered[name] += figure.low <= truth <= figure.high
            middle[name] += figure.value / 100
            width[name] += (figure.high - figure.low) / 100
    for name, times in covered.items():
        assert 0.88 <= times / 100 <= 1.0, name
        assert middle[name] == pytest.approx(truth, abs=0.015), name
    assert max(width["dr"], width["snips"]) < 0.8 * width["ips"]


def test_a_good_model_of_the_outcomes_sharpens_the_estimate() -> None:
    of = world(400, 1)
    noisy = logged(of, 1)
    told = of.worth[np.arange(400), noisy.arm]
    found = judged(Log(noisy.arm, of.logged, of.target, told, noisy.clusters), of)
    assert found.dr.high - found.dr.low < 0.7 * (found.snips.high - found.snips.low)
    assert found.dr.low < of.truth < found.dr.high


def test_what_was_logged_is_worth_what_it_was() -> None:
    """The policy that was logged, judged by its own log."""
    of = world(500, 1)
    log = logged(of, 1)
    same = Log(log.arm, log.logged, log.logged, log.outcome, log.clusters)
    found = estimated(same, np.zeros((500, ARMS)), 100, 0)
    assert found.ips.value == pytest.approx(log.outcome.mean())
    assert found.logged.value == pytest.approx(log.outcome.mean())
    assert found.gain.value == pytest.approx(0)
    assert found.effective == pytest.approx(500)


def test_by_hand() -> None:
    log = Log(
        arm=np.array([0, 1, 1]),
        logged=np.array([[0.5, 0.5], [0.75, 0.25], [0.5, 0.5]]),
        target=np.array([[1.0, 0], [0, 1], [0.5, 0.5]]),
        outcome=np.array([1.0, 0.5, 0]),
        clusters=np.arange(3),
    )
    assert log.weights.tolist() == [2, 4, 1]
    found = estimated(log, np.full((3, ARMS), 0.25), 10, 0)
    assert found.ips.value == pytest.approx((2 + 2 + 0) / 3)
    assert found.snips.value == pytest.approx(4 / 7)
    assert found.dr.value == pytest.approx(0.25 + (2 * 0.75 + 4 * 0.25 - 0.25) / 3)
    assert found.effective == pytest.approx(49 / 21)
    assert found.unsupported == 0


def test_what_was_never_tried_has_no_support() -> None:
    log = Log(
        arm=np.zeros(4, dtype=np.intp),
        logged=np.tile([1.0, 0.0], (4, 1)),
        target=np.array([[1.0, 0], [1, 0], [1, 0], [0.5, 0.5]]),
        outcome=np.ones(4),
        clusters=np.arange(4),
    )
    assert log.unsupported == pytest.approx(0.125)
    assert estimated(log, np.ones((4, ARMS)), 10, 0).unsupported == pytest.approx(0.125)


def test_sessions_widen_the_interval() -> None:
    """Rows of one session that are all alike are worth one row."""
    outcome = np.repeat(np.random.default_rng(0).random(20) < 0.5, 20).astype(np.float64)
    chances = np.full((400, ARMS), 0.5)
    arm = np.zeros(400, dtype=np.intp)
    alone = Log(arm, chances, chances, outcome, np.arange(400))
    together = Log(arm, chances, chances, outcome, np.repeat(np.arange(20), 20))
    narrow, wide = (
        estimated(log, np.zeros((400, ARMS)), 300, 0).snips for log in (alone, together)
    )
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_the_outcome_model_learns_from_other_clusters_alone() -> None:
    rows = 200
    rng = np.random.default_rng(0)
    features = rng.normal(size=(rows, 2))
    arm = np.r_[np.zeros(150), np.ones(40), np.full(10, 2)].astype(np.intp)
    outcome = np.clip(0.5 + 0.2 * features[:, 0], 0, 1)
    chances = np.full((rows, 4), 0.25)
    log = Log(arm, chances, chances, outcome, np.arange(rows))
    found = outcome_model(log, features, 0)
    assert np.corrcoef(found[:, 0], outcome)[0, 1] > 0.95
    assert len(np.unique(found[:, 2])) <= 5, "an arm with few rows expects its mean"
    assert found[:, 3] == pytest.approx(outcome.mean(), abs=0.05)
    noise = Log(arm, chances, chances, rng.random(rows), np.arange(rows))
    assert abs(np.corrcoef(outcome_model(noise, features, 0)[:, 0], noise.outcome)[0, 1]) < 0.3

"""Fitting a calibration: what is known of made-up rows is found in them."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.training.sampling.bins import Fineness, cuts_of
from policies.training.sampling.fit import binned, stages_of
from policies.training.sampling.orders import looked, marks_of
from policies.training.sampling.rows import SamplesError, line_of, read_rows, rows_of
from policies.training.sampling.trial import (
    Making,
    by_bar,
    calibrated_of,
    cross_fitted,
    large_alone,
    samples_alone,
)
from policies.verdicts.calibrated import Stage
from policies.verdicts.marking import ByVote, Drawn
from policies.verdicts.plan import Prices
from policies.verdicts.votes import Majority
from router.fleet import Price
from router.steps import Compute, Draft, Finished, Token
from tests.fleets import attempt, fleet, request
from tests.policies.training.sampling.made_rows import World, is_right
from tests.policies.verdicts.made_calibration import CAP, cell

PRICES = Prices(Price(0.03, 0.1), Price(0.3, 1.2))


def stages(world: World, totals: tuple[int, ...], count: int = 1200) -> tuple[Stage, ...]:
    return stages_of(looked(world.rows(count).rows, totals, is_right, 4))


# -------------------------------------------------------------------------------------- recovery


def test_the_chances_of_a_world_are_found_in_its_rows() -> None:
    """The first sample's log-probability names the difficulty."""
    first, last = stages(World(), (1, 5))
    assert first.cuts == (-0.7, -0.275)
    row = first.cells[0]
    assert [cell.right for cell in row[:3]] == pytest.approx([0.1, 0.5, 0.95], abs=0.05)
    assert sum(cell.count for cell in row) == pytest.approx(1200)
    easy, hard = last.cells[2], last.cells[0]
    five = binned(np.array([1.0]), last.cuts)[0]
    assert easy[five].right > 0.97
    assert row[2].next[five] == pytest.approx(0.95**5, abs=0.06)
    assert hard[five].count < easy[five].count / 20


def test_where_a_request_came_from_counts() -> None:
    """Four that agree say less of a prompt that is hard."""
    world = World(difficulties=(0.2, 0.9))
    _, last = stages(world, (1, 4), 2500)
    three = binned(np.array([0.75]), last.cuts)[0]
    hard, easy = last.cells[0][three], last.cells[1][three]
    assert hard.right < easy.right - 0.1


def test_a_stage_that_begins_with_votes() -> None:
    only = stages(World(), (4,))[0]
    rights = [cell.right for cell in only.cells[0][:-1]]
    assert rights == sorted(rights)
    assert rights[-1] > 0.93
    assert only.cells[0][-1].count == 0


def test_the_same_rows_give_the_same_table() -> None:
    assert stages(World(), (1, 3), 200) == stages(World(), (1, 3), 200)


# ------------------------------------------------------------------------------------------ bins


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.floats(-5, 0), st.booleans()), min_size=1, max_size=80),
    st.integers(1, 6),
    st.integers(1, 15),
)
def test_bins_are_few_and_none_is_too_light(
    seen: list[tuple[float, bool]], most: int, least: int
) -> None:
    marks = np.array([mark for mark, _ in seen])
    right = np.array([float(good) for _, good in seen])
    cuts = cuts_of(marks, right, 1.0, Fineness(most, least))
    assert list(cuts) == sorted(set(cuts))
    assert len(cuts) < most
    counts = np.bincount(binned(marks, cuts), minlength=len(cuts) + 2)
    assert not cuts or counts[:-1].min() >= least
    stage = Stage(1, cuts, ((cell(0.5),) * (len(cuts) + 2),))
    assert [stage.bin_of(mark) for mark in marks] == binned(marks, cuts).tolist()


def test_cuts_are_where_the_chance_changes() -> None:
    marks = np.linspace(0, 1, 4000)
    right = (np.random.default_rng(0).random(4000) < np.where(marks < 0.37, 0.2, 0.8)).astype(float)
    (cut,) = cuts_of(marks, right, 1.0, Fineness(2, 10))
    assert cut == pytest.approx(0.37, abs=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_more_is_never_trusted_less(seed: int) -> None:
    rows = World(passes=(0.4, 0.5)).rows(150, seed).rows
    for stage in stages_of(looked(rows, (1, 2, 4), is_right, 3), Fineness(8, 3)):
        for row in stage.cells:
            assert all(one.right <= other.right for one, other in pairwise(row[:-1]))


# ---------------------------------------------------------------------------------------- serving


def drafts(answers: list[str | None], logprob: float) -> list[Draft]:
    made = attempt("small", "a:1")
    token = Token("x", None, logprob)
    return [
        Draft(
            made, "no number" if one is None else f"It is {one}", (token,), Finished(made, "stop")
        )
        for one in answers
    ]


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["7", "8", None]), min_size=1, max_size=6))
def test_marks_are_what_serving_gives(answers: list[str | None]) -> None:
    given_ = drafts(answers, -0.25)
    drawn = Drawn(given_, [])
    phrase = ByVote(Majority(), alone=True).mark(drawn, request(), fleet(), len(answers))
    reply = None
    try:
        while True:
            step = phrase.send(reply)
            assert isinstance(step, Compute)
            reply = step.function(*step.arguments)
    except StopIteration:
        pass
    rows = World(samples=len(answers)).rows(1).rows[0]
    samples = [
        replace(sample, answer=answer, logprob=-0.25)
        for sample, answer in zip(rows.samples, answers, strict=True)
    ]
    assert marks_of(samples, len(answers)) == drawn.marks


# ------------------------------------------------------------------------------------- held out


def test_a_plan_beats_what_is_easy_where_there_is_something_to_win() -> None:
    rows = World(difficulties=(0.1, 0.97)).rows(500)
    looks = looked(rows.rows, (1, 4), is_right, 4)
    making = Making(rows.origin, CAP, {})
    (found,) = cross_fitted(looks, making, PRICES, [20.0])
    large = large_alone(looks, PRICES)
    small = samples_alone(looked(rows.rows, (1,), is_right, 1), PRICES)
    assert found.kept(large).value > 0.97
    assert found.mean_cost.value < 0.75
    assert small.accuracy.value < 0.6
    assert 0 < found.handed.mean() < 0.7
    barred = by_bar(looked(rows.rows, (4,), is_right, 4), (0.7,), PRICES)
    value = 20 * found.right.mean() - found.cost.mean()
    assert value > 20 * barred.right.mean() - barred.cost.mean()
    assert calibrated_of(looks, making).totals == (1, 4)


# ------------------------------------------------------------------------------------------- rows


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = World(passes=(0.2, 0.8)).rows(5)
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(line_of(rows.origin, row)) for row in rows.rows) + "\n")
    assert read_rows(file) == rows
    assert read_rows(file, 2).rows == rows.rows[:2]


def test_what_is_no_row_is_refused_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    with pytest.raises(SamplesError, match="cannot read"):
        read_rows(file)
    for text, why in (("", "holds no rows"), ("{", "line 1"), ('{"id": 1}', "holds no rows of")):
        file.write_text(text)
        with pytest.raises(SamplesError, match=why):
            read_rows(file)
    one, other = World().rows(1), World(passes=(0.1, 0.9)).rows(1)
    mixed = [line_of(each.origin, each.rows[0]) for each in (one, other)]
    with pytest.raises(SamplesError, match="rows differ in verifier"):
        rows_of(mixed, "it")
    with pytest.raises(ValueError, match="stages of 20 samples, and a row has 16"):
        looked(one.rows, (20,), is_right, 1)

"""`tandem bench pair`: how rows are counted, what stands in the table, and a small run of it."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from app import embedded
from app.bench.backend_measure import Found
from app.bench.pair_lineup import BASELINES, LEARNED, USUAL, Block, frontier, lineup
from app.bench.pair_measure import Plan, measure
from app.bench.pair_rows import Row, kept, related, row, table, wilson
from app.bench.processes import BenchError
from app.cli import main
from app.trial import Answered, Run
from deploy.pair.problems import REPORT_SEED_FROM, TUNE_SEEDS, problems
from policies import TABLE
from router.config import Document, parse
from router.idealised import Ideal
from router.references import build_policy
from router.steps import Usage
from tests.app.observations import attempt

ASKED = list(problems(TUNE_SEEDS.start, 4))
PARAMS = {"small": 0.001, "large": 0.009}
"""Billions."""


def document() -> Document:
    urls = {"small": "http://s:1", "large": "http://l:1"}
    return parse(embedded.Pair([], urls).document, TABLE)


def answered(text: str, writers: str) -> Answered:
    """An answer whose tokens were written by small (`s`) and large (`L`) in this order."""
    names = tuple("small" if letter == "s" else "large" for letter in writers)
    used = {name: attempt(name, Usage(9, names.count(name))) for name in PARAMS}
    return Answered(text, tuple(used.values()), names, "in_engine", "")


def test_a_row_counts_what_the_gateway_saw() -> None:
    right, wrong = f"Answer: {ASKED[0].answer}", "Answer: nothing"
    run = Run((answered(right, "ssLsss"), answered(wrong, "LLss")), 1.5)
    found = row("it", run, ASKED[:2], PARAMS)
    assert (found.policy, found.line, found.accuracy) == ("it", "it", 0.5)
    assert found.large_share == pytest.approx(3 / 10)
    assert found.handoffs_per_100 == pytest.approx(100 * (2 + 1) / 10)
    assert found.avg_params == pytest.approx((7 * 1 + 3 * 9) / 10)  # millions
    assert (found.accuracy_low, found.accuracy_high) == wilson(1, 2)


def test_steps_that_nobody_saw_are_paid_for() -> None:
    stopped = attempt("small", Usage(9, 5))
    stopped.emitted = 4  # its fifth step was the one at which the gate stopped it
    run = Run((Answered("", (stopped,), ("small",) * 4, "in_engine", ""),), 1.0)
    assert row("it", run, ASKED[:1], PARAMS).avg_params == pytest.approx(5 / 4)


def test_the_interval_is_wilsons() -> None:
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.4902, abs=1e-4)
    assert high == pytest.approx(0.9433, abs=1e-4)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == pytest.approx(1.0)


def test_everything_in_the_lineup_can_be_built() -> None:
    entries = lineup(document().config.policies)
    assert set(USUAL) <= set(entries)
    for entry in entries.values():
        blocks = [block for _, block in entry.points()]
        if entry.name not in BASELINES and entry.block is not None:
            blocks.append(entry.block)
        for block in blocks:
            policy, complaints = build_policy(block, TABLE)
            assert policy is not None, (entry.name, complaints)


def test_the_curve_keeps_the_way_back_in_proportion() -> None:
    ead = lineup(document().config.policies)["ead"]
    ratios = {round(block["back"] / block["threshold"], 6) for _, block in ead.points()}
    assert len(ratios) == 1


def test_the_routers_curve_is_over_its_budget() -> None:
    entry = lineup(document().config.policies)["experts"]
    for share, block in entry.points():
        assert block["budget"] == {"large_share": share}
        assert block["artifact"] == (entry.block or {})["artifact"]


def test_seeds_for_tuning_are_not_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "pair", "--seed", str(REPORT_SEED_FROM - 1)]) == 2
    assert "--tuning" in capsys.readouterr().err


def test_a_plot_needs_matplotlib(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["bench", "pair", "--plot", "it.png"]) == 1
    assert "matplotlib" in capsys.readouterr().err


def rows() -> list[Row]:
    run = Run((answered(f"Answer: {ASKED[0].answer}", "ssL"),), 1.0)
    one = row("it", run, ASKED[:1], PARAMS)
    points = [replace(one, policy=f"it {at}", setting=at) for at in (0.1, 0.2)]
    return [row("small", run, ASKED[:1], PARAMS), one, *points]


def test_the_table_is_markdown() -> None:
    own, curve = (part.splitlines() for part in table(rows()).split("\n\n"))
    assert (len(own), len(curve)) == (2 + 2, 2 + 2)
    assert {line.count("|") for line in own + curve} == {10}


def test_idealised_cost_is_a_part_of_what_the_large_model_takes_alone() -> None:
    def timed(name: str, seconds: float) -> Row:
        used = replace(attempt(name, Usage(9, 3)), ideal=Ideal(seconds, seconds))
        again = replace(attempt(name, None))  # it found no backend
        run = Run((Answered("", (used, again, used), (), "", ""),), 1.0)
        return row(name, run, ASKED[:1], {name: 1.0})

    small, large = related([timed("small", 0.25), timed("large", 1.0)])
    assert (small.idealised_seconds, small.idealised_cost) == (0.5, 0.25)
    assert (large.idealised_seconds, large.idealised_cost) == (2.0, 1.0)
    (alone,) = related([timed("small", 0.25)])
    assert alone.idealised_cost is None, "nobody has asked the large model"
    assert "| 0.5000 | 25% |" in table([small, large])
    assert "| - | - |" in table(rows())


def test_what_is_kept_is_a_part_of_the_large_models_accuracy_over_the_same_problems() -> None:
    large = [True] * 90 + [False] * 10
    assert kept(large, large) == (1.0, 1.0, 1.0), "the same answers, whichever problems are drawn"
    half = [True] * 45 + [False] * 55
    found = kept(half, large)
    assert found is not None
    part, low, high = found
    assert part == 0.5
    assert 0.35 < low < part < high < 0.65
    assert kept(half, [False] * 100) is None


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    from app.bench.pair_plot import draw

    one, two = tmp_path / "one.png", tmp_path / "two.png"
    draw(rows(), one)
    draw([replace(each, idealised_cost=0.5) for each in rows()], two)
    shapes = [imread(file).shape for file in (one, two)]
    assert shapes[1][1] == 2 * shapes[0][1], "a second panel"


@pytest.mark.slow
@pytest.mark.xdist_group("pair")
async def test_a_small_run() -> None:
    block = "te: {use: token_gate, small: small, large: large, rule: entropy, threshold: 0.3}"
    names = ("small", "te", "random", "r2r_optimistic")
    heard: list[Found] = []
    plan = Plan(ASKED, names, tuning=4, more=(block,), idealised=0.1)
    found = await measure(plan, heard.append)
    assert [one.model for one in heard] == ["small", "large"]
    assert all(one.idealised_seconds for one in found)
    small, entropy, chance, optimistic = found
    assert small.large_share == 0.0
    assert small.avg_params == pytest.approx(1000 * embedded.PARAMS_B["small"], rel=0.05)
    for mixed in (entropy, optimistic):
        assert 0 < mixed.large_share < 0.5
        # Every token of the large model is a turn of its own, unless two of them meet.
        assert 0 < mixed.handoffs_per_100 <= 200 * mixed.large_share
        assert mixed.avg_params > small.avg_params
    assert chance.policy == "random"


@pytest.mark.xdist_group("pair")
async def test_a_policy_that_is_not_there_is_named() -> None:
    with pytest.raises(BenchError, match="no policy nobody"):
        await measure(Plan(ASKED, ("nobody",)))


def test_the_frontier_has_every_way_to_answer_and_families_are_lines() -> None:
    scored: Block = {"use": "best_of", "small": "small", "score": {"by": "large"}}
    known = ("ead", LEARNED, "cascade", "experts", "staged", "eager")
    blocks: dict[str, Block] = {"scored": scored, **{name: {} for name in known}}
    entries = lineup(blocks)
    names = frontier(entries)
    assert {"small", "large", "ead", LEARNED, "gated_4", "scored", "scored_8"} <= set(names)
    assert not {"eager", "random", "token_entropy"} & set(names)
    assert entries["graded_2"].family == entries["graded_8"].family != entries["likely_2"].family
    assert entries["scored_4"].block == {
        "use": "best_of",
        "small": "small",
        "score": {"by": "large"},
        "stages": [4],
    }

"""The table: what is published, what lies between, who is not in it, and what was seen here."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.reading.documents import TASKS
from policies.reading.table import (
    EVERYTHING,
    STRENGTH,
    Outcome,
    Table,
    published,
    read_table,
    stated,
)

CSV = Path(__file__).parents[4] / "shared/data/lara/table.csv"
COMP = (0.0, 0.0, 1.0, 0.0)
SHORT, LONG = 32768, 131072


def test_it_says_what_was_published() -> None:
    value = published().value("GPT-4o-mini", SHORT, COMP)
    assert value == pytest.approx({"passages": 0.5448, "whole": 0.7391})


@pytest.mark.skipif(not CSV.exists(), reason="the shared data are not here")
def test_no_number_was_mistyped() -> None:
    names = {"comparison": "comp", "hallucination": "hallu"}
    with CSV.open(encoding="utf-8") as opened:
        for row in csv.DictReader(opened):
            task = TASKS.index(names.get(row["task"], row["task"]))
            tokens = SHORT if row["length"] == "32k" else LONG
            passages, whole = 100 * published().by_task(row["model"], tokens)[task]
            assert passages == pytest.approx(float(row["rag"]))
            assert whole == pytest.approx(float(row["long_context"]))


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "Llama-3.1-8B"),
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen-2.5-7B"),
        ("Qwen/Qwen2.5-72B-Instruct", "Qwen-2.5-72B"),
        ("gpt-4o-2024-08-06", "GPT-4o"),
        ("gpt-4o-mini-2024-07-18", "GPT-4o-mini"),
        ("mistralai/Mistral-Nemo-Instruct-2407", "Mistral-Nemo-12B"),
        ("meta-llama/Llama-3.3-70B-Instruct-FP8", "Llama-3.3-70B-Q8"),
        ("claude-3.5-sonnet", "Claude-3.5-sonnet"),
        ("small", None),
    ],
)
def test_models_are_known_by_their_names(name: str, known: str | None) -> None:
    found = published().known(name)
    assert (found and found.name) == known


def test_between_lengths_it_lies_between() -> None:
    table = published()
    short, half, long = (
        table.value("Llama-3.1-8B", tokens, COMP)["whole"] for tokens in (SHORT, 2 * SHORT, LONG)
    )
    assert half == pytest.approx((short + long) / 2)
    assert table.value("Llama-3.1-8B", 10 * LONG, COMP)["whole"] == pytest.approx(long)


def test_of_a_short_text_both_ways_are_one() -> None:
    table = published()
    for tokens in (0, 100, EVERYTHING):
        value = table.value("Llama-3.1-8B", tokens, COMP)
        assert value["passages"] == value["whole"] == pytest.approx(0.5829)
    between = table.value("Llama-3.1-8B", 10_000, COMP)
    assert 0.3806 < between["passages"] < between["whole"]


def test_like_says_who_it_is() -> None:
    table = published()
    like = table.value("mine", SHORT, COMP, like="gpt-4o")
    assert like == table.value("GPT-4o", SHORT, COMP)
    with pytest.raises(ValueError, match="the table has no model other: it has Llama"):
        table.value("mine", SHORT, COMP, like="other")


def test_strangers_are_placed_by_size() -> None:
    table = published()
    reasoning = (0.0, 1.0, 0.0, 0.0)
    small, large = (
        table.value("mine", SHORT, reasoning, params_b=size)["whole"] for size in (3.0, 70.0)
    )
    unknown = table.value("mine", SHORT, reasoning)["whole"]
    assert small < unknown < large


def test_a_model_left_out_is_placed_without_itself() -> None:
    table = published()
    left = table.without("Mistral-Nemo-12B")
    assert left.known("Mistral-Nemo-12B") is None
    other = [each.scores for each in left.models]
    placed = left.placed("Mistral-Nemo-12B", params_b=12.2)
    assert (placed >= np.min(other, axis=0)).all()
    assert (placed <= np.max(other, axis=0)).all()


def test_outcomes_move_what_they_are_about_and_nothing_else() -> None:
    table = published()
    rows = [Outcome("my/GPT-4o", SHORT, COMP, "passages", 1.0)] * 10
    learned = table.learned(rows[:5]).learned(rows[5:])
    before, after = (one.by_task("my/gpt-4o", SHORT) for one in (table, learned))
    expected = (STRENGTH * 0.4656 + 10) / (STRENGTH + 10)
    assert after[2, 0] == pytest.approx(expected)
    np.testing.assert_allclose(np.delete(after.ravel(), 4), np.delete(before.ravel(), 4))
    np.testing.assert_array_equal(
        learned.by_task("GPT-4o-mini", SHORT), table.by_task("GPT-4o-mini", SHORT)
    )
    assert table.own == {}


@given(
    st.lists(
        st.tuples(st.floats(1, 1e7), st.sampled_from(("passages", "whole")), st.floats(0, 1)),
        max_size=20,
    ),
    st.floats(0, 1e8),
)
def test_values_stay_scores(rows: list[tuple[float, str, float]], tokens: float) -> None:
    even = (0.25,) * 4
    outcomes = [Outcome("m", at, even, way, score) for at, way, score in rows]  # type: ignore[arg-type]
    value = published().learned(outcomes).value("m", tokens, even)
    assert all(-1e-9 <= each <= 1 + 1e-9 for each in value.values())


def test_scores_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="a score of 71: scores are 0 to 1"):
        published().learned([Outcome("m", SHORT, COMP, "whole", 71)])


def test_it_is_read_as_it_was_stated() -> None:
    table = published()
    same = read_table(json.loads(json.dumps(stated(table))))
    assert isinstance(same, Table)
    for one, other in zip(table.models, same.models, strict=True):
        np.testing.assert_allclose(one.scores, other.scores)
    wrong = stated(table)
    wrong["models"]["GPT-4o"]["whole"][0][0] = 120
    with pytest.raises(ValueError, match="the scores of GPT-4o are not 0 to 100"):
        read_table(wrong)

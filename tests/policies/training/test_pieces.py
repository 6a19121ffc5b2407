"""The parts that ask nobody: prompts, results, sentences, verdicts, journals, thresholds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.training.token_gate.continuations import sentences
from policies.training.token_gate.errors import TrainingError
from policies.training.token_gate.journal import Journal, same_settings
from policies.training.token_gate.prompts import read_prompts
from policies.training.token_gate.results import ResultFinder
from policies.training.token_gate.threshold import auc, candidates, choose
from policies.training.token_gate.verdicts import JUDGE_PROMPT, filled, read_template, verdict


def lines(tmp_path: Path, *rows: object) -> Path:
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return file


# -------------------------------------------------------------------------------------- prompts


def test_prompts_are_read_once_each(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Brief."}, {"role": "user", "content": "Hi"}]
    file = lines(
        tmp_path, {"prompt": "a", "answer": 7}, {"prompt": "a", "answer": 7}, {"messages": chat}
    )
    one, other = read_prompts(file)
    assert (one.messages, one.answer) == (({"role": "user", "content": "a"},), "7")
    assert (other.question, other.answer) == ("Brief.\n\nHi", None)
    assert read_prompts(file, 1) == [one]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ([], "an object"),
        ({"prompt": "a", "messages": []}, "either"),
        ({"prompt": ""}, "not empty"),
        ({"messages": "a"}, "list of objects"),
        ({"prompt": "a", "answer": [7]}, "a text or a number"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: object, complaint: str) -> None:
    with pytest.raises(TrainingError, match=f"line 2: .*{complaint}"):
        read_prompts(lines(tmp_path, {"prompt": "good"}, row))


def test_a_file_without_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no prompts"):
        read_prompts(lines(tmp_path))
    with pytest.raises(TrainingError, match="cannot read"):
        read_prompts(tmp_path / "none")


# -------------------------------------------------------------------------------------- results


@pytest.mark.parametrize(
    ("rule", "text", "answer", "right"),
    [
        ("last-number", "3 + 4 makes 7", "7", True),
        ("last-number", "It is 1,200.", "1200", True),
        ("last-number", "It is 12.50.", "12.5", True),
        ("last-number", "It is -3", "3", False),
        ("last-number", "no idea", "7", False),
        (r"Answer: (\w+)", "Answer: a\nAnswer: b", "b", True),
        (r"\d+", "7 of 8", "7", False),
        (r"x(y)?", "x", "", False),
    ],
)
def test_results_are_found_and_compared(rule: str, text: str, answer: str, right: bool) -> None:
    assert ResultFinder(rule).right(text, answer) is right


def test_a_broken_expression_is_refused() -> None:
    with pytest.raises(TrainingError, match="no regular expression"):
        ResultFinder("(")


# ---------------------------------------------------------------------------- texts and verdicts


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("One. Two. Three.", "One. Two."),
        ("It is 3.14 here. Yes! No", "It is 3.14 here. Yes!"),
        ("a line\nand another\nand more", "a line\nand another\n"),
        ("\n\nOne. Two. Three.", "\n\nOne. Two."),
        ("no end. of it", "no end. of it"),
        ("一。二。三", "一。二。"),
    ],
)
def test_two_sentences_are_cut(text: str, cut: str) -> None:
    assert sentences(text) == cut


@given(st.text())
def test_what_is_cut_is_a_beginning_and_stays_so(text: str) -> None:
    cut = sentences(text)
    assert text.startswith(cut)
    assert sentences(cut) == cut


@pytest.mark.parametrize(
    ("reply", "divergent"),
    [
        ("DIFFERENT", True),
        ("At first the same.\n\n**Different**.\n", True),
        ("They are different in style only.\nSAME", False),
        ("same or different?", None),
        ("Neither", None),
        ("", None),
    ],
)
def test_a_judges_last_line_is_its_verdict(reply: str, divergent: bool | None) -> None:
    assert verdict(reply) is divergent


def test_the_judge_is_told_everything_as_it_is() -> None:
    template = JUDGE_PROMPT.read_text(encoding="utf-8")
    places = {"question": "{other}", "before": "a {b}", "original": "\\1", "other": "d"}
    told = filled(template, places)
    assert all(f"\n{text}\n" in told for text in places.values())


def test_a_judge_prompt_without_both_texts_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "judge.txt"
    file.write_text("{question} {other}", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"no place for \{original\}"):
        read_template(file)


# ------------------------------------------------------------------------------------- journals


def test_a_line_that_was_cut_short_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    journal = Journal(file)
    journal.add({"id": "a", "found": 1})
    journal.add({"id": "b", "found": 2})
    whole = file.read_bytes()
    for cut in range(len(whole)):
        file.write_bytes(whole[:cut])
        again = Journal(file)
        assert len(again.rows) == whole[:cut].count(b"\n")
        again.add({"id": "c", "found": 3})
        assert "c" in Journal(file)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"id": "a"}\n{"id"\n{"id": "b"}\n', encoding="utf-8")
    with pytest.raises(TrainingError, match="line 2, is damaged"):
        Journal(file)


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    file = tmp_path / "work" / "settings.json"
    same_settings(file, {"a": 1, "b": None})
    same_settings(file, {"a": 1, "b": None})
    with pytest.raises(TrainingError, match="b = None, and this is 'x'"):
        same_settings(file, {"a": 1, "b": "x"})


# ----------------------------------------------------------------------------------- thresholds


def test_the_threshold_is_the_cheapest_that_finds_enough() -> None:
    scores = np.array([0.05, 0.2, 0.4, 0.6, 0.8, 0.9], np.float32)
    labels = np.array([0, 0, 1, 0, 1, 1], np.bool_)
    every = candidates(scores, labels)
    all_of_them = choose(every, 1.0)
    assert 0.2 < all_of_them.threshold <= 0.4
    assert (all_of_them.recall, all_of_them.positive_rate) == (1.0, 4 / 6)
    two_thirds = choose(every, 0.6)
    assert 0.6 < two_thirds.threshold <= 0.8
    assert two_thirds.positive_rate == 2 / 6


def test_where_none_finds_enough_the_one_that_finds_most_is_taken() -> None:
    scores = np.array([0.001, 0.5, 0.3], np.float32)
    labels = np.array([1, 1, 0], np.bool_)
    chosen = choose(candidates(scores, labels), 0.95)
    assert chosen.recall == 0.5
    assert 0.3 < chosen.threshold <= 0.5


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=40))
def test_auc_counts_pairs(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([score / 8 for score, _ in rows], np.float32)
    labels = np.array([label for _, label in rows], np.bool_)
    pairs = [
        (1.0 if one > other else 0.5 if one == other else 0.0)
        for one in scores[labels]
        for other in scores[~labels]
    ]
    if pairs:
        assert np.isclose(auc(scores, labels), np.mean(pairs))
    else:
        assert np.isnan(auc(scores, labels))

"""What an answer is worth: exact results, a judge's digit, and questions read from files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.marks import (
    JUDGE_PROMPT,
    Marking,
    asking,
    digit_score,
    read_template,
)
from policies.training.outcomes.questions import read_questions
from policies.training.token_gate.errors import TrainingError

# ------------------------------------------------------------------------------- exact results


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("3 + 4 is 7", "7", 1),
        ("1,200 in all", "1200", 1),
        ("7, not 8", "7", 0),
        (r"So \boxed{\frac{1}{2}}", "0.5", 1),
        ('{"reasoning": "because", "answer": "B"}', "B", 1),
        ("Final answer: [1, 2]", "[1,2]", 1),
        ("The answer is B", "C", 0),
    ],
)
def test_the_result_that_a_text_states_is_compared(text: str, answer: str, score: float) -> None:
    mark = Marking().mark(text, answer)
    assert (mark.score, mark.read) == (score, True)


def test_a_text_without_a_result_is_wrong_and_unread() -> None:
    for answer in ("7", "B"):
        mark = Marking().mark("I do not know", answer)
        assert (mark.score, mark.read) == (0, False)


def test_an_expression_says_where_the_result_is() -> None:
    marking = Marking(r"Answer: (-?\d+)")
    assert marking.mark("Answer: 7, in 3 steps", "7").score == 1
    assert marking.mark("The answer is 7", "7").read is False
    with pytest.raises(TrainingError, match="no regular expression"):
        Marking("(")


# ------------------------------------------------------------------------------------ a judge


def choice(said: str | None, *chances: tuple[str, float]) -> Mapping[str, Any]:
    """A chat answer's choice, with the probabilities of its first token."""
    top = [{"token": token, "logprob": math.log(chance)} for token, chance in chances]
    content = [{"token": said, "logprob": 0.0, "top_logprobs": top}]
    return {"message": {"content": said}, "logprobs": {"content": content} if chances else None}


def test_every_digit_counts_by_its_probability() -> None:
    assert digit_score(choice("9", ("9", 0.5), ("0", 0.25), (" 0", 0.25))) == pytest.approx(0.5)
    # What is no digit does not count, however probable.
    assert digit_score(choice("Well", ("Well", 0.9), ("9", 0.1))) == pytest.approx(1.0)


def test_without_probabilities_the_digit_that_was_said_counts() -> None:
    assert digit_score(choice(" 3")) == pytest.approx(1 / 3)
    for said in ("yes", "", None, "10", "\N{SUPERSCRIPT TWO}"):
        assert digit_score(choice(said)) is None


def test_what_the_judge_is_told() -> None:
    template = read_template(JUDGE_PROMPT)
    told = asking(template, "Say {answer}.", "{question} {}")
    assert "Say {answer}.\n" in told
    assert "\n{question} {}\n" in told


def test_a_judge_must_see_the_answer(tmp_path: Path) -> None:
    file = tmp_path / "judge.txt"
    with pytest.raises(RowsError, match="cannot read"):
        read_template(file)
    file.write_text("Is {question} easy?")
    with pytest.raises(RowsError, match=r"has no place for \{answer\}"):
        read_template(file)


# ---------------------------------------------------------------------------------- questions


def test_questions_come_in_every_kind_of_file(tmp_path: Path) -> None:
    lined = tmp_path / "lined.jsonl"
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}]
    rows = [{"prompt": "2 + 2?", "answer": 4, "task": "sums", "score/a": 1}, {"messages": said}]
    lined.write_text("\n".join(map(json.dumps, rows)))
    table = tmp_path / "table.csv"
    table.write_text("id,prompt,answer\nfirst,3 + 3?,6\nsecond,Why?,\n")
    questions = read_questions([lined, table])
    assert questions.answers == ("4", None, "6", None)
    assert questions.rows.models == ()
    assert questions.rows.tasks == ("sums", "lined", "table", "table")
    assert questions.rows.ids == ("lined/1", "lined/2", "first", "second")
    assert questions.messages(0) == ({"role": "user", "content": "2 + 2?"},)
    assert questions.messages(1) == tuple(said)
    assert len(questions.first(None)) == len(questions.first(9)) == 4
    assert questions.first(1).answers == ("4",)
    assert questions.first(1).rows.prompts == ("2 + 2?",)


def test_an_answer_is_a_text_or_a_number(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a", "answer": [1]}')
    with pytest.raises(RowsError, match="column answer, row 1, must be a text"):
        read_questions([file])

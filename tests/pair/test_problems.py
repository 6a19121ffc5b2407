"""The problem generator: exact answers, disjoint parts, determinism, and the promised lengths.

The lines of each solution are re-computed here by a reader that shares no code with the writer.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

import deploy.pair
from deploy.pair.problems import (
    BEST_GRADE,
    GRADE_0_9,
    GRADE_LINES,
    GRADE_YES_NO,
    REPORT_SEED_FROM,
    TRAIN_SEEDS,
    TUNE_SEEDS,
    Problem,
    answer_of,
    gradings,
    is_correct,
    line_checks,
    part_of,
    problems,
)
from deploy.pair.stories import KINDS

SEEDS = (TRAIN_SEEDS.start, TUNE_SEEDS.start, REPORT_SEED_FROM, REPORT_SEED_FROM + 12_345)
_EXPRESSION = re.compile(r"\d[\d +*-]*\d")
_STEP = re.compile(
    r"(?:add|subtract|multiply) (\d+)([-+*])(\d+):\n(?:.*\n)*?(?:gives|makes) (\d+)\n"
)
_COLUMN = re.compile(r"^(?:ones|tens|hundreds|thousands) (\S+) (?:carry|borrow) \d$", re.MULTILINE)


def calculate(expression: str) -> int:
    """Sums and products of whole numbers, products first."""
    total = 0
    for sign, term in re.findall(r"([-+]?)((?:\d+)(?:\*\d+)*)", expression.replace(" ", "")):
        product = 1
        for factor in term.split("*"):
            product *= int(factor)
        total += -product if sign == "-" else product
    return total


def sample(seed: int, n: int = 400) -> list[Problem]:
    return list(problems(seed, n))


def test_seed_ranges_do_not_meet() -> None:
    assert TRAIN_SEEDS.stop <= TUNE_SEEDS.start
    assert TUNE_SEEDS.stop <= REPORT_SEED_FROM


def test_a_formula_belongs_to_one_part_only() -> None:
    prompts = [{p.prompt for p in sample(seed, 3_000)} for seed in SEEDS[:3]]
    for one, other in itertools.combinations(prompts, 2):
        assert not one & other
    assert {part_of((a, 7, "+")) for a in range(100)} == {"train", "tune", "report"}


def test_negative_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="seeds start at 0"):
        next(problems(-1, 1))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_seed_gives_the_same_problems(seed: int) -> None:
    assert sample(seed) == sample(seed)
    assert sample(seed, 10) == sample(seed, 400)[:10]
    assert sample(seed) != sample(seed + 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_marked_answer_is_the_answer(seed: int) -> None:
    for problem in sample(seed):
        assert answer_of(problem.solution) == problem.answer
        assert is_correct(problem.solution, problem)
        assert not is_correct(f"Answer: {int(problem.answer) + 1}", problem)


@pytest.mark.parametrize("seed", SEEDS)
def test_bare_arithmetic_is_exact(seed: int) -> None:
    bare = [p for p in sample(seed) if p.kind in {"sum", "difference", "mixed", "product"}]
    assert bare
    for problem in bare:
        found = _EXPRESSION.search(problem.prompt)
        assert found is not None
        assert str(calculate(found[0])) == problem.answer


@pytest.mark.parametrize("seed", SEEDS)
def test_every_step_and_column_is_exact(seed: int) -> None:
    for problem in sample(seed):
        steps = _STEP.findall(problem.solution)
        assert steps
        for left, sign, right, result in steps:
            assert calculate(f"{left}{sign}{right}") == int(result)
        assert steps[-1][3] == problem.answer
        for column in _COLUMN.findall(problem.solution):
            first, *rest = column.split("=")
            assert rest
            assert all(calculate(first) == calculate(other) for other in rest)


def test_stories_name_the_numbers_of_their_first_step() -> None:
    for problem in sample(SEEDS[0]):
        opening = _STEP.search(problem.solution)
        assert opening is not None
        numbers = re.findall(r"\d+", problem.prompt)
        assert opening[1] in numbers
        assert opening[3] in numbers or "00" in problem.solution or problem.kind == "product"


def test_every_kind_occurs() -> None:
    assert {problem.kind for problem in sample(SEEDS[0])} == set(KINDS)


def test_no_answer_without_the_mark() -> None:
    assert answer_of("it is 12") is None
    assert answer_of("Answer: 1\nAnswer: 482") == "482"


@pytest.mark.parametrize("seed", SEEDS)
def test_gradings_are_just(seed: int) -> None:
    fair = 0
    for grading in gradings(seed, 400):
        right = is_correct(grading.proposed, grading.problem)
        assert right == grading.right
        fair += right
        if grading.request == GRADE_YES_NO:
            assert grading.reply == ("yes" if right else "no")
        else:
            assert grading.request == GRADE_0_9
            assert right == (grading.reply == str(BEST_GRADE))
        assert grading.prompt.endswith(grading.request)
    assert 0.4 < fair / 400 < 0.65


def test_first_lines_of_a_right_solution_are_right() -> None:
    partial = [*gradings(SEEDS[0], 400, whole_share=0.0)]
    assert any(not grading.right for grading in partial)
    for grading in partial:
        assert grading.right == (grading.reply in {"yes", str(BEST_GRADE)})
        if grading.right:
            begun = grading.proposed.split("\n")
            assert grading.problem.solution.split("\n")[: len(begun)] == begun


def test_line_checks_say_no_once_where_the_slip_is() -> None:
    for check in line_checks(SEEDS[0], 400):
        verdicts = check.reply.split(" ")
        assert check.request == GRADE_LINES
        assert len(verdicts) == len(check.proposed.split("\n"))
        assert verdicts.count("no") == (0 if check.right else 1)
        assert check.right == is_correct(check.proposed, check.problem)


def test_solutions_have_40_to_150_tokens() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    shipped = Path(deploy.pair.__file__).parent / "models" / "small" / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(shipped))
    for seed in SEEDS:
        for problem in sample(seed):
            assert 40 <= len(tokenizer.encode(problem.solution).ids) <= 150


def test_a_grade_is_one_token() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    shipped = Path(deploy.pair.__file__).parent / "models" / "large" / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(shipped))
    for grade in ("yes", "no", *map(str, range(BEST_GRADE + 1))):
        assert len(tokenizer.encode(grade).ids) == 1

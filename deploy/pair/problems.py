"""Worked arithmetic and word problems with exact answers, from a seed.

    python -m deploy.pair.problems --seed 1000000 -n 4000 > prompts.jsonl

writes them as a prompts file: one JSON object a line, with `task` (the kind), `prompt` and
`answer`. The pair is trained on these, and the bench, the calibration and the reports use them.
Pure Python: it must not import torch, a tokenizer or anything of the gateway.

Seeds are divided into training, tuning and reporting. On top of that every *formula* belongs to
exactly one of the three by its checksum, and a seed yields only formulas of its own part: a
reported problem can therefore never have been trained on, whatever its wording.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from zlib import crc32

from deploy.pair.steps import (
    ANSWER_MARK,
    Formula,
    UnwritableError,
    value_of,
    write,
    write_with_slip,
)
from deploy.pair.stories import KINDS, Question, everyday, question

TRAIN_SEEDS = range(1_000_000)
TUNE_SEEDS = range(1_000_000, 2_000_000)
REPORT_SEED_FROM = 2_000_000

# Of every ten formulas eight are for training, one for tuning, one for reporting.
_PARTS = 10
_TUNE_PART, _REPORT_PART = 8, 9

GRADE_YES_NO = "Is this solution right? Say only yes or no."
GRADE_0_9 = "Grade this solution. Say only one digit from 0 (bad) to 9 (right)."
GRADE_LINES = "Check each line. Say yes or no for each."
BEST_GRADE = 9

_ANSWER = re.compile(re.escape(ANSWER_MARK) + r"(-?\d+)")


@dataclass(frozen=True, slots=True)
class Problem:
    """A question, one worked solution and the exact result."""

    kind: str
    prompt: str
    solution: str
    answer: str


@dataclass(frozen=True, slots=True)
class Grading:
    """A request to grade a proposed solution, or its first lines, and the right reply."""

    problem: Problem
    proposed: str
    request: str
    reply: str
    right: bool

    @property
    def prompt(self) -> str:
        """The user message as the models were trained on it."""
        return grading_prompt(self.problem.prompt, self.proposed, self.request)


def grading_prompt(question_text: str, proposed: str, request: str) -> str:
    """The fixed shape of a grading message; `request` is GRADE_YES_NO or GRADE_0_9."""
    return f"{question_text}\n\nSolution:\n{proposed}\n\n{request}"


def problems(seed: int, n: int) -> Iterator[Problem]:
    """`n` problems of the seed; the same seed always gives the same ones."""
    for asked, words in _questions(seed, n):
        yield _worked(asked, words)


def everyday_problems(seed: int, n: int) -> Iterator[Problem]:
    """`n` of what people type first; for training only, never a measured formula."""
    draw, words = Random(f"everyday {seed}"), Random(f"everyday words {seed}")
    for _ in range(n):
        asked = everyday(draw, words)
        # Three numbers may be a measured problem's; two small ones never are.
        while len(asked.formula) > 3 and part_of(asked.formula) != "train":
            asked = everyday(draw, words)
        yield _worked(asked, words)


def gradings(seed: int, n: int, whole_share: float = 1.0) -> Iterator[Grading]:
    """`n` grading requests, half of them about a solution with one realistic slip.

    Beside whole solutions there may be first lines only, as of an answer that is still being
    written; those of a slipped one then end with the slip or some lines after it.
    """
    coin = Random(f"grading {seed}")
    for asked, words in _questions(seed, n):
        problem = _worked(asked, words)
        slipped = None if coin.random() < 0.5 else write_with_slip(asked.formula, words)
        lines = (problem.solution if slipped is None else slipped.text).split("\n")
        shown = len(lines)
        if coin.random() >= whole_share:
            # Squared: mostly the slip is in the last line or near it, which is where to learn it.
            least = 2 if slipped is None else slipped.line + 1
            shown = least + int(coin.random() ** 2 * (len(lines) - least + 1))
        proposed, right = "\n".join(lines[:shown]), slipped is None
        if coin.random() < 0.5:
            yield Grading(problem, proposed, GRADE_YES_NO, "yes" if right else "no", right)
        else:
            # The later the slip, the more of the work is right: 0 at the first line, 8 at the last.
            grade = BEST_GRADE if slipped is None else slipped.line * BEST_GRADE // len(lines)
            yield Grading(problem, proposed, GRADE_0_9, str(grade), right)


def line_checks(seed: int, n: int) -> Iterator[Grading]:
    """Requests to check every line: one yes or no a line, and no only where the slip itself is.

    What follows from a slip counts as right, so each verdict needs little more than its own line.
    The models are trained on these because from a lone yes or no they do not learn to check.
    """
    coin = Random(f"lines {seed}")
    for asked, words in _questions(seed, n):
        problem = _worked(asked, words)
        slipped = None if coin.random() < 0.2 else write_with_slip(asked.formula, words)
        proposed = problem.solution if slipped is None else slipped.text
        verdicts = ["yes"] * (proposed.count("\n") + 1)
        if slipped is not None:
            verdicts[slipped.line] = "no"
        yield Grading(problem, proposed, GRADE_LINES, " ".join(verdicts), slipped is None)


def answer_of(text: str) -> str | None:
    """The marked result of a solution, or None; the last mark counts."""
    found = _ANSWER.findall(text)
    return found[-1] if found else None


def is_correct(text: str, problem: Problem) -> bool:
    """Whether the text's marked result is the problem's exact answer."""
    return answer_of(text) == problem.answer


def part_of(formula: Formula) -> str:
    """Which part ("train", "tune", "report") owns this formula."""
    part = crc32(" ".join(map(str, formula)).encode()) % _PARTS
    return {_TUNE_PART: "tune", _REPORT_PART: "report"}.get(part, "train")


def _part_of_seed(seed: int) -> str:
    if seed >= REPORT_SEED_FROM:
        return "report"
    if seed in TUNE_SEEDS:
        return "tune"
    if seed in TRAIN_SEEDS:
        return "train"
    raise ValueError(f"seed {seed}: seeds start at 0")


def _questions(seed: int, n: int) -> Iterator[tuple[Question, Random]]:
    part = _part_of_seed(seed)
    draw, words = Random(f"numbers {seed}"), Random(f"words {seed}")
    kinds = tuple(KINDS)
    for _ in range(n):
        kind = draw.choice(kinds)
        asked = question(kind, draw, words)
        while part_of(asked.formula) != part or not _writable(asked.formula):
            asked = question(kind, draw, words)
        yield asked, words


def _writable(formula: Formula) -> bool:
    try:
        write(formula, Random(0))
    except UnwritableError:
        return False
    return True


def _worked(asked: Question, words: Random) -> Problem:
    solution = write(asked.formula, words)
    return Problem(asked.kind, asked.prompt, solution, str(value_of(asked.formula)))


def main() -> None:
    """Write a prompts file to stdout."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    most = f"{TUNE_SEEDS.start} to {TUNE_SEEDS.stop - 1} are for tuning (default: %(default)s)"
    parser.add_argument("--seed", type=int, default=TUNE_SEEDS.start, help=most)
    parser.add_argument("-n", type=int, default=1000, help="problems (default: %(default)s)")
    given = parser.parse_args()
    for problem in problems(given.seed, given.n):
        told = {"task": problem.kind, "prompt": problem.prompt, "answer": problem.answer}
        print(json.dumps(told))


if __name__ == "__main__":
    main()

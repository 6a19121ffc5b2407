"""Measures the shipped pair: `python -m deploy.pair.evaluate --seed 1000000 -n 400 [--json]`.

Knows the problems, the grading requests and how to ask. Must not know how the pair was trained.
Seeds of the tuning range are for development; seeds from REPORT_SEED_FROM on are for the one table
that is reported.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from deploy.pair.decode import Speaker, greedy, load_speaker, predictions
from deploy.pair.problems import GRADE_YES_NO, Problem, gradings, is_correct, problems
from deploy.pair.tokenizer import ASSISTANT, render

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MODELS = Path(__file__).with_name("models")
SIZES = ("small", "large")


def asked(speaker: Speaker, text: str) -> list[int]:
    """The prompt of a single user message."""
    return speaker.encode(render([("user", text)]) + ASSISTANT)


def accuracy(
    speaker: Speaker, wanted: Sequence[Problem], answers: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Share of right answers, per kind and in all."""
    right, seen = Counter[str](), Counter[str]()
    for problem, answer in zip(wanted, answers, strict=True):
        correct = is_correct(speaker.decode(answer), problem)
        for kind in (problem.kind, "all"):
            seen[kind] += 1
            right[kind] += correct
    return {kind: right[kind] / seen[kind] for kind in sorted(seen)}


def disagreement(
    small: Speaker, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> dict[str, float]:
    """How often the small model would write another token than the large one's answer has."""
    other = predictions(small, prompts, answers)
    tokens = words = digits = 0
    for answer, guess in zip(answers, other, strict=True):
        for ours, theirs in zip(answer, guess, strict=True):
            tokens += 1
            if ours != theirs:
                numeric = small.decode([ours]).strip().isdigit()
                digits += numeric
                words += not numeric
    return {
        "all": (digits + words) / tokens,
        "digits": digits / tokens,
        "words": words / tokens,
    }


def grading(speaker: Speaker, seed: int, n: int) -> dict[str, float]:
    """Share of right yes/no grades, and the mean error of 0-9 grades."""
    wanted = [*gradings(seed, n)]
    replies = greedy(speaker, [asked(speaker, item.prompt) for item in wanted])
    texts = [speaker.decode(reply) for reply in replies]
    pairs = [*zip(wanted, texts, strict=True)]
    binary = [item.reply == text for item, text in pairs if item.request == GRADE_YES_NO]
    valid = [(item, text) for item, text in pairs if item.request != GRADE_YES_NO]
    errors = [abs(int(item.reply) - int(text)) for item, text in valid if text.isdigit()]
    return {
        "yes_no": sum(binary) / len(binary),
        "digit_error": sum(errors) / max(1, len(errors)),
        "malformed": 1 - (len(errors) + sum(text in {"yes", "no"} for _, text in pairs)) / n,
    }


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured, in one precision; the inner keys are sizes, then names of figures."""

    seed: int
    n: int
    dtype: str
    accuracy: dict[str, dict[str, float]]
    grading: dict[str, dict[str, float]]
    disagreement: dict[str, float]
    mean_answer_tokens: float


def measure(seed: int, n: int, dtype: str, folder: Path) -> Figures:
    """Everything about the pair in one precision."""
    wanted = [*problems(seed, n)]
    speakers = {size: load_speaker(folder / size, DTYPES[dtype]) for size in SIZES}
    prompts = [asked(speakers["large"], problem.prompt) for problem in wanted]
    answers = {size: greedy(speakers[size], prompts) for size in SIZES}
    return Figures(
        seed=seed,
        n=n,
        dtype=dtype,
        accuracy={size: accuracy(speakers[size], wanted, answers[size]) for size in SIZES},
        grading={size: grading(speakers[size], seed + 1, n) for size in SIZES},
        disagreement=disagreement(speakers["small"], prompts, answers["large"]),
        mean_answer_tokens=sum(len(answer) for answer in answers["large"]) / n,
    )


def table(found: Figures) -> str:
    """The figures as lines for people."""
    lines = [f"seed {found.seed}, n {found.n}, {found.dtype}"]
    for name, sizes in (("accuracy", found.accuracy), ("grading", found.grading)):
        lines.append(f"{name:<14}" + "".join(f"{size:>9}" for size in SIZES))
        lines += [
            f"  {key:<12}" + "".join(f"{sizes[size][key]:9.3f}" for size in SIZES)
            for key in sizes["small"]
        ]
    lines.append("tokens of the large model's answers on which the small one differs")
    lines += [f"  {key:<12}{value:9.4f}" for key, value in found.disagreement.items()]
    lines.append(f"mean answer: {found.mean_answer_tokens:.1f} tokens")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of small/ and large/")
    parser.add_argument("--seed", type=int, default=1_000_000)
    parser.add_argument("-n", type=int, default=400)
    parser.add_argument("--dtype", choices=[*DTYPES], action="append")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for dtype in given.dtype or [*DTYPES]:
        found = measure(given.seed, given.n, dtype, given.models)
        print(json.dumps(asdict(found)) if given.json else table(found), flush=True)


if __name__ == "__main__":
    main()

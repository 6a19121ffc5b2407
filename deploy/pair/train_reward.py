"""Trains the reward head of the large model, and measures it on problems that it has not seen.

    python -m deploy.pair.train_reward --out deploy/pair/models/large
    python -m deploy.pair.train_reward --report 2000000 -n 1500

The first command samples the small model on training problems at temperature 0.7, fits the head to
which solutions came out right, and chooses strength and bar on tuning problems; the second measures
the head that is shipped. A solution counts as a whole and at the end of each of its steps, with the
value that it came to in the end. Needs the `train` extra (scikit-learn). Must not know HTTP.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from deploy.pair.engine import Engine, Job
from deploy.pair.problems import TUNE_SEEDS, is_correct, problems
from deploy.pair.reward import REWARD_FILE, load_head, sigmoid
from deploy.pair.sampling import Floats, Sampling
from deploy.pair.text import Stopping
from deploy.pair.tokenizer import ASSISTANT, render

MODELS = Path(__file__).with_name("models")
TRAIN_SEED, TUNE_SEED = 700_000, 1_700_000
TEMPERATURE = 0.7
LONGEST_ANSWER = 250
STRENGTHS = (0.01, 0.1, 1.0)
"""Inverse strengths of the L2 penalty that are tried."""
FALSE_POSITIVES = 0.05
"""Share of the wrong tuning solutions that may pass the bar."""
RESAMPLES = 500
STATES = ("last", "mean")
"""Which hidden states heads are fitted to; the second is what is served."""

Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Solution:
    """A sample of the small model, and whether its result is right."""

    prompt: str
    text: str
    right: bool


@dataclass(frozen=True, slots=True)
class Examples:
    """What heads are fitted to. `solution` says which one a row is of; `whole` where it ends."""

    states: dict[str, Floats]
    right: Booleans
    whole: Booleans
    solution: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Share:
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def pair_text(question: str, answer: str) -> str:
    """A question with its answer, as the chat template writes them; the answer stays open."""
    return render([("user", question)]) + ASSISTANT + answer


def solutions(small: Engine, seed: int, n: int) -> Iterator[Solution]:
    """One sample for each problem of the seed."""
    asked = list(problems(seed, n))
    together = small.limits.running
    for start in range(0, n, together):
        group = asked[start : start + together]
        jobs = [
            Job(
                tuple(small.codec.encode(render([("user", problem.prompt)]) + ASSISTANT)),
                Stopping(max_tokens=LONGEST_ANSWER),
                Sampling(temperature=TEMPERATURE, seed=seed + start + at),
            )
            for at, problem in enumerate(group)
        ]
        running = {generation: at for at, generation in enumerate(small.submit(jobs))}
        texts = [""] * len(group)
        while not all(generation.ended for generation in running):
            for generation, token in small.step():
                texts[running[generation]] += token.text
        for problem, text in zip(group, texts, strict=True):
            yield Solution(problem.prompt, text, is_correct(text, problem))


def beginnings(text: str) -> list[str]:
    """A solution up to the end of each of its steps, the line's own end included; last all of it.

    So the tokens of each are the first of those of the whole: a line's end may belong to a sign.
    """
    lines = text.splitlines(keepends=True)
    return ["".join(lines[: shown + 1]) for shown in range(len(lines))] or [text]


def examples(large: Engine, solved: Sequence[Solution]) -> Examples:
    """The states after every step of every solution, and after all of it."""
    last, mean, right, whole, number = [], [], [], [], []
    for at, solution in enumerate(tqdm(solved, unit="solution")):
        ends = [
            len(large.codec.encode(pair_text(solution.prompt, begun)))
            for begun in beginnings(solution.text)
        ]
        cache = large.graph.cache(ends[-1])
        cache.feed(large.codec.encode(pair_text(solution.prompt, solution.text)))
        states = cache.hidden_states()
        sums = states.cumsum(axis=0)
        for end in ends:
            last.append(states[end - 1].copy())
            mean.append(sums[end - 1] / end)
            right.append(solution.right)
            whole.append(end == ends[-1])
            number.append(at)
    states_by_name = {"last": np.stack(last), "mean": np.stack(mean)}
    return Examples(states_by_name, np.array(right), np.array(whole), np.array(number))


def fitted(states: Floats, found: Examples, strength: float) -> tuple[Floats, float]:
    """Weights [hidden] and bias; the steps of a solution weigh as much as the whole of it."""
    from sklearn.linear_model import LogisticRegression

    steps = np.bincount(found.solution)[found.solution] - 1
    weight = np.where(found.whole, 1.0, 1.0 / np.maximum(steps, 1))
    centre, spread = states.mean(axis=0), states.std(axis=0) + 1e-6
    model = LogisticRegression(C=strength, max_iter=2000)
    model.fit((states - centre) / spread, found.right, sample_weight=weight)
    weights: Floats = (model.coef_[0] / spread).astype(np.float32)
    return weights, float(model.intercept_[0] - centre @ weights)


def auc(right: Booleans, scores: Floats) -> float:
    """How often a right one has the higher score."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(right, scores))


def auc_interval(right: Booleans, scores: Floats, solution: npt.NDArray[np.int64]) -> Share:
    """The same with a 95 % interval, by drawing solutions again."""
    draw = np.random.default_rng(0)
    rows = [np.flatnonzero(solution == number) for number in np.unique(solution)]
    drawn = []
    for _ in range(RESAMPLES):
        some = np.concatenate([rows[at] for at in draw.integers(len(rows), size=len(rows))])
        drawn.append(auc(right[some], scores[some]))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Share(auc(right, scores), float(low), float(high))


def share(hits: Booleans) -> Share:
    """A share with its Wilson interval."""
    n, z = len(hits), 1.96
    p = float(hits.mean())
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Share(p, middle - half, middle + half)


def train(folder: Path, out: Path, n: int, tuning: int) -> None:
    """Fit, choose, write; the figures printed are those of the tuning problems."""
    small, large = Engine(folder / "small"), Engine(folder / "large")
    found = examples(large, list(solutions(small, TRAIN_SEED, n)))
    tuned = examples(large, list(solutions(small, TUNE_SEED, tuning)))
    best: dict[str, tuple[float, Floats, float]] = {}
    for kind in STATES:
        for strength in STRENGTHS:
            weights, bias = fitted(found.states[kind], found, strength)
            logits = tuned.states[kind] @ weights + bias
            reached = auc(tuned.right[tuned.whole], logits[tuned.whole])
            print(f"{kind} state, strength {strength:g}: AUC of whole solutions {reached:.3f}")
            if kind not in best or reached > best[kind][0]:
                best[kind] = reached, weights, bias
    _, weights, bias = best["mean"]
    wrong = tuned.whole & ~tuned.right
    logits = tuned.states["mean"][wrong] @ weights + bias
    bar = sigmoid(float(np.quantile(logits, 1 - FALSE_POSITIVES)))
    told = {
        "graph": f"{large.graph.checksum:08x}",
        "state": "mean",
        "trained_on": {"seed": TRAIN_SEED, "solutions": n},
        "chosen_on": {"seed": TUNE_SEED, "solutions": tuning},
        "bar": round(bar, 3),
        "bias": bias,
        "weights": [round(float(weight), 6) for weight in weights],
    }
    (out / REWARD_FILE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(f"bar {bar:.3f}: of wrong tuning solutions {FALSE_POSITIVES:.0%} pass it")


def report(folder: Path, seed: int, n: int) -> None:
    """What the shipped head is worth on problems of this seed."""
    small, large = Engine(folder / "small"), Engine(folder / "large")
    head = load_head(folder / "large", large.graph)
    if head is None:
        sys.exit(f"no {REWARD_FILE} in {folder / 'large'}")
    found = examples(large, list(solutions(small, seed, n)))
    scores = np.array([head.score(state) for state in found.states["mean"]])
    print(f"seed {seed}, {n} solutions, {found.right[found.whole].mean():.3f} of them right")
    for name, rows in (("whole solutions", found.whole), ("their beginnings", ~found.whole)):
        right, marks = found.right[rows], scores[rows]
        print(f"{name}: {int(rows.sum())}")
        print(f"  AUC {auc_interval(right, marks, found.solution[rows])}")
        print(f"  bar {head.bar:g}: right ones that pass {share(marks[right] >= head.bar)}")
        print(f"  bar {head.bar:g}: wrong ones that pass {share(marks[~right] >= head.bar)}")


def main() -> None:
    """Parse the command line; train, or report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of small/ and large/")
    parser.add_argument("--out", type=Path, help="folder for the head; default: the large model's")
    parser.add_argument("-n", type=int, default=2500, help="problems (default: %(default)s)")
    parser.add_argument("--tuning", type=int, default=1000, help="problems to choose on")
    asked = f"measure the shipped head on this seed; below {TUNE_SEEDS.stop} while developing"
    parser.add_argument("--report", type=int, metavar="SEED", help=asked)
    given = parser.parse_args()
    if given.report is not None:
        report(given.models, given.report, given.n)
    else:
        train(given.models, given.out or given.models / "large", given.n, given.tuning)


if __name__ == "__main__":
    main()

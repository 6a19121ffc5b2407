"""The two tiny artifacts of these tests: `python -m tests.policies.composition.make_artifacts`.

Three experts, three tasks, and prompts that are easily told apart, but for a few: sums are easy, so
`small` does them; code only `large` writes; `other` chats best. `lexical` looks at the form of a
prompt only, `remote` was trained with an embedder behind `/v1/embeddings`, whose vectors are counts
of letters.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from policies.composition.artifact import Expert, write_artifact
from policies.composition.embedder import Floats, Progress, minilm
from policies.composition.prior import shipped
from policies.training.experts.pipeline import Trained, Training, train
from policies.training.experts.recipe import Recipe
from policies.training.outcomes.rows import Rows

FOLDER = Path(__file__).parent / "artifacts"
LEXICAL, REMOTE = FOLDER / "lexical", FOLDER / "remote"
CREATED = "2026-01-01T00:00:00+00:00"
EXPERTS = (
    Expert("small", params_b=1.0, usd=0.001, memory_gb=2.0),
    Expert("large", params_b=8.0, usd=0.010, memory_gb=16.0),
    Expert("other", params_b=3.0, usd=0.002, memory_gb=6.0),
)
RECIPE = Recipe(features="lexical", folds=3, trees=8, leaf=4, directions=4, most_grams=300)
WORTH = {"sums": (0.95, 0.8, 0.7), "code": (0.1, 0.9, 0.3), "chat": (0.4, 0.6, 0.85)}
"""The mean score of each expert, by task."""
SPREAD = 0.05
DIMENSION = 8


class Letters:
    """An embedder of eight numbers: how often letters come, by their code modulo eight."""

    name = "letters"
    dimension = DIMENSION
    fingerprint = "0123456789abcdef"

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Floats:
        """Vectors [texts, 8] of length 1."""
        del progress
        rows = np.array([self.counted(text) for text in texts], np.float32).reshape(-1, DIMENSION)
        unit: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    @staticmethod
    def counted(text: str) -> list[float]:
        """The eight counts and a little, so that no text is nothing."""
        codes = [ord(letter) % DIMENSION for letter in text]
        return [codes.count(code) + 0.5 for code in range(DIMENSION)]


def prompts() -> dict[str, list[str]]:
    """Of each task."""
    numbers = [(7 * n % 83, 5 * n % 61) for n in range(3, 33)]
    things = ("a list", "a word", "a date", "a tree", "a queue")
    verbs = ("sorts", "reverses", "prints", "copies", "checks")
    moods = ("rain", "my cat", "Lisbon", "old films", "the sea")
    asked: tuple[str, ...] = (
        "Tell me a story about {}, please",
        "How do you like {}?",
        "Write to my aunt about {}",
    )
    asked = (*asked, "Why do people love {} so much?", "Write a poem about {}")
    programs = [f"Write a program about {mood}" for mood in moods]
    return {
        "sums": [f"What is {a} + {b} - {a * b}?" for a, b in numbers],
        "code": [
            f"Write a function:\n```\ndef work(x):\n    # {verb} {thing}\n    return x;\n```"
            for verb, thing in itertools.product(verbs, things)
        ]
        + programs,
        "chat": [text.format(mood) for text, mood in itertools.product(asked, moods)],
    }


def rows() -> Rows:
    """Outcomes, the same ones every time."""
    said = [(task, prompt) for task, several in prompts().items() for prompt in several]
    worth = np.array([WORTH[task] for task, _ in said])
    drawn = np.random.default_rng(5).normal(0, SPREAD, worth.shape)
    return Rows(
        prompts=tuple(prompt for _, prompt in said),
        models=tuple(expert.name for expert in EXPERTS),
        scores=np.clip(worth + drawn, 0, 1),
        tasks=tuple(task for task, _ in said),
    )


def made(training: Training) -> Trained:
    """An artifact whose bytes do not depend on the day."""
    trained = train(rows(), training, lambda _: None)
    return Trained(replace(trained.card, created=CREATED), trained.parts)


def lexical() -> Trained:
    """The artifact that looks at the form only."""
    return made(Training(EXPERTS, RECIPE))


def remote() -> Trained:
    """The artifact that needs a model for embeddings."""
    recipe = replace(RECIPE, features="all")
    return made(Training(EXPERTS, recipe, embedder=Letters(), remote=True))


def local() -> Trained:
    """An artifact with the embedder that ships, and its prior."""
    recipe = replace(RECIPE, features="all")
    return made(Training(EXPERTS, recipe, embedder=minilm(), prior=shipped()))


def write(folder: Path, trained: Trained) -> Path:
    """The folder, written."""
    write_artifact(folder, trained.card, trained.parts)
    return folder


if __name__ == "__main__":
    for folder, trained in ((LEXICAL, lexical()), (REMOTE, remote())):
        write(folder, trained)
        print(folder, sum(file.stat().st_size for file in folder.iterdir()), "bytes")

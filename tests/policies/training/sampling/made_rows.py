"""Rows whose chances are known: prompts of a few difficulties, samples drawn from them.

A prompt's difficulty is the chance that a sample is right; wrong ones scatter over a few answers. A
mark says right or wrong with known rates of error.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from policies.training.sampling.rows import Origin, Row, Rows, Sample

RIGHT = "7"
VOTE = {"use": "majority", "pattern": None, "field": None}
GRADE = {"use": "grade", "by": "large", "prompt": "{draft}", "accept": ["yes"]}


@dataclass(frozen=True, slots=True)
class World:
    """How samples come out: chances of a right one by prompt, drawn evenly; how often a wrong and a
    right one gets the mark 0.9 in place of 0.1 (None: samples vote); the large model's chance.
    """

    difficulties: tuple[float, ...] = (0.1, 0.5, 0.95)
    passes: tuple[float, float] | None = None
    large: float = 1.0
    samples: int = 16

    def rows(self, count: int, seed: int = 0) -> Rows:
        rng = random.Random(seed)
        verifier = VOTE if self.passes is None else GRADE
        origin = Origin("small", "large", verifier, 0.7)
        return Rows(origin, tuple(self._row(number, rng) for number in range(count)))

    def _row(self, number: int, rng: random.Random) -> Row:
        chance = rng.choice(self.difficulties)
        first = self._sample(rng.random() < chance, chance, rng)
        samples = tuple(
            self._sample(rng.random() < chance, chance, rng) for _ in range(self.samples)
        )
        large = Sample(RIGHT if rng.random() < self.large else "8", 40.0, "stop")
        judged = (60.0, 1.0) if self.passes else (0.0, 0.0)
        return Row(f"row-{number}", RIGHT, 20.0, first, samples, large, judged)

    def _sample(self, right: bool, chance: float, rng: random.Random) -> Sample:
        text = RIGHT if right else rng.choice("1234")
        if self.passes is None:
            return Sample(text, 30.0, "stop", chance - 1.0, answer=text)
        passed = rng.random() < self.passes[right]
        return Sample(text, 30.0, "stop", chance - 1.0, mark=0.9 if passed else 0.1)


def is_right(row: Row, sample: Sample) -> bool:
    return sample.text == row.reference

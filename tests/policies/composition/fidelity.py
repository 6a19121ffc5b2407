"""How far the shipped embedder is from the original, printed by its `main`.

    python -m tests.policies.composition.fidelity

Compares with the vectors that the original gave for `reference_texts` (`reference.safetensors`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load_file

from policies.composition.embedder import Floats, minilm
from tests.policies.composition.capture_reference import FILE
from tests.policies.composition.reference_texts import TEXTS

APART = 0.01
"""Cosines that differ by less are as good as equal."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Vectors [texts, dimension] against their originals, all of length 1."""

    ours: Floats
    theirs: Floats

    @property
    def cosines(self) -> Floats:
        """Of each vector with its original, [texts]."""
        both: Floats = (self.ours * self.theirs).sum(axis=1)
        return both

    @property
    def nearest(self) -> float:
        """Share of texts whose nearest other text is the same as in the original."""
        ours, theirs = (
            (each @ each.T - 2 * np.eye(len(each))).argmax(axis=1)
            for each in (self.ours, self.theirs)
        )
        return float((ours == theirs).mean())

    @property
    def order(self) -> float:
        """Of all two pairs of texts that the original tells apart: share told apart alike."""
        upper = np.triu_indices(len(self.ours), 1)
        ours, theirs = ((each @ each.T)[upper] for each in (self.ours, self.theirs))
        apart = theirs[:, None] - theirs[None, :] > APART
        return float((ours[:, None] > ours[None, :])[apart].mean())


def original() -> Floats:
    """The original's vectors of the texts."""
    vectors: Floats = load_file(FILE)["vectors"]
    assert len(vectors) == len(TEXTS)
    return vectors


def main() -> None:
    """Print the figures."""
    found = Fidelity(minilm().embed(TEXTS), original())
    print(
        f"{len(TEXTS)} texts, cosine with the original's vector: mean {found.cosines.mean():.4f},"
    )
    print(f"least {found.cosines.min():.4f} ({TEXTS[int(found.cosines.argmin())][:30]!r})")
    print(f"nearest other text the same: {found.nearest:.1%}")
    print(f"pairs that differ by more than {APART} in the same order: {found.order:.2%}")


if __name__ == "__main__":
    main()

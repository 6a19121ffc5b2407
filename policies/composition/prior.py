"""The prior: what other models' answers to other prompts say about how hard a new one is.

Kernel ridge regressions from an embedding to the scores of two dozen open models, fitted once to
public outcome rows (`tandem train prior`) and shipped (`deploy/prior`). A router that is trained on
a thousand rows of its own reads them as features: how hard a question is for anybody is learned
there, and only who is better at it must be learned anew. The groups are the sources of the rows. A
group whose own prompts are among the rows of a training is left out of it: its expectations would
be memories. Knows embeddings and arrays, no router.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from policies.composition.blocks import gaussian, squares
from policies.composition.lexical import Floats

Hashes: TypeAlias = npt.NDArray[np.uint64]

SHIPPED = Path(__file__).parents[2] / "deploy" / "prior"
CARD = "prior.json"
ARRAYS = "prior.safetensors"
_DIGEST = 8
"""Bytes of a prompt's hash: no two of a million prompts share one by chance."""


@dataclass(frozen=True, slots=True)
class Group:
    """One source: `points` [references, dimension], `dual` [references, models], `offset` [models],
    and the hashes of the prompts that it was fitted to.
    """

    name: str
    models: tuple[str, ...]
    points: Floats
    dual: Floats
    offset: Floats
    gamma: float
    prompts: Hashes
    _squares: Floats = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_squares", squares(self.points))

    def expects(self, embedding: Floats) -> Floats:
        """The scores that its models would get, [asks, models]."""
        near = gaussian(embedding, self.points, self.gamma, self._squares)
        return near @ self.dual + self.offset


@dataclass(frozen=True, slots=True)
class Prior:
    """Some groups, and the fingerprint of the embedder that they read."""

    groups: tuple[Group, ...]
    embedder: str
    fingerprint: str

    def __call__(self, embedding: Floats) -> Floats:
        """What all groups expect, side by side, [asks, models]."""
        return np.hstack([group.expects(embedding) for group in self.groups]).astype(np.float32)

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the groups."""
        return tuple(group.name for group in self.groups)

    def of(self, names: Sequence[str]) -> Prior:
        """Only these groups, in this order; raises KeyError for one that is not there."""
        known = {group.name: group for group in self.groups}
        return Prior(tuple(known[name] for name in names), self.embedder, self.fingerprint)

    def strangers(self, prompts: Sequence[str]) -> tuple[str, ...]:
        """The groups of which none of these prompts was a part."""
        hashes = hashed(prompts)
        return tuple(g.name for g in self.groups if not np.isin(hashes, g.prompts).any())

    def known(self, prompts: Sequence[str]) -> int:
        """How many of these prompts some group was fitted to."""
        hashes = hashed(prompts)
        seen = np.zeros(len(hashes), dtype=bool)
        for group in self.groups:
            seen |= np.isin(hashes, group.prompts)
        return int(seen.sum())


def hashed(prompts: Iterable[str]) -> Hashes:
    """A hash of each prompt, spaces and case apart."""
    return np.array(
        [
            int.from_bytes(
                hashlib.blake2b(
                    " ".join(text.lower().split()).encode("utf-8", "replace"), digest_size=_DIGEST
                ).digest()
            )
            for text in prompts
        ],
        dtype=np.uint64,
    )


def read_prior(folder: Path) -> Prior:
    """The prior in a folder. Raises OSError or ValueError where there is none."""
    text = (folder / CARD).read_text(encoding="utf-8")
    stored = (folder / ARRAYS).read_bytes()
    card = json.loads(text)
    arrays = load_file(folder / ARRAYS)
    groups = tuple(
        Group(
            each["name"],
            tuple(each["models"]),
            arrays[f"{each['name']}.points"].astype(np.float32),
            arrays[f"{each['name']}.dual"].astype(np.float32),
            arrays[f"{each['name']}.offset"].astype(np.float32),
            float(each["gamma"]),
            arrays[f"{each['name']}.prompts"],
        )
        for each in card["groups"]
    )
    digest = hashlib.sha256(text.encode() + stored).hexdigest()[:16]
    return Prior(groups, card["embedder"], digest)


@cache
def shipped() -> Prior:
    """The prior that comes with Tandem; read once."""
    return read_prior(SHIPPED)

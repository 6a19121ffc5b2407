"""The findings as arrays: one row a token, with what the gate sees and whether it must fire.

Knows numpy, and reads the trace files. Must not know models or training. Tokens without a verdict
are left out. Prompts, not tokens, are divided into those to learn from and those to test on: tokens
of one answer are too much alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from policies.training.token_gate.answers import Answered
from policies.training.token_gate.arrays import Array, Bools, Floats
from policies.training.token_gate.journal import Row
from policies.training.token_gate.traces import load_record


@dataclass(frozen=True, slots=True)
class Examples:
    """`n` tokens: hidden [n, H] in float16 or None, logits [n, 100] largest first, predicted [n].

    `divergent` [n] is what the gate must find, `differs` [n] where the models differ at all, `held`
    [n] the validation part.
    """

    hidden: Array | None
    logits: Floats
    predicted: Array
    divergent: Bools
    differs: Bools
    held: Bools
    hash: str

    def __len__(self) -> int:
        return len(self.predicted)

    def shares(self) -> dict[str, float]:
        """How the tokens divide: identical, neutral and divergent."""
        divergent, differs = float(self.divergent.mean()), float(self.differs.mean())
        return {
            "identical": 1 - differs,
            "neutral": differs - divergent,
            "divergent": divergent,
        }


@dataclass(frozen=True, slots=True)
class Split:
    """Which prompts are held back for validation: a share of them, drawn by the seed."""

    seed: int
    share: float

    def held(self, id_: str) -> bool:
        """The same for a prompt whatever others there are."""
        digest = hashlib.sha256(f"{self.seed}:{id_}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.share * 2**64


def build(
    answers: Iterable[Answered],
    traces: Mapping[str, Row],
    verdicts: Mapping[str, Row],
    folder: Path,
    split: Split,
) -> Examples:
    """All answers' tokens, read from their records in `folder`."""
    hidden, logits, predicted, divergent, differs, held = [], [], [], [], [], []
    for each in answers:
        record = load_record(folder, traces[each.id]["record"])
        answer = np.asarray(each.answer)
        other = record["predicted"] != answer
        marks = [verdicts[f"{each.id}:{at}"]["divergent"] for at in np.flatnonzero(other)]
        label = np.zeros(len(answer), dtype=np.bool_)
        label[other] = [mark is True for mark in marks]
        kept = np.ones(len(answer), dtype=np.bool_)
        kept[other] = [mark is not None for mark in marks]
        hidden.append(record["hidden"][kept])
        logits.append(record["top_logits"][kept])
        predicted.append(record["predicted"][kept])
        divergent.append(label[kept])
        differs.append(other[kept])
        held.append(np.full(int(kept.sum()), split.held(each.id)))
    states = np.concatenate(hidden)
    joined = [np.concatenate(each) for each in (logits, predicted, divergent, differs, held)]
    return Examples(
        hash=_hash([states, *joined]),
        hidden=states if states.shape[1] else None,  # an engine that shows none records width 0
        logits=joined[0],
        predicted=joined[1],
        divergent=joined[2],
        differs=joined[3],
        held=joined[4],
    )


def _hash(arrays: Iterable[Array]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()

"""Opening an artifact: its folder read, and its embedder and prior looked for, all checked.

The one place where what was trained meets what is installed. Whatever does not fit is a ValueError
that begins with the setting it is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from policies.composition.artifact import Artifact, PriorUsed, read_artifact
from policies.composition.embedder import EmbedderError, minilm
from policies.composition.judge import Judge
from policies.composition.prior import Prior, hashed, shipped


def opened(folder: Path, *, remote: bool) -> tuple[Artifact, Judge]:
    """The artifact in `folder`, and the judge that it makes.

    `remote`: embeddings will come from a backend. Raises ValueError.
    """
    artifact = read_artifact(folder)
    wanted = artifact.card.embedding
    embed = None
    if wanted is None:
        if remote:
            raise ValueError("embedder: the artifact was trained without one")
    elif not wanted.local:
        if not remote:
            raise ValueError(
                f"embedder: the artifact was trained with {wanted.name}: name the model that "
                "serves it"
            )
    else:
        if remote:
            raise ValueError(f"embedder: the artifact was trained with the local {wanted.name}")
        try:
            local = minilm()
        except EmbedderError as error:
            raise ValueError(f"artifact: {error}") from None
        if local.fingerprint != wanted.fingerprint:
            raise ValueError(
                f"artifact: was trained with the embedder {wanted.name} ({wanted.fingerprint}), "
                f"and here is {local.name} ({local.fingerprint}); train it anew"
            )
        embed = local.embed
    used = artifact.card.prior
    prior = None if used is None else _prior(used)
    parts = artifact.parts
    judge = Judge(artifact.reading(embed, prior), parts.categories, parts.blend, parts.familiar)
    return artifact, judge


def _prior(used: PriorUsed) -> Prior:
    try:
        here = shipped()
    except (OSError, ValueError) as error:
        raise ValueError(f"artifact: its prior cannot be read: {error}") from None
    if here.fingerprint != used.fingerprint:
        raise ValueError(
            f"artifact: was trained with the prior {used.fingerprint}, and here is "
            f"{here.fingerprint}; train it anew"
        )
    return here.of(used.groups)


def trained_on(artifact: Artifact, prompts: Sequence[str]) -> int:
    """How many of these prompts the artifact was trained on, or the part of the prior that it uses.

    Figures on those flatter. Raises ValueError where the prior cannot be had.
    """
    hashes = hashed(prompts)
    seen = np.isin(hashes, artifact.parts.prompts)
    if artifact.card.prior is not None:
        for group in _prior(artifact.card.prior).groups:
            seen |= np.isin(hashes, group.prompts)
    return int(seen.sum())

"""Opening an artifact: its folder read, and its embedder and prior looked for, all checked.

The one place where what was trained meets what is installed. Whatever does not fit is a ValueError
that begins with the setting it is about. The last check is a judgement: arrays that do not fit
each other are found now and not by the first request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from policies.composition.artifact import (
    FOLDER,
    Artifact,
    Embedding,
    PriorUsed,
    read_artifact,
)
from policies.composition.ask import Ask
from policies.composition.embedder import EmbedderError, LocalEmbedder, minilm
from policies.composition.folder import ArtifactError
from policies.composition.judge import Judge
from policies.composition.memory import Vectors, spelled
from policies.composition.prior import Prior, hashed, shipped

TRIAL = Ask("What is 3 + 4?")


def opened(folder: Path, *, remote: bool) -> tuple[Artifact, Judge]:
    """The artifact in `folder`, and the judge that it makes.

    `remote`: embeddings will come from a backend. Raises ValueError.
    """
    try:
        artifact = read_artifact(folder)
    except ArtifactError as error:
        raise ValueError(f"artifact: {error}") from None
    local = local_embedder(artifact.card.embedding, remote=remote)
    used = artifact.card.prior
    prior = None if used is None else _prior(used)
    parts = artifact.parts
    judge = Judge(
        artifact.fingerprint,
        artifact.reading(local.embed if local else None, prior),
        parts.categories,
        parts.blend,
        parts.familiar,
        Vectors(tokens_of(local) if local else spelled),
    )
    _try(folder, judge, remote=remote)
    return artifact, judge


def local_embedder(wanted: Embedding | None, *, remote: bool) -> LocalEmbedder | None:
    """The embedder that ships, if that is the one that is wanted; None if none is wanted here."""
    if wanted is None:
        if remote:
            raise ValueError("embedder: the artifact was trained without one")
        return None
    if not wanted.local:
        if not remote:
            raise ValueError(
                f"embedder: the artifact was trained with {wanted.name}: name the model that "
                "serves it"
            )
        return None
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
    return local


def tokens_of(embedder: LocalEmbedder) -> Callable[[str], bytes]:
    """What the embedder reads of a text: the tokens of its beginning."""
    return lambda text: embedder.tokens(text).tobytes()


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
    try:
        return here.of(used.groups)
    except KeyError as error:
        raise ValueError(f"artifact: the prior has no group {error.args[0]}") from None


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


def _try(folder: Path, judge: Judge, *, remote: bool) -> None:
    """Judge something. Raises ValueError where that cannot be done."""
    try:
        if remote:
            judge.learn([TRIAL.text], np.eye(1, judge.reading.layout.embedding).tolist())
        judged = judge.judge_all([TRIAL])[0]
    except (ValueError, IndexError) as error:
        raise ValueError(f"artifact: {FOLDER.misfit(folder, str(error))}") from None
    if not np.isfinite([judged.confidence, judged.similarity, *judged.quality]).all():
        raise ValueError(f"artifact: {FOLDER.misfit(folder, 'its arrays are not finite')}")

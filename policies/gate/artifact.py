"""A learned gate as a folder: `gate.json` says what it is, `gate.safetensors` holds its weights.

Training writes it, engines read it, and neither trusts the other: what does not fit together is an
ArtifactError that says which folder and what to do. No pickle, so that reading cannot run anything.
Knows files and sizes; must not know engines or requests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from policies.gate.arrays import Floats
from policies.gate.network import Dimensions, shapes

FORMAT = 1
KIND = "token-gate"
ESTIMATOR = "score"
CARD = "gate.json"
WEIGHTS = "gate.safetensors"
_FINGERPRINT_ROWS = 256
"""Enough to tell models apart, and quickly read of a large one."""
_DIGITS = 16
"""Hexadecimal digits of a fingerprint: 64 bits, never alike by chance."""

Facts: TypeAlias = Mapping[str, Any]


class ArtifactError(ValueError):
    """A folder that is no usable artifact."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A gate and where it comes from.

    `hidden` says whether it reads hidden states; `threshold` is the score from which it fires.
    `model` names the small model it was made for, with the `fingerprint` of its embedding matrix;
    `data` says what it was trained on, `metrics` how well that went, `created` when (ISO 8601).
    """

    hidden: bool
    dimensions: Dimensions
    threshold: float
    model: Facts
    data: Facts
    metrics: Facts
    created: str
    weights: Mapping[str, Floats]

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ArtifactError(f"its threshold is a score, 0 to 1, not {self.threshold}")
        if self.hidden != (self.dimensions.hidden > 0):
            raise ArtifactError("it reads hidden states if, and only if, dimensions.hidden > 0")
        wanted = shapes(self.dimensions)
        found = {name: tuple(weight.shape) for name, weight in self.weights.items()}
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                raise ArtifactError(
                    f"its dimensions ask for a weight {name} of shape {wanted.get(name)}, "
                    f"it has one of shape {found.get(name)}"
                )


def write_artifact(folder: Path, artifact: Artifact) -> None:
    """Make the folder, or replace what it holds: the weights first, then the card."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: np.ascontiguousarray(each) for name, each in artifact.weights.items()}
    (folder / WEIGHTS).write_bytes(save(weights))  # save_file's is for its owner's eyes only
    card = {
        "format": FORMAT,
        "kind": KIND,
        "hidden": artifact.hidden,
        "dimensions": asdict(artifact.dimensions),
        "threshold": artifact.threshold,
        "estimator": ESTIMATOR,
        "model": dict(artifact.model),
        "data": dict(artifact.data),
        "metrics": dict(artifact.metrics),
        "created": artifact.created,
    }
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def read_artifact(folder: Path) -> Artifact:
    """The artifact in a folder. Raises ArtifactError where it is none, or its parts disagree."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS)
    except OSError as error:
        reason = error.strerror or error
        raise ArtifactError(f"{error.filename or folder / WEIGHTS}: {reason}; {_HINT}") from error
    except (ValueError, SafetensorError) as error:
        raise ArtifactError(f"a file in {folder} is damaged: {error}; {_HINT}") from error
    try:
        return _artifact(card, weights)
    except ArtifactError as error:
        raise ArtifactError(f"{folder} is no artifact that fits: {error}") from error


_HINT = "`tandem train token-gate` makes such a folder"


def _artifact(card: Any, weights: dict[str, Floats]) -> Artifact:
    stated = card if isinstance(card, dict) else {}
    for name, value in (("format", FORMAT), ("kind", KIND), ("estimator", ESTIMATOR)):
        if stated.get(name) != value:
            raise ArtifactError(f"{CARD}: {name} is {stated.get(name)!r} and must be {value!r}")
    wrong = [name for name, weight in weights.items() if weight.dtype != np.float32]
    if wrong:
        raise ArtifactError(f"{WEIGHTS}: {', '.join(wrong)} must be float32")
    return Artifact(
        hidden=_of(stated, "hidden", bool),
        dimensions=_dimensions(_of(stated, "dimensions", dict)),
        threshold=float(_of(stated, "threshold", (int, float))),
        model=_of(stated, "model", dict),
        weights=weights,
        data=_of(stated, "data", dict),
        metrics=_of(stated, "metrics", dict),
        created=_of(stated, "created", str),
    )


def _dimensions(stated: Facts) -> Dimensions:
    names = [each.name for each in fields(Dimensions)]
    wrong = [name for name in names if type(stated.get(name)) is not int or stated[name] < 0]
    if wrong:
        raise ArtifactError(f"{CARD}: dimensions.{wrong[0]} must be a whole number")
    return Dimensions(**{name: stated[name] for name in names})


def _of(stated: Facts, name: str, kind: type | tuple[type, ...]) -> Any:
    value = stated.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ArtifactError(f"{CARD}: {name} is missing or of the wrong kind: {value!r}")
    return value


def fingerprint(embedding: Floats) -> str:
    """What tells an embedding matrix [vocabulary, embedding] from others, whatever its precision.

    Of its first 256 rows, rounded to bfloat16: so it is the same whether an engine holds them in
    that type or in float32, and however many unused rows it has put at the end.
    """
    rows = np.ascontiguousarray(embedding[:_FINGERPRINT_ROWS], dtype=np.float32)
    bits = rows.view(np.uint32)
    # To the nearest, ties to even: as every engine rounds.
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return hashlib.sha256(f"{rows.shape}".encode() + rounded.tobytes()).hexdigest()[:_DIGITS]

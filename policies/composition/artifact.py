"""A trained composition of experts as a folder of plain files, written once and then only read.

    experts.json          what it is: experts, categories, embedder, maps, figures of its training
    experts.safetensors   every array
    grams.json            the vocabulary of n-grams, in the order of their weights

`tandem train experts` writes it, the policy `experts` reads it, and neither trusts the other: what
does not fit together is an `ArtifactError` that names the folder and says what to do. No pickle, so
that reading cannot run anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from policies.composition.blocks import (
    Blend,
    Block,
    Categories,
    Familiar,
    Forest,
    Grams,
    Kernel,
    Table,
)
from policies.composition.budget import Reference
from policies.composition.features import Reading, Units
from policies.composition.folder import Folder, arrays_of, units_of
from policies.composition.lexical import NAMES, Floats
from policies.composition.prior import Hashes

FORMAT = 1
KIND = "experts"
CARD = "experts.json"
ARRAYS = "experts.safetensors"
GRAMS = "grams.json"
HALVED = ("points", "values")
"""Arrays stored in half precision: what is lost is far below what they are known to."""
FOLDER = Folder(
    CARD,
    ARRAYS,
    GRAMS,
    {"format": FORMAT, "kind": KIND, "lexical": list(NAMES)},
    "tandem train experts",
)


@dataclass(frozen=True, slots=True)
class Expert:
    """One expert: active parameters in billions, USD per request, GB of memory; None if unknown."""

    name: str
    params_b: float | None = None
    usd: float | None = None
    memory_gb: float | None = None


@dataclass(frozen=True, slots=True)
class Category:
    """A kind of prompt: its share of the training rows, and the words that are typical of it."""

    name: str
    share: float
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Map:
    """Which expert serves each category, by index, solved for an active `budget` in `unit`.

    `cost` and `quality` are what that comes to on the training rows.
    """

    unit: str
    budget: float
    cost: float
    quality: float
    experts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Embedding:
    """The embedder that the artifact was trained with, and so must be served with."""

    name: str
    fingerprint: str
    dimension: int
    local: bool = True


@dataclass(frozen=True, slots=True)
class PriorUsed:
    """The prior that the artifact was trained with, and which of its groups."""

    fingerprint: str
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Card:
    """Everything about an artifact that is no array.

    `resident` are the indices of the experts that fit the memory budget of training (all, where
    there was none), `strong` is the one among them with the best mean score. Below `confidence` or
    `similarity` a prompt counts as uncertain. `prior` names the prior whose expectations are
    features. `reference` says where the rows of the frontier came from: `folds` or `rows`.
    """

    experts: tuple[Expert, ...]
    categories: tuple[Category, ...]
    maps: tuple[Map, ...]
    strong: int
    resident: tuple[int, ...]
    source: str
    embedding: Embedding | None
    prior: PriorUsed | None
    confidence: float
    similarity: float
    reference: str
    created: str
    data: Mapping[str, Any]
    metrics: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parts:
    """The arrays of an artifact as what they are for, still without an embedder.

    `prompts` are the hashes of the prompts that it was trained on.
    """

    directions: Floats
    direction_units: Units
    lexical_units: Units
    prior_units: Units | None
    categories: Categories
    blend: Blend
    familiar: Familiar
    reference: Reference
    prompts: Hashes = field(default_factory=lambda: np.zeros(0, np.uint64))


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a folder holds. `fingerprint` tells it from any other."""

    card: Card
    parts: Parts
    fingerprint: str

    def reading(self, embed: Any, prior: Any) -> Reading:
        """How asks are read for it, given its embedder and its prior."""
        uses = any(isinstance(block, Grams) for block in self.parts.blend.blocks)
        parts = self.parts
        return Reading(
            embed,
            prior,
            parts.directions,
            parts.direction_units,
            parts.lexical_units,
            parts.prior_units,
            uses,
        )


# -------------------------------------------------------------------------------------- writing


def write_artifact(folder: Path, card: Card, parts: Parts) -> None:
    """Make the folder, or replace what it holds: the arrays first, then the card."""
    arrays: dict[str, Any] = {}
    blocks: list[dict[str, Any]] = []
    vocabulary: list[str] = []
    for at, block in enumerate(parts.blend.blocks):
        kind, scalars = type(block).__name__.lower(), {}
        for name, value in _fields(block):
            if isinstance(value, np.ndarray):
                half = name in HALVED and isinstance(block, Forest | Kernel)
                arrays[f"block{at}.{name}"] = value.astype(np.float16) if half else value
            elif isinstance(value, int | float):
                scalars[name] = value
        if isinstance(block, Grams):
            vocabulary = sorted(block.vocabulary, key=block.vocabulary.__getitem__)
        blocks.append({"kind": kind, **scalars})
    arrays |= _shared(parts)
    about = {"temperature": parts.categories.temperature, "neighbours": parts.familiar.neighbours}
    FOLDER.write(folder, {"blocks": blocks, **about, **asdict(card)}, arrays, vocabulary)


def _fields(block: Block) -> list[tuple[str, Any]]:
    of: Any = block  # all are dataclasses
    return [(each.name, getattr(of, each.name)) for each in fields(of) if each.init]


def _shared(parts: Parts) -> dict[str, Any]:
    arrays = {
        "directions": parts.directions,
        **arrays_of("directions", parts.direction_units),
        **arrays_of("lexical", parts.lexical_units),
        "categories.columns": parts.categories.columns,
        "categories.weights": parts.categories.weights,
        "categories.offset": parts.categories.offset,
        "blend.weights": parts.blend.weights,
        "blend.offset": parts.blend.offset,
        "familiar.points": parts.familiar.points.astype(np.float16),
        "reference.predicted": parts.reference.predicted.astype(np.float32),
        "reference.actual": parts.reference.actual.astype(np.float32),
        "prompts": parts.prompts,
    }
    if parts.prior_units is not None:
        arrays |= arrays_of("prior", parts.prior_units)
    return arrays


# -------------------------------------------------------------------------------------- reading


def read_artifact(folder: Path) -> Artifact:
    """The artifact in a folder. Raises ArtifactError where it is none, or its parts disagree."""
    content = FOLDER.read(folder)
    try:
        card = _card(content.card)
        _check(card)
        parts = _parts(content.card, content.arrays, content.further, card)
    except KeyError as error:
        raise FOLDER.misfit(folder, f"{error.args[0]} is missing") from error
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise FOLDER.misfit(folder, str(error)) from error
    return Artifact(card, parts, content.fingerprint)


def _check(card: Card) -> None:
    """Every expert that is meant by its number must be there."""
    experts = range(len(card.experts))
    if card.strong not in card.resident or not set(card.resident) <= set(experts):
        raise ValueError("strong and resident do not name its experts")
    for one in card.maps:
        if len(one.experts) != len(card.categories) or not set(one.experts) <= set(experts):
            raise ValueError("a map names other experts or categories")


def _card(stated: Mapping[str, Any]) -> Card:
    embedding, prior = stated["embedding"], stated["prior"]
    return Card(
        experts=tuple(Expert(**each) for each in stated["experts"]),
        categories=tuple(
            Category(each["name"], each["share"], tuple(each["words"]))
            for each in stated["categories"]
        ),
        maps=tuple(Map(**{**each, "experts": tuple(each["experts"])}) for each in stated["maps"]),
        strong=stated["strong"],
        resident=tuple(stated["resident"]),
        source=stated["source"],
        embedding=Embedding(**embedding) if embedding else None,
        prior=PriorUsed(prior["fingerprint"], tuple(prior["groups"])) if prior else None,
        confidence=stated["confidence"],
        similarity=stated["similarity"],
        reference=stated["reference"],
        created=stated["created"],
        data=stated["data"],
        metrics=stated["metrics"],
    )


def _parts(
    stated: Mapping[str, Any], arrays: Mapping[str, Any], vocabulary: Sequence[str], card: Card
) -> Parts:
    categories = Categories(
        tuple(each.name for each in card.categories),
        arrays["categories.columns"],
        arrays["categories.weights"],
        arrays["categories.offset"],
        float(stated["temperature"]),
    )
    known = {gram: at for at, gram in enumerate(vocabulary)}
    blocks = [
        _block(scalars, _of(arrays, f"block{at}."), known, categories)
        for at, scalars in enumerate(stated["blocks"])
    ]
    blend = Blend(tuple(blocks), arrays["blend.weights"], arrays["blend.offset"])
    outputs = len(card.experts) + 1
    if len(blend.offset) != outputs or len(blend.weights) != len(blocks):
        raise ValueError(f"{len(card.experts)} experts need {outputs} outputs")
    if len(categories.names) != len(categories.offset):
        raise ValueError("the classifier knows other categories than the card")
    predicted, actual = arrays["reference.predicted"], arrays["reference.actual"]
    if predicted.shape != actual.shape or predicted.shape[1:] != (len(card.experts),):
        raise ValueError("the reference rows are of other experts")

    return Parts(
        arrays["directions"],
        units_of("directions", arrays),
        units_of("lexical", arrays),
        units_of("prior", arrays) if card.prior else None,
        categories,
        blend,
        Familiar(arrays["familiar.points"].astype(np.float32), int(stated["neighbours"])),
        Reference(predicted.astype(float), actual.astype(float)),
        arrays["prompts"],
    )


def _of(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
    return {
        name: value.astype(np.float32) if value.dtype == np.float16 else value
        for name, value in found.items()
    }


def _block(
    scalars: Mapping[str, Any],
    arrays: Mapping[str, Any],
    vocabulary: Mapping[str, int],
    categories: Categories,
) -> Block:
    settings: dict[str, Any] = {name: v for name, v in scalars.items() if name != "kind"}
    match scalars["kind"]:
        case "grams":
            if len(vocabulary) != len(arrays["idf"]):
                raise ValueError(f"{GRAMS} and {ARRAYS} hold different numbers of n-grams")
            return Grams(vocabulary=vocabulary, **arrays)
        case "kernel":
            return Kernel(**arrays, **settings)
        case "forest":
            return Forest(**arrays, **settings)
        case "table":
            return Table(arrays["rows"], categories)
        case kind:
            raise ValueError(f"there is no block of kind {kind!r}")

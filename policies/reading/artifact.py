"""What a policy judges questions about documents by, as a folder of plain files.

    card.json             what it is: embedder, measures, how was searched, the table, figures
    arrays.safetensors    every array
    grams.json            the vocabularies of n-grams, in the order of their weights

`tandem train context` writes it, whoever judges reads it, and neither trusts the other: what does
not fit together is an ArtifactError that names the folder and says what to do. The one that ships
is called `default`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from policies.composition.artifact import Embedding
from policies.composition.ask import Ask
from policies.composition.blocks import Categories, Grams
from policies.composition.features import Reading, Units, units
from policies.composition.folder import ArtifactError, Folder, arrays_of, units_of
from policies.composition.lexical import NAMES, Floats
from policies.composition.memory import Vectors, spelled
from policies.composition.opening import local_embedder, tokens_of
from policies.composition.prior import Hashes, hashed
from policies.reading.documents import TASKS
from policies.reading.index import WINDOW
from policies.reading.measures import NAMES as MEASURED
from policies.reading.measures import Measures
from policies.reading.table import Table, read_table, stated
from policies.reading.tasks import Head, Phrases, TaskJudge

__all__ = ["DEFAULT", "Artifact", "ArtifactError", "Card", "Parts", "folder_of", "opened",
           "read_artifact", "write_artifact"]  # fmt: skip

DEFAULT = "default"
SHIPPED = Path(__file__).parents[2] / "deploy" / "context"
FOLDER = Folder(
    "card.json",
    "arrays.safetensors",
    "grams.json",
    {
        "format": 1,
        "kind": "context",
        "lexical": list(NAMES),
        "tasks": list(TASKS),
        "window": WINDOW,  # measures of other windows are other numbers
    },
    "tandem train context",
)
HEADS = ("alone", "measured")
GRAMS = ("words", "frames", "outlines", "letters")
COMMON = "common"
TRIAL = Ask("What is the total of the year?")


@dataclass(frozen=True, slots=True)
class Card:
    """Everything about it that is no array.

    `measures` are the names of what the second head reads beside the question, in order; none where
    it was trained without documents. `retrieval` says how was searched for them.
    """

    embedding: Embedding | None
    measures: tuple[str, ...]
    retrieval: Mapping[str, Any]
    data: Mapping[str, Any]
    metrics: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parts:
    """The arrays as what they are for, without an embedder.

    `lexical` and `measured` are units in training, `prompts` the hashes of the questions.
    """

    lexical: Units
    alone: Head
    measured: Head | None
    measures: Units | None
    prompts: Hashes


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a folder holds. `fingerprint` tells it from any other."""

    card: Card
    parts: Parts
    table: Table
    fingerprint: str

    def judge(self) -> TaskJudge:
        """The judge of tasks, with the embedder that ships. Raises ValueError for another one."""
        wanted, parts = self.card.embedding, self.parts
        local = local_embedder(wanted, remote=False)
        return TaskJudge(
            self.fingerprint,
            reading_of(parts.lexical, None if local is None else local.embed, wanted),
            parts.alone,
            parts.measured,
            parts.measures,
            self.card.measures,
            Vectors(tokens_of(local) if local else spelled),
        )

    def trained_on(self, prompts: Sequence[str]) -> int:
        """How many of these prompts it was trained on: figures on those flatter."""
        return int(np.isin(hashed(prompts), self.parts.prompts).sum())


def reading_of(lexical: Units, embed: Any, embedding: Embedding | None) -> Reading:
    """How asks are read: the embedding and the lexical numbers."""
    width = 0 if embedding is None else embedding.dimension
    nothing = np.zeros((width, 0), np.float32)
    return Reading(embed, None, nothing, units(np.zeros((1, 0), np.float32)), lexical, None)


def folder_of(name: str | Path) -> Path:
    """The folder that is meant: `default` is the one that ships."""
    return SHIPPED if str(name) == DEFAULT else Path(name)


def opened(name: str | Path) -> tuple[Artifact, TaskJudge]:
    """The artifact of this name, and its judge, tried once. Raises ValueError (ArtifactError is
    one), in one line.
    """
    folder = folder_of(name)
    artifact = read_artifact(folder)
    try:
        judge = artifact.judge()
        likely = [judge.judge(TRIAL), judge.judge(TRIAL, Measures(dense=1.0))]
    except (IndexError, TypeError) as error:
        raise FOLDER.misfit(folder, str(error)) from error
    if not np.isfinite(likely).all():
        raise FOLDER.misfit(folder, "its arrays are not finite")
    return artifact, judge


# -------------------------------------------------------------------------------------- writing


def write_artifact(folder: Path, card: Card, parts: Parts, table: Table) -> None:
    """Make the folder, or replace what it holds."""
    arrays: dict[str, Any] = {"prompts": parts.prompts, **arrays_of("lexical", parts.lexical)}
    if parts.measures is not None:
        arrays |= arrays_of("measures", parts.measures)
    vocabularies = {}
    for name in GRAMS:
        grams: Phrases | Grams = getattr(parts.alone, name)
        arrays[f"{name}.idf"] = grams.idf
        vocabularies[name] = sorted(grams.vocabulary, key=grams.vocabulary.__getitem__)
    vocabularies[COMMON] = sorted(parts.alone.common)
    temperatures = {}
    for name, head in zip(HEADS, (parts.alone, parts.measured), strict=True):
        if head is not None:
            temperatures[name] = head.rest.temperature
            arrays |= _head_arrays(name, head)
    arrays |= {f"own.{at}": counted for at, counted in enumerate(table.own.values())}
    about = {
        "temperatures": temperatures,
        "table": stated(table),
        "own": list(table.own),
        **asdict(card),
    }
    FOLDER.write(folder, about, arrays, vocabularies)


def _head_arrays(name: str, head: Head) -> dict[str, Any]:
    return {
        **{f"{name}.{grams}": getattr(head, grams).weights for grams in GRAMS},
        f"{name}.columns": head.rest.columns,
        f"{name}.rest": head.rest.weights,
        f"{name}.offset": head.rest.offset,
    }


# -------------------------------------------------------------------------------------- reading


def read_artifact(folder: Path) -> Artifact:
    """The artifact in a folder. Raises ArtifactError where it is none, or its parts disagree."""
    content = FOLDER.read(folder)
    said, arrays = content.card, content.arrays
    try:
        embedding = said["embedding"]
        card = Card(
            None if embedding is None else Embedding(**embedding),
            tuple(said["measures"]),
            said["retrieval"],
            said["data"],
            said["metrics"],
        )
        table = read_table(said["table"])
        own = {name: arrays[f"own.{at}"] for at, name in enumerate(said["own"])}
        table = table.having(own)
        parts = _parts(said["temperatures"], arrays, content.further, card)
    except KeyError as error:
        raise FOLDER.misfit(folder, f"{error.args[0]} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise FOLDER.misfit(folder, str(error)) from error
    return Artifact(card, parts, table, content.fingerprint)


def _parts(
    temperatures: Mapping[str, float],
    arrays: Mapping[str, Any],
    vocabularies: Mapping[str, Sequence[str]],
    card: Card,
) -> Parts:
    known = {name: {gram: at for at, gram in enumerate(vocabularies[name])} for name in GRAMS}
    common = frozenset(vocabularies[COMMON])
    for name in GRAMS:
        if len(known[name]) != len(arrays[f"{name}.idf"]):
            raise ValueError(f"{FOLDER.further} and {FOLDER.arrays} differ in the {name}")
    heads = {
        name: _head((name, heat), arrays, known, common) for name, heat in temperatures.items()
    }
    alone, measured = heads["alone"], heads.get("measured")
    if (measured is None) == bool(card.measures):
        raise ValueError("measures and the head that reads them: one is there, the other is not")
    if strange := set(card.measures) - set(MEASURED):
        raise ValueError(f"nobody measures {min(strange)} here")
    measures = None if measured is None else units_of("measures", arrays)
    if measures is not None and measures.centre.shape != (len(card.measures),):
        raise ValueError("there are units of other measures than the card names")
    return Parts(units_of("lexical", arrays), alone, measured, measures, arrays["prompts"])


def _head(
    called: tuple[str, float],
    arrays: Mapping[str, Any],
    known: Mapping[str, Mapping[str, int]],
    common: frozenset[str],
) -> Head:
    name, temperature = called
    weights: dict[str, Floats] = {grams: arrays[f"{name}.{grams}"] for grams in GRAMS}
    for grams, each in weights.items():
        if each.shape != (len(known[grams]), len(TASKS)):
            raise ValueError(f"the {grams} of {name} have weights of another shape")
    words, frames, outlines = (
        Phrases(known[grams], arrays[f"{grams}.idf"], weights[grams]) for grams in GRAMS[:3]
    )
    none = np.zeros(len(TASKS), np.float32)
    letters = Grams(known["letters"], arrays["letters.idf"], weights["letters"], none)
    columns, rest = arrays[f"{name}.columns"], arrays[f"{name}.rest"]
    offset = arrays[f"{name}.offset"]
    if rest.shape != (len(columns), len(TASKS)) or offset.shape != none.shape:
        raise ValueError(f"the dense weights of {name} are of another shape")
    told = Categories(TASKS, columns, rest, offset, temperature)
    return Head(words, frames, outlines, common, letters, told)

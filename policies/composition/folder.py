"""Folders of plain files that something was trained into: a card, arrays, and vocabularies.

What every such folder has in common: JSON and safetensors, written arrays first, read with one line
that says what is wrong. No pickle, so that reading cannot run anything. Knows nothing of what the
arrays are for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from policies.composition.features import Units


class ArtifactError(ValueError):
    """A folder that is no usable artifact."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a folder held: the card, the arrays, further JSON, and a fingerprint of the former two.

    Arrays of half precision are float32 again only where somebody makes them so.
    """

    card: Mapping[str, Any]
    arrays: Mapping[str, Any]
    further: Any
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Folder:
    """How folders of one kind look: the files' names, what the card must `state`, who makes one."""

    card: str
    arrays: str
    further: str
    states: Mapping[str, Any]
    maker: str

    def write(
        self, folder: Path, card: Mapping[str, Any], arrays: Mapping[str, Any], further: Any
    ) -> None:
        """Make the folder, or replace what it holds: the arrays first, then the card."""
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / self.further, further)
        contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
        (folder / self.arrays).write_bytes(save(contiguous))
        _write(folder / self.card, {**self.states, **card}, indent=2)

    def read(self, folder: Path) -> Content:
        """What is in the folder. Raises ArtifactError where that is no such artifact."""
        try:
            text = (folder / self.card).read_text(encoding="utf-8")
            stored = (folder / self.arrays).read_bytes()
            stated = json.loads(text)
            further = json.loads((folder / self.further).read_text(encoding="utf-8"))
            arrays = load_file(folder / self.arrays)
        except OSError as error:
            reason = error.strerror or error
            raise ArtifactError(f"{error.filename or folder}: {reason}; {self._hint}") from error
        except (ValueError, SafetensorError) as error:
            raise ArtifactError(f"a file in {folder} is damaged: {error}; {self._hint}") from error
        for name, value in self.states.items():
            found = stated.get(name) if isinstance(stated, dict) else None
            if found != value:
                raise ArtifactError(
                    f"{folder}: {name} is {found!r}, and this version of Tandem reads {value!r}; "
                    "train it anew"
                )
        digest = hashlib.sha256(text.encode() + stored).hexdigest()[:16]
        return Content(stated, arrays, further, digest)

    def misfit(self, folder: Path, why: str) -> ArtifactError:
        """The files of a folder are whole, and not of one artifact."""
        return ArtifactError(f"the files in {folder} do not fit together: {why}; {self._hint}")

    @property
    def _hint(self) -> str:
        return f"`{self.maker}` makes such a folder"


def _write(path: Path, value: Any, indent: int | None = None) -> None:
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def arrays_of(name: str, units: Units) -> dict[str, Any]:
    """Units as arrays to be stored."""
    return {f"{name}.centre": units.centre, f"{name}.spread": units.spread}


def units_of(name: str, arrays: Mapping[str, Any]) -> Units:
    """The units that were stored so; raises KeyError."""
    return Units(arrays[f"{name}.centre"], arrays[f"{name}.spread"])

"""How large and how dear models are: a table with its sources (`models.json`), then their names.

A model is looked up by the longest entry that its name begins with, so that `-Instruct` and `-v0.3`
need none of their own. What is in no entry is read from the name: `-8B` is 8 billion parameters,
and of `30B-A3B` 3 billion are active. How many of `8x7B` are, no name tells.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.tables import spelled_alike
from router.fleet import Price

__all__ = ["Facts", "active", "facts", "told"]

FILE = Path(__file__).with_suffix(".json")
_ACTIVE = re.compile(r"(?<![a-z0-9])a(\d+(?:\.\d+)?)b(?![a-z0-9])")
_SIZE = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)b(?![a-z0-9])")
_MIXTURE = re.compile(r"\d+x\d+(?:\.\d+)?b(?![a-z0-9])")
_AFTER = ("", "-", "_", ":", ".")
"""What may follow an entry in a name; "" is its end."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one model, None where nobody knows: `params_b` in billions, active; `price`, a list's."""

    params_b: float | None
    price: Price | None


def facts(name: str) -> Facts:
    """What is known of the model with this name."""
    called = spelled_alike(name.rsplit("/", 1)[-1])
    entries = _entries()
    fitting = [entry for entry in entries if _begins(called, entry)]
    if fitting:
        found = entries[max(fitting, key=len)]
        return Facts(found["params_b"], Price(*found["price"]))
    return Facts(_size(called), None)


def told(stated: Sequence[str]) -> Mapping[str, float]:
    """Parameters by model from `NAME=BILLIONS` on a command line; raises `RowsError`."""
    found: dict[str, float] = {}
    for one in stated:
        name, _, value = one.rpartition("=")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = 0.0
        if not name or not found[name] > 0:
            raise RowsError(f"{one}: write NAME=BILLIONS, such as my-model=8")
    return found


def active(models: Sequence[str], stated: Mapping[str, float]) -> list[float]:
    """Active parameters of each model in billions, `stated` ones first; NaN where nobody knows."""
    own = {spelled_alike(name): value for name, value in stated.items()}
    found = [own.get(spelled_alike(name)) or facts(name).params_b for name in models]
    return [math.nan if size is None else size for size in found]


@cache
def _entries() -> Mapping[str, Mapping[str, Any]]:
    read: Mapping[str, Mapping[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))["models"]
    return read


def _begins(called: str, entry: str) -> bool:
    return called.startswith(entry) and called[len(entry) : len(entry) + 1] in _AFTER


def _size(called: str) -> float | None:
    if found := _ACTIVE.search(called):
        return float(found[1])
    if _MIXTURE.search(called):
        return None
    sizes = _SIZE.findall(called)
    return float(sizes[-1]) if sizes else None

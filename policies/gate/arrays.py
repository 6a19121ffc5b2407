"""The few places where numpy and torch differ, so that all else is written once.

Knows both libraries' names, and that a step on a GPU must not be waited for: what goes up goes
through pinned memory, and nothing here brings anything down but `down` itself. Torch is never
imported here: whoever has tensors has torch, and hands the module over.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = Any
"""A numpy array or a torch tensor; both spell indexing, arithmetic and comparison alike."""
Floats: TypeAlias = npt.NDArray[np.float32]
Whole: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Arrays:
    """One library's arrays: `xp` is the module numpy or torch, `device` as torch takes it."""

    xp: ModuleType = np
    device: Any = None

    def up(self, values: npt.NDArray[Any]) -> Array:
        """A numpy array as one of this library's, on its device, without waiting for the device."""
        if self.xp is np:
            return values
        tensor = self.xp.from_numpy(np.ascontiguousarray(values))
        if str(self.device).startswith("cuda"):
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor if self.device is None else tensor.to(self.device)

    def spread(self, values: npt.NDArray[Any]) -> Array:
        """As `up`; but where all are alike one plain number, which spares the way up."""
        if self.xp is np or (values != values[0]).any():
            return self.up(values)
        return values[0].item()

    def down(self, values: Array) -> npt.NDArray[Any]:
        """The numpy array of one of this library's. Waits for the device."""
        return np.asarray(values if self.xp is np else values.cpu())

    def floats(self, values: Array) -> Array:
        """The same numbers as float32."""
        if self.xp is np:
            return values.astype(np.float32, copy=False)
        return values.to(self.xp.float32)

    def below_best(self, values: Array, least: float) -> Array:
        """How far each is below the largest of its row, 0 to `least`; float32, as numpy's are."""
        if self.xp is np:
            below = values - np.maximum.reduce(values, -1, keepdims=True)
            # With a number instead of a row of it, numpy would compare one by one.
            return np.maximum(below, _row(values.shape[-1], least), out=below)
        values = values.float()
        return (values - values.amax(-1, keepdim=True)).clamp(min=least)

    def total(self, values: Array) -> Array:
        """The sum of each row."""
        # The same as numpy's `sum`, which takes half as long again to come to it.
        return np.add.reduce(values, -1) if self.xp is np else values.sum(-1)

    def dot(self, ones: Array, others: Array) -> Array:
        """The sum of the products of each row."""
        return np.vecdot(ones, others) if self.xp is np else (ones * others).sum(-1)

    def largest(self, values: Array, count: int) -> Array:
        """The `count` largest of each row, largest first."""
        if self.xp is not np:
            return self.top(values, count)[0]
        # Sorted from below: numpy sorts no other way.
        found = -values
        if count < values.shape[-1]:
            found = np.partition(found, count, axis=-1)[..., :count]
        found.sort(-1)
        return -found

    def top(self, values: Array, count: int) -> tuple[Array, Array]:
        """The `count` largest of each row, largest first, and where they stand in it."""
        if self.xp is not np:
            found, places = self.xp.topk(values, count, dim=-1)
            return found, places
        if count < values.shape[-1]:
            places = np.argpartition(values, -count, axis=-1)[..., -count:]
        else:
            places = np.broadcast_to(np.arange(count), values.shape)
        found = np.take_along_axis(values, places, axis=-1)
        order = np.argsort(-found, axis=-1, kind="stable")
        return (
            np.take_along_axis(found, order, axis=-1),
            np.take_along_axis(places, order, axis=-1),
        )


@cache
def _row(width: int, value: float) -> Floats:
    return np.full(width, value, dtype=np.float32)

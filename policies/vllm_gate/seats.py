"""Where the requests with a gate are, as vLLM's first interface (V1) moves its rows about.

vLLM names a request by its row in the batch, and the row changes: others leave, rows are swapped,
and a request that had to wait (preempted, or not scheduled for a step) leaves and comes back at
another row. So each has a seat of its own, with a slot in the rules that stays the same, and one
that has left keeps its seat until another needs it: nothing tells whether it will come back.

Knows rows and slots only. Rule: every slot is free, seated or away, and in one of these once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.gate.arrays import Whole
from policies.vllm_gate.gates import Params, asks


@dataclass(slots=True)
class Seat:
    """One request. `params` tells it from others; `output` is its growing list of token ids."""

    slot: int
    params: Params
    output: Sequence[int]


class Seats:
    """The seats of one engine.

    `slots` must be at least as many as there are rows. `begin` is told the slot and the parameters
    of each new request that has a gate; the others get no seat.
    """

    def __init__(self, slots: int, begin: Callable[[int, Params], None]) -> None:
        self._begin = begin
        self._free = list(range(slots))
        self._seated: dict[int, Seat] = {}
        self._away: OrderedDict[int, Seat] = OrderedDict()
        self.rows: Whole = np.zeros(0, dtype=np.int64)
        self.slots: Whole = self.rows
        self._outputs: list[Sequence[int]] = []

    def __len__(self) -> int:
        return len(self._seated)

    def positions(self) -> Whole:
        """How many tokens each seated request has had, in the order of `rows` and `slots`."""
        return np.fromiter(map(len, self._outputs), dtype=np.int64, count=len(self._outputs))

    def update(self, update: Any, swap: Any) -> bool:
        """Follow vLLM's `BatchUpdate`; `swap` is its word for a move in both directions.

        Says whether any seat has changed.
        """
        before = len(self._seated)
        for row in update.removed:
            self._leave(row)
        for row, params, _, output in update.added:
            self._come(row, params, output)
        for source, target, direction in update.moved:
            self._move(source, target, both=direction is swap)
        changed = bool(before or self._seated)
        if changed:
            self._list()
        return changed

    def _leave(self, row: int) -> None:
        seat = self._seated.pop(row, None)
        if seat is None:
            return
        # Inside one process, the choices of a request with several may share their parameters.
        before = self._away.pop(id(seat.params), None)
        if before is not None:
            self._free.append(before.slot)
        self._away[id(seat.params)] = seat

    def _come(self, row: int, params: Params, output: Sequence[int]) -> None:
        self._leave(row)
        if not asks(params):
            return
        seat = self._away.pop(id(params), None)
        if seat is None:
            seat = Seat(self._vacant(), params, output)
            self._begin(seat.slot, params)
        seat.output = output
        self._seated[row] = seat

    def _vacant(self) -> int:
        if self._free:
            return self._free.pop()
        _, longest_away = self._away.popitem(last=False)
        return longest_away.slot

    def _move(self, source: int, target: int, *, both: bool) -> None:
        moved = self._seated.pop(source, None)
        if both and (other := self._seated.pop(target, None)) is not None:
            self._seated[source] = other
        self._leave(target)
        if moved is not None:
            self._seated[target] = moved

    def _list(self) -> None:
        rows = sorted(self._seated)
        self.rows = np.asarray(rows, dtype=np.int64)
        self.slots = np.asarray([self._seated[row].slot for row in rows], dtype=np.int64)
        self._outputs = [self._seated[row].output for row in rows]

"""What an engine saw at each position of a forced text, written down for training.

A trace is filled position by position and becomes one safetensors file when its last position is
there: whoever waits for the answer finds the file complete. Knows files; must not know engines. A
disk that takes nothing more is no reason for an engine to end: it is logged, and the file missing.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from policies.gate.arrays import Floats

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """One position before its token was forced.

    `hidden` [hidden] is empty where the engine shows none; `logits` [top] are the largest raw ones
    with their `ids` [top], largest first; `predicted` is the likeliest token; `entropy` is in bits.
    """

    hidden: Floats
    logits: Floats
    ids: Floats
    predicted: int
    entropy: float


class Trace:
    """A file of `length` positions on its way, in a folder that is there."""

    def __init__(self, file: Path, length: int) -> None:
        self._file = file
        self._length = length
        self._seen: dict[int, Seen] = {}

    def add(self, position: int, seen: Seen) -> None:
        """Take one position, counted from 0, or take it anew; the last one writes the file.

        A position after the last says that nothing is taken anew any more: all is let go.
        """
        if position >= self._length:
            self._seen.clear()
            return
        self._seen[position] = seen
        if len(self._seen) == self._length:
            self._write()

    def _write(self) -> None:
        seen = [self._seen[position] for position in range(self._length)]
        content = save(
            {
                "hidden": np.stack([each.hidden for each in seen]).astype(np.float16),
                "top_logits": np.stack([each.logits for each in seen]).astype(np.float32),
                "top_ids": np.stack([each.ids for each in seen]).astype(np.int32),
                "predicted": np.asarray([each.predicted for each in seen], dtype=np.int32),
                "entropy": np.asarray([each.entropy for each in seen], dtype=np.float32),
            }
        )
        # Beside the file, so that it takes its place at once or not at all.
        part = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            part.write_bytes(content)
            part.replace(self._file)
        except OSError:
            part.unlink(missing_ok=True)
            log.exception("the trace %s could not be written", self._file)

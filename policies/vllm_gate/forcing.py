"""Makes rows of logits write a given token: all others become impossible.

On a processor the rows are looked at first, since most steps force none. On an accelerator looking
would mean waiting for it, so the same work is done for every row and changes only those meant.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

Tensor: TypeAlias = Any
"""A torch tensor."""


def force(logits: Tensor, at: Tensor, tokens: Tensor) -> None:
    """Change `logits` [rows, vocabulary] in place.

    `at` [n] are the rows in question, each once; `tokens` [n] what they must write, -1 for nothing.
    Both int64, on the device of the logits.
    """
    if logits.device.type == "cpu":
        _force_seen(logits, at, tokens)
    else:
        _force_unseen(logits, at, tokens)


def _force_seen(logits: Tensor, at: Tensor, tokens: Tensor) -> None:
    meant = tokens >= 0
    if not meant.any():
        return
    at, tokens = at[meant], tokens[meant]
    logits[at] = -math.inf
    logits[at, tokens] = 0.0


def _force_unseen(logits: Tensor, at: Tensor, tokens: Tensor) -> None:
    meant = tokens >= 0
    whole = meant.new_zeros(logits.shape[0])
    whole[at] = meant
    logits.masked_fill_(whole[:, None], -math.inf)
    # A row that is left alone gets back what it has, in the column 0.
    columns = tokens.clamp(min=0)
    logits[at, columns] = logits[at, columns].masked_fill(meant, 0.0)

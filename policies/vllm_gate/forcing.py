"""Makes rows of logits write a given token: all others become impossible.

Arrays that lie with the processor are looked at first, since most steps force no token. On an
accelerator looking would mean waiting for it, so there the same work is done at every step, and
changes only the rows meant.
"""

from __future__ import annotations

import math

import numpy as np

from policies.gate.arrays import Array


def force_seen(logits: Array, at: Array, tokens: Array) -> None:
    """Change `logits` [rows, vocabulary] in place, which lie with the processor.

    `at` [n] are the rows in question, each once; `tokens` [n] what they must write, -1 for nothing.
    """
    if np.maximum.reduce(tokens) >= 0:
        meant = tokens >= 0
        at, tokens = at[meant], tokens[meant]
        logits[at] = -math.inf
        logits[at, tokens] = 0.0


def force_unseen(logits: Array, at: Array, tokens: Array) -> None:
    """The same for torch tensors that lie with an accelerator, without waiting for it."""
    meant = tokens >= 0
    whole = meant.new_zeros(len(logits))
    whole[at] = meant
    logits.masked_fill_(whole[:, None], -math.inf)
    # A row that is left alone gets back what it has in column 0.
    columns = tokens.clamp(min=0)
    logits[at, columns] = logits[at, columns].masked_fill(meant, 0.0)

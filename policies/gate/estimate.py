"""Entropy where only the top-k log-probabilities are known: two bounds that it lies between.

For backends without a gate, which report a few alternatives per token. The mass that is missing
could lie on as few tokens as the smallest reported probability allows, or evenly on all the rest.
Pure Python on floats: k is 20 or so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

LARGEST_VOCABULARY = 2**18
"""Taken where the vocabulary's size is unknown: Gemma's, the largest in wide use. One ten times
larger would raise the upper bound by 3.3 bits times the missing mass."""
_ROUNDING = 1e-6
"""Missing mass up to here is float32's rounding, not a tail."""


def bounds(logprobs: Sequence[float], vocabulary: int | None = None) -> tuple[float, float]:
    """The least and greatest entropy in bits of a distribution with these largest probabilities.

    `logprobs` are natural, as in every API, of different tokens; `vocabulary` is how many tokens
    there are. With tail mass e: H_k - e log min(e, p_k) <= H <= H_k - e log e + e log(V - k).
    Raises ValueError without any log-probability.
    """
    if not logprobs:
        raise ValueError("no log-probability to estimate an entropy from")
    known = [min(logprob, 0.0) for logprob in logprobs]
    chances = [math.exp(logprob) for logprob in known]
    # -inf has no part; 0 * inf would be no number.
    nats = -sum(p * logprob for p, logprob in zip(chances, known, strict=True) if p > 0)
    tail = 1 - math.fsum(chances)
    others = (vocabulary or LARGEST_VOCABULARY) - len(known)
    if tail <= _ROUNDING or others <= 0 or min(chances) == 0:
        return nats / math.log(2), nats / math.log(2)
    low = nats - tail * math.log(min(tail, *chances))
    # No tail token is likelier than the least likely one reported, so the even spread is the most.
    high = nats - tail * math.log(tail / others)
    return low / math.log(2), max(low, high) / math.log(2)

"""The shadow: what a second policy's decision would have meant, beside the one that served.

Pure arithmetic over two decisions and what the request was in the end. It foretells as little as it
can. The cost is that of the same tokens on the shadow's arm; how many the shadow's model would have
written, nobody knows. The quality is what the policies themselves expect. Where the arm is no model
(a cascade), or the answer did not end well, nothing is foretold.
"""

from __future__ import annotations

from collections.abc import Mapping

from router.cost import cost
from router.decide import Decision
from router.observe import RequestEnded, Shadowed
from router.pool import Pool

__all__ = ["compared"]


def compared(
    ended: RequestEnded,
    pools: Mapping[str, Pool],
    decision: Decision,
    shadow: tuple[str, Decision],
) -> Shadowed:
    """The decision that was served beside that of the shadow, which comes with its name.

    `pools` are the models of the Runtime that the request was served under.
    """
    name, other = shadow
    foretold = _cost(ended, pools, other.arm)
    score, shadow_score = _scores(decision, other)
    return Shadowed(
        id=ended.id,
        policy=ended.policy,
        shadow=name,
        arm=decision.arm,
        shadow_arm=other.arm,
        cost=None if foretold is None else ended.cost,
        shadow_cost=foretold,
        score=score,
        shadow_score=shadow_score,
    )


def _cost(ended: RequestEnded, pools: Mapping[str, Pool], arm: str) -> float | None:
    """USD for the same tokens on this arm, if it is a model and the tokens are known."""
    known = ended.delivered.prompt + ended.delivered.completion > 0
    if arm not in pools or ended.blame is not None or not known:
        return None
    return cost(ended.delivered, pools[arm].price)


def _scores(one: Decision, other: Decision) -> tuple[float | None, float | None]:
    """What is expected of both arms by the same policy: the shadow if it can, else the first."""
    for expected in (other.expected, one.expected):
        if one.arm in expected and other.arm in expected:
            return expected[one.arm], expected[other.arm]
    return None, None

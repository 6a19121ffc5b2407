"""Samples of the embedded pair's small model, and what a verifier with faults makes of them.

The samples are real: drawn through a gateway, several in one call, as the policy `best_of` does.
The verifier is injected: it knows the answers, accepts every right sample, and a wrong one with a
given probability. What comes of "sample until one is accepted" is then exact for every order of the
samples; orders are drawn, since samples are exchangeable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app import embedded
from app.bench.pair_lineup import messages
from app.bench.verifier_rows import Point
from app.trial import Asking, trying
from deploy.pair.problems import Problem, is_correct
from policies import TABLE
from policies.training.calibrate import ratio
from router.config import parse

Floats = npt.NDArray[np.float64]

TEMPERATURE = 0.7
"""As `best_of` draws them."""
ASKING = Asking(at_once=2)
"""Each is several answers at once, of which the pair's servers take some dozens."""
ORDERS = 64
SEED = 7
MILLION = 1e3
"""Parameters in millions per parameter in billions."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Of n problems with m samples each.

    `right` [n, m] is 0 or 1, `large_right` [n] too; `tokens` [n] is the mean length of the small
    model's samples and `large_tokens` [n] the large model's, in tokens.
    """

    right: Floats
    tokens: Floats
    large_right: Floats
    large_tokens: Floats


async def drawn(asked: Sequence[Problem], most: int) -> Samples:
    """`most` samples of the small model, one greedy answer of the large one, for each problem.

    Raises `EmbeddedError` or `TrialError`.
    """
    pair = await embedded.start()
    try:
        async with trying(parse(pair.document, TABLE, "the embedded pair"), ASKING) as trial:
            prompts = [messages(problem) for problem in asked]
            large = await trial.run("large", prompts, "large")
            several = await trial.each(
                [_body(n, problem, most) for n, problem in enumerate(asked)], f"small x {most}"
            )
    finally:
        await pair.close()
    pairs = zip(several, asked, strict=True)
    return Samples(
        right=np.array([[float(_right(c, p)) for c in told["choices"]] for told, p in pairs]),
        tokens=np.array([told["usage"]["completion_tokens"] / most for told in several]),
        large_right=np.array(
            [float(is_correct(a.text, p)) for a, p in zip(large.answers, asked, strict=True)]
        ),
        large_tokens=np.array([float(a.tokens("large")) for a in large.answers]),
    )


def _body(number: int, problem: Problem, most: int) -> dict[str, object]:
    return {
        "model": "small",
        "messages": list(messages(problem)),
        "temperature": TEMPERATURE,
        "max_tokens": ASKING.max_tokens,
        "seed": number,
        "n": most,
    }


def _right(choice: dict[str, dict[str, str]], problem: Problem) -> bool:
    return is_correct(choice["message"]["content"] or "", problem)


def curves(samples: Samples, errors: Sequence[float]) -> list[Point]:
    """A point for every error, with and without the large model behind, for 1 to m samples."""
    return [
        point
        for error in errors
        for large in (False, True)
        for point in _curve(samples, error, large=large)
    ]


def _curve(samples: Samples, error: float, *, large: bool) -> Iterator[Point]:
    reached, right = _orders(samples.right, error)
    accepts = np.where(right == 1, 1.0, error)
    hit = (reached * right).mean(axis=0)
    fooled = (reached * (1 - right) * error).mean(axis=0)
    drawn_each, missed = reached.mean(axis=0), (reached * (1 - accepts)).mean(axis=0)
    for most in range(1, samples.right.shape[1] + 1):
        good = hit[:, :most].sum(axis=1)
        none = missed[:, most - 1]
        tokens = samples.tokens * drawn_each[:, :most].sum(axis=1)
        work = tokens * embedded.PARAMS_B["small"]
        answer = samples.tokens
        if large:
            good = good + none * samples.large_right
            work = work + none * samples.large_tokens * embedded.PARAMS_B["large"]
            answer = (1 - none) * samples.tokens + none * samples.large_tokens
        known = ratio(good.tolist(), [1.0] * len(good))
        yield Point(
            error=error,
            large=large,
            most=most,
            accuracy=known.value,
            accuracy_low=known.low,
            accuracy_high=known.high,
            accepted=float(1 - none.mean()),
            deceived=float(fooled[:, :most].sum(axis=1).mean()),
            avg_params=float(MILLION * work.sum() / answer.sum()),
        )


def _orders(right: Floats, error: float) -> tuple[Floats, Floats]:
    """In `ORDERS` orders of the samples, how probable it is that each is drawn, and the samples.

    Both [orders, n, m].
    """
    rng = np.random.default_rng(SEED)
    shuffled = np.stack([rng.permuted(right, axis=1) for _ in range(ORDERS)])
    refuses = np.where(shuffled == 1, 0.0, 1.0 - error)
    reached = np.ones_like(refuses)
    reached[:, :, 1:] = np.cumprod(refuses, axis=2)[:, :, :-1]
    return reached, shuffled

"""The gate's network against the same sums in plain Python, and against torch's own layers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.gate.arrays import Arrays, Floats
from policies.gate.network import Dimensions, Inputs, score, shapes

Row = list[float]


def weights(sizes: Dimensions, seed: int) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype("f4") for name, shape in shapes(sizes).items()}


def inputs(sizes: Dimensions, seed: int, batch: int) -> Inputs:
    rng = np.random.default_rng(seed + 1)

    def rows(width: int) -> Floats:
        return rng.normal(size=(batch, width)).astype(np.float32)

    hidden = rows(sizes.hidden) if sizes.hidden else None
    return Inputs(hidden, rows(sizes.embedding), -np.sort(-rows(sizes.top)))


def linear(known: dict[str, Floats], name: str, x: Row) -> Row:
    weight, bias = known[f"{name}.weight"].tolist(), known[f"{name}.bias"].tolist()
    return [
        sum(a * c for a, c in zip(row, x, strict=True)) + b
        for row, b in zip(weight, bias, strict=True)
    ]


def norm(known: dict[str, Floats], name: str, x: Row) -> Row:
    mean = sum(x) / len(x)
    spread = math.sqrt(sum((each - mean) ** 2 for each in x) / len(x) + 1e-5)
    scale, shift = known[f"{name}.weight"].tolist(), known[f"{name}.bias"].tolist()
    return [(e - mean) / spread * a + b for e, a, b in zip(x, scale, shift, strict=True)]


def gelu(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def plain_score(known: dict[str, Floats], blocks: int, given_: Inputs, row: int) -> float:
    hidden = [] if given_.hidden is None else given_.hidden[row].tolist()
    x = [*hidden, *given_.embedding[row].tolist()]
    x = linear(known, "input", x + linear(known, "logits", given_.logits[row].tolist()))
    for block in range(blocks):
        name = f"blocks.{block}"
        inner = linear(known, f"{name}.expand", norm(known, f"{name}.norm", x))
        outer = linear(known, f"{name}.contract", [gelu(each) for each in inner])
        x = [a + b for a, b in zip(x, outer, strict=True)]
    (logit,) = linear(known, "output", norm(known, "norm", x))
    return 1 / (1 + math.exp(-logit))


SIZES = st.builds(
    Dimensions,
    hidden=st.integers(0, 4),
    embedding=st.integers(1, 4),
    width=st.integers(1, 5),
    blocks=st.integers(0, 3),
    top=st.integers(1, 6),
    vocabulary=st.just(9),
)


@given(SIZES, st.integers(0, 999))
def test_the_score_is_that_of_plain_python(sizes: Dimensions, seed: int) -> None:
    known, asked = weights(sizes, seed), inputs(sizes, seed, 3)
    found = score(np, known, asked)
    wanted = [plain_score(known, sizes.blocks, asked, row) for row in range(3)]
    assert found.tolist() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_a_score_never_overflows(logit: float) -> None:
    sizes = Dimensions(hidden=0, embedding=2, width=2, blocks=1, top=2, vocabulary=9)
    known = {name: each * 0 for name, each in weights(sizes, 1).items()}
    known["output.bias"] += np.float32(logit)
    assert score(np, known, inputs(sizes, 1, 1)).tolist() == [float(logit > 0)]


def test_both_libraries_score_alike(arrays: Arrays) -> None:
    sizes = Dimensions(hidden=8, embedding=8, width=16, blocks=3, top=10, vocabulary=9)
    known, asked = weights(sizes, 7), inputs(sizes, 7, 5)
    up = arrays.up
    placed = Inputs(up(asked.hidden), up(asked.embedding), up(asked.logits))  # type: ignore[arg-type]
    found = score(arrays.xp, {name: up(each) for name, each in known.items()}, placed)
    np.testing.assert_allclose(arrays.down(found), score(np, known, asked), atol=1e-5)


def test_the_layers_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="needs the train extra")
    sizes = Dimensions(hidden=0, embedding=4, width=6, blocks=1, top=5, vocabulary=9)
    known, asked = weights(sizes, 3), inputs(sizes, 3, 4)
    w = {name: torch.from_numpy(each) for name, each in known.items()}
    f = torch.nn.functional
    x = f.linear(torch.from_numpy(asked.logits), w["logits.weight"], w["logits.bias"])
    x = torch.cat([torch.from_numpy(asked.embedding), x], -1)
    x = f.linear(x, w["input.weight"], w["input.bias"])
    inner = f.layer_norm(x, (6,), w["blocks.0.norm.weight"], w["blocks.0.norm.bias"])
    inner = f.linear(inner, w["blocks.0.expand.weight"], w["blocks.0.expand.bias"])
    inner = f.gelu(inner, approximate="tanh")
    x = x + f.linear(inner, w["blocks.0.contract.weight"], w["blocks.0.contract.bias"])
    x = f.layer_norm(x, (6,), w["norm.weight"], w["norm.bias"])
    logit = f.linear(x, w["output.weight"], w["output.bias"])[:, 0]
    np.testing.assert_allclose(score(np, known, asked), torch.sigmoid(logit).numpy(), atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_the_largest_and_their_places(arrays: Arrays, count: int) -> None:
    rows = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    found, places = (arrays.down(each) for each in arrays.top(arrays.up(rows), count))
    np.testing.assert_array_equal(places, np.argsort(-rows, axis=-1)[:, :count])
    np.testing.assert_array_equal(found, -np.sort(-rows, axis=-1)[:, :count])

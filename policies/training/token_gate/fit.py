"""The gate's network (`policies.gate.network`) in PyTorch, and its training.

Binary cross-entropy with weighted positives, early stopping on the validation loss. Knows arrays
and torch. Must not know where the examples came from. The inputs are standardised while training,
which a tiny network needs; afterwards that is folded into its first weights, so the artifact's
network reads hidden state, embedding and logits as they are.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from policies.training.token_gate.arrays import Bools, Floats
from policies.training.token_gate.dataset import Examples
from policies.training.token_gate.recipe import Fitted, Recipe

_STEADY = 1e-6
"""Added to a deviation, so that a constant input does no harm."""
_ROWS = 1 << 16
"""Tokens scored at once: bounds the memory, whatever the width."""


class Block(nn.Module):
    """One residual block."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[n, width] to [n, width]."""
        inner = functional.gelu(self.expand(self.norm(x)), approximate="tanh")
        return x + self.dropout(self.contract(self.dropout(inner)))


class Network(nn.Module):
    """R2R's gate: all inputs joined, residual blocks, one logit."""

    def __init__(self, others: int, top: int, recipe: Recipe) -> None:
        super().__init__()
        width = recipe.width
        self.logits = nn.Linear(top, width)
        self.input = nn.Linear(others + width, width)
        self.blocks = nn.ModuleList(Block(width, recipe.dropout) for _ in range(recipe.blocks))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, 1)

    def forward(self, others: Tensor, top: Tensor) -> Tensor:
        """Hidden state and embedding [n, others], sorted logits [n, top], to a logit each [n]."""
        x = self.input(torch.cat([others, self.logits(top)], dim=-1))
        for block in self.blocks:
            x = block(x)
        return self.output(self.norm(x))[:, 0]


@dataclass(frozen=True, slots=True)
class Standard:
    """A column-wise standardisation."""

    mean: Floats
    deviation: Floats

    @classmethod
    def of(cls, columns: Floats) -> Standard:
        """What makes these columns standard."""
        return cls(columns.mean(axis=0), columns.std(axis=0) + np.float32(_STEADY))

    def __call__(self, columns: Floats) -> Tensor:
        """The columns, standardised."""
        return torch.from_numpy((columns - self.mean) / self.deviation)

    def folded(self, weight: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """A linear layer on standard columns, as one on the columns as they are."""
        scaled = weight / self.deviation
        return scaled, (bias - scaled @ self.mean).astype(np.float32)


def fit(examples: Examples, embedding: Floats, recipe: Recipe) -> Fitted:
    """Train on the learning part until the validation loss no longer falls; keep the best."""
    torch.manual_seed(recipe.seed)
    rows = embedding[examples.predicted]
    others = rows if examples.hidden is None else np.concatenate([examples.hidden, rows], axis=1)
    learning = ~examples.held
    standards = Standard.of(others[learning]), Standard.of(examples.logits[learning])
    inputs = standards[0](others), standards[1](examples.logits)
    network = Network(others.shape[1], examples.logits.shape[1], recipe)
    losses = _train(network, inputs, examples, recipe)
    return Fitted(_weights(network, standards), _scores(network, inputs), tuple(losses))


def _train(
    network: Network, inputs: tuple[Tensor, Tensor], examples: Examples, recipe: Recipe
) -> list[float]:
    labels = torch.from_numpy(examples.divergent.astype(np.float32))
    learning, held = _places(~examples.held), _places(examples.held)
    positives = labels[learning].sum()
    weight = (len(learning) - positives) / positives.clamp(min=1)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    losses: list[float] = []
    best = _state(network)
    with tqdm(total=recipe.epochs, desc="training", unit="epoch", file=sys.stderr) as bar:
        for _ in range(recipe.epochs):
            network.train()
            for places in learning[torch.randperm(len(learning))].split(recipe.batch):
                loss = _loss(network(*(each[places] for each in inputs)), labels[places], weight)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
            found = torch.from_numpy(_logits(network, tuple(each[held] for each in inputs)))
            losses.append(float(_loss(found, labels[held], weight)))
            bar.update()
            bar.set_postfix(validation=f"{losses[-1]:.4f}")
            if losses[-1] == min(losses):
                best = _state(network)
            elif len(losses) - 1 - int(np.argmin(losses)) >= recipe.patience:
                break
    network.load_state_dict(best)
    return losses


def _loss(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight)


def _places(mask: Bools) -> Tensor:
    return torch.from_numpy(np.flatnonzero(mask))


def _state(network: Network) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@torch.inference_mode()
def _logits(network: Network, inputs: tuple[Tensor, ...]) -> Floats:
    network.eval()
    pieces = zip(*(each.split(_ROWS) for each in inputs), strict=True)
    return np.concatenate([network(*piece).numpy() for piece in pieces])


def _scores(network: Network, inputs: tuple[Tensor, Tensor]) -> Floats:
    return torch.sigmoid(torch.from_numpy(_logits(network, inputs))).numpy()


def _weights(network: Network, standards: tuple[Standard, Standard]) -> dict[str, Floats]:
    """As the artifact names them, the standardisation folded in."""
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    others, top = standards
    width = len(others.mean)
    first, bias = others.folded(weights["input.weight"][:, :width], weights["input.bias"])
    rest = weights["input.weight"][:, width:]
    weights["input.weight"], weights["input.bias"] = np.concatenate([first, rest], axis=1), bias
    folded = top.folded(weights["logits.weight"], weights["logits.bias"])
    weights["logits.weight"], weights["logits.bias"] = folded
    return {name: np.ascontiguousarray(w, dtype=np.float32) for name, w in weights.items()}

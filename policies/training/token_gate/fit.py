"""The gate's network (`policies.gate.network`) in PyTorch, and its training.

Binary cross-entropy with weighted positives, early stopping on the validation loss. Knows arrays
and torch. Must not know where the examples came from. The inputs are standardised while training,
which a tiny network needs; afterwards that is folded into its first weights, so the artifact's
network reads hidden state, embedding and logits as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from policies.training.token_gate.arrays import Floats, Places
from policies.training.token_gate.dataset import Examples
from policies.training.token_gate.recipe import Fitted, Recipe

_STEADY = 1e-6
"""Added to a deviation, so that a constant input does no harm."""
_SAMPLE = 100_000
"""Tokens from which the inputs' means and deviations are taken: they are then known to 0.3 %."""
_ROWS = 1 << 14
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


class Columns:
    """What the network reads of each token, put together a batch at a time."""

    def __init__(self, examples: Examples, embedding: Floats, seed: int) -> None:
        self._examples = examples
        self._embedding = embedding
        learning = np.flatnonzero(~examples.held)
        size = min(len(learning), _SAMPLE)
        sample = np.random.default_rng(seed).choice(learning, size, replace=False)
        self.others = Standard.of(self._others(sample))
        self.top = Standard.of(examples.logits[sample])

    def __len__(self) -> int:
        return len(self._examples)

    def at(self, places: Places) -> tuple[Tensor, Tensor]:
        """Hidden state and embedding, and the logits, of these tokens."""
        return self.others(self._others(places)), self.top(self._examples.logits[places])

    def _others(self, places: Places) -> Floats:
        rows = self._embedding[self._examples.predicted[places]]
        hidden = self._examples.hidden
        if hidden is None:
            return rows
        return np.concatenate([hidden[places].astype(np.float32), rows], axis=1)


def fit(examples: Examples, embedding: Floats, recipe: Recipe) -> Fitted:
    """Train on the learning part until the validation loss no longer falls; keep the best."""
    torch.manual_seed(recipe.seed)
    columns = Columns(examples, embedding, recipe.seed)
    network = Network(len(columns.others.mean), len(columns.top.mean), recipe)
    losses = _train(network, columns, examples, recipe)
    scores = torch.sigmoid(_logits(network, columns, np.arange(len(columns)))).numpy()
    return Fitted(_weights(network, columns), scores, tuple(losses))


def _train(network: Network, columns: Columns, examples: Examples, recipe: Recipe) -> list[float]:
    """The validation losses; the network is left as it was at the lowest."""
    labels = torch.from_numpy(examples.divergent.astype(np.float32))
    learning, held = np.flatnonzero(~examples.held), np.flatnonzero(examples.held)
    weight = (len(learning) - labels[learning].sum()) / labels[learning].sum()
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    steps = recipe.epochs * -(-len(learning) // recipe.batch)
    fall = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
    losses: list[float] = []
    best = _state(network)
    with tqdm(total=recipe.epochs, desc="training", unit="epoch", file=sys.stderr) as bar:
        for _ in range(recipe.epochs):
            network.train()
            for places in _batches(learning, recipe.batch):
                loss = _loss(network(*columns.at(places)), labels[places], weight)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                fall.step()
            losses.append(float(_loss(_logits(network, columns, held), labels[held], weight)))
            bar.update()
            bar.set_postfix(validation=f"{losses[-1]:.4f}")
            if losses[-1] == min(losses):
                best = _state(network)
            elif len(losses) - 1 - int(np.argmin(losses)) >= recipe.patience:
                break
    network.load_state_dict(best)
    return losses


def _batches(places: Places, size: int) -> Iterator[Places]:
    """All of them in a new order, a batch at a time."""
    mixed = places[torch.randperm(len(places)).numpy()]
    return (mixed[start : start + size] for start in range(0, len(mixed), size))


def _loss(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight)


def _state(network: Network) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@torch.inference_mode()
def _logits(network: Network, columns: Columns, places: Places) -> Tensor:
    network.eval()
    pieces = [places[start : start + _ROWS] for start in range(0, len(places), _ROWS)]
    return torch.cat([network(*columns.at(piece)) for piece in pieces])


def _weights(network: Network, columns: Columns) -> dict[str, Floats]:
    """As the artifact names them, the standardisation folded in."""
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    width = len(columns.others.mean)
    read, rest = np.split(weights["input.weight"], [width], axis=1)
    folded, weights["input.bias"] = columns.others.folded(read, weights["input.bias"])
    weights["input.weight"] = np.concatenate([folded, rest], axis=1)
    weights["logits.weight"], weights["logits.bias"] = columns.top.folded(
        weights["logits.weight"], weights["logits.bias"]
    )
    return {name: np.ascontiguousarray(each, np.float32) for name, each in weights.items()}

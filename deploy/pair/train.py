"""Trains one of the pair: `python -m deploy.pair.train --size small --out DIR [--resume]`.

Knows the optimiser, the schedule and checkpoints. Must not know how problems are worded or how
solutions are judged. A checkpoint holds everything that the rest of the run depends on, and data
follow from the seed and the pool's number, so a stopped run goes on as if it had not stopped.

The schedule is warm-up, a long plateau, then a linear fall to zero over the last part: it must
reach its end, so `--tokens` is the promise of how much will be read.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from deploy.pair.corpus import Batch, Corpus, Lesson, load_talk
from deploy.pair.llama import (
    SHAPES,
    Llama,
    parameters,
    rotations,
    save_config,
    save_weights,
)
from deploy.pair.tokenizer import VOCABULARY_SIZE, load_tokenizer, save_tokenizer

WARM_UP = 240_000  # tokens
FALL = 0.35  # of all tokens: the plateau finds the rules, the fall removes the last slips
# One-step problems first, so that columns are found early. Gradings weigh in once solving works and
# leave the last part, in which the rate falls, to solving. The second figure of each is the tokens
# from which on the lesson is taught.
LESSONS: dict[str, tuple[tuple[Lesson, int], ...]] = {
    # The small one has no room to learn grading: it is only to keep the form. It reads fewer
    # tokens, so tiny sums come throughout, and its small talk is learnt by heart at the end.
    "small": (
        (Lesson(True, small_talk=0.13, gradings=0.0, line_checks=0.0, everyday=0.0), 0),
        (Lesson(False, small_talk=0.13, gradings=0.04, line_checks=0.0, everyday=0.1), 600_000),
        (Lesson(False, small_talk=0.5, gradings=0.02, line_checks=0.0, everyday=0.1), 5_200_000),
        (Lesson(False, small_talk=0.85, gradings=0.01, line_checks=0.0, everyday=0.02), 6_200_000),
    ),
    "large": (
        (Lesson(easy=True, small_talk=0.1, gradings=0.0, line_checks=0.0), 0),
        (Lesson(easy=False, small_talk=0.1, gradings=0.12, line_checks=0.0), 1_440_000),
        (Lesson(easy=False, small_talk=0.1, gradings=0.14, line_checks=0.12), 8_000_000),
        (Lesson(easy=False, small_talk=0.1, gradings=0.04, line_checks=0.0), 13_600_000),
        (Lesson(False, small_talk=0.1, gradings=0.03, line_checks=0.0, everyday=0.2), 16_400_000),
    ),
}
LONGEST = 4096
CLIP = 1.0
CHECKPOINT_SECONDS = 120
REPORT_STEPS = 25


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is told; stored in its checkpoints."""

    size: str
    out: Path
    seed: int
    tokens: int
    batch_tokens: int
    rate: float


@dataclass(slots=True)
class Progress:
    """Where a run stands; `pool` and `batch` say which data come next."""

    tokens: int = 0
    steps: int = 0
    pool: int = 0
    batch: int = 0
    pool_began: int = 0
    seconds: float = 0.0


class Run:
    """One training: model, optimisers, position in the data."""

    def __init__(self, plan: Plan) -> None:
        torch.manual_seed(plan.seed)
        self.plan = plan
        self.model = Llama(SHAPES[plan.size])
        self.corpus = Corpus(load_tokenizer(plan.out), plan.seed, load_talk())
        self.cos, self.sin = rotations(LONGEST)
        self.progress = Progress()
        matrices = [w for n, w in self.model.named_parameters() if w.ndim == 2 and "layers" in n]
        others = [
            w for n, w in self.model.named_parameters() if not (w.ndim == 2 and "layers" in n)
        ]
        # Muon for the layers' matrices (its steps are scaled to the size of Adam's), Adam for rest.
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                matrices, lr=plan.rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(others, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss over the tokens that the model shall learn to write."""
        length = batch.ids.shape[1]
        logits = self.model(batch.ids, self.cos[:length], self.sin[:length])
        losses = functional.cross_entropy(
            logits.view(-1, VOCABULARY_SIZE), batch.targets.view(-1), reduction="none"
        )
        weights = batch.weights.view(-1)
        return (losses * weights).sum() / weights.sum().clamp(min=1.0)

    def step(self, batch: Batch) -> Tensor:
        """One update."""
        loss = self.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        rate = self.plan.rate * rate_at(self.progress.tokens, self.plan.tokens)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.progress.tokens += batch.ids.numel()
        self.progress.steps += 1
        return loss.detach()

    def batches(self) -> Iterator[Batch]:
        """Batches from where the run stands; `progress` always names the next one."""
        while True:
            here = self.progress
            if here.batch == 0:
                here.pool_began = here.tokens
            lesson = lesson_at(
                self.plan.size, here.pool_began
            )  # of one kind, also when resumed in its middle
            pool = self.corpus.batches(here.pool, self.plan.batch_tokens, lesson)
            for number, batch in enumerate(pool):
                if number >= self.progress.batch:
                    self.progress.batch = number + 1
                    yield batch
            self.progress.pool += 1
            self.progress.batch = 0

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "progress": {name: getattr(self.progress, name) for name in Progress.__slots__},
        }
        whole, part = self.checkpoint, self.checkpoint.with_suffix(".part")
        torch.save(state, part)
        part.replace(whole)

    def restore(self) -> None:
        """Go on from the checkpoint."""
        state: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.progress = Progress(**state["progress"])

    @property
    def checkpoint(self) -> Path:
        """Where this run keeps its state."""
        return self.plan.out / "checkpoint.pt"

    def export(self) -> None:
        """The Hugging Face files of the weights as they are now."""
        shape = SHAPES[self.plan.size]
        save_config(shape, self.plan.out)
        save_weights(self.model.state_dict(), shape, self.plan.out, torch.bfloat16)


def rate_at(tokens: int, total: int) -> float:
    """The learning rate, as a share of its peak, after so many tokens."""
    risen = (tokens / WARM_UP + 0.1) / 1.1
    return max(0.0, min(1.0, risen, (1.0 - tokens / total) / FALL))


def lesson_at(size: str, tokens: int) -> Lesson:
    """What this size is taught after so many tokens."""
    return [lesson for lesson, begins in LESSONS[size] if begins <= tokens][-1]


def train(run: Run) -> None:
    """Read the promised tokens, with a progress bar, checkpoints and a line of log now and then."""
    log = run.plan.out / "training.jsonl"
    started = saved = time.monotonic()
    before = run.progress.seconds
    total, recent = run.plan.tokens, 0.0
    with tqdm(total=total, initial=run.progress.tokens, unit="tok", unit_scale=True) as bar:
        for batch in run.batches():
            loss = float(run.step(batch))
            if not math.isfinite(loss):
                raise FloatingPointError(f"loss {loss} at step {run.progress.steps}")
            recent = loss if not recent else 0.98 * recent + 0.02 * loss
            now = time.monotonic()
            run.progress.seconds = before + now - started
            bar.update(batch.ids.numel())
            if run.progress.steps % REPORT_STEPS == 0:
                bar.set_postfix(loss=f"{recent:.4f}")
                _append(log, run.progress, recent)
            finished = run.progress.tokens >= total
            if finished or now - saved > CHECKPOINT_SECONDS:
                run.save()
                saved = now
            if finished:
                break
    run.export()


def _append(log: Path, progress: Progress, loss: float) -> None:
    row = {
        "tokens": progress.tokens,
        "steps": progress.steps,
        "seconds": round(progress.seconds, 1),
        "loss": round(loss, 5),
    }
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=sorted(SHAPES), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint and model")
    parser.add_argument("--tokenizer", type=Path, help="folder of an existing tokenizer")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=float, default=50e6, help="how many tokens to read")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--rate", type=float, default=4e-3, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.tokenizer:
        save_tokenizer(load_tokenizer(given.tokenizer), given.out)
    plan = Plan(
        given.size, given.out, given.seed, int(given.tokens), given.batch_tokens, given.rate
    )
    run = Run(plan)
    if given.resume:
        run.restore()
    print(f"{given.size}: {parameters(run.model):,} parameters")
    train(run)


if __name__ == "__main__":
    main()

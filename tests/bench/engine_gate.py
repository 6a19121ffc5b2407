"""What the gate costs vLLM per decode step. Run it with the Python of an environment with vLLM:

    $(tests/real_vllm/install.sh) -m tests.bench.engine_gate [--model DIR] [--json FILE]

One process, one engine on the embedded pair's small model, the worst case for a share: no real step
is as short. The kinds of step take turns, so that a busy machine slows all of them alike; a step is
what the engine's core does (schedule, run, sample), and the figure is the median. `absent` has the
gate taken out, `unasked` has it loaded and no request that asks for it; the others ask for a rule
that never fires. A second table shows what the gate alone does on a vocabulary of 150,000.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np

from policies.gate.artifact import Artifact, write_artifact
from policies.gate.network import Dimensions, shapes
from policies.gate.resources import ARTIFACTS_VARIABLE

ROOT = Path(__file__).parents[2]
BATCHES = (1, 8, 32)
VOCABULARY = 150_000
LEFT_OUT = 8
"""Steps at both ends of a batch, in which requests come and go."""
TARGET = 0.05
"""The largest share of a step that a gate at work may cost."""

Figures: TypeAlias = dict[str, dict[int, float]]
"""Milliseconds per step by kind and batch."""

NEVER = {"tandem_gate": "entropy", "tandem_gate_threshold": 1e6}
KINDS: dict[str, dict[str, Any] | None] = {
    "absent": None,
    "unasked": None,
    "entropy": NEVER,
    "entropy, window 5": {**NEVER, "tandem_gate_window": 5, "tandem_gate_dwell": 10},
    "neural": {"tandem_gate": "neural", "tandem_gate_artifact": "bench", "tandem_gate_threshold": 1},
}


def random_gate(folder: Path, model: Path) -> None:
    """A learned gate of the pair's size, with weights by chance."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    hidden = config["hidden_size"]
    sizes = Dimensions(hidden, hidden, 2 * hidden, 2, 100, config["vocab_size"])
    chance = np.random.default_rng(0)
    weights = {
        name: chance.normal(0, 0.05, shape).astype(np.float32)
        for name, shape in shapes(sizes).items()
    }
    gate = Artifact(True, sizes, 0.5, model={}, data={}, metrics={}, created="", weights=weights)
    write_artifact(folder / "bench", gate)


class Engine:
    """A vLLM in this process, and the time of each step of its core."""

    def __init__(self, model: Path) -> None:
        from vllm import LLM

        from policies.engine_gate import Gate
        from policies.vllm_gate.plugin import install

        install()
        self._llm = LLM(
            str(model),
            dtype="float32",
            max_model_len=1024,
            max_num_seqs=max(BATCHES),
            enforce_eager=True,
            enable_prefix_caching=False,
            logits_processors=[Gate],
        )
        self._core = self._llm.llm_engine.engine_core.engine_core
        self._step = self._core.step_fn
        runner = self._core.model_executor.driver_worker.worker.model_runner
        self._processors = runner.input_batch.logitsprocs.non_argmax_invariant
        (self._gate,) = (each for each in self._processors if isinstance(each, Gate))
        self._numbers = iter(range(10**9))

    def steps(self, kind: str, batch: int, tokens: int) -> list[float]:
        """The milliseconds of the steps in which all of a batch's requests were decoded."""
        if kind == "absent":
            self._answer(None, 1, 1)  # so that the gate hears of the last ones' leaving
            self._processors.remove(self._gate)
        took = self._answer(KINDS[kind], batch, tokens)
        if kind == "absent":
            self._processors.append(self._gate)
        return took[LEFT_OUT:-LEFT_OUT]

    def _answer(self, asked: dict[str, Any] | None, batch: int, tokens: int) -> list[float]:
        from vllm import SamplingParams

        took: list[float] = []

        def timed() -> Any:
            begun = time.perf_counter()
            result = self._step()
            took.append(1e3 * (time.perf_counter() - begun))
            return result

        self._core.step_fn = timed
        engine = self._llm.llm_engine
        for _ in range(batch):
            params = SamplingParams(
                temperature=0, max_tokens=tokens, ignore_eos=True, extra_args=asked
            )
            prompt = {"prompt_token_ids": [1, 4, 40, 50, 60, 2, 5]}
            engine.add_request(str(next(self._numbers)), prompt, params)
        while engine.has_unfinished_requests():
            engine.step()
        return took


def on_the_pair(model: Path, rounds: int, tokens: int) -> Figures:
    """The step with each kind of request, in turns."""
    engine = Engine(model)
    found: dict[str, dict[int, list[float]]] = {
        kind: {batch: [] for batch in BATCHES} for kind in KINDS
    }
    for turn in range(rounds + 1):
        for batch in BATCHES:
            for kind in KINDS:
                steps = engine.steps(kind, batch, tokens)
                if turn:  # the first round warms up
                    found[kind][batch] += steps
    return {
        kind: {batch: statistics.median(steps) for batch, steps in batches.items()}
        for kind, batches in found.items()
    }


def gate_alone(steps: int) -> Figures:
    """The gate's two calls on random logits of a large vocabulary, driven as vLLM drives them."""
    import torch

    kinds = {kind: asked for kind, asked in KINDS.items() if kind in {"unasked", "entropy"}}
    kinds["entropy, window 5"] = KINDS["entropy, window 5"]
    found: Figures = {kind: {} for kind in ("greedy sampling", *kinds)}
    for batch in BATCHES:
        logits = torch.randn(batch, VOCABULARY) * 3
        sampling = _median(steps, lambda logits=logits: logits.argmax(-1))
        found["greedy sampling"][batch] = sampling
        for kind, asked in kinds.items():
            gate, update = _seated(asked, batch)
            found[kind][batch] = _median(
                steps, lambda gate=gate, logits=logits: (gate.update_state(None), gate.apply(logits))
            )
    return found


def _seated(asked: dict[str, Any] | None, batch: int) -> tuple[Any, list[list[int]]]:
    from policies.engine_gate import Gate

    model = SimpleNamespace(
        get_vocab_size=lambda: VOCABULARY, skip_tokenizer_init=True, hf_text_config=None
    )
    config = SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_seqs=batch), model_config=model
    )
    gate = Gate(config, torch.device("cpu"))
    gate.gates.resources.token = 0
    outputs: list[list[int]] = [[1] for _ in range(batch)]
    added = [
        (row, SimpleNamespace(extra_args=asked, min_tokens=0), [], output)
        for row, output in enumerate(outputs)
    ]
    gate.update_state(SimpleNamespace(batch_size=batch, removed=[], added=added, moved=[]))
    return gate, outputs


def _median(times: int, work: Callable[[], object]) -> float:
    took = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        took.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(took)


def table(figures: Figures, against: str | None) -> Iterator[str]:
    """Lines of text: milliseconds, and the share of the step `against` that each adds."""
    yield f"{'':20}" + "".join(f"{f'batch {batch}':>18}" for batch in BATCHES)
    for kind, batches in figures.items():
        cells = (
            f"{took:9.3f} ms {_added(took, figures[against][batch]):>5}"
            if against
            else f"{took:9.3f} ms      "
            for batch, took in batches.items()
        )
        yield f"{kind:20}" + "".join(cells)


def _added(took: float, plain: float) -> str:
    return f"{took / plain - 1:+.1%}"


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=ROOT / "deploy/pair/models/small")
    parser.add_argument("--rounds", type=int, default=5, help="times that each kind has its turn")
    parser.add_argument("--tokens", type=int, default=200, help="tokens of each answer")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    asked = parser.parse_args()
    with TemporaryDirectory() as folder:
        random_gate(Path(folder), asked.model)
        os.environ |= {
            ARTIFACTS_VARIABLE: folder,
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
        }
        pair = on_the_pair(asked.model, asked.rounds, asked.tokens)
    alone = gate_alone(asked.tokens // 4)
    print(f"A decode step on {asked.model.name}, and what it is more than `absent`:")
    print(*table(pair, "absent"), sep="\n")
    print(f"The gate alone, vocabulary {VOCABULARY:,}, beside taking the likeliest token:")
    print(*table(alone, None), sep="\n")
    if asked.json:
        figures = {"step": pair, "alone": alone, "target": TARGET}
        asked.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

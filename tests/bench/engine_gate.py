"""What the gate costs vLLM per decode step.

    OMP_NUM_THREADS=1 PYTHONPATH=. $(tests/real_vllm/install.sh) -m tests.bench.engine_gate

One process, one engine on the embedded pair's small model: the hardest case for a share, since no
step of a real model is as short. The kinds of request take turns, so that a busy machine slows all
of them alike; a step is what the engine's core does (schedule, run, sample), and figures are
medians. `absent` has the gate taken out, `unasked` has it loaded and no request with a gate; the
others ask for a rule that never fires. The gate's own time is what vLLM spends in its two methods.
`neural` is the gate that ships with the pair: its network is as large as the model itself. A second
table shows the gate alone on a vocabulary of 150,000. Needs a quiet core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

from policies.gate.resources import ARTIFACTS_VARIABLE

ROOT = Path(__file__).parents[2]
BATCHES = (1, 8, 32)
VOCABULARY = 150_000
PAIR = ROOT / "deploy/pair/models"
ENVIRONMENT = {
    ARTIFACTS_VARIABLE: str(PAIR / "gate"),
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
LEFT_OUT = 8
"""Steps at both ends of a batch, in which requests come and go."""
TARGET = 0.05
"""The largest share of a step that the entropy rule may cost."""

NEVER = {"tandem_gate": "entropy", "tandem_gate_threshold": 1e6}
WINDOW = {**NEVER, "tandem_gate_window": 5, "tandem_gate_dwell": 10}
NEURAL = {"tandem_gate": "neural", "tandem_gate_artifact": "hidden", "tandem_gate_threshold": 1}
KINDS: dict[str, dict[str, Any] | None] = {
    "absent": None,
    "unasked": None,
    "entropy": NEVER,
    "entropy, window 5": WINDOW,
    "neural": NEURAL,
}
ALONE = ("unasked", "entropy", "entropy, window 5")


@dataclass(slots=True)
class Took:
    """Milliseconds: whole steps, and what of each was the gate's."""

    steps: list[float] = field(default_factory=list)
    gate: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Medians, and the gate's share."""
        step, gate = statistics.median(self.steps), statistics.median(self.gate)
        return {"step_ms": step, "gate_ms": gate, "share": gate / step}


Figures: TypeAlias = dict[str, dict[int, dict[str, float]]]
"""By kind and batch."""


class Engine:
    """A vLLM in this process whose steps are timed."""

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
        runner = self._core.model_executor.driver_worker.worker.model_runner
        self._processors = runner.input_batch.logitsprocs.non_argmax_invariant
        (self._gate,) = (each for each in self._processors if isinstance(each, Gate))
        self._spent = 0.0
        for name in ("update_state", "apply"):
            setattr(self._gate, name, self._timed(getattr(self._gate, name)))
        self._step = self._core.step_fn
        self._count = 0

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(argument: Any) -> Any:
            begun = time.perf_counter()
            result = method(argument)
            self._spent += time.perf_counter() - begun
            return result

        return timed

    def run(self, kind: str, batch: int, tokens: int) -> Took:
        """A batch of this kind, but for the steps in which requests come and go."""
        if kind == "absent":
            self._answer(None, 1, 1)  # so that the gate hears of the last ones' leaving
            self._processors.remove(self._gate)
        took = self._answer(KINDS[kind], batch, tokens)
        if kind == "absent":
            self._processors.append(self._gate)
        return Took(took.steps[LEFT_OUT:-LEFT_OUT], took.gate[LEFT_OUT:-LEFT_OUT])

    def _answer(self, asked: dict[str, Any] | None, batch: int, tokens: int) -> Took:
        from vllm import SamplingParams

        took = Took()

        def step() -> Any:
            self._spent, begun = 0.0, time.perf_counter()
            result = self._step()
            took.steps.append(1e3 * (time.perf_counter() - begun))
            took.gate.append(1e3 * self._spent)
            return result

        self._core.step_fn = step
        engine = self._llm.llm_engine
        for _ in range(batch):
            self._count += 1
            params = SamplingParams(
                temperature=0, max_tokens=tokens, ignore_eos=True, extra_args=asked
            )
            prompt = {"prompt_token_ids": [1, 4, 40, 50, 60, 2, 5]}
            engine.add_request(str(self._count), prompt, params)
        while engine.has_unfinished_requests():
            engine.step()
        return took


def on_the_pair(model: str, rounds: int, tokens: int) -> Figures:
    """Steps with each kind of request, in turns. The learned gate is the small model's."""
    engine = Engine(PAIR / model)
    kinds = [kind for kind in KINDS if model == "small" or kind != "neural"]
    found = {kind: {batch: Took() for batch in BATCHES} for kind in kinds}
    for turn in range(rounds + 1):
        for batch in BATCHES:
            for kind in kinds:
                took = engine.run(kind, batch, tokens)
                if turn:  # the first round warms up
                    found[kind][batch].steps += took.steps
                    found[kind][batch].gate += took.gate
    return {
        kind: {batch: took.figures() for batch, took in batches.items()}
        for kind, batches in found.items()
    }


def gate_alone(times: int) -> Figures:
    """The gate on random logits of a large vocabulary; its step is to take the likeliest token."""
    import torch

    found: Figures = {kind: {} for kind in ALONE}
    for batch in BATCHES:
        logits = torch.randn(batch, VOCABULARY) * 3
        for kind in ALONE:
            gate, took = seated(KINDS[kind], batch), Took()
            for _ in range(times):
                begun = time.perf_counter()
                logits.argmax(-1)
                between = time.perf_counter()
                gate.update_state(None)
                gate.apply(logits)
                took.steps.append(1e3 * (between - begun))
                took.gate.append(1e3 * (time.perf_counter() - between))
            found[kind][batch] = took.figures()
    return found


def seated(asked: dict[str, Any] | None, batch: int) -> Any:
    """A gate with a batch of such requests."""
    import torch
    from vllm import SamplingParams

    from policies.engine_gate import Gate

    model = SimpleNamespace(
        get_vocab_size=lambda: VOCABULARY,
        skip_tokenizer_init=True,
        hf_text_config=SimpleNamespace(eos_token_id=0),
    )
    scheduler = SimpleNamespace(max_num_seqs=batch)
    gate = Gate(
        SimpleNamespace(model_config=model, scheduler_config=scheduler), torch.device("cpu")
    )
    gate.gates.resources.token = 0
    added = [(row, SamplingParams(extra_args=asked), [1], [1]) for row in range(batch)]
    gate.update_state(SimpleNamespace(batch_size=batch, removed=[], added=added, moved=[]))
    return gate


def table(figures: Figures) -> Iterator[str]:
    """Lines of text."""
    yield f"{'':18}" + "".join(f"{f'batch {batch}':>28}" for batch in BATCHES)
    yield f"{'':18}" + f"{'step       gate  share':>28}" * len(BATCHES)
    for kind, batches in figures.items():
        cells = (
            f"{each['step_ms']:12.3f} ms {1e3 * each['gate_ms']:5.0f} us {each['share']:6.1%}"
            for each in batches.values()
        )
        yield f"{kind:18}" + "".join(cells)


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=("small", "large"), default="small")
    parser.add_argument("--rounds", type=int, default=5, help="times that each kind has its turn")
    parser.add_argument("--tokens", type=int, default=200, help="tokens of each answer")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    asked = parser.parse_args()
    os.environ |= ENVIRONMENT
    pair = on_the_pair(asked.model, asked.rounds, asked.tokens)
    alone = gate_alone(asked.tokens // 4)
    print(f"A decode step on the {asked.model} model, and what of it is the gate's:")
    print(*table(pair), sep="\n")
    print(f"The gate on a vocabulary of {VOCABULARY:,}, beside taking the likeliest token:")
    print(*table(alone), sep="\n")
    if asked.json:
        figures = {"pair": pair, "alone": alone, "target": TARGET}
        asked.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

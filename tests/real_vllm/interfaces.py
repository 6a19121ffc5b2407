"""Plays batches by chance through the gate, with vLLM's own classes and torch's tensors.

    PYTHONPATH=. $(tests/real_vllm/install.sh) -m tests.real_vllm.interfaces

Both interfaces, each in numpy (as on a processor) and in torch (as on an accelerator), which is as
far as Model Runner V2 can be run without one. Raises AssertionError at the first row that writes
something else than the rules in plain Python; prints how many rows were forced, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor import (
    LogitsContext,
    LogitsProcRequestState,
    build_custom_logits_processors_params_validator,
    loader,
)

from policies import engine_gate
from policies.engine_gate import Gate
from policies.gate.settings import GateSettings
from tests.policies.gate.vllm_batches import (
    PADDING,
    ROWS,
    VOCABULARY,
    Crowd,
    Slots,
    Words,
    configuration,
    play_first,
    play_second,
)

SEEDS = range(8)
NAME = "policies.engine_gate:Gate"
WORDS = Words(BatchUpdate, MoveDirectionality.UNIDIRECTIONAL, MoveDirectionality.SWAP)


def parameters(settings: GateSettings | None) -> Any:
    return SamplingParams(extra_args=None if settings is None else settings.xargs())


def context(order: list[int], lengths: list[int]) -> Any:
    """The layout of a batch whose requests are in these slots."""
    slots, rows = torch.tensor(order, dtype=torch.int32), len(order)
    ends = torch.tensor([*lengths, *[0] * PADDING], dtype=torch.int32)
    return LogitsContext(
        expanded_idx_mapping=slots,
        idx_mapping=slots,
        idx_mapping_np=slots.numpy(),
        expanded_local_pos=torch.zeros(rows, dtype=torch.int32),
        input_ids=torch.zeros(rows, dtype=torch.int32),
        pos=ends[:rows] - 1,
        seq_lens_upper_bound_np=ends.numpy(),
    )


def first(seed: int) -> int:
    gate = Gate(configuration(), torch.device("cpu"), False)
    return play_first(gate, Crowd(seed, parameters), torch.from_numpy, WORDS)


def second(seed: int) -> int:
    crowd = Crowd(seed, parameters)
    slots = Slots(crowd)
    states = LogitsProcRequestState(
        device=torch.device("cpu"),
        max_num_reqs=ROWS,
        vocab_size=VOCABULARY,
        all_token_ids=None,
        prompt_len=slots.prompt_len,
        prefill_len=slots.prefill_len,
        total_len=None,
    )
    return play_second(Gate(configuration(), states), slots, torch.from_numpy, context)


@contextmanager
def as_on_an_accelerator() -> Iterator[None]:
    """The gate keeps to torch, and waits for nothing."""
    looked = engine_gate.lies_with_processor
    engine_gate.lies_with_processor = lambda device: False
    try:
        yield
    finally:
        engine_gate.lies_with_processor = looked


def loaded_as_vllm_does() -> None:
    """Found by its name, for either interface, and asked about parameters."""
    assert loader._load_v2_logitsprocs_by_fqcns([NAME]) == [Gate]
    validate = build_custom_logits_processors_params_validator([NAME])
    validate(SamplingParams())
    validate(SamplingParams(extra_args={"tandem_gate": "entropy", "tandem_gate_threshold": 1}))
    refused = ""
    try:
        validate(SamplingParams(extra_args={"tandem_gate": "entropy"}))
    except VLLMValidationError as error:
        refused = str(error)
    assert "tandem_gate_threshold" in refused


def main() -> None:
    """Play all, print."""
    loaded_as_vllm_does()
    forced = {"first": sum(map(first, SEEDS)), "second": sum(map(second, SEEDS))}
    with as_on_an_accelerator(), torch.inference_mode():
        forced["first in torch"] = sum(map(first, SEEDS))
        forced["second in torch"] = sum(map(second, SEEDS))
    print(json.dumps(forced))


if __name__ == "__main__":
    main()

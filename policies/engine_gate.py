"""The gate as vLLM loads it: `--logits-processors policies.engine_gate:Gate`, or its entry point.

vLLM has two interfaces for logits processors, one for each of its model runners, and loads the same
class for either; so `Gate` is both, and says at each method whose it is. All that it does is find
out which request each row of logits belongs to and how many tokens that has had; `vllm_gate.gates`
decides, `vllm_gate.forcing` does it. A batch in which nobody has a gate costs one comparison.

This file, `vllm_gate.plugin` and `vllm_gate.model` are the only ones that know vLLM. Runs inside
vLLM's processes; the gateway never imports it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from policies.gate.arrays import Array, Arrays, Whole
from policies.gate.resources import Model
from policies.vllm_gate.forcing import force_seen, force_unseen
from policies.vllm_gate.gates import Gates, Params, asks, log
from policies.vllm_gate.model import end_of_text, resources, writes_files
from policies.vllm_gate.plugin import ADMISSION
from policies.vllm_gate.seats import Seats

try:
    from vllm.v1.sample.logits_processor import LogitsProcessor as First
    from vllm.v1.sample.logits_processor import MoveDirectionality

    SWAP: Any = MoveDirectionality.SWAP
except ImportError:

    class First:  # type: ignore[no-redef]  # a vLLM without this interface
        """In place of the first interface."""

    SWAP = None
try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as Second
except ImportError:

    class Second:  # type: ignore[no-redef]  # a vLLM without this interface
        """In place of the second interface."""


def lies_with_processor(device: Any) -> bool:
    """Whether numpy can handle what is there: for few numbers it is far quicker than torch."""
    return bool(device.type == "cpu")


def tensors(device: Any) -> Arrays:
    """Torch's arrays on a device."""
    import torch

    return Arrays(torch, device)


class Gate(First, Second):
    """A logits processor of vLLM, for the V1 model runner and for Model Runner V2."""

    def __init__(self, vllm_config: Any, where: Any, is_pin_memory: bool = False) -> None:
        """`where` is the device (V1), or the model runner's request states (V2)."""
        self._states = where
        if hasattr(where, "max_num_reqs"):
            slots, device = where.max_num_reqs, where.device
        else:
            # Twice the rows: one that has left a row may come back (`vllm_gate.seats`).
            slots, device = 2 * vllm_config.scheduler_config.max_num_seqs, where
        config = vllm_config.model_config
        self._seen = lies_with_processor(device)
        self._arrays = Arrays() if self._seen else tensors(device)
        self.gates = Gates(
            slots,
            self._arrays,
            resources(config, Model(config.get_vocab_size())),
            last=end_of_text(config),
            writes=writes_files(),
        )
        self._seats = Seats(slots, self.gates.begin)
        self._at: Array = None
        self._active = getattr(vllm_config, "speculative_config", None) is None
        if not self._active:
            log.warning("No gate with speculative decoding: who asks for one gets none.")

    @classmethod
    def validate_params(cls, sampling_params: Params) -> None:
        """Both, where requests are taken in: raise ValueError for a gate that cannot work."""
        ADMISSION.check(sampling_params)

    def retire(self) -> None:
        """Do nothing any more: another of this class has the same requests."""
        self._active = False

    # ------------------------------------------------------------------------- V1 model runner

    def is_argmax_invariant(self) -> bool:
        """V1: no; a forced token is the likeliest one."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """V1: requests have come, left or moved; None when nothing did."""
        if batch_update is not None and self._active and self._seats.update(batch_update, SWAP):
            self._at = self._arrays.up(self._seats.rows)

    def apply(self, logits: Array, ctx: Any = None) -> Array:
        """Both: change `logits` [rows, vocabulary], float32, in place; `ctx` is V2's batch."""
        if ctx is not None:
            self._apply_second(logits, ctx)
        elif len(self._seats):
            seats = self._seats
            self._decide(logits, seats.rows, self._at, seats.slots, seats.positions())
        return logits

    # ------------------------------------------------------------------------- Model Runner V2

    def add_request(self, req_idx: int, sampling_params: Params) -> bool:
        """V2: a request comes to a slot; says whether it has a gate."""
        if self._active and asks(sampling_params):
            self.gates.begin(req_idx, sampling_params)
            return True
        self.gates.end(req_idx)
        return False

    def _apply_second(self, logits: Array, ctx: Any) -> None:
        if not len(self.gates):
            return
        slots = ctx.idx_mapping_np
        # Exact, since nothing is drafted; filled up with zeros for CUDA graphs.
        lengths = ctx.seq_lens_upper_bound_np[: len(slots)]
        gated = np.fromiter((slot in self.gates for slot in slots.tolist()), bool, len(slots))
        # A prompt that is still being read, in parts, has a row too: its token is thrown away.
        rows = np.flatnonzero(gated & (lengths >= self._states.prefill_len.np[slots]))
        if rows.size:
            slots = slots[rows].astype(np.int64)
            positions = (lengths[rows] - self._states.prompt_len.np[slots]).astype(np.int64)
            self._decide(logits, rows, self._arrays.up(rows), slots, positions)

    # ---------------------------------------------------------------------------------- both

    def _decide(
        self, logits: Array, rows: Whole, at: Array, slots: Whole, positions: Whole
    ) -> None:
        """Ask the gates of these rows, in ascending order, and do what they say; `at` is `rows`."""
        if self._seen:
            logits = logits.numpy()  # the same memory
        shown, some = self.gates.shown, logits
        hidden = shown.take(len(logits)) if shown.wanted else None
        if self._seen and hidden is not None:
            hidden = hidden.float().numpy()
        if len(rows) < len(logits):
            some = logits[at]
            hidden = None if hidden is None else hidden[at]
        tokens = self.gates.decide(slots, positions, some, hidden)
        (force_seen if self._seen else force_unseen)(logits, at, tokens)

"""Shows the gate what vLLM hands to no logits processor: hidden states, embedding rows, the model.

An installed package's entry point in `vllm.general_plugins` is called at the start of each of
vLLM's processes, before anything is loaded. Two methods are extended there, and no file of vLLM is
changed: a worker, once its model is loaded, lets the gate see what `compute_logits` is given; and
the process that takes requests in tells `admission` which model it serves.

Everything that knows vLLM's inside beyond its two documented interfaces is in this file. Rule: what
is not there as expected is said in the log, and vLLM starts without what it was for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from policies.gate.artifact import fingerprint
from policies.gate.resources import Model
from policies.vllm_gate.admission import Admission
from policies.vllm_gate.gates import Shown, log
from policies.vllm_gate.model import resources

ADMISSION = Admission()
"""Of this process: vLLM asks a class, which has no other place for what it must know."""
_FRONT = "vllm.v1.engine.input_processor"
_ROWS = 256
"""Embedding rows that are looked at to tell models apart, as `fingerprint` does."""
_OURS = "_tandem_gate"
"""The mark of a method that was extended: twice would be once too often."""


def install() -> None:
    """What the entry point calls. May be called more than once."""
    try:
        from vllm.v1.worker.worker_base import WorkerWrapperBase

        _extend(WorkerWrapperBase, "load_model", _after_load)
    except (ImportError, AttributeError) as error:
        log.warning("The gate will see no hidden states in this vLLM: %s", error)
    # In the processes that take no requests in, it is not there, and not needed.
    front = sys.modules.get(_FRONT)
    if front is not None:
        _extend(front.InputProcessor, "__init__", _after_front)


def _extend(owner: type, name: str, then: Callable[[Any], None]) -> None:
    """Call `then` with the instance after each call of a method."""
    method = getattr(owner, name, None)
    if method is None:  # as in a wrapper that passes every call on
        method = _passed_on(name)
    if getattr(method, _OURS, False):
        return

    @wraps(method)
    def extended(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = method(self, *args, **kwargs)
        then(self)
        return result

    setattr(extended, _OURS, True)
    setattr(owner, name, extended)


def _passed_on(name: str) -> Callable[..., Any]:
    def passed_on(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.worker, name)(*args, **kwargs)

    return passed_on


# --------------------------------------------------------------------------------- in a worker


def _after_load(wrapper: Any) -> None:
    try:
        show(wrapper.worker.model_runner)
    except Exception:  # noqa: BLE001  # a server without this part of the gate is better than none
        log.exception("The gate will see no hidden states of this model")


def show(runner: Any) -> None:
    """Let the gates of a model runner, whose model is loaded, see it."""
    from policies.engine_gate import Gate

    found = [each for each in _processors(runner) if isinstance(each, Gate)]
    for twice in found[1:]:  # the entry point and `--logits-processors` name the same class
        twice.retire()
    for gates in (each.gates for each in found[:1]):
        _tell(runner.model, gates.shown)
        gates.resources.model = _looked_at(runner, gates.resources.model, gates.shown)
        log.info("Tandem's gate stops on token %s and sees hidden states", gates.resources.token)


def _processors(runner: Any) -> Iterable[Any]:
    """All logits processors of a model runner, of either version."""
    if hasattr(runner, "input_batch"):
        return list(runner.input_batch.logitsprocs.all)
    return list(getattr(runner.sampler, "logits_processors", ()))


def _tell(model: Any, shown: Shown) -> None:
    """Keep what the model computes logits from, while it is wanted."""
    compute = model.compute_logits

    @wraps(compute)
    def computing(hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        if shown.wanted:
            shown.hidden = hidden_states
        return compute(hidden_states, *args, **kwargs)

    model.compute_logits = computing


def _looked_at(runner: Any, model: Model, shown: Shown) -> Model:
    """The sizes of the model, and its fingerprint; its embedding is shown if it can be asked."""
    import torch

    hidden = runner.model_config.get_hidden_size()
    if _rows_differ(runner):
        log.warning("No neural gate: the parallel processes of this model draw different rows.")
        return Model(model.vocabulary, hidden)
    embed = _embedding(runner.model)
    ids = torch.arange(min(_ROWS, model.vocabulary), device=runner.device)
    with torch.inference_mode():
        rows = embed(ids)
    if not (rows.ndim == 2 and rows.is_floating_point()):
        # The last of several pipeline stages, unless its embedding is its output layer too.
        log.warning("No neural gate: the embedding is not where this model's logits are made.")
        return Model(model.vocabulary, hidden)
    shown.embed = _in_numpy(embed) if rows.device.type == "cpu" else embed
    matrix = rows.float().cpu().numpy()
    return Model(model.vocabulary, hidden, int(rows.shape[1]), fingerprint(matrix))


def _rows_differ(runner: Any) -> bool:
    """Whether processes that share one model draw tokens of different rows, or only one does.

    Each would ask the embedding for rows of its own, and it answers only all of them together.
    """
    from vllm.platforms import current_platform

    if runner.vllm_config.parallel_config.tensor_parallel_size == 1:
        return False
    sharded = getattr(runner, "batch_sharder", None) is not None
    return sharded or not current_platform.use_all_gather()


def _in_numpy(embed: Callable[[Any], Any]) -> Callable[[Any], Any]:
    import torch

    return lambda ids: embed(torch.from_numpy(ids)).float().numpy()


def _embedding(model: Any) -> Callable[[Any], Any]:
    """The model's own input embedding: it works on parts of a matrix, too (tensor parallelism)."""
    name = "embed_input_ids" if hasattr(model, "embed_input_ids") else "get_input_embeddings"
    embed: Callable[[Any], Any] = getattr(model, name)
    return embed


# ------------------------------------------------------------------- where requests are taken in


def _after_front(processor: Any) -> None:
    config = processor.model_config
    model = Model(config.get_vocab_size(), config.get_hidden_size())
    ADMISSION.resources = resources(config, model)

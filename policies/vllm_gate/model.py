"""What vLLM says of the model that it serves, as far as a gate must know it.

Read from vLLM's `ModelConfig` in each process that needs it; tokenizers are kept by vLLM itself, so
that asking again costs nothing. Must not know requests.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from policies.gate.resources import Model, Resources
from policies.vllm_gate.gates import log


def resources(config: Any, model: Model) -> Resources:
    """What this process gives to the gates of a model: its reserved token, and folders.

    Raises ValueError if the environment names a reserved token that is none.
    """
    return Resources.of(os.environ, _special_token(config), model)


def end_of_text(config: Any) -> int:
    """The token with which the model ends an answer; 0 if it has none."""
    named = getattr(config.hf_text_config, "eos_token_id", None)
    first = named[0] if isinstance(named, list) and named else named
    return first if isinstance(first, int) else 0


def writes_files() -> bool:
    """Whether this process is the first of those that have the same requests."""
    try:
        from vllm.distributed import get_tensor_model_parallel_rank

        return bool(get_tensor_model_parallel_rank() == 0)
    except (ImportError, AssertionError):  # vLLM asserts that there are several processes
        return True


def _special_token(config: Any) -> Callable[[str], int | None]:
    vocabulary: dict[str, int] = {}
    if not getattr(config, "skip_tokenizer_init", False):
        try:
            vocabulary = _tokenizer(config).get_vocab()
        except Exception as error:  # noqa: BLE001  # some have none, and a token can be named
            log.warning("The gate's reserved token must be named, there is no tokenizer: %s", error)
    return vocabulary.get


def _tokenizer(config: Any) -> Any:
    try:
        from vllm.tokenizers import cached_tokenizer_from_config
    except ImportError:  # older than these tokenizers
        from vllm.transformers_utils.tokenizer import cached_tokenizer_from_config
    return cached_tokenizer_from_config(config)

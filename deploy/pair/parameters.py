"""Sampling and stopping as a request asks for them, checked and completed by the model's defaults.

Knows vLLM's ranges (its `sampling_params.py`) and the words of its refusals. Must not know prompts
or HTTP.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from deploy.pair.bodies import ChatBody, GenerationBody
from deploy.pair.graph import Shape
from deploy.pair.refusal import refuse
from deploy.pair.sampling import GREEDY_BELOW, Sampling
from deploy.pair.text import Stopping

_Value = TypeVar("_Value")

# vLLM's `--max-logprobs`.
MAX_LOGPROBS = 20
# One request, all prompts and choices together; more would only wait in line.
MAX_GENERATIONS = 128
# OpenAI's range; vLLM too cuts off what is beyond.
_MAX_BIAS = 100.0
# vLLM takes this seed for none.
_NO_SEED = -1
# (field, lowest, highest, whether the lowest itself is excluded)
_RANGES = (
    ("temperature", 0.0, 2.0, False),
    ("top_p", 0.0, 1.0, True),
    ("min_p", 0.0, 1.0, False),
    ("presence_penalty", -2.0, 2.0, False),
    ("frequency_penalty", -2.0, 2.0, False),
)
_NO_GUIDANCE = (
    "The embedded pair has no guided decoding, so {asked} cannot be kept. "
    "Serve the model with vLLM for structured output."
)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a model's `generation_config.json` sets for requests that do not say."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int | None = None

    @classmethod
    def of(cls, folder: Path) -> Defaults:
        """Read a model folder; without that file all is at vLLM's defaults."""
        file = folder / "generation_config.json"
        values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return cls(**{name: values[name] for name in cls.__slots__ if values.get(name) is not None})


@dataclass(frozen=True, slots=True)
class MostTokens:
    """The longest answer asked for, and the field that asks."""

    field: str
    asked: int | None


def choices(body: GenerationBody) -> int:
    """How many answers to each prompt."""
    return 1 if body.n is None else body.n


def sampling(body: GenerationBody, defaults: Defaults, vocabulary: int, choice: int) -> Sampling:
    """How the tokens of one choice are drawn."""
    # Each choice has a seed of its own, counted up from the request's, as in vLLM.
    seeded = body.seed is not None and body.seed != _NO_SEED
    return Sampling(
        temperature=_or(body.temperature, defaults.temperature),
        top_p=_or(body.top_p, defaults.top_p),
        top_k=_or(body.top_k, defaults.top_k),
        min_p=_or(body.min_p, defaults.min_p),
        repetition_penalty=_or(body.repetition_penalty, defaults.repetition_penalty),
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        logit_bias=_bias(body.logit_bias or {}, vocabulary),
        allowed_ids=check_ids(body.allowed_token_ids, "allowed_token_ids", vocabulary),
        seed=_or(body.seed, 0) + choice if seeded else None,
    )


def stopping(
    body: GenerationBody, shape: Shape, defaults: Defaults, prompt: int, most: MostTokens
) -> Stopping:
    """When the answer to a prompt of that length ends."""
    if most.asked is not None and most.asked > shape.context:
        refuse(
            f"{most.field}={most.asked} cannot be greater than max_model_len={shape.context}. "
            "Please request fewer output tokens.",
            most.field,
            most.asked,
        )
    room = shape.context - prompt
    wanted = defaults.max_new_tokens if most.asked is None else most.asked
    limit = room if wanted is None else min(wanted, room)
    if limit < 1:
        refuse(f"max_tokens must be at least 1, got {limit}.", "max_tokens", limit)
    if not 0 <= body.min_tokens <= limit:
        refuse(
            "min_tokens must be at least 0 and "
            f"less than or equal to max_tokens={limit}, got {body.min_tokens}."
        )
    strings = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if "" in strings:
        refuse("stop cannot contain an empty string.")
    stop_ids = check_ids(body.stop_token_ids, "stop_token_ids", shape.vocabulary)
    return Stopping(
        max_tokens=limit,
        min_tokens=body.min_tokens,
        strings=tuple(strings),
        token_ids=frozenset(stop_ids),
        ignore_eos=body.ignore_eos,
        include_string=body.include_stop_str_in_output,
    )


def check(body: GenerationBody, prompts: int, defaults: Defaults) -> None:
    """Refuse values that make no sense for any prompt."""
    if body.stream_options is not None and not body.stream:
        refuse("Stream options can only be defined when `stream=True`.", "stream_options")
    if body.stream and body.prompt_logprobs is not None:
        refuse("`prompt_logprobs` are not available when `stream=True`.", "prompt_logprobs")
    _check_supported(body)
    for name, low, high, excluded in _RANGES:
        value = getattr(body, name)
        if value is not None and (not low <= value <= high or (excluded and value == low)):
            bracket = "(" if excluded else "["
            refuse(f"{name} must be in {bracket}{low:g}, {high:g}], got {value}.", name, value)
    if body.repetition_penalty is not None and body.repetition_penalty <= 0:
        refuse(f"repetition_penalty must be greater than zero, got {body.repetition_penalty}.")
    if body.top_k is not None and body.top_k < -1:
        refuse(f"top_k must be 0 (disable), or at least 1, got {body.top_k}.")
    n = choices(body)
    if n < 1:
        refuse(f"n must be at least 1, got {n}.")
    if n * prompts > MAX_GENERATIONS:
        refuse(f"prompts times n must be at most {MAX_GENERATIONS}, got {n * prompts}.", "n", n)
    if n > 1 and _or(body.temperature, defaults.temperature) < GREEDY_BELOW:
        refuse(f"n must be 1 when using greedy sampling, got {n}.")


def check_logprobs(asked: int | None, field: str, vocabulary: int) -> None:
    """Refuse a longer report than vLLM gives."""
    count = vocabulary if asked == -1 else asked or 0
    if count > MAX_LOGPROBS:
        kind = "sample" if field == "logprobs" else "prompt"
        refuse(
            f"Requested {kind} logprobs of {count}, "
            f"which is greater than max allowed: {MAX_LOGPROBS}",
            field,
            count,
        )


def check_ids(tokens: list[int] | None, field: str, vocabulary: int) -> tuple[int, ...]:
    """The ids, if all are in the vocabulary."""
    wrong = [token for token in tokens or () if not 0 <= token < vocabulary]
    if wrong:
        refuse(
            f"token_id(s) {wrong} in {field} contain out-of-vocab token ids. "
            f"Vocabulary size: {vocabulary}",
            field,
            wrong,
        )
    return tuple(tokens or ())


def check_tools(body: ChatBody) -> None:
    """Tools may be shown to the model; nothing here can make it call one."""
    match body.tool_choice:
        case None | "none" | "auto":
            return
        case _ if not body.tools:
            refuse("When using `tool_choice`, `tools` must be set.", "tool_choice")
        case _:
            refuse(_NO_GUIDANCE.format(asked="a forced tool_choice"), "tool_choice")


def _check_supported(body: GenerationBody) -> None:
    form = (body.response_format or {}).get("type", "text")
    if form != "text":
        refuse(_NO_GUIDANCE.format(asked=f"response_format {form!r}"), "response_format")
    if body.structured_outputs:
        refuse(_NO_GUIDANCE.format(asked="structured_outputs"), "structured_outputs")
    for name in ("use_beam_search", "bad_words"):
        if getattr(body, name):
            refuse(f"The embedded pair does not support {name}.", name)


def _bias(asked: dict[str, float], vocabulary: int) -> dict[int, float]:
    wrong = [key for key in asked if not key.isdecimal()]
    if wrong:
        message = (
            f"logit_bias contains key(s) that cannot be converted to integer token IDs: {wrong}"
        )
        refuse(message, "logit_bias", wrong)
    check_ids([int(key) for key in asked], "logit_bias", vocabulary)
    return {int(key): max(-_MAX_BIAS, min(_MAX_BIAS, bias)) for key, bias in asked.items()}


def _or(value: _Value | None, default: _Value) -> _Value:
    return default if value is None else value

"""The request bodies that the server reads: vLLM's fields, types and defaults.

Knows the fields of the OpenAI and vLLM APIs (vLLM 0.32, `entrypoints/openai/*/protocol.py`) and
their types. Must not know models or tokens: whether a value makes sense is asked in `asks`. Fields
without a meaning here (`user`, `priority`, ...) are accepted and ignored, as there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import orjson
from pydantic import AliasChoices, BaseModel, Field, ValidationError

from deploy.pair.refusal import Refusal

Xarg: TypeAlias = str | int | float | list[str | int | float]
TokenId: TypeAlias = Annotated[int, Field(ge=0)]
Seed: TypeAlias = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
# `extra="ignore"` is pydantic's default: vLLM takes unknown fields too.
Body = TypeVar("Body", bound=BaseModel)

# One malformed body can break a rule once per element; vLLM names ten as well.
_ERRORS_SHOWN = 10


class StreamOptions(BaseModel):
    """Whether a stream tells how many tokens it had, at its end or all along."""

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class GenerationBody(BaseModel):
    """What chat and completions have in common."""

    model: str | None = None
    request_id: str | None = None
    cache_salt: str | None = None
    n: int | None = 1
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    seed: Seed | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] = []
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    echo: bool | None = False
    logprob_token_ids: list[int] | None = None
    prompt_logprobs: int | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    use_beam_search: bool = False
    vllm_xargs: dict[str, Xarg] | None = None


class ToolFunction(BaseModel):
    """What a tool's function is called, and takes."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(BaseModel):
    """A tool that the model may be shown."""

    type: Literal["function"] = "function"
    function: ToolFunction


class ChatMessages(BaseModel):
    """The fields that decide a chat's prompt."""

    messages: list[dict[str, Any]]
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    add_special_tokens: bool = False
    tools: list[Tool] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def opens_answer(self) -> bool:
        """Whether the model speaks next, rather than going on with the last message."""
        return self.add_generation_prompt is not False


class ChatBody(GenerationBody, ChatMessages):
    """POST /v1/chat/completions."""

    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = 0
    tool_choice: str | dict[str, Any] | None = None
    return_prompt_text: bool | None = None


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: list[TokenId] | list[list[TokenId]] | str | list[str] | None = None
    prompt_embeds: Any = None
    max_tokens: int | None = 16
    logprobs: int | None = None
    suffix: str | None = None
    add_special_tokens: bool = True


class EmbeddingBody(BaseModel):
    """POST /v1/embeddings."""

    model: str | None = None
    input: list[TokenId] | list[list[TokenId]] | str | list[str]
    encoding_format: str = "float"
    dimensions: int | None = None
    add_special_tokens: bool = True


class ScoreBody(BaseModel):
    """POST /v1/score: questions and answers under any of vLLM's names for them."""

    model: str | None = None
    questions: str | list[str] = Field(validation_alias=AliasChoices("text_1", "queries", "data_1"))
    answers: str | list[str] = Field(
        validation_alias=AliasChoices("text_2", "documents", "items", "data_2")
    )
    use_activation: bool | None = None


class PooledBody(BaseModel):
    """POST /classify and /pooling: with messages, or with an input."""

    model: str | None = None
    messages: list[dict[str, Any]] | None = None
    input: list[TokenId] | list[list[TokenId]] | str | list[str] | None = None
    add_special_tokens: bool = True
    use_activation: bool | None = None
    encoding_format: str = "float"
    dimensions: int | None = None


class TokenizeKind(BaseModel):
    """POST /tokenize: with messages, or with a prompt."""

    messages: Any = None


class TokenizeBody(BaseModel):
    """POST /tokenize with a prompt."""

    model: str | None = None
    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool | None = False


class TokenizeChatBody(ChatMessages):
    """POST /tokenize with messages."""

    model: str | None = None
    return_token_strs: bool | None = False


class DetokenizeBody(BaseModel):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[TokenId]


def read(kind: type[Body], raw: bytes) -> Body:
    """The body as that kind. Raises Refusal (400) in the words of vLLM's validation errors."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _invalid([_entry("json_invalid", (), f"JSON decode error: {error}")], ()) from None
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        # Without url, context and input: an error must not echo what a client sent.
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        entries = [_entry(fault["type"], fault["loc"], fault["msg"]) for fault in faults]
        raise _invalid(entries, faults[0]["loc"]) from None


def _invalid(entries: list[dict[str, str]], where: tuple[int | str, ...]) -> Refusal:
    count = len(entries)
    lines = [f"{count} validation error{'' if count == 1 else 's'}:", *entries[:_ERRORS_SHOWN]]
    if count > _ERRORS_SHOWN:
        lines.append(f"...and {count - _ERRORS_SHOWN} more")
    message = "\n  ".join(str(line) for line in lines)
    return Refusal(400, "Bad Request", message, _path(where))


def _entry(kind: str, where: tuple[int | str, ...], message: str) -> dict[str, str]:
    return {"type": kind, "loc": _path(where), "msg": message}


def _path(where: tuple[int | str, ...]) -> str:
    """Field names and list positions; pydantic's names of union branches are left out."""
    names = (str(part) for part in where if not _is_branch(part))
    return ".".join(["body", *names])


def _is_branch(part: int | str) -> bool:
    return isinstance(part, str) and ("[" in part or part in {"str", "int", "float"})

"""What a client asks of an answer, as far as it matters when two models write it.

Both models are called by `/v1/completions` with token ids, so the body of a chat request is taken
apart here: what the gateway itself must see to (length, stop strings, choices, log-probabilities,
seed), what its prompt is made of, and everything else, which travels on to both models as it is.
What cannot be kept across a hand-off is found here too, with the reason: such a request goes to one
model, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from policies.gate.settings import PREFIX
from router.steps import Request, Surface

DEFAULT_COMPLETION = 16
"""Tokens of a completion that names no limit: OpenAI's default, and vLLM's."""
SEED_STEP = 7_919
"""A prime: the seeds of one answer's turns, and of its choices, do not meet."""
SEEDS = 1 << 31
TAKEN_APART = frozenset({
    "model", "messages", "prompt", "stream", "stream_options", "n", "best_of", "stop",
    "max_tokens", "max_completion_tokens", "min_tokens", "logprobs", "top_logprobs", "seed",
    "tools", "tool_choice", "parallel_tool_calls", "response_format", "functions", "function_call",
    "add_generation_prompt", "continue_final_message", "add_special_tokens", "chat_template",
    "chat_template_kwargs", "documents", "reasoning_effort", "include_reasoning", "echo", "suffix",
    "stop_token_ids", "include_stop_str_in_output", "return_token_ids", "vllm_xargs",
    "return_tokens_as_token_ids", "store", "metadata", "service_tier", "modalities",
})  # fmt: skip
"""Fields that are seen to here, or mean nothing to a completion."""
ONE_MODEL = {
    "functions": "function calls are parsed by the backend",
    "structured_outputs": "a grammar starts anew with every hand-off",
    "guided_json": "a grammar starts anew with every hand-off",
    "guided_regex": "a grammar starts anew with every hand-off",
    "guided_choice": "a grammar starts anew with every hand-off",
    "guided_grammar": "a grammar starts anew with every hand-off",
    "presence_penalty": "a penalty counts the tokens of one call",
    "frequency_penalty": "a penalty counts the tokens of one call",
    "thinking_token_budget": "a thinking budget counts the tokens of one call",
    "min_tokens": "until so many tokens no engine stops, whatever its gate says",
    "use_beam_search": "a beam search cannot be handed over",
    "prompt_logprobs": "log-probabilities of the prompt are one model's",
    "prompt_embeds": "a prompt of embeddings has no token ids",
    "truncate_prompt_tokens": "the prompt would be cut by the backend",
    "echo": "the prompt would be echoed at every hand-off",
    "suffix": "an infill cannot be handed over",
    "audio": "only text can be handed over",
    "mm_processor_kwargs": "only text can be handed over",
}
"""Fields that two models cannot keep to, and why; empty, zero and false values ask for nothing."""

COUNTS = ("n", "best_of", "max_tokens", "max_completion_tokens", "min_tokens", "top_logprobs")
"""Fields that are counted with here, and so must be whole numbers."""
KINDS: Mapping[str, type | tuple[type, ...]] = {
    "seed": int, "stop": (str, list), "stop_token_ids": list, "vllm_xargs": dict,
}  # fmt: skip
"""Fields that are worked on here, and what each must be for that."""

OWN_TOKENS = (
    "stop_token_ids", "logit_bias", "allowed_token_ids", "logprob_token_ids", "return_token_ids",
    "return_tokens_as_token_ids",
)  # fmt: skip
"""Fields that speak of token ids, which are one tokenizer's, and one call's."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, taken apart. `room` is the most tokens; None: as many as the context holds.

    `logprobs` is how many alternatives per token the client wants, None if no log-probabilities;
    `tools` if the answer may hold tool calls; `others` go to both models as they came.
    """

    room: int | None = None
    stops: tuple[str, ...] = ()
    keeps_stop: bool = False
    stop_ids: tuple[int, ...] = ()
    choices: int = 1
    seed: int | None = None
    logprobs: int | None = None
    tools: bool = False
    xargs: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, Any] = field(default_factory=dict)

    def seed_at(self, position: int, choice: int) -> int | None:
        """The seed of a call that begins at this token of this choice; the first is the client's.

        A call that began with the same seed as the one before would draw the same numbers again.
        """
        if self.seed is None:
            return None
        if position + choice == 0:
            return self.seed
        return (self.seed + choice + position * SEED_STEP) % SEEDS


def asked_of(request: Request) -> Asked | str:
    """What `request` asks, or why only one model can answer it."""
    body = request.body
    if request.surface not in (Surface.CHAT, Surface.COMPLETIONS):
        return f"{request.surface.value} has no tokens to hand over"
    if why := _for_one(request):
        return why
    chat = request.surface is Surface.CHAT
    room = body.get("max_completion_tokens") if chat else None
    if room is None:
        room = body.get("max_tokens", None if chat else DEFAULT_COMPLETION)
    return Asked(
        room=room,
        stops=_strings(body.get("stop")),
        keeps_stop=bool(body.get("include_stop_str_in_output")),
        stop_ids=tuple(body.get("stop_token_ids") or ()),
        choices=body.get("n") or 1,
        seed=body.get("seed"),
        logprobs=_logprobs(body, chat=chat),
        tools=offers_tools(body),
        xargs={k: v for k, v in (body.get("vllm_xargs") or {}).items() if not _gates(k)},
        others={name: value for name, value in body.items() if name not in TAKEN_APART},
    )


def asked_as_text(request: Request) -> Asked | str:
    """As `asked_of`, where what one call wrote goes to the next as text, not as token ids."""
    asked = asked_of(request)
    return asked if isinstance(asked, str) else next(_not_as_text(request, asked), asked)


def offers_tools(body: Mapping[str, Any]) -> bool:
    """Whether the answer may hold tool calls, which only a backend can tell from text."""
    return bool(body.get("tools")) and body.get("tool_choice") != "none"


def token_prompt(request: Request) -> tuple[int, ...] | None:
    """The prompt's token ids, where the client sent those."""
    ids = _single(request.body.get("prompt"))
    return tuple(ids) if isinstance(ids, list) else None


def one_prompt(request: Request) -> Request:
    """The request with its only prompt for itself, not in a list of one."""
    prompt = request.body.get("prompt")
    if not isinstance(prompt, list):
        return request
    body = {**request.body, "prompt": _single(prompt)}
    return request.asking(body, request.surface, stream=request.stream)


def _for_one(request: Request) -> str | None:
    body = request.body
    named = next((f"{name}: {why}" for name, why in ONE_MODEL.items() if body.get(name)), None)
    if why := named or _odd(body) or _constrained(body):
        return why
    if request.surface is Surface.COMPLETIONS:
        return None if _one_prompt(body.get("prompt")) else "prompt: more than one"
    return None if _only_text(body.get("messages")) else "messages: only text can be handed over"


def _not_as_text(request: Request, asked: Asked) -> Iterator[str]:
    body = request.body
    if asked.choices > 1:
        yield "n: one answer is handed over, not several"
    if asked.tools:
        yield "tools: calls are parsed by the backend"
    if asked.room == 0:
        yield "nothing is to be written"
    for name in OWN_TOKENS:
        if body.get(name):
            yield f"{name}: a token id means something to one tokenizer only"
    if body.get("continue_final_message") or body.get("add_generation_prompt") is False:
        yield "continue_final_message: the client continues a message of its own"
    if request.surface is Surface.COMPLETIONS and not isinstance(body.get("prompt"), str):
        yield "prompt: only one text can be continued"


def _constrained(body: Mapping[str, Any]) -> str | None:
    form = body.get("response_format")
    if isinstance(form, dict) and form.get("type") not in (None, "text"):
        return "response_format: a grammar starts anew with every hand-off"
    if offers_tools(body) and body.get("tool_choice") not in (None, "auto"):
        return "tool_choice: a grammar starts anew with every hand-off"
    return None


def _odd(body: Mapping[str, Any]) -> str | None:
    for name in COUNTS:
        value = body.get(name)
        if value is not None and (not isinstance(value, int) or value < 0):
            return f"{name}: not a count, which the backend will say"
    for name, kind in KINDS.items():
        if body.get(name) is not None and not isinstance(body[name], kind):
            return f"{name}: of a wrong kind, which the backend will say"
    if (body.get("best_of") or 1) > (body.get("n") or 1):
        return "best_of: the backend compares whole answers"
    return None


def _gates(name: str) -> bool:
    """Whether the name is one of a gate's settings, which are the policy's to make."""
    return name.startswith(PREFIX)


def _one_prompt(prompt: Any) -> bool:
    single = _single(prompt)
    return isinstance(single, str) or (
        isinstance(single, list) and all(isinstance(number, int) for number in single)
    )


def _single(prompt: Any) -> Any:
    """The only prompt of a list of one."""
    nested = isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], list | str)
    return prompt[0] if nested else prompt


def _only_text(messages: Any) -> bool:
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type", "text") != "text":
                return False
    return True


def _strings(stop: Any) -> tuple[str, ...]:
    if isinstance(stop, str):
        return (stop,)
    return tuple(string for string in stop or () if isinstance(string, str))


def _logprobs(body: Mapping[str, Any], *, chat: bool) -> int | None:
    asked = body.get("logprobs")
    if chat:
        return (body.get("top_logprobs") or 0) if asked else None
    return asked if isinstance(asked, int) and not isinstance(asked, bool) else None

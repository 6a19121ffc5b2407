"""From a request body to jobs for the engine: prompts in tokens, parameters checked.

Knows one model's tokenizer, chat template and sizes. Must not know HTTP or what the engine is at.
All checks are made here and in `parameters`, before anything runs: what leaves this file can be
served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.pair.bodies import ChatBody, ChatMessages, CompletionBody, GenerationBody
from deploy.pair.chat_template import ChatTemplate, ChatTemplateError
from deploy.pair.engine import Job
from deploy.pair.gate import Gates
from deploy.pair.graph import Shape
from deploy.pair.parameters import (
    Defaults,
    MostTokens,
    check,
    check_ids,
    check_logprobs,
    check_tools,
    choices,
    sampling,
    stopping,
)
from deploy.pair.refusal import refuse
from deploy.pair.text import Codec
from policies.gate.settings import GateSettings

# OpenAI's default for /v1/completions.
_COMPLETION_TOKENS = 16
LONGEST_SALT = 128
"""Characters."""


@dataclass(frozen=True, slots=True)
class Renderer:
    """One model's side of a request."""

    codec: Codec
    template: ChatTemplate
    shape: Shape
    defaults: Defaults
    gates: Gates

    def chat_prompt(self, body: ChatMessages) -> tuple[str, list[int]]:
        """The conversation as the model reads it: text, and its tokens."""
        _check_messages(body)
        try:
            text = self.template.render(
                body.messages,
                open_answer=body.opens_answer,
                continue_last=body.continue_final_message,
                tools=[tool.model_dump() for tool in body.tools] if body.tools else None,
                extra=body.chat_template_kwargs,
            )
        except ChatTemplateError as error:
            refuse(str(error))
        return text, self._encoded(text, body.add_special_tokens)

    def prompts(self, asked: Sequence[object] | str | None, special: bool) -> list[list[int]]:
        """A string, token ids, or a list of either, as lists of ids."""
        if asked is None or asked == "":
            refuse("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
        if isinstance(asked, str):
            return [self._encoded(asked, special)]
        if not asked:
            refuse("You must pass at least one prompt")
        if isinstance(asked[0], int):
            return [[token for token in asked if isinstance(token, int)]]
        return [
            list(each) if isinstance(each, list) else self._encoded(str(each), special)
            for each in asked
        ]

    def fitting(self, prompt: list[int], truncate: int | None = None) -> list[int]:
        """The prompt, cut to its last `truncate` tokens (-1: to the context), if it can be run."""
        context = self.shape.context
        if truncate is not None:
            keep = context - 1 if truncate == -1 else truncate
            prompt = prompt[max(0, len(prompt) - keep) :]
        if not prompt:
            refuse("The prompt cannot be empty.", "prompt")
        if len(prompt) > context:
            refuse(
                f"This model's maximum context length is {context} tokens. However, your prompt "
                f"contains {len(prompt)} input tokens, which exceeds this limit even without any "
                "output tokens. Please reduce the length of the input prompt.",
                "input_tokens",
                len(prompt),
            )
        if (largest := max(prompt)) >= self.shape.vocabulary:
            refuse(f"Token id {largest} is out of vocabulary")
        return prompt

    def chat_jobs(self, body: ChatBody, prompt: list[int]) -> list[Job]:
        """`n` jobs for one conversation."""
        check_tools(body)
        best = body.top_logprobs or 0
        if best and not body.logprobs:
            refuse("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
        if best < -1:
            refuse("`top_logprobs` must be a positive value or -1.", "top_logprobs", best)
        most = MostTokens("max_completion_tokens", body.max_completion_tokens)
        if most.asked is None:
            most = MostTokens("max_tokens", body.max_tokens)
        return self._jobs(body, [prompt], most, best if body.logprobs else None)

    def completion_jobs(self, body: CompletionBody) -> list[Job]:
        """`n` jobs for each prompt, prompt by prompt."""
        if body.suffix is not None:
            refuse("suffix is only supported for models with FIM completion rendering", "suffix")
        if body.prompt_embeds is not None:
            refuse("The embedded pair takes text and token ids only.", "prompt_embeds")
        if body.logprobs is not None and body.logprobs < -1:
            refuse("`logprobs` must be a positive value or -1.", "logprobs", body.logprobs)
        most = _COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
        if body.echo and most == 0:
            most = 1  # as in vLLM, one token is made and not shown
        prompts = self.prompts(body.prompt, body.add_special_tokens)
        return self._jobs(body, prompts, MostTokens("max_tokens", most), body.logprobs)

    def _encoded(self, text: str, special: bool) -> list[int]:
        """The text's ids; what cannot fit is refused without counting its tokens."""
        context = self.shape.context
        most = context * self.codec.longest
        if len(text) > most:
            refuse(
                f"This model's maximum context length is {context} tokens. However, your prompt "
                f"contains {len(text)} characters (more than {most} characters, which is the "
                f"upper bound for {context} input tokens). "
                "Please reduce the length of the input prompt.",
                "input_text",
                len(text),
            )
        return self.codec.encode(text, special)

    def _jobs(
        self,
        body: GenerationBody,
        prompts: Sequence[list[int]],
        most: MostTokens,
        logprobs: int | None,
    ) -> list[Job]:
        vocabulary = self.shape.vocabulary
        fitted = [self.fitting(prompt, body.truncate_prompt_tokens) for prompt in prompts]
        check(body, len(fitted), self.defaults)
        prompt_logprobs = body.prompt_logprobs
        if prompt_logprobs is None and body.echo:
            prompt_logprobs = logprobs
        check_logprobs(logprobs, "logprobs", vocabulary)
        check_logprobs(prompt_logprobs, "prompt_logprobs", vocabulary)
        if body.logprob_token_ids and logprobs is None:
            refuse("when using `logprob_token_ids`, `logprobs` must be set.", "logprob_token_ids")
        check_salt(body.cache_salt)
        gate = self._gate(body)
        return [
            Job(
                prompt=tuple(prompt),
                stopping=stopping(body, self.shape, self.defaults, len(prompt), most),
                sampling=sampling(body, self.defaults, vocabulary, choice),
                logprobs=logprobs,
                logprob_ids=check_ids(body.logprob_token_ids, "logprob_token_ids", vocabulary),
                prompt_logprobs=prompt_logprobs,
                skip_special=body.skip_special_tokens,
                gate=self.gates.make(gate),
                salt=body.cache_salt,
            )
            for prompt in fitted
            for choice in range(choices(body))
        ]

    def _gate(self, body: GenerationBody) -> GateSettings | None:
        try:
            asked = self.gates.settings(body.vllm_xargs)
        except ValueError as error:
            refuse(str(error), "vllm_xargs")
        if asked and body.min_tokens:
            refuse("A gate cannot stop an answer before its min_tokens: leave one out.")
        return asked


def check_salt(salt: str | None) -> None:
    """Refuse what vLLM refuses."""
    if salt == "":
        refuse("Parameter 'cache_salt' must be a non-empty string if provided.", "cache_salt")
    if salt and (len(salt) > LONGEST_SALT or any(mark in salt for mark in "@/\\\0")):
        refuse(
            "Parameter 'cache_salt' must be at most 128 characters and must not contain "
            "'@', '/', '\\', or NUL.",
            "cache_salt",
        )


def _check_messages(body: ChatMessages) -> None:
    if body.continue_final_message and body.opens_answer:
        refuse(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True; "
            "set `add_generation_prompt` to false."
        )
    if body.chat_template is not None:
        refuse("A request's own chat template is not trusted here.", "chat_template")
    if body.tools == []:
        refuse(
            "`tools` must not be an empty array. "
            "Either provide at least one tool or omit the field entirely.",
            "tools",
        )
    if not all(isinstance(message.get("role"), str) for message in body.messages):
        refuse("Each message needs a `role`.", "messages")

"""One model over HTTP: the few calls that the stages make, in vLLM's dialect.

Knows paths and fields of an OpenAI-compatible server that takes token ids (vLLM, or the embedded
pair's). Must not know why it is asked. Every call is greedy. A connection that breaks and a server
that is full are tried again, since a run of hours must survive a restart; anything else is a
TrainingError with the server's own words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from policies.training.token_gate.errors import TrainingError

_TRIES = 6
_FIRST_PAUSE = 0.5
"""Seconds; doubled each time, so that six tries span a quarter of a minute."""
_PASSING = frozenset({429, 502, 503, 504})
"""Statuses of a server that is full, or of a proxy whose server restarts."""
_WORDS_SHOWN = 500
"""Characters of a server's complaint that are repeated."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote: its ids with the end token if it came, its text, and why it stopped."""

    ids: tuple[int, ...]
    text: str
    finish: str | None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model behind a URL. `role` names it in errors: small, large or judge."""

    role: str
    model: str
    client: httpx.AsyncClient

    @classmethod
    async def find(cls, role: str, client: httpx.AsyncClient, model: str | None) -> Endpoint:
        """The named model, or the only one that the server has. Raises TrainingError."""
        endpoint = cls(role, model or "", client)
        cards = (await endpoint._ask("GET", "/v1/models"))["data"]
        names = [card["id"] for card in cards]
        if model is None and len(names) != 1:
            raise TrainingError(
                f"{client.base_url} serves {', '.join(names) or 'nothing'}: say which is the "
                f"{role} model with --{role}-model"
            )
        if model is not None and model not in names:
            raise TrainingError(
                f"{client.base_url} does not serve {model}, only {', '.join(names) or 'nothing'}"
            )
        return cls(role, model or names[0], client)

    async def root(self) -> str | None:
        """Where the server says that the model's files are."""
        cards = (await self._ask("GET", "/v1/models"))["data"]
        return next((card.get("root") for card in cards if card["id"] == self.model), None)

    async def prompt_ids(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        """The conversation in tokens, as the chat template writes it, ready for an answer."""
        answer = await self._ask("POST", "/tokenize", {"messages": [*messages]})
        return tuple(answer["tokens"])

    async def text_ids(self, text: str) -> tuple[int, ...]:
        """A text in tokens, without any that the tokenizer adds."""
        asked = {"prompt": text, "add_special_tokens": False}
        return tuple((await self._ask("POST", "/tokenize", asked))["tokens"])

    async def text(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        if not ids:
            return ""
        return str((await self._ask("POST", "/detokenize", {"tokens": [*ids]}))["prompt"])

    async def complete(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        xargs: Mapping[str, object] | None = None,
    ) -> Completion:
        """The greedy continuation of these tokens."""
        body = self._completion(prompt, max_tokens)
        if xargs is not None:
            body["vllm_xargs"] = xargs
        answer = await self._ask("POST", "/v1/completions", body)
        choice = answer["choices"][0]
        ids = choice.get("token_ids")
        if ids is None:
            raise TrainingError(
                f"the {self.role} model's server at {self.client.base_url} returns no token ids "
                "(return_token_ids): vLLM does since 0.11"
            )
        return Completion(tuple(ids), choice["text"], choice["finish_reason"])

    async def chat(self, text: str, max_tokens: int) -> str:
        """The model's reply to one message."""
        body = {
            "messages": [{"role": "user", "content": text}],
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        answer = await self._ask("POST", "/v1/chat/completions", body)
        return str(answer["choices"][0]["message"]["content"] or "")

    def _completion(self, prompt: Sequence[int], max_tokens: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": [*prompt],
            "max_tokens": max_tokens,
            "temperature": 0,
            "return_token_ids": True,
        }

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of one call. Raises TrainingError."""
        asked = None if body is None else {"model": self.model, **body}
        pause = _FIRST_PAUSE
        for left in reversed(range(_TRIES)):
            try:
                response = await self.client.request(method, path, json=asked)
            except httpx.TransportError as error:
                if not left:
                    raise TrainingError(
                        f"the {self.role} model's server at {self.client.base_url} does not "
                        f"answer ({error!r}): is it running?"
                    ) from error
            else:
                if response.is_success:
                    return response.json()
                if not left or response.status_code not in _PASSING:
                    raise self._refused(path, response)
            await asyncio.sleep(pause)
            pause *= 2
        raise AssertionError

    def _refused(self, path: str, response: httpx.Response) -> TrainingError:
        return TrainingError(
            f"the {self.role} model's server answers {path} with {response.status_code}: "
            f"{response.text[:_WORDS_SHOWN]}"
        )

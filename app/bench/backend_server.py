"""The server that `tandem bench backend` times: what it serves, how it is asked, if it is idle.

Speaks OpenAI's completions as vLLM does: prompts as token ids, made of the ids of some words, and
an answer of exactly so many tokens. Where a server takes less, it is asked with less: text for ids,
a chat for a completion, an answer that may end early. What counts is the server's own `usage`.

Prompts are random and each has a `cache_salt` of its own, so that no prefix cache holds one.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from app.bench.embedder import WORDS
from app.bench.processes import BenchError
from router.dialect import usage_of
from router.probe import Endpoint
from router.steps import Usage

__all__ = ["Server", "client", "opened"]

PATIENCE = 600.0
"""Seconds for one answer."""
IDLE = 2.0
"""Seconds after which an idle connection is given up: vLLM closes them after 5."""
BUSY = frozenset(
    {
        *("vllm:num_requests_running", "vllm:num_requests_waiting"),
        *("sglang:num_running_reqs", "sglang:num_queue_reqs"),
    }
)
"""Gauges of requests that a server has."""
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Server:
    """How one model of a server is asked: `ids` to make prompts of, none where it takes text only.

    `context` is its longest prompt and answer together, None where it does not say; `exact`: it was
    not found to refuse an answer of a given length.
    """

    endpoint: Endpoint
    model: str
    context: int | None
    path: str = COMPLETIONS
    ids: tuple[int, ...] = ()
    exact: bool = True
    rng: random.Random = field(default_factory=random.Random)

    async def timed(self, prompt: int, completion: int) -> tuple[Usage, float]:
        """One answer: its tokens, and how many seconds it took. Raises `BenchError`."""
        body = self._body(prompt, completion)
        began = time.perf_counter()
        try:
            response = await self.endpoint.post(self.path, body)
        except httpx.HTTPError as error:
            raise BenchError(f"{self.endpoint.url} does not answer: {error!r}") from error
        seconds = time.perf_counter() - began
        if not response.is_success:
            raise BenchError(f"{self.endpoint.url} refuses: {_message(response)}")
        stated = _stated(response)
        if stated is None:
            raise BenchError(f"{self.endpoint.url} does not tell the tokens of an answer (usage)")
        return stated, seconds

    async def busy(self) -> int:
        """Requests that it has now, as its metrics say; 0 where it has none that are known."""
        try:
            response = await self.endpoint.get("/metrics")
            families = list(text_string_to_metric_families(response.text))
        except (httpx.HTTPError, ValueError):
            return 0
        samples = (sample for family in families for sample in family.samples)
        return round(sum(sample.value for sample in samples if sample.name in BUSY))

    async def refusal(self) -> str | None:
        """What it says to a question of this kind, None if it answers."""
        try:
            response = await self.endpoint.post(self.path, self._body(4, 1))
        except httpx.HTTPError as error:
            return repr(error)
        return None if response.is_success else _message(response)

    def _body(self, prompt: int, completion: int) -> Mapping[str, Any]:
        asked: dict[str, Any] = {
            "model": self.model,
            "max_tokens": completion,
            "temperature": 0,
            "stream": False,
        }
        if self.exact:
            asked |= {"ignore_eos": True, "min_tokens": completion, "cache_salt": uuid.uuid4().hex}
        if self.path == CHAT:
            return {**asked, "messages": [{"role": "user", "content": self._text(prompt)}]}
        ids = self.rng.choices(self.ids, k=prompt) if self.ids else None
        return {**asked, "prompt": ids or self._text(prompt)}

    def _text(self, tokens: int) -> str:
        """About so many tokens."""
        return " ".join(self.rng.choices(WORDS.split(), k=tokens))


def client(key: str | None) -> httpx.AsyncClient:
    """One connection that is kept, as a gateway's is."""
    head = {"authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(keepalive_expiry=IDLE)
    return httpx.AsyncClient(timeout=PATIENCE, limits=limits, headers=head, trust_env=False)


async def opened(endpoint: Endpoint, model: str | None, seed: int) -> Server:
    """The server, asked in the best way that it takes. Raises `BenchError`."""
    cards = await _cards(endpoint)
    names = ", ".join(sorted(cards)) or "nothing"
    if model is None and len(cards) != 1:
        raise BenchError(f"{endpoint.url} serves {names}: choose one with --model")
    chosen = model or next(iter(cards))
    if chosen not in cards:
        raise BenchError(f"{endpoint.url} serves {names}, not {chosen} (--model)")
    context = cards[chosen].get("max_model_len")
    server = Server(
        endpoint,
        chosen,
        context if isinstance(context, int) else None,
        rng=random.Random(seed),
        ids=await _ids(endpoint, chosen),
    )
    ways = [
        server,
        replace(server, exact=False),
        replace(server, ids=()),
        replace(server, ids=(), exact=False),
        replace(server, ids=(), path=CHAT),
        replace(server, ids=(), path=CHAT, exact=False),
    ]
    said: dict[str, str] = {}
    for way in ways:
        refusal = await way.refusal()
        if refusal is None:
            return way
        said[way.path] = refusal
    told = "; ".join(f"{path}: {why}" for path, why in said.items())
    raise BenchError(f"{chosen} at {endpoint.url} writes no text, so there is none to time. {told}")


async def _cards(endpoint: Endpoint) -> Mapping[str, Mapping[str, Any]]:
    try:
        response = await endpoint.get("/v1/models")
    except httpx.HTTPError as error:
        raise BenchError(f"there is no server at {endpoint.url}: {error!r}") from error
    if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise BenchError(f"{endpoint.url} wants another key: name its variable with --key-env")
    try:
        return {str(card["id"]): card for card in response.json()["data"]}
    except (ValueError, KeyError, TypeError):
        raise BenchError(f"{endpoint.url}/v1/models is no OpenAI-compatible server's") from None


async def _ids(endpoint: Endpoint, model: str) -> tuple[int, ...]:
    """The token ids of some words; none where it does not tell."""
    asked = {"model": model, "prompt": WORDS, "add_special_tokens": False}
    told = await endpoint.told("/tokenize", asked)
    ids = told.get("tokens") if told else None
    good = isinstance(ids, list) and all(isinstance(one, int) for one in ids)
    return tuple(dict.fromkeys(ids)) if good and ids else ()


def _stated(response: httpx.Response) -> Usage | None:
    try:
        usage = usage_of(response.json()["usage"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return usage if usage.prompt and usage.completion else None


def _message(response: httpx.Response) -> str:
    try:
        told = response.json()
        error = told.get("error", told)
        return str(error.get("message") or error.get("detail") or error)[:300]
    except (ValueError, AttributeError):
        return f"{response.status_code} {response.text[:200]}".strip()

"""Probing: what a backend can do, found out by asking it, not by believing its version number.

Control plane: it runs once per backend, off every request's way. A question that a backend does
not answer leaves its ability unknown (None); only `/v1/models` must be there, since without it the
endpoint is no OpenAI-compatible server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from router.dialect import SCORED_AT
from router.fleet import Abilities
from router.steps import ScoreApi, Surface
from router.upstream import broken

SAMPLE = (
    "Tandem: 3 + 4 = 7, naïve café, 你好, 🚲\n\n\tdef f(x): return x**2"
    " 1234567 Привет שלום नमस्ते ความ  \\frac{a}{b} <think></think> <|im_end|> <|eot_id|> [INST]"
)
"""Text whose token ids tell tokenizers apart: digits, accents, scripts, an emoji, code, white
space, and special tokens of common families."""
GATE = "tandem_gate"
"""The `vllm_xargs` key that a gate in the engine listens to. `probe` makes it write the tokens of
`tandem_gate_force`, then the token that it stops requests on: no model does that by chance."""
FORCED = 8
"""Tokens that the gate is made to write: enough that no chance is left."""
COMPLETIONS = "/v1/completions"
DERENDER = "/v1/chat/completions/derender"
"""vLLM's, if it was started with --enable-scale-out."""
MANY = 1_000
"""More alternatives than any server returns: the refusal states the limit."""
_LIMIT = re.compile(r"max(?:imum)?\D{0,40}?(\d{1,9})(?!\d)")

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The backend at `url`; `head` is what it knows the gateway by."""

    client: httpx.AsyncClient
    url: str
    head: Mapping[str, str]

    async def get(self, path: str) -> httpx.Response:
        """What it answers. Raises `httpx.HTTPError`."""
        return await self.client.get(self.url + path, headers=self.head)

    async def post(self, path: str, body: Json) -> httpx.Response:
        """What it answers. Raises `httpx.HTTPError`."""
        return await self.client.post(self.url + path, json=body, headers=self.head)

    async def got(self, path: str) -> Json | None:
        """The object that it answers, None if it does not."""
        try:
            return _object(await self.get(path))
        except httpx.HTTPError:
            return None

    async def told(self, path: str, body: Json) -> Json | None:
        """The object that it answers to this one, None if it does not."""
        try:
            return _object(await self.post(path, body))
        except httpx.HTTPError:
            return None


async def probe(asked: Endpoint, served_as: str) -> Abilities:
    """The abilities of a backend. Raises `FaultError` if it cannot serve the model."""
    try:
        models = await asked.get("/v1/models")
        models.raise_for_status()
        cards = {str(card["id"]): card for card in orjson.loads(models.content)["data"]}
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise broken(f"/v1/models does not answer as it should: {error!r}", "no_models") from error
    if served_as not in cards:
        names = ", ".join(sorted(cards)) or "nothing"
        raise broken(f'it serves {names}, not "{served_as}"; set served_as', "not_served")
    version = await asked.got("/version")
    paths = _paths(await asked.got("/openapi.json"))
    tokens = await asked.told("/tokenize", {"model": served_as, "prompt": SAMPLE})
    ids = _ids(tokens)
    return Abilities(
        version=_text(version, "version"),
        surfaces=_surfaces(paths),
        served=tuple(sorted(cards)),
        context=_context(cards[served_as]),
        max_logprobs=await _max_logprobs(asked, served_as),
        token_ids=await _token_ids(asked, served_as, ids),
        tokenizer=None if ids is None else tuple(ids),
        derender=_derender(paths),
        salts=await _salts(asked, served_as),
        gate=await _gate(asked, served_as, ids),
        scores=_scores(paths),
    )


def _object(response: httpx.Response) -> Json | None:
    try:
        decoded = orjson.loads(response.content) if response.is_success else None
    except ValueError:
        return None
    return decoded if isinstance(decoded, dict) else None


def _context(card: Json) -> int | None:
    value = card.get("max_model_len")
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _text(stated: Json | None, name: str) -> str | None:
    value = stated.get(name) if stated else None
    return value if isinstance(value, str) else None


def _paths(openapi: Json | None) -> Json | None:
    """What it serves, by path; None where it does not say."""
    paths = openapi.get("paths") if openapi else None
    return paths if isinstance(paths, dict) else None


def _surfaces(paths: Json | None) -> frozenset[Surface] | None:
    if paths is None:
        return None
    return frozenset(surface for surface in Surface if f"/v1/{surface.value}" in paths)


def _scores(paths: Json | None) -> frozenset[ScoreApi] | None:
    if paths is None:
        return None
    return frozenset(api for api, path in SCORED_AT.items() if path in paths)


def _ids(stated: Json | None) -> list[int] | None:
    ids = stated.get("tokens") if stated else None
    good = isinstance(ids, list) and all(isinstance(number, int) for number in ids)
    return ids if good else None


def _derender(paths: Json | None) -> bool | None:
    return None if paths is None else DERENDER in paths


async def _max_logprobs(asked: Endpoint, model: str) -> int | None:
    """Asks for far too many; the refusal names the limit."""
    body = {"model": model, "prompt": "1", "max_tokens": 1, "logprobs": MANY}
    try:
        response = await asked.post(COMPLETIONS, body)
    except httpx.HTTPError:
        return None
    if response.is_success:
        return MANY
    if response.status_code != httpx.codes.BAD_REQUEST:
        return None
    stated = [int(number) for number in _LIMIT.findall(response.text.lower())]
    return next((number for number in stated if number < MANY), None)


async def _token_ids(asked: Endpoint, model: str, ids: list[int] | None) -> bool | None:
    if not ids:
        return None
    body = {"model": model, "prompt": ids, "max_tokens": 1, "return_token_ids": True}
    choice = _choice(await asked.told(COMPLETIONS, body))
    return None if choice is None else bool(choice.get("token_ids"))


async def _gate(asked: Endpoint, model: str, ids: list[int] | None) -> int | None:
    """The token that comes after the forced ones; None where they did not come as forced."""
    # The first may be one that begins every text, and no tokenizer ends the sample with an EOS.
    if not (force := (ids or [])[1 : 1 + FORCED]):
        return None
    body = {
        "model": model,
        "prompt": "1",
        "max_tokens": len(force) + 1,
        "ignore_eos": True,
        "return_token_ids": True,
        "vllm_xargs": {GATE: "probe", f"{GATE}_force": force},
    }
    choice = _choice(await asked.told(COMPLETIONS, body))
    match choice and choice.get("token_ids"):
        case [*written, int(reserved)] if written == force:
            return reserved
        case _:
            return None


async def _salts(asked: Endpoint, model: str) -> bool | None:
    """Whether it knows `cache_salt`: it takes a good one and refuses one that is empty."""
    taken = []
    for salt in ("probe", ""):
        body = {"model": model, "prompt": "1", "max_tokens": 1, "cache_salt": salt}
        try:
            status = (await asked.post(COMPLETIONS, body)).status_code
        except httpx.HTTPError:
            return None
        if status not in (httpx.codes.OK, httpx.codes.BAD_REQUEST):
            return None
        taken.append(status == httpx.codes.OK)
    return taken == [True, False]


def _choice(completion: Json | None) -> Json | None:
    choices = completion.get("choices") if completion else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else None

"""Probing: what a backend is found to be able to do, and what stays unknown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from router.faults import FaultError
from router.fleet import Abilities
from router.probe import FORCED, GATE, MANY, SAMPLE, Endpoint, probe
from router.steps import Surface
from tests.running import http
from tests.scripted import Backend, Call, Script, answers, hangs_up


@pytest.fixture
async def client(small: Backend) -> AsyncIterator[httpx.AsyncClient]:
    async with http(small.url) as it:
        yield it


class Asked:
    """Answers probes by path, as vLLM does where nothing is said, and keeps what was asked."""

    def __init__(self, backend: Backend, **scripts: Script) -> None:
        self._usual = backend.asked
        self._scripts = scripts
        self.bodies: list[dict[str, Any]] = []
        backend.asked = self

    async def __call__(self, call: Call) -> None:
        if call.method == "POST":
            self.bodies.append(call.json)
        name = call.path.rpartition("/")[2].partition(".")[0]
        await self._scripts.get(name, self._usual)(call)


async def test_all_that_vllm_tells(client: httpx.AsyncClient, small: Backend) -> None:
    asked = Asked(small)
    found = await probe(Endpoint(client, small.url, {}), "small")
    assert found == Abilities(
        version="0.32.0",
        surfaces=frozenset(Surface),
        served=("small",),
        context=4096,
        max_logprobs=20,
        token_ids=True,
        tokenizer=(1, 2, 3),
        derender=False,
        salts=True,
        gate=None,
        scores=frozenset({"score", "classify", "pooling"}),
    )
    assert [body["model"] for body in asked.bodies] == ["small"] * 6
    assert asked.bodies[0]["prompt"] == SAMPLE
    assert all(body["max_tokens"] <= FORCED + 1 for body in asked.bodies[1:])


@pytest.mark.parametrize(
    ("paths", "scores"),
    [
        (["/v1/score", "/score", "/classify", "/pooling"], {"score", "classify", "pooling"}),
        (["/pooling", "/v1/chat/completions"], {"pooling"}),
        (["/v1/chat/completions"], set()),
        (None, None),
    ],
)
async def test_how_a_reward_model_tells_scores(
    client: httpx.AsyncClient, small: Backend, paths: list[str] | None, scores: set[str] | None
) -> None:
    told: dict[str, Any] = {} if paths is None else {"paths": {path: {} for path in paths}}
    Asked(small, openapi=answers(told))
    assert (await probe(Endpoint(client, small.url, {}), "small")).scores == scores


async def test_tokenizers_are_told_apart(client: httpx.AsyncClient, small: Backend) -> None:
    one = await probe(Endpoint(client, small.url, {}), "small")
    Asked(small, tokenize=answers({"tokens": [1, 2, 4]}))
    other = await probe(Endpoint(client, small.url, {}), "small")
    assert one.tokenizer != other.tokenizer


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        ("Requested sample logprobs of 1000, which is greater than max allowed: 20", 20),
        ("logprobs must be at most 5 (maximum is 5)", 5),
        ("no such parameter", None),
    ],
)
async def test_the_limit_of_logprobs_stands_in_the_refusal(
    client: httpx.AsyncClient, small: Backend, said: str, limit: int | None
) -> None:
    async def completions(call: Call) -> None:
        if call.json.get("logprobs") == MANY:
            await call.whole(b'{"error": {"message": "%b"}}' % said.encode(), 400)
        else:
            await answers({"choices": []})(call)

    Asked(small, completions=completions)
    assert (await probe(Endpoint(client, small.url, {}), "small")).max_logprobs == limit


async def test_a_gate_in_the_engine(client: httpx.AsyncClient, small: Backend) -> None:
    sample = [1, *range(40, 60)]

    async def completions(call: Call) -> None:
        forced = call.json.get("vllm_xargs", {}).get(f"{GATE}_force", [])
        written = [*forced, 151] if call.json.get("ignore_eos") else []
        await answers({"choices": [{"token_ids": written}]})(call)

    asked = Asked(small, completions=completions, tokenize=answers({"tokens": sample}))
    found = await probe(Endpoint(client, small.url, {}), "small")
    assert (found.gate, found.max_logprobs) == (151, MANY)
    probed = asked.bodies[-1]
    assert probed["vllm_xargs"] == {GATE: "probe", f"{GATE}_force": sample[1 : FORCED + 1]}
    assert (probed["max_tokens"], probed["return_token_ids"]) == (FORCED + 1, True)


@pytest.mark.parametrize(
    "written",
    [[], [40, 41], [40, 41, 42], [40, 42, 151], [40, 41, 151, 151], [41, 42, 151], None, "40"],
)
async def test_what_a_model_writes_by_itself_is_no_gate(
    client: httpx.AsyncClient, small: Backend, written: object
) -> None:
    completions = answers({"choices": [{"token_ids": written, "stop_reason": 151}]})
    Asked(small, completions=completions, tokenize=answers({"tokens": [1, 40, 41, 42]}))
    assert (await probe(Endpoint(client, small.url, {}), "small")).gate is None


async def test_what_is_not_answered_stays_unknown(
    client: httpx.AsyncClient, small: Backend
) -> None:
    no = answers(b"not found", 404, "text/plain")
    Asked(small, version=no, openapi=hangs_up, tokenize=no, completions=hangs_up)
    found = await probe(Endpoint(client, small.url, {}), "small")
    assert found == Abilities(served=("small",), context=4096)


@pytest.mark.parametrize(
    ("models", "code"),
    [
        (answers(b"<html>", kind="text/html"), "no_models"),
        (answers({"data": [{"name": "x"}]}), "no_models"),
        (answers({"data": None}), "no_models"),
        (answers(b"{}", 500), "no_models"),
        (hangs_up, "no_models"),
        (answers({"data": []}), "not_served"),
        (answers({"data": [{"id": "other"}]}), "not_served"),
    ],
)
async def test_without_its_model_a_backend_is_none(
    client: httpx.AsyncClient, small: Backend, models: Script, code: str
) -> None:
    Asked(small, models=models)
    with pytest.raises(FaultError) as caught:
        await probe(Endpoint(client, small.url, {}), "small")
    assert caught.value.fault.code == code

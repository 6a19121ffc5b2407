"""Two models, one answer, as clients see it: the token policies on the embedded pair.

What OpenAI's API promises holds across hand-offs, whichever policy makes them. The servers are
killed in the last tests, and start again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx
import openai
import pytest
import pytest_asyncio

from app.admin import admin_app
from app.serve import listening
from deploy.pair.text import Codec
from tests.running import CHAT, OPERATORS, Running, config, eventually, http, running
from tests.soak.asking import POLICIES, policies, prompts, rendered
from tests.soak.hearing import Heard, Leaving, Said, ask, hear, session
from tests.soak.judging import NEAR, Judge
from tests.soak.servers import MODELS, Server, by_model, missing, started

EXPLAIN = {"x-tandem-explain": "1"}
QUESTIONS = prompts(4)
FORESEEN = [name for name in POLICIES if name != "random"]
"""Policies that give the same answer twice, where no token is drawn."""
DRAWN: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95}
LONG: dict[str, Any] = {"max_tokens": 300, "ignore_eos": True}
"""Long enough for a server to die in its middle."""
UNKNOWN = "\ufffd"
"""What stands for bytes that make no character."""
WELL = {"every": 0.05, "timeout": 5}

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("pair"),  # its servers are started once
    missing,
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers() -> AsyncIterator[list[Server]]:
    async with started("small", "large") as both:
        yield both


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(servers: list[Server]) -> AsyncIterator[Running]:
    tree = config(by_model(servers), policies=policies(), health=WELL, breaker={"wait": 0.05})
    async with running(tree) as it:
        yield it


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(gateway: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"{gateway.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(gateway: Running) -> AsyncIterator[aiohttp.ClientSession]:
    async with session(gateway.url) as it:
        yield it


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec(MODELS / "small" / "tokenizer.json")


def asked(policy: str, question: int = 0, **more: Any) -> dict[str, Any]:
    """A chat's body; greedy if nothing is said of it."""
    messages = [{"role": "user", "content": QUESTIONS[question]}]
    return {"model": policy, "messages": messages, "temperature": 0, "max_tokens": 64, **more}


def streamed(policy: str, question: int = 0, **more: Any) -> dict[str, Any]:
    """The same, streamed, with usage at its end."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    return asked(policy, question, **options, **more)


def seams(said: Said) -> list[int]:
    """Where the writer changes: the numbers of the first tokens after."""
    writers = [writer for writer, _ in said.tokens]
    return [n for n in range(1, len(writers)) if writers[n] != writers[n - 1]]


# ------------------------------------------------------------------------- an ordinary answer


@pytest.mark.parametrize("policy", POLICIES)
async def test_an_answer_has_two_writers(
    client: aiohttp.ClientSession, servers: list[Server], judge: Judge, policy: str
) -> None:
    """Each token is what its writer, and nobody else, would write there."""
    (prompt,) = await rendered(servers[0], QUESTIONS[:1])
    heard = await ask(client, asked(policy))
    said = heard.choice(0)
    assert seams(said)
    assert {writer for writer, _ in said.tokens} == {"small", "large"}
    assert judge.wrong(prompt, said) is None
    assert said.text == judge.text(said.ids)
    assert heard.reason.startswith("in_engine; ")


@pytest.mark.parametrize("policy", FORESEEN)
async def test_a_stream_says_the_same(client: aiohttp.ClientSession, policy: str) -> None:
    whole, stream = await ask(client, asked(policy)), await ask(client, streamed(policy))
    assert stream.choice(0) == whole.choice(0)
    assert stream.complete
    assert stream.usage is not None
    assert whole.usage is not None
    for counted in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert stream.usage[counted] == whole.usage[counted]


@pytest.mark.parametrize("question", range(len(QUESTIONS)))
async def test_optimism_changes_no_token(client: aiohttp.ClientSession, question: int) -> None:
    careful = await ask(client, asked("gate", question, max_tokens=200))
    optimistic = await ask(client, asked("optimistic", question, max_tokens=200))
    assert optimistic.choices == careful.choices


async def test_what_the_official_client_reads(api: openai.AsyncOpenAI) -> None:
    raw = await api.chat.completions.with_raw_response.create(**asked("gate"))
    chat = raw.parse()
    assert chat.usage is not None
    assert chat.model == "gate"
    by_model = dict(part.split("=") for part in raw.headers["x-tandem-models"].split(", "))
    assert set(by_model) == {"small", "large"}
    assert sum(map(int, by_model.values())) == chat.usage.completion_tokens
    stream = await api.chat.completions.create(**streamed("gate"))
    chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert [delta.role for delta in deltas if delta.role] == ["assistant"]
    assert "".join(d.content or "" for d in deltas) == chat.choices[0].message.content
    ends = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert [end for end in ends if end] == [chat.choices[0].finish_reason]
    (usage,) = [chunk.usage for chunk in chunks if chunk.usage]
    assert usage.prompt_tokens == chat.usage.prompt_tokens
    assert usage.completion_tokens == chat.usage.completion_tokens
    assert usage.model_extra is not None
    assert usage.model_extra["tandem"]["models"] == {m: int(n) for m, n in by_model.items()}
    silent = await api.chat.completions.create(**asked("gate", stream=True))
    assert not [chunk async for chunk in silent if chunk.usage]


async def test_the_prompt_is_counted_once(api: openai.AsyncOpenAI, servers: list[Server]) -> None:
    (prompt,) = await rendered(servers[0], QUESTIONS[:1])
    chat = await api.chat.completions.create(**asked("random"))
    assert chat.usage is not None
    assert chat.usage.prompt_tokens == len(prompt)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("policy", ["gate", "optimistic", "ead"])
async def test_choices_side_by_side(
    client: aiohttp.ClientSession, policy: str, stream: bool
) -> None:
    body = streamed(policy, n=2) if stream else asked(policy, n=2)
    alone, both = await ask(client, asked(policy)), await ask(client, body)
    assert both.choices == {0: alone.choice(0), 1: alone.choice(0)}
    assert both.usage is not None
    assert both.usage["completion_tokens"] == 2 * len(alone.choice(0).ids)


async def test_choices_that_are_drawn_differ(api: openai.AsyncOpenAI) -> None:
    chat = await api.chat.completions.create(**asked("gate", n=3, seed=5, temperature=1.5))
    assert len({choice.message.content for choice in chat.choices}) == 3
    assert [choice.index for choice in chat.choices] == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("policy", FORESEEN)
async def test_the_same_seed_draws_the_same(client: aiohttp.ClientSession, policy: str) -> None:
    first, second, other = [
        (await ask(client, asked(policy, seed=seed, **DRAWN))).choice(0) for seed in (7, 7, 8)
    ]
    assert first == second
    assert first != other
    assert seams(first)


@pytest.mark.slow
@pytest.mark.parametrize("policy", FORESEEN)
async def test_no_answer_is_longer_than_asked(client: aiohttp.ClientSession, policy: str) -> None:
    whole = (await ask(client, asked(policy, max_tokens=24))).choice(0)
    for most in range(1, 24):
        body = streamed(policy, max_tokens=most) if most % 2 else asked(policy, max_tokens=most)
        said = (await ask(client, body)).choice(0)
        assert said.tokens == whole.tokens[:most]
        assert said.finish == "length"
        assert whole.text.startswith(said.text)


# ------------------------------------------------------------------------------ at the seams


@pytest.mark.parametrize("policy", FORESEEN)
@pytest.mark.parametrize("keeps", [False, True])
async def test_a_stop_string_that_two_models_write(
    client: aiohttp.ClientSession, codec: Codec, policy: str, keeps: bool
) -> None:
    whole = (await ask(client, asked(policy))).choice(0)
    tried = 0
    for seam in seams(whole):
        stop = codec.decode(whole.ids[seam - 1 : seam + 1])
        if (at := whole.text.find(stop)) != len(codec.decode(whole.ids[: seam - 1])):
            continue  # it stands somewhere before, too
        for body in (asked, streamed):
            more = {"include_stop_str_in_output": True} if keeps else {}
            said = (await ask(client, body(policy, stop=[stop, "never"], **more))).choice(0)
            assert said.text == whole.text[: at + len(stop) * keeps]
            assert said.finish == "stop"
            assert said.tokens == whole.tokens[: seam + 1]
        if (tried := tried + 1) == 3:
            break
    assert tried


@pytest.mark.parametrize("policy", POLICIES)
async def test_logprobs_are_the_writers(
    api: openai.AsyncOpenAI, servers: list[Server], judge: Judge, policy: str
) -> None:
    (prompt,) = await rendered(servers[0], QUESTIONS[:1])
    chat = await api.chat.completions.create(
        **asked(policy, logprobs=True, top_logprobs=3), extra_headers=EXPLAIN
    )
    assert chat.choices[0].logprobs is not None
    told = chat.choices[0].logprobs.content
    assert told is not None
    assert "".join(token.token for token in told) == chat.choices[0].message.content
    assert all(len(token.top_logprobs) == 3 for token in told)
    assert chat.model_extra is not None
    written = chat.model_extra["tandem"]["choices"][0]["tokens"]
    said = Said(tokens=[(token["model"], token["id"]) for token in written])
    assert seams(said)
    assert [token.logprob for token in told] == pytest.approx(
        judge.logprobs(prompt, said), abs=NEAR
    )


async def test_logprobs_are_told_only_if_asked(client: aiohttp.ClientSession) -> None:
    async with client.post(CHAT, json=asked("optimistic")) as answer:
        assert (await answer.json())["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("policy", FORESEEN)
async def test_a_completion(api: openai.AsyncOpenAI, policy: str) -> None:
    body: dict[str, Any] = {
        "model": policy, "prompt": QUESTIONS[1], "max_tokens": 40, "temperature": 0, "logprobs": 2,
    }  # fmt: skip
    whole = await api.completions.create(**body)
    choice = whole.choices[0]
    assert whole.usage is not None
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert choice.logprobs.text_offset is not None
    assert "".join(choice.logprobs.tokens) == choice.text
    assert len(choice.logprobs.tokens) == whole.usage.completion_tokens
    pieces = [piece async for piece in await api.completions.create(**body, stream=True)]
    assert "".join(piece.choices[0].text for piece in pieces) == choice.text
    told = [piece.choices[0].logprobs for piece in pieces]
    offsets = [offset for part in told if part for offset in part.text_offset or ()]
    assert offsets == choice.logprobs.text_offset


@pytest.mark.parametrize("seed", range(2))
async def test_characters_that_two_models_write(
    client: aiohttp.ClientSession, codec: Codec, seed: int
) -> None:
    """Only the bytes of two characters are allowed, and drawn: whole ones, halves, and seams.

    How many marks stand for bytes that make no character is left open.
    """
    bytes_of = {byte for word in ("é", "🚲") for byte in codec.encode(word)}
    assert len(bytes_of) == 6
    drawn: dict[str, Any] = {
        "temperature": 2.0,
        "seed": seed,
        "allowed_token_ids": sorted(bytes_of),
    }
    for body in (asked, streamed):
        said = (await ask(client, body("random", max_tokens=80, **drawn))).choice(0)
        assert seams(said)
        assert said.text.replace(UNKNOWN, "") == codec.decode(said.ids).replace(UNKNOWN, "")
        assert set(said.text) - {UNKNOWN}, "not one whole character in 80 bytes"


# -------------------------------------------------------------------- what only one model can do


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
FORM = {"type": "json_object"}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"response_format": FORM}, "response_format"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
    ],
)
async def test_one_model_answers_and_says_why(
    gateway: Running, more: Mapping[str, Any], why: str
) -> None:
    for policy in ("gate", "ead"):
        answer = await gateway.post(**asked(policy, max_tokens=8, **more))
        assert answer.status_code in (200, 400), answer.text  # the pair has no grammars
        assert answer.headers["x-tandem-reason"].startswith(f"one_model; {why}")
        assert "small" not in answer.headers.get("x-tandem-models", "")


# --------------------------------------------------------------------------- clients and swaps


@pytest.mark.parametrize("policy", ["random", "optimistic", "sway"])
async def test_a_client_that_leaves_ends_every_call(
    gateway: Running, client: aiohttp.ClientSession, servers: list[Server], policy: str
) -> None:
    heard = await asyncio.gather(
        *(ask(client, streamed(policy, n=2, **LONG), Leaving(events)) for events in range(1, 13)),
    )
    assert all(one.left for one in heard)
    await nothing_left(gateway, servers)


async def nothing_left(gateway: Running, servers: list[Server]) -> None:
    """No guard is held, and no engine at work."""
    await eventually(lambda: gateway.in_flight() == 0)
    for server in servers:
        while not await server.idle():
            pass


@asynccontextmanager
async def admin(running: Running) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway's admin API."""
    app: Any = admin_app(running.rooms.revisions, OPERATORS)
    told = {"authorization": "Bearer token", "if-match": "*"}
    async with listening(app) as url, http(url, **told) as operator:
        yield operator


async def test_a_swap_under_load_mixes_no_answer(
    gateway: Running, client: aiohttp.ClientSession
) -> None:
    """`ead` becomes a token gate and back; each answer is written as it was begun."""
    two = [policies()["ead"], policies()["gate"]]
    short = {"max_tokens": 32}
    wanted = [(await ask(client, asked(name, **short))).choice(0) for name in ("ead", "gate")]
    assert wanted[0] != wanted[1]
    first = gateway.rooms.revisions.active.number
    swapping, done = True, 0
    wrong: list[Heard] = []

    async def asking() -> None:
        nonlocal done
        while swapping:
            heard = await ask(client, streamed("ead", **short))
            if heard.choice(0) != wanted[(heard.revision - first) % 2]:
                wrong.append(heard)
            done += 1

    async with admin(gateway) as operator:
        crowd = [asyncio.create_task(asking()) for _ in range(6)]
        for number in range(1, 7):
            seen = done
            answer = await operator.put("/admin/policies/ead", json=two[number % 2])
            assert answer.status_code == 200, answer.text
            await eventually(lambda seen=seen: done >= seen + 6)  # type: ignore[misc]
        swapping = False
        await asyncio.gather(*crowd)
    assert wrong == []
    assert gateway.in_flight() == 0


# ------------------------------------------------------------------------------ servers that die


async def dying(
    client: aiohttp.ClientSession, servers: list[Server], policy: str, *models: str
) -> Heard:
    """An answer in whose middle these models' servers are killed."""
    heard = Heard()
    answer = asyncio.create_task(hear(client, streamed(policy, **LONG), heard))
    await eventually(lambda: len(heard.choice(0).ids) > 10)
    await asyncio.gather(*(server.kill() for server in servers if server.model in models))
    assert not heard.complete
    await answer
    return heard


@pytest_asyncio.fixture(loop_scope="module")
async def mortal(gateway: Running, servers: list[Server]) -> AsyncIterator[list[Server]]:
    """The servers, which are well again afterwards."""
    yield servers
    await asyncio.gather(*(server.start() for server in servers if not server.up))
    backends = [gateway.backend(model) for model in ("small", "large")]
    await eventually(lambda: all(backend.healthy and backend.probed for backend in backends))
    await nothing_left(gateway, servers)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "dead", "left"),
    [
        ("random", "large", "small"),
        ("optimistic", "large", "small"),
        ("ead", "large", "small"),
        ("ead", "small", "large"),
        ("random", "small", "large"),
    ],
)
async def test_the_other_model_finishes(
    client: aiohttp.ClientSession,
    mortal: list[Server],
    judge: Judge,
    policy: str,
    dead: str,
    left: str,
) -> None:
    (prompt,) = await rendered(mortal[0], QUESTIONS[:1])
    heard = await dying(client, mortal, policy, dead)
    said = heard.choice(0)
    assert heard.complete
    assert heard.reason.startswith(f"{dead}_failed; ")
    assert len(said.ids) == LONG["max_tokens"]
    assert {writer for writer, _ in said.tokens[-20:]} == {left}
    assert judge.wrong(prompt, said) is None


async def test_without_both_the_answer_ends_honestly(
    client: aiohttp.ClientSession, mortal: list[Server]
) -> None:
    heard = await dying(client, mortal, "random", "small", "large")
    assert heard.error is not None
    assert not heard.complete
    assert heard.choice(0).finish is None
    refused = await ask(client, asked("random"))
    assert refused.status in (502, 503)
    assert refused.error is not None

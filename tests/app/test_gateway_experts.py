"""Experts through the whole gateway: who answers, why, and what a swap of artifacts changes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from router.faults import Blame
from tests.app.test_swap import admin
from tests.conftest import Started
from tests.policies.composition.make_artifacts import (
    LEXICAL,
    REMOTE,
    Letters,
    local,
    prompts,
    write,
)
from tests.running import Config, Running, config, model
from tests.scripted import Backend, Call, Script, answers, scripted, stalls

SUM, CODE, CHAT = (several[0] for several in prompts().values())
DEAD = answers({"error": {"message": "dead"}}, 500)


def tree(small: Backend, large: Backend, **settings: Any) -> Config:
    """A gateway whose `auto` chooses; `small` chats, too, if nobody else is named for it."""
    experts = {"other": "small"}
    policy = {"use": "experts", "artifact": str(LEXICAL), "experts": experts, **settings}
    return config({"small": small, "large": large}, policies={"auto": policy}, default="auto")


async def asked(running: Running, *said: str, **more: Any) -> Any:
    roles = ("user", "assistant")
    messages = [{"role": roles[at % 2], "content": text} for at, text in enumerate(said)]
    return await running.post(model="auto", messages=messages, **more)


def told(answer: Any) -> tuple[str, str]:
    """The reason's word, and who answered."""
    reason = answer.headers["x-tandem-reason"].split(";")[0]
    return reason, answer.headers["x-tandem-models"].split("=")[0]


def embedder(*lies: Script) -> Script:
    """Embeds as the artifact was trained with, after these answers."""
    left = [*lies]

    async def script(call: Call) -> None:
        if left:
            await left.pop(0)(call)
            return
        assert call.path == "/v1/embeddings"
        vectors = Letters().embed(call.json["input"]).tolist()
        data = [{"index": at, "embedding": vector} for at, vector in enumerate(vectors)]
        await answers({"data": data})(call)

    return script


# --------------------------------------------------------------------------------------- serving


@pytest.mark.parametrize("stream", [True, False])
async def test_each_prompt_is_answered_by_its_expert(
    gateway: Started, small: Backend, large: Backend, stream: bool
) -> None:
    running = await gateway(tree(small, large))
    for text, expert in ((SUM, "small"), (CODE, "large"), (CHAT, "small")):
        answer = await asked(running, text, stream=stream)
        assert answer.status_code == 200
        assert told(answer) == ("expert", expert)
        assert f'"model": "{expert}"'.encode() in answer.content
    first = await asked(running, SUM)
    assert first.headers["x-tandem-policy"] == "auto"
    assert first.headers["x-tandem-reason"].startswith("expert; sums 1.00; expects small 0.9")
    counts = await running.metrics()
    assert sum(counts["tandem_reasons_total"].values()) == 4


async def test_a_dead_expert_is_replaced_and_said(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(tree(small, large))
    small.plays(DEAD)
    answer = await asked(running, SUM)
    assert told(answer) == ("expert_failed", "large")
    ended = await running.ended()
    assert [each.blame for each in ended.attempts] == [Blame.BACKEND, None]


async def test_a_conversation_stays_with_its_expert(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(tree(small, large, sticky=1.0))
    answer = await asked(running, SUM, "7, " * 4000, CODE)
    assert told(answer) == ("stayed", "small")
    assert told(await asked(running, SUM, "7", CODE)) == ("expert", "large")


async def test_the_other_apis_are_read_too(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(tree(small, large))
    for path, body in (
        ("/v1/completions", {"prompt": CODE}),
        ("/v1/responses", {"input": CODE}),
        ("/v1/messages", {"messages": [{"role": "user", "content": CODE}], "max_tokens": 9}),
    ):
        answer = await running.post(path, model="auto", **body)
        assert told(answer) == ("expert", "large"), path
    small.plays(answers({"data": []}))
    answer = await running.post("/v1/embeddings", model="auto", input=CODE)
    assert told(answer) == ("unread", "large")


async def test_with_the_embedder_that_ships(
    gateway: Started, small: Backend, large: Backend, tmp_path: Path
) -> None:
    folder = write(tmp_path / "local", local())
    running = await gateway(tree(small, large, artifact=str(folder)))
    assert told(await asked(running, SUM)) == ("expert", "small")
    assert told(await asked(running, CODE)) == ("expert", "large")


# ---------------------------------------------------------------------------- a remote embedder


async def test_a_backend_embeds_a_prompt_once(
    gateway: Started, small: Backend, large: Backend
) -> None:
    async with scripted("vectors") as vectors:
        vectors.plays(embedder())
        running = await gateway(remote(small, large, vectors))
        for _ in range(3):
            assert told(await asked(running, CODE)) == ("expert", "large")
        assert len(vectors.calls) == 1
        assert vectors.calls[0].json["model"] == "vectors"
        assert vectors.calls[0].json["input"] == [CODE]


@pytest.mark.parametrize(
    "lie",
    [DEAD, answers({"data": [{"embedding": [1.0, 2.0]}]}), answers(b"<html>"), stalls()],
    ids=["dead", "short", "no json", "silent"],
)
async def test_an_embedder_that_fails_costs_the_choice_and_not_the_answer(
    gateway: Started, small: Backend, large: Backend, lie: Script
) -> None:
    async with scripted("vectors") as vectors:
        vectors.plays(embedder(lie))
        running = await gateway(remote(small, large, vectors, limits={"deadline": 2.0}))
        answer = await asked(running, CODE)
        assert told(answer) == ("unread", "large")
        assert answer.headers["x-tandem-reason"].startswith("unread; the embedder failed: ")
        assert told(await asked(running, CODE)) == ("expert", "large")
        assert running.in_flight() == 0


def remote(small: Backend, large: Backend, vectors: Backend, **sections: Any) -> Config:
    policy = {
        "use": "experts",
        "artifact": str(REMOTE),
        "experts": {"other": "small"},
        "embedder": "vectors",
    }
    served = {"small": small, "large": large, "vectors": vectors}
    return config(served, policies={"auto": policy}, default="auto", **sections)


# ------------------------------------------------------------------------------------------ swaps


async def test_artifacts_are_swapped_while_requests_run(
    gateway: Started, small: Backend, large: Backend, tmp_path: Path
) -> None:
    """A budget, another artifact, and a damaged one, which changes nothing."""
    running = await gateway(tree(small, large))
    other = tmp_path / "other"
    shutil.copytree(LEXICAL, other)
    damaged = tmp_path / "damaged"
    shutil.copytree(LEXICAL, damaged)
    (damaged / "grams.json").write_text("[]")
    async with admin(running) as operator:
        assert told(await asked(running, CODE)) == ("expert", "large")
        cheap = tree(small, large, artifact=str(other), budget={"params_b": 1.0})
        answer = await operator.put("/admin/config", json=cheap)
        assert answer.status_code == 200, answer.text
        assert told(await asked(running, CODE)) == ("expert", "small")
        refused = await operator.put(
            "/admin/config", json=tree(small, large, artifact=str(damaged))
        )
        assert refused.status_code == 422
        assert "hold different numbers of n-grams" in refused.text
        assert '"policies.auto.artifact"' in refused.text.replace(" ", "")
        unknown = {**tree(small, large), "models": {"small": model(small), "big": model(large)}}
        refused = await operator.put("/admin/config", json=unknown)
        assert refused.status_code == 422
        assert "the artifact's expert large is no model here" in refused.text
        assert told(await asked(running, CODE)) == ("expert", "small")
        assert running.rooms.revisions.active.number == 2

"""Learning from traffic, end to end: a gateway logs, hears feedback, and runs a shadow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

import app.rooms
import tests.running
from app.admin import admin_app
from app.decisions import hashed
from app.keys import new_key
from app.serve import listening
from policies import TABLE
from router.config import Form
from router.fleet import Fleet
from router.observe import Kept, Shadowed
from router.phrases import route
from router.steps import Request, Steps
from tests.conftest import Started
from tests.running import CHAT, MESSAGES, OPERATORS, Config, Running, config, eventually, http
from tests.scripted import DONE, Backend, answers, chunk, chunks, pauses, usage_event

EVEN = {"use": "split", "weights": {"small": 1, "large": 1}, "sticky": False}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


def learning(small: Backend, large: Backend, file: Path | None, **sections: Any) -> Config:
    sections = {"policies": {"auto": EVEN}, "baseline": "large", **sections}
    if file is not None:
        sections["decisions"] = {"file": str(file)}
    tree = config({"small": small, "large": large}, **sections)
    tree["models"]["large"]["price"] = {"input": 10.0, "output": 20.0}
    return tree


@asynccontextmanager
async def admin(running: Running) -> AsyncIterator[httpx.AsyncClient]:
    served: Any = admin_app(running.rooms.revisions, OPERATORS, running.rooms.decisions)
    async with listening(served) as url, http(url, authorization="Bearer token") as client:
        yield client


async def read(file: Path, number: int) -> list[dict[str, Any]]:
    """The lines, as soon as there are so many."""
    await eventually(lambda: text(file).count("\n") >= number)
    return [json.loads(line) for line in text(file).split("\n")[:-1]]


def text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


async def test_what_was_served_is_logged_scored_and_read_back(
    gateway: Started, small: Backend, large: Backend, file: Path
) -> None:
    running = await gateway(learning(small, large, file))
    served = {}
    for number in range(20):
        answer = await running.post(model="auto", stream=number % 2 == 1)
        served[answer.headers["x-request-id"]] = answer.headers["x-tandem-models"].split("=")[0]
    assert len(small.calls) + len(large.calls) == 20
    await running.post(model="small")
    async with admin(running) as operator:
        scores = [{"id": name, "score": int(model == "large")} for name, model in served.items()]
        told = await operator.post("/admin/feedback", json=scores)
        assert (told.status_code, told.json()) == (202, {"taken": 20})
        assert (await operator.post("/admin/feedback", json=scores[0])).json() == {"taken": 1}

    lines = await read(file, 41)
    decisions = {line["id"]: line for line in lines if "id" in line}
    feedback = {line["feedback"]: line["score"] for line in lines if "feedback" in line}
    assert {name: line["arm"] for name, line in decisions.items()} == served
    assert feedback == {name: int(model == "large") for name, model in served.items()}
    for line in decisions.values():
        assert line["chances"] == {"small": 0.5, "large": 0.5}
        assert line["body"]["messages"] == MESSAGES
        assert line["served"] == {line["arm"]: 2}
        price = 10 if line["arm"] == "large" else 1
        assert line["cost"] == pytest.approx((10 * price + 2 * 2 * price) / 1e6)
        assert line["baseline"] == pytest.approx((10 * 10 + 2 * 20) / 1e6)
    # The loop hears of lines after they are written.
    await eventually(lambda: sum(s.number for s in running.seen if isinstance(s, Kept)) == 41)
    seen = await running.metrics()
    assert seen["tandem_decisions_total"] == {("logged",): 20}
    assert seen["tandem_feedback_total"] == {("logged",): 21}


async def test_a_shadow_is_compared_and_no_backend_hears_of_it(
    gateway: Started, small: Backend, large: Backend
) -> None:
    policies = {"auto": {"use": "direct", "model": "small"}, "next": EVEN}
    running = await gateway(learning(small, large, None, policies=policies, shadow="next"))
    for _ in range(12):
        await running.post(model="auto")
    await running.post(model="small")  # a model by its own name
    await running.post(model="next")  # the shadow itself
    await running.saw(Shadowed, 12)
    await running.ended(14)
    shadowed = [seen for seen in running.seen if isinstance(seen, Shadowed)]
    assert len(shadowed) == 12
    assert len(small.calls) + len(large.calls) == 14
    agreed = sum(seen.agreed for seen in shadowed)
    seen = await running.metrics()
    counted = seen["tandem_shadow_decisions_total"]
    assert counted.get(("true", "auto", "next"), 0) == agreed
    assert counted.get(("false", "auto", "next"), 0) == 12 - agreed
    one = (10 * 1 + 2 * 2) / 1e6
    spent = seen["tandem_shadow_served_usd_total"]["auto", "next"]
    foretold = seen["tandem_shadow_cost_usd_total"]["auto", "next"]
    assert spent == pytest.approx(12 * one)
    assert foretold == pytest.approx((agreed + (12 - agreed) * 10) * one)
    assert "tandem_decisions_total" not in seen


async def test_all_on_the_baseline_costs_the_baseline(
    gateway: Started, small: Backend, large: Backend, file: Path
) -> None:
    """What a shadow would have spent, the log and the bill are one account."""
    running = await gateway(learning(small, large, file, shadow="large"))
    for number in range(10):
        await running.post(model="auto", stream=number % 2 == 0)
    lines = await read(file, 10)
    await running.saw(Shadowed, 10)
    seen = await running.metrics()
    foretold = seen["tandem_shadow_cost_usd_total"]["auto", "large"]
    spent = seen["tandem_shadow_served_usd_total"]["auto", "large"]
    assert foretold == pytest.approx(seen["tandem_baseline_usd_total"]["auto",])
    assert foretold == pytest.approx(sum(line["baseline"] for line in lines))
    assert spent == pytest.approx(sum(seen["tandem_cost_usd_total"].values()))
    assert spent == pytest.approx(sum(line["cost"] for line in lines))


async def test_a_request_under_way_keeps_its_shadow_through_a_swap(
    gateway: Started, small: Backend, large: Backend, file: Path
) -> None:
    policies = {"auto": {"use": "direct", "model": "small"}}
    tree = learning(small, large, file, policies=policies, shadow="small")
    running = await gateway(tree)
    go_on = asyncio.Event()
    small.plays(pauses(go_on, chunk({"content": "a"}), chunks(usage_event(), DONE)))
    asking = asyncio.create_task(running.streamed(model="auto"))
    await eventually(lambda: len(small.calls) == 1)
    other = {**tree, "shadow": "large", "policies": {"auto": {"use": "direct", "model": "large"}}}
    await running.rooms.revisions.replace(json.dumps(other), Form.JSON, None)
    await running.post(model="auto")
    go_on.set()
    await asking
    new, old = await running.saw(Shadowed), await running.saw(Shadowed, 2)
    assert (new.shadow, new.arm, new.shadow_arm) == ("large", "large", "large")
    assert (old.shadow, old.arm, old.shadow_arm) == ("small", "small", "small")
    lines = await read(file, 2)
    assert [(line["revision"], line["arm"]) for line in lines] == [(2, "large"), (1, "small")]


@dataclass(frozen=True)
class WhoIsAlive:
    """The small model while it has a backend, else the large one."""

    reasons: ClassVar[tuple[str, ...]] = ()

    def route(self, request: Request, fleet: Fleet) -> Steps:
        return (yield from route("small" if fleet.alive("small") else "large", request))


async def test_a_decision_is_found_under_the_picture_that_the_request_had(
    gateway: Started, small: Backend, large: Backend, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {**TABLE, "alive": WhoIsAlive}
    for module in (app.rooms, tests.running):
        monkeypatch.setattr(module, "TABLE", kinds)
    running = await gateway(learning(small, large, file, policies={"auto": {"use": "alive"}}))
    go_on = asyncio.Event()
    small.plays(pauses(go_on, chunk({"content": "a"}), chunks(usage_event(), DONE)))
    asking = asyncio.create_task(running.streamed(model="auto"))
    await eventually(lambda: len(small.calls) == 1)
    running.backend("small").healthy = False
    await eventually(lambda: not running.rooms.revisions.runtime.snapshot().alive("small"))
    await running.post(model="auto")
    go_on.set()
    await asking
    assert [line["arm"] for line in await read(file, 2)] == ["large", "small"]


async def test_a_client_that_leaves_is_logged_as_gone(
    gateway: Started, small: Backend, large: Backend, file: Path
) -> None:
    running = await gateway(learning(small, large, file, policies={"auto": EVEN}))
    for backend in (small, large):
        backend.plays(pauses(asyncio.Event(), chunk({"content": "a"}), chunks(DONE)))
    body = {"model": "auto", "messages": MESSAGES, "stream": True}
    async with running.client.stream("POST", CHAT, json=body) as answer:
        assert answer.status_code == 200
    (line,) = await read(file, 1)
    assert (line["status"], line["blame"]) == (499, "gone")


async def test_a_swap_that_changes_the_log_is_refused(
    gateway: Started, small: Backend, large: Backend, file: Path
) -> None:
    tree = learning(small, large, file)
    running = await gateway(tree)
    del tree["decisions"]
    async with admin(running) as operator:
        answer = await operator.put("/admin/config", json=tree, headers={"if-match": "*"})
    assert answer.status_code == 422
    assert answer.json()["error"]["problems"][0]["path"] == "decisions"


async def test_with_neither_configured_nothing_is_kept_and_no_thread_runs(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(learning(small, large, None))
    await running.post(model="auto")
    await running.ended()
    assert running.rooms.decisions._thread is None
    assert not running.rooms.revisions.runtime.learns


# --------------------------------------------------------------------------------------- feedback


async def test_feedback_without_a_log_is_refused(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(learning(small, large, None, shadow="small"))
    async with admin(running) as operator:
        answer = await operator.post("/admin/feedback", json={"id": "req-1", "score": 1})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (409, "no_decisions")
    assert "`decisions`" in error["message"]


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"json": {"id": "req-1", "score": 1}}, 422, "invalid_feedback"),
        ({"json": [{"id": f"req-{0:024x}", "score": 2}]}, 422, "invalid_feedback"),
        ({"content": b"id: req-1", "headers": {"content-type": "application/yaml"}}, 415,
         "unknown_notation"),
        ({"content": b"[" + b" " * 300_000 + b"]", "headers": {"content-type": "application/json"}},
         413, "too_large"),
        ({"json": {}, "headers": {"authorization": "Bearer wrong"}}, 401, "unauthorised"),
    ],
)  # fmt: skip
async def test_feedback_is_read_strictly_and_from_operators_only(  # noqa: PLR0917  # fixtures
    gateway: Started,
    small: Backend,
    large: Backend,
    file: Path,
    sent: dict[str, Any],
    status: int,
    code: str,
) -> None:
    running = await gateway(learning(small, large, file))
    async with admin(running) as operator:
        answer = await operator.post("/admin/feedback", **sent)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert text(file) == ""


async def test_feedback_that_finds_no_room_is_told_to_come_back(
    gateway: Started, small: Backend, large: Backend, file: Path
) -> None:
    running = await gateway(learning(small, large, file))
    running.rooms.decisions._capacity = 1
    score = {"id": f"req-{0:024x}", "score": 1}
    async with admin(running) as operator:
        answer = await operator.post("/admin/feedback", json=[score, score])
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
    assert not [seen for seen in running.seen if isinstance(seen, Kept)]


# ---------------------------------------------------------------------------------------- secrets


async def test_no_key_and_no_session_is_in_the_log(
    gateway: Started,
    small: Backend,
    large: Backend,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SMALL_KEY", "canary-backend-key")
    secret, entry = new_key("alice")
    keys = tmp_path / "keys.yaml"
    keys.write_text("keys:\n" + entry.yaml())
    tree = learning(small, large, file, keys={"file": str(keys)}, log={"file": str(tmp_path / "l")})
    tree["models"]["small"]["api_key_env"] = "SMALL_KEY"
    running = await gateway(tree)
    small.plays(answers({"error": {"message": "bad key canary-backend-key"}}, 401))
    for _ in range(8):
        await running.client.post(
            CHAT,
            json={"model": "auto", "messages": MESSAGES, "user": "canary-user"},
            headers={"authorization": f"Bearer {secret}", "x-session-id": "canary-session"},
        )
    lines = await read(file, 8)
    said = text(file)
    for canary in (secret, secret[:12], entry.sha256, "canary", "alice"):
        assert canary not in said
    assert {line["session"] for line in lines} == {hashed("canary-session")}
    assert {line["body"]["user"] for line in lines} == {hashed("canary-user")}
    assert MESSAGES[0]["content"] in said
    assert MESSAGES[0]["content"] not in text(tmp_path / "l")

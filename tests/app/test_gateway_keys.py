"""Keys end to end, and secrets that must not be found anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.keys import new_key
from router.observe import Refused
from tests.conftest import Started
from tests.running import CHAT, Config, config, eventually
from tests.scripted import Backend, answers, chunk, streams

CANARY_PROMPT = "canary-prompt-5e1f"
CANARY_ANSWER = "canary-answer-77aa"
CANARY_WRONG_KEY = "tdm-canary-wrong-key-1234567890"


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A file of keys, and the secrets by name."""
    limits: dict[str, dict[str, Any]] = {
        "alice": {},
        "bob": {"models": ["small"]},
        "slow": {"requests_per_minute": 2},
        "wordy": {"tokens_per_minute": 5},
        "poor": {"spend_usd": 0.01},
        "gone": {"disabled": True},
    }
    secrets, entries = {}, []
    for name, limit in limits.items():
        secrets[name], entry = new_key(name)
        entries.append({"name": name, "sha256": entry.sha256, **limit})
    file = tmp_path / "keys.yaml"
    file.write_text(json.dumps({"keys": entries}))
    return file, secrets


def locked(file: Path, small: Backend, large: Backend, **sections: Any) -> Config:
    tree = config({"small": small, "large": large}, keys={"file": str(file)}, **sections)
    tree["models"]["small"]["price"] = {"input": 1000, "output": 2000}  # 0.014 USD an answer
    return tree


async def test_keys_let_in_and_turn_away(
    gateway: Started, small: Backend, large: Backend, keys: tuple[Path, dict[str, str]]
) -> None:
    file, secrets = keys
    running = await gateway(locked(file, small, large))

    async def call(model: str = "small", **headers: str) -> tuple[int, str | None]:
        answer = await running.client.post(
            CHAT, json={"model": model, "messages": []}, headers=headers
        )
        code = None if answer.status_code == 200 else answer.json()["error"]["code"]
        return answer.status_code, code

    def bearer(name: str) -> dict[str, str]:
        return {"authorization": f"Bearer {secrets[name]}"}

    assert await call() == (401, "invalid_api_key")
    assert await call(authorization=f"Bearer {CANARY_WRONG_KEY}") == (401, "invalid_api_key")
    assert await call(authorization=f"Basic {secrets['alice']}") == (401, "invalid_api_key")
    assert await call(**bearer("gone")) == (401, "invalid_api_key")
    assert await call(**bearer("alice")) == (200, None)
    assert await call(**{"x-api-key": secrets["alice"]}) == (200, None)
    assert (await running.ended(1)).key == "alice"
    assert await call("large", **bearer("alice")) == (200, None)
    assert await call("large", **bearer("bob")) == (404, "model_not_found")
    assert await call("nobody", **bearer("bob")) == (404, "model_not_found")
    for _ in range(2):
        assert await call(**bearer("slow")) == (200, None)
    assert await call(**bearer("slow")) == (429, "rate_limit_exceeded")
    assert await call(**bearer("wordy")) == (200, None)  # spends 12 of its 5
    await running.ended(6)
    assert await call(**bearer("wordy")) == (429, "rate_limit_exceeded")
    assert await call(**bearer("poor")) == (200, None)
    await running.ended(7)
    assert await call(**bearer("poor")) == (429, "insufficient_quota")
    assert len(small.calls) + len(large.calls) == 7


async def test_refusals_say_how_to_go_on(
    gateway: Started, small: Backend, large: Backend, keys: tuple[Path, dict[str, str]]
) -> None:
    file, secrets = keys
    running = await gateway(locked(file, small, large))
    for answer in (await running.post(), await running.client.get("/v1/models")):
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["type"] == "authentication_error"
    slow = {"authorization": f"Bearer {secrets['slow']}"}
    for _ in range(3):
        last = await running.client.post(CHAT, json={"messages": []}, headers=slow)
    assert last.status_code == 429
    assert 0 < int(last.headers["retry-after"]) <= 30
    assert (await running.saw(Refused, 3)).key is None  # who was not let in has no name


async def test_only_allowed_models_are_shown(
    gateway: Started, small: Backend, large: Backend, keys: tuple[Path, dict[str, str]]
) -> None:
    file, secrets = keys
    running = await gateway(locked(file, small, large))
    for name, shown in (("alice", {"small", "large"}), ("bob", {"small"})):
        told = {"authorization": f"Bearer {secrets[name]}"}
        listed = await running.client.get("/v1/models", headers=told)
        assert {card["id"] for card in listed.json()["data"]} == shown
        one = await running.client.get("/v1/models/large", headers=told)
        assert one.status_code == (200 if "large" in shown else 404)


async def test_pages_for_machines_need_no_key(
    gateway: Started, small: Backend, large: Backend, keys: tuple[Path, dict[str, str]]
) -> None:
    running = await gateway(locked(keys[0], small, large))
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await running.client.get(path)).status_code == 200


async def test_no_key_no_prompt_and_no_answer_is_told_to_anyone(  # noqa: PLR0917  # fixtures
    gateway: Started,
    small: Backend,
    large: Backend,
    keys: tuple[Path, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    file, secrets = keys
    monkeypatch.setenv("SMALL_KEY", "canary-backend-key")
    log = tmp_path / "log.jsonl"
    tree = locked(file, small, large, log={"file": str(log)})
    tree["models"]["small"]["api_key_env"] = "SMALL_KEY"
    (tmp_path / "large").write_text("canary-file-key")
    tree["models"]["large"]["api_key_file"] = "large"
    tree["secrets"] = {"folder": str(tmp_path)}
    tree["default"] = "small"
    cascade = {"use": "cascade", "small": "small", "large": "large", "pattern": "x"}
    tree["policies"] = {"auto": cascade}
    tree["breaker"] = {"failures": 1000}
    running = await gateway(tree)
    echo = {"error": {"message": f"bad: {CANARY_PROMPT}", "code": 400}}
    dead = {"error": {"message": f"dead at canary-backend-key canary-file-key {CANARY_ANSWER}"}}
    small.plays(
        answers({"choices": [{"message": {"content": CANARY_ANSWER}}]}),
        streams(chunk({"content": CANARY_ANSWER})),
        answers(echo, 400),
        answers(dead, 401),
        answers(b"not json " + CANARY_ANSWER.encode()),
    )
    ours = {"authorization": f"Bearer {secrets['alice']}"}
    said = [{"role": "user", "content": CANARY_PROMPT}]
    told = ""
    for number, stream in enumerate((False, True, False, False, False, False)):
        model = "auto" if number == 5 else "small"
        answer = await running.client.post(
            CHAT, json={"model": model, "messages": said, "stream": stream}, headers=ours
        )
        told += repr(answer.headers) + (answer.text if answer.status_code in (401, 502) else "")
        await running.ended(number + 1)
    wrong = {"authorization": f"Bearer {CANARY_WRONG_KEY}"}
    told += (await running.client.post(CHAT, json={"messages": said}, headers=wrong)).text
    told += (await running.client.post(CHAT, content=CANARY_PROMPT.encode(), headers=ours)).text
    told += (await running.client.get("/metrics")).text
    told += "".join(capfd.readouterr())
    canaries = [
        *secrets.values(), CANARY_WRONG_KEY, "canary-backend-key", "canary-file-key",
        CANARY_PROMPT, CANARY_ANSWER,
    ]  # fmt: skip
    for canary in canaries:
        assert canary not in told
    await eventually(lambda: log.read_text().count("\n") >= 8)  # a thread writes it
    for canary in canaries:
        assert canary not in log.read_text()
    assert '"key":"alice"' in log.read_text()

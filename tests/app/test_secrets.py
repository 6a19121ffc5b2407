"""A backend's key: sent to it with all that it is asked, to nobody else, and shown nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Started
from tests.running import MESSAGES, config
from tests.scripted import Backend, Call, answers

CANARY = "canary-file-key-93c1"


class Locked:
    """Answers only who knows its key, whatever the path, and keeps what others asked for."""

    def __init__(self, backend: Backend, key: str) -> None:
        self.refused: list[str] = []
        self.answered: list[str] = []
        self._key = f"Bearer {key}"
        self._usual = backend.asked
        backend.asked = self

    async def __call__(self, call: Call) -> None:
        if call.headers.get("authorization") == self._key:
            self.answered.append(call.path)
            await self._usual(call)
        else:
            self.refused.append(call.path)
            await answers({"error": "Unauthorized"}, 401)(call)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small").write_text(CANARY + "\n")
    (tmp_path / "small").chmod(0o600)
    return tmp_path


async def test_a_locked_backend_is_probed_and_asked(
    gateway: Started, small: Backend, large: Backend, folder: Path
) -> None:
    lock = Locked(small, CANARY)
    tree = config({"small": small, "large": large}, secrets={"folder": str(folder)})
    tree["models"]["small"]["api_key_file"] = "small"
    running = await gateway(tree)
    assert running.backend("small").healthy, running.backend("small").why
    assert running.backend("small").abilities.served == ("small",)
    assert lock.refused == []
    assert {"/health", "/v1/models", "/tokenize"} <= set(lock.answered)
    for model in ("small", "large"):
        assert (await running.post(model=model, messages=MESSAGES)).status_code == 200
    assert small.calls[0].headers["authorization"] == f"Bearer {CANARY}"
    assert "authorization" not in large.calls[0].headers


async def test_a_key_that_is_wrong_is_said_and_not_shown(
    gateway: Started, small: Backend, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lock = Locked(small, "another")
    tree = config({"small": small}, secrets={"folder": str(folder)})
    tree["models"]["small"]["api_key_file"] = "small"
    running = await gateway(tree)
    why = running.backend("small").why
    assert lock.answered == []
    assert "401" in why
    assert CANARY not in why + caplog.text

"""Two real vLLM servers with the embedded pair's weights, and the gateway in front of them.

They are started once, both together, and ended whatever happens. The file whose tests kill a server
runs last, since nothing after it could use that server.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.real_vllm.servers import (
    ROOT,
    Gateway,
    Server,
    await_vllm,
    embedded,
    gate_for,
    gateway,
    vllm,
)

MODELS = Path(os.environ.get("TANDEM_PAIR_MODELS", ROOT / "deploy/pair/models"))
LAST = "test_killed.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Stable: all other tests keep their order."""
    items.sort(
        key=lambda item: item.path.parent == Path(__file__).parent and item.path.name == LAST
    )


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real_vllm")


@pytest.fixture(scope="session")
def python() -> Path:
    """The interpreter of the environment with vLLM."""
    install = Path(__file__).with_name("install.sh")
    return Path(subprocess.check_output([install], text=True).strip())


@pytest.fixture(scope="session")
def gate(python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment with the gate of this checkout."""
    return gate_for(python, tmp_path_factory.mktemp("gate"))


@pytest.fixture(scope="session")
def vllms(logs: Path, python: Path, gate: dict[str, str]) -> Iterator[dict[str, Server]]:
    """The servers by the name of their model, which is also its folder's. Both have the gate."""
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(vllm(python, MODELS / name, logs, gate))
            for name in ("small", "large")
        }
        for server in servers.values():
            await_vllm(server)
        yield servers


@pytest.fixture(scope="session")
def pair_traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the embedded pair writes its traces."""
    return tmp_path_factory.mktemp("traces")


@pytest.fixture(scope="session")
def pair(logs: Path, gate: dict[str, str], pair_traces: Path) -> Iterator[Server]:
    """The embedded pair's server: the same models in another engine, with the same rules."""
    folders = gate | {"TANDEM_GATE_TRACES": str(pair_traces)}
    with embedded([MODELS / "small", MODELS / "large"], logs, folders) as server:
        yield server


@pytest.fixture(scope="session")
def small(vllms: dict[str, Server]) -> Server:
    return vllms["small"]


@pytest.fixture(scope="session")
def large(vllms: dict[str, Server]) -> Server:
    return vllms["large"]


@pytest.fixture(scope="session")
def tandem(small: Server, large: Server, logs: Path) -> Iterator[Gateway]:
    """The gateway, with a policy for each test that needs one of its own."""
    pair = {"small": "small", "large": "large"}
    config: dict[str, object] = {
        "listen": {"port": 0},
        "admin": {"port": 0},
        "models": {
            "small": {"backends": [small.url], "price": {"input": 0.03, "output": 0.1}},
            "large": {"backends": [large.url], "price": {"input": 0.3, "output": 1.2}},
        },
        "policies": {
            "easily-content": {"use": "cascade", **pair, "mean_logprob": -100.0},
            "never-content": {"use": "cascade", **pair, "mean_logprob": 0.0},
            "turned": {"use": "direct", "model": "small"},
            "careful": {"use": "fallback", "targets": ["small", "large"]},
        },
        "default": "careful",
        # Patient enough not to find out by itself that a server is frozen (test_killed).
        "health": {"every": 0.5, "timeout": 30},
    }
    with gateway(config, logs) as running:
        yield running


@pytest.fixture(scope="session")
def terse() -> dict[str, int]:
    """A `logit_bias` against blanks: where JSON allows them, a model this small writes no end."""
    tokenizer = json.loads((MODELS / "small" / "tokenizer.json").read_text(encoding="utf-8"))
    blanks = set("ĠĊĉč")  # how a byte-level vocabulary writes space, newline, tab and return
    return {
        str(i): -100 for token, i in tokenizer["model"]["vocab"].items() if set(token) <= blanks
    }


@pytest.fixture
def http(tandem: Gateway) -> Iterator[httpx.Client]:
    with tandem.client() as client:
        yield client


@pytest.fixture
def api(tandem: Gateway) -> Iterator[openai.OpenAI]:
    """The official client."""
    with openai.OpenAI(base_url=f"{tandem.url}/v1", api_key="none", max_retries=0) as client:
        yield client

"""The pair's models and servers, for tests.

The models are the repository's own; `TANDEM_PAIR_MODELS` names another folder with `small` and
`large` in it, to try a pair that was trained anew.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest

from deploy.pair.engine import Engine
from deploy.pair.text import Codec

ROOT = Path(__file__).parents[2]
MODELS = Path(os.environ.get("TANDEM_PAIR_MODELS", ROOT / "deploy/pair/models"))


@contextmanager
def server(*arguments: str) -> Iterator[httpx.Client]:
    """A server process on a free port, ended by closing its standard input."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.pair", *arguments, "--port", "0", "--exit-with-parent"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        url = process.stdout.readline().removeprefix("listening on ").strip()
        assert url, f"the server did not start: exit {process.wait()}"
        with httpx.Client(base_url=url, timeout=30) as client:
            yield client
        process.stdin.close()
        assert process.wait(timeout=10) == 0


def folder(name: str) -> Path:
    """A model folder, or a skip that says what is missing."""
    if not (MODELS / name / "onnx" / "model.onnx").is_file():
        pytest.skip(f"no exported model in {MODELS / name}: see deploy/pair/README.md")
    return MODELS / name


@pytest.fixture(scope="session")
def small() -> Path:
    return folder("small")


@pytest.fixture(scope="session")
def codec(small: Path) -> Codec:
    """The pair's tokenizer."""
    return Codec(small / "tokenizer.json")


@pytest.fixture(scope="session")
def pair(small: Path) -> Iterator[httpx.Client]:
    """Both models in one server process."""
    with server("--model", f"small={small}", "--model", f"large={folder('large')}") as client:
        yield client


@pytest.fixture(scope="session")
def api(pair: httpx.Client) -> Iterator[openai.OpenAI]:
    """The official client."""
    with openai.OpenAI(base_url=f"{pair.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def engine(small: Path) -> Engine:
    """An engine without any past."""
    return Engine(small)

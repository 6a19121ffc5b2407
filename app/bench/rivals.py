"""Other gateways, each in an environment of its own under the user's cache, made on demand.

Versions are pinned: a ratio to "whatever is newest" could not be compared with last month's.
LiteLLM is the Python proxy that most people know; `vllm-router` is vLLM's router in Rust, and the
bar for what a compiled language gains. Both are started the way their documentation tells, with
what costs time and is not the request (telemetry, price lists from the network) switched off.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.bench.processes import BenchError, Running, answers, free_port, running
from app.bench.upstream import MODEL

__all__ = ["LITELLM", "ROUTER", "Rival", "installed", "started"]

INSTALL_SECONDS = 900
"""LiteLLM's proxy brings some hundred packages."""

KEY = "sk-tandem-bench-0123456789abcdef0123456789abcdef"
"""LiteLLM refuses to start without a master key; it is asked for on every request, as Tandem's."""


@dataclass(frozen=True, slots=True)
class Rival:
    """A gateway from PyPI: `packages` are requirements, `command` is what they install."""

    name: str
    packages: tuple[str, ...]
    command: str
    streams: int
    """At once that load it fully; more only lengthen its queue."""
    patience: float
    """How many times longer it is loaded than the others, because it answers so rarely."""


LITELLM = Rival("litellm", ("litellm[proxy]==1.106.2",), "litellm", 16, 3.0)
ROUTER = Rival("vllm-router", ("vllm-router==0.1.17",), "vllm-router", 512, 1.0)


def _folder(rival: Rival) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "tandem" / "bench" / rival.packages[0].replace("[proxy]", "").replace("==", "-")


def installed(rival: Rival) -> Path:
    """The command of `rival`, installed from PyPI if it is not there yet."""
    folder = _folder(rival)
    command = folder / "bin" / rival.command
    if command.exists():
        return command
    print(f"installing {rival.packages[0]} into {folder} (once)", file=sys.stderr)
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *rival.packages]
    try:
        subprocess.run(pip, check=True, timeout=INSTALL_SECONDS, capture_output=True, text=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        shutil.rmtree(folder, ignore_errors=True)
        reason = getattr(error, "stderr", None) or str(error)
        raise BenchError(f"cannot install {rival.packages[0]}: {reason.strip()[-600:]}") from error
    return command


@contextmanager
def started(rival: Rival, upstream: int, folder: Path, cpu: int | None) -> Iterator[Running]:
    """`rival` in front of 127.0.0.1:`upstream`; its files go into `folder`."""
    command, port = installed(rival), free_port()
    arguments, env = (
        _litellm(upstream, port, folder) if rival is LITELLM else _router(upstream, port)
    )
    with running([str(command), *arguments], port, cpu=cpu, env=env, ready=_serves) as process:
        yield process


def _litellm(upstream: int, port: int, folder: Path) -> tuple[list[str], dict[str, str]]:
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n"
        f"  - model_name: {MODEL}\n"
        "    litellm_params:\n"
        f"      model: openai/{MODEL}\n"
        f"      api_base: http://127.0.0.1:{upstream}/v1\n"
        "      api_key: none\n"
    )
    env = {
        "LITELLM_MASTER_KEY": KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "LITELLM_LOG": "ERROR",
    }
    arguments = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    return [*arguments, "--num_workers", "1"], env


def _router(upstream: int, port: int) -> tuple[list[str], dict[str, str]]:
    return [
        "--host", "127.0.0.1",
        "--port", str(port),
        "--worker-urls", f"http://127.0.0.1:{upstream}",
        "--policy", "round_robin",
        "--prometheus-port", str(free_port()),
        "--log-level", "error",
        # more than the streams of the load, so that it does not queue or refuse
        "--max-concurrent-requests", "4096",
    ], {}  # fmt: skip


def _serves(port: int) -> bool:
    """Whether it answers a chat: listening alone does not mean that it knows its backend."""
    if not answers(port):
        return False
    ask = {"model": MODEL, "messages": [{"role": "user", "content": "?"}]}
    try:
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            json=ask,
            headers={"authorization": f"Bearer {KEY}"},
            timeout=30.0,
        )
    except httpx.TransportError:
        return False
    return answer.status_code == httpx.codes.OK

"""Real servers as processes on loopback: vLLM on a CPU, and a gateway in front of it.

A server leads a process group of its own, so that ending it ends what it has started; what it says
goes to a file, whose end is shown when it does not come up. Nothing here knows a test.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import httpx
import pytest
import yaml

ROOT = Path(__file__).parents[2]
START_SECONDS = 240.0
"""vLLM is up in 40 to 60 s on two idle cores; several at once on busy ones take this long."""
LOOK_SECONDS = 0.05
"""Pause between two looks at a condition."""
SHOWN = 4000
"""Characters of a server's log that are shown when it fails."""
CONTEXT = 4096
"""Longest prompt and answer together: all that the embedded pair was made for."""

Found = TypeVar("Found")
Json: TypeAlias = dict[str, Any]


def eventually(look: Callable[[], Found | None], seconds: float, what: str) -> Found:
    """The first true thing that `look` finds; the test fails if there is none in `seconds`."""
    end = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        time.sleep(LOOK_SECONDS)
    return found


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Server:
    """A running process and where it listens."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def client(self) -> httpx.Client:
        """A client that asks this server and no proxy."""
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def get(self, path: str) -> httpx.Response:
        """One GET."""
        with self.client() as client:
            return client.get(path)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of `name` that have these labels."""
        lines = self.get("/metrics").text.splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        samples = (line for line in lines if re.match(rf"{re.escape(name)}[ {{]", line))
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in samples if all(w in line for w in wanted)
        )

    def freeze(self) -> None:
        """Stop it and its children where they are: connections stay open, and nothing is said."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """End it and its children at once, as an out-of-memory killer would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def started(
    command: Sequence[str | Path], log: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with its own group, ended with the group at the end of the block."""
    with log.open("wb") as written:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _alive(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.poll() is not None:
        said = log.read_text(errors="replace")[-SHOWN:]
        pytest.fail(f"ended with status {process.returncode} before it listened:\n{said}")


# --------------------------------------------------------------------------------------- vLLM


def gate_for(python: Path, folder: Path) -> dict[str, str]:
    """The environment in which vLLM finds this checkout installed, below `folder`, with its gate.

    As `pip install --no-deps` does it, but beside vLLM's own packages, which many checkouts share.
    """
    pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    built, site = folder / "built", folder / "site"
    wheel: list[str | Path] = [
        sys.executable,
        *pip,
        "wheel",
        *offline,
        "--no-build-isolation",
        "-w",
        built,
        ROOT,
    ]
    subprocess.run(wheel, check=True)
    subprocess.run([python, *pip, "install", *offline, "-t", site, *built.iterdir()], check=True)
    return {
        "PYTHONPATH": str(site),
        "PYTHONSAFEPATH": "1",  # what is installed, and not the folder that it is started in
        "TANDEM_GATE_ARTIFACTS": str(folder / "artifacts"),
        "TANDEM_GATE_TRACES": str(folder / "traces"),
    }


@contextlib.contextmanager
def vllm(
    python: Path, model: Path, logs: Path, gate: dict[str, str], *more: str
) -> Iterator[Server]:
    """A vLLM that serves the folder `model` under its name; it may not listen yet (`await_vllm`).

    Notes on the options: float32 since these CPUs may lack fast bfloat16 and tests compare answers;
    no graphs, which take longer to make than they save here; all log-probabilities can be had, to
    say where a gate must fire. `gate` is the environment of `gate_for`, `more` are more options.
    """
    options = {
        "--max-logprobs": "-1",
        "--tool-call-parser": "hermes",
        "--generation-config": "vllm",  # the pair's own allows too few tokens to leave midway
    }
    flags = ["--enable-auto-tool-choice", "--enable-scale-out", "--enable-prompt-tokens-details"]
    given = [word for option in options.items() for word in option]
    with _serving(python, model, logs, gate, [*given, *flags, *more]) as server:
        yield server


@contextlib.contextmanager
def pooling(python: Path, model: Path, logs: Path, *more: str) -> Iterator[Server]:
    """A vLLM that writes nothing and tells scores, as `vllm`; without a gate."""
    with _serving(python, model, logs, {}, ["--runner", "pooling", *more]) as server:
        yield server


@contextlib.contextmanager
def _serving(
    python: Path, model: Path, logs: Path, gate: dict[str, str], more: Sequence[str]
) -> Iterator[Server]:
    port = free_port()
    options = {
        "--model": str(model),
        "--served-model-name": model.name,
        "--host": "127.0.0.1",
        "--port": str(port),
        "--dtype": "float32",
        "--max-model-len": str(CONTEXT),
    }
    command: list[str | Path] = [
        python, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager",
        *(word for option in options.items() for word in option), *more,
    ]  # fmt: skip
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB, the least it takes
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # the endpoints of its sleep mode
    }
    log = logs / f"vllm-{model.name}.log"
    with started(command, log, environment | gate) as process:
        yield Server(f"http://127.0.0.1:{port}", process, log)


def await_vllm(server: Server) -> None:
    """Wait until it answers."""

    def answers() -> bool:
        _alive(server.process, server.log)
        with contextlib.suppress(httpx.TransportError):
            return server.get("/health").is_success
        return False

    eventually(answers, START_SECONDS, f"{server.url} listens; see {server.log}")


# ------------------------------------------------------------------------------ embedded pair


@contextlib.contextmanager
def embedded(models: Sequence[Path], folder: Path, gate: dict[str, str]) -> Iterator[Server]:
    """The embedded pair's server, once it listens; of `gate` it takes the folders."""
    log = folder / "pair.log"
    command: list[str | Path] = [sys.executable, "-m", "deploy.pair", "--port", "0"]
    for model in models:
        command += ["--model", f"{model.name}={model}"]
    folders = {name: value for name, value in gate.items() if name.startswith("TANDEM")}
    with started(command, log, folders) as process:

        def listens() -> re.Match[str] | None:
            _alive(process, log)
            return re.search(r"listening on (\S+)", log.read_text())

        yield Server(eventually(listens, 60, f"the pair listens; see {log}")[1], process, log)


# ------------------------------------------------------------------------------------ gateway


@dataclass(frozen=True, slots=True)
class Gateway(Server):
    """A running `tandem serve`."""

    admin_url: str

    def admin(self) -> httpx.Client:
        """A client of the admin's listener."""
        return httpx.Client(base_url=self.admin_url, timeout=30, trust_env=False)


@contextlib.contextmanager
def gateway(config: dict[str, object], folder: Path) -> Iterator[Gateway]:
    """The gateway with this configuration, once it listens."""
    file, log = folder / "gateway.yaml", folder / "gateway.log"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    tandem = Path(sys.executable).with_name("tandem")
    with started([tandem, "serve", "--config", file], log) as process:

        def addresses() -> re.Match[str] | None:
            _alive(process, log)
            return re.search(
                r"listening on (\S+)\n.*(http://\S+)/admin/docs", log.read_text(), re.DOTALL
            )

        said = eventually(addresses, 60, f"the gateway listens; see {log}")
        yield Gateway(said[1], process, log, said[2])

"""The image's steps, done for real: built from the locks, started as nobody, nothing writable.

No container engine is needed, and none is used: see `tests/deploy/dockerfile.py`. What is asked is
what an operator would see: the embedded pair answers, the health check passes, a stop is clean.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.dockerfile import read, script

PYTHON = Path(sys.executable).resolve()
UP = 540.0
"""Seconds to install everything and start; a minute is usual on a machine at rest."""
STOP = 10.0
"""Seconds from SIGTERM to the end with nothing in flight; an engine would wait 30."""
EVERYWHERE = "0.0.0.0"  # noqa: S104  # what the image listens on
TEMPORARY = "/tmp"  # noqa: S108  # the image's own

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(UP + 60),
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("unshare"),
        reason="overlays in a namespace of their own need Linux and root",
    ),
]


@dataclass(slots=True)
class Started:
    """A gateway out of the image: its process, its port, and what it has said."""

    process: subprocess.Popen[bytes]
    port: int
    said: Path

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """One request; raises OSError while nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection) as client:
            client.request(method, path, body, {"content-type": "application/json"})
            answer = client.getresponse()
            return answer.status, answer.read()

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command where the gateway is, as who it is."""
        entered = ["nsenter", f"--target={self.process.pid}", "--mount", "--root", "--wd"]
        user = ["--setuid=65532", "--setgid=65532"]
        stage = read()["gateway"]
        env = [f"{name}={value}" for name, value in stage.env.items()]
        return subprocess.run(
            [*entered, *user, "env", "-i", *env, *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """Build it, start it, wait until it is well."""
    scratch = tmp_path_factory.mktemp("image")
    port = _free()
    # A container has a network of its own; here nobody else may reach it.
    moved = {EVERYWHERE: "127.0.0.1", "8000": str(port)}
    command = [moved.get(part, part) for part in read()["gateway"].command]
    assert command != read()["gateway"].command
    steps = script(PYTHON, os.environ, [*command, "--admin-port", "0"])
    (scratch / "steps").write_text(steps)
    with (scratch / "said").open("wb") as said:
        process = subprocess.Popen(
            ["unshare", "--mount", "bash", str(scratch / "steps")], stdout=said, stderr=said
        )
    image = Started(process, port, scratch / "said")
    try:
        _well(image)
        yield image
    finally:
        process.kill()
        process.wait()


def test_it_runs_as_nobody_and_can_write_its_state_only(started: Started) -> None:
    assert started.inside("id", "-u").stdout.strip() == "65532"
    home = read()["gateway"].last("WORKDIR")
    for where, writable in ((home, True), (TEMPORARY, True), ("/opt/tandem", False), ("/", False)):
        touched = started.inside("touch", f"{where}/touched")
        assert (touched.returncode == 0) == writable, f"{where}: {touched.stderr}"


def test_both_models_of_the_pair_write_an_answer(started: Started) -> None:
    asked = {"messages": [{"role": "user", "content": "What is 17 + 25?"}], "max_tokens": 64}
    status, body = started.ask("POST", "/v1/chat/completions", json.dumps(asked).encode())
    assert status == 200, body
    assert json.loads(body)["choices"][0]["message"]["content"]


def test_the_router_and_the_documents_are_in_it(started: Started) -> None:
    status, body = started.ask("GET", "/v1/models")
    assert status == 200
    assert {"experts", "read", "auto"} <= {card["id"] for card in json.loads(body)["data"]}
    for model in ("experts", "read"):
        asked = {
            "model": model,
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 8,
        }
        status, body = started.ask("POST", "/v1/chat/completions", json.dumps(asked).encode())
        assert status == 200, body


def test_its_health_check_passes(started: Started) -> None:
    check = [part.replace("8000", str(started.port)) for part in read()["gateway"].health]
    well = started.inside(*check)
    assert well.returncode == 0, well.stderr
    assert started.inside(*(part.replace(str(started.port), "1") for part in check)).returncode != 0


def test_what_compose_mounts_is_a_configuration_that_it_can_serve(started: Started) -> None:
    shipped = "lib/python*/site-packages/deploy/configs/small-and-large.yaml"
    checked = started.inside("sh", "-c", f"tandem check /opt/tandem/{shipped}")
    assert checked.returncode == 0, checked.stderr
    models = started.inside("ls", "/opt/tandem/models/gate", "/opt/tandem/models/experts")
    assert {"hidden", "experts.json"} <= set(models.stdout.split()), models.stderr


def test_it_can_trace(started: Started) -> None:
    loaded = started.inside("python", "-c", "import app.tracing.export")
    assert loaded.returncode == 0, loaded.stderr


def test_nothing_that_installs_is_left_in_it(started: Started) -> None:
    for module in ("pip", "hatchling", "pytest"):
        assert started.inside("python", "-c", f"import {module}").returncode != 0


def test_sigterm_ends_it_in_time(started: Started) -> None:
    stop = getattr(signal, read()["gateway"].last("STOPSIGNAL"))
    assert stop == signal.SIGTERM
    began = time.monotonic()
    started.process.send_signal(stop)
    assert started.process.wait(STOP) == 0, started.said.read_text()
    assert time.monotonic() - began < STOP


def _free() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _well(image: Started) -> None:
    deadline = time.monotonic() + UP
    while time.monotonic() < deadline:
        assert image.process.poll() is None, image.said.read_text()[-4000:]
        try:
            if image.ask("GET", "/readyz")[0] == 200:
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(image.said.read_text()[-4000:])

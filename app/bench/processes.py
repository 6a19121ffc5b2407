"""Starting, pinning and observing the processes of a benchmark.

One core per process where the machine has them: the process under test on a core of its own, mock
backend and load on others. On Linux processes are pinned and their CPU time is read from /proc to
the nanosecond; elsewhere neither is possible from outside, and CPU figures are None.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from app.bench.load import Plan, Result

__all__ = [
    "BenchError", "Cores", "Loaded", "Running", "allow_open_files", "answers", "cores", "finish",
    "free_port", "load", "loading", "module", "running", "stop",
]  # fmt: skip

START_SECONDS = 90.0
"""How long a process may take until it answers; LiteLLM's first start compiles for 30 s."""

STOP_SECONDS = 10.0
"""Grace between SIGTERM and SIGKILL."""

OPEN_FILES = 8192
"""A proxy with a thousand streams has two thousand sockets; macOS allows 256 by default."""

REPOSITORY = Path(__file__).resolve().parents[2]
"""Where `python -m app...` is run from."""


class BenchError(Exception):
    """A benchmark cannot go on; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which CPU each kind of process is pinned to; None where it is not."""

    subject: int | None
    upstream: int | None
    load: int | None

    def __str__(self) -> str:
        if self.subject is None:
            return "not pinned"
        return f"proxy on CPU {self.subject}, backend on {self.upstream}, load on {self.load}"


def cores() -> Cores:
    """One core each if there are three; with two, backend and load share one."""
    if sys.platform != "linux":
        return Cores(None, None, None)
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        return Cores(None, None, None)
    return Cores(subject=usable[-1], upstream=usable[0], load=usable[1 if len(usable) > 2 else 0])


@dataclass(frozen=True, slots=True)
class Running:
    """A started process. `log` holds its stdout and stderr."""

    pid: int
    port: int
    log: Path = field(compare=False)

    def cpu_seconds(self) -> float | None:
        """CPU time of all its threads so far."""
        tasks = Path(f"/proc/{self.pid}/task")
        if not tasks.is_dir():
            return None
        total = 0
        for task in tasks.iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except OSError:  # the thread ended since it was listed
                continue
        return total / 1e9

    def log_tail(self) -> str:
        """The last lines of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def resident_mib(self) -> float | None:
        """Resident memory in MiB; None if the process is gone. `ps` knows it on every system."""
        asked = ["ps", "-o", "rss=", "-p", str(self.pid)]
        shown = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
        return int(shown) / 2**10 if shown else None


def allow_open_files() -> None:
    """Let this process and its children open `OPEN_FILES` files, as far as the system lets them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def module(name: str, *arguments: object) -> list[str]:
    """The command that runs one of this package's modules in this interpreter."""
    return [sys.executable, "-m", name, *(str(argument) for argument in arguments)]


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Whether something accepts connections on 127.0.0.1:`port`."""
    with socket.socket() as caller:
        caller.settimeout(1.0)
        return caller.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _pinned(cpu: int | None) -> Iterator[None]:
    """Children started inside inherit the affinity, from their first thread on."""
    if cpu is None or sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(
    command: Sequence[str],
    port: int,
    *,
    cpu: int | None,
    env: Mapping[str, str] | None = None,
    ready: Callable[[int], bool] = answers,
) -> Iterator[Running]:
    """Start `command`, wait until `ready(port)`, and end the process on the way out."""
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as sink, _pinned(cpu):
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=REPOSITORY,
            )
        try:
            _wait(process, port, ready, log)
            yield Running(process.pid, port, log)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(
    process: subprocess.Popen[bytes], port: int, ready: Callable[[int], bool], log: Path
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready(port):
        gone = process.poll() is not None
        if gone or time.monotonic() > deadline:
            what = f"ended with {process.returncode}" if gone else "did not answer in time"
            tail = Running(process.pid, port, log).log_tail()
            raise BenchError(f"{process.args!r} {what}; the end of its output:\n{tail}")
        time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A load's result, and the CPU time that the process under test used during it."""

    result: Result
    cpu_seconds: float | None

    @property
    def cpu_us_per_answer(self) -> float | None:
        """CPU microseconds per whole answer."""
        if self.cpu_seconds is None or not self.result.answers:
            return None
        return 1e6 * self.cpu_seconds / self.result.answers


@contextmanager
def loading(plan: Plan, cpu: int | None) -> Iterator[subprocess.Popen[str]]:
    """The load generator's process, warmed up: measuring begins as the block is entered."""
    with _pinned(cpu):
        process = subprocess.Popen(
            module("app.bench.load", json.dumps(asdict(plan))),
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
    assert process.stdout is not None
    try:
        if not process.stdout.readline():
            raise BenchError("the load generator ended before it began; see its output above")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def finish(process: subprocess.Popen[str]) -> Result:
    """The load generator's result, when its time is up."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise BenchError("the load generator ended without a result; see its output above")
    return Result(**json.loads(line))


def stop(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """End a load before its time; its result covers what it measured so far."""
    process.terminate()
    return process


def load(plan: Plan, subject: Running, cpu: int | None) -> Loaded:
    """Run `plan` against `subject` and read off its CPU time over the measured window."""
    with loading(plan, cpu) as process:
        before = subject.cpu_seconds()
        result = finish(process)
        after = subject.cpu_seconds()
    used = after - before if before is not None and after is not None else None
    return Loaded(result, used)

"""The command: what it prints when all is well, one line when it is not, and how it stops."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app import embedded
from app.cli import main
from tests.running import CHAT, MESSAGES, Config, Served, config, http
from tests.scripted import DONE, Backend, chunk, chunks, pauses, usage_event

ROOT = Path(__file__).parents[2]
PATIENCE = 60
"""Seconds for a process to come up or go down: importing takes most of them on a busy machine."""
TANDEM = [sys.executable, "-c", "import sys; from app.cli import main; sys.exit(main())"]


@dataclass(frozen=True, slots=True)
class Run:
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


Tandem = Callable[..., Run]


@pytest.fixture
def tandem(capfd: pytest.CaptureFixture[str]) -> Tandem:
    """Runs a command to its end, in this process: starting another takes a second of its own."""

    def run(*arguments: str) -> Run:
        try:
            status = main(arguments)
        except SystemExit as end:  # argparse's way to refuse a command
            status = int(end.code or 0)
        said = capfd.readouterr()
        return Run(status, said.out, said.err)

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A good configuration, whose backend is not there."""
    written = tmp_path / "gateway.yaml"
    written.write_text(
        "models:\n  small: {backends: [http://127.0.0.1:9]}\n"
        "listen: {port: 0}\nadmin: {port: 0}\nhealth: {timeout: 0.1}\n"
    )
    return written


def failed(run: Run, *says: str) -> None:
    """It ended with one line on stderr, which says all this."""
    assert run.returncode == 1, run.stderr
    assert run.stdout == ""
    assert run.stderr.startswith("tandem: ")
    assert run.stderr.count("\n") == 1, run.stderr
    assert "Traceback" not in run.stderr
    for word in says:
        assert word in run.stderr


def test_a_port_in_use_is_one_line(tandem: Tandem, file: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        run = tandem("serve", "--config", str(file), "--port", port)
        failed(run, f"cannot listen on 127.0.0.1:{port}", "in use", "--port")
        run = tandem("serve", "--config", str(file), "--admin-port", port)
        failed(run, f"cannot listen on 127.0.0.1:{port}", "--admin-port")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "99999"], "99999"),
        (["--port", "-1"], "-1"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["--host", "203.0.113.7"], "203.0.113.7"),
    ],
)
def test_an_address_that_cannot_be_is_one_line(
    tandem: Tandem, file: Path, arguments: list[str], says: str
) -> None:
    run = tandem("serve", "--config", str(file), *arguments)
    if run.returncode == 2:  # refused as an argument: argparse's usage, then one line
        assert says in run.stderr
        assert "Traceback" not in run.stderr
    else:
        failed(run, says)


def test_a_missing_config_is_one_line(tandem: Tandem, tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere.yaml")
    for run in (tandem("serve", "--config", missing), tandem("check", missing)):
        assert run.returncode == 1
        assert missing in run.stderr
        assert "No such file" in run.stderr
        assert "Traceback" not in run.stderr


def test_a_bad_config_is_told_by_path_and_line(tandem: Tandem, file: Path) -> None:
    file.write_text(file.read_text() + "limits:\n  deadline: soon\n  ide: 3\n")
    for run in (tandem("serve", "--config", str(file)), tandem("check", str(file))):
        assert run.returncode == 1
        assert "limits.deadline" in run.stderr
        assert "line 7" in run.stderr or ":7" in run.stderr, run.stderr
        assert 'did you mean "idle"?' in run.stderr
        assert "Traceback" not in run.stderr
    verdict = json.loads(tandem("check", str(file), "--json").stdout)
    assert [problem["line"] for problem in verdict["problems"]] == [7, 8]


def test_a_policy_that_does_not_fit_its_models_is_found(tandem: Tandem, file: Path) -> None:
    file.write_text(
        file.read_text()
        + "policies:\n  first: {use: fallback, targets: [small]}\n"
        + "  read: {use: context, readers: {first: {}}}\ndefault: small\n"
    )
    for run in (tandem("serve", "--config", str(file)), tandem("check", str(file))):
        assert run.returncode == 1
        assert "policies.read: the reader first is a policy" in run.stderr
        assert "Traceback" not in run.stderr


def test_a_good_config_is_said_to_be_good(tandem: Tandem, file: Path) -> None:
    run = tandem("check", str(file))
    assert (run.returncode, run.stderr) == (0, "")
    assert "is good: models small" in run.stdout


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("keys: {file: /nowhere/keys.yaml}", "/nowhere/keys.yaml"),
        ("log: {file: /nowhere/log.jsonl}", "/nowhere/log.jsonl"),
        ("decisions: {file: /nowhere/decisions.jsonl}", "/nowhere/decisions.jsonl"),
        ('decisions: {file: "-"}', "decisions.file"),
    ],
)
def test_files_that_are_not_there_are_one_line(
    tandem: Tandem, file: Path, section: str, says: str
) -> None:
    file.write_text(file.read_text() + section + "\n")
    failed(tandem("serve", "--config", str(file)), says)


def test_a_backends_key_that_is_not_set_is_told(tandem: Tandem, file: Path) -> None:
    named = ", api_key_env: NOT_SET_ANYWHERE}\nlisten"
    file.write_text(file.read_text().replace("}\nlisten", named))
    run = tandem("serve", "--config", str(file))
    assert run.returncode == 1
    assert "models.small.api_key_env" in run.stderr
    assert "NOT_SET_ANYWHERE" in run.stderr
    assert "Traceback" not in run.stderr


async def test_model_files_that_are_absent_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(embedded, "MODELS", tmp_path)
    with pytest.raises(embedded.EmbeddedError, match="did not start"):
        await embedded.start()
    said = capfd.readouterr().err
    assert str(tmp_path) in said
    assert "Traceback" not in said


def test_wrong_commands_show_the_right_ones(tandem: Tandem) -> None:
    for arguments in ([], ["bench"], ["serv"], ["serve", "--prot", "1"]):
        run = tandem(*arguments)
        assert run.returncode == 2
        assert "usage: tandem" in run.stderr
    assert "serve" in tandem("--help").stdout


# ------------------------------------------------------------------------------- the whole process


@asynccontextmanager
async def process(tree: Config, folder: Path) -> AsyncIterator[tuple[Any, str, str]]:
    """`tandem serve` of this configuration: the process, the gateway's URL, all it printed."""
    file = folder / "gateway.json"
    file.write_text(json.dumps(tree))
    pipe = asyncio.subprocess.PIPE
    running = await asyncio.create_subprocess_exec(
        *TANDEM, "serve", "--config", str(file), stdout=pipe, stderr=pipe, cwd=ROOT
    )
    assert running.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            said = (await running.stdout.readuntil(b"Ctrl-C\n")).decode()
        url = said.split()[4]
        yield running, url, said
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


def on_free_ports(models: dict[str, Served]) -> Config:
    return config(models, listen={"port": 0}, admin={"port": 0})


async def test_it_says_where_it_is_and_what_it_found(tmp_path: Path, small: Backend) -> None:
    async with process(on_free_ports({"small": small}), tmp_path) as (running, url, said):
        assert "keys: none configured, the gateway is open" in said
        assert "admin: open to every program on this machine" in said
        curl = next(line for line in said.splitlines() if "curl" in line)
        assert f"{url}{CHAT}" in curl
        async with http(url) as client:
            answer = await client.post(CHAT, json={"messages": MESSAGES})
            assert answer.status_code == 200
        running.send_signal(signal.SIGINT)
        _, told = await asyncio.wait_for(running.communicate(), PATIENCE)
        assert running.returncode == 0
        report = told.decode()
        assert f"small        {small.name}" in report
        assert "version 0.32.0, context 4096, logprobs 20, token ids yes" in report
        assert "Traceback" not in report


async def test_sigterm_lets_streams_end(tmp_path: Path, small: Backend) -> None:
    stopping = asyncio.Event()
    first, rest = chunk({"content": "Hel"}), chunk({"content": "lo"}, "stop")
    small.plays(pauses(stopping, first, chunks(rest, usage_event(), DONE)))
    async with (
        process(on_free_ports({"small": small}), tmp_path) as (running, url, _),
        http(url) as client,
    ):
        body = {"model": "small", "messages": MESSAGES, "stream": True}
        async with client.stream("POST", CHAT, json=body) as answer:
            parts = answer.aiter_raw()
            assert await anext(parts) == first
            running.send_signal(signal.SIGTERM)
            await refused(url)
            stopping.set()
            got = b"".join([part async for part in parts])
        assert got.startswith(rest)
        assert got.endswith(DONE)
        await asyncio.wait_for(running.wait(), PATIENCE)
        assert running.returncode == 0


@pytest.mark.slow
async def test_decisions_and_feedback_are_in_the_file_when_it_has_stopped(
    tmp_path: Path, small: Backend
) -> None:
    file = tmp_path / "decisions.jsonl"
    tree = on_free_ports({"small": small})
    policies = {"auto": {"use": "direct", "model": "small"}}
    tree |= {"policies": policies, "decisions": {"file": str(file)}}
    async with process(tree, tmp_path) as (running, url, said):
        operators = next(word for word in said.split() if word.endswith("/admin/docs"))
        async with http(url) as client, http(operators) as operator:
            answer = await client.post(CHAT, json={"model": "auto", "messages": MESSAGES})
            score = {"id": answer.headers["x-request-id"], "score": 0.5}
            told = await operator.post(operators.replace("docs", "feedback"), json=score)
            assert told.status_code == 202
        running.send_signal(signal.SIGTERM)
        await asyncio.wait_for(running.wait(), PATIENCE)
    decision, feedback = map(json.loads, (await asyncio.to_thread(file.read_bytes)).splitlines())
    assert decision["id"] == feedback["feedback"] == score["id"]
    assert decision["arm"] == "small"


async def refused(url: str) -> None:
    """Wait until nobody listens there any more."""
    host, port = url.removeprefix("http://").split(":")
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                return
            writer.close()
            await asyncio.sleep(0.01)  # between two looks at another process


def test_a_command_line_is_read_before_numpy_is_loaded() -> None:
    """`tandem serve` says how many threads numpy may use, which it asks once, when it is loaded."""
    program = "import sys, app.cli; app.cli._parser(); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

"""The real servers behind the faults, started once per test process, and the table at the end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TypeAlias

import pytest

from tests.faults.report import FOLDER, PROPERTY, Row, rows_of, write
from tests.soak.servers import MODELS, READY

Table: TypeAlias = Callable[[Row], None]
SERVERS = ("small", "small", "large", "large")


@pytest.fixture(scope="session")
def servers() -> Iterator[list[tuple[str, str]]]:
    """Two servers of each of the pair's models: model and URL."""
    started = []
    for model in SERVERS:
        options = ["--served-model-name", model, "--port", "0", "--exit-with-parent"]
        command = [sys.executable, "-m", "deploy.pair", "--model", str(MODELS / model), *options]
        started.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
    try:
        yield [
            (model, f"http://127.0.0.1:{_port(server)}")
            for model, server in zip(SERVERS, started, strict=True)
        ]
    finally:
        for server in started:
            server.kill()
            server.communicate()


def _port(server: subprocess.Popen[str]) -> int:
    assert server.stdout is not None
    line = server.stdout.readline()
    assert line.startswith(READY), "a server did not start (see above)"
    return int(line.rpartition(":")[2])


@pytest.fixture
def table(record_property: Callable[[str, object], None]) -> Table:
    """Adds a row to the table."""

    def add(row: Row) -> None:
        record_property(PROPERTY, json.dumps(asdict(row)))  # test processes send plain values

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the table, and print it."""
    rows = [
        row
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for row in rows_of(report.user_properties)
    ]
    if rows:
        page = write(rows)
        terminalreporter.section("faults")
        terminalreporter.write_line(page)
        terminalreporter.write_line(f"every row: {FOLDER / 'table.json'}")

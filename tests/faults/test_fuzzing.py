"""A million inputs and more for all that reads bytes, and those that once broke something."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import Table
from tests.faults.report import Row
from tests.faults.targets import TARGETS

FOUND = Path(__file__).parent / "found"
"""Inputs by which something was found; each is named by its target and what was wrong."""
PATIENCE = 600
MILLION = 1_000_000
GROWTH_MB = 40
"""Most by which memory may grow after a tenth of the inputs; libFuzzer keeps a corpus in it."""
STAT = re.compile(r"stat::(\w+): +(\d+)")
HELD = re.compile(r"#(\d+)\s.* rss: (\d+)Mb")


def test_the_inputs_are_a_million() -> None:
    assert sum(target.runs for target in TARGETS.values()) >= MILLION


@pytest.mark.parametrize("path", sorted(FOUND.iterdir()), ids=lambda path: path.name)
def test_what_was_found_once(path: Path) -> None:
    TARGETS[path.name.partition("-")[0]].function(path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_the_examples(name: str) -> None:
    for example in (b"", b"\0", *TARGETS[name].examples):
        TARGETS[name].function(example)


@pytest.mark.faults
@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_breaks_hangs_or_grows(name: str, tmp_path: Path, table: Table) -> None:
    target, corpus = TARGETS[name], tmp_path / "corpus"
    command = [sys.executable, "-m", "tests.faults.fuzz", name, str(target.runs), str(corpus)]
    process = subprocess.run(command, capture_output=True, check=False)
    said = (process.stdout + process.stderr).decode(errors="replace")
    stats = dict(STAT.findall(said))
    held = [(int(number), int(megabytes)) for number, megabytes in HELD.findall(said)]
    early = [megabytes for number, megabytes in held if number < target.runs / 10]
    grown = held[-1][1] - early[-1] if early else 0
    left = [path.name for path in tmp_path.glob(f"{name}-*")]
    good = process.returncode == 0 and not left and grown < GROWTH_MB
    happened = (
        f"{int(stats.get('number_of_executed_units', 0)):,} inputs, slowest "
        f"{stats.get('slowest_unit_time_sec', '0')} s, {grown:+} MB"
    )
    promised = "no error but those that are declared, no hang, no growth"
    row = Row("Fuzzing", f"{name}: {target.function.__doc__}", promised, "kept", happened)
    table(row if good else Row(row.group, row.injected, promised, "WRONG", happened))
    assert good, f"{left}\n{said[-3000:]}"
    assert int(stats["number_of_executed_units"]) >= target.runs

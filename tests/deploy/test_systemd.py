"""The systemd unit: read by systemd itself, without one that would start it."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from tests.deploy.dockerfile import ROOT, read
from tests.deploy.tools import run

UNIT = ROOT / "deploy" / "systemd" / "tandem.service"
EXPOSED = 15
"""Tenths of systemd's points from 0 (locked up) to 10; services without any settings have 9.6."""

pytestmark = pytest.mark.slow


def test_systemd_can_read_it(tmp_path: Path) -> None:
    """The program is not installed here: another one stands for it."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/tandem/bin/tandem", "/bin/true"))
    run("systemd-analyze", "verify", unit)


def test_it_is_locked_up() -> None:
    run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSED}", UNIT)


def test_it_starts_and_keeps_its_state_where_the_image_does() -> None:
    unit = configparser.RawConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    service, image = unit["Service"], read()["gateway"]
    assert service["WorkingDirectory"] == "%S/tandem"
    assert image.last("WORKDIR") == "/var/lib/tandem"
    assert service["KillSignal"] == image.last("STOPSIGNAL")
    assert float(service["TimeoutStopSec"]) > 30  # what streams have to end

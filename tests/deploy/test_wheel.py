"""The wheel holds all that runs: what git keeps in the packages, and nothing that it does not."""

from __future__ import annotations

import configparser
import subprocess
import sys
import zipfile

import pytest

from tests.deploy.dockerfile import ROOT

PACKAGES = ("app", "router", "policies", "deploy")
LEFT_OUT = "deploy/helm/"
NEEDED = (
    "deploy/grafana/dashboards/overview.json",
    "deploy/pair/models/small/onnx/model.onnx",
    "deploy/pair/models/large/chat_template.jinja",
    "deploy/pair/models/gate/hidden/gate.safetensors",
    "deploy/pair/models/experts/experts.safetensors",
    "deploy/embedder/model.onnx",
    "deploy/context/arrays.safetensors",
    "deploy/prior/prior.safetensors",
    "policies/training/outcomes/judge.txt",
)
"""One of each kind that something reads while it serves or trains."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this checkout, built as the image builds it."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    subprocess.run([*build, str(out)], cwd=ROOT, check=True, capture_output=True)
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_every_file_of_the_packages_is_in_it(wheel: zipfile.ZipFile) -> None:
    kept = {name for name in _git("ls-files", *PACKAGES) if not name.startswith(LEFT_OUT)}
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert kept - held == set()
    assert held - kept - _git("ls-files", "--others", "--exclude-standard", *PACKAGES) == set()
    assert set(NEEDED) <= held


def test_vllm_finds_the_gate_in_it(wheel: zipfile.ZipFile) -> None:
    name = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    points = configparser.ConfigParser()
    points.read_string(wheel.read(name).decode())
    assert "tandem-gate" in points["vllm.logits_processors"]
    assert "tandem-gate" in points["vllm.general_plugins"]


def _git(*command: str) -> set[str]:
    listed = subprocess.run(
        ["git", *command, "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return set(listed.stdout.split("\0")) - {""}

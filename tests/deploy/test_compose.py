"""docker-compose.yml: read by Compose where there is one, and held against its specification.

No container engine is asked: `config` reads, puts variables in and checks, and starts nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.embedded import DOCUMENT
from policies import TABLE
from router.config import load_file
from tests.deploy.dockerfile import ROOT
from tests.deploy.test_dockerfile import EXACT
from tests.deploy.tools import checked, installed, run

FILE = ROOT / "docker-compose.yml"
FOLDER = ROOT / "deploy" / "compose"
OURS = re.compile(r"tandem-(gateway|vllm):\d+\.\d+\.\d+")
STRICT = """
import json, sys
from compose_spec import PyCompose
PyCompose.from_json(sys.stdin.read()).to_spec()
"""
EVERYWHERE = "0.0.0.0"  # noqa: S104  # inside a container, whose ports are published or not


def written() -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return tree


def started(*profiles: str) -> set[str]:
    services = written()["services"].items()
    return {name for name, service in services if set(service["profiles"]) & set(profiles)}


def test_each_profile_starts_what_it_says() -> None:
    seen = {"prometheus", "grafana"}
    assert started("cpu") == {"gateway-cpu", "pair", *seen}
    assert started("gpu") == {"gateway-gpu", "small", "large", *seen}
    assert started("redis") == {"valkey"}


def test_whatever_a_service_waits_for_starts_with_it() -> None:
    services = written()["services"]
    for name, service in services.items():
        for other in service.get("depends_on", ()):
            assert set(service["profiles"]) <= set(services[other]["profiles"]), (name, other)


def test_images_are_exact_versions() -> None:
    for name, service in written()["services"].items():
        assert OURS.fullmatch(service["image"]) or EXACT.fullmatch(service["image"]), name


def test_only_what_holds_gpus_may_write_to_its_root() -> None:
    for name, service in written()["services"].items():
        assert service.get("read_only", False) == (name not in ("small", "large")), name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.get("privileged"), name


def test_ports_are_this_machines_alone_unless_somebody_opens_them() -> None:
    for name, service in written()["services"].items():
        for port in service.get("ports", ()):
            assert port.startswith(("127.0.0.1:", "${TANDEM_BIND:-127.0.0.1}:")), (name, port)


def test_every_file_that_is_mounted_is_there() -> None:
    for service in written()["services"].values():
        for volume in service.get("volumes", ()):
            source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), volume


def test_every_variable_has_a_line_in_the_example() -> None:
    used = set(re.findall(r"\$\{(\w+)", FILE.read_text()))
    lines = (FOLDER / "example.env").read_text().splitlines()
    told = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    assert set(told) == used
    for name, default in re.findall(r"\$\{(\w+):-([^}]*)\}", FILE.read_text()):
        assert told[name] == default, name


@pytest.mark.parametrize("name", ["cpu.yaml", "gpu.yaml"])
def test_the_gateways_configuration_is_good(name: str, tmp_path: Path) -> None:
    """The path of the learned router is the image's: here it is the checkout's."""
    text = (FOLDER / name).read_text()
    here = text.replace("/opt/tandem/models", str(ROOT / "deploy" / "pair" / "models"))
    (tmp_path / name).write_text(here)
    document = load_file(tmp_path / name, TABLE)
    listen = document.config.listen, document.config.admin
    assert [(part.host, part.port) for part in listen] == [(EVERYWHERE, 8000), (EVERYWHERE, 8001)]
    services = written()["services"]
    for model in document.config.models.values():
        for url in model.backends:
            assert url.removeprefix("http://").removesuffix(":8000") in services


def test_the_pair_is_routed_as_it_is_without_a_configuration() -> None:
    """What `tandem serve` makes by itself, and what compose mounts, may not drift apart."""
    filled = re.sub(r"\{\{|\}\}", lambda brace: brace[0][0], DOCUMENT)
    alone = yaml.safe_load(re.sub(r"\{[a-z_]+\}", "0", filled.replace("{search}", "{}")))
    composed = yaml.safe_load((FOLDER / "cpu.yaml").read_text())
    for name, policy in composed["policies"].items():
        assert alone["policies"][name]["use"] == policy["use"], name
    assert composed["default"] == alone["default"]
    assert {n: m["price"] for n, m in composed["models"].items()} == {
        n: m["price"] for n, m in alone["models"].items()
    }


def test_prometheus_keeps_the_shipped_rules() -> None:
    ours = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    shipped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert ours["rule_files"] == shipped["rule_files"]
    assert ours["global"] == shipped["global"]
    assert [job["job_name"] for job in ours["scrape_configs"]] == ["tandem", "vllm"]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool: see docs/dashboards.md")
def test_promtool_has_nothing_to_say(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "prometheus.yml", tmp_path)
    shutil.copytree(ROOT / "deploy" / "prometheus" / "rules", tmp_path / "rules")
    run("promtool", "check", "config", tmp_path / "prometheus.yml")


@pytest.mark.slow
@pytest.mark.parametrize("profiles", [("cpu",), ("gpu",), ("cpu", "redis")], ids="+".join)
def test_compose_reads_it(profiles: tuple[str, ...]) -> None:
    tree = configured(*profiles)
    gateway = tree["services"][f"gateway-{profiles[0]}"]
    assert any("8000" in str(port) for port in gateway["ports"])


@pytest.mark.slow
@installed
def test_it_follows_the_specification() -> None:
    """As Compose hands it on, with every variable in its place."""
    checked(STRICT, json.dumps(configured("cpu", "gpu", "redis")))


def configured(*profiles: str) -> dict[str, Any]:
    """What `docker compose config` makes of it. The first Compose does not know `name` yet."""
    wanted = [part for profile in profiles for part in ("--profile", profile)]
    options = ["--project-directory", str(ROOT), *wanted, "config"]
    if shutil.which("docker") and _answers("docker", "compose", "version"):
        command, text = ["docker", "compose"], FILE.read_text()
    elif shutil.which("docker-compose"):
        command, text = ["docker-compose"], re.sub(r"(?m)^name:.*\n", "", FILE.read_text())
    else:
        pytest.skip("no docker compose and no docker-compose here")
    done = subprocess.run(
        [*command, "--file", "-", *options],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr
    tree: dict[str, Any] = yaml.safe_load(done.stdout)
    return tree


def _answers(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0

"""What can be seen in the Dockerfile without building it."""

from __future__ import annotations

import re

import pytest

from tests.deploy.dockerfile import ROOT, read
from tests.deploy.tools import installed, run

EXACT = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+(-[\w.-]+)?(@sha256:[0-9a-f]{64})?")


def test_base_images_are_exact_versions() -> None:
    for stage in read().values():
        assert EXACT.fullmatch(stage.base), stage.base


def test_everything_is_installed_by_hash_or_from_this_checkout() -> None:
    for stage in read().values():
        for kind, line in stage.steps:
            for command in line.split("&&") if kind == "RUN" else []:
                if "pip install" in command or "pip wheel" in command:
                    assert "--require-hashes" in command or "--no-index" in command, command


def test_the_gateway_runs_as_nobody_in_particular() -> None:
    gateway = read()["gateway"]
    assert gateway.last("USER") == "65532:65532"
    kinds = [kind for kind, _ in gateway.steps]
    assert "RUN" not in kinds[kinds.index("USER") :]
    assert gateway.last("ENTRYPOINT").startswith("["), "exec form: signals reach the gateway"
    assert "curl" not in str(gateway.health), "a slim image has none"


def test_no_secret_and_no_test_gets_into_the_context() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    copied = {
        source
        for stage in read().values()
        for kind, value in stage.steps
        if kind == "COPY" and not value.startswith("--from")
        for source in value.split()[:-1]
    }
    assert allowed == copied


@pytest.mark.slow
@installed
def test_hadolint_has_nothing_to_say() -> None:
    run("hadolint", "--failure-threshold", "style", ROOT / "Dockerfile")

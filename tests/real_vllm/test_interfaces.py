"""The gate behind vLLM's own interfaces, Model Runner V2's too, which needs a GPU to run whole."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.real_vllm.servers import ROOT

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(300)]  # importing vLLM takes its time


def test_batches_by_chance_decide_as_plain_python_does(python: Path) -> None:
    command: list[str | Path] = [python, "-m", "tests.real_vllm.interfaces"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "VLLM_LOGGING_LEVEL": "ERROR"}
    played = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert played.returncode == 0, played.stderr[-4000:]
    forced = json.loads(played.stdout.splitlines()[-1])
    assert set(forced) == {"first", "second", "first in torch", "second in torch"}
    assert forced["first"] == forced["first in torch"] > 500
    assert forced["second"] == forced["second in torch"] > 500

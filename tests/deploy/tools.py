"""The programs that `tests/deploy/install.sh` installs, or those of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
HOME = Path(os.environ.get("TANDEM_DEPLOY_TOOLS") or CACHE / "tandem" / "deploy-tools")
INSTALLED = (HOME / "complete").exists()
installed = pytest.mark.skipif(
    not INSTALLED, reason="no tools: run tests/deploy/install.sh, as make test-all does"
)


def tool(name: str) -> str | None:
    """The program of this name: the installed one before any other."""
    return shutil.which(name, path=os.pathsep.join([str(HOME / "bin"), os.environ["PATH"]]))


def run(*command: str | Path, said: str | None = None) -> str:
    """What a program prints; fails with its complaint if it does."""
    program = tool(str(command[0]))
    if program is None:
        pytest.skip(f"there is no {command[0]} here")
    done = subprocess.run(
        [program, *command[1:]], input=said, capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def checked(code: str, said: str) -> str:
    """What this Python code prints, run in the tools' environment with `said` to read."""
    return run(HOME / "bin" / "python", "-c", code, said=said)

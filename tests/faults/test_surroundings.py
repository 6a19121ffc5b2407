"""What a gateway stands on: a disk that is full, and a clock that jumps."""

from __future__ import annotations

import asyncio
import ctypes.util
import hashlib
import json
import os
import resource
from pathlib import Path

import pytest

from tests.faults.conftest import Table
from tests.faults.loaded import loaded, told
from tests.faults.report import Row
from tests.faults.served import LINUX, served
from tests.running import config, http
from tests.scripted import Backend

KEY = "tdm-" + "k" * 40
FILE_KB = 96
"""Size to which any file of the gateway may grow."""
FAKETIME = ("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1", "libfaketimeMT.so.1")

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not LINUX, reason="looks into /proc"),
]


def small_files() -> None:
    """Runs in the child, before Tandem: what is written beyond fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_KB * 1024, FILE_KB * 1024))


def keyed(folder: Path) -> dict[str, object]:
    """A section of keys, with one that may spend."""
    entry = {"name": "a", "sha256": hashlib.sha256(KEY.encode()).hexdigest(), "spend_usd": 1000}
    (folder / "keys.yaml").write_text(json.dumps({"keys": [entry]}))
    return {"file": "keys.yaml"}


@pytest.mark.parametrize("how", ["/dev/full", "small files"])
async def test_a_full_disk(how: str, small: Backend, tmp_path: Path, table: Table) -> None:
    full = how == "/dev/full"
    tree = config(
        {"small": small},
        log={"file": "/dev/full" if full else "log.jsonl"},
        decisions={"file": "/dev/full" if full else "decisions.jsonl"},
        store={"file": "state.sqlite"},
        keys=keyed(tmp_path),
    )
    limits = None if full else small_files
    key = f"authorization: Bearer {KEY}"
    async with served(tree, tmp_path, limits=limits) as gateway:
        async with loaded(gateway.url, 8, "small", headers=(key,), pause=0.01) as answers:
            small.plays(answers.script)
            await asyncio.sleep(8)
        async with http(gateway.admin) as operator:
            change = await operator.put(
                "/admin/policies/one", json={"use": "direct", "model": "small"}
            )
        said = gateway.said
    good = answers.counts().keys() == {"complete"} and "Traceback" not in said
    good &= change.status_code in (200, 503) and len(said) < 100_000
    happened = f"{told(answers.counts())}; a change of the configuration: {change.status_code}"
    promised = "every request is answered; it says so, and does not fill the log with it"
    what = "log and decisions on a full disk" if full else f"no file above {FILE_KB} KB, store too"
    table(Row("Surroundings", what, promised, "kept" if good else "WRONG", happened))
    assert good, f"{happened}\n{said[-3000:]}"


def faketime() -> str:
    """The library that gives another time; skips the test where there is none."""
    for name in (os.environ.get("TANDEM_FAKETIME", ""), *FAKETIME):
        if name and (Path(name).exists() or ctypes.util.find_library(name)):
            return name
    if os.environ.get("CI"):
        pytest.fail("libfaketime is not there")
    pytest.skip("needs libfaketime")


@pytest.mark.parametrize("jump", ["+3d", "-3d"])
async def test_the_clock_jumps(jump: str, small: Backend, tmp_path: Path, table: Table) -> None:
    """An administrator or NTP sets the clock; monotonic time goes on."""
    stamp = tmp_path / "time"
    stamp.write_text("+0")
    environ = {
        "LD_PRELOAD": faketime(),
        "FAKETIME_TIMESTAMP_FILE": str(stamp),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    tree = config(
        {"small": small}, log={"file": "log.jsonl"}, keys=keyed(tmp_path), health={"every": 0.5}
    )
    key = f"authorization: Bearer {KEY}"
    async with served(tree, tmp_path, environ=environ) as gateway:
        async with loaded(gateway.url, 4, "small", headers=(key,), pause=0.02) as answers:
            small.plays(answers.script)
            await asyncio.sleep(2)
            await asyncio.to_thread(stamp.write_text, jump)
            await asyncio.sleep(4)
        async with http(gateway.url) as client:
            ready = (await client.get("/readyz")).status_code
        said = gateway.said
    days = {
        line.partition("20")[2][:8] for line in (tmp_path / "log.jsonl").read_text().splitlines()
    }
    good = answers.counts().keys() == {"complete"} and ready == 200 and "Traceback" not in said
    good &= len(days) > 1  # else nothing has jumped
    happened = f"{told(answers.counts())}; ready: {ready}; days in the log: {len(days)}"
    promised = "nothing is late, forgotten or refused"
    table(
        Row(
            "Surroundings",
            f"the clock jumps by {jump}",
            promised,
            "kept" if good else "WRONG",
            happened,
        )
    )
    assert good, f"{happened}\n{sorted(days)}\n{said[-3000:]}"

"""Metrics of several processes on one page: what is added up, and that no sum ever falls."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.metrics import ADD_UP, Metrics
from app.together import Together
from tests.app.observations import request

OTHER = """
import os, sys, asyncio
from pathlib import Path
from app.metrics import Metrics
from app.together import Together
from tests.app.observations import request

async def main():
    metrics = Metrics(list, "1")
    page = Together(metrics, Path(sys.argv[1]))
    for _ in range(int(sys.argv[2])):
        metrics(request(cost=0.5))
    await page.page("")
    if sys.argv[3] == "end":
        await page.close()
    print("told", flush=True)
    if sys.argv[3] == "stay":
        sys.stdin.read()

asyncio.run(main())
"""


def other(folder: Path, number: int, then: str) -> subprocess.Popen[str]:
    """Another process that has counted so many requests, and stays, ends well or is killed."""
    child = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(folder), str(number), then],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "told\n"
    return child


def files(folder: Path) -> list[Path]:
    """Of processes whose counts are not yet among those that are gone."""
    return list(folder.glob("*-*.json"))


def gone(child: subprocess.Popen[str], *, killed: bool = False) -> None:
    if killed:
        child.kill()
    child.communicate()


def values(page: bytes) -> Mapping[str, float]:
    """Sums over all labels."""
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(list, "1")


async def total(page: Together) -> float:
    """Requests that the page knows of."""
    return values((await page.page(""))[0]).get("tandem_requests_total", 0.0)


async def test_alone_a_page_is_ones_own(metrics: Metrics) -> None:
    metrics(request())
    assert await total(Together(metrics, None)) == 1


async def test_others_are_added_while_they_live_and_when_they_are_gone(
    metrics: Metrics, tmp_path: Path
) -> None:
    page = Together(metrics, tmp_path)
    metrics(request(cost=0.25))
    assert await total(page) == 1
    staying = other(tmp_path, 5, "stay")
    assert await total(page) == 6
    gone(other(tmp_path, 7, "end"))
    assert await total(page) == 13
    gone(staying, killed=True)
    assert [await total(page) for _ in range(3)] == [13, 13, 13]
    found = values((await page.page(""))[0])
    assert found["tandem_request_seconds_count"] == 13
    assert found["tandem_request_seconds_sum"] == pytest.approx(13 * request().seconds)
    assert found["process_cpu_seconds_total"] > 0
    assert [path.name.partition("-")[0] for path in files(tmp_path)] == [str(os.getpid())]


async def test_a_burial_that_was_cut_off_counts_once(
    metrics: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Together(metrics, tmp_path)
    gone(other(tmp_path, 3, "stay"), killed=True)
    (left,) = files(tmp_path)
    told = left.read_bytes()
    assert await total(page) == 3
    left.write_bytes(told)  # as if it had not yet been removed
    assert await total(page) == 3


async def test_a_folder_that_cannot_be_written_leaves_ones_own(
    metrics: Metrics, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    page = Together(metrics, folder)
    metrics(request())
    folder.rename(tmp_path / "moved")
    assert await total(page) == 1
    assert "metrics are this process's own" in caplog.text


async def test_another_version_with_other_buckets_breaks_nothing(
    metrics: Metrics, tmp_path: Path
) -> None:
    page = Together(metrics, tmp_path)
    metrics(request())
    told = {"tandem_request_seconds": {"auto\x1ffalse": [1.0, 2.0]}, "tandem_unknown": {"": [1.0]}}
    (tmp_path / f"{os.getppid()}-other.json").write_bytes(orjson.dumps(told))
    assert values((await page.page(""))[0])["tandem_request_seconds_count"] >= 1


def test_what_adds_up_is_exported(metrics: Metrics) -> None:
    gauges = {family.name for family in metrics.collect() if family.type == "gauge"}
    gauges |= {"process_cpu_seconds"} & {family.name for family in metrics.collect()}
    assert gauges >= ADD_UP

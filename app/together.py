"""The metrics of all processes of one machine on one page, whichever of them is asked.

Each writes what it has counted into a file of its own in the folder of their run, every
few seconds and whenever one of them is asked; that one adds up what the files say. So a sum never
falls from one scrape to the next, which Prometheus would take for a restart: files only grow, and
that of a process that has ended is added to `gone` before it goes, under a lock.

Where there is no such folder, the page is this process's own. Processes on other machines have
pages of their own, which Prometheus adds up.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias, TypeVar

import orjson
from prometheus_client.core import Metric

from app.families import Told, summed
from app.metrics import ADD_UP, START, Metrics

__all__ = ["EVERY", "Together"]

EVERY = 2.0
"""Seconds between two writings: as much is lost of the counts of a process that is killed."""
KEPT = "process_cpu_seconds"
"""Of what is looked at, the one that still counts when its process is gone."""
LOOKED_AT = ADD_UP | {START}
GONE = "gone.json"
BURIED = "buried"
"""Beside the sums in that file: the names of those that are in them."""

T = TypeVar("T")
State: TypeAlias = Mapping[str, Told]

logger = logging.getLogger("tandem.metrics")


class Together:
    """The page of `metrics`, and of the others that write into `folder`."""

    def __init__(self, metrics: Metrics, folder: Path | None) -> None:
        self._metrics = metrics
        self._folder = folder
        name = f"{os.getpid()}-{secrets.token_hex(4)}.json"
        self._own = folder / name if folder else None
        if folder:
            folder.mkdir(exist_ok=True)

    async def page(self, accept: str) -> tuple[bytes, str]:
        """The page in the format that the Accept header asks for, and its Content-Type."""
        return self._metrics.render(accept, await self._others())

    async def families(self) -> Iterable[Metric]:
        """All families, added up."""
        return self._metrics.collect(await self._others())

    async def keep(self) -> None:
        """Write for ever. The app starts it as a task."""
        while self._own and self._folder:
            await self._done(_tell, self._folder, self._own)
            await asyncio.sleep(EVERY)

    async def close(self) -> None:
        """Add what was counted here to what is gone."""
        if self._own and self._folder:
            await self._done(_end, self._folder, self._own)

    async def _others(self) -> list[State]:
        """What the others have counted; this process's own counts are written before."""
        if self._own is None or self._folder is None:
            return []
        return await self._done(_exchange, self._folder, self._own) or []

    async def _done(
        self, what: Callable[[Path, Path, bytes], T], folder: Path, own: Path
    ) -> T | None:
        """Do this with what was counted here; None if the folder cannot be used."""
        told = orjson.dumps(self._metrics.told())
        try:
            return await asyncio.to_thread(what, folder, own, told)
        except OSError as error:
            logger.warning("metrics are this process's own: %s", error)
            return None


# ----------------------------------------------------------------------------- in a thread


def _tell(folder: Path, own: Path, told: bytes) -> None:
    with _locked(folder):
        _write(own, told)


def _exchange(folder: Path, own: Path, told: bytes) -> list[State]:
    with _locked(folder):
        _write(own, told)
        for path in set(folder.glob("*-*.json")) - {own}:
            if not _runs(int(path.stem.partition("-")[0])):
                _bury(folder, path)
        others = set(folder.glob("*-*.json")) - {own}
        return [*map(_read, others), _read(folder / GONE)]


def _end(folder: Path, own: Path, told: bytes) -> None:
    with _locked(folder):
        _write(own, told)
        _bury(folder, own)


def _bury(folder: Path, path: Path) -> None:
    """Add a file to what is gone, once, wherever this is cut off."""
    gone = _read(folder / GONE)
    if path.name not in gone.get(BURIED, {}):
        told = {**_read(path), BURIED: {path.name: [1.0]}}
        stays = {name: told[name] for name in told if name == KEPT or name not in LOOKED_AT}
        sums = {
            name: summed(gone.get(name, {}), [stays.get(name, {})]) for name in {**gone, **stays}
        }
        _write(folder / GONE, orjson.dumps(sums))
    path.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go of with the file
        yield


def _write(path: Path, data: bytes) -> None:
    fresh = path.with_suffix(".fresh")
    fresh.write_bytes(data)
    fresh.replace(path)


def _read(path: Path) -> State:
    try:
        state: State = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    return state


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""The CPU work of policies, off the event loop, in an order in which nobody waits for too long.

A request with a long text can mean seconds of work; some dozens of them would fill every thread
that there is, and whoever asks something short would wait for all of them. So long work has few
threads of its own, and whose turn it is there goes by when a request arrived, not by when it asked:
one that has begun is finished before another is begun, and holds its memory no longer than it must.
Knows functions and bytes, no policy. Python itself lets one thread run at a time, so that more
threads for long work would only take turns with the event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count
from typing import Any

__all__ = ["LONG", "Computing"]

LONG = 1 << 16
"""Bytes of a request from which on its work is taken to be long."""


THREADS = min(4, max(1, (os.cpu_count() or 2) // 2))


class Computing:
    """Threads for long work. One for a process; to be used on one event loop."""

    def __init__(self, threads: int = THREADS) -> None:
        """`threads` for long work; short work has those of `asyncio.to_thread`."""
        self._free = threads
        self._threads = ThreadPoolExecutor(threads, "long work")
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._number = count()

    async def run(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], arrived: float, size: int
    ) -> Any:
        """What `function` returns or raises; for a request of `size` bytes that came at `arrived`.

        Whoever is cancelled meanwhile loses the turn, or leaves the work to end unheard.
        """
        if size < LONG:
            return await asyncio.to_thread(function, *arguments)
        await self._turn(arrived)
        loop = asyncio.get_running_loop()
        work = self._threads.submit(function, *arguments)

        def ended(_: object) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._next)

        work.add_done_callback(ended)
        return await asyncio.wrap_future(work)

    async def _turn(self, arrived: float) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (arrived, next(self._number), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._next()  # it was given in the same moment
            raise

    def _next(self) -> None:
        """Give a thread that is free to the request that came first."""
        while self._waiting:
            turn = heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

"""Health: asks every configured backend whether it is well, and what it can do.

One task per backend: probe it until it answers, then look at its health at a steady pace. It writes
a backend's `healthy` and `abilities` and nothing else; load and breaker belong to the calls. A swap
starts tasks for new backends and ends those of backends that are gone.

A server that sleeps is well, since it answers; what it can do is asked once it is awake.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import httpx

from router.asking import asker
from router.backend import Backend
from router.faults import Blame, FaultError
from router.observe import BackendChanged, Listener
from router.origins import exhausted
from router.pool import Pool
from router.probe import Endpoint, probe
from router.runtime import Runtime
from router.sections import HealthConfig

PROBE_TIMEOUT = 10.0
"""Seconds for one question of a probe: the first token of a busy server may take as long."""


class Health:
    """Watches the backends of the active Runtime; give each new one to `follow`."""

    def __init__(self, observe: Listener) -> None:
        self._observe = observe
        self._client = asker()
        self._tasks: dict[Backend, asyncio.Task[None]] = {}
        self._pools: dict[Backend, Pool] = {}
        self._asked: dict[Backend, asyncio.Event] = {}
        self._soon: dict[Backend, asyncio.Event] = {}

    def follow(self, runtime: Runtime) -> None:
        """Watch this Runtime's backends from now on, and no others."""
        self._pools = {b: pool for pool in runtime.pools.values() for b in pool.backends}
        for gone in self._tasks.keys() - self._pools.keys():
            self._tasks.pop(gone).cancel()
            self._asked.pop(gone).set()
            self._soon.pop(gone)
        for backend in self._pools.keys() - self._tasks.keys():
            self._asked[backend] = asyncio.Event()
            self._soon[backend] = asyncio.Event()
            watch = self._watch(backend, runtime.config.health)
            self._tasks[backend] = asyncio.create_task(watch, name=f"health {backend.name}")

    def look_soon(self, backend: Backend) -> None:
        """`backend` has woken: ask what it can do, if nobody has yet."""
        if not backend.probed and backend in self._soon:
            self._soon[backend].set()

    async def probed(self) -> None:
        """Return once every backend has been asked at least once, well or not."""
        await asyncio.gather(*(asked.wait() for asked in self._asked.values()))

    async def close(self) -> None:
        """End all watching."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._client.aclose()

    async def _watch(self, backend: Backend, settings: HealthConfig) -> None:
        silences, soon = 0, self._soon[backend]
        if backend.rest.managed:
            await backend.rest.known.wait()
        while True:
            soon.clear()
            pool = self._pools[backend]
            try:
                healthy, why = await self._look(backend, pool, settings)
                silences = 0
            except httpx.TimeoutException as error:
                silences += 1
                healthy = backend.probed and silences < settings.silences
                why = f"{settings.path}: {error!r}"
            if healthy != backend.healthy:
                backend.healthy = healthy
                backend.probed &= healthy  # another version may come back in its place
                state = "healthy" if healthy else "unhealthy"
                self._observe(BackendChanged(pool.name, backend.name, state, why))
                pool.line.admit()  # there are more places, or none to wait for
            backend.why = why
            self._asked[backend].set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(soon.wait(), settings.every)

    async def _look(self, backend: Backend, pool: Pool, settings: HealthConfig) -> tuple[bool, str]:
        try:
            url = backend.url + settings.path
            response = await self._client.get(
                url, timeout=settings.timeout, headers=pool.credentials
            )
            if not response.is_success:
                return False, f"{settings.path} answered {response.status_code}"
            if not backend.probed and backend.awake:
                await self._probe(backend, pool)
        except httpx.TimeoutException:
            raise
        except httpx.HTTPError as error:
            if exhausted(error):  # that is no news of the backend
                return backend.healthy, backend.why
            return False, f"{settings.path}: {error!r}"
        except FaultError as error:
            return False, error.fault.message
        except Exception as error:  # noqa: BLE001  # whatever it has said, it must be asked again
            return False, f"it answers as no server should: {error!r}"
        return True, ""

    async def _probe(self, backend: Backend, pool: Pool) -> None:
        self._client.timeout = httpx.Timeout(PROBE_TIMEOUT)
        guard = backend.enter()  # whoever is asked must not be put to sleep meanwhile
        try:
            asked = Endpoint(self._client, backend.url, pool.credentials)
            found = await probe(asked, pool.settings.served_as or pool.name)
        finally:
            guard.leave(Blame.GONE)
        if pool.settings.surfaces is not None:
            found = replace(found, surfaces=frozenset(pool.settings.surfaces))
        backend.abilities, backend.probed = found, True

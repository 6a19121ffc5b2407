"""Sleep: wakes servers that are waited for, and puts others to sleep to make room for them.

Control plane, like `router.health`: the one place that calls `/is_sleeping`, `/sleep` and
`/wake_up`, and the only one that writes a backend's `rest`. A task per server does what was decided
for it, one thing after the other, and asks from time to time whether it sleeps; decisions are made
for a whole host at once (`router.sleep_plan`), whenever something has changed, without waiting
between looking and deciding. Which is why no server can get a call and be put to sleep at once.

vLLM's ways that matter here (0.32, `VLLM_SERVER_DEV_MODE=1`): a server that sleeps takes requests
and leaves them lying; level 2 throws the weights away, and waking brings back memory, not weights,
which must be read anew before the KV cache may come back (vllm-project/vllm#29341).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

import httpx
import orjson

from router.asking import asker
from router.backend import Backend
from router.config import Config
from router.faults import Blame, Fault
from router.hosts import SleepConfig, host_of
from router.observe import Listener, SleepChanged
from router.pool import Pool
from router.rest import Rest
from router.runtime import Runtime
from router.sleep_plan import NEVER, Resident, State, plan

AFTER_FAILURE = 1.0
"""Seconds before a server that would not sleep is asked again, its residence aside."""
NO_SLEEP_MODE = (
    "it has no sleep mode (/is_sleeping answered {status}), so it is taken to be awake for good; "
    "start vLLM with VLLM_SERVER_DEV_MODE=1 and --enable-sleep-mode"
)


class RestError(Exception):
    """A server did not do what it was told; the message says what it did."""


def _nobody(_: Backend) -> None:
    """Nobody wants to hear who has woken."""


@dataclass(slots=True)
class Keeper:
    """What is kept of one server. `level` is the one that it sleeps at, None if others put it to
    sleep; `leaving` says that its model does not sleep any more, so it must wake for good.
    """

    backend: Backend
    pool: Pool
    host: str
    settings: SleepConfig
    memory: float
    able: bool = True
    reached: bool = True
    leaving: bool = False
    level: int | None = None
    looked: float = -NEVER
    ordered: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def rest(self) -> Rest:
        """The server's."""
        return self.backend.rest

    def resident(self, rank: int) -> Resident:
        """The server as the plan sees it; `rank` tells servers of one name apart."""
        rest = self.rest
        return Resident(
            name=f"{self.backend.name} {rank}",
            model=self.pool.name,
            state=rest.state,
            memory=self.memory,
            kept=self.settings.asleep_gb,
            sleeps=self.able and not self.leaving,
            since=rest.since,
            residence=self.settings.residence,
            in_flight=self.backend.in_flight,
            used=rest.used,
            wanted=-NEVER if self.leaving else rest.wanted,
        )


class Sleep:
    """Keeps the servers of the active Runtime that may sleep; give each new one to `follow`.

    `woken` hears of each server that was woken.
    """

    def __init__(
        self,
        observe: Listener,
        woken: Callable[[Backend], None] = _nobody,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._observe = observe
        self._woken = woken
        self._clock = clock
        self._client = asker()
        self._keepers: dict[Backend, Keeper] = {}
        self._config: Config | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due: asyncio.Handle | None = None

    def follow(self, runtime: Runtime) -> None:
        """Keep this Runtime's servers from now on, and no others."""
        self._config = runtime.config
        pools = {b: pool for pool in runtime.pools.values() for b in pool.backends}
        for backend, keeper in tuple(self._keepers.items()):
            pool = pools.get(backend)
            if pool is None:
                self._dismiss(keeper, "it has left the configuration")
            elif pool.settings.sleep is None:
                keeper.leaving, keeper.pool = True, pool
        for backend, pool in pools.items():
            if pool.settings.sleep is not None:
                self._keep(backend, pool, pool.settings.sleep, pool.settings.memory_gb or 0.0)
        self._replan()

    async def close(self) -> None:
        """End all keeping; every server stays as it is."""
        tasks = [keeper.task for keeper in self._keepers.values() if keeper.task]
        for task in tasks:
            task.cancel()
        for handle in (self._timer, self._due):
            if handle:
                handle.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    # ----------------------------------------------------------------------------- keepers

    def _keep(self, backend: Backend, pool: Pool, settings: SleepConfig, memory: float) -> None:
        if keeper := self._keepers.get(backend):
            keeper.pool, keeper.settings, keeper.memory = pool, settings, memory
            keeper.leaving = False
            backend.rest.manage(settings.wake)
            return
        keeper = Keeper(backend, pool, host_of(backend.url), settings, memory)
        self._keepers[backend] = keeper
        backend.rest.changed = self._replan_soon
        backend.rest.manage(settings.wake)
        keeper.task = asyncio.create_task(self._attend(keeper), name=f"sleep {backend.name}")

    def _dismiss(self, keeper: Keeper, why: str) -> None:
        del self._keepers[keeper.backend]
        if keeper.task and keeper.task is not asyncio.current_task():
            keeper.task.cancel()
        keeper.rest.refuse(_failed(keeper, why))
        keeper.rest.release()

    async def _attend(self, keeper: Keeper) -> None:
        """Look after one server until it is dismissed."""
        await self._look(keeper)
        keeper.rest.known.set()
        while self._keepers.get(keeper.backend) is keeper:
            self._replan()
            assert self._config
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(keeper.ordered.wait(), self._config.health.every)
            keeper.ordered.clear()
            match keeper.rest.state:
                case "waking":
                    await self._wake(keeper)
                case "falling asleep":
                    await self._lay_down(keeper)
                case _:
                    await self._look(keeper)
            if keeper.leaving and keeper.rest.state == "awake":
                del self._keepers[keeper.backend]
                keeper.rest.release()
        self._replan()

    # ---------------------------------------------------------------------------- deciding

    def _replan_soon(self) -> None:
        """Something has changed: decide anew, once for all that changes in this moment."""
        if self._due is None:
            self._due = asyncio.get_running_loop().call_soon(self._replan)

    def _replan(self) -> None:
        if self._due:
            self._due.cancel()
            self._due = None
        hosts: defaultdict[str, list[Keeper]] = defaultdict(list)
        for keeper in self._keepers.values():
            rest = keeper.rest
            if keeper.reached:
                hosts[keeper.host].append(keeper)
            if rest.state == "unknown" and rest.asked > keeper.looked:
                keeper.ordered.set()
        again = [self._decide(host, keepers) for host, keepers in hosts.items()]
        self._set_timer(min(again, default=NEVER))

    def _decide(self, host: str, keepers: list[Keeper]) -> float:
        """Decide for one host, and give the orders; when to decide again at the latest."""
        residents = [keeper.resident(rank) for rank, keeper in enumerate(keepers)]
        names = {each.name: keeper for each, keeper in zip(residents, keepers, strict=True)}
        decided = plan(residents, self._budget(host), self._clock())
        for name, keeper in names.items():
            free_at = decided.free_at.get(name, 0.0)
            keeper.rest.drain(name in decided.drain, free_at)
        for name in decided.sleep:
            self._order(names[name], "falling asleep")
        for name in decided.wake:
            self._order(names[name], "waking")
        return NEVER if decided.again is None else decided.again

    def _budget(self, host: str) -> float:
        """What this host has for those that sleep: those that never do have theirs already."""
        assert self._config
        if host not in self._config.hosts:
            return NEVER  # its models do not sleep any more, and are woken for good
        kept = {keeper.backend.url for keeper in self._keepers.values()}
        always = sum(
            model.memory_gb or 0.0
            for model in self._config.models.values()
            for url in model.backends
            if host_of(url) == host and url not in kept
        )
        return self._config.hosts[host].memory_gb - always

    def _order(self, keeper: Keeper, state: State) -> None:
        keeper.rest.enter(state)
        keeper.ordered.set()

    def _set_timer(self, when: float) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if when < NEVER:
            loop = asyncio.get_running_loop()
            delay = max(when - self._clock(), 0.0)
            self._timer = loop.call_later(delay, self._replan)

    # ------------------------------------------------------------------------------ acting

    async def _look(self, keeper: Keeper) -> None:
        """Ask whether it sleeps; believed unless it was given an order meanwhile."""
        keeper.looked = self._clock()
        url = f"{keeper.backend.url}/is_sleeping"
        assert self._config
        try:
            answer = await self._client.get(
                url, timeout=self._config.health.timeout, headers=keeper.pool.credentials
            )
        except httpx.TimeoutException:
            return  # it is busy, or on its way out, which its health will show
        except httpx.HTTPError as error:
            self._lose(keeper, repr(error))
            return
        if keeper.ordered.is_set() and keeper.rest.state in ("waking", "falling asleep"):
            return
        keeper.reached = True
        sleeping = _said(answer)
        if sleeping is None:
            if answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                keeper.able = False
                keeper.rest.why = NO_SLEEP_MODE.format(status=answer.status_code)
                self._found(keeper, sleeping=False)
            return
        keeper.able, keeper.rest.why = True, ""
        self._found(keeper, sleeping=sleeping)

    def _found(self, keeper: Keeper, *, sleeping: bool) -> None:
        rest = keeper.rest
        if sleeping and rest.state != "asleep":
            keeper.level = None
            keeper.pool.forget(keeper.backend)
            rest.enter("asleep")
        elif not sleeping and rest.state != "awake":
            rest.woke(-NEVER if rest.state == "unknown" else self._clock())
            self._woken(keeper.backend)

    def _lose(self, keeper: Keeper, why: str) -> None:
        """Nobody listens there: a server that is gone holds no memory, and wakes for nobody."""
        keeper.reached = False
        if keeper.rest.state != "unknown":
            keeper.rest.enter("unknown")
        keeper.rest.refuse(_failed(keeper, f"it cannot be reached: {why}"))

    async def _wake(self, keeper: Keeper) -> None:
        began = self._clock()
        try:
            async with asyncio.timeout(keeper.settings.timeout):
                await self._rouse(keeper)
        except (RestError, httpx.HTTPError, TimeoutError) as error:
            why = _words(error)
            self._tell(keeper, "wake_failed", began, why)
            keeper.rest.enter("unknown")
            keeper.backend.enter().leave(Blame.BACKEND)  # for its breaker, once for all in line
            keeper.rest.refuse(_failed(keeper, why))
            await self._look(keeper)
            return
        keeper.rest.woke(self._clock())
        self._tell(keeper, "woken", began)
        self._woken(keeper.backend)

    async def _rouse(self, keeper: Keeper) -> None:
        """Wake it, with its weights. At level 1 they come back by themselves; if it is not known
        how it was put to sleep, they are read anew, since nobody can tell whether they are there.
        """
        if keeper.level == 1:
            await self._post(keeper, "/wake_up")
        else:
            await self._post(keeper, "/wake_up", tags="weights")
            await self._post(keeper, "/collective_rpc", {"method": "reload_weights"})
            await self._post(keeper, "/wake_up", tags="kv_cache")
        answer = await self._client.get(
            f"{keeper.backend.url}/is_sleeping", timeout=None, headers=keeper.pool.credentials
        )
        if _said(answer) is not False:
            raise RestError(f"after /wake_up, /is_sleeping answered {_short(answer)}")

    async def _lay_down(self, keeper: Keeper) -> None:
        began = self._clock()
        level = keeper.settings.level
        keeper.pool.forget(keeper.backend)
        try:
            async with asyncio.timeout(keeper.settings.timeout):
                await self._post(keeper, "/sleep", level=str(level), mode="wait")
        except (RestError, httpx.HTTPError, TimeoutError) as error:
            self._tell(keeper, "sleep_failed", began, _words(error))
            keeper.rest.enter("unknown")
            await self._look(keeper)
            keeper.rest.since = self._clock() + AFTER_FAILURE  # not again at once
            return
        keeper.level = level
        keeper.rest.enter("asleep")
        self._tell(keeper, "slept", began)

    async def _post(
        self, keeper: Keeper, path: str, body: dict[str, str] | None = None, **query: str
    ) -> None:
        url = f"{keeper.backend.url}{path}"
        answer = await self._client.post(
            url, json=body, params=query, timeout=None, headers=keeper.pool.credentials
        )
        if not answer.is_success:
            raise RestError(f"{path} answered {_short(answer)}")

    def _tell(self, keeper: Keeper, change: str, began: float, why: str = "") -> None:
        seconds = self._clock() - began
        name = keeper.backend.name
        self._observe(SleepChanged(keeper.pool.name, name, change, seconds, why))


def _failed(keeper: Keeper, why: str) -> Fault:
    message = f"{keeper.backend.name} could not be woken: {why}"
    return Fault(Blame.BACKEND, message, 503, "wake_failed", retry_after=1.0)


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it took longer than sleep.timeout"
    return str(error) or repr(error)


def _said(answer: httpx.Response) -> bool | None:
    """What `/is_sleeping` says; None if it does not answer as it should."""
    try:
        stated = orjson.loads(answer.content) if answer.is_success else None
    except ValueError:
        return None
    sleeping = stated.get("is_sleeping") if isinstance(stated, dict) else None
    return sleeping if isinstance(sleeping, bool) else None


def _short(answer: httpx.Response) -> str:
    return f"{answer.status_code} {answer.text[:200]}".strip()

"""One model being served: its engine stepped on the event loop, each request's tokens handed out.

Knows the engine and asyncio. Must not know HTTP. The engine runs on the loop's own thread, one step
at a time with the loop's other work between: a step takes a few milliseconds at most, so nothing
needs a lock, and a cancelled request is gone before the next step.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

from deploy.pair.chat_template import ChatTemplate
from deploy.pair.engine import Engine, Generation, Job, Limits, QueueFullError, Token
from deploy.pair.gate import Gates
from deploy.pair.parameters import Defaults
from deploy.pair.refusal import Refusal, aborted, broken, queue_full, weightless
from deploy.pair.renderer import Renderer
from deploy.pair.reward import load_head
from deploy.pair.sleep import SleepMode

log = logging.getLogger(__name__)


class InFlight:
    """One request's generations, and their tokens as they come."""

    def __init__(self, generations: Sequence[Generation]) -> None:
        self.generations = generations
        self.stopped = False
        self._left = len(generations)
        self._heard: asyncio.Queue[tuple[int, Token] | Refusal | None] = asyncio.Queue()

    def hear(self, choice: int, token: Token) -> None:
        """The engine made a token."""
        self._heard.put_nowait((choice, token))

    def end(self, why: Refusal | None) -> None:
        """No more tokens will come: the request was stopped, or refused after all."""
        self.stopped = True
        self._heard.put_nowait(why)

    async def tokens(self) -> AsyncIterator[tuple[int, Token]]:
        """Every (choice, token) in order, until all choices are finished or the request ends.

        Raises the Refusal that it was ended with.
        """
        while self._left:
            match await self._heard.get():
                case None:
                    return
                case Refusal() as refusal:
                    raise refusal
                case choice, token:
                    self._left -= token.finish is not None
                    yield choice, token


class Served:
    """A named model."""

    def __init__(self, name: str, folder: Path, limits: Limits | None = None) -> None:
        """Loads the folder's files. Raises ModelFilesError; ValueError for a wrong environment."""
        self.name = name
        self.folder = folder
        self.engine = Engine(folder, limits)
        codec, shape = self.engine.codec, self.engine.graph.shape
        gates = Gates(folder, codec, shape, os.environ)
        self.renderer = Renderer(codec, ChatTemplate(folder), shape, Defaults.of(folder), gates)
        self.fingerprint = f"tandem-pair-{self.engine.graph.checksum:08x}"
        self.cancelled_requests = 0
        self.healthy = True
        self.sleep = SleepMode(self.engine)
        self.reward = load_head(folder, self.engine.graph)
        self._open: dict[Generation, tuple[InFlight, int]] = {}
        self._work = asyncio.Event()

    def start(self, jobs: Sequence[Job]) -> InFlight:
        """Begin these jobs together. Raises Refusal: 503 without room for all, 500 when broken."""
        if not self.healthy:
            raise broken()
        if not self.sleep.paused and not self.sleep.usable:
            raise weightless()
        try:
            generations = self.engine.submit(jobs)
        except QueueFullError:
            raise queue_full() from None
        flight = InFlight(generations)
        self._open.update((each, (flight, at)) for at, each in enumerate(generations))
        self._work.set()
        return flight

    def stop(self, flight: InFlight) -> None:
        """Cancel what is left of a request; does nothing when it has ended."""
        left = [each for each in flight.generations if self._open.pop(each, None)]
        for generation in left:
            self.engine.cancel(generation)
        if left:
            self.cancelled_requests += 1
            flight.end(None)

    def score(self, prompt: Sequence[int], *, squashed: bool) -> float:
        """What the reward head says of these tokens: a probability, or its logit."""
        assert self.reward is not None, "there is no reward head"
        return self.reward.score(self.engine.mean_hidden(prompt), squashed=squashed)

    async def fall_asleep(self, level: int, *, wait: bool) -> None:
        """Sleep, once what runs has finished, or was broken off."""
        if not wait:
            self._end_all(aborted())
        await self.sleep.sleep(level)

    def wake_up(self, tags: Iterable[str] | None) -> bool:
        """Wake, all of it or these parts; whether it is awake now."""
        awake = self.sleep.wake_up(tags)
        if awake and not self.sleep.usable:
            self._end_all(weightless())
        return awake

    async def awake(self) -> None:
        """Wait until the model may be used. Raises Refusal if it has no weights then."""
        await self.sleep.resumed.wait()
        if not self.sleep.usable:
            raise weightless()

    async def run(self) -> None:
        """Step the engine whenever there is something to do, until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self._open:
                if self.sleep.paused and not self.engine.running:
                    self.sleep.idle.set()
                    await self.sleep.resumed.wait()
                else:
                    self._step()
                    await asyncio.sleep(0)
            self.sleep.idle.set()

    def _end_all(self, why: Refusal) -> None:
        for flight in {flight for flight, _ in self._open.values()}:
            left = [each for each in flight.generations if self._open.pop(each, None)]
            for generation in left:
                self.engine.cancel(generation)
            flight.end(why)

    def _step(self) -> None:
        try:
            made = self.engine.step()
        except Exception:
            # The engine's state is not to be trusted after this: end everything, and say so.
            log.exception("model %s: a step failed; it serves no more", self.name)
            self.healthy = False
            for flight in {flight for flight, _ in self._open.values()}:
                flight.end(broken())
            self._open.clear()
            return
        for generation, token in made:
            flight, choice = self._open[generation]
            if token.finish is not None:
                del self._open[generation]
            flight.hear(choice, token)

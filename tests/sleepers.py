"""Scripted servers that sleep as vLLM does, or as the test wants them to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.running import Config, config, model
from tests.scripted import Backend, Call, Script, answers


@dataclass(slots=True)
class Sleeper:
    """The sleep mode of a scripted backend. `told` holds what it was told to do, in order, and
    what was asked of it meanwhile; while `may_wake` is clear, waking hangs.
    """

    backend: Backend
    sleeping: bool = False
    told: list[str] = field(default_factory=list)
    may_wake: asyncio.Event = field(default_factory=asyncio.Event)
    instead: dict[str, Script] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.may_wake.set()
        usual = self.backend.asked

        async def asked(call: Call) -> None:
            path, _, query = call.path.partition("?")
            if path != "/is_sleeping":
                self.told.append(call.path)
            if path in self.instead:
                await self.instead[path](call)
            elif path == "/is_sleeping":
                await answers({"is_sleeping": self.sleeping})(call)
            elif path == "/sleep":
                self.sleeping = True
                await answers({"status": "sleeping"})(call)
            elif path == "/wake_up":
                await self.may_wake.wait()
                self.sleeping = query == "tags=weights"
                await answers({"status": "awake"})(call)
            elif path == "/collective_rpc":
                assert call.json == {"method": "reload_weights"}
                await answers({"results": [None]})(call)
            else:
                await usual(call)

        self.backend.asked = asked

    @property
    def orders(self) -> list[str]:
        """What it was told of sleep."""
        ways = ("/sleep", "/wake_up", "/collective_rpc")
        return [told for told in self.told if told.startswith(ways)]


def shared(
    small: Backend | str, large: Backend | str, sleep: Mapping[str, Any] | None = None, **said: Any
) -> Config:
    """A configuration in which the two servers share a host that has memory for one."""
    tree = config({"small": small, "large": large}, **said)
    tree["hosts"] = {"127.0.0.1": {"memory_gb": 10}}
    for name, backend in (("small", small), ("large", large)):
        settings = {"residence": 0, "wake": 2, **(sleep or {})}
        tree["models"][name] = model(backend, memory_gb=6, sleep=settings)
    return tree

"""The small pages of the clients' listener: models, health, readiness. JSON out of the Runtime."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.sink import Receive, Send
from router.fleet import Price
from router.references import references
from router.runtime import MODEL, Runtime

LINGER = 5.0
"""Seconds: 50 MB arrive in less over any line that is worth sending them over."""
JSON = (b"content-type", b"application/json")


@dataclass(slots=True)
class Page:
    """One answer that is there at once; `head` may bring its own content type."""

    status: int
    body: bytes
    head: list[tuple[bytes, bytes]] = field(default_factory=list)

    async def send(self, send: Send, *, head_only: bool = False) -> None:
        """Send it, without the body to a HEAD request."""
        typed = any(name == b"content-type" for name, _ in self.head)
        head = [*self.head, *([] if typed else [JSON])]
        head.append((b"content-length", b"%d" % len(self.body)))
        await send({"type": "http.response.start", "status": self.status, "headers": head})
        await send({"type": "http.response.body", "body": b"" if head_only else self.body})

    async def send_while_reading(self, send: Send, receive: Receive) -> None:
        """Send it to a client that is still sending: hanging up on one that has not been read would
        take the answer away from it. What it sends is thrown away, for `LINGER` seconds at most.
        """
        head = [*self.head, JSON, (b"content-length", b"%d" % len(self.body))]
        await send({"type": "http.response.start", "status": self.status, "headers": head})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while (await receive()).get("more_body"):
                    pass
        await send({"type": "http.response.body", "body": b""})


def health() -> Page:
    """The process answers: that is all this says."""
    return Page(200, b'{"status":"ok"}')


def ready(runtime: Runtime, *, draining: bool) -> Page:
    """Whether traffic should come here: not while draining, nor while no model has a backend."""
    states = {
        name: {backend.name: backend.state for backend in pool.backends}
        for name, pool in runtime.pools.items()
    }
    able = any(pool.candidates() for pool in runtime.pools.values())
    status = "draining" if draining else "ready" if able else "no backend is up"
    body = {"status": status, "revision": runtime.revision, "models": states}
    return Page(200 if status == "ready" else 503, orjson.dumps(body))


def models(runtime: Runtime, may_use: Callable[[str], bool]) -> Page:
    """OpenAI's list of models: policies and models alike, each with what it is."""
    data = [_card(runtime, name) for name in runtime.targets if may_use(name)]
    return Page(200, orjson.dumps({"object": "list", "data": data}))


def model_card(runtime: Runtime, name: str) -> Page:
    """One entry of that list."""
    return Page(200, orjson.dumps(_card(runtime, name)))


def _card(runtime: Runtime, name: str) -> Mapping[str, Any]:
    kind = "model" if name in runtime.pools else "policy"
    card = {"id": name, "object": "model", "created": 0, "owned_by": "tandem"}
    if kind == "policy":
        uses = list(dict.fromkeys(r.name for r in references(runtime.targets[name])))
        return {
            **card,
            "tandem": {
                "kind": kind,
                "use": runtime.kinds.get(name, MODEL),
                "targets": list(uses),
                "default": name == runtime.default,
            },
        }
    view = runtime.pools[name].view()
    about = {
        "kind": kind,
        "params_b": view.params_b,
        "price": _price(view.price),
        "surfaces": sorted(view.abilities.surfaces or ()),
        "healthy": view.healthy,
        "default": name == runtime.default,
    }
    return {**card, "max_model_len": view.context, "tandem": about}


def _price(price: Price) -> Mapping[str, float]:
    """What a client is told of it; a call's own price only where it has one."""
    told = {"input": price.input, "output": price.output}
    return {**told, "call": price.call} if price.call else told

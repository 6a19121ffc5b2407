"""What is said at start: what each backend can do, and where to go from here. Text only."""

from __future__ import annotations

import json
import socket
from ipaddress import ip_address
from typing import Any

from router.backend import Backend
from router.config import Config
from router.runtime import Runtime

IPV4 = 4
QUESTION = "A shop has 36 pens. It sells 17 and then buys 25 more. How many pens are there now?"


def backends_report(runtime: Runtime) -> str:
    """A line per backend, with what probing found or why it cannot serve."""
    lines = [
        f"  {pool.name:<12} {backend.name:<22} {_found(backend)}"
        for pool in runtime.pools.values()
        for backend in pool.backends
    ]
    return "\n".join(["backends:", *lines])


def _found(backend: Backend) -> str:
    if not backend.healthy:
        return f"unhealthy: {backend.why}"
    if not backend.probed:
        return (
            f"no answer yet: it is {backend.rest.state}" if not backend.awake else "no answer yet"
        )
    able = backend.abilities
    found = {
        "version": able.version,
        "context": able.context,
        "logprobs": able.max_logprobs,
        "token ids": able.token_ids,
        "tokenizer": able.fingerprint,
        "gate": False if able.gate is None else able.gate,
        "surfaces": None if able.surfaces is None else len(able.surfaces),
    }
    told = ", ".join(f"{name} {_word(value)}" for name, value in found.items())
    return f"{told}; {backend.rest.why}" if backend.rest.why else told


def _word(value: object) -> str:
    words = {True: "yes", False: "no", None: "unknown"}
    return words[value] if isinstance(value, bool) or value is None else str(value)


def welcome(
    config: Config, front: socket.socket, back: socket.socket, admin: str, *, embedded: bool
) -> str:
    """Where the gateway is, a call that works, and what to open."""
    here, there = _url(front), _url(back)
    body: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}]}
    if embedded:
        body = {"model": "auto", "temperature": 0, **body}
    keys = "keys: required" if config.keys else "keys: none configured, the gateway is open"
    key = " -H 'authorization: Bearer KEY'" if config.keys else ""
    return "\n".join(
        [
            f"Tandem is listening on {here}",
            f"  {keys}",
            f"  {admin}",
            "  try:",
            f"    curl -s {here}/v1/chat/completions -H 'content-type: application/json'{key} \\",
            f"      -d '{json.dumps(body)}'",
            f"  open: {there}/ui  {there}/admin/docs  {here}/v1/models  {here}/metrics",
            "  stop: Ctrl-C",
        ]
    )


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    address = ip_address(host)
    if address.is_unspecified:  # every interface: the loopback one is there for sure
        host = "127.0.0.1" if address.version == IPV4 else "::1"
    return f"http://{host}:{port}" if ":" not in host else f"http://[{host}]:{port}"

"""Tandem as the process under test: its config, its keys, its admin API and its metrics.

Keys, metrics and one `direct` policy are on, the log is off: what the figures are promised for.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from app.bench.processes import BenchError, Running, answers, free_port, running
from app.bench.upstream import MODEL

__all__ = ["KEY", "Gateway", "document", "started"]

KEY = "tdm-bench-0123456789abcdef0123456789abcdef"
"""The client's key, one of several in the file."""

OTHER_KEYS = 20
"""More keys in the file, so that looking one up is not a search among one."""

TANDEM = "import sys; from app.cli import main; sys.exit(main())"
"""The `tandem` command, whether or not this checkout is installed."""

ASK_SECONDS = 30.0
"""Longest wait for an answer to the benchmark's own questions, under load."""


def document(upstream: int, keys: Path, served_as: str = MODEL) -> dict[str, Any]:
    """A config: one model on 127.0.0.1:`upstream`, and `bench`, a `direct` policy to it."""
    return {
        "keys": {"file": str(keys)},
        "models": {
            "only": {
                "backends": [f"http://127.0.0.1:{upstream}"],
                "served_as": served_as,
                "price": {"input": 0.1, "output": 0.4},
            }
        },
        "policies": {MODEL: {"use": "direct", "model": "only"}},
        "default": MODEL,
    }


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running Tandem; `admin` is the port of its admin API, `keys` its file of keys."""

    process: Running
    admin: int
    keys: Path

    def swap(self, tree: Mapping[str, Any], client: httpx.Client) -> int:
        """Replace the config; the new revision's number."""
        answer = self._ask(client, "PUT", self.admin, "/admin/config", tree)
        number: int = answer.json()["number"]
        return number

    def metric(self, name: str, client: httpx.Client) -> float:
        """The sum of a metric's samples, over all its labels."""
        page = self._ask(client, "GET", self.process.port, "/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(page.text)
            for sample in family.samples
            if sample.name == name
        )

    def _ask(
        self,
        client: httpx.Client,
        method: str,
        port: int,
        path: str,
        tree: Mapping[str, Any] | None = None,
    ) -> httpx.Response:
        headers = {"if-match": "*"} if tree else {}
        url = f"http://127.0.0.1:{port}{path}"
        try:
            answer = client.request(method, url, json=tree, headers=headers, timeout=ASK_SECONDS)
            answer.raise_for_status()
        except httpx.HTTPStatusError as error:
            refusal = error.response
            raise BenchError(f"{path}: {refusal.status_code} {refusal.text[:600]}") from error
        except httpx.TransportError as error:
            output = self.process.log_tail()
            raise BenchError(f"{path}: {error}; the gateway's output:\n{output}") from error
        return answer


@contextmanager
def started(
    upstream: int, folder: Path, cpu: int | None, more: Mapping[str, Any] | None = None
) -> Iterator[Gateway]:
    """Tandem in front of 127.0.0.1:`upstream`; its files go into `folder`. `more` are sections of
    its config beside those of `document`.
    """
    port, admin = free_port(), free_port()
    secrets = [KEY, *(f"{KEY}-{number}" for number in range(OTHER_KEYS))]
    entries = [
        {"name": f"client-{number}", "sha256": hashlib.sha256(secret.encode()).hexdigest()}
        for number, secret in enumerate(secrets)
    ]
    keys = folder / "keys.yaml"
    keys.write_text(json.dumps({"keys": entries}))  # JSON is YAML
    config = folder / "gateway.json"
    config.write_text(json.dumps({**document(upstream, keys), **(more or {})}))
    command = [
        *(sys.executable, "-c", TANDEM, "serve", "--config", str(config)),
        *("--port", str(port), "--admin-port", str(admin)),
    ]
    with running(command, port, cpu=cpu, ready=lambda port: answers(port) and answers(admin)) as it:
        yield Gateway(it, admin, keys)

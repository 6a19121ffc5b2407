"""A real nginx with the configuration that ships, between a client and a gateway, with TLS.

It listens on loopback, its paths and its certificate are the test's; all else is as it stands in
`deploy/nginx/tandem.conf`.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.conftest import Started
from tests.deploy.dockerfile import ROOT
from tests.running import CHAT, MESSAGES, config
from tests.scripted import PATIENCE, Backend, chat_events, chunks, pauses, stalls

NAME = "tandem.example.org"
MAIN = """
daemon off; master_process off; pid {folder}/pid; error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    include {folder}/tandem.conf;
}}
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("nginx") and shutil.which("openssl")), reason="no nginx or no openssl"
    ),
]


@asynccontextmanager
async def fronted(gateway: str, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an nginx in front of this gateway."""
    port = _free()
    _certificate(folder)
    text = (ROOT / "deploy" / "nginx" / "tandem.conf").read_text()
    moved = {
        "server 127.0.0.1:8000": f"server {gateway.removeprefix('http://')}",
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/nginx/tls/": f"{folder}/",
    }
    for theirs, ours in moved.items():
        assert theirs in text
        text = text.replace(theirs, ours)
    (folder / "tandem.conf").write_text(text)
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder))
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
    trusted = ssl.create_default_context(cafile=str(folder / "tandem.pem"))
    try:
        url = f"https://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, verify=trusted, timeout=PATIENCE) as client:
            async with asyncio.timeout(PATIENCE):
                while not await _answers(client):
                    assert process.returncode is None
                    await asyncio.sleep(0.02)
            yield client
    finally:
        process.terminate()
        await process.wait()


async def test_tokens_leave_as_they_come(gateway: Started, small: Backend, tmp_path: Path) -> None:
    running = await gateway(config({"small": small}))
    more = asyncio.Event()
    first, *rest = chat_events(["one", " two"])
    small.plays(pauses(more, first, chunks(*rest)))
    async with fronted(running.url, tmp_path) as client:
        body = {"messages": MESSAGES, "stream": True}
        async with client.stream("POST", CHAT, json=body) as answer:
            assert answer.status_code == 200
            pieces = answer.aiter_bytes()
            assert b"assistant" in await anext(pieces)
            more.set()
            come = b"".join([piece async for piece in pieces])
    assert b" two" in come
    assert b"[DONE]" in come


async def test_a_client_that_leaves_is_seen_by_the_backend(
    gateway: Started, small: Backend, tmp_path: Path
) -> None:
    running = await gateway(config({"small": small}))
    small.plays(stalls(*chat_events(["one"])[:2]))
    async with fronted(running.url, tmp_path) as client:
        body = {"messages": MESSAGES, "stream": True}
        async with client.stream("POST", CHAT, json=body) as answer:
            await anext(answer.aiter_bytes())
        ended = await running.ended()
        assert ended.status == 499
        call = await small.call()
        await asyncio.wait_for(call.gone.wait(), PATIENCE)


async def test_what_is_too_large_is_refused_by_the_gateway_in_json(
    gateway: Started, small: Backend, tmp_path: Path
) -> None:
    running = await gateway(config({"small": small}))
    async with fronted(running.url, tmp_path) as client:
        large = {"messages": [{"role": "user", "content": "x" * (20 * 2**20)}]}
        answer = await client.post(CHAT, json=large)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"


async def test_only_what_clients_call_is_reached(
    gateway: Started, small: Backend, tmp_path: Path
) -> None:
    running = await gateway(config({"small": small}))
    async with fronted(running.url, tmp_path) as client:
        assert (await client.get("/v1/models")).status_code == 200
        for path in ("/metrics", "/readyz", "/admin/revisions", "/"):
            assert (await client.get(path)).status_code == 404, path


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/")).status_code == 404
    except httpx.TransportError:
        return False


def _certificate(folder: Path) -> None:
    made = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={NAME}"]
    names = ["-addext", f"subjectAltName=DNS:{NAME},IP:127.0.0.1"]
    files = ["-keyout", str(folder / "tandem.key"), "-out", str(folder / "tandem.pem")]
    subprocess.run(["openssl", "req", *made, *names, *files], check=True, capture_output=True)


def _free() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port

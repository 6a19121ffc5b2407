"""HTTP to the backends: what is sent, and what each way to fail is called."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager

import pytest

from router.faults import Blame, FaultError
from router.upstream import STALE, Reply, Upstream
from tests.running import eventually, refusing, unaccepting
from tests.scripted import Backend, Call, answers, hangs_up, raw, silent, stalls, streams

HEADERS = {"content-type": "application/json", "x-request-id": "req-1"}


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    it = Upstream(connect=1.5)
    yield it
    await it.close()


async def sent(upstream: Upstream, backend: Backend | str, body: bytes = b"{}") -> Reply:
    url = backend if isinstance(backend, str) else backend.url
    return await upstream.send(url, "/v1/completions", body, HEADERS)


async def test_what_is_sent_is_what_was_given(upstream: Upstream, small: Backend) -> None:
    small.plays(answers(b'{"a": 1}'))
    reply = await sent(upstream, small, b"any \xff bytes")
    assert (reply.status, reply.kind) == (200, "application/json")
    assert await reply.read_whole(100) == b'{"a": 1}'
    call = small.calls[0]
    assert (call.method, call.path, call.body) == ("POST", "/v1/completions", b"any \xff bytes")
    assert call.headers == HEADERS | {"host": small.name, "content-length": "11"}


async def test_a_backend_may_live_below_a_path(upstream: Upstream, small: Backend) -> None:
    small.plays(answers(b"{}"))
    await sent(upstream, f"{small.url}/team%20a")
    assert small.calls[0].path == "/team%20a/v1/completions"


async def test_a_stream_comes_as_it_arrives(upstream: Upstream, small: Backend) -> None:
    more = asyncio.Event()

    async def script(call: Call) -> None:
        await call.head()
        await call.chunk(b"one")
        await more.wait()
        await call.chunk(b"two")
        await call.end()

    small.plays(script)
    reply = await sent(upstream, small)
    assert (reply.status, reply.kind) == (200, "text/event-stream")
    assert await reply.read() == b"one"
    more.set()
    assert await reply.read() == b"two"
    assert await reply.read() == b""


async def test_redirects_are_not_followed_nor_bodies_unpacked(
    upstream: Upstream, small: Backend
) -> None:
    elsewhere = [("location", f"{small.url}/elsewhere")]

    async def redirects(call: Call) -> None:
        await call.whole(b"\x1f\x8b", 307, headers=[*elsewhere, ("content-encoding", "gzip")])

    small.plays(redirects)
    reply = await sent(upstream, small)
    assert (reply.status, await reply.read_whole(10)) == (307, b"\x1f\x8b")
    assert len(small.calls) == 1


@pytest.mark.parametrize(
    ("nobody", "code"), [(refusing, "unreachable"), (unaccepting, "connect_timeout")]
)
async def test_nobody_there(
    upstream: Upstream, nobody: Callable[[], AbstractContextManager[str]], code: str
) -> None:
    with nobody() as url, pytest.raises(FaultError) as caught:
        await sent(upstream, url)
    fault = caught.value.fault
    assert (fault.blame, fault.status, fault.code) == (Blame.BACKEND, 502, code)


async def test_no_http(upstream: Upstream, small: Backend) -> None:
    small.plays(raw(b"220 smtp ready\r\n"))
    with pytest.raises(FaultError) as caught:
        await sent(upstream, small)
    assert caught.value.fault.code == "malformed"


async def test_a_call_that_breaks_late_is_not_made_again(
    upstream: Upstream, small: Backend
) -> None:
    async def thinks_and_dies(call: Call) -> None:
        await asyncio.sleep(2 * STALE)  # the backend's time: it was at work
        call.hang_up()

    small.plays(thinks_and_dies)
    with pytest.raises(FaultError) as caught:
        await sent(upstream, small)
    assert caught.value.fault.code == "hung_up"
    assert len(small.calls) == 1


async def test_a_kept_connection_that_was_closed_is_replaced_once(
    upstream: Upstream, small: Backend
) -> None:
    await (await sent(upstream, small, b'{"model": ""}')).read_whole(1000)
    small.plays(hangs_up, hangs_up, hangs_up)
    with pytest.raises(FaultError):
        await sent(upstream, small)
    assert len(small.calls) == 3


async def test_a_body_over_the_limit(upstream: Upstream, small: Backend) -> None:
    small.plays(streams(b"x" * 60, b"x" * 60))
    reply = await sent(upstream, small)
    with pytest.raises(FaultError) as caught:
        await reply.read_whole(100)
    assert caught.value.fault.code == "answer_too_large"


async def test_closing_hangs_up_at_once(upstream: Upstream, small: Backend) -> None:
    small.plays(stalls(b"one"))
    reply = await sent(upstream, small)
    assert await reply.read() == b"one"
    reply.close()
    reply.close()
    await eventually(lambda: small.cancelled == 1)


async def test_cancelling_hangs_up_at_once(upstream: Upstream, small: Backend) -> None:
    small.plays(silent)
    sending = asyncio.create_task(sent(upstream, small))
    await small.call()
    sending.cancel()
    await eventually(lambda: small.cancelled == 1)


@pytest.mark.parametrize("ends", [True, False])
async def test_a_stream_that_ends_by_itself_keeps_its_connection(
    upstream: Upstream, small: Backend, ends: bool
) -> None:
    small.plays(streams(b"last") if ends else stalls(b"last"))
    for _ in range(2):
        reply = await sent(upstream, small)
        assert await reply.read() == b"last"
        await reply.finish()
        reply.close()
    assert small.connected == (1 if ends else 2)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL])
async def test_what_is_missing_here_is_not_the_backends_fault(
    upstream: Upstream, small: Backend, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object, **__: object) -> None:
        raise OSError(number, "Too many open files")

    monkeypatch.setattr(upstream._client._loop, "create_connection", fails, raising=False)
    with pytest.raises(FaultError) as caught:
        await sent(upstream, small)
    fault = caught.value.fault
    assert (fault.blame, fault.status, fault.code) == (Blame.GATEWAY, 503, "exhausted")
    assert "ulimit" in fault.message
    assert not fault.elsewhere

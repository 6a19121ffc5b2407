"""What every store promises, on a real file and a real server."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import sys
from pathlib import Path

import pytest

from app.state.memory import MemoryStore
from app.state.redis import RedisStore
from app.state.sqlite import SqliteStore
from app.state.store import Change, Json, Store, StoreError
from tests.state.servers import Server, redis

PROCESSES, TIMES = 4, 50


def add(number: int) -> Change:
    def more(document: Json, _: float) -> Json:
        return {"sum": (document or {"sum": 0})["sum"] + number}

    return more


async def test_a_document_is_changed_from_what_it_says(store: Store) -> None:
    assert await store.change({"a": lambda document, _: document}) == {"a": None}
    assert await store.change({"b": lambda *_: None, "a": lambda *_: None}) == {
        "a": None,
        "b": None,
    }
    assert await store.change({"a": add(1), "b": add(5)}) == {"a": {"sum": 1}, "b": {"sum": 5}}
    assert await store.change({"a": add(2)}) == {"a": {"sum": 3}}
    assert await store.change({}) == {}


async def test_of_many_changes_at_once_none_is_lost(store: Store) -> None:
    await asyncio.gather(*(store.change({"a": add(1), "b": add(2)}) for _ in range(40)))
    assert await store.change({"a": add(0), "b": add(0)}) == {"a": {"sum": 40}, "b": {"sum": 80}}


async def test_time_never_falls(store: Store) -> None:
    times: list[float] = []

    def tell(_: Json, now: float) -> Json:
        times.append(now)
        return now

    for _ in range(20):
        await store.change({"a": tell})
    assert times == sorted(times)
    assert times[-1] > times[0]


async def test_a_log_is_numbered_from_one_and_read_from_anywhere(store: Store) -> None:
    assert [await store.append("log", {"n": n}) for n in range(3)] == [1, 2, 3]
    assert await store.append("another", "x") == 1
    entries = await store.entries("log", 1)
    assert [(entry.number, entry.value) for entry in entries] == [(2, {"n": 1}), (3, {"n": 2})]
    assert list(await store.entries("log", 3)) == []
    assert list(await store.entries("none", 0)) == []


async def test_whoever_does_not_know_the_last_entry_adds_none(store: Store) -> None:
    assert await store.append("log", "a", after=0) == 1
    assert await store.append("log", "b", after=0) is None
    assert await store.append("log", "b", after=1) == 2
    assert await store.append("log", "c", after=6) == 7, "a log that was lost goes on where it was"
    assert await store.append("log", "d", after=6) is None
    assert await store.append("log", "d") == 8


async def test_of_many_who_add_after_the_same_entry_one_does(store: Store) -> None:
    added = await asyncio.gather(*(store.append("log", n, after=0) for n in range(10)))
    assert sorted(n for n in added if n) == [1]
    assert len(await store.entries("log", 0)) == 1


async def test_a_log_forgets_its_beginning(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(1, 1011):
        await store.append("log", n)
    entries = await store.entries("log", 0)
    assert [entry.value for entry in entries] == list(range(11, 1011))
    assert await store.append("log", 0, after=1010) == 1011


async def test_rows_tell_their_age(store: Store) -> None:
    await store.put("table", "a", {"x": 1})
    await store.put("table", "a", {"x": 2})
    await store.put("table", "b", "text")
    await store.put("other", "c", None)
    rows = await store.rows("table")
    assert {name: row.value for name, row in rows.items()} == {"a": {"x": 2}, "b": "text"}
    assert all(0 <= row.age < 5 for row in rows.values())
    await store.remove("table", ["a", "nobody"])
    await store.remove("table", [])
    assert set(await store.rows("table")) == {"b"}


async def test_a_change_that_fails_changes_nothing(store: Store) -> None:
    await store.change({"a": add(1)})

    def wrong(document: Json, _: float) -> Json:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store.change({"a": add(1), "b": wrong})
    assert await store.change({"a": add(0)}) == {"a": {"sum": 1}}


CHILD = """
import asyncio, sys
from pathlib import Path
from app.state.sqlite import SqliteStore
from app.state.redis import RedisStore

async def main(where, times):
    store = RedisStore(where, "many") if "://" in where else SqliteStore(Path(where))
    for _ in range(times):
        await store.change({"sum": lambda was, now: (was or 0) + 1})
        await store.append("log", "x")
    await store.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_processes_lose_nothing_to_each_other(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("server").url if kind == "redis" else ""
    where = url or str(tmp_path / "state.sqlite")
    command = [sys.executable, "-c", CHILD, where, str(TIMES)]
    children = [await asyncio.create_subprocess_exec(*command) for _ in range(PROCESSES)]
    assert [await child.wait() for child in children] == [0] * PROCESSES
    store = RedisStore(url, "many") if url else SqliteStore(tmp_path / "state.sqlite")
    assert await store.change({"sum": lambda was, _: was}) == {"sum": PROCESSES * TIMES}
    numbers = [entry.number for entry in await store.entries("log", 0)]
    assert numbers == list(range(1, PROCESSES * TIMES + 1))
    await store.close()


async def test_a_server_that_is_killed_is_an_error_and_no_wait(tmp_path: Path) -> None:
    with redis(tmp_path) as server:
        store = RedisStore(server.url)
        await store.put("table", "a", 1)
        server.kill()
        for _ in range(2):
            with pytest.raises(StoreError, match="cannot be reached"):
                await store.rows("table")
        server.start()
        await store.put("table", "a", 2)
        assert (await store.rows("table"))["a"].value == 2
        await store.close()


async def test_a_server_that_says_nothing_is_an_error(tmp_path: Path) -> None:
    """Connections are accepted, by the system, and never answered: as after a lost network."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        store = RedisStore(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        async with asyncio.timeout(10):
            with pytest.raises(StoreError):
                await store.change({"a": add(1)})
        await store.close()


async def test_a_server_in_trouble_is_an_error(server: Server) -> None:
    """One that may not write, as with a full disk or as a replica."""
    store = RedisStore(server.url, "wrong")
    store._redis.connection_pool.connection_kwargs["db"] = 99
    with pytest.raises(StoreError, match="out of range"):
        await store.put("table", "a", 1)
    await store.close()


async def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "not-there" / "state.sqlite")
    with pytest.raises(StoreError, match="unable to open"):
        await store.put("table", "a", 1)
    (tmp_path / "not-there").mkdir()
    await store.put("table", "a", 1)
    await store.close()


async def test_a_file_that_is_no_store_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    path.write_text("Dear diary, " * 1000)
    store = SqliteStore(path)
    with pytest.raises(StoreError, match="not a database"):
        await store.rows("table")
    await store.close()


async def test_a_file_that_is_taken_away_is_made_anew(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.sqlite")
    await store.put("table", "a", 1)
    for left in ("", "-wal", "-shm"):
        store.path.with_name(f"state.sqlite{left}").unlink()
    assert await store.rows("table") == {}
    await store.close()


async def test_rows_from_before_a_boot_are_old(tmp_path: Path) -> None:
    clock = iter([5000.0, 10.0])
    store = SqliteStore(tmp_path / "state.sqlite", lambda: next(clock))
    await store.put("table", "a", 1)
    assert (await store.rows("table"))["a"].age == math.inf
    await store.close()


async def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.sqlite")
    await store.put("table", "a", 1)
    assert (tmp_path / "state.sqlite").stat().st_mode & 0o777 == 0o600
    await store.close()


async def test_two_gateways_on_one_server_do_not_meet(server: Server) -> None:
    one, two = RedisStore(server.url, "one"), RedisStore(server.url, "two")
    await one.put("table", "a", 1)
    await one.append("log", "x")
    assert await two.rows("table") == {}
    assert await two.append("log", "y", after=0) == 1
    await one.close()
    await two.close()


async def test_all_that_is_kept_is_json(server: Server) -> None:
    """So that people can look at it with redis-cli."""
    store = RedisStore(server.url, "readable")
    await store.change({"key/alice": lambda *_: {"usd": 1.5}})
    found = await store._redis.hget("{readable}:documents", "key/alice")
    assert json.loads(str(found)) == {"usd": 1.5}
    await store.close()


def test_a_store_in_memory_needs_no_loop_to_be_made() -> None:
    assert MemoryStore().kind == "memory"

"""A store for the processes of many machines: a Redis or Valkey server.

Each verb is one round trip, but for `change`: it reads, computes here, and writes by a script only
if nobody else has written in between, else it begins again. So what a change means is said once, in
Python, and not a second time in Lua. Names share one hash tag, as a cluster wants it.

Time is the server's, since its machine's clock may be set back: the highest that was ever read is
kept beside the documents, and counts.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from app.state.store import LONGEST_LOG, PATIENCE, Change, Entry, Json, Row, StoreError

NOW = """
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local last = tonumber(redis.call('GET', KEYS[1]) or '0')
if now < last then now = last else redis.call('SET', KEYS[1], string.format('%.6f', now)) end
"""
"""The server's time, which never falls."""

LOOK = f"""{NOW}
local found = {{string.format('%.6f', now)}}
for i, name in ipairs(ARGV) do found[i + 1] = redis.call('HGET', KEYS[2], name) end
return found
"""
SWAP = """
for i = 1, #ARGV, 3 do
  local is = redis.call('HGET', KEYS[1], ARGV[i])
  if (is or '') ~= ARGV[i + 1] then return 0 end
end
for i = 1, #ARGV, 3 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2]) end
return 1
"""
APPEND = f"""
local top = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local last = 0
if top[1] then last = tonumber(string.match(top[1][1], '^(%d+)')) end
if ARGV[2] ~= '' and tonumber(ARGV[2]) < last then return 0 end
if ARGV[2] ~= '' then last = tonumber(ARGV[2]) end
redis.call('XADD', KEYS[1], 'MAXLEN', '=', {LONGEST_LOG}, (last + 1) .. '-0', 'v', ARGV[1])
return last + 1
"""
PUT = f"""{NOW}
redis.call('HSET', KEYS[2], ARGV[1], string.format('%.6f', now) .. ' ' .. ARGV[2])
return 1
"""
ROWS = f"""{NOW}
return {{string.format('%.6f', now), redis.call('HGETALL', KEYS[2])}}
"""

PAUSE = 0.002
"""Seconds, at most twice that, after which a change that met another one begins again."""


class RedisStore:
    """The server at `url`, as redis-py reads it. `name` keeps several gateways apart on one."""

    kind = "redis"

    def __init__(self, url: str, name: str = "tandem") -> None:
        self._redis: Redis = Redis.from_url(
            url,
            socket_timeout=PATIENCE,
            socket_connect_timeout=PATIENCE,
            retry=Retry(NoBackoff(), 1),  # once: a connection that the server had closed
            decode_responses=True,
        )
        self._prefix = f"{{{name}}}:"
        script = self._redis.register_script
        self._look, self._swap, self._append = script(LOOK), script(SWAP), script(APPEND)
        self._put, self._rows = script(PUT), script(ROWS)

    async def change(self, changes: Mapping[str, Change]) -> dict[str, Json]:
        """Change each document by its function, and give what they say now."""
        names, documents = list(changes), self._key("documents")
        with _reached():
            async with asyncio.timeout(PATIENCE):
                while names:
                    now, *found = await self._look([self._key("time"), documents], names)
                    changed = {
                        name: changes[name](json.loads(old) if old else None, float(now))
                        for name, old in zip(names, found, strict=True)
                    }
                    arguments: list[str] = []
                    for (name, new), old in zip(changed.items(), found, strict=True):
                        if new is not None:
                            arguments += [name, old or "", json.dumps(new)]
                    if not arguments or await self._swap([documents], arguments):
                        return changed
                    await asyncio.sleep(PAUSE * (1 + random.random()))
        return {}

    async def append(self, log: str, value: Json, after: int | None = None) -> int | None:
        """Add an entry, and give its number; None if there are later ones than `after`."""
        with _reached():
            arguments = [json.dumps(value), "" if after is None else after]
            return await self._append([self._key(f"log:{log}")], arguments) or None

    async def entries(self, log: str, after: int) -> Sequence[Entry]:
        """The entries with higher numbers than `after`, oldest first."""
        with _reached():
            stream = self._key(f"log:{log}")
            found: Any = await self._redis.xrange(stream, min=f"{after + 1}-0")
            return [Entry(_number(at), json.loads(fields["v"])) for at, fields in found]

    async def put(self, table: str, name: str, value: Json) -> None:
        """Write a row; it is 0 seconds old."""
        with _reached():
            await self._put(
                [self._key("time"), self._key(f"rows:{table}")], [name, json.dumps(value)]
            )

    async def rows(self, table: str) -> dict[str, Row]:
        """All rows of a table."""
        with _reached():
            now, found = await self._rows([self._key("time"), self._key(f"rows:{table}")])
            rows: dict[str, Row] = {}
            for name, written in zip(found[::2], found[1::2], strict=True):
                at, _, value = written.partition(" ")
                rows[name] = Row(json.loads(value), float(now) - float(at))
            return rows

    async def remove(self, table: str, names: Sequence[str]) -> None:
        """Remove rows; those that are not there do not matter."""
        if names:
            with _reached():
                await self._redis.hdel(self._key(f"rows:{table}"), *names)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._redis.aclose()

    def _key(self, what: str) -> str:
        return self._prefix + what


@contextmanager
def _reached() -> Iterator[None]:
    """Turn what redis-py raises into a `StoreError`."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreError(f"the store cannot be reached: {error}") from error


def _number(at: str) -> int:
    """The entry's number in a stream's id, `NUMBER-0`."""
    return int(at.partition("-")[0])

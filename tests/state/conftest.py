"""Every kind of store, empty."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from app.state.memory import MemoryStore
from app.state.redis import RedisStore
from app.state.sqlite import SqliteStore
from app.state.store import Store
from tests.state.servers import Server, redis


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Redis server for all tests of one process."""
    with redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty store."""
    made: Store
    if request.param == "redis":
        made = RedisStore(request.getfixturevalue("server").url, tmp_path.name)
    elif request.param == "sqlite":
        made = SqliteStore(tmp_path / "state.sqlite")
    else:
        made = MemoryStore()
    yield made
    await made.close()

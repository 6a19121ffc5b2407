"""Where state is kept: chosen from the configuration, once, at the start.

Two things are kept apart unless a `store` is configured. What processes agree on (revisions, who
is alive, what was noticed) ends with `tandem serve`: it is in memory for one process, and in the
folder of the run for several. What keys have used must outlive it, and lies beside their file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from app.state.memory import MemoryStore
from app.state.redis import RedisStore
from app.state.sqlite import SqliteStore
from app.state.store import Store
from router.config import Config, ConfigError, Problem
from router.secrets import SecretError, read_secret
from router.sections import StoreConfig

IN_RUN = "state.sqlite"
"""The file in the folder of a run of several processes."""


@dataclass(frozen=True, slots=True)
class Places:
    """`shared` is for what processes agree on, `use` for what keys have used; they may be one.

    `together`: other processes may be there.
    """

    shared: Store
    use: Store
    together: bool

    async def close(self) -> None:
        """Let go of both."""
        await self.shared.close()
        if self.use is not self.shared:
            await self.use.close()


def places(
    config: Config, run: Path | None = None, environment: Mapping[str, str] = os.environ
) -> Places:
    """The stores for `config`; `run` is the folder of a run of several processes.

    Raises `ConfigError` if the password is not there. Whether a store can be reached shows later.
    """
    if config.store is not None:
        store = _configured(config, config.store, environment)
        return Places(store, store, together=True)
    shared: Store = MemoryStore() if run is None else SqliteStore(run / IN_RUN)
    if config.keys is None:
        return Places(shared, shared, together=run is not None)
    use = SqliteStore(Path(config.keys.file).with_suffix(".use.sqlite"))
    return Places(shared, use, together=run is not None)


def _configured(config: Config, store: StoreConfig, environment: Mapping[str, str]) -> Store:
    if store.file is not None:
        return SqliteStore(Path(store.file))
    assert store.url is not None
    parts = urlsplit(store.url)
    user = quote(store.username or "", safe="")
    password = quote(_password(config, store, environment), safe="")
    who = f"{user}:{password}@" if user or password else ""
    return RedisStore(urlunsplit(parts._replace(netloc=who + parts.netloc)), store.name)


def _password(config: Config, store: StoreConfig, environment: Mapping[str, str]) -> str:
    if not (store.password_env or store.password_file):
        return ""
    file = Path(config.secrets.folder, store.password_file) if store.password_file else None
    try:
        return read_secret(store.password_env, file, environment)
    except SecretError as error:
        setting = "password_env" if store.password_env else "password_file"
        problem = Problem(f"store.{setting}", str(error))
        raise ConfigError("the configuration", (problem,)) from None

"""Where state is kept, as the configuration says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.state.places import places
from app.state.redis import RedisStore
from app.state.sqlite import SqliteStore
from router.config import Config, ConfigError, Form, parse
from tests.tiny_policies import TABLE

PASSWORD = "p@ss/word:canary"


def read(**sections: Any) -> Config:
    models = {"small": {"backends": ["http://127.0.0.1:1"]}}
    return parse(json.dumps({"models": models, **sections}), TABLE, form=Form.JSON).config


def test_one_process_alone_keeps_nothing() -> None:
    where = places(read())
    assert (where.shared.kind, where.together) == ("memory", False)
    assert where.use is where.shared


def test_several_share_the_folder_of_their_run(tmp_path: Path) -> None:
    where = places(read(), tmp_path)
    assert isinstance(where.shared, SqliteStore)
    assert (where.shared.path.parent, where.together) == (tmp_path, True)


def test_what_keys_use_outlives_the_run(tmp_path: Path) -> None:
    where = places(read(keys={"file": "secret/keys.yaml"}), tmp_path)
    assert isinstance(where.use, SqliteStore)
    assert str(where.use.path) == "secret/keys.use.sqlite"
    assert where.shared is not where.use


def test_a_store_holds_everything() -> None:
    where = places(read(store={"file": "state.sqlite"}, keys={"file": "keys.yaml"}))
    assert where.shared is where.use
    assert where.together


@pytest.mark.parametrize("user", [None, "tandem"])
def test_a_password_comes_from_the_environment(user: str | None) -> None:
    store = {"url": "redis://cache:7000/3", "password_env": "STORE", "username": user}
    where = places(read(store={k: v for k, v in store.items() if v}), None, {"STORE": PASSWORD})
    assert isinstance(where.shared, RedisStore)
    kept = where.shared._redis.connection_pool.connection_kwargs
    assert (kept["host"], kept["port"], kept["db"]) == ("cache", 7000, 3)
    assert (kept.get("username"), kept["password"]) == (user, PASSWORD)


def test_a_password_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "store").write_text(PASSWORD + "\n")
    (tmp_path / "store").chmod(0o600)
    store = {"url": "rediss://cache", "password_file": "store"}
    where = places(read(store=store, secrets={"folder": str(tmp_path)}), None, {})
    assert isinstance(where.shared, RedisStore)
    assert where.shared._redis.connection_pool.connection_kwargs["password"] == PASSWORD


def test_a_password_that_is_not_there_is_said() -> None:
    with pytest.raises(ConfigError, match=r"store\.password_env.*STORE is not set"):
        places(read(store={"url": "redis://cache", "password_env": "STORE"}), None, {})


@pytest.mark.parametrize(
    ("store", "why"),
    [
        ({}, "either `file` or `url`"),
        ({"file": "a", "url": "redis://b"}, "either `file` or `url`"),
        ({"file": "a", "username": "c"}, "a file has no user"),
        ({"url": "http://b"}, "a store is redis://"),
        ({"url": "redis://u:p@b"}, "holds no credentials"),
        ({"url": "redis://b/zero"}, "number of its database"),
        ({"url": "redis://b/0?x=1"}, "number of its database"),
        ({"url": "redis://b", "password_env": "A", "password_file": "b"}, "either `password_env`"),
    ],
)
def test_what_makes_no_sense_is_refused(store: dict[str, str], why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(store=store)
    assert why in str(refused.value)

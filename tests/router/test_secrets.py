"""Secrets of models: where they are read, when, and what is said of those that cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from router.config import ConfigError, Document, Form, parse
from router.revisions import Revisions
from router.runtime import build
from tests.tiny_policies import TABLE

ENVIRONMENT = {"KEY": "hunter2-variable"}


def tree(folder: Path, **settings: Any) -> dict[str, Any]:
    model = {"backends": ["http://a"], **settings}
    return {"secrets": {"folder": str(folder)}, "models": {"m": model}}


def document(folder: Path, **settings: Any) -> Document:
    return parse(yaml.safe_dump(tree(folder, **settings)), TABLE)


def sent(read: Document) -> str | None:
    credentials = build(read, TABLE, 1, None, ENVIRONMENT).pools["m"].credentials
    return credentials.get("authorization")


def test_a_key_comes_from_a_variable_or_a_file_or_is_none(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below/key").write_text("hunter2-file\n")
    assert sent(document(tmp_path, api_key_file="below/key")) == "Bearer hunter2-file"
    assert sent(document(tmp_path, api_key_env="KEY")) == "Bearer hunter2-variable"
    assert sent(document(tmp_path)) is None


@pytest.mark.parametrize("file", ["/etc/passwd", "../key", "a/../../key", "..", "a\nb", ""])
def test_a_file_elsewhere_is_refused(tmp_path: Path, file: str) -> None:
    """Whoever may change the configuration must not read the machine's files by it."""
    (tmp_path / "key").write_text("hunter2")
    with pytest.raises(ConfigError, match=r"models\.m\.api_key_file"):
        document(tmp_path / "secrets", api_key_file=file)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is empty"),
        (b" \r\n", "is empty"),
        (b"hunter2\nx-evil: 1", "must hold one line of printable ASCII without spaces"),
        (b"hunter2\xc3\xa9", "must hold one line of printable ASCII without spaces"),
        (b"hunter2" * 2000, "holds more than 8192 bytes"),
    ],
)
def test_what_is_no_key(tmp_path: Path, data: bytes | None, why: str) -> None:
    file = tmp_path / "key"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(ConfigError) as refused:
        sent(document(tmp_path, api_key_file="key"))
    (problem,) = refused.value.problems
    assert (problem.path, problem.reason) == ("models.m.api_key_file", f"{file} {why}")


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "key").mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        sent(document(tmp_path, api_key_file="key"))


def test_a_secret_of_the_gateways_own_is_not_sent_to_backends(tmp_path: Path) -> None:
    store = {"url": "redis://127.0.0.1:6379/0", "password_env": "REDIS"}
    for variable in ("TOKEN", "A", "REDIS", None):
        model = {"api_key_env": variable} if variable else {"api_key_file": "b"}
        tokens = [
            {"name": "a", "role": "viewer", "token_env": "A"},
            {"name": "b", "role": "viewer", "token_file": "b"},
        ]
        admin = {"token_env": "TOKEN", "tokens": tokens}
        written = tree(tmp_path, **model) | {"admin": admin, "store": store}
        with pytest.raises(ConfigError, match="it is not for backends"):
            parse(yaml.safe_dump(written), TABLE)


async def test_a_swap_reads_them_anew(tmp_path: Path) -> None:
    """How a key is rotated: write the file, then serve the same document again."""
    file = tmp_path / "key"
    file.write_text("old")
    revisions = Revisions(document(tmp_path, api_key_file="key"), TABLE, lambda _: None, {})
    before = revisions.runtime
    file.write_text("new")
    assert before.pools["m"].credentials == {"authorization": "Bearer old"}
    await revisions.activate(1)
    assert revisions.runtime.pools["m"].credentials == {"authorization": "Bearer new"}
    assert before.pools["m"].credentials == {"authorization": "Bearer old"}
    file.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        await revisions.activate(1)
    assert revisions.runtime.pools["m"].credentials == {"authorization": "Bearer new"}


async def test_the_folder_of_secrets_is_not_changed_by_a_swap(tmp_path: Path) -> None:
    revisions = Revisions(document(tmp_path), TABLE, lambda _: None, {})
    (tmp_path / "key").write_text("hunter2")
    moved = yaml.safe_dump(tree(tmp_path / "..", api_key_file="key"))
    with pytest.raises(ConfigError, match="is set up once, at start"):
        await revisions.replace(moved, Form.YAML, None)

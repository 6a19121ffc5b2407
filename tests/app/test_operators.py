"""Names, roles and tokens of those who operate the gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.operators import LOCAL, Operator, Operators, OperatorsError, Role, operators_of, renew
from router.config import Config

ALICE = {"name": "alice", "role": "operator", "token_env": "ALICE"}
VERA = {"name": "vera", "role": "viewer", "token_file": "vera.token"}
ENVIRONMENT = {"TOKEN": "first-token", "ALICE": "alices-token"}


def config(folder: Path | str = "secrets", **admin: object) -> Config:
    models = {"m": {"backends": ["http://a"]}}
    tree = {"models": models, "admin": admin, "secrets": {"folder": str(folder)}}
    return Config.model_validate(tree, strict=False)


def test_each_token_is_somebodys(tmp_path: Path) -> None:
    file = tmp_path / "vera.token"
    file.write_text("veras-token\n")
    named = config(tmp_path, token_env="TOKEN", tokens=[ALICE, VERA])
    known = operators_of(named, ENVIRONMENT)
    assert known
    assert known.of("first-token") == Operator("operator", Role.OPERATOR)
    assert known.of("alices-token") == Operator("alice", Role.OPERATOR)
    assert known.of("veras-token") == Operator("vera", Role.VIEWER)
    for wrong in ("", "first-toke", "first-token ", "veras-token\n", "é", "\udc80"):
        assert known.of(wrong) is None


def test_an_operator_may_more_than_a_viewer() -> None:
    operator, viewer = Operator("a", Role.OPERATOR), Operator("b", Role.VIEWER)
    assert operator.may(Role.OPERATOR)
    assert operator.may(Role.VIEWER)
    assert viewer.may(Role.VIEWER)
    assert not viewer.may(Role.OPERATOR)
    assert LOCAL.may(Role.OPERATOR)


def test_without_tokens_there_is_nobody() -> None:
    assert not operators_of(config(), {})
    assert not operators_of(config(token_env="TOKEN"), {})
    assert not operators_of(config(token_env="TOKEN"), {"TOKEN": ""})
    assert Operators({}).of("") is None


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (ALICE | {"token_env": "ALICIA"}, "variable ALICIA is not set where Tandem runs"),
        (VERA, "secrets/vera.token cannot be read: No such file"),
        (ALICE | {"token_env": "TOKEN"}, "operator and alice have the same admin token"),
    ],
)
def test_a_token_that_cannot_be_had_is_refused(token: dict[str, str], why: str) -> None:
    """A named operator without a token is a mistake: it must not open the listener to others."""
    with pytest.raises(OperatorsError, match=why) as refused:
        operators_of(config(token_env="TOKEN", tokens=[token]), ENVIRONMENT)
    assert "first-token" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "given", [b"", b"two\nlines", b"two words", b"\xff\xfe", b"x" * 9000, b"a\r\nx-evil: 1"]
)
def test_what_is_no_secret(given: bytes, tmp_path: Path) -> None:
    file = tmp_path / "vera.token"
    file.write_bytes(given)
    with pytest.raises(OperatorsError, match=r"^admin\.tokens\.0: ") as refused:
        operators_of(config(tmp_path, tokens=[VERA]), {})
    assert "evil" not in str(refused.value)


def test_a_file_that_others_may_read_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "vera.token"
    file.write_text("hunter2")
    named = config(tmp_path, tokens=[VERA])
    file.chmod(0o640)
    operators_of(named, {})
    assert not caplog.records, "a group may share a secret, as Kubernetes does it"
    file.chmod(0o644)
    operators_of(named, {})
    assert caplog.messages == [f"{file} holds a secret and has mode 0644: chmod 600 it"]


def test_tokens_are_read_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "vera.token"
    file.write_text("old")
    file.chmod(0o600)
    named = config(tmp_path, tokens=[VERA])
    known = operators_of(named, {})
    file.write_text("new")
    renew(known, named)
    assert (known.of("old"), known.of("new")) == (None, Operator("vera", Role.VIEWER))
    file.unlink()
    renew(known, named)
    assert known.of("new"), "what worked goes on working"
    assert caplog.messages[0].startswith("the old admin tokens stay in use: admin.tokens.0: ")

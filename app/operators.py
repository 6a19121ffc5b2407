"""Who operates the gateway: names, roles, and the tokens by which they are known.

Tokens come from the environment or from files, never from the document. They are kept as digests
only, and one that is presented is hashed and compared with every digest there is, in constant time
each: how long the answer takes tells nothing about any of them.

It knows no HTTP: whoever has a token, from a header or from a cookie, asks `Operators.of`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from router.secrets import SecretError, read_secret
from router.sections import OPERATOR, AdminConfig, Role, TokenConfig

__all__ = ["LOCAL", "Operator", "Operators", "OperatorsError", "Role", "operators_of"]


class OperatorsError(Exception):
    """A token cannot be had; the message is one line, names its place and shows no value."""


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody on the admin listener."""

    name: str
    role: Role

    def may(self, needed: Role) -> bool:
        """Whether the role is at least this one: an operator may do all that a viewer may."""
        return self.role is Role.OPERATOR or needed is Role.VIEWER


LOCAL = Operator("local", Role.OPERATOR)
"""Whoever asks from this machine, where no token is configured."""


class Operators:
    """Everybody who may use the admin listener, by their tokens.

    Raises `OperatorsError` if two have the same token: nobody could say later who it was.
    """

    def __init__(self, tokens: Mapping[Operator, str]) -> None:
        self._digests: dict[bytes, Operator] = {}
        for operator, token in tokens.items():
            other = self._digests.setdefault(_digest(token), operator)
            if other is not operator:
                raise OperatorsError(f"{other.name} and {operator.name} have the same admin token")

    def __bool__(self) -> bool:
        """Whether a token is needed at all."""
        return bool(self._digests)

    def of(self, token: str) -> Operator | None:
        """Whose token this is; None if nobody's."""
        presented = _digest(token)
        found = None
        for digest, operator in self._digests.items():
            if hmac.compare_digest(digest, presented):
                found = operator
        return found


def operators_of(admin: AdminConfig, environment: Mapping[str, str]) -> Operators:
    """Those that the configuration names. Raises `OperatorsError`.

    An `admin.token_env` whose variable is not set counts for nobody: then only this machine is
    answered.
    """
    return Operators(dict(_tokens(admin, environment)))


def _tokens(admin: AdminConfig, environment: Mapping[str, str]) -> Iterator[tuple[Operator, str]]:
    if admin.token_env and (token := environment.get(admin.token_env)):
        yield Operator(OPERATOR, Role.OPERATOR), token
    for number, entry in enumerate(admin.tokens):
        yield Operator(entry.name, entry.role), _token(number, entry, environment)


def _token(number: int, entry: TokenConfig, environment: Mapping[str, str]) -> str:
    try:
        return read_secret(entry.token_env, entry.token_file, environment)
    except SecretError as error:
        raise OperatorsError(f"admin.tokens.{number}: {error}") from None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()

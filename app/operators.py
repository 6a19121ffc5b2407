"""Who operates the gateway: names, roles, and the tokens by which they are known.

Tokens come from the environment or from files, never from the document. They are kept as digests
only, and one that is presented is hashed and compared with every digest there is, in constant time
each: how long the answer takes tells nothing about any of them.

It knows no HTTP: whoever has a token, from a header or from a cookie, asks `Operators.of`.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from router.config import Config
from router.secrets import SecretError, read_secret
from router.sections import OPERATOR, Role

logger = logging.getLogger("tandem.operators")

__all__ = ["LOCAL", "Operator", "Operators", "OperatorsError", "Role", "operators_of", "renew"]


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

    def take(self, renewed: Operators) -> None:
        """Know these from now on, and nobody else."""
        self._digests = renewed._digests  # one of our own kind

    def keys(self) -> Mapping[Operator, bytes]:
        """What stands for each one's token where something is to be signed by it."""
        return {operator: digest for digest, operator in self._digests.items()}

    def of(self, token: str) -> Operator | None:
        """Whose token this is; None if nobody's."""
        presented = _digest(token)
        found = None
        for digest, operator in self._digests.items():
            if hmac.compare_digest(digest, presented):
                found = operator
        return found


def operators_of(config: Config, environment: Mapping[str, str]) -> Operators:
    """Those that the configuration names, their tokens read anew. Raises `OperatorsError`.

    An `admin.token_env` whose variable is not set counts for nobody: then only this machine is
    answered.
    """
    return Operators(dict(_tokens(config, environment)))


def renew(operators: Operators, config: Config) -> None:
    """Read every token anew; if one cannot be had, the old ones stay in use, and that is logged."""
    try:
        operators.take(operators_of(config, os.environ))
    except OperatorsError as error:
        logger.warning("the old admin tokens stay in use: %s", error)


def _tokens(config: Config, environment: Mapping[str, str]) -> Iterator[tuple[Operator, str]]:
    admin = config.admin
    if admin.token_env and (token := environment.get(admin.token_env)):
        yield Operator(OPERATOR, Role.OPERATOR), token
    for number, entry in enumerate(admin.tokens):
        file = Path(config.secrets.folder, entry.token_file) if entry.token_file else None
        try:
            token = read_secret(entry.token_env, file, environment)
        except SecretError as error:
            raise OperatorsError(f"admin.tokens.{number}: {error}") from None
        yield Operator(entry.name, entry.role), token


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()

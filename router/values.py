"""Kinds of values in the configuration: names, URLs, sizes, times, and what a section is.

What is wrong with a value is said so that whoever wrote it knows what would be right.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WrapSerializer

from router.references import STRICT

_PART = r"[A-Za-z0-9][A-Za-z0-9._:@+-]*"
_NAME = re.compile(rf"{_PART}(/{_PART})*")
LONGEST_NAME = 128
"""Characters; names are label values of metrics and part of every log line."""


def _name(value: str) -> str:
    if len(value) <= LONGEST_NAME and _NAME.fullmatch(value):
        return value
    raise ValueError(
        f"a name has at most {LONGEST_NAME} letters, digits and ._:@+- "
        "(with / between parts), and begins with a letter or a digit"
    )


def _backend(value: str) -> str:
    """`value` as scheme, host, port and path; a closing slash or `/v1` is not part of it."""
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("a backend's URL has no spaces, control or non-ASCII characters")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError("this is not a URL; write http://HOST:PORT") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a backend is an http:// or https:// URL with a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL holds no credentials; name their variable in api_key_env")
    if "?" in value or "#" in value:
        raise ValueError("a backend's URL has no query and no fragment")
    port = None if port == {"http": 80, "https": 443}[parts.scheme] else port
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{path}"


def distinct(value: tuple[str, ...]) -> tuple[str, ...]:
    """`value`, if no two of these URLs would have one name."""
    if len({urlsplit(url).netloc for url in value}) < len(value):
        raise ValueError("two backends of one model have the same host and port, which name them")
    return value


def _store(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ValueError("a store is redis://HOST:PORT/NUMBER, or rediss:// for TLS")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL holds no credentials; use username and password_env")
    if "?" in value or "#" in value or not re.fullmatch(r"(/\d*)?", parts.path):
        raise ValueError("a store's URL ends with the number of its database, or before it")
    return value


def _below(value: str) -> str:
    if value.startswith("/") or ".." in value.split("/") or not value.isprintable():
        raise ValueError("is a path below secrets.folder: not absolute, and without ..")
    return value


Name = Annotated[str, AfterValidator(_name)]
Text = Annotated[str, Field(min_length=1)]
BackendUrl = Annotated[str, AfterValidator(_backend)]
StoreUrl = Annotated[str, AfterValidator(_store)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""The name of an environment variable, never its value."""
SecretFile = Annotated[Text, AfterValidator(_below)]
"""A file below `secrets.folder` that holds a secret and nothing else."""
Port = Annotated[int, Field(ge=0, le=65535)]
"""0 lets the system choose a free one."""
Seconds = Annotated[float, Field(gt=0, le=86_400)]
"""At most a day: a longer wait is a slip of the keyboard."""
Megabytes = Annotated[float, Field(gt=0, le=4096)]
"""Of 2**20 bytes; at most 4 GiB, since it is held in memory."""
Amount = Annotated[float, Field(ge=0)]
FROZEN = (
    AfterValidator(MappingProxyType),
    WrapSerializer(lambda value, inner: inner(dict(value))),  # pydantic cannot write the proxy
)
"""Makes a mapping read-only, and writable to JSON all the same."""


class Section(BaseModel):
    """A part of the tree: frozen, strict, and closed to unknown settings."""

    model_config = ConfigDict(**STRICT, use_attribute_docstrings=True)

"""The file of API keys, as YAML: strict, and careful never to show what it read.

    keys:
      - name: alice
        sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
        models: [auto, small]          # what it may name; without it: everything
        requests_per_minute: 60        # each limit is optional
        tokens_per_minute: 100000
        spend_usd: 25
        priority: low                  # others go first where requests wait; without it: high
        isolate: false                 # shares what backends cache with others of that kind
      - {name: bob, sha256: "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752",
         disabled: true}

People paste the wrong thing into such a file, above all a key where its digest belongs. So an error
tells the place and the rule but never the value: no YAML snippet, no pydantic `input`, and anything
that begins like a key is blotted out of what is left.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

__all__ = ["PREFIX", "KeyEntry", "KeysError", "load"]

PREFIX = "tdm-"
"""How every key begins, so that people and secret scanners know one when they see it."""

LOOKS_LIKE_A_KEY = re.compile(re.escape(PREFIX) + r"\S+")


BUILDING = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What PyYAML raises where it cannot build what a document asks for: a day 99, an empty `!!int`."""


class KeysError(Exception):
    """The file of keys cannot be used; the message says where and why, and shows no value."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {LOOKS_LIKE_A_KEY.sub(PREFIX + '...', problem)}")


def _not_a_key(name: str) -> str:
    if name.startswith(PREFIX):
        raise ValueError("a name must not begin like a key; put the key's SHA-256 under sha256")
    return name


class KeyEntry(BaseModel):
    """One key: the digest by which it is known, and what its holder may do."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    name: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"), AfterValidator(_not_a_key)
    ]
    sha256: Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{64}$", repr=False)]
    models: Annotated[frozenset[str], Field(min_length=1, strict=False)] | None = None
    requests_per_minute: Annotated[int, Field(gt=0)] | None = None
    tokens_per_minute: Annotated[int, Field(gt=0)] | None = None
    spend_usd: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    priority: Literal["high", "low"] = "high"
    isolate: bool = True
    disabled: bool = False

    @property
    def digest(self) -> bytes:
        """The key's SHA-256, 32 bytes."""
        return bytes.fromhex(self.sha256)

    def yaml(self) -> str:
        """This entry as it stands in the file, one item of its list."""
        fields = self.model_dump(mode="json", exclude_defaults=True)
        return yaml.safe_dump([fields], sort_keys=False)


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    keys: list[KeyEntry]

    @model_validator(mode="after")
    def _distinct(self) -> _KeyFile:
        for what in ("name", "digest"):
            seen: dict[object, int] = {}
            for i, entry in enumerate(self.keys):
                first = seen.setdefault(getattr(entry, what), i)
                if first != i:
                    raise ValueError(f"keys.{first} and keys.{i} have the same {what}")
        return self


def load(path: Path) -> list[KeyEntry]:
    """The entries of the file. Raises `KeysError`."""
    try:
        tree = yaml.safe_load(path.read_bytes())
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        problem = f"line {line} is not valid YAML: {error.problem}"
    except yaml.YAMLError:
        problem = "is not valid YAML: it must be UTF-8 text"
    except BUILDING as error:
        problem = f"holds something that is no value of its kind ({type(error).__name__})"
    else:
        return _validated(path, tree)
    raise KeysError(path, problem)


def _validated(path: Path, tree: object) -> list[KeyEntry]:
    try:
        return _KeyFile.model_validate(tree).keys
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}"
            for e in error.errors(include_input=False, include_url=False)
        ]
    raise KeysError(path, "; ".join(problems))

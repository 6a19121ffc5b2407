"""What a request asks of a gate, and its flat form in `vllm_xargs`.

Gateway and engines read and write the same keys through this file alone. It checks all that can be
checked without knowing an engine: types, ranges, and that a rule has what it needs. A wrong value
is a ValueError that names its key; servers answer 400 with its text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, TypeAlias

PREFIX = "tandem_gate"
"""The key that names the rule; all others are this, an underscore and the field's name."""
MAX_WINDOW = 64
"""Entropies that an engine keeps per request; the paper (arXiv 2502.06833) averages 5."""
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_SEEDS = 2**63

Xarg: TypeAlias = str | int | float | list[int] | list[float]


class Rule(StrEnum):
    """What decides."""

    ENTROPY = "entropy"
    """The mean entropy of the last tokens' distributions, against a threshold in bits."""
    NEURAL = "neural"
    """A learned score of the predicted token, against a threshold from 0 to 1."""
    RANDOM = "random"
    """Chance: the baseline that a rule must beat."""
    PROBE = "probe"
    """Forces the tokens asked for, then the reserved one: shows that there is a gate."""
    TRACE = "trace"
    """As `probe`, and writes down what the model thought at each of those positions."""


@dataclass(frozen=True, slots=True)
class GateSettings:
    """One request's gate. Raises ValueError where a value is out of range or one is missing."""

    rule: Rule
    token: int | None = None
    """The reserved token that stops the request; None is the engine's own."""
    threshold: float | None = None
    """Bits for `entropy`, a score from 0 to 1 for `neural`, which else takes its artifact's own."""
    window: int = 1
    """Entropies averaged, 1 to 64; fewer while there are fewer."""
    dwell: int = 0
    """Fires only when at least so many tokens came since the last switch, the one in question not
    counted."""
    since: int = 0
    """Tokens since the last switch before the first token of this call."""
    history: tuple[float, ...] = ()
    """Entropies in bits before this call, oldest first: a window may begin there."""
    below: bool = False
    """False: fires when the mean is at least the threshold. True: when it is below."""
    keep: bool = False
    """The token at which it fires is kept, and the reserved one comes after it."""
    rate: float | None = None
    """How often `random` fires, 0 to 1."""
    seed: int = 0
    """Of `random`, a signed 64-bit number; one seed and position decide alike in every engine."""
    artifact: str | None = None
    """The folder of `neural`'s network, below the engine's folder of artifacts."""
    force: tuple[int, ...] = ()
    """The token ids that `probe` and `trace` force, one after the other."""
    record: str | None = None
    """The name of the file that `trace` writes."""

    def __post_init__(self) -> None:
        _check(self.token is None or self.token >= 0, "token", "is a token id, at least 0")
        _check(1 <= self.window <= MAX_WINDOW, "window", f"is 1 to {MAX_WINDOW}")
        _check(self.dwell >= 0, "dwell", "is at least 0")
        _check(self.since >= 0, "since", "is at least 0")
        _check(all(0 <= bits < math.inf for bits in self.history), "history", "is bits, >= 0")
        _check(self.rate is None or 0 <= self.rate <= 1, "rate", "is 0 to 1")
        _check(-_SEEDS <= self.seed < _SEEDS, "seed", "is a signed 64-bit number")
        _check(all(token >= 0 for token in self.force), "force", "is token ids, at least 0")
        for key, name in (("artifact", self.artifact), ("record", self.record)):
            _check(name is None or _NAME.fullmatch(name) is not None, key, _NAMED)
        self._check_rule()

    def _check_rule(self) -> None:
        match self.rule:
            case Rule.ENTROPY:
                bits = self.threshold
                _check(bits is not None and math.isfinite(bits), "threshold", _NEEDED + "in bits")
            case Rule.NEURAL:
                score = self.threshold
                _check(score is None or 0 <= score <= 1, "threshold", "is a score, 0 to 1")
                _check(self.artifact is not None, "artifact", _NEEDED + "a folder's name")
            case Rule.RANDOM:
                _check(self.rate is not None, "rate", _NEEDED + "0 to 1")
            case Rule.TRACE:
                _check(self.record is not None, "record", _NEEDED + "a file's name")
                _check(bool(self.force), "force", _NEEDED + "the token ids to look at")
            case Rule.PROBE:
                pass

    @classmethod
    def of(cls, xargs: Mapping[str, Any] | None) -> GateSettings | None:
        """The gate that a request's `vllm_xargs` ask for; None without one."""
        ours = {key: value for key, value in (xargs or {}).items() if key.startswith(PREFIX)}
        if not ours:
            return None
        asked = ours.pop(PREFIX, None)
        if asked not in list(Rule):
            raise ValueError(f"{PREFIX} is one of {', '.join(Rule)}, not {asked!r}")
        values: dict[str, Any] = {}
        for key, value in ours.items():
            name = key.removeprefix(PREFIX + "_")
            if name not in _READERS:
                raise ValueError(f"{key} is no setting of a gate; there are {', '.join(_READERS)}")
            values[name] = _READERS[name](name, value)
        return cls(Rule(asked), **values)

    def xargs(self) -> dict[str, Xarg]:
        """The same, flat: what is at its default is left out."""
        flat: dict[str, Xarg] = {PREFIX: self.rule.value}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "rule" and value != field.default:
                flat[f"{PREFIX}_{field.name}"] = _flat(value)
        return flat


_NEEDED = "is needed by this rule: "
_NAMED = "is letters, digits, '.', '_' or '-', at most 128 and no '.' in front"


def _check(good: bool, name: str, rule: str) -> None:
    if not good:
        raise ValueError(f"{PREFIX}_{name} {rule}")


def _flat(value: Any) -> Xarg:
    match value:
        case bool():
            return int(value)
        case tuple():
            return list(value)
        case str() | int() | float():
            return value
        case _:
            raise TypeError(f"no flat form for {value!r}")


def _whole(name: str, value: Any) -> int:
    """An integer; whole floats are taken too, since JSON writers differ."""
    whole = value.is_integer() if isinstance(value, float) else type(value) is int
    _check(whole, name, "is an integer")
    return int(value)


def _number(name: str, value: Any) -> float:
    _check(type(value) in {int, float} and math.isfinite(value), name, "is a number")
    return float(value)


def _flag(name: str, value: Any) -> bool:
    flag = value if isinstance(value, bool) else _whole(name, value)
    _check(flag in {0, 1}, name, "is 0 or 1")
    return bool(flag)


def _word(name: str, value: Any) -> str:
    _check(isinstance(value, str), name, "is a string")
    return str(value)


def _several(name: str, value: Any) -> list[Any]:
    _check(isinstance(value, list | tuple), name, "is a list")
    return list(value)


def _numbers(name: str, value: Any) -> tuple[float, ...]:
    return tuple(_number(name, each) for each in _several(name, value))


def _ids(name: str, value: Any) -> tuple[int, ...]:
    return tuple(_whole(name, each) for each in _several(name, value))


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "token": _whole,
    "threshold": _number,
    "window": _whole,
    "dwell": _whole,
    "since": _whole,
    "history": _numbers,
    "below": _flag,
    "keep": _flag,
    "rate": _number,
    "seed": _whole,
    "artifact": _word,
    "force": _ids,
    "record": _word,
}
"""How the value of each key is read from JSON."""

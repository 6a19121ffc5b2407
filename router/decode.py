"""From text to a plain tree: YAML or JSON, strictly, with the line that every value stands on.

This file knows notations, not settings. What comes out is what JSON can say (objects with string
keys, lists, strings, numbers, true, false, null); everything else that YAML offers is refused with
its line and column: tags, anchors and aliases (a few lines of which can expand to gigabytes),
keys that are written twice, and documents nested without end. Plain words mean what YAML 1.2 says:
`no`, `on` and `1:30` are strings.

The rule: nothing is guessed. A value that could mean two things is a problem, not a choice.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

import yaml

Path: TypeAlias = tuple[str | int, ...]
"""Where a value stands in the tree: the keys and list positions that lead to it."""

DEEPEST = 32
"""Levels of nesting; the deepest setting has six. It keeps the decoder's recursion bounded."""

_PLAIN = re.compile(r"[\w./:@+-]+")


class Form(StrEnum):
    """The notation a document is written in."""

    YAML = "yaml"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: at which setting (`models.small.price`), why, and on which line."""

    path: str
    reason: str
    line: int | None = None

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.path}: {self.reason}" if self.path else f"{where}{self.reason}"


class ConfigError(Exception):
    """A document was refused. `problems` holds everything that is wrong with it, not the first."""

    def __init__(self, source: str, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n  ".join([f"{source} was refused:", *map(str, problems)]))
        self.source = source
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Decoded:
    """A document as a plain tree; `lines` is empty for JSON, which people do not write by hand.

    `problems` are those that leave the rest readable, so that all of it can be reported at once.
    """

    tree: dict[str, Any]
    lines: Mapping[Path, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def problem(self, path: Path, reason: str) -> Problem:
        """A problem at `path`, on the line of its nearest part that is written down."""
        at = path
        while at and at not in self.lines:
            at = at[:-1]
        return Problem(written(path), reason, self.lines.get(at))


def written(path: Path) -> str:
    """`path` as people write it: `policies.canary.targets.1`; odd names stand in quotes."""
    return ".".join(
        part if isinstance(part, str) and _PLAIN.fullmatch(part) else json.dumps(part)
        for part in path
    )


def decode(text: str, form: Form, source: str) -> Decoded:
    """Read `text` as one object, or raise `ConfigError` if that is not what it is."""
    try:
        decoded = _decode_yaml(text) if form is Form.YAML else _decode_json(text)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(source, (_yaml_problem(error),)) from error
    except json.JSONDecodeError as error:
        reason = f"not valid JSON: {error.msg}, column {error.colno}"
        raise ConfigError(source, (Problem("", reason, error.lineno),)) from error
    except RecursionError as error:
        raise ConfigError(source, (Problem("", "nested too deeply"),)) from error
    except (ValueError, yaml.YAMLError) as error:
        reason = f"cannot be read: {' '.join(str(error).split())}"
        raise ConfigError(source, (Problem("", reason),)) from error
    if not isinstance(decoded.tree, dict):
        reason = "a configuration is a mapping, such as `models: {...}`"
        raise ConfigError(source, (Problem("", reason),))
    return decoded


# ------------------------------------------------------------------------------------------ JSON


def _decode_json(text: str) -> Decoded:
    return Decoded(json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice!r} is written twice in one object")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


# ------------------------------------------------------------------------------------------ YAML

_TAG = "tag:yaml.org,2002:"


def _plain_words() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """What a word without quotes can be other than text, by its first character (PyYAML's form)."""
    digits = r"[0-9]+"
    exponent = rf"[eE][-+]?{digits}"
    words = {
        "null": ("~|null|Null|NULL|", ["~", "n", "N", ""]),
        "bool": ("true|True|TRUE|false|False|FALSE", [*"tTfF"]),
        "int": (r"[-+]?(0|[1-9][0-9]{0,17})", [*"-+0123456789"]),  # what fits into 64 bits
        "float": (
            rf"[-+]?(\.{digits}|{digits}\.[0-9]*)({exponent})?|[-+]?{digits}{exponent}",
            [*"-+.0123456789"],
        ),
    }
    found: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for name, (pattern, firsts) in words.items():
        for first in firsts:
            found.setdefault(first, []).append((_TAG + name, re.compile(f"^(?:{pattern})$")))
    return found


class _Composer(yaml.SafeLoader):
    """PyYAML's parser with YAML 1.2's plain words; it only composes nodes, it builds nothing."""

    yaml_implicit_resolvers = _plain_words()

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # so in PyYAML's stubs
        if event.anchor:
            raise _refused("anchors and aliases are refused", event)
        if getattr(event, "tag", None):
            raise _refused(f"the tag {event.tag} is refused", event)
        if self.depth > DEEPEST:
            raise _refused(f"nested deeper than {DEEPEST} levels", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _refused(reason: str, event: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=reason, problem_mark=event.start_mark)


def _decode_yaml(text: str) -> Decoded:
    root = _Composer(text).get_single_node()
    if root is None:
        return Decoded({})
    reader = _Reader()
    tree = reader.value(root, ())
    return Decoded(tree, reader.lines, tuple(reader.problems))


def _yaml_problem(error: yaml.MarkedYAMLError) -> Problem:
    reason = f"cannot be read: {', '.join(filter(None, (error.context, error.problem)))}"
    if mark := error.problem_mark or error.context_mark:
        return Problem("", f"{reason}, column {mark.column + 1}", mark.line + 1)
    return Problem("", reason)


class _Reader:
    """Turns composed nodes into plain values; collects lines and problems on the way."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.problems: list[Problem] = []

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        match node:
            case yaml.MappingNode():
                return dict(self._entries(node, path))
            case yaml.SequenceNode():
                return [self.value(child, (*path, at)) for at, child in enumerate(node.value)]
            case _:
                return _scalar(node)

    def _entries(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[str, Any]]:
        seen: set[str] = set()
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._refuse(key, path, "a key is a word, not a list or a mapping")
                continue
            here = (*path, key.value)
            if key.tag != f"{_TAG}str":
                self._refuse(key, here, "this key is not a word; write it in quotes")
            if key.value in seen:
                self._refuse(key, here, f"written twice, first on line {self.lines[here]}")
                continue
            seen.add(key.value)
            self.lines[here] = key.start_mark.line + 1
            yield key.value, self.value(child, here)

    def _refuse(self, node: yaml.Node, path: Path, reason: str) -> None:
        mark = node.start_mark
        reason = f"{reason} (column {mark.column + 1})"
        self.problems.append(Problem(written(path), reason, mark.line + 1))


def _scalar(node: yaml.Node) -> str | int | float | bool | None:
    match node.tag.removeprefix(_TAG):
        case "null":
            return None
        case "bool":
            return bool(node.value.lower() == "true")
        case "int":
            return int(node.value)
        case "float":
            return float(node.value)
        case _:
            return str(node.value)

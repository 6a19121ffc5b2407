"""A policy's block as a form, and a form as a block again.

The fields are made from the policy's own dataclass, as the checks are: its settings, their types
and defaults, and the sentence below each. What a field cannot show (a list, a mapping, a group of
settings) is a piece of YAML. A field that is left empty is not written into the block, so its
setting has its default. Nothing is judged here: what a field holds goes into the block as it is
meant, or else as the text that was typed, and the check of the document says what is wrong with it.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import json
import textwrap
import types
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Any, Literal, Union, cast, get_args, get_origin

import yaml

from router.config import ConfigError, Form, Problem
from router.decode import decode, written
from router.explain import settings_of
from router.references import MODEL, TARGET
from router.steps import Policy

__all__ = [
    "Control", "Field", "Names", "block_in", "by_setting", "fields_of", "in_yaml", "read_block",
]  # fmt: skip

PREFIX = "set."
"""Before the names of fields, so that no setting is mistaken for one of the form's own."""
SHORT = 60
"""Characters of YAML that fit on one line of a form."""


class Control(StrEnum):
    """How a setting is edited."""

    CHOICE = "choice"
    SWITCH = "switch"
    NUMBER = "number"
    TEXT = "text"
    YAML = "yaml"


@dataclasses.dataclass(frozen=True, slots=True)
class Names:
    """What settings may refer to."""

    models: Sequence[str]
    policies: Sequence[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One setting of a form. `value` is the text in it, empty for the default; `default` says what
    that is; `problem` is what the check found wrong with it.
    """

    name: str
    about: str
    required: bool
    default: str
    control: Control
    options: Sequence[str]
    value: str
    problem: str

    @property
    def key(self) -> str:
        """The field's name in the form: it tells how the text in it is meant."""
        return f"{PREFIX}{self.control}.{self.name}"

    @property
    def rows(self) -> int:
        """Lines that a piece of YAML needs."""
        return max(2, min(self.value.count("\n") + 2, 14))


def fields_of(
    kind: type[Policy], block: Mapping[str, Any], names: Names, problems: Mapping[str, str]
) -> list[Field]:
    """The settings of this kind of policy as the block has them; `problems` are by setting."""
    about = _sentences(kind)
    defaults = {field.name: field for field in dataclasses.fields(cast(Any, kind))}
    fields = []
    for name, hint in settings_of(kind).items():
        default = _default(defaults[name])
        control, options = _control(hint, names, (block.get(name), default))
        value = _shown(block[name], control) if name in block else ""
        if options and value and value not in options:
            options = [*options, value]
        fields.append(
            Field(
                name=name,
                about=about.get(name, ""),
                required=default is dataclasses.MISSING,
                default=_told(default),
                control=control,
                options=options,
                value=value,
                problem=problems.get(name, ""),
            )
        )
    return fields


def block_in(
    use: str, kind: type[Policy], form: Mapping[str, str]
) -> tuple[dict[str, Any], list[Problem]]:
    """The block that a filled form means, and the fields that are no YAML."""
    block: dict[str, Any] = {"use": use}
    problems: list[Problem] = []
    for name in settings_of(kind):
        for control in Control:
            text = form.get(f"{PREFIX}{control}.{name}", "")
            if not text.strip():
                continue
            try:
                block[name] = _meant(text, control)
            except ConfigError as error:
                problems += [Problem(name, problem.reason) for problem in error.problems]
                block[name] = text
    return block, problems


def read_block(text: str) -> dict[str, Any]:
    """A block that was typed as YAML. Raises `ConfigError`."""
    decoded = decode(text, Form.YAML, "the policy")
    if decoded.problems:
        raise ConfigError("the policy", decoded.problems)
    return decoded.tree


def in_yaml(value: Any) -> str:
    """The same in YAML, in the order of the document: a line for each setting, as diffs want it."""
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=88))


def by_setting(problems: Sequence[Problem], policy: str) -> dict[str, str]:
    """Of these problems of a document those of one policy's settings, by setting."""
    head = written(("policies", policy)) + "."
    found: dict[str, str] = {}
    for problem in problems:
        name, _, inside = problem.path.removeprefix(head).partition(".")
        if problem.path.startswith(head):
            reason = f"{inside}: {problem.reason}" if inside else problem.reason
            found[name] = f"{found[name]}; {reason}" if name in found else reason
    return found


# ----------------------------------------------------------------------------- from types to fields


def _control(hint: Any, names: Names, values: Sequence[Any]) -> tuple[Control, Sequence[str]]:
    """How a setting of this type is edited. `values` are those that a field must be able to show:
    a text with blanks around it can be told from none only as YAML.
    """
    arms = _arms(hint)
    if len(arms) > 1:
        return Control.YAML, ()
    arm, inside = arms[0], get_args(arms[0])
    words: Sequence[str] = ()
    control = Control.YAML
    if get_origin(arm) is Literal and all(isinstance(word, str) for word in inside):
        control, words = Control.CHOICE, inside
    elif MODEL in inside or TARGET in inside:
        words = names.models if MODEL in inside else [*names.models, *names.policies]
        control = Control.CHOICE
    elif arm is bool:
        control, words = Control.SWITCH, ("true", "false")
    elif arm in (int, float):
        control = Control.NUMBER
    elif arm is str and all(text == text.strip() for text in values if isinstance(text, str)):
        control = Control.TEXT
    return control, words


def _arms(hint: Any) -> list[Any]:
    if get_origin(hint) in (Union, types.UnionType):
        return [arm for arm in get_args(hint) if arm is not type(None)]
    return [hint]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        made = field.default_factory()
        return _as_plain(made)
    return field.default


def _as_plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def _told(default: Any) -> str:
    if default is dataclasses.MISSING or default is None:
        return ""
    told = json.dumps(default, ensure_ascii=False, default=str)
    return told[1:-1] if isinstance(default, str) and default == default.strip() else told


def _shown(value: Any, control: Control) -> str:
    if control is Control.YAML:
        short = json.dumps(value, ensure_ascii=False)
        return short if len(short) <= SHORT else in_yaml(value).rstrip("\n")
    return value if isinstance(value, str) else json.dumps(value)


def _meant(text: str, control: Control) -> Any:
    """What stands in a field. Raises `ConfigError` where that should be YAML and is not."""
    match control:
        case Control.NUMBER:
            return _number(text.strip())
        case Control.SWITCH | Control.YAML:
            return _value(text)
        case _:
            return text


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if abs(number) < float("inf") else text
    return text


def _value(text: str) -> Any:
    """A piece of YAML on its own. Raises `ConfigError`."""
    decoded = decode("value:\n" + textwrap.indent(text, "  "), Form.YAML, "the field")
    if decoded.problems:
        raise ConfigError("the field", decoded.problems)
    return decoded.tree["value"]


@functools.cache
def _sentences(kind: type[Policy]) -> Mapping[str, str]:
    """The sentence below each setting in the policy's source; none where that is not there."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError, SyntaxError):
        return {}
    body = cast(ast.ClassDef, tree.body[0]).body
    found = {}
    for setting, told in pairwise(body):
        match setting, told:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(sentence))),
            ):
                found[name] = " ".join(sentence.replace("`", "").split())
            case _:
                pass
    return found

"""What a validator found, in the words of somebody who edits YAML: a path and a reason.

It knows pydantic's error types and Python's type annotations, and nothing about any one setting.
Reasons never repeat a refused value, names excepted: it may be a secret in the wrong place.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from router.decode import Path

Complaint: TypeAlias = tuple[Path, str]
"""Where and why, before the line is looked up."""

MOST_LISTED = 12
"""Names that a reason lists: as many as one reads on the way to the right one."""

MOST_COMPARED = 200
"""Names looked at for a similar one: comparing takes some microseconds each."""

PLAINER = {
    "missing": "this setting is required",
    "missing_argument": "this setting is required",
    "dict_type": "must be a mapping of settings",
    "mapping_type": "must be a mapping of settings",
    "model_type": "must be a mapping of settings",
    "dataclass_type": "must be a mapping of settings",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "too_short": "must not be empty",
}
"""What pydantic's error types mean to somebody who knows YAML and not Python."""


def explain(error: ValidationError, value: Any, settings: Any) -> list[Complaint]:
    """The complaints in `error`, which arose when `value` was read as the type `settings`.

    The arms of a union that did not fit complain as one: either would have done.
    """
    reasons: dict[Path, list[str]] = {}
    for found in error.errors(include_url=False, include_input=False):
        path, inside = _path(found["loc"], value)
        if found["type"] == "too_short" and inside:
            continue  # its items were refused, each with its own reason
        reason = _reason(found["type"], found["msg"], settings_at(settings, path[:-1]), path)
        if found["type"] == "value_error":
            path, reason = point(path, reason, settings)
        if reason not in reasons.setdefault(path, []):
            reasons[path].append(reason)
    return [(path, "; or: ".join(several)) for path, several in reasons.items()]


def point(path: Path, reason: str, settings: Any) -> Complaint:
    """A refusal at `path` may begin with the setting that it means: `targets: name at least one`.

    The setting's own group may stand before it, as in `grade.prompt: ...` at `grade`.
    """
    named, colon, rest = reason.partition(": ")
    inner = named.split(".")
    if path and inner[0] == path[-1]:
        inner = inner[1:]
    if colon and inner and inner[0] in settings_at(settings, path):
        return (*path, *inner), rest
    return path, reason


def suggest(name: str, known: Collection[str]) -> str:
    """A tail for a reason: what was probably meant, or what there is, or nothing."""
    if close := difflib.get_close_matches(name, [*known][:MOST_COMPARED], n=1):
        return f'; did you mean "{close[0]}"?'
    listed = [*known][:MOST_LISTED]
    more = ", ..." if len(known) > MOST_LISTED else ""
    return f"; there is: {', '.join(listed)}{more}" if known else ""


def settings_at(settings: Any, path: Path) -> tuple[str, ...]:
    """The names of the settings that may stand at `path` below the type `settings`, if any."""
    here = plain(settings)
    for part in path:
        arguments = get_args(here)
        if isinstance(get_origin(here), type) and arguments:
            inside = arguments[-1] if issubclass(get_origin(here), Mapping) else arguments[0]
        else:
            inside = settings_of(here).get(str(part))
        here = plain(inside)
    return tuple(settings_of(here))


def plain(annotation: Any) -> Any:
    """`annotation` without `Annotated` and without `None`: the first thing that it can hold."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        return plain(next(arm for arm in get_args(annotation) if arm is not type(None)))
    return annotation


def settings_of(settings: Any) -> dict[str, Any]:
    """The settings that a section or a dataclass has, with their annotations; else nothing."""
    if isinstance(settings, type) and issubclass(settings, BaseModel):
        return {name: field.annotation for name, field in settings.model_fields.items()}
    if dataclasses.is_dataclass(settings):
        hints = get_type_hints(settings, include_extras=True)
        fields = dataclasses.fields(settings)
        return {field.name: hints[field.name] for field in fields if field.init}
    return {}


def _path(location: Sequence[str | int], value: Any) -> tuple[Path, Any]:
    """`location` without what tells union arms and keys apart, and the value that stands there."""
    path: list[str | int] = []
    for at, part in enumerate(location):
        if _holds(value, part):
            value = value[part]
        elif not isinstance(value, dict) or at + 1 < len(location) or part == "[key]":
            continue
        path.append(part)
    return tuple(path), value


def _holds(value: Any, part: str | int) -> bool:
    match value:
        case dict():
            return part in value
        case list():
            return isinstance(part, int) and part < len(value)
        case _:
            return False


def _reason(kind: str, message: str, known: tuple[str, ...], path: Path) -> str:
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"there is no such setting{suggest(str(path[-1]), known)}"
    said = message.removeprefix("Value error, ")
    said = said.replace("Input should", "must").replace("String should", "must")
    return PLAINER.get(kind, said.replace("must be a valid", "must be a"))

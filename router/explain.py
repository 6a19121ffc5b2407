"""What a validator found, in the words of somebody who edits YAML: a path and a reason.

It knows pydantic's error types and Python's type annotations, and nothing about any one setting.
Reasons never repeat the refused value: it may be a secret that was pasted into the wrong place.
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
        if reason not in reasons.setdefault(path, []):
            reasons[path].append(reason)
    return [(path, "; or: ".join(several)) for path, several in reasons.items()]


def suggest(name: str, known: Collection[str]) -> str:
    """A tail for a reason: what was probably meant, or what there is, or nothing."""
    if close := difflib.get_close_matches(name, known, n=1):
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
            inside = _hints(here).get(str(part))
        here = plain(inside)
    return tuple(_hints(here))


def plain(annotation: Any) -> Any:
    """`annotation` without `Annotated` and without `None`: the first thing that it can hold."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        return plain(next(arm for arm in get_args(annotation) if arm is not type(None)))
    return annotation


def _hints(settings: Any) -> dict[str, Any]:
    if isinstance(settings, type) and issubclass(settings, BaseModel):
        return {name: field.annotation for name, field in settings.model_fields.items()}
    if dataclasses.is_dataclass(settings):
        hints = get_type_hints(settings, include_extras=True)
        return {field.name: hints[field.name] for field in dataclasses.fields(settings)}
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
    match kind:
        case "missing" | "missing_argument":
            return "this setting is required"
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"there is no such setting{suggest(str(path[-1]), known)}"
        case "too_short":
            return "must not be empty"
        case "value_error":
            return message.removeprefix("Value error, ")
        case "dataclass_type" | "dict_type" | "model_type" | "mapping_type":
            return "must be a mapping of settings"
        case _:
            return message.replace("Input should", "must").replace("must be a valid", "must be a")

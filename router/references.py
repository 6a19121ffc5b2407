"""From a YAML block to a policy, and from a policy to the models and policies that it names.

The dataclass of a policy is its schema: its fields are read strictly (unknown settings refused, no
"5" for 5), built by calling the class, and whatever it refuses with a `ValueError` is reported at
its path. References are found by their annotations (`ModelName`, `TargetName`), wherever they
stand: in a tuple, as keys of a mapping, inside a nested dataclass.

This file knows no policy by name: the table of kinds is passed in.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, NotRequired, TypeAlias, Union, cast, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from router.decode import Path
from router.explain import MOST_LISTED, Complaint, explain, point, settings_of, suggest
from router.steps import ModelName, Policy, TargetName

Table: TypeAlias = Mapping[str, type[Policy]]
"""The kinds of policies there are: what `use` may say, and the dataclass it stands for."""

STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
"""How every block is read: no unknown setting, no conversion of types, no infinity."""

MODEL, TARGET = get_args(ModelName)[1], get_args(TargetName)[1]
"""What `Annotated` says of a reference."""

MOST_CIRCLES = 10
"""Circles reported: each takes a walk through the whole graph, and one is usually the cause."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reference:
    """A setting that names something. `model_only`: a policy's name will not do."""

    path: Path
    name: str
    model_only: bool


# -------------------------------------------------------------------------------------- building


def build_policy(block: Any, table: Table) -> tuple[Policy | None, list[Complaint]]:
    """The policy that `block` (`{use: KIND, ...}`) describes, or what is wrong with the block."""
    if not isinstance(block, dict):
        return None, [((), "must be a mapping of settings, such as `{use: KIND, ...}`")]
    match block.get("use"):
        case None:
            return None, [(("use",), f"this setting is required{suggest('', tuple(table))}")]
        case str(kind) if kind in table:
            return _build(table[kind], {k: v for k, v in block.items() if k != "use"})
        case kind:
            reason = f"there is no such kind of policy{suggest(str(kind), tuple(table))}"
            return None, [(("use",), reason)]


def _build(kind: type[Policy], settings: dict[str, Any]) -> tuple[Policy | None, list[Complaint]]:
    try:
        checked = _schema(kind).validate_json(json.dumps(settings))
    except ValidationError as error:
        return None, explain(error, settings, kind)
    try:
        return cast(Callable[..., Policy], kind)(**checked), []
    except ValueError as error:
        return None, [point((), str(error), kind)]
    except OSError as error:  # an artifact, say, that cannot be read
        return None, [((), f"{error.strerror}: {error.filename}")]


def _schema(kind: type[Policy]) -> TypeAdapter[dict[str, Any]]:
    """What a block of this kind may hold. The dataclass itself stays untouched and un-pydantic."""
    hints = settings_of(kind)
    required = {field.name for field in dataclasses.fields(cast(Any, kind)) if _required(field)}
    block = {name: hint if name in required else NotRequired[hint] for name, hint in hints.items()}
    of_fields: Any = TypedDict  # as a plain function: the fields are known at run time only
    return TypeAdapter(with_config(STRICT)(of_fields(kind.__name__, block)))


def _required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


# ------------------------------------------------------------------------------------ references


def references(policy: Policy) -> list[Reference]:
    """Every model and target that the settings of `policy` name, defaults included."""
    return list(_inside(type(policy), policy, ()))


def _inside(annotation: Any, value: Any, path: Path) -> Iterator[Reference]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        if isinstance(value, str):
            marks = (mark for mark in arguments[1:] if mark in (MODEL, TARGET))
            yield from (Reference(path, value, model_only=mark == MODEL) for mark in marks)
        yield from _inside(arguments[0], value, path)
    elif origin in (Union, types.UnionType):
        for arm in arguments:
            yield from _inside(arm, value, path)
    else:
        for step, part, held in _parts(annotation, value):
            yield from _inside(part, held, (*path, step))


def _parts(annotation: Any, value: Any) -> Iterator[tuple[str | int, Any, Any]]:
    """What `value` holds if it is of the kind `annotation`: where, annotated how, and what."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is None:
        if dataclasses.is_dataclass(annotation) and type(value) is annotation:
            for name, hint in settings_of(annotation).items():
                yield name, hint, getattr(value, name)
    elif not isinstance(origin, type) or not isinstance(value, origin):
        return
    elif isinstance(value, Mapping):
        for key, held in value.items():
            yield key, arguments[0], key
            yield key, arguments[1], held
    elif isinstance(value, (tuple, list, frozenset)):
        one_each = origin is tuple and Ellipsis not in arguments
        for at, held in enumerate(value):
            yield at, arguments[at if one_each else 0], held


# -------------------------------------------------------------------------------------- checking


def check_name(
    reference: Reference, models: Collection[str], policies: Collection[str]
) -> list[Complaint]:
    """Complain if `reference` names nothing, or a policy where only a model will do."""
    name = reference.name
    if name in models or (name in policies and not reference.model_only):
        return []
    if name in policies:
        return [(reference.path, f'"{name}" is a policy; this setting needs a model')]
    known = [*models] if reference.model_only else [*dict.fromkeys((*models, *policies))]
    wanted = "model" if reference.model_only else "model or policy"
    return [(reference.path, f'there is no {wanted} named "{name}"{suggest(name, known)}')]


def check_references(
    built: Mapping[str, Policy], models: Collection[str], policies: Collection[str]
) -> list[Complaint]:
    """Complain about every dangling, mistaken or circular reference of the policies in `built`.

    `policies` holds all names, including those whose own block is broken: naming one is no fault.
    """
    found = {name: references(policy) for name, policy in built.items()}
    complaints: list[Complaint] = []
    for name, several in found.items():
        for reference in several:
            for path, reason in check_name(reference, models, policies):
                complaints.append(((name, *path), reason))
    return complaints + _circles(found)


def _circles(found: Mapping[str, list[Reference]]) -> list[Complaint]:
    """One complaint per circle, at the reference that closes it; `MOST_CIRCLES` at most."""
    follows = {
        name: [reference.name for reference in several if reference.name in found]
        for name, several in found.items()
    }
    complaints: list[Complaint] = []
    while len(complaints) < MOST_CIRCLES:
        try:
            TopologicalSorter(follows).prepare()
        except CycleError as error:
            circle = _from_first(error.args[1][:0:-1], [*found])
            last, first = circle[-1], circle[0]
            path = next(reference.path for reference in found[last] if reference.name == first)
            shown = circle if len(circle) <= MOST_LISTED else [*circle[: MOST_LISTED - 1], "..."]
            route = " -> ".join((*shown, first))
            complaints.append(((last, *path), f"this leads in a circle: {route}"))
            follows[last] = [name for name in follows[last] if name != first]
        else:
            break
    return complaints


def _from_first(circle: list[str], order: list[str]) -> list[str]:
    """`circle` turned so that it begins with the one that comes first in the document."""
    start = circle.index(min(circle, key=order.index))
    return circle[start:] + circle[:start]

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
from typing import Annotated, Any, NotRequired, TypeAlias, Union, cast, get_args, get_origin
from typing import get_type_hints as type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from router.decode import Path
from router.explain import Complaint, explain, suggest
from router.steps import ModelName, Policy, TargetName

Table: TypeAlias = Mapping[str, type[Policy]]
"""The kinds of policies there are: what `use` may say, and the dataclass it stands for."""

STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
"""How every block is read: no unknown setting, no conversion of types, no infinity."""

_SORTS = {get_args(ModelName)[1]: "model", get_args(TargetName)[1]: "target"}


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
    except (ValueError, OSError) as error:  # OSError: an artifact that cannot be read
        return None, [((), str(error))]


def _schema(kind: type[Policy]) -> TypeAdapter[dict[str, Any]]:
    """What a block of this kind may hold. The dataclass itself stays untouched and un-pydantic."""
    hints = type_hints(kind, include_extras=True)
    block = {
        field.name: hints[field.name] if _required(field) else NotRequired[hints[field.name]]
        for field in _fields(kind)
    }
    of_fields: Any = TypedDict  # as a plain function: the fields are known at run time only
    return TypeAdapter(with_config(STRICT)(of_fields(kind.__name__, block)))


def _fields(kind: Any) -> tuple[dataclasses.Field[Any], ...]:
    return tuple(field for field in dataclasses.fields(kind) if field.init)


def _required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


# ------------------------------------------------------------------------------------ references


def references(policy: Policy) -> list[Reference]:
    """Every model and target that the settings of `policy` name, defaults included."""
    return list(_inside(type(policy), policy, ()))


def _inside(annotation: Any, value: Any, path: Path) -> Iterator[Reference]:
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        if isinstance(value, annotation):
            hints = type_hints(annotation, include_extras=True)
            for field in dataclasses.fields(annotation):
                inner = getattr(value, field.name)
                yield from _inside(hints[field.name], inner, (*path, field.name))
        return
    arguments = get_args(annotation)
    match get_origin(annotation):
        case None:
            return
        case found if found is Annotated:
            yield from _annotated(arguments, value, path)
        case found if found in (Union, types.UnionType):
            for arm in arguments:
                yield from _inside(arm, value, path)
        case _ if isinstance(value, Mapping) and len(arguments) == 2:
            for key, inner in value.items():
                yield from _inside(arguments[0], key, (*path, key))
                yield from _inside(arguments[1], inner, (*path, key))
        case _ if isinstance(value, (tuple, list)):
            for at, inner in enumerate(value):
                item = arguments[at] if _one_each(arguments, value) else arguments[0]
                yield from _inside(item, inner, (*path, at))
        case _:
            return


def _annotated(arguments: tuple[Any, ...], value: Any, path: Path) -> Iterator[Reference]:
    sorts = [_SORTS[mark] for mark in arguments[1:] if isinstance(mark, str) and mark in _SORTS]
    if sorts and isinstance(value, str):
        yield Reference(path, value, model_only=sorts[0] == "model")
    yield from _inside(arguments[0], value, path)


def _one_each(arguments: tuple[Any, ...], value: tuple[Any, ...] | list[Any]) -> bool:
    return Ellipsis not in arguments and len(arguments) == len(value)


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
    complaints: list[Complaint] = []
    done: set[str] = set()

    def visit(name: str, chain: tuple[str, ...]) -> None:
        if name in done:
            return
        for reference in found[name]:
            if reference.name in (*chain, name):
                circle = (*chain, name)[(*chain, name).index(reference.name) :]
                route = " -> ".join((*circle, reference.name))
                complaints.append(((name, *reference.path), f"this leads in a circle: {route}"))
            elif reference.name in found:
                visit(reference.name, (*chain, name))
        done.add(name)

    for name in found:
        visit(name, ())
    return complaints

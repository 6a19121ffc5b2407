"""What `tandem eval` judges: a policy, built as for serving, and the columns it chooses among.

A policy is named in one of three ways: the folder of an artifact, a name in a configuration, or a
block of settings. The models it knows by its own names are found among the rows' columns.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import yaml

from policies import TABLE
from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.models import active, facts, told
from policies.training.outcomes.tables import spelled_alike
from policies.training.replay import Stage, fleet_of
from router.config import Config, load_file
from router.fleet import Price
from router.idealised import Idealised
from router.references import build_policy, check_references
from router.runtime import MODEL
from router.steps import Particular, Policy

if TYPE_CHECKING:
    from policies.training.outcomes.rows import Rows

__all__ = ["Judged", "JudgedError", "Names", "judged", "names_of", "settings_of", "stage_of"]

FREE = Price()
UNKNOWN = 1.0
"""Billions of parameters that a model is taken to have, as in a configuration that does not say."""


class JudgedError(Exception):
    """The policy cannot be judged like this; the message is one line."""


@dataclass(frozen=True, slots=True)
class Names:
    """How models are called: `columns` holds the rows' name of each, by the policy's name.

    `params_b` are billions, NaN where nobody knows, as `prices` are None, and `idealised` where the
    configuration has no coefficients. `chosen`: the models were named on the command line, none is
    to be left out; `pair`: so is which of the two is small.
    """

    columns: Mapping[str, str]
    params_b: Sequence[float]
    prices: Sequence[Price | None]
    chosen: bool
    pair: bool = False
    idealised: Sequence[Idealised | None] = ()

    def of(self, rows: Rows) -> Rows:
        """The rows of these models, under the policy's names."""
        return rows.of([*self.columns.values()]).called([*self.columns])


@dataclass(frozen=True, slots=True)
class Judged:
    """A policy by its name among the targets of `stage`; `kind` is what its `use` says."""

    name: str
    kind: str
    stage: Stage
    names: Names


@dataclass(frozen=True, slots=True)
class _Source:
    """Policies by name, and the one that is meant."""

    policies: Mapping[str, Policy]
    name: str
    kind: str
    config: Config | None = None


def judged(options: argparse.Namespace, held: Sequence[str], *, logged: bool = False) -> Judged:
    """The policy of the command line, among the models `held` by the rows.

    Of a log (`logged`) these are the arms, and the models of a configuration are there too: it may
    send requests where the log never did. Raises `JudgedError`, `RowsError` or `ConfigError`.
    """
    source = _source(options)
    if logged and source.config is not None:
        held = [*dict.fromkeys([*held, *source.config.models])]
    if source.name in (held if source.config is None else ()):
        raise JudgedError(f"a model is called {source.name}, as the policy is: see --as")
    names = names_of(options, held, source.config)
    stage = stage_of(names, source.policies)
    if source.config is None:
        _check_references(source, [*names.columns])
    policy = source.policies.get(source.name)
    if isinstance(policy, Particular) and (why := policy.misfit(stage.fleet)):
        raise JudgedError(f"--policy {options.policy}: {why}")
    return Judged(source.name, source.kind, stage, names)


def stage_of(names: Names, policies: Mapping[str, Policy]) -> Stage:
    """These policies among the models, which are all well."""
    models = {name: TABLE[MODEL](model=name) for name in names.columns}  # type: ignore[call-arg]  # `direct` has this field
    fleet = fleet_of(
        [*names.columns],
        [UNKNOWN if math.isnan(size) else size for size in names.params_b],
        [price or FREE for price in names.prices],
    )
    return Stage(MappingProxyType({**models, **policies}), fleet)


def names_of(
    options: argparse.Namespace, held: Sequence[str], config: Config | None = None
) -> Names:
    """The models of the command line, of the configuration, or all that are held."""
    mapped = _mapped(options.mapped)
    known = {spelled_alike(name): name for name in held}
    if named := options.pair or options.models:
        columns = {name: mapped.get(name, _served(name, config, known)) for name in named}
    elif config is not None:
        found = {name: mapped.get(name, _served(name, config, known)) for name in config.models}
        columns = {name: column for name, column in found.items() if spelled_alike(column) in known}
        if not columns:
            raise JudgedError(
                "no model of the configuration has a column of this name: map them with --as "
                f"NAME=COLUMN; columns: {', '.join(held)}"
            )
    else:
        columns = {**mapped} or {name: name for name in held}
    for column in columns.values():
        if spelled_alike(column) not in known:
            raise RowsError(f"there is no model {column}: there are {', '.join(held)}")
    return Names(
        MappingProxyType(columns),
        _params(columns, config, told(options.params)),
        [_price(name, column, config) for name, column in columns.items()],
        chosen=bool(named or mapped),
        pair=bool(options.pair),
        idealised=[
            config.models[name].alone if config and name in config.models else None
            for name in columns
        ],
    )


def _served(name: str, config: Config | None, known: Mapping[str, str]) -> str:
    """The column of a model: that of its name, or of what its backends call it."""
    served = config.models[name].served_as if config and name in config.models else None
    if spelled_alike(name) not in known and served and spelled_alike(served) in known:
        return known[spelled_alike(served)]
    return name


def _params(
    columns: Mapping[str, str], config: Config | None, stated: Mapping[str, float]
) -> Sequence[float]:
    """Active parameters: from the command line, the configuration, the table, the name."""
    own = {column: stated[name] for name, column in columns.items() if name in stated}
    if config is not None:
        for name, column in columns.items():
            model = config.models.get(name)
            if model is not None and "params_b" in model.model_fields_set:
                own.setdefault(column, model.params_b)
    return active([*columns.values()], {**stated, **own})


def _price(name: str, column: str, config: Config | None) -> Price | None:
    if config is not None and name in config.models:
        return config.models[name].charge
    return facts(column).price


def _mapped(stated: Sequence[str]) -> dict[str, str]:
    mapped: dict[str, str] = {}
    for one in stated:
        name, equals, column = one.partition("=")
        if not (name and equals and column):
            raise JudgedError(f"--as {one}: write NAME=COLUMN")
        mapped[name] = column
    return mapped


# ------------------------------------------------------------------------------------- the policy


def _source(options: argparse.Namespace) -> _Source:
    stated: str = options.policy
    if options.config is not None:
        return _configured(stated, options.config)
    inline = stated.lstrip().startswith("{")
    block = _artifact(stated) if not inline and Path(stated).is_dir() else _block(stated)
    block |= settings_of(options.settings)
    policy, complaints = build_policy(block, TABLE)
    if policy is None:
        raise JudgedError(f"--policy {stated}: {_said(complaints)}")
    kind = str(block["use"])
    return _Source({kind: policy}, kind, kind)


def _artifact(folder: str) -> dict[str, Any]:
    if "experts" not in TABLE:
        raise JudgedError(f"--policy {folder}: no policy here takes an artifact of this kind")
    return {"use": "experts", "artifact": folder}


def _block(stated: str) -> dict[str, Any]:
    try:
        read = yaml.safe_load(stated)
    except yaml.YAMLError:
        read = None
    if isinstance(read, dict):
        return {**read}
    raise JudgedError(
        f"--policy {stated}: is no folder with an artifact and no block such as "
        "'{use: direct, model: NAME}'; a policy's name needs --config FILE"
    )


def settings_of(stated: Sequence[str]) -> dict[str, Any]:
    """What `--set NAME=VALUE` says, values read as YAML. Raises `JudgedError`."""
    settings: dict[str, Any] = {}
    for one in stated:
        name, equals, value = one.partition("=")
        if not (name and equals):
            raise JudgedError(f"--set {one}: write NAME=VALUE")
        try:
            settings[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise JudgedError(f"--set {one}: the value is no YAML") from None
    return settings


def _configured(name: str, file: Path) -> _Source:
    document = load_file(file, TABLE)
    if name in document.config.models:
        return _Source(document.policies, name, MODEL, document.config)
    if name not in document.policies:
        known = ", ".join([*document.policies, *document.config.models])
        raise JudgedError(f"{file} has no policy {name}: it has {known}")
    return _Source(document.policies, name, document.kinds[name], document.config)


def _check_references(source: _Source, models: Sequence[str]) -> None:
    if complaints := check_references(source.policies, models, [*source.policies]):
        raise JudgedError(f"--policy: {_said([(path[1:], why) for path, why in complaints])}")


def _said(complaints: Sequence[tuple[tuple[str | int, ...], str]]) -> str:
    path, reason = complaints[0]
    where = ".".join(map(str, path))
    return f"{where}: {reason}" if where else reason

"""The Runtime: everything a request is served with, built completely and swapped as one.

A request reads it once, at its start, and keeps it to its end; a swap never touches a request in
flight. `build` is the only way to get one. What it cannot build it refuses with a `ConfigError`,
and until it has returned nothing has changed. Backends that stay keep their live state (calls in
flight, breaker, latency): the new pools take it over from the previous Runtime's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import cast

from router.config import Config, ConfigError, Document, Problem, Table
from router.fleet import Fleet
from router.pool import Pool
from router.secrets import SecretError, read_secret
from router.steps import Particular, Policy

FRESH = 0.01
"""Seconds: no health or load that a policy weighs changes its meaning faster."""
MODEL = "direct"
"""The kind of policy that a model's own name stands for: `table[MODEL](model=NAME)`."""


class Camera:
    """Takes pictures of a fleet, at most one every `FRESH` seconds: many requests share one."""

    __slots__ = ("_picture", "_taken")

    def __init__(self) -> None:
        self._picture = Fleet({})
        self._taken = 0.0

    def picture(self, pools: Mapping[str, Pool]) -> Fleet:
        """How these pools are doing."""
        now = monotonic()
        if now - self._taken > FRESH:
            self._picture = Fleet({name: pool.view() for name, pool in pools.items()})
            self._taken = now
        return self._picture


@dataclass(frozen=True, slots=True)
class Runtime:
    """One revision, ready to serve. `kinds` says of every target which kind of policy it is.

    `learns`: decisions are logged, or compared with a shadow's.
    """

    revision: int
    etag: str
    config: Config
    targets: Mapping[str, Policy]
    kinds: Mapping[str, str]
    pools: Mapping[str, Pool]
    default: str
    baseline: str
    learns: bool
    _camera: Camera

    def target(self, name: str) -> Policy | None:
        """The policy that answers requests for `name`, which may be a model; None if unknown."""
        return self.targets.get(name)

    def snapshot(self) -> Fleet:
        """A picture of the fleet, taken within the last `FRESH` seconds."""
        return self._camera.picture(self.pools)


def build(
    document: Document,
    table: Table,
    revision: int,
    previous: Runtime | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Runtime:
    """Make `document` ready to serve as `revision`; raises `ConfigError`, having changed nothing.

    Reads the secrets that the models name, from `environment` and from files.
    """
    secrets, problems = _secrets(document.config, environment)
    if problems:
        raise ConfigError(document.written.source, problems)
    models = document.config.models
    direct = cast(Callable[..., Policy], table[MODEL])
    old = previous.pools if previous else {}
    pools = {
        name: Pool(name, settings, document.config.breaker, old.get(name), key=secrets.get(name))
        for name, settings in models.items()
    }
    targets = {name: direct(model=name) for name in models} | dict(document.policies)
    runtime = Runtime(
        revision=revision,
        etag=document.written.etag,
        config=document.config,
        targets=MappingProxyType(targets),
        kinds=MappingProxyType(dict.fromkeys(models, MODEL) | dict(document.kinds)),
        pools=MappingProxyType(pools),
        default=document.default,
        baseline=document.baseline,
        learns=bool(document.config.decisions or document.config.shadow),
        _camera=Camera(),
    )
    if problems := tuple(misfits(runtime)):
        raise ConfigError(document.written.source, problems)
    return runtime


def misfits(runtime: Runtime) -> Iterator[Problem]:
    """Policies that cannot work with their models, as far as these have been probed."""
    fleet = runtime.snapshot()
    for name, policy in runtime.targets.items():
        if isinstance(policy, Particular) and (why := policy.misfit(fleet)):
            yield Problem(f"policies.{name}", why)


def _secrets(
    config: Config, environment: Mapping[str, str]
) -> tuple[Mapping[str, str], tuple[Problem, ...]]:
    """The key of every model that has one, and what is wrong with the others."""
    keys: dict[str, str] = {}
    problems: list[Problem] = []
    for name, model in config.models.items():
        variable, file = model.api_key_env, model.api_key_file
        setting = f"models.{name}.{'api_key_env' if variable else 'api_key_file'}"
        if not (variable or file):
            continue
        try:
            place = Path(config.secrets.folder, file) if file else None
            keys[name] = read_secret(variable, place, environment)
        except SecretError as error:
            problems.append(Problem(setting, str(error)))
    return keys, tuple(problems)

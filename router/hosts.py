"""Hosts: how much memory each has for the servers on it, and which of these may be put to sleep.

The sections of the configuration that say so, and what must be true between them. Numbers only:
nothing here knows a server's state or how it is put to sleep (`router.sleep_plan`, `router.sleep`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Protocol
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from router.explain import Complaint, suggest
from router.references import STRICT

Gigabytes = Annotated[float, Field(gt=0, le=1e6)]
"""Of 2**30 bytes, though only comparisons between them matter."""
Span = Annotated[float, Field(gt=0, le=86_400)]
"""Seconds, at most a day."""


class SleepConfig(BaseModel):
    """How a model's servers sleep; `true` stands for a section of defaults."""

    model_config = ConfigDict(**STRICT, use_attribute_docstrings=True)

    level: Literal[1, 2] = 1
    """vLLM's sleep level: 1 keeps the weights in the host's RAM, 2 reads them anew to wake."""
    residence: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    """Seconds that a server stays awake at least before it makes room for another."""
    wake: Span = 5.0
    """Seconds that waking takes, as a first guess; what is measured replaces it."""
    queue: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Most requests that wait for a server of this model to wake; further ones are refused."""
    asleep_gb: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Memory that a server still holds while it sleeps, in GiB."""
    timeout: Span = 300.0
    """Longest wait for a server to fall asleep or to wake; after that it has failed to."""


class HostConfig(BaseModel):
    """One host."""

    model_config = ConfigDict(**STRICT, use_attribute_docstrings=True)

    memory_gb: Gigabytes
    """Memory for all servers on this host together, in GiB: that of its accelerators."""


def _true(value: object) -> object:
    if isinstance(value, bool):
        return {} if value else None
    if value is None or isinstance(value, dict | SleepConfig):
        return value
    raise ValueError("must be `true`, or a mapping of settings")


def _host(value: str) -> str:
    host = value.lower().removeprefix("[").removesuffix("]")
    if not host or "/" in host or " " in host:
        raise ValueError("a host is named as in a backend's URL, without scheme and port")
    return host


Sleeping = Annotated[SleepConfig | None, BeforeValidator(_true)]
"""A model's setting `sleep`."""
HostName = Annotated[str, AfterValidator(_host)]


class Lodger(Protocol):
    """A model, as far as memory is concerned."""

    @property
    def backends(self) -> tuple[str, ...]:
        """URLs of its servers."""

    @property
    def memory_gb(self) -> float | None:
        """Memory of each of them while it is awake."""

    @property
    def sleep(self) -> SleepConfig | None:
        """How they sleep, if they do."""


def host_of(url: str) -> str:
    """The host of a backend's URL, as `hosts` names it."""
    return urlsplit(url).hostname or ""


def check_memory(
    models: Mapping[str, Lodger], hosts: Mapping[str, HostConfig]
) -> Iterator[Complaint]:
    """Complain of models that could never be awake, and of settings that would have no effect."""
    known = {host_of(url) for model in models.values() for url in model.backends}
    for host in hosts.keys() - known:
        yield ("hosts", host), f"no backend is on this host{suggest(host, sorted(known))}"
    for name, model in models.items():
        if model.sleep is None:
            continue
        if model.memory_gb is None:
            yield ("models", name, "memory_gb"), "a model that sleeps must say what it needs awake"
            continue
        yield from _check_sleeper(name, model.sleep, model.memory_gb, model.backends, hosts)
    yield from _check_shared(models)
    for host, budget in hosts.items():
        yield from _check_room(host, budget.memory_gb, models)


def _check_sleeper(
    name: str,
    sleep: SleepConfig,
    memory: float,
    backends: tuple[str, ...],
    hosts: Mapping[str, HostConfig],
) -> Iterator[Complaint]:
    if sleep.asleep_gb >= memory:
        reason = "must be less than the model's memory_gb, or its sleep would free nothing"
        yield ("models", name, "sleep", "asleep_gb"), reason
    if unknown := sorted({host_of(url) for url in backends} - hosts.keys()):
        reason = f"nothing would ever be put to sleep: `hosts` has no memory_gb for {unknown[0]}"
        yield ("models", name, "sleep"), reason


def _check_shared(models: Mapping[str, Lodger]) -> Iterator[Complaint]:
    """A server sleeps as a whole: two models of one server cannot have different minds."""
    serves: dict[str, str] = {}
    sleepers = {name for name, model in models.items() if model.sleep}
    for name, model in models.items():
        for at, url in enumerate(model.backends):
            other = serves.setdefault(url, name)
            if other != name and {other, name} & sleepers:
                reason = (
                    f'the model "{other}" has the same server; one that sleeps serves one model'
                )
                yield ("models", name, "backends", at), reason


def _check_room(host: str, budget: float, models: Mapping[str, Lodger]) -> Iterator[Complaint]:
    """Every model of this host must fit with all others that sleep asleep."""
    counted = {
        name: (sum(host_of(url) == host for url in model.backends), model)
        for name, model in models.items()
        if model.memory_gb is not None
    }
    awake = sum(n * (m.memory_gb or 0.0) for n, m in counted.values() if m.sleep is None)
    asleep = sum(n * m.sleep.asleep_gb for n, m in counted.values() if m.sleep)
    for name, (servers, model) in counted.items():
        if not servers:
            continue
        needed = awake + asleep
        if model.sleep:
            needed += (model.memory_gb or 0.0) - model.sleep.asleep_gb
        if needed > budget:
            reason = f"{host} has {budget:g} GiB; {needed:g} are needed there while it is awake"
            yield ("models", name, "memory_gb"), reason

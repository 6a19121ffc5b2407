"""The fleet: a picture that does not change under a policy's feet."""

from __future__ import annotations

import dataclasses

import pytest

from tests.fleets import fleet
from tests.in_memory import core


def test_a_model_is_alive_while_a_backend_would_be_given_a_call() -> None:
    made = core()
    assert made.runtime.snapshot().alive("small")
    for backend in made.runtime.pools["small"].backends:
        backend.healthy = False
    assert made.runtime.pools["small"].view().healthy == 0
    assert made.runtime.pools["large"].view().healthy == 2


def test_a_picture_does_not_change() -> None:
    made = core()
    taken = made.runtime.snapshot()
    made.backends[0].enter()
    assert taken.models["small"].in_flight == 0
    made.backends[0].healthy = False
    assert taken.models["small"].healthy == 2


def test_nobody_can_change_it() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        fleet().models["small"].healthy = 0  # type: ignore[misc]


def test_an_unknown_model_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        fleet().alive("nobody")

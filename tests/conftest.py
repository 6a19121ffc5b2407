"""Fixtures for tests of the whole gateway: scripted backends, and a gateway in front of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

import pytest
import uvloop

from tests.running import Config, Running, running
from tests.scripted import Backend, scripted

Started = Callable[[Config], Awaitable[Running]]
"""The fixture `gateway`: starts one, which runs to the end of the test."""


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop that `tandem serve` runs on: its clock and its transports are its own."""
    return {"uvloop": uvloop.new_event_loop}


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the soak is. Options must be known before the folders below are looked at."""
    soak = parser.getgroup("soak", "the soak (tests/soak)")
    soak.addoption(
        "--soak-answers", type=int, default=1_000, help="answers asked for (default: %(default)s)"
    )
    soak.addoption("--soak-seed", type=int, default=1, help="what is drawn (default: %(default)s)")


@pytest.fixture
async def small() -> AsyncIterator[Backend]:
    """A backend that serves `small`."""
    async with scripted("small") as backend:
        yield backend


@pytest.fixture
async def large() -> AsyncIterator[Backend]:
    """A backend that serves `large`."""
    async with scripted("large") as backend:
        yield backend


@pytest.fixture
async def gateway() -> AsyncIterator[Started]:
    """Starts a gateway of a configuration."""
    async with AsyncExitStack() as stack:

        async def start(tree: Config) -> Running:
            return await stack.enter_async_context(running(tree))

        yield start

"""The admin API's view of client keys: their limits and what they have spent. Never a key.

Which keys there are is decided in their file; nothing can be changed here.
"""

from __future__ import annotations

from enum import Enum

from fastapi import APIRouter, Request

from app.admin_models import View
from app.keyfile import KeyEntry
from app.keys import Keys


class KeyView(View):
    """One key: what its entry says, and what it has used. Limits that are null are none."""

    name: str
    disabled: bool
    models: list[str] | None
    """What it may put into `model`; null for everything."""
    requests_per_minute: int | None
    tokens_per_minute: int | None
    spend_usd: float | None
    """What it may spend in all."""
    spent_usd: float | None
    """What it has spent, as far as all processes have told: each does so once a second. Null if the
    store cannot be reached."""


class KeysView(View):
    """All keys of the file, in its order; none if the gateway is open."""

    keys: list[KeyView]


def add_keys(see: APIRouter) -> None:
    """Add `/keys` to the routes of viewers."""
    tags: list[str | Enum] = ["keys"]
    see.add_api_route("/keys", get_keys, tags=tags)


async def get_keys(request: Request) -> KeysView:
    """The keys of clients, their limits and what they have spent; never a key itself."""
    keys: Keys | None = request.app.state.keys
    used = await keys.used() if keys else []
    return KeysView(keys=[_view(entry, spent) for entry, spent in used])


def _view(entry: KeyEntry, spent: float | None) -> KeyView:
    return KeyView(
        name=entry.name,
        disabled=entry.disabled,
        models=None if entry.models is None else sorted(entry.models),
        requests_per_minute=entry.requests_per_minute,
        tokens_per_minute=entry.tokens_per_minute,
        spend_usd=entry.spend_usd,
        spent_usd=spent,
    )

"""The last decisions of other processes: passed on through the store that all share.

Once in a while each tells a few of its newest, so that the page shows what all of them do. Where
they are busy that is a sample: the log has every request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from app.state.store import Store
from app.ui.recent import Decision, Recent
from router.faults import Blame

__all__ = ["Passing"]

LOG = "decisions"
EVERY = 4
"""Exchanges between two tellings: with four a second, one."""


class Passing:
    """Passes what `recent` keeps between the processes; this one is `name`."""

    def __init__(self, store: Store, name: str, recent: Recent) -> None:
        self._store = store
        self._name = name
        self._recent = recent
        self._heard = 0
        self._turn = 0

    async def exchange(self) -> None:
        """Tell, and hear; raises `StoreError`. Most calls do nothing."""
        self._turn += 1
        if self._turn % EVERY:
            return
        if self._recent.news:
            told = [asdict(decision) for decision in self._recent.news]
            await self._store.append(LOG, {"from": self._name, "decisions": told})
            self._recent.news.clear()
        for entry in await self._store.entries(LOG, self._heard):
            self._heard = entry.number
            if entry.value["from"] != self._name:
                for told in entry.value["decisions"]:
                    self._recent.hear(_decision(told))


def _decision(told: Mapping[str, Any]) -> Decision:
    fault = told["fault"]
    return Decision(
        **{**told, "said": tuple(told["said"]), "fault": None if fault is None else Blame(fault)}
    )

"""Revisions: which configuration serves, which ones served before, and the swap between them.

Every change takes one way: compose the new document, check it, build a Runtime, and only then
assign `runtime`, once. Composing and checking run in a thread, since they may take long (a policy
may load an artifact); the assignment happens on the event loop, under a lock, so that two changes
cannot interleave. Whatever fails on the way leaves the old revision serving and says why. `check`
is the same way without the last step.

History keeps what was written, not what was built from it: going back builds anew.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, TypeAlias

from router.config import Config, ConfigError, Document, Form, Problem, Table, Written, parse
from router.observe import Listener, RevisionActivated
from router.runtime import Runtime, build

REMEMBERED = 100
"""Revisions kept: a day of one change every quarter of an hour."""

FIXED = (
    "listen",
    "admin",
    "secrets",
    "keys",
    "log",
    "decisions",
    "corpora.folder",
    "corpora.import_from",
    "health",
    "breaker",
    "limits.connect",
    "limits.retry_share",
    "limits.retry_floor",
)
"""What is set up once, at start: sockets, files, and what watches and counts over many requests.

A document that changes one of them is refused, since it would be believed and not obeyed.
"""

Swapped: TypeAlias = Callable[[Runtime], None]
"""Hears of each new Runtime right after the swap. Must be quick and must not raise."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One configuration that served. `what` says how it came: `started from gateway.yaml`."""

    number: int
    when: datetime
    what: str
    written: Written

    @property
    def etag(self) -> str:
        """Equal for revisions that say the same."""
        return self.written.etag


class StaleError(Exception):
    """The active revision is not the one that the change was meant for."""


class UnknownError(LookupError):
    """There is no such revision or policy."""


class Revisions:
    """The active Runtime and how it is replaced. `swapped` lists who must hear of a new one."""

    def __init__(
        self,
        document: Document,
        table: Table,
        observe: Listener,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """Serve `document` as revision 1; raises `ConfigError` if it cannot be built."""
        self.swapped: list[Swapped] = []
        self._table = table
        self._observe = observe
        self._environment = environment
        self._lock = asyncio.Lock()
        self._history: deque[Revision] = deque(maxlen=REMEMBERED)
        self.runtime = build(document, table, 1, None, environment)
        self._record(document.written, f"started from {document.written.source}")

    @property
    def active(self) -> Revision:
        """The revision that serves."""
        return self._history[-1]

    def history(self) -> tuple[Revision, ...]:
        """The last `REMEMBERED` revisions, oldest first."""
        return tuple(self._history)

    def revision(self, number: int) -> Revision:
        """Revision `number`; raises `UnknownError` if it never was or is forgotten."""
        for revision in self._history:
            if revision.number == number:
                return revision
        kept = f"{self._history[0].number} to {self.active.number}"
        raise UnknownError(f"there is no revision {number}; kept are {kept}")

    async def check(self, text: str, form: Form) -> Document:
        """What `replace` would serve; raises `ConfigError` with everything that is wrong."""
        document = await asyncio.to_thread(parse, text, self._table, "the document", form)
        self._build(document)
        return document

    async def replace(self, text: str, form: Form, expected: Collection[str] | None) -> Revision:
        """Serve the document `text`.

        `expected` holds the etags that the active revision may have, None for any; if it has
        another one, `StaleError`. Raises `ConfigError` if the document is wrong.
        """
        return await self._swap(lambda _: (text, form), "PUT config", expected)

    async def replace_policy(
        self, name: str, block: Mapping[str, Any], expected: Collection[str] | None = None
    ) -> Revision:
        """Serve the active document with this block as the policy `name`, new or not."""

        def compose(tree: Mapping[str, Any]) -> tuple[str, Form]:
            policies = {**(tree.get("policies") or {}), name: block}
            return json.dumps({**tree, "policies": policies}), Form.JSON

        return await self._swap(compose, f"PUT policies/{name}", expected)

    async def remove_policy(self, name: str, expected: Collection[str] | None = None) -> Revision:
        """Serve the active document without the policy `name`; `UnknownError` if it has none."""

        def compose(tree: Mapping[str, Any]) -> tuple[str, Form]:
            policies = dict(tree.get("policies") or {})
            if policies.pop(name, None) is None:
                raise UnknownError(f'there is no policy named "{name}"')
            return json.dumps({**tree, "policies": policies}), Form.JSON

        return await self._swap(compose, f"DELETE policies/{name}", expected)

    async def activate(self, number: int, expected: Collection[str] | None = None) -> Revision:
        """Serve what revision `number` said, as a new revision."""
        written = self.revision(number).written
        what = f"rolled back to {number}"
        return await self._swap(lambda _: (written.text, written.form), what, expected)

    async def _swap(
        self,
        compose: Callable[[Mapping[str, Any]], tuple[str, Form]],
        what: str,
        expected: Collection[str] | None,
    ) -> Revision:
        async with self._lock:
            active = self.active
            if expected is not None and active.etag not in expected:
                raise StaleError(
                    f"the configuration has changed: revision {active.number} is active, its "
                    f'ETag is "{active.etag}"; read it again and repeat the change'
                )
            text, form = compose(active.written.tree)
            document = await asyncio.to_thread(parse, text, self._table, what, form)
            self.runtime = self._build(document)
            revision = self._record(document.written, what)
        for hear in self.swapped:
            hear(self.runtime)
        return revision

    def _build(self, document: Document) -> Runtime:
        if problems := tuple(_fixed(self.runtime.config, document.config)):
            raise ConfigError(document.written.source, problems)
        number = self.active.number + 1
        return build(document, self._table, number, self.runtime, self._environment)

    def _record(self, written: Written, what: str) -> Revision:
        revision = Revision(self.runtime.revision, datetime.now(UTC), what, written)
        self._history.append(revision)
        self._observe(RevisionActivated(revision.number, revision.etag))
        return revision


def _fixed(old: Config, new: Config) -> Iterator[Problem]:
    for setting in FIXED:
        read = attrgetter(setting)
        if read(old) != read(new):
            yield Problem(setting, "is set up once, at start; restart Tandem to change it")

"""Revisions: which configuration serves, which ones served before, and the swap between them.

Several processes may act as one: then a `Journal` holds what they agree on. A change is written
there before it serves anywhere, and `follow` takes up what others wrote. A process that cannot
build what the others serve goes on with what it has, and says why in `behind`.

Every change takes one way: compose the new document, check it, build a Runtime, write it down, and
only then assign `runtime`, once. Composing and checking run in a thread, since they may take long
(a policy may load an artifact); the assignment happens on the event loop, under a lock, so that two
changes cannot interleave. Whatever fails on the way leaves the old revision serving and says why.
`check` is the same way without the last steps.

History keeps what was written, not what was built from it: going back builds anew.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Protocol, TypeAlias

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
    "tracing",
    "store",
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

Compose: TypeAlias = Callable[[Mapping[str, Any]], tuple[str, Form]]
"""From the tree of the active document to the text of the next one."""

Swapped: TypeAlias = Callable[[Runtime], None]
"""Hears of each new Runtime right after the swap. Must be quick and must not raise."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One configuration that served. `what` says how it came: `started from gateway.yaml`, and
    `who` on whose word. `origin` is the etag of the file from which it came by such changes.
    """

    number: int
    when: datetime
    what: str
    written: Written
    origin: str
    who: str = ""

    @property
    def etag(self) -> str:
        """Equal for revisions that say the same."""
        return self.written.etag


class Journal(Protocol):
    """What processes that act as one agree on: every revision, in one order.

    Both methods raise `JournalError` if it cannot be reached.
    """

    async def publish(self, revision: Revision) -> bool:
        """Write down this revision; False if there is one of its number, or a later one."""

    async def since(self, number: int) -> Sequence[Revision]:
        """The revisions after this one, oldest first."""


class JournalError(Exception):
    """The journal cannot be reached, so no change can be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Behind:
    """Revision `number` serves elsewhere and cannot be built here."""

    number: int
    why: str


class StaleError(Exception):
    """The active revision is not the one that the change was meant for."""


class UnknownError(LookupError):
    """There is no such revision or policy."""


class Revisions:
    """The active Runtime and how it is replaced. `swapped` lists who must hear of a new one.

    `behind` says why the newest revision does not serve here; None as long as it does.
    """

    def __init__(
        self,
        document: Document,
        table: Table,
        observe: Listener,
        environment: Mapping[str, str] = os.environ,
        *,
        journal: Journal | None = None,
        past: Sequence[Revision] = (),
    ) -> None:
        """Serve `document`: as revision 1, or as the last one of `past`, which the journal holds.

        Raises `ConfigError` if it cannot be built.
        """
        self.swapped: list[Swapped] = []
        self.behind: Behind | None = None
        self._table = table
        self._observe = observe
        self._environment = environment
        self._journal = journal
        self._lock = asyncio.Lock()
        self._history: deque[Revision] = deque(past or [first(document)], maxlen=REMEMBERED)
        _refuse(document, self._sleeping(document))
        self.runtime = build(document, table, self.active.number, None, environment)
        self._told()

    @property
    def active(self) -> Revision:
        """The newest revision. It serves here, unless this process is `behind`."""
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

    async def replace(
        self, text: str, form: Form, expected: Collection[str] | None, who: str = ""
    ) -> Revision:
        """Serve the document `text`, on the word of `who`.

        `expected` holds the etags that the active revision may have, None for any; if it has
        another one, `StaleError`. Raises `ConfigError` if the document is wrong, `JournalError` if
        it cannot be written down.
        """
        return await self._swap(lambda _: (text, form), "PUT config", expected, who)

    async def replace_policy(
        self,
        name: str,
        block: Mapping[str, Any],
        expected: Collection[str] | None = None,
        who: str = "",
    ) -> Revision:
        """Serve the active document with this block as the policy `name`, new or not."""

        def compose(tree: Mapping[str, Any]) -> tuple[str, Form]:
            policies = {**(tree.get("policies") or {}), name: block}
            return json.dumps({**tree, "policies": policies}), Form.JSON

        return await self._swap(compose, f"PUT policies/{name}", expected, who)

    async def remove_policy(
        self, name: str, expected: Collection[str] | None = None, who: str = ""
    ) -> Revision:
        """Serve the active document without the policy `name`; `UnknownError` if it has none."""

        def compose(tree: Mapping[str, Any]) -> tuple[str, Form]:
            policies = dict(tree.get("policies") or {})
            if policies.pop(name, None) is None:
                raise UnknownError(f'there is no policy named "{name}"')
            return json.dumps({**tree, "policies": policies}), Form.JSON

        return await self._swap(compose, f"DELETE policies/{name}", expected, who)

    async def activate(
        self, number: int, expected: Collection[str] | None = None, who: str = ""
    ) -> Revision:
        """Serve what revision `number` said, as a new revision."""
        written = self.revision(number).written
        what = f"rolled back to {number}"
        return await self._swap(lambda _: (written.text, written.form), what, expected, who)

    async def follow(self, *, again: bool = False) -> None:
        """Take up what others have written since; raises `JournalError`.

        What could not be built is tried `again` if that is asked: it may lack a file that has come;
        and a journal that has lost its end, as a store may that keeps nothing on disk, is told it.
        """
        if self._journal is None:
            return
        async with self._lock:
            if again:
                await self._journal.publish(self.active)
            if await self._read(self._journal) or (again and self.behind):
                await self._catch_up()

    async def _swap(
        self, compose: Compose, what: str, expected: Collection[str] | None, who: str
    ) -> Revision:
        async with self._lock:
            while True:
                if self._journal is not None and await self._read(self._journal):
                    await self._catch_up()
                active = self.active
                if expected is not None and active.etag not in expected:
                    raise StaleError(
                        f"the configuration has changed: revision {active.number} is active, its "
                        f'ETag is "{active.etag}"; read it again and repeat the change'
                    )
                text, form = compose(active.written.tree)
                document = await asyncio.to_thread(parse, text, self._table, what, form)
                runtime = self._build(document)
                now = datetime.now(UTC)
                revision = Revision(
                    runtime.revision, now, what, document.written, active.origin, who
                )
                if self._journal is None or await self._journal.publish(revision):
                    self._history.append(revision)
                    self._serve(runtime)
                    return revision

    async def _read(self, journal: Journal) -> bool:
        """Learn what others have written; says whether there was anything."""
        news = await journal.since(self.active.number)
        self._history.extend(news)
        return bool(news)

    async def _catch_up(self) -> None:
        """Serve the newest revision, or say why it cannot be served here."""
        written = self.active.written
        try:
            document = await asyncio.to_thread(
                parse, written.text, self._table, written.source, written.form
            )
            runtime = self._build(document, self.active.number)
        except ConfigError as error:
            self.behind = Behind(self.active.number, str(error))
        else:
            self._serve(runtime)

    def _build(self, document: Document, number: int | None = None) -> Runtime:
        fixed = _fixed(self.runtime.config, document.config)
        _refuse(document, (*fixed, *self._sleeping(document)))
        number = number or self.active.number + 1
        return build(document, self._table, number, self.runtime, self._environment)

    def _sleeping(self, document: Document) -> Iterator[Problem]:
        """What one process alone may do: two would wake and put to sleep against each other."""
        for name, model in document.config.models.items():
            if self._journal is not None and model.sleep is not None:
                why = "servers sleep and wake on the word of one process: no --workers, no store"
                yield Problem(f"models.{name}.sleep", why)

    def _serve(self, runtime: Runtime) -> None:
        """The swap: one assignment, and everybody hears of it."""
        self.runtime = runtime
        self.behind = None
        self._told()
        for hear in self.swapped:
            hear(runtime)

    def _told(self) -> None:
        self._observe(RevisionActivated(self.runtime.revision, self.runtime.etag))


def first(document: Document) -> Revision:
    """The revision of a document that nothing went before."""
    written = document.written
    what = f"started from {written.source}"
    return Revision(1, datetime.now(UTC), what, written, written.etag)


def _refuse(document: Document, found: Iterable[Problem]) -> None:
    if problems := tuple(found):
        raise ConfigError(document.written.source, problems)


def _fixed(old: Config, new: Config) -> Iterator[Problem]:
    for setting in FIXED:
        read = attrgetter(setting)
        if read(old) != read(new):
            yield Problem(setting, "is set up once, at start; restart Tandem to change it")

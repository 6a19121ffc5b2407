"""API keys: who may call, which models, how often and for how much.

The file holds the SHA-256 of each key, never a key. A key is 256 random bits, so its digest can
neither be reversed nor guessed, and needs no salt and no slow hash; a password that a person chose
would need both, which is why keys are made by `new_key` only.

A presented key is hashed, the digest is looked up, and the stored digest is compared with
`hmac.compare_digest`. The lookup's own timing depends on digests alone: to steer one towards a
stored digest, byte by byte, somebody would have to choose SHA-256's output. What could be learned
from timing about a digest says nothing about its key.

A key lives here for the length of one call and is never kept, shown or logged: errors, log lines
and metrics know the configured name only, and tests look for canary keys in all of them.

Admission is a dict lookup and some arithmetic on the event loop (`python -m tests.bench.listeners`)
as long as what the store has granted (`app.account`) suffices; else the store is asked first.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from app.account import Account
from app.keyfile import PREFIX, KeyEntry, KeysError, load
from app.state.store import Json, Store, StoreError
from app.state.use import asking, left
from router.faults import Blame, Fault
from router.observe import Observation, RequestEnded
from router.steps import Request
from router.values import LONGEST_NAME
from router.wire import bad

__all__ = ["Admitted", "KeyEntry", "Keys", "KeysError", "new_key"]

SECRET_BYTES = 32
"""256 bits: as strong as the hash that it is kept under."""

REFRESH = 1.0
"""Seconds between two looks at the file, between two times that the store is told what was used,
and until it is asked again after it could not be reached."""
TOGETHER = 100
"""Keys whose use is told at once."""

Headers: TypeAlias = Iterable[tuple[bytes, bytes]]
"""As ASGI gives them: names in lower case."""

Stamp: TypeAlias = tuple[int, int, int] | None

logger = logging.getLogger("tandem.keys")


def new_key(name: str) -> tuple[str, KeyEntry]:
    """A new secret, to be shown once, and the entry to put into the file."""
    secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    return secret, KeyEntry(name=name, sha256=hashlib.sha256(secret.encode()).hexdigest())


@dataclass(slots=True)
class Admitted:
    """Who calls: the key's configured name, what it may put into `model`, and whether others go
    first.

    `seed` makes the salt of what backends cache for it; without one it shares their caches. One
    call has it, and calls `leave` once when it is over.
    """

    name: str
    models: frozenset[str] | None
    low: bool = False
    seed: bytes = field(default=b"", repr=False, compare=False)
    account: Account | None = field(default=None, compare=False, repr=False)
    reserved: float = field(default=0.0, compare=False)

    def may_use(self, target: str) -> bool:
        """Whether the key may name this model or policy."""
        return self.models is None or target in self.models

    def own(self, request: Request) -> Request:
        """`request`, as this key's: others may go first, and nobody else can find its prefixes in a
        backend's cache by its timing.

        The salt is an HMAC under the key's digest, which no other client knows, of the salt that
        the client itself chose. Raises `FaultError` if that is no string.
        """
        if self.low:
            request = replace(request, low=True)
        if not self.seed:
            return request
        chosen = request.body.get("cache_salt")
        if not isinstance(chosen, str | None):
            raise bad("cache_salt must be a string", "cache_salt")
        salt = hmac.new(self.seed, (chosen or "").encode("utf-8", "replace"), hashlib.sha256)
        return replace(request, salt=salt.hexdigest())

    def refusal(self, target: str) -> Fault | None:
        """None if the key may use `target`; else OpenAI's answer, which hides what exists."""
        if self.may_use(target):
            return None
        shown = target[:LONGEST_NAME]
        message = f"The model `{shown}` does not exist, or this API key may not use it."
        return Fault(Blame.CLIENT, message, 404, "model_not_found", "model")

    def leave(self) -> None:
        """The call is over: what it had reserved is free again."""
        if self.account is not None:
            self.account.leave(self.reserved)
            self.account = None


class Keys:
    """The keys of one file. A listener too: an ended request is charged to its key.

    Reads the file when it is built; raises `KeysError`. Later changes are taken up by `refresh`,
    which `keep` calls for ever. What is used is told to `store`, as `member` of those that share
    it; `share` is this process's part of what all may do. `isolate`: backends are to keep what they
    cache for different keys apart. `now` is monotonic seconds.
    """

    def __init__(
        self,
        file: Path,
        store: Store,
        member: str,
        *,
        share: Callable[[], float] = lambda: 1.0,
        isolate: bool = True,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._store = store
        self._member = member
        self._share = share
        self._isolate = isolate
        self._now = now
        self._away = -math.inf
        self._ailing = False
        self._asking = asyncio.Lock()
        self._by_name: dict[str, Account] = {}
        self._by_digest: dict[bytes, Account] = {}
        self._stamp = _stamp(file)
        self._use(load(file))

    async def admit(self, headers: Headers) -> Admitted | Fault:
        """Who calls with these headers, or why they may not. Counts one request if they may."""
        account = self._of(headers)
        if isinstance(account, Fault):
            return account
        now = self._now()
        if account.lacks(now):
            await self._more(account)
        if fault := account.refusal(now):
            return fault
        admitted = self._named(account.entry)
        admitted.account, admitted.reserved = account, account.enter()
        return admitted

    def known(self, headers: Headers) -> Admitted | Fault:
        """Who asks with these headers what there is; counts nothing."""
        account = self._of(headers)
        if isinstance(account, Fault):
            return account
        return self._named(account.entry)

    def _named(self, entry: KeyEntry) -> Admitted:
        seed = entry.digest if self._isolate and entry.isolate else b""
        return Admitted(entry.name, entry.models, entry.priority == "low", seed)

    def _of(self, headers: Headers) -> Account | Fault:
        secret = _presented(headers)
        if not secret:
            return _unauthorised(
                "No API key was given. Send it as `Authorization: Bearer KEY` or `x-api-key: KEY`."
            )
        digest = hashlib.sha256(secret).digest()
        account = self._by_digest.get(digest)
        if account is None or not hmac.compare_digest(account.entry.digest, digest):
            return _unauthorised(
                "Incorrect API key. Check that it is complete, or ask the operator for a new one."
            )
        if account.entry.disabled:
            return _unauthorised("This API key is disabled. Ask the operator for another one.")
        return account

    def __call__(self, observation: Observation) -> None:
        """Charge an ended request: the tokens that the client saw, the cost of all that was run."""
        if not isinstance(observation, RequestEnded) or observation.key is None:
            return
        account = self._by_name.get(observation.key)
        if account is None:
            return  # removed from the file while its request was in flight
        usage = observation.delivered
        account.charge(observation.cost, usage.prompt + usage.completion)

    async def keep(self, interval: float = REFRESH) -> None:
        """Call `refresh` for ever. The app starts it as a task."""
        while True:
            await asyncio.sleep(interval)
            await self.refresh()

    async def refresh(self) -> None:
        """Tell what was used and take up a changed file; a broken one keeps the old keys."""
        await self.settle()
        stamp = await asyncio.to_thread(_stamp, self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._use(await asyncio.to_thread(load, self._file))
            logger.info("%s: %d keys", self._file, len(self._by_name))
        except KeysError as error:
            logger.warning("the old keys stay in use: %s", error)

    async def used(self) -> list[tuple[KeyEntry, float | None]]:
        """Every key, and the USD that it has spent as far as the store was told; None if the store
        cannot be reached.
        """
        accounts = list(self._by_name.values())
        entries = [account.entry for account in accounts]
        said: dict[str, Any] = {}
        try:
            for few in batched(accounts, TOGETHER):
                names = [_name(account.entry.name) for account in few]
                said |= await self._store.change(dict.fromkeys(names, _unchanged))
        except StoreError:
            return [(entry, None) for entry in entries]
        return [(entry, (said[_name(entry.name)] or {}).get("usd", 0.0)) for entry in entries]

    async def settle(self) -> None:
        """Tell the store what was used, and give back what is not needed now."""
        async with self._asking:
            unsettled = [a for a in self._by_name.values() if a.unsettled]
            for few in batched(unsettled, TOGETHER):
                await self._exchange(few, more=False)

    async def _more(self, account: Account) -> None:
        """Ask the store until it has said what this account may do now.

        Twice at most: an answer that was lost before is asked for again, and then the new one.
        """
        async with self._asking:
            for _ in range(2):
                if account.lacks(self._now()):
                    await self._exchange([account], more=True)

    async def _exchange(self, accounts: Sequence[Account], *, more: bool) -> None:
        share = self._share()
        if self._now() < self._away:
            for account in accounts:
                account.missed(share, self._now())
            return
        asks = {a.entry.name: a.ask(self._member, share, more=more) for a in accounts}
        try:
            said = await self._store.change({_name(n): asking(ask) for n, ask in asks.items()})
        except StoreError as error:
            self._away = self._now() + REFRESH
            if not self._ailing:
                logger.warning("%s; keys go on with what they were granted", error)
            self._ailing = True
            for account in accounts:
                account.missed(share, self._now())
            return
        self._ailing = False
        for account in accounts:
            ask = asks[account.entry.name]
            account.took(ask, left(said[_name(account.entry.name)], ask), self._now())

    def _use(self, entries: list[KeyEntry]) -> None:
        accounts = [self._by_name.get(entry.name) or Account(entry) for entry in entries]
        for account, entry in zip(accounts, entries, strict=True):
            account.renew(entry)
        self._by_name = {account.entry.name: account for account in accounts}
        self._by_digest = {account.entry.digest: account for account in accounts}


def batched(accounts: Sequence[Account], size: int) -> Iterator[list[Account]]:
    """The accounts, so many at a time."""
    rest = iter(accounts)
    while few := list(islice(rest, size)):
        yield few


def _unchanged(document: Json, _: float) -> Json:
    """A change that only looks."""
    return document


def _name(key: str) -> str:
    """The document of a key's use."""
    return f"use/{key}"


def _presented(headers: Headers) -> bytes:
    """The key in these headers; a bearer token goes before `x-api-key`. Empty if there is none."""
    key = b""
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name == b"x-api-key":
            key = value.strip()
    return key


def _stamp(file: Path) -> Stamp:
    """Changes whenever the file does; None if it is not there."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _unauthorised(message: str) -> Fault:
    return Fault(Blame.CLIENT, message, 401, "invalid_api_key")

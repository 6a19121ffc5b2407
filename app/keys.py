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

Admission is a dict lookup on the event loop, about 3 us (`python -m tests.bench.listeners`). All
that reads or writes a disk is in `refresh`, off the loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from app.keyfile import PREFIX, KeyEntry, KeysError, load
from app.limits import Bucket, Spending
from router.faults import Blame, Fault
from router.observe import Observation, RequestEnded
from router.sections import LONGEST_NAME
from router.steps import Request
from router.wire import bad

__all__ = ["Admitted", "KeyEntry", "Keys", "KeysError", "new_key"]

SECRET_BYTES = 32
"""256 bits: as strong as the hash that it is kept under."""

REFRESH = 1.0
"""Seconds between two looks at the file, and between two savings of what was spent."""

Headers: TypeAlias = Iterable[tuple[bytes, bytes]]
"""As ASGI gives them: names in lower case."""

Stamp: TypeAlias = tuple[int, int, int] | None

logger = logging.getLogger("tandem.keys")


def new_key(name: str) -> tuple[str, KeyEntry]:
    """A new secret, to be shown once, and the entry to put into the file."""
    secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    return secret, KeyEntry(name=name, sha256=hashlib.sha256(secret.encode()).hexdigest())


@dataclass(frozen=True, slots=True)
class Admitted:
    """Who calls: the key's configured name, and what it may put into `model`.

    `seed` makes the salt of what backends cache for it; without one it shares their caches.
    """

    name: str
    models: frozenset[str] | None
    seed: bytes = field(default=b"", repr=False, compare=False)

    def may_use(self, target: str) -> bool:
        """Whether the key may name this model or policy."""
        return self.models is None or target in self.models

    def own(self, request: Request) -> Request:
        """`request`, whose prefixes nobody else can find in a backend's cache by its timing.

        The salt is an HMAC under the key's digest, which no other client knows, of the salt that
        the client itself chose. Raises `FaultError` if that is no string.
        """
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


class _Account:
    """One key and its use so far."""

    __slots__ = ("admitted", "digest", "entry", "requests", "saved", "tokens", "unsaved")

    def __init__(self, entry: KeyEntry, now: float, isolate: bool) -> None:
        self.entry = entry
        self.digest = entry.digest
        seed = entry.digest if isolate and entry.isolate else b""
        self.admitted = Admitted(entry.name, entry.models, seed)
        self.requests = _bucket(entry.requests_per_minute, now)
        self.tokens = _bucket(entry.tokens_per_minute, now)
        self.saved = 0.0
        self.unsaved = 0.0

    def inherit(self, old: _Account, now: float) -> None:
        """Go on from what an earlier entry of the same name has used."""
        if self.requests and old.requests:
            self.requests.inherit(old.requests, now)
        if self.tokens and old.tokens:
            self.tokens.inherit(old.tokens, now)
        self.saved, self.unsaved = old.saved, old.unsaved

    def move(self, usd: float) -> None:
        """Count `usd` as saved from now on."""
        self.unsaved -= usd
        self.saved += usd

    def refusal(self, now: float) -> Fault | None:
        """Why this key may not call now, or None; then the request is counted."""
        entry = self.entry
        if entry.disabled:
            return _unauthorised("This API key is disabled. Ask the operator for another one.")
        if entry.spend_usd is not None and self.saved + self.unsaved >= entry.spend_usd:
            return _quota(entry.spend_usd)
        if self.tokens is not None and (wait := self.tokens.wait(now)):
            return _too_fast(f"{entry.tokens_per_minute} tokens", wait)
        if self.requests is not None:
            if wait := self.requests.wait(now):
                return _too_fast(f"{entry.requests_per_minute} requests", wait)
            self.requests.take(1, now)
        return None


class Keys:
    """The keys of one file. A listener too: an ended request is charged to its key.

    Reads the file, and what was spent before, when it is built; raises `KeysError`. Later changes
    are taken up by `refresh`, which `keep` calls for ever. What is spent is kept beside the file,
    or in `spending` (the file's folder may be read-only). `isolate`: backends are to keep what
    they cache for different keys apart. `now` is monotonic seconds.
    """

    def __init__(
        self,
        file: Path,
        *,
        spending: Path | None = None,
        isolate: bool = True,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._isolate = isolate
        self._spending = Spending(spending or file.with_suffix(".spend.sqlite"))
        self._now = now
        self._ailing = False
        self._by_name: dict[str, _Account] = {}
        self._by_digest: dict[bytes, _Account] = {}
        self._stamp = _stamp(file)
        self._use(load(file))
        self._settled({}, self._save({}))

    def admit(self, headers: Headers) -> Admitted | Fault:
        """Who calls with these headers, or why they may not. Counts one request if they may."""
        secret = _presented(headers)
        if not secret:
            return _unauthorised(
                "No API key was given. Send it as `Authorization: Bearer KEY` or `x-api-key: KEY`."
            )
        digest = hashlib.sha256(secret).digest()
        account = self._by_digest.get(digest)
        if account is None or not hmac.compare_digest(account.digest, digest):
            return _unauthorised(
                "Incorrect API key. Check that it is complete, or ask the operator for a new one."
            )
        return account.refusal(self._now()) or account.admitted

    def __call__(self, observation: Observation) -> None:
        """Charge an ended request: the tokens that the client saw, the cost of all that was run."""
        if not isinstance(observation, RequestEnded) or observation.key is None:
            return
        account = self._by_name.get(observation.key)
        if account is None:
            return  # removed from the file while its request was in flight
        account.unsaved += observation.cost
        if account.tokens is not None:
            usage = observation.delivered
            account.tokens.take(usage.prompt + usage.completion, self._now())

    async def keep(self, interval: float = REFRESH) -> None:
        """Call `refresh` for ever. The app starts it as a task."""
        while True:
            await asyncio.sleep(interval)
            await self.refresh()

    async def refresh(self) -> None:
        """Save what was spent and take up a changed file; a broken one keeps the old keys."""
        spent = self._taken()
        self._settled(spent, await asyncio.to_thread(self._save, spent))
        stamp = await asyncio.to_thread(_stamp, self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._use(await asyncio.to_thread(load, self._file))
            logger.info("%s: %d keys", self._file, len(self._by_name))
        except KeysError as error:
            logger.warning("the old keys stay in use: %s", error)

    def close(self) -> None:
        """Save what was spent since the last refresh."""
        spent = self._taken()
        self._settled(spent, self._save(spent))

    def _use(self, entries: list[KeyEntry]) -> None:
        now = self._now()
        accounts = [_Account(entry, now, self._isolate) for entry in entries]
        for account in accounts:
            if old := self._by_name.get(account.entry.name):
                account.inherit(old, now)
        self._by_name = {account.entry.name: account for account in accounts}
        self._by_digest = {account.digest: account for account in accounts}

    def _taken(self) -> dict[str, float]:
        """What is to be saved. It counts as saved from here on, lest it be saved twice."""
        spent = {name: a.unsaved for name, a in self._by_name.items() if a.unsaved}
        for name, usd in spent.items():
            self._by_name[name].move(usd)
        return spent

    def _save(self, spent: dict[str, float]) -> dict[str, float] | None:
        """Everybody's totals with `spent` added; None if they cannot be kept."""
        try:
            totals = self._spending.add(spent)
        except sqlite3.Error as error:
            if not self._ailing:
                logger.warning(
                    "%s: cannot keep what keys spend (%s): limits in USD count since start only."
                    " Make the folder writable, or name another place for this file.",
                    self._spending.path,
                    error,
                )
            self._ailing = True
            return None
        self._ailing = False
        return totals

    def _settled(self, spent: dict[str, float], totals: dict[str, float] | None) -> None:
        for name, account in self._by_name.items():
            if totals is None:
                account.move(-spent.get(name, 0.0))
            else:
                account.saved = totals.get(name, 0.0)


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


def _bucket(per_minute: int | None, now: float) -> Bucket | None:
    return None if per_minute is None else Bucket(per_minute, now)


def _unauthorised(message: str) -> Fault:
    return Fault(Blame.CLIENT, message, 401, "invalid_api_key")


def _too_fast(limit: str, wait: float) -> Fault:
    message = f"This API key's limit of {limit} per minute is reached. Try again in {wait:.1f} s."
    return Fault(Blame.CLIENT, message, 429, "rate_limit_exceeded", retry_after=wait)


def _quota(limit: float) -> Fault:
    message = f"This API key has spent its {limit:g} USD. Ask the operator to raise its limit."
    return Fault(Blame.CLIENT, message, 429, "insufficient_quota")

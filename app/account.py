"""One key's account in this process: what it may use without asking, and what it has used.

The account lives off what the store has granted (`app.state.use`): a lease of money, a few
requests, a view of the tokens that are left. As long as that suffices, admission is arithmetic.
When it does not, the store is asked first. When the store cannot be reached, there is no more money
than the lease, and rates are this process's share.

What an answer will cost is not known when it is admitted. So each call reserves what this key's
dearest recent answers cost; until one has ended, it reserves a lease.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.keyfile import KeyEntry
from app.limits import MINUTE, refilled
from app.state.use import Ask, Left, Limits
from router.faults import Blame, Fault

PARTS = 100
"""Leases in a limit of money: a process holds a hundredth beyond what its calls have reserved."""
BURSTS = 8
"""A process takes its share of an eighth of a minute's requests at once."""
FADES = 0.05
"""Weight of a cheaper answer in what the next one is expected to cost. A dearer one counts at
once, and is half forgotten after fourteen cheap ones."""
STALE = 0.25
"""Seconds after which the store is asked again whether what it had not is there now."""
CRUMB = 1e-9
"""USD that make no difference: sums of floating-point numbers are not exact."""


class Account:
    """What the key of `entry` may use here. Times are monotonic seconds.

    `pending` is an ask whose answer has not come.
    """

    def __init__(self, entry: KeyEntry) -> None:
        self.entry = entry
        self.limits = Limits(entry.spend_usd, entry.requests_per_minute, entry.tokens_per_minute)
        self.lease = 0.0
        self.spent = 0.0
        self.reserved = 0.0
        self.expected = 0.0
        self.used = 0.0
        self.known = 0.0
        self.requests = 0
        self.number = 0
        self.pending: Ask | None = None
        self.cut_off = False
        self._left: Left | None = None
        self._asked = 0.0
        self._alone: Sequence[float] | None = None

    def renew(self, entry: KeyEntry) -> None:
        """Go on under another entry: what was used stays, what was granted is asked for anew."""
        if entry != self.entry:
            self.entry = entry
            self.limits = Limits(
                entry.spend_usd, entry.requests_per_minute, entry.tokens_per_minute
            )
            self._left = self._alone = None

    # ------------------------------------------------------------------------- one call

    def lacks(self, now: float) -> bool:
        """Whether the store must be asked before a call can be admitted or refused."""
        if not self.limits:
            return False
        if self._left is None:
            return True
        aged = now - self._asked > STALE
        if not self._affords and (aged or self._left.free > CRUMB):
            return True
        if self.limits.requests and self.requests < 1 and not self._wait(now):
            return True
        return aged and self._tokens(now) < 1

    def refusal(self, now: float) -> Fault | None:
        """Why a call is not admitted, or None."""
        if not self._affords:
            return self._unaffordable()
        if self.limits.tokens and (tokens := self._tokens(now)) < 1:
            wait = (1 - tokens) * MINUTE / self.limits.tokens
            return _too_fast(f"{self.limits.tokens} tokens", wait)
        if self.limits.requests and self.requests < 1:
            return _too_fast(f"{self.limits.requests} requests", self._wait(now))
        return None

    def enter(self) -> float:
        """Count one admitted call; gives what it reserved, in USD, for `leave`."""
        if self.limits.requests:
            self.requests -= 1
        if self.limits.usd is None:
            return 0.0
        self.reserved += (each := self._each)
        return each

    def leave(self, reserved: float) -> None:
        """The call is over."""
        self.reserved -= reserved

    def charge(self, usd: float, tokens: int) -> None:
        """Count what a call has used."""
        self.spent += usd
        self.used += tokens
        self.expected = max(usd, self.expected + FADES * (usd - self.expected))

    @property
    def _each(self) -> float:
        return self.expected or (self.limits.usd or 0.0) / PARTS

    @property
    def _affords(self) -> bool:
        """Whether the lease pays for a call. A call that is alone may be dearer than the rest."""
        if self.limits.usd is None:
            return True
        free = self.lease - self.spent - self.reserved
        return free >= self._each - CRUMB or (free > CRUMB and self.reserved <= CRUMB)

    def _tokens(self, now: float) -> float:
        """Tokens that are left, as far as this process can know; 1 where there is no limit."""
        if self.limits.tokens is None or self._left is None:
            return 1.0
        bucket = (self._left.tokens - self.used, self._asked, self.limits.tokens)
        return refilled(bucket, self.limits.tokens, now)

    def _wait(self, now: float) -> float:
        """Seconds until there may be another request to be had; 0 if there may be one now."""
        if self._left is None or self.limits.requests is None:
            return 0.0
        level, at, size = self._alone or (self._left.level, self._asked, self.limits.requests)
        return max(at + (1 - level) * MINUTE / size - now, 0.0)

    def _unaffordable(self) -> Fault:
        assert self.limits.usd is not None
        if self.cut_off:
            message = "What this API key may still spend cannot be looked up now. Try again soon."
            return Fault(Blame.GATEWAY, message, 503, "store_unavailable", retry_after=1.0)
        if self.known + self.spent >= self.limits.usd - CRUMB:
            return _quota(self.limits.usd)
        message = "What this API key may still spend is reserved for requests under way. Try again."
        return Fault(Blame.CLIENT, message, 429, "rate_limit_exceeded", retry_after=1.0)

    # ------------------------------------------------------------------------- the store

    @property
    def unsettled(self) -> bool:
        """Whether there is something to tell the store, or to give back."""
        return bool(self.spent or self.used or self.pending) or (
            self.lease > self.reserved + CRUMB or self.requests > 0
        )

    def ask(self, member: str, share: float, *, more: bool) -> Ask:
        """What to tell the store: for a call that is here (`more`), or to settle."""
        if self.pending is None:
            requests = self.limits.requests or 0
            wants = max(int(requests * share / BURSTS), 1) if more and requests else 0
            spare = max(self._each, (self.limits.usd or 0.0) / PARTS) if more else 0.0
            self.number += 1
            self.pending = Ask(
                member=member,
                number=self.number,
                limits=self.limits,
                known=self.known,
                spent=self.spent,
                tokens=self.used,
                unused=self.requests,
                lease=self.reserved + spare,
                requests=wants,
            )
            self.requests = 0
        return self.pending

    def took(self, ask: Ask, left: Left, now: float) -> None:
        """The store's answer."""
        self.pending = None
        self.cut_off = False
        self.spent -= ask.spent
        self.used -= ask.tokens
        self.lease = left.lease
        self.known = left.spent
        self.requests += left.requests
        self._left, self._asked, self._alone = left, now, None

    def missed(self, share: float, now: float) -> None:
        """The store did not answer: rates go on as this process's share, money as it is."""
        self.cut_off = True
        if full := self.limits.requests:
            part = full * share
            level = refilled(self._alone or [part, now, part], part, now)
            self.requests = int(level)
            self._alone = [level - self.requests, now, part]
        self._left = self._left or Left(0, 0, 0, 0, 0, 0, float(self.limits.tokens or 0))


def _too_fast(limit: str, wait: float) -> Fault:
    message = f"This API key's limit of {limit} per minute is reached. Try again in {wait:.1f} s."
    return Fault(Blame.CLIENT, message, 429, "rate_limit_exceeded", retry_after=wait)


def _quota(limit: float) -> Fault:
    message = f"This API key has spent its {limit:g} USD. Ask the operator to raise its limit."
    return Fault(Blame.CLIENT, message, 429, "insufficient_quota")

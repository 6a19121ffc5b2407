"""The clients' API: a raw ASGI application, since every call passes through here.

It finds out who calls, what for and under which Runtime, hands the request to the engine, watches
for a client that leaves, and tells the listeners how it ended. It reads the Runtime once per
request: a swap never touches a request in flight. Paths are an allow-list (`Surface`, and the few
pages below): what is not on it never reaches a backend.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from http import HTTPStatus

from app.decisions import Decisions
from app.keys import Admitted, Keys
from app.openapi import document
from app.pages import Page, health, model_card, models, ready
from app.sink import CLOSE, AsgiSink, ClientGoneError, Receive, Scope, Send, read_body, too_large
from app.together import Together
from app.tracing.tracing import Tracing
from router import errors, reserved
from router.alarms import Alarms
from router.answer import Answer
from router.attempts import Shared
from router.call import MEGABYTE
from router.engine import Drive
from router.faults import Blame, Fault, FaultError
from router.ledger import Ledger
from router.observe import Observers, Refused
from router.revisions import Revisions
from router.runtime import Runtime
from router.steps import Request, Surface
from router.values import LONGEST_NAME
from router.wire import READ, parse, request_id

SURFACES = {f"/v1/{surface.value}": surface for surface in Surface}
PAGES = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/models"})
"""What answers a GET, beside each model's own page below `/v1/models/`."""
READ_HEADERS = frozenset(name.encode() for name in READ)
UNWATCHED = 0.02
"""Seconds before a client is watched; its leaving must reach the backend within 0.1 s."""
GONE_STATUS = 499
"""nginx's status for a client that left; it is only ever logged and counted."""
NOBODY = Admitted("", None)
"""Who calls where no keys are configured."""


@dataclass(slots=True)
class Gateway:
    """The ASGI application of the clients' listener."""

    revisions: Revisions
    shared: Shared
    observe: Observers
    metrics: Together
    decisions: Decisions
    keys: Keys | None = None
    tracing: Tracing | None = None
    draining: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1003})
            return
        surface = SURFACES.get(scope["path"])
        if surface and scope["method"] == "POST":
            await self._call(surface, scope, receive, send)
        else:
            await self._page(scope, send)

    def patience(self) -> float:
        """Seconds that a client may take to send its request, and to read on."""
        return self.revisions.runtime.config.limits.client

    # ------------------------------------------------------------------------------ calls

    async def _call(self, surface: Surface, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        runtime, caller = self.revisions.runtime, NOBODY
        try:
            caller = await self._admit(scope)
            request = caller.own(await self._read(surface, scope, receive, runtime))
            self._allow(request.target, caller, runtime)
        except ClientGoneError:
            caller.leave()
        except FaultError as error:
            caller.leave()
            page = self._refusal(error.fault, surface, caller)
            if error.fault.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                await page.send_while_reading(send, receive)
            else:
                await page.send(send)
        else:
            ledger = Ledger(
                request=request,
                policy=request.target,
                revision=runtime.revision,
                key=caller.name or None,
                began=began,
                baseline=runtime.pools[runtime.baseline].price,
                trace=self.tracing.begin(request) if self.tracing else None,
            )
            try:
                await self._drive(runtime, ledger, receive, send)
            finally:
                caller.leave()

    async def _admit(self, scope: Scope) -> Admitted:
        if self.keys is None:
            return NOBODY
        admitted = await self.keys.admit(scope["headers"])
        if isinstance(admitted, Fault):
            raise FaultError(admitted)
        return admitted

    def _known(self, scope: Scope) -> Admitted:
        if self.keys is None:
            return NOBODY
        known = self.keys.known(scope["headers"])
        if isinstance(known, Fault):
            raise FaultError(known)
        return known

    def _allow(self, target: str, caller: Admitted, runtime: Runtime) -> None:
        """Raise unless this caller may use `target`, and there is one; in that order, so that a
        key that may not use a model cannot find out whether it exists.
        """
        if fault := caller.refusal(target):
            raise FaultError(fault)
        if runtime.target(target) is None:
            raise FaultError(unknown_model(target))

    async def _read(
        self, surface: Surface, scope: Scope, receive: Receive, runtime: Runtime
    ) -> Request:
        limit = int(runtime.config.limits.body_mb * MEGABYTE)
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            if name in READ_HEADERS:
                headers[name.decode()] = value.decode("latin-1")
            elif name == b"content-length" and value.isdigit() and int(value) > limit:
                raise too_large(limit)
            elif name == b"content-encoding" and value != b"identity":
                raise FaultError(encoded(value.decode("latin-1")))
        raw = await read_body(receive, limit)
        request = parse(surface, raw, headers, runtime.default, self.shared.rng)
        reserved.check(request.body, runtime.config.requests)
        return request

    async def _drive(self, runtime: Runtime, ledger: Ledger, receive: Receive, send: Send) -> None:
        limits = runtime.config.limits
        answer = Answer(ledger, AsgiSink(send, last=self.draining))
        drive = Drive(self.shared, runtime, ledger, answer)
        watch = Watch(self.shared.alarms, receive, answer, limits.keepalive)
        try:
            await drive.run(ledger.began + limits.deadline)
        except asyncio.CancelledError:
            if not watch.gone or watch.watched.uncancel():
                raise
            ledger.status = GONE_STATUS
            ledger.fault = Fault(Blame.GONE, "the client left", GONE_STATUS, "client_gone")
        finally:
            watch.stop()
            ended = ledger.ended(time.monotonic())
            self.observe(ended)
            if runtime.learns:
                self.decisions(runtime, drive.fleet, ledger.request, ended)

    def _refusal(self, fault: Fault, surface: Surface | None, caller: Admitted) -> Page:
        name = surface or "models"
        self.observe(Refused(name, fault.status, fault.blame, fault.code, caller.name or None))
        page = self._told(Page(fault.status, errors.body_of(fault, surface)))
        if fault.retry_after is not None:
            page.head.append((b"retry-after", b"%d" % math.ceil(fault.retry_after)))
        if fault.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            page.head.append(CLOSE)
        if fault.status == HTTPStatus.UNAUTHORIZED:
            page.head.append((b"www-authenticate", b"Bearer"))
        return page

    def _told(self, page: Page) -> Page:
        """`page` with what every answer says of itself."""
        page.head.append((b"x-request-id", request_id(self.shared.rng).encode()))
        page.head.append((b"x-tandem-revision", b"%d" % self.revisions.runtime.revision))
        if self.draining:
            page.head.append(CLOSE)
        return page

    # ------------------------------------------------------------------------------ pages

    async def _page(self, scope: Scope, send: Send) -> None:
        path, runtime = scope["path"], self.revisions.runtime
        if path in SURFACES:
            page = self._told(not_allowed(path, "POST"))
        elif path not in PAGES and not path.startswith("/v1/models/"):
            page = self._told(not_found(path))
        elif scope["method"] not in ("GET", "HEAD"):
            page = self._told(not_allowed(path, "GET"))
        elif path == "/healthz":
            page = self._told(health())
        elif path == "/readyz":
            page = self._told(ready(runtime, draining=self.draining))
        elif path == "/metrics":
            page = await self._metrics(scope)
        elif path == "/openapi.json":
            page = self._told(Page(200, document()))
        else:
            page = self._models(scope, path.removeprefix("/v1/models").removeprefix("/"), runtime)
        await page.send(send, head_only=scope["method"] == "HEAD")

    async def _metrics(self, scope: Scope) -> Page:
        accept = next((v for n, v in scope["headers"] if n == b"accept"), b"")
        body, kind = await self.metrics.page(accept.decode("latin-1"))
        return Page(200, body, [(b"content-type", kind.encode())])

    def _models(self, scope: Scope, name: str, runtime: Runtime) -> Page:
        caller = NOBODY
        try:
            caller = self._known(scope)
            if not name:
                return self._told(models(runtime, caller.may_use))
            self._allow(name, caller, runtime)
        except FaultError as error:
            return self._refusal(error.fault, None, caller)
        return self._told(model_card(runtime, name))


class Watch:
    """Watches one client: cancels its request when it leaves, breaks the silence of its stream.

    It begins a moment after the request, since most that are over by then need no watching, and a
    task costs more than all the rest of a short request's bookkeeping.
    """

    __slots__ = ("_alarm", "_answer", "_keepalive", "_receive", "_task", "gone", "watched")

    def __init__(self, alarms: Alarms, receive: Receive, answer: Answer, keepalive: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.watched = task
        self.gone = False
        self._receive = receive
        self._answer = answer
        self._keepalive = keepalive
        self._task: asyncio.Task[None] | None = None
        self._alarm = alarms.after(UNWATCHED, self._begin)

    def stop(self) -> None:
        """The request is over."""
        self._alarm.cancel()
        if self._task:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._keepalive / 2):
                    message = await self._receive()
            except TimeoutError:
                await self._answer.keep_alive(self._keepalive)
                continue
            if message["type"] == "http.disconnect":
                if not self._answer.ended:
                    self.gone = True
                    self.watched.cancel()
                return


def unknown_model(name: str) -> Fault:
    """OpenAI's fault for a model that does not exist."""
    shown = name[:LONGEST_NAME]  # a longer one exists nowhere, and could have megabytes
    message = f'there is no model or policy named "{shown}"; GET /v1/models lists those there are'
    return Fault(Blame.CLIENT, message, 404, "model_not_found", "model")


def encoded(how: str) -> Fault:
    """The fault of a compressed body."""
    message = f"content-encoding {how} is not supported; send the body as it is"
    return Fault(Blame.CLIENT, message, 415, "unsupported_encoding")


def not_found(path: str) -> Page:
    """A path that is not on the list."""
    served = ", ".join([*SURFACES, "/v1/models"])
    message = f"there is nothing at {path[:LONGEST_NAME]}; served are {served}"
    return Page(404, errors.body_of(Fault(Blame.CLIENT, message, 404, "unknown_url")))


def not_allowed(path: str, method: str) -> Page:
    """A method that the path does not have, where it has another."""
    fault = Fault(Blame.CLIENT, f"{path} answers {method}", 405, "method_not_allowed")
    return Page(405, errors.body_of(fault), [(b"allow", method.encode())])

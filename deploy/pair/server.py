"""The pair over HTTP, in the dialect of vLLM's OpenAI server (0.32).

A raw ASGI application. Knows paths, statuses and a client that leaves. Must not know tokens or
sampling: bodies are checked in `bodies` and `renderer`, run in `served`, written by the answers.
The rule: every error is a `Refusal` and becomes a response in `_answer`, nowhere else.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from deploy.pair.answer import Answer, Head
from deploy.pair.bodies import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    EmbeddingBody,
    GenerationBody,
    TokenizeBody,
    TokenizeChatBody,
    TokenizeKind,
    read,
)
from deploy.pair.chat_answer import ChatAnswer
from deploy.pair.completion_answer import CompletionAnswer
from deploy.pair.exchange import Exchange, GoneError, Receive, Send
from deploy.pair.metrics import exposition
from deploy.pair.refusal import Refusal, broken, refuse, unknown_model
from deploy.pair.sampling import Floats
from deploy.pair.scores import ScoreRoutes
from deploy.pair.served import InFlight, Served
from deploy.pair.sleep import SleepRoutes

log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Exchange], Awaitable[None]]

# The dialect that is spoken, and that it is not vLLM itself that speaks it.
VERSION = "0.32.0+tandem.pair"


class Application:
    """The ASGI application for these models; the first one is meant when a request names none.

    `sleep_mode` adds the endpoints by which they are put to sleep and woken.
    """

    def __init__(self, models: Sequence[Served], *, sleep_mode: bool = False) -> None:
        self._models = {served.name: served for served in models}
        self._since = int(time.time())
        self._load = 0
        self._handlers: dict[str, dict[str, Handler]] = {
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health, "POST": self._health},
            "/load": {"GET": self._tell_load},
            "/version": {"GET": self._version},
            "/metrics": {"GET": self._metrics},
            "/openapi.json": {"GET": self._paths},
            "/v1/models": {"GET": self._list_models},
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/completions": {"POST": self._complete},
            "/v1/embeddings": {"POST": self._embed},
            "/tokenize": {"POST": self._tokenize},
            "/detokenize": {"POST": self._detokenize},
        }
        if any(served.reward for served in models):
            self._handlers.update(ScoreRoutes(self._named).handlers)
        if sleep_mode:
            self._handlers.update(SleepRoutes(models).handlers)

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """ASGI's entry."""
        match scope["type"]:
            case "http":
                await self._answer(scope, Exchange(scope, receive, send))
            case "lifespan":
                await self._live(receive, send)
            case kind:
                # As ASGI wants it: the server takes the exception for "not supported".
                raise NotImplementedError(f"ASGI {kind} is not spoken here")

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        runs = [asyncio.create_task(served.run()) for served in self._models.values()]
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for run in runs:
            run.cancel()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Mapping[str, Any], exchange: Exchange) -> None:
        methods = self._handlers.get(scope["path"])
        if methods is None:
            return await exchange.json({"detail": "Not Found"}, 404)
        handler = methods.get(scope["method"])
        if handler is None:
            return await exchange.json({"detail": "Method Not Allowed"}, 405)
        try:
            await handler(exchange)
        except Refusal as refusal:
            await exchange.refuse(refusal)
        except GoneError:
            pass
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            await exchange.refuse(broken())

    async def _chat(self, exchange: Exchange) -> None:
        body = read(ChatBody, await exchange.body())
        served = self._named(body.model)
        text, prompt = served.renderer.chat_prompt(body)
        flight = served.start(served.renderer.chat_jobs(body, prompt))
        kind = "chat.completion.chunk" if body.stream else "chat.completion"
        head = _head(f"chatcmpl-{_request_id(exchange, body)}", kind, served)
        answer = ChatAnswer(head, body, served.engine.codec, flight.generations, text)
        await self._tell(exchange, answer, served, flight)

    async def _complete(self, exchange: Exchange) -> None:
        body = read(CompletionBody, await exchange.body())
        served = self._named(body.model)
        flight = served.start(served.renderer.completion_jobs(body))
        head = _head(f"cmpl-{_request_id(exchange, body)}", "text_completion", served)
        answer = CompletionAnswer(head, body, served.engine.codec, flight.generations)
        await self._tell(exchange, answer, served, flight)

    async def _tell(
        self, exchange: Exchange, answer: Answer, served: Served, flight: InFlight
    ) -> None:
        """Write the answer while it is made; stop making it when nobody listens."""
        watch = asyncio.create_task(_when_gone(exchange, served, flight))
        self._load += 1
        try:
            if answer.streams:
                await _stream(exchange, answer, flight)
            else:
                async for choice, token in flight.tokens():
                    answer.hear(choice, token)
                if not flight.stopped:
                    await exchange.json(answer.whole())
        finally:
            self._load -= 1
            watch.cancel()
            served.stop(flight)

    async def _embed(self, exchange: Exchange) -> None:
        body = read(EmbeddingBody, await exchange.body())
        served = self._named(body.model)
        if body.encoding_format not in {"float", "base64"}:
            refuse("encoding_format must be float or base64.", "encoding_format")
        if body.dimensions is not None:
            refuse("The embedded pair's embeddings have one size only.", "dimensions")
        asked = served.renderer.prompts(body.input, body.add_special_tokens)
        prompts = [served.renderer.fitting(prompt) for prompt in asked]
        data = []
        for index, prompt in enumerate(prompts):
            await served.awake()
            vector = _encoded(served.engine.embed(prompt), body.encoding_format)
            data.append({"index": index, "object": "embedding", "embedding": vector})
            await asyncio.sleep(0)  # others have their turn between two inputs
        read_tokens = sum(map(len, prompts))
        usage = {"prompt_tokens": read_tokens, "total_tokens": read_tokens, "completion_tokens": 0}
        named = {"id": f"embd-{uuid.uuid4().hex}", "object": "list", "created": int(time.time())}
        await exchange.json({**named, "model": served.name, "data": data, "usage": usage})

    async def _tokenize(self, exchange: Exchange) -> None:
        raw = await exchange.body()
        body: TokenizeBody | TokenizeChatBody
        if read(TokenizeKind, raw).messages is None:
            body = read(TokenizeBody, raw)
            served = self._named(body.model)
            tokens = served.engine.codec.encode(body.prompt, body.add_special_tokens)
        else:
            body = read(TokenizeChatBody, raw)
            served = self._named(body.model)
            tokens = served.renderer.chat_prompt(body)[1]
        spelled = [served.engine.codec.piece(token) for token in tokens]
        await exchange.json(
            {
                "count": len(tokens),
                "max_model_len": served.renderer.shape.context,
                "tokens": tokens,
                "token_strs": spelled if body.return_token_strs else None,
            }
        )

    async def _detokenize(self, exchange: Exchange) -> None:
        body = read(DetokenizeBody, await exchange.body())
        await exchange.json({"prompt": self._named(body.model).engine.codec.decode(body.tokens)})

    async def _health(self, exchange: Exchange) -> None:
        healthy = all(served.healthy for served in self._models.values())
        await exchange.reply(200 if healthy else 503, b"", b"text/plain")

    async def _tell_load(self, exchange: Exchange) -> None:
        await exchange.json({"server_load": self._load})

    async def _version(self, exchange: Exchange) -> None:
        await exchange.json({"version": VERSION})

    async def _metrics(self, exchange: Exchange) -> None:
        text = exposition(list(self._models.values()))
        await exchange.reply(200, text, b"text/plain; version=0.0.4; charset=utf-8")

    async def _paths(self, exchange: Exchange) -> None:
        """Enough of OpenAPI to see what is served."""
        paths: dict[str, dict[str, dict[str, str]]] = {
            path: {method.lower(): {} for method in methods}
            for path, methods in self._handlers.items()
        }
        info = {"title": "Tandem's embedded pair", "version": VERSION}
        await exchange.json({"openapi": "3.1.0", "info": info, "paths": paths})

    async def _list_models(self, exchange: Exchange) -> None:
        cards: list[dict[str, object]] = [
            {
                "id": served.name,
                "object": "model",
                "created": self._since,
                "owned_by": "tandem",
                "root": str(served.folder),
                "parent": None,
                "max_model_len": served.renderer.shape.context,
                "permission": [],
            }
            for served in self._models.values()
        ]
        await exchange.json({"object": "list", "data": cards})

    def _named(self, name: str | None) -> Served:
        served = self._models.get(name) if name else next(iter(self._models.values()))
        if served is None:
            raise unknown_model(str(name), list(self._models))
        return served


async def _stream(exchange: Exchange, answer: Answer, flight: InFlight) -> None:
    await exchange.open_stream()
    for event in answer.opening():
        await exchange.event(event)
    async for choice, token in flight.tokens():
        await exchange.event(answer.event(choice, token))
    for event in answer.closing():
        await exchange.event(event)
    await exchange.close_stream()


async def _when_gone(exchange: Exchange, served: Served, flight: InFlight) -> None:
    await exchange.client_left()
    served.stop(flight)


def _request_id(exchange: Exchange, body: GenerationBody) -> str:
    """The client's own, from the header or the body, or a new one."""
    header = exchange.headers.get(b"x-request-id", b"").decode("latin-1")
    return header or body.request_id or uuid.uuid4().hex


def _head(identity: str, kind: str, served: Served) -> Head:
    return Head(identity, kind, int(time.time()), served.name, served.fingerprint)


def _encoded(vector: Floats, form: str) -> list[float] | str:
    if form == "float":
        numbers: list[float] = vector.tolist()
        return numbers
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()

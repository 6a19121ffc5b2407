"""A conversation with a gateway, from the client's side: what can be asked there, and an answer in
pieces, with who wrote them.

It speaks OpenAI's API over HTTP, as any client does, and so talks to any server that has it; what
Tandem adds (`docs/api.md`) is read where it is there. It knows no terminal: `app.chat` has that.
Whatever goes wrong becomes a `ChatError`, one line that says what to do.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import httpx
import orjson

from router import sse
from router.dialect import error_in, message_in

CONNECT = 5.0
"""Seconds to reach the gateway. Once it is reached, the deadlines are its own."""
LONGEST_EVENT = 16 << 20
"""Bytes held of an event that has no end; a gateway's own limit (`limits.event_kb`) is lower."""
SUMMARY = b": tandem "
"""How the comment begins that comes at the end of a stream."""


class ChatError(Exception):
    """It cannot be done; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Card:
    """What can be asked: a model, or a policy that chooses between models. `worth` puts models in
    order, by price and then by size; None where that is not told.
    """

    name: str
    policy: bool = False
    default: bool = False
    worth: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of an answer, and the model that wrote it; `aside` if it is its reasoning."""

    text: str
    model: str
    aside: bool = False


@dataclass(slots=True)
class Answer:
    """An answer as far as it has come: it can be looked at while it does, and when it never ends.

    `told` is the gateway's own summary. `first` is when text began to come and `writing` for how
    long it has, in seconds since it was `asked` (monotonic).
    """

    pieces: list[Piece] = field(default_factory=list)
    told: Mapping[str, Any] = field(default_factory=dict)
    tokens: int = 0
    finish: str | None = None
    asked: float = field(default_factory=monotonic)
    first: float | None = None
    writing: float = 0.0

    @property
    def text(self) -> str:
        """What was said, without the reasoning before it."""
        return "".join([piece.text for piece in self.pieces if not piece.aside])

    @property
    def written(self) -> Mapping[str, int]:
        """Tokens by the model that wrote them; empty if nobody told."""
        models = self.told.get("models")
        return models if isinstance(models, dict) else {}

    @property
    def rate(self) -> float | None:
        """Tokens per second, from the first on."""
        tokens = sum(self.written.values()) or self.tokens
        return (tokens - 1) / self.writing if tokens > 1 and self.writing > 0 else None

    def hear(self, data: bytes, writer: str) -> Iterator[Piece]:
        """What one event of the stream adds; `writer` wrote it if it does not say itself who did.

        Raises `ChatError` if it is an error.
        """
        chunk = _decoded(data)
        if error_in(chunk):
            raise ChatError(f"the answer broke off: {one_line(message_in(data))}")
        self.tokens = _object(chunk.get("usage")).get("completion_tokens") or self.tokens
        by = _object(chunk.get("tandem")).get("model") or writer or str(chunk.get("model"))
        for choice in _objects(chunk.get("choices")):
            self.finish = choice.get("finish_reason") or self.finish
            delta = _object(choice.get("delta"))
            aside = delta.get("reasoning") or delta.get("reasoning_content")
            for text, is_aside in ((aside, True), (delta.get("content"), False)):
                if isinstance(text, str) and text:
                    self._keep(Piece(text, by, is_aside))
                    yield self.pieces[-1]

    def _keep(self, piece: Piece) -> None:
        since = monotonic() - self.asked
        self.first = since if self.first is None else self.first
        self.writing = since - self.first
        self.pieces.append(piece)


class Gateway:
    """One gateway. Close it when all is said."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """`url` may end in `/v1`, as for OpenAI's own client. Raises `ChatError` if it is none."""
        head = {"authorization": f"Bearer {key}"} if key else {}
        try:
            address = httpx.URL(url.rstrip("/").removesuffix("/v1"))
        except httpx.InvalidURL as error:
            raise ChatError(f"{url} is no address: {error}") from None
        if address.scheme not in ("http", "https") or not address.host:
            raise ChatError(f"{url} is no address; one looks like http://127.0.0.1:8000")
        self.url = str(address)
        patience = httpx.Timeout(None, connect=CONNECT)
        self._http = httpx.Client(base_url=address, headers=head, timeout=patience)

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    def cards(self) -> Sequence[Card]:
        """What can be asked, in the gateway's order. Raises `ChatError`."""
        with self._in_words():
            reply = self._http.get("/v1/models")
        if reply.status_code != httpx.codes.OK:
            raise _refusal(reply)
        cards = [_card(entry) for entry in _objects(_decoded(reply.content).get("data"))]
        if not cards:
            raise ChatError(f"{self.url} lists no models: is it a gateway?")
        return cards

    def ask(self, body: Mapping[str, Any], answer: Answer) -> Generator[Piece, None, None]:
        """The pieces of the answer to a chat with this body, as they come; `answer` gathers what is
        known. Close the iterator to stop it. Raises `ChatError`.
        """
        streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
        head = {"x-tandem-explain": "1"}
        post = self._http.stream("POST", "/v1/chat/completions", json=streamed, headers=head)
        with self._in_words(), post as reply:
            if reply.status_code != httpx.codes.OK:
                reply.read()
                raise _refusal(reply)
            writer = reply.headers.get("x-tandem-models", "")
            for block in _blocks(reply):
                if block.startswith(SUMMARY):
                    answer.told = _decoded(block.removeprefix(SUMMARY))
                for event in sse.read(block):
                    if event.data == b"[DONE]":
                        return
                    yield from answer.hear(event.data, writer)
        raise ChatError("the answer broke off: the stream ended before it was complete")

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """What can go wrong between here and there."""
        try:
            yield
        except httpx.ConnectTimeout:
            said = f"{self.url} cannot be reached within {CONNECT:g} s: is the address right?"
            raise ChatError(said) from None
        except httpx.ConnectError:
            said = (
                f"nothing listens at {self.url}: start a gateway with `tandem serve`, or name one"
            )
            raise ChatError(f"{said} with --url") from None
        except (httpx.TransportError, sse.EventTooLargeError) as error:
            said = f"the connection to {self.url} broke: {one_line(str(error))}; ask again"
            raise ChatError(said) from None


def one_line(text: str) -> str:
    """The same in one line."""
    return " ".join(text.split())


def largest(cards: Sequence[Card]) -> str | None:
    """The model that others are measured by; None where there is nothing to tell them apart."""
    worths = {card.name: card.worth for card in cards if card.worth is not None}
    if len(set(worths.values())) < 2:
        return None
    return max(worths, key=lambda name: worths[name])


def _card(entry: Mapping[str, Any]) -> Card:
    about = _object(entry.get("tandem"))
    price, size = _object(about.get("price")).get("output"), about.get("params_b")
    worth = (float(price or 0), float(size or 0)) if about.get("kind") == "model" else None
    is_default = about.get("default") is True
    return Card(str(entry.get("id")), about.get("kind") == "policy", is_default, worth)


def _refusal(reply: httpx.Response) -> ChatError:
    said = f"the gateway refuses ({reply.status_code}): {one_line(message_in(reply.content))}"
    if reply.status_code == httpx.codes.UNAUTHORIZED:
        return ChatError(f"{said}; name the variable that holds a key with --key-env")
    if after := reply.headers.get("retry-after"):
        return ChatError(f"{said}; try again in {after} s")
    return ChatError(said)


def _blocks(reply: httpx.Response) -> Iterator[bytes]:
    """The events and comments of a stream, each as it stands there."""
    cutter = sse.Cutter(LONGEST_EVENT)
    for data in reply.iter_bytes():
        if data:
            yield from sse.blocks(cutter.feed(data))


def _decoded(data: bytes) -> Mapping[str, Any]:
    try:
        return _object(orjson.loads(data))
    except orjson.JSONDecodeError:
        raise ChatError("what came is not JSON: is it a gateway?") from None


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    return (
        (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())
    )


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}

"""Vectors from any server with OpenAI's `/v1/embeddings`, for training.

Knows that one call, and how a run of an hour survives a server that is full or restarts. Must not
know what the vectors are for. The same protocol as the embedder that ships
(`policies.composition.embedder`), so that whoever trains need not know which one it has.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from policies.composition.embedder import EmbedderError, Floats, Progress, digest

BATCH = 64
"""Texts per call: so many that calls cost little, and within every limit (OpenAI's is 2,048)."""
LONGEST = 8_192
"""Characters of a text that are sent, as of the shipped embedder. That is within the 8,192 tokens
of the usual models; a server of one with fewer says so, and must be told to cut by itself."""
PROBE = "What is embedded here tells one model from another."
_LEADING = range(4, 17)
"""How many of the probe's largest numbers a fingerprint may hold."""
_TRIES = 6
_FIRST_PAUSE = 0.5
"""Seconds; doubled each time, so that six tries span a quarter of a minute."""
_TIMEOUT = 120.0
"""Seconds for one call: a batch of long texts on a CPU takes its time."""
_PASSING = frozenset({429, 502, 503, 504})
"""Statuses of a server that is full, or of a proxy whose server restarts."""
_WORDS_SHOWN = 500
"""Characters of a server's complaint that are repeated."""


@dataclass(frozen=True, slots=True)
class RemoteEmbedder:
    """A model behind a URL; made by `connect`."""

    name: str
    dimension: int
    fingerprint: str
    _server: _Server

    @classmethod
    def connect(cls, url: str, model: str, key_env: str | None = None) -> RemoteEmbedder:
        """The model `model` at `url`, which may end in `/v1`; asks it for one vector.

        `key_env` names the environment variable that holds the API key. Raises EmbedderError.
        """
        server = _Server(model, _client(url, key_env))
        (vector,) = server.vectors([PROBE])
        return cls(model, len(vector), fingerprint(model, vector), server)

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Floats:
        """Vectors [texts, dimension], float32, each of length 1. Raises EmbedderError."""
        made = np.empty((len(texts), self.dimension), np.float32)
        for at in range(0, len(texts), BATCH):
            asked = texts[at : at + BATCH]
            vectors = self._server.vectors(asked)
            if vectors.shape[1] != self.dimension:
                raise EmbedderError(
                    f"{self._server} gave vectors of {self.dimension} numbers and now gives some "
                    f"of {vectors.shape[1]}: is it another model?"
                )
            made[at : at + BATCH] = vectors
            if progress is not None:
                progress(len(asked))
        return made


def fingerprint(model: str, probe: Floats) -> str:
    """What tells this embedder from others: name, dimension, and which numbers of `probe` lead.

    Their places and signs, not their values, which differ a little from one server to the next; as
    many as there are before the widest gap, so that none of them is there by a hair.
    """
    order = np.argsort(-np.abs(probe), kind="stable")
    sizes = np.abs(probe)[order]
    counts = [count for count in _LEADING if count < len(probe)]
    widest = max(counts, key=lambda count: sizes[count - 1] - sizes[count], default=len(probe))
    leading = sorted(f"{'-' if probe[at] < 0 else '+'}{at}" for at in order[:widest])
    return digest("\n".join([model, str(len(probe)), *leading]).encode())


@dataclass(frozen=True, slots=True)
class _Server:
    """One model of a server, and the one call there is."""

    model: str
    client: httpx.Client = field(repr=False)

    def __str__(self) -> str:
        return f"the embedder {self.model} at {self.client.base_url}"

    def vectors(self, texts: Sequence[str]) -> Floats:
        """Vectors [texts, dimension] of length 1, of one call."""
        # OpenAI refuses a text without any character.
        sent = [text[:LONGEST].encode("utf-8", "replace").decode() or " " for text in texts]
        body = {"model": self.model, "input": sent, "encoding_format": "float"}
        vectors = self._read(self._ask(body), len(texts))
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(lengths).all() or (lengths == 0).any():
            raise EmbedderError(f"{self} gave a vector that is 0 or no number: it cannot be used")
        unit: Floats = vectors / lengths
        return unit

    def _ask(self, body: dict[str, Any]) -> httpx.Response:
        for pause in _pauses():
            try:
                response = self.client.post("/v1/embeddings", json=body)
            except httpx.TransportError as error:
                if pause is None:
                    raise EmbedderError(
                        f"{self} does not answer ({error!r}): is it running?"
                    ) from error
            else:
                if response.is_success:
                    return response
                if pause is None or response.status_code not in _PASSING:
                    raise EmbedderError(
                        f"{self} answers with {response.status_code}: "
                        f"{response.text[:_WORDS_SHOWN]}"
                    )
            time.sleep(pause)
        raise AssertionError

    def _read(self, response: httpx.Response, wanted: int) -> Floats:
        try:
            rows = sorted(response.json()["data"], key=lambda row: int(row["index"]))
            vectors = np.array([row["embedding"] for row in rows], np.float32)
        except (ValueError, KeyError, TypeError) as error:
            raise EmbedderError(
                f"{self} answers with something else than OpenAI's embeddings ({error!r}): "
                f"{response.text[:_WORDS_SHOWN]}"
            ) from error
        if vectors.ndim != 2 or len(vectors) != wanted:
            raise EmbedderError(f"{self} was given {wanted} texts and answers with {len(vectors)}")
        return vectors


def _pauses() -> Iterator[float | None]:
    """Before each further try, in seconds; after the last there is none."""
    yield from (math.ldexp(_FIRST_PAUSE, doubled) for doubled in range(_TRIES - 1))
    yield None


def _client(url: str, key_env: str | None) -> httpx.Client:
    headers = {}
    if key_env is not None:
        if not os.environ.get(key_env):
            raise EmbedderError(f"the environment has no {key_env}; export the API key first")
        headers["authorization"] = f"Bearer {os.environ[key_env]}"
    try:
        address = httpx.URL(url.rstrip("/").removesuffix("/v1"))
    except httpx.InvalidURL as error:
        raise EmbedderError(f"{url} is no URL of a server: {error}") from error
    if address.scheme not in {"http", "https"} or not address.host:
        raise EmbedderError(f"{url} is no URL of a server: it must begin with http:// or https://")
    return httpx.Client(base_url=address, headers=headers, timeout=_TIMEOUT)

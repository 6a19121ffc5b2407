"""Vectors over HTTP: a real server on a loopback port, which serves the shipped embedder."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import numpy as np
import pytest

from policies.composition.embedder import EmbedderError, minilm
from policies.training import remote_embedder
from policies.training.remote_embedder import BATCH, LONGEST, RemoteEmbedder, fingerprint

MODEL = "all-MiniLM-L6-v2"


class Server(ThreadingHTTPServer):
    """Answers as OpenAI does; before that, with each of `refusals` once, or with `instead`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.refusals: list[int] = []
        self.instead: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, texts: list[str]) -> Any:
        if self.instead is not None:
            return self.instead
        vectors = 3 * minilm().embed(texts)
        rows = [{"index": at, "embedding": row.tolist()} for at, row in enumerate(vectors)]
        return {"object": "list", "data": rows[::-1]}  # in no order that one might rely on


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = cast("Server", self.server)
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.path == "/v1/embeddings"
        server.asked.append(body)
        server.keys.append(self.headers["authorization"])
        if server.refusals:
            self.reply(server.refusals.pop(0), {"error": {"message": "not like this"}})
        else:
            self.reply(200, server.answer(body["input"]))

    def reply(self, status: int, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name there
        """Say nothing."""


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote_embedder, "_FIRST_PAUSE", 0.0)
    with serving() as running:
        yield running


def test_vectors_are_the_servers_at_length_one(server: Server) -> None:
    embedder = RemoteEmbedder.connect(f"{server.url}/v1", MODEL)
    texts = [f"What is {n} + {n}?" for n in range(BATCH + 3)]
    told: list[int] = []
    vectors = embedder.embed(texts, told.append)
    assert vectors.dtype == np.float32
    assert np.abs(vectors - minilm().embed(texts)).max() < 1e-6
    assert told == [BATCH, 3]
    assert (embedder.name, embedder.dimension) == (MODEL, 384)
    assert {body["model"] for body in server.asked} == {MODEL}


def test_no_texts_are_no_calls(server: Server) -> None:
    embedder = RemoteEmbedder.connect(server.url, MODEL)
    asked = len(server.asked)
    assert embedder.embed([]).shape == (0, 384)
    assert len(server.asked) == asked


def test_what_no_server_takes_is_not_sent(server: Server) -> None:
    embedder = RemoteEmbedder.connect(server.url, MODEL)
    embedder.embed(["", "x" * 100_000, "\ud83d"])
    assert [len(text) for text in server.asked[-1]["input"]] == [1, LONGEST, 1]


def test_a_full_server_is_asked_again(server: Server) -> None:
    server.refusals = [503, 429, 502]
    assert RemoteEmbedder.connect(server.url, MODEL).dimension == 384
    assert len(server.asked) == 4


def test_a_server_that_stays_full_is_given_up(server: Server) -> None:
    server.refusals = [503] * 6
    with pytest.raises(EmbedderError, match=r"answers with 503: .*not like this"):
        RemoteEmbedder.connect(server.url, MODEL)
    assert not server.refusals


def test_a_refusal_is_told_at_once(server: Server) -> None:
    server.refusals = [400]
    with pytest.raises(EmbedderError, match=rf"{MODEL} at {server.url}.* answers with 400"):
        RemoteEmbedder.connect(server.url, MODEL)
    assert len(server.asked) == 1


def test_a_server_that_is_not_there_is_named(server: Server) -> None:
    with serving() as gone:
        url = gone.url
    with pytest.raises(EmbedderError, match=f"at {url}.* does not answer .*is it running"):
        RemoteEmbedder.connect(url, MODEL)


@pytest.mark.parametrize(
    ("instead", "complaint"),
    [
        ({"choices": []}, "something else than OpenAI's embeddings"),
        ([1], "something else than OpenAI's embeddings"),
        ({"data": [{"index": 0, "embedding": "AAAA"}]}, "something else than OpenAI's embeddings"),
        ({"data": []}, "was given 1 texts and answers with 0"),
        ({"data": [{"index": 0, "embedding": [0.0, 0.0]}]}, "0 or no number"),
        ({"data": [{"index": 0, "embedding": [float("nan"), 1.0]}]}, "0 or no number"),
    ],
)
def test_an_answer_that_is_none_is_refused(server: Server, instead: Any, complaint: str) -> None:
    server.instead = instead
    with pytest.raises(EmbedderError, match=complaint):
        RemoteEmbedder.connect(server.url, MODEL)


def test_another_model_on_the_way_is_noticed(server: Server) -> None:
    embedder = RemoteEmbedder.connect(server.url, MODEL)
    server.instead = {"data": [{"index": 0, "embedding": [1.0, 2.0]}]}
    with pytest.raises(EmbedderError, match="384 numbers and now gives some of 2"):
        embedder.embed(["a"])


def test_the_key_comes_from_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDER_KEY", "canary")
    embedder = RemoteEmbedder.connect(server.url, MODEL, "EMBEDDER_KEY")
    assert server.keys == ["Bearer canary"]
    assert "canary" not in repr(embedder)
    monkeypatch.delenv("EMBEDDER_KEY")
    with pytest.raises(EmbedderError, match="no EMBEDDER_KEY"):
        RemoteEmbedder.connect(server.url, MODEL, "EMBEDDER_KEY")


@pytest.mark.parametrize("url", ["localhost:8000", "http://", "http://a:b", "ftp://a"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(EmbedderError, match="no URL of a server"):
        RemoteEmbedder.connect(url, MODEL)


# --------------------------------------------------------------------------------- the fingerprint


def probe(seed: int) -> Any:
    vector = np.random.default_rng(seed).normal(size=384).astype(np.float32)
    return vector / np.linalg.norm(vector)


def test_a_fingerprint_bears_the_noise_of_another_server() -> None:
    """Of half precision, that is: about a thousandth of each number."""
    rng = np.random.default_rng(0)
    same = [
        fingerprint(MODEL, found) == fingerprint(MODEL, found * (1 + 1e-3 * rng.normal(size=384)))
        for found in map(probe, range(200))
    ]
    assert np.mean(same) > 0.95


def test_a_fingerprint_tells_models_apart() -> None:
    assert len({fingerprint(MODEL, probe(seed)) for seed in range(200)}) == 200
    assert fingerprint("another", probe(0)) != fingerprint(MODEL, probe(0))
    assert fingerprint(MODEL, -probe(0)) != fingerprint(MODEL, probe(0))
    assert len({fingerprint(MODEL, probe(0)[:size]) for size in (1, 2, 5, 17)}) == 4

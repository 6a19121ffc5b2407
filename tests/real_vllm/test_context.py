"""Requests with documents before real vLLM, and before the pair's own server: what each was sent.

Between the gateway and every backend stands a tap that keeps the bytes. The pair's models know
nothing of documents, so their words are put into their mouths where a test needs some.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
import pytest

from policies.reading.documents import Passage
from policies.reading.found import Found, find
from policies.reading.prompts import passages
from router import sse
from router.steps import Surface
from tests.policies.test_context import FACT, SHORT, WHERE
from tests.real_vllm.servers import Gateway, Json, Server, gateway
from tests.real_vllm.tap import Tap, tapped

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(600)]  # the first one starts the servers

CHAT = "/v1/chat/completions"
LINE = "On day {0} the ferry carried {1} people to the island. "
STORY = "".join(LINE.format(day, day * 7) for day in range(1, 26))
DOCUMENT = f"{STORY}{FACT} {STORY}"
"""Some 1,600 of the pair's tokens, of which a window holds 4,096."""
LONG = f"{DOCUMENT}\n\n{STORY * 7}"
"""Some 7,000 of them, by the pair's tokenizer; by others' less than a window holds."""
SEARCH = {**SHORT, "chunk_tokens": 48}
READERS: Json = {"small": {}, "large": {}}
POLICIES: Json = {
    "passages": {"use": "context", "readers": {"small": {}}, "way": "passages"},
    "whole": {"use": "context", "readers": {"large": {}}, "way": "whole"},
    "thrifty": {"use": "context", "readers": READERS, "way": "self_route"},
    "both": {"use": "context", "readers": {"ead": {"model": "large"}}, "way": "passages"},
    "ead": {"use": "entropy", "small": "small", "large": "large", "threshold": 0.1},
}


@dataclass(frozen=True, slots=True)
class Front:
    """A gateway, the kind of its backends, and the taps between them by model."""

    kind: str
    gateway: Gateway
    taps: dict[str, Tap]

    def ask(self, **body: object) -> httpx.Response:
        """A chat about the document, explained; nothing of earlier ones is kept in the taps."""
        for tap in self.taps.values():
            tap.forget()
        documents = [{"id": "log", "title": "The ferry", "text": DOCUMENT}]
        messages = [{"role": "user", "content": WHERE}]
        asked = {"documents": documents, "messages": messages, "max_tokens": 12, "temperature": 0}
        with self.gateway.client() as client:
            answer = client.post(CHAT, json=asked | body, headers={"x-tandem-explain": "1"})
        assert answer.status_code == 200, answer.text
        return answer


@pytest.fixture(scope="module", params=["vllm", "pair"])
def front(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """The gateway before two vLLM servers, and before the same models in the embedded engine."""
    folder = tmp_path_factory.mktemp("context")
    if request.param == "vllm":
        servers: dict[str, Server] = request.getfixturevalue("vllms")
    else:
        servers = dict.fromkeys(("small", "large"), request.getfixturevalue("pair"))
    searching = {
        name: {**policy, "search": SEARCH} if policy["use"] == "context" else policy
        for name, policy in POLICIES.items()
    }
    with ExitStack() as stack:
        taps = {name: stack.enter_context(tapped(server.url)) for name, server in servers.items()}
        config: dict[str, object] = {
            "listen": {"port": 0},
            "admin": {"port": 0},
            "models": {name: {"backends": [tap.url]} for name, tap in taps.items()},
            "policies": searching,
            "default": "passages",
        }
        plain = json.loads(json.dumps(config))  # YAML would write what occurs twice as an alias
        yield Front(request.param, stack.enter_context(gateway(plain, folder)), taps)


def events(answer: httpx.Response) -> list[Json]:
    return [json.loads(each.data) for each in sse.read(answer.content) if each.data != b"[DONE]"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_passages_that_are_cited_are_what_the_backend_got(front: Front, stream: bool) -> None:
    body = {
        "documents": [{"id": "log", "title": "The ferry", "text": DOCUMENT}],
        "messages": [{"role": "user", "content": WHERE}],
    }
    answer = front.ask(model="passages", stream=stream)
    assert answer.headers["x-tandem-reason"].startswith("passages; ")
    told = events(answer) if stream else [answer.json()]
    (cited,) = (each["tandem"]["citations"] for each in told if "tandem" in each)
    assert FACT in "".join(each["text"] for each in cited)
    (sent,) = front.taps["small"].prompts()
    assert not front.taps["large"].prompts()
    found = find(body, Surface.CHAT, 1)
    assert isinstance(found, Found)
    several = [Passage(0, each["start"], each["end"], each["text"]) for each in cited]
    expected = passages(found, several, refusal=False)
    assert {name: sent[name] for name in expected} == expected
    assert (sent["max_tokens"], sent["temperature"], sent["model"]) == (12, 0, "small")


def test_the_whole_is_sent_byte_for_byte(front: Front) -> None:
    for tap in front.taps.values():
        tap.forget()
    said = json.dumps(f"<document>{DOCUMENT}</document>\n\n{WHERE} naïve \u2603")
    body = (
        '{"model":"whole","messages":[{"role":"user","content":%s}], "max_tokens":4, "top_p":0.50}'
    )
    raw = (body % said).encode()
    with front.gateway.client() as client:
        answer = client.post(CHAT, content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-tandem-reason"].startswith("whole; ")
    assert front.taps["large"].bodies(CHAT) == [raw.replace(b'"whole"', b'"large"', 1)]


def test_what_does_not_fit_by_the_models_own_count_is_read_in_passages(front: Front) -> None:
    answer = front.ask(model="whole", documents=[{"text": LONG}])
    assert answer.headers["x-tandem-reason"].startswith("passages; ")
    (sent,) = front.taps["large"].prompts()
    assert FACT in sent["messages"][-1]["content"]
    assert front.taps["large"].bodies("/tokenize"), "it was asked how many tokens that is"


def test_a_refusal_from_passages_is_unseen_and_the_whole_is_read(front: Front) -> None:
    """In one body: while streaming, vLLM fails on the echo by which it is made to refuse."""
    if front.kind == "pair":
        pytest.skip("the pair's server puts no words into a model's mouth")
    said = {"role": "assistant", "content": "Unanswerable."}  # echoed: the answer begins with it
    answer = front.ask(
        model="thrifty",
        messages=[{"role": "user", "content": WHERE}, said],
        echo=True,
        add_generation_prompt=False,
        continue_final_message=True,
    )
    assert answer.headers["x-tandem-reason"].startswith("second_pass; ")
    first, second = (*front.taps["small"].prompts(), *front.taps["large"].prompts())
    assert '"unanswerable"' in first["messages"][0]["content"]
    assert DOCUMENT in second["messages"][0]["content"]
    assert '"unanswerable"' not in second["messages"][0]["content"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_answer_from_passages_is_relayed(front: Front, stream: bool) -> None:
    answer = front.ask(model="thrifty", stream=stream)
    assert answer.headers["x-tandem-reason"].startswith("passages; ")
    (sent,) = (*front.taps["small"].prompts(), *front.taps["large"].prompts())
    assert '"unanswerable"' in sent["messages"][-1]["content"]
    told = events(answer) if stream else [answer.json()]
    assert any("citations" in each.get("tandem", {}) for each in told)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_two_models_write_one_answer_from_passages(front: Front, stream: bool) -> None:
    answer = front.ask(model="both", stream=stream)
    assert answer.headers["x-tandem-reason"].startswith("passages; ")
    told = events(answer) if stream else [answer.json()]
    explained = [each["tandem"] for each in told if "tandem" in each]
    assert any("citations" in each for each in explained)
    writers = {
        token["model"]
        for each in explained
        for choice in each.get("choices", [])
        for token in choice["tokens"]
    } or {each["model"] for each in explained if "model" in each}
    assert writers <= {"small", "large"}
    assert writers

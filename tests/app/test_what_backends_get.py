"""What reaches a backend, whatever a client sends and whichever policy serves: paths, headers, ids.

Scripted backends for policies that route requests, and the embedded pair behind a tap for those by
which two models write one answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.keys import new_key
from policies import TABLE
from router.steps import Surface
from tests.conftest import Started
from tests.policies.composition.make_artifacts import LEXICAL
from tests.policies.test_context import DOCUMENT, SHORT, WHERE
from tests.real_vllm.tap import Tap, tapped
from tests.running import CHAT, Config, Running, config, model, request, wire
from tests.scripted import Backend, answers
from tests.soak.servers import missing, started

TWO = {"small": "small", "large": "large"}
ROUTING: dict[str, Config] = {
    "direct": {"model": "small"},
    "fallback": {"targets": ["small", "large"]},
    "split": {"weights": {"small": 1, "large": 1}},
    "cascade": {**TWO, "pattern": "x"},
    "hedge": {"model": "small", "delay": 5},
    "experts": {"artifact": str(LEXICAL), "experts": {"other": "small"}},
    "best_of": {**TWO, "mean_logprob": -9},
    "particles": {"small": "small", "grade": {"by": "large"}, "separator": "l", "most_steps": 2},
    "overload": {"target": "large", "cheaper": "small"},
    "context": {"readers": {"small": {}, "large": {}}, "search": SHORT},
}
WRITING: dict[str, Config] = {
    "entropy": {**TWO, "threshold": 0.2, "window": 5, "dwell": 4},
    "token_gate": {**TWO, "rule": "entropy", "threshold": 0.2},
    "steps": TWO,
}
HEADERS = {"host", "content-type", "content-length", "x-request-id", "authorization"}
"""What a call to a backend may carry of itself."""
PASSED = {"traceparent", "tracestate", "x-session-id"}
"""And of the client's."""
EVIL = {
    "x-request-id": "../../evil-id",
    "x-forwarded-for": "evil-10.0.0.1",
    "x-forwarded-host": "evil.example",
    "x-data-parallel-rank": "evil",
    "x-kv-transfer": "evil",
    "x-tandem-model": "evil",
    "forwarded": "for=evil",
    "cookie": "evil=1",
    "x-original-url": "/evil",
    "x-http-method-override": "evil",
    "expect": "",
    "te": "trailers",
}
ID = re.compile(r"req-[0-9a-f]{24}")
SALT = re.compile(r"[0-9a-f]{64}")


def test_every_policy_is_tried_here() -> None:
    assert {*ROUTING, *WRITING} == set(TABLE)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[str, dict[str, str]]:
    """A file with two keys that are kept apart and two that share, and the secrets by name."""
    secrets, entries = {}, []
    for name in ("alice", "bob", "carol", "dora"):
        secrets[name], entry = new_key(name)
        shared = {"isolate": False} if name in ("carol", "dora") else {}
        entries.append({"name": name, "sha256": entry.sha256, **shared})
    (tmp_path / "keys.yaml").write_text(json.dumps({"keys": entries}))
    return str(tmp_path / "keys.yaml"), secrets


def tree(small: Backend, large: Backend, keys: str, **sections: Any) -> Config:
    models = {"small": model(small, context=8000), "large": model(large, context=64_000)}
    policies = {name: {"use": name, **said} for name, said in ROUTING.items()}
    sections = {"policies": policies, "default": "direct", "keys": {"file": keys}, **sections}
    return {**config({}, **sections), "models": models}


async def ask(running: Running, secret: str, policy: str, **more: Any) -> Any:
    body = {
        "model": policy,
        "messages": [{"role": "user", "content": WHERE}],
        "documents": [{"id": "log", "text": DOCUMENT}],
        **more,
    }
    headers = {**EVIL, "authorization": f"Bearer {secret}"}
    return await running.client.post(CHAT, json=body, headers=headers)


@pytest.mark.parametrize("policy", ROUTING)
async def test_only_what_is_on_the_list_reaches_a_backend(
    gateway: Started,
    small: Backend,
    large: Backend,
    keys: tuple[str, dict[str, str]],
    policy: str,
) -> None:
    file, secrets = keys
    running = await gateway(tree(small, large, file))
    answer = await ask(running, secrets["alice"], policy, request_id="evil-id", cache_salt="mine")
    assert answer.status_code == 200, answer.text
    calls = [*small.calls, *large.calls]
    assert calls
    for call in calls:
        assert call.path in {f"/v1/{surface.value}" for surface in Surface} | {"/tokenize"}
        assert set(call.headers) <= HEADERS
        assert ID.fullmatch(call.headers["x-request-id"])
        assert call.headers["x-request-id"] == answer.headers["x-request-id"]
        assert call.headers["host"] in (small.name, large.name)
        assert call.json.get("request_id", call.headers["x-request-id"]).startswith("req-")
        assert SALT.fullmatch(call.json["cache_salt"])
        assert b"evil" not in call.body
        assert secrets["alice"] not in str(call.headers) + call.body.decode()


async def salt_of(running: Running, small: Backend, secret: str, **more: Any) -> str | None:
    assert (await ask(running, secret, "direct", **more)).status_code == 200
    salt: str | None = small.calls[-1].json.get("cache_salt")
    return salt


async def test_no_client_can_make_anothers_salt(
    gateway: Started, small: Backend, large: Backend, keys: tuple[str, dict[str, str]]
) -> None:
    file, secrets = keys
    running = await gateway(tree(small, large, file))
    alice = await salt_of(running, small, secrets["alice"])
    assert alice
    assert alice == await salt_of(running, small, secrets["alice"]), "or nothing would be cached"
    own = await salt_of(running, small, secrets["alice"], cache_salt="a")
    bob = await salt_of(running, small, secrets["bob"])
    seen = {alice, own, bob, await salt_of(running, small, secrets["bob"], cache_salt="a")}
    assert len(seen) == 4
    assert await salt_of(running, small, secrets["bob"], cache_salt=alice) not in seen
    assert await salt_of(running, small, secrets["carol"]) is None
    assert await salt_of(running, small, secrets["dora"], cache_salt="hers") == "hers"
    wrong = await ask(running, secrets["alice"], "direct", cache_salt=7)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "cache_salt")


async def test_salts_can_be_switched_off(
    gateway: Started, small: Backend, large: Backend, keys: tuple[str, dict[str, str]]
) -> None:
    file, secrets = keys
    open_to_all = tree(small, large, file)
    open_to_all["keys"]["isolate"] = False
    running = await gateway(open_to_all)
    assert await salt_of(running, small, secrets["alice"]) is None
    assert await salt_of(running, small, secrets["alice"], cache_salt="x") == "x"


async def test_a_backend_that_does_not_know_salts_gets_none(
    gateway: Started, small: Backend, large: Backend, keys: tuple[str, dict[str, str]]
) -> None:
    """It would ignore it, or refuse a field that it has never heard of."""
    file, secrets = keys
    usual = small.asked

    async def strict(call: Any) -> None:
        if call.method == "POST" and "cache_salt" in call.json:
            await answers({"error": {"message": "Unrecognized request argument"}}, 400)(call)
        else:
            await usual(call)

    small.asked = strict
    running = await gateway(tree(small, large, file))
    assert running.backend("small").abilities.salts is False
    assert running.backend("large").abilities.salts is True
    assert await salt_of(running, small, secrets["alice"]) is None


async def test_embeddings_are_salted_too(
    gateway: Started, small: Backend, large: Backend, keys: tuple[str, dict[str, str]]
) -> None:
    file, secrets = keys
    running = await gateway(tree(small, large, file))
    small.plays(answers({"data": [{"index": 0, "embedding": [1.0]}]}))
    theirs = {"authorization": f"Bearer {secrets['alice']}"}
    body = {"model": "small", "input": "x"}
    answer = await running.client.post("/v1/embeddings", json=body, headers=theirs)
    assert answer.status_code == 200
    assert SALT.fullmatch(small.calls[-1].json["cache_salt"])


# ---------------------------------------------------------------------------- paths and addresses

ASKED = json.dumps({"model": "small", "messages": []}).encode()
ELSEWHERE = [
    "/tokenize",
    "/score",
    "/classify",
    "/pooling",
    "/v1/load_lora_adapter",
    "/v1/chat/completions/render",
    "/v1/chat/completions/",
    "/v1/chat/completions/../../tokenize",
    "/v1/../sleep",
    "/v1/./chat/completions",
    "//v1/chat/completions",
    "/v1//chat/completions",
    "/v1/chat%2Fcompletions/..",
    "/v1/chat/completions%00",
    "/v1/chat/completions;x",
    "/V1/chat/completions",
    "\\v1\\chat\\completions",
    "/v1/chat/completions%3Fx",
    "/inference/v1/generate",
    "http://evil.example/sleep",
    "*",
]


async def test_no_other_path_reaches_a_backend(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    for path in ELSEWHERE:
        async with wire(running.url) as client:
            await client.send(request(ASKED, "connection: close", path=path))
            said = await client.rest()
        assert re.match(rb"HTTP/1.1 40[045] ", said), (path, said)
        assert small.calls == [], path


async def test_what_is_not_there_is_not_repeated_at_length(
    gateway: Started, small: Backend, keys: tuple[str, dict[str, str]]
) -> None:
    """A name may have megabytes and line breaks; an answer and a log line have neither."""
    file, secrets = keys
    running = await gateway(config({"small": small}, keys={"file": file}))
    long = "a\r\nx-evil: 1\n" * 100_000
    theirs = {"authorization": f"Bearer {secrets['alice']}"}
    for answer in (
        await running.client.post(CHAT, json={"model": long, "messages": []}, headers=theirs),
        await running.client.get("/v1/models/" + "a" * 50_000, headers=theirs),
        await running.client.get("/none/" + "a" * 50_000),
    ):
        assert answer.status_code == 404
        assert len(answer.content) < 1000
        assert "x-evil" not in answer.headers
    labels = [labels for family in (await running.metrics()).values() for labels in family]
    assert not [
        label for several in labels for label in several if "evil" in label or "aaa" in label
    ]


OURS = [
    "/v1/chat/completions",
    "/v1/chat/completions?path=/sleep",
    "/v1/chat%2Fcompletions",  # decoded before it is looked up
    "http://evil.example/v1/chat/completions",
    "/v1/chat/completions#/sleep",
]


async def test_however_a_path_is_written_the_backend_gets_ours(
    gateway: Started, small: Backend
) -> None:
    running = await gateway(config({"small": small}))
    for path in OURS:
        before = len(small.calls)
        async with wire(running.url) as client:
            evil = "x-forwarded-host: evil.example"
            await client.send(request(ASKED, "connection: close", evil, path=path))
            said = await client.rest()
        assert said.startswith(b"HTTP/1.1 200") is (len(small.calls) > before), path
    assert small.calls
    assert {(call.path, call.headers["host"]) for call in small.calls} == {(CHAT, small.name)}


LENGTH = b"content-length: %d" % len(ASKED)
SMUGGLED = {
    "both": b"content-length: 5\r\ntransfer-encoding: chunked",
    "two": LENGTH + b"\r\ncontent-length: 5",
    "list": LENGTH + b", 5",
    "plus": b"content-length: +5",
    "minus": b"content-length: -1",
    "endless": b"content-length: 99999999999999999999999",
    "unknown": b"transfer-encoding: xchunked",
    "not last": b"transfer-encoding: chunked, identity",
    "blank": b"content-length : 5",
    "folded": LENGTH + b"\r\n content-length: 5",
    "line feed": LENGTH + b"\nx-evil: 1",
    "carriage return": LENGTH + b"\rx-evil: 1",
    "nul": LENGTH + b"\r\nx-evil: a\0b",
}


async def test_no_second_request_hides_in_a_first(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    for name, lines in SMUGGLED.items():
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\n".encode()
        async with wire(running.url) as client:
            await client.send(head + lines + b"\r\n\r\n" + ASKED + request(ASKED))
            said = await client.rest()
        assert said.startswith(b"HTTP/1.1 400 "), (name, said)
        assert len(re.findall(rb"HTTP/1\.1 \d{3} ", said)) == 1, name
    assert small.calls == []


HOSTS = ["evil.example", "evil.example/v1/models?", "a@b", "", "127.0.0.1:1", "x/../../healthz?"]


async def test_a_host_is_believed_by_nobody(
    gateway: Started, small: Backend, keys: tuple[str, dict[str, str]]
) -> None:
    """A framework that builds its URL from `Host` can be made to see another path."""
    running = await gateway(config({"small": small}, keys={"file": keys[0]}))
    for host in HOSTS:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n"
        length = f"content-length: {len(ASKED)}\r\n\r\n"
        async with wire(running.url) as client:
            await client.send((head + length).encode() + ASKED)
            said = await client.rest()
        assert said.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 400 ")), said
    assert small.calls == []


REFUSED: dict[str, Any] = {
    "kv_transfer_params": {"remote_host": "10.0.0.1", "hidden_states_path": "/etc/x"},
    "ec_transfer_params": {"x": 1},
    "prompt_embeds": "AAAA",
    "priority": -1000,
    "vllm_xargs": {"tandem_gate": "probe"},
    "messages": [{"role": "user", "content": [{"image_url": {"url": "http://169.254.169.254/"}}]}],
}


async def test_reserved_fields_reach_no_backend(
    gateway: Started, small: Backend, large: Backend, keys: tuple[str, dict[str, str]]
) -> None:
    file, secrets = keys
    running = await gateway(tree(small, large, file))
    for policy in ("direct", "cascade", "context"):
        for name, value in REFUSED.items():
            answer = await ask(running, secrets["alice"], policy, **{name: value})
            assert answer.status_code == 400
            assert answer.json()["error"]["code"] in ("field_not_allowed", "link_not_allowed")
    assert small.calls + large.calls == []


# --------------------------------------------------------------------------------- token policies

READ = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.1\r\n(.*?)\r\n\r\n", re.DOTALL)
PROBED = {"/health", "/version", "/openapi.json", "/v1/models"}
WROTE = {"/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"}


def heads(tap: Tap) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Method, path and headers of all that was sent through the tap."""
    for kept in tap.sent:
        for method, path, lines in READ.findall(bytes(kept)):
            pairs = (line.decode().split(":", 1) for line in lines.split(b"\r\n"))
            named = {name.lower(): value.strip() for name, value in pairs}
            yield method.decode(), path.decode(), named


@pytest.mark.slow
@pytest.mark.xdist_group("pair")
@missing
async def test_what_two_models_writing_one_answer_send(
    gateway: Started, keys: tuple[str, dict[str, str]]
) -> None:
    file, secrets = keys
    policies = {name: {"use": name, **said} for name, said in WRITING.items()}
    async with started("small", "large") as servers:
        with tapped(servers[0].url) as low, tapped(servers[1].url) as high:
            tree = config(
                {"small": low.url, "large": high.url}, policies=policies, keys={"file": file}
            )
            running = await gateway(tree)
            asking = {(path, method) for tap in (low, high) for method, path, _ in heads(tap)}
            assert {path for path, method in asking if method == "GET"} == PROBED
            low.forget()
            high.forget()
            for policy in WRITING:
                answer = await ask(
                    running, secrets["alice"], policy, request_id="evil", max_tokens=40
                )
                assert answer.status_code == 200, answer.text
            found = [head for tap in (low, high) for head in heads(tap)]
            bodies = [b for tap in (low, high) for b in tap.prompts("/v1/completions")]
    posts = [head for head in found if head[1] != "/health"]
    assert {path for _, path, _ in posts} <= WROTE
    for _, _, head in posts:
        assert set(head) <= HEADERS | {"connection"}
        assert ID.fullmatch(head["x-request-id"])
    assert len(bodies) > len(WRITING), "two models wrote"
    assert len({body["cache_salt"] for body in bodies}) == 1
    assert all(SALT.fullmatch(body["cache_salt"]) for body in bodies)
    assert "evil" not in json.dumps(bodies)

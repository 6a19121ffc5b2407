"""Keys are kept apart in vLLM's own prefix cache: nobody can tell what others have asked."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import httpx
import pytest

from app.keys import new_key
from tests.real_vllm.servers import Gateway, Json, Server, gateway
from tests.real_vllm.tap import Tap, tapped

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(600)]  # the first one starts the servers

POLICIES = {
    "plain": {"use": "direct", "model": "small"},
    "drafted": {"use": "cascade", "small": "small", "large": "large", "mean_logprob": 0.0},
    "gated": {
        "use": "token_gate", "small": "small", "large": "large", "rule": "entropy",
        "threshold": 0.2,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def taps(small: Server, large: Server) -> Iterator[dict[str, Tap]]:
    with tapped(small.url) as low, tapped(large.url) as high:
        yield {"small": low, "large": high}


@pytest.fixture(scope="module")
def keyed(
    taps: dict[str, Tap], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Gateway, dict[str, str]]]:
    """A gateway with keys, and the keys by name; `open` shares what is cached."""
    folder = tmp_path_factory.mktemp("isolation")
    known, entries = {}, []
    for name in ("alice", "bob", "open"):
        known[name], entry = new_key(name)
        entries.append({"name": name, "sha256": entry.sha256, "isolate": name != "open"})
    file = folder / "keys.yaml"
    file.write_text(json.dumps({"keys": entries}))
    config: dict[str, object] = {
        "listen": {"port": 0},
        "admin": {"port": 0},
        "keys": {"file": str(file)},
        "models": {name: {"backends": [tap.url]} for name, tap in taps.items()},
        "policies": POLICIES,
        "default": "plain",
    }
    with gateway(config, folder) as running:
        yield running, known


def asked(
    keyed: tuple[Gateway, dict[str, str]], name: str, prompt: str, **more: object
) -> httpx.Response:
    running, known = keyed
    body: Json = {
        "model": "plain",
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": 4,
        **more,
    }
    headers = {"authorization": f"Bearer {known[name]}"}
    with running.client() as client:
        answer = client.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.is_success, answer.text
    return answer


def cached(keyed: tuple[Gateway, dict[str, str]], name: str, prompt: str, **more: object) -> int:
    """Tokens of the prompt that vLLM found in its cache."""
    details = asked(keyed, name, prompt, **more).json()["usage"]["prompt_tokens_details"]
    return int((details or {}).get("cached_tokens") or 0)


def long() -> str:
    """A prompt of many blocks that nobody has sent before."""
    return f"{secrets.token_hex(8)} " + "A shop has 36 pens and sells 17 of them. " * 40


def test_probing_finds_that_vllm_knows_salts(keyed: tuple[Gateway, dict[str, str]]) -> None:
    with keyed[0].admin() as admin:
        backends = admin.get("/admin/backends").json()["backends"]
    assert [backend["abilities"]["salts"] for backend in backends] == [True, True]


def test_a_key_finds_its_own_prompts_and_nobody_elses(
    keyed: tuple[Gateway, dict[str, str]], taps: dict[str, Tap]
) -> None:
    prompt = long()
    assert cached(keyed, "alice", prompt) == 0
    assert cached(keyed, "alice", prompt) > 100
    assert cached(keyed, "bob", prompt) == 0
    stolen = json.loads(taps["small"].bodies("/v1/chat/completions")[0])["cache_salt"]
    assert cached(keyed, "bob", prompt, cache_salt=stolen) == 0
    assert cached(keyed, "open", prompt) == 0
    assert cached(keyed, "bob", prompt) > 100, "its own, of the third request"


def test_without_salts_it_would_be_found(keyed: tuple[Gateway, dict[str, str]]) -> None:
    """What is defended against: a prompt that somebody else has sent is told by the cache."""
    prompt = long()
    assert cached(keyed, "open", prompt) == 0
    assert cached(keyed, "open", prompt) > 100


@pytest.mark.parametrize("policy", ["drafted", "gated"])
def test_all_that_a_policy_asks_is_salted(
    keyed: tuple[Gateway, dict[str, str]], taps: dict[str, Tap], policy: str
) -> None:
    for tap in taps.values():
        tap.forget()
    asked(keyed, "alice", long(), model=policy, max_tokens=24)
    paths = ("/v1/chat/completions", "/v1/completions")
    sent = [body for tap in taps.values() for path in paths for body in tap.prompts(path)]
    assert len(sent) > 1
    assert len({body["cache_salt"] for body in sent}) == 1

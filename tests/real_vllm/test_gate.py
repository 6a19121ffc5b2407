"""The gate inside real vLLM, loaded as a user's is: it fires where plain arithmetic says.

What each rule must do is worked out in floats from what the same server tells without a gate (all
log-probabilities of an answer, or a trace of it), and compared with the embedded pair's engine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from deploy.pair.gate import embedding_matrix
from policies.gate.artifact import Artifact, write_artifact
from policies.gate.network import Dimensions, Inputs, score, shapes
from tests.real_vllm.conftest import MODELS
from tests.real_vllm.servers import Json, Server, eventually

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(600)]  # the first one starts the servers

GATE = 7
"""The pair's reserved token, `<|gate|>`."""
VOCABULARY = 512
TOKENS = 64
ASKED = (
    "A shop has 36 pens. It sells 17 and then buys 25 more. How many pens are there now?",
    "There are 5 boxes with 8 pens each. How many pens?",
    "Count from 3 to 9.",
    "Tell me a story about a fox.",
)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Written:
    """An answer's token ids, and how it ended."""

    ids: list[int]
    finish: str
    stop: int | None


def call(server: Server, body: Json) -> Json:
    with server.client() as client:
        answer = client.post("/v1/completions", json=body)
    assert answer.is_success, answer.text
    choice: Json = answer.json()["choices"][0]
    return choice


def body(name: str, prompt: Sequence[int], gate: Json | None = None, **more: Any) -> Json:
    """A call that runs to its last token, unless the gate stops it."""
    asked: Json = {
        "model": name,
        "prompt": list(prompt),
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    if gate is not None:
        rule = gate.pop("rule")
        xargs = {"tandem_gate": rule} | {f"tandem_gate_{key}": gate[key] for key in gate}
        asked |= {"vllm_xargs": xargs, "stop_token_ids": [GATE]}
    return asked | more


def write(server: Server, name: str, prompt: Sequence[int], gate: Json | None = None) -> Written:
    choice = call(server, body(name, prompt, gate))
    return Written(choice["token_ids"], choice["finish_reason"], choice["stop_reason"])


@pytest.fixture(scope="module")
def prompts(small: Server) -> list[list[int]]:
    """Token ids, which both models share."""
    with small.client() as client:
        return [
            client.post(
                "/tokenize",
                json={"model": "small", "messages": [{"role": "user", "content": asked}]},
            ).json()["tokens"]
            for asked in ASKED
        ]


@dataclass(frozen=True, slots=True)
class Free:
    """An answer without a gate, and the entropy in bits of each of its distributions."""

    ids: list[int]
    bits: list[float]


@cache
def _free(server: Server, name: str, prompt: tuple[int, ...]) -> Free:
    asked = body(name, prompt, logprobs=VOCABULARY, return_tokens_as_token_ids=True)
    choice = call(server, asked)
    rows = choice["logprobs"]["top_logprobs"]
    assert {len(row) for row in rows} == {VOCABULARY}
    bits = [-math.fsum(math.exp(e) * e for e in row.values()) / math.log(2) for row in rows]
    return Free(choice["token_ids"], bits)


def free(server: Server, name: str, prompt: Sequence[int]) -> Free:
    """The same each time, so it is asked for once."""
    return _free(server, name, tuple(prompt))


def gap(values: Sequence[float]) -> float:
    """A threshold between them, as far as can be from any."""
    ordered = sorted(values)
    _, at = max((b - a, a + (b - a) / 2) for a, b in pairwise(ordered))
    return at


# ------------------------------------------------------------------------------- the entropy rule


def first(fires: Iterator[bool]) -> int | None:
    return next((at for at, does in enumerate(fires) if does), None)


def expected(bits: Sequence[float], gate: Json) -> int | None:
    """The position at which the rule fires."""
    history: list[float] = list(gate.get("history", ()))
    window: int = gate.get("window", 1)

    def fires(at: int) -> bool:
        seen = [*history, *bits[: at + 1]][-window:]
        mean = math.fsum(seen) / len(seen)
        over = mean >= float(gate["threshold"])
        ready = int(gate.get("since", 0)) + at >= int(gate.get("dwell", 0))
        return ready and over != bool(gate.get("below"))

    return first(map(fires, range(len(bits))))


SETTINGS: list[Json] = [
    {},
    {"window": 5},
    {"window": 5, "dwell": 10},
    {"window": 4, "dwell": 10, "since": 4},
    {"window": 6, "history": [0.5, 3.0, 0.1]},
    {"window": 3, "history": [9.0, 9.0, 9.0, 0.0], "dwell": 2},
    {"window": 5, "dwell": 10, "keep": 1},
    {"window": 3, "dwell": 5, "below": 1},
    {"below": 1, "keep": 1},
]


@pytest.mark.parametrize("name", ["small", "large"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_entropy_fires_where_the_servers_own_logprobs_say(
    settings: Json, name: str, vllms: dict[str, Server], prompts: list[list[int]]
) -> None:
    fired = 0
    for prompt in prompts:
        written = free(vllms[name], name, prompt)
        for threshold in (gap(written.bits), 0.3):
            gate = settings | {"threshold": threshold}
            at = expected(written.bits, gate)
            stopped = write(vllms[name], name, prompt, {"rule": "entropy", **gate})
            if at is not None and gate.get("keep"):
                at += 1
            if at is None or at >= TOKENS:
                assert stopped == Written(written.ids, "length", None)
            else:
                fired += 1
                assert stopped == Written([*written.ids[:at], GATE], "stop", GATE)
    assert fired, "no threshold fired: the test shows nothing"


# ------------------------------------------------------------------------------------- other rules


@pytest.mark.parametrize("name", ["small", "large"])
def test_a_probe_shows_the_gate_and_its_token(
    name: str, vllms: dict[str, Server], prompts: list[list[int]]
) -> None:
    force = [300, 20, 21]
    asked = body(name, prompts[0], {"rule": "probe", "force": force}, max_tokens=4)
    assert call(vllms[name], asked)["token_ids"] == [*force, GATE]


def test_another_token_may_be_reserved(small: Server, prompts: list[list[int]]) -> None:
    gate = {"rule": "entropy", "threshold": 0, "token": 9}
    asked = body("small", prompts[0], gate, stop_token_ids=[9])
    assert call(small, asked)["stop_reason"] == 9


@pytest.mark.parametrize("keep", [0, 1])
def test_chance_is_the_same_in_every_engine(
    keep: int, small: Server, pair: Server, prompts: list[list[int]]
) -> None:
    lengths = set()
    for seed in range(5):
        gate = {"rule": "random", "rate": 0.1, "seed": seed, "keep": keep}
        ours, theirs = (write(each, "small", prompts[0], dict(gate)) for each in (small, pair))
        assert ours == theirs
        lengths.add(len(ours.ids))
    assert len(lengths) > 2


def test_both_engines_stop_at_the_same_token(
    vllms: dict[str, Server], pair: Server, prompts: list[list[int]]
) -> None:
    for name, server in vllms.items():
        for prompt in prompts:
            gate = {"rule": "entropy", "threshold": 0.4, "window": 5, "dwell": 10}
            stopped = [write(each, name, prompt, dict(gate)) for each in (server, pair)]
            assert stopped[0] == stopped[1]


# ----------------------------------------------------------------------------------------- traces


def traced(server: Server, folder: Path, name: str, prompt: Sequence[int], ids: list[int]) -> Json:
    """What the engine saw at each position of an answer."""
    file = folder / f"{name}-{len(prompt)}.safetensors"
    file.unlink(missing_ok=True)
    gate = {"rule": "trace", "force": ids, "record": file.stem}
    asked = body(name, prompt, gate, max_tokens=len(ids) + 1)
    assert call(server, asked)["token_ids"] == [*ids, GATE]
    assert file.exists(), "a trace is there when its answer is"
    return load_file(file)


@pytest.mark.parametrize("name", ["small", "large"])
def test_a_trace_holds_what_the_embedded_engine_sees(
    name: str,
    vllms: dict[str, Server],
    pair: Server,
    gate: dict[str, str],
    pair_traces: Path,
    prompts: list[list[int]],
) -> None:
    ours = Path(gate["TANDEM_GATE_TRACES"])
    ids = free(vllms[name], name, prompts[0]).ids
    found = traced(vllms[name], ours, name, prompts[0], ids)
    other = traced(pair, pair_traces, name, prompts[0], ids)
    assert {key: value.shape for key, value in found.items()} == {
        key: value.shape for key, value in other.items()
    }
    assert found["hidden"].shape[0] == len(ids)
    assert found["predicted"].tolist() == other["predicted"].tolist() == ids
    for key, near in (("entropy", 0.01), ("top_logits", 0.02), ("hidden", 0.05)):
        np.testing.assert_allclose(
            found[key].astype(np.float32), other[key].astype(np.float32), atol=near, rtol=near
        )


def test_a_trace_says_the_entropy_of_the_logprobs(
    small: Server, gate: dict[str, str], prompts: list[list[int]]
) -> None:
    written = free(small, "small", prompts[1])
    folder = Path(gate["TANDEM_GATE_TRACES"])
    found = traced(small, folder, "small", prompts[1], written.ids)
    np.testing.assert_allclose(found["entropy"], written.bits, atol=1e-4)
    assert (np.diff(found["top_logits"], axis=-1) <= 0).all()
    assert found["top_ids"][:, 0].tolist() == found["predicted"].tolist() == written.ids


# ---------------------------------------------------------------------------------- the neural rule


def random_gate(name: str, *, hidden: bool) -> Artifact:
    """A gate for this model whose weights are chance."""
    matrix = embedding_matrix(MODELS / name / "model.safetensors")
    assert matrix is not None
    width = matrix.shape[1]
    sizes = Dimensions(width if hidden else 0, width, 24, 2, 100, VOCABULARY)
    chance = np.random.default_rng(3)
    weights = {
        key: chance.normal(0, 0.4, shape).astype(np.float32) for key, shape in shapes(sizes).items()
    }
    return Artifact(hidden, sizes, 0.5, model={}, data={}, metrics={}, created="", weights=weights)


def scores(artifact: Artifact, name: str, seen: Json) -> list[float]:
    """What the gate says to each position of a trace, in numpy."""
    matrix = embedding_matrix(MODELS / name / "model.safetensors")
    assert matrix is not None
    hidden = seen["hidden"].astype(np.float32) if artifact.hidden else None
    inputs = Inputs(hidden, matrix[seen["predicted"]], seen["top_logits"])
    said: list[float] = score(np, artifact.weights, inputs).tolist()
    return said


@pytest.mark.parametrize("hidden", [True, False], ids=["with hidden states", "without"])
@pytest.mark.parametrize("name", ["small", "large"])
def test_neural_fires_where_the_network_says(
    name: str,
    hidden: bool,
    vllms: dict[str, Server],
    gate: dict[str, str],
    prompts: list[list[int]],
) -> None:
    artifact = random_gate(name, hidden=hidden)
    called = f"{name}-{'hidden' if hidden else 'plain'}"
    write_artifact(Path(gate["TANDEM_GATE_ARTIFACTS"]) / called, artifact)
    for prompt in prompts:
        ids = free(vllms[name], name, prompt).ids
        said = scores(
            artifact, name, traced(vllms[name], Path(gate["TANDEM_GATE_TRACES"]), name, prompt, ids)
        )
        threshold = gap(said)
        at = first(each >= threshold for each in said)
        assert at is not None
        asked = {"rule": "neural", "artifact": called, "threshold": threshold}
        assert write(vllms[name], name, prompt, asked).ids == [*ids[:at], GATE]


# ------------------------------------------------------------------------------------------ batches


def test_all_kinds_of_requests_in_one_batch(
    small: Server, gate: dict[str, str], prompts: list[list[int]]
) -> None:
    """Each answers as it does alone: whoever has no gate, and whoever wants the prompt's logprobs.

    The latter has vLLM compute logits of other rows, at the same step as the gates'.
    """
    write_artifact(Path(gate["TANDEM_GATE_ARTIFACTS"]) / "batch", random_gate("small", hidden=True))
    gates: list[Json | None] = [
        None,
        {"rule": "entropy", "threshold": 0.4, "window": 5, "dwell": 10},
        {"rule": "neural", "artifact": "batch", "threshold": 0.9},
        {"rule": "random", "rate": 0.05, "seed": 4},
        {"rule": "probe", "force": [30] * 20},
    ]
    asked = [
        body("small", prompt, dict(gate) if gate else None, **more)
        for prompt in prompts
        for gate in gates
        for more in ({}, {"prompt_logprobs": 3})
    ]
    alone = [call(small, each)["token_ids"] for each in asked]
    assert len({len(ids) for ids in alone}) > 4, "they stop at different tokens"
    with ThreadPoolExecutor(len(asked)) as pool:
        for _ in range(3):
            together = pool.map(lambda each: call(small, each)["token_ids"], asked)
            assert list(together) == alone
    eventually(lambda: small.metric("vllm:num_requests_running") == 0, 10, "all have ended")


def test_a_gate_stops_drawn_tokens_too(small: Server, prompts: list[list[int]]) -> None:
    """Temperature, top-p and penalties come after the gate, and change nothing of a stop."""
    gate = {"rule": "probe", "force": [30, 31, 32]}
    drawn = {"temperature": 1.7, "top_p": 0.8, "top_k": 5, "min_p": 0.1, "seed": 1}
    penalties = {"repetition_penalty": 1.9, "presence_penalty": 2, "frequency_penalty": 2}
    for more in (drawn, penalties, drawn | penalties):
        assert call(small, body("small", prompts[0], dict(gate), **more))["token_ids"] == [
            30, 31, 32, GATE,
        ]  # fmt: skip


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("xargs", "named"),
    [
        ({"tandem_gate": "wisdom"}, "tandem_gate"),
        ({"tandem_gate": "entropy"}, "tandem_gate_threshold"),
        ({"tandem_gate": "entropy", "tandem_gate_threshold": "high"}, "tandem_gate_threshold"),
        ({"tandem_gate": "entropy", "tandem_gate_threshold": 1, "tandem_gate_window": 0},
         "tandem_gate_window"),
        ({"tandem_gate": "random", "tandem_gate_rate": 2}, "tandem_gate_rate"),
        ({"tandem_gate": "neural", "tandem_gate_artifact": "none"}, "tandem_gate_artifact"),
        ({"tandem_gate": "neural", "tandem_gate_artifact": "../up"}, "tandem_gate_artifact"),
        ({"tandem_gate": "probe", "tandem_gate_force": [VOCABULARY]}, "tandem_gate_force"),
        ({"tandem_gate": "probe", "tandem_gate_token": VOCABULARY}, "tandem_gate_token"),
        ({"tandem_gate": "probe", "tandem_gate_colour": "blue"}, "tandem_gate_colour"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    xargs: Json, named: str, small: Server, prompts: list[list[int]]
) -> None:
    with small.client() as client:
        asked = body("small", prompts[0], vllm_xargs=xargs)
        answer = client.post("/v1/completions", json=asked)
    assert answer.status_code == 400
    assert named in answer.json()["error"]["message"]


def test_a_gate_of_another_model_is_refused(
    small: Server, gate: dict[str, str], prompts: list[list[int]]
) -> None:
    write_artifact(Path(gate["TANDEM_GATE_ARTIFACTS"]) / "large", random_gate("large", hidden=True))
    xargs = {"tandem_gate": "neural", "tandem_gate_artifact": "large"}
    with small.client() as client:
        answer = client.post("/v1/completions", json=body("small", prompts[0], vllm_xargs=xargs))
    assert answer.status_code == 400
    assert "made for another model" in answer.json()["error"]["message"]


def test_min_tokens_is_refused_beside_a_gate(small: Server, prompts: list[list[int]]) -> None:
    with small.client() as client:
        asked = body("small", prompts[0], {"rule": "probe"}, min_tokens=3)
        answer = client.post("/v1/completions", json=asked)
    assert answer.status_code == 400
    assert "min_tokens" in answer.json()["error"]["message"]

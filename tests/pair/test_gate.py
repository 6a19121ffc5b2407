"""The gate in the pair's server, over HTTP: it stops where plain Python says that it must."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from deploy.pair.engine import Engine, Job
from deploy.pair.export import graph_logits
from deploy.pair.gate import WEIGHTS, embedding_matrix
from deploy.pair.sampling import Floats, Sampling
from deploy.pair.text import Stopping
from policies.gate.artifact import Artifact, fingerprint, write_artifact
from policies.gate.network import TOP, Dimensions, Inputs, score, shapes
from policies.gate.settings import GateSettings, Rule
from tests.pair.conftest import server
from tests.policies.gate import plain

QUESTION = (
    "<|begin|><|user|>A baker has 47 rolls and sells 38. How many are left?<|end|><|assistant|>"
)
LENGTH = 30
HIDDEN = 32

Answer = dict[str, Any]


def gate_artifact(embedding: Floats, hidden: int) -> Artifact:
    """A gate with random weights, made for the small model."""
    vocabulary, width = embedding.shape
    sizes = Dimensions(hidden, width, width=16, blocks=2, top=TOP, vocabulary=vocabulary)
    rng = np.random.default_rng(3)
    drawn = {name: rng.normal(size=shape) for name, shape in shapes(sizes).items()}
    return Artifact(
        hidden=hidden > 0,
        dimensions=sizes,
        threshold=0.5,
        model={"name": "small", "fingerprint": fingerprint(embedding)},
        data={},
        metrics={},
        created="2026-11-21T08:00:00+00:00",
        weights={name: (each / 4).astype(np.float32) for name, each in drawn.items()},
    )


@pytest.fixture(scope="module")
def embedding(small: Path) -> Floats:
    matrix = embedding_matrix(small / WEIGHTS)
    assert matrix is not None
    return matrix


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, embedding: Floats) -> Path:
    """Two gates, with hidden states and without, and room for traces."""
    folder = tmp_path_factory.mktemp("gate")
    for name, hidden in (("deep", HIDDEN), ("flat", 0)):
        write_artifact(folder / "gates" / name, gate_artifact(embedding, hidden))
    return folder


@pytest.fixture(scope="module")
def gated(small: Path, home: Path) -> Iterator[httpx.Client]:
    """The small model's server, told where gates are and traces may be."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # for this server, and none that starts later
            patch.setenv("TANDEM_GATE_ARTIFACTS", str(home / "gates"))
            patch.setenv("TANDEM_GATE_TRACES", str(home / "traces"))
            client = stack.enter_context(server("--model", str(small)))
        yield client


@pytest.fixture(scope="module")
def stop(gated: httpx.Client) -> int:
    """The reserved token."""
    tokens = gated.post("/tokenize", json={"prompt": "<|gate|>", "add_special_tokens": False})
    (token,) = tokens.json()["tokens"]
    return int(token)


@pytest.fixture(scope="module")
def answer(small: Path) -> tuple[list[int], list[int], Floats]:
    """The prompt, what the model writes after it, and its logits there."""
    engine = Engine(small)
    prompt = engine.codec.encode(QUESTION)
    stopping = Stopping(max_tokens=LENGTH, ignore_eos=True)
    made = engine.generate(Job(tuple(prompt), stopping, Sampling(temperature=0)))
    tokens = [token.id for token in made]
    logits = graph_logits(small, [*prompt, *tokens[:-1]])[len(prompt) - 1 :]
    return prompt, tokens, logits


def ask(client: httpx.Client, prompt: Sequence[int], settings: GateSettings, **more: Any) -> Answer:
    body = {
        "prompt": list(prompt),
        "max_tokens": LENGTH,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        "vllm_xargs": settings.xargs(),
        **more,
    }
    response = client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    choice: Answer = response.json()["choices"][0]
    return choice


CASES = [
    GateSettings(Rule.ENTROPY, threshold=0.5),
    GateSettings(Rule.ENTROPY, threshold=0.5, dwell=6, since=2),
    GateSettings(Rule.ENTROPY, threshold=0.3, window=5),
    GateSettings(Rule.ENTROPY, threshold=0.3, window=5, history=(0.0, 0.1, 2.0), dwell=1),
    GateSettings(Rule.ENTROPY, threshold=0.2, window=3, below=True, dwell=4),
    GateSettings(Rule.ENTROPY, threshold=0.5, keep=True),
    GateSettings(Rule.ENTROPY, threshold=99.0),
    GateSettings(Rule.RANDOM, rate=0.15, seed=2),
    GateSettings(Rule.RANDOM, rate=0.15, seed=-3, keep=True),
]


@pytest.mark.parametrize("settings", CASES, ids=lambda each: str(each.xargs()))
def test_it_stops_where_plain_python_says(
    gated: httpx.Client,
    stop: int,
    answer: tuple[list[int], list[int], Floats],
    settings: GateSettings,
) -> None:
    prompt, tokens, logits = answer
    ours = plain.Plain(settings, stop)
    fates = [ours.decide(row.tolist()) for row in logits]
    assert ours.closest > 1e-4, "float32 may decide otherwise: choose another threshold"
    at = fates.index(stop) if stop in fates else None
    found = ask(gated, prompt, settings, stop_token_ids=[stop])
    if at is None:
        assert (found["token_ids"], found["finish_reason"]) == (tokens, "length")
    else:
        assert found["token_ids"] == [*tokens[:at], stop]
        assert (found["finish_reason"], found["stop_reason"]) == ("stop", stop)


def test_a_stopped_answer_goes_on_where_it_was(
    gated: httpx.Client, stop: int, answer: tuple[list[int], list[int], Floats]
) -> None:
    prompt, tokens, _ = answer
    often = GateSettings(Rule.RANDOM, rate=0.3, seed=5)
    done: list[int] = []
    calls = 0
    while len(done) < LENGTH:
        done.append(tokens[len(done)])  # as if another model had written the token that fired
        left = LENGTH - len(done)
        if left:
            more = ask(gated, [*prompt, *done], often, stop_token_ids=[stop], max_tokens=left)
            done += [token for token in more["token_ids"] if token != stop]
        calls += 1
    assert done == tokens
    assert calls > 3


def test_a_stream_says_so_too(
    gated: httpx.Client, stop: int, answer: tuple[list[int], list[int], Floats]
) -> None:
    prompt, tokens, _ = answer
    settings = GateSettings(Rule.PROBE, force=tuple(tokens[:3]))
    body = {"prompt": prompt, "stream": True, "stop_token_ids": [stop], "return_token_ids": True}
    with gated.stream(
        "POST", "/v1/completions", json=body | {"vllm_xargs": settings.xargs()}
    ) as it:
        lines = [line for line in it.iter_lines() if line.startswith("data: {")]
    assert f'"stop_reason":{stop}' in lines[-1].replace(" ", "")


def test_each_choice_has_a_gate_of_its_own(
    gated: httpx.Client, stop: int, answer: tuple[list[int], list[int], Floats]
) -> None:
    settings = GateSettings(Rule.ENTROPY, threshold=0.0, dwell=4)
    asked = {"n": 3, "temperature": 1, "stop_token_ids": [stop], "vllm_xargs": settings.xargs()}
    body = {"prompt": answer[0], "ignore_eos": True, "return_token_ids": True, **asked}
    choices = gated.post("/v1/completions", json=body).json()["choices"]
    assert [(len(each["token_ids"]), each["stop_reason"]) for each in choices] == [(5, stop)] * 3


def test_a_probe_finds_the_gate_and_its_token(gated: httpx.Client, stop: int) -> None:
    found = ask(gated, [1], GateSettings(Rule.PROBE, force=(40, 2, 300)), max_tokens=4)
    assert (found["token_ids"], found["finish_reason"]) == ([40, 2, 300, stop], "length")
    other = GateSettings(Rule.PROBE, token=6, force=(40,))
    assert ask(gated, [1], other, max_tokens=2)["token_ids"] == [40, 6]


@pytest.mark.parametrize("name", ["deep", "flat"])
def test_a_learned_gate_stops_where_its_network_says(
    gated: httpx.Client, stop: int, home: Path, embedding: Floats, name: str,
    answer: tuple[list[int], list[int], Floats],
) -> None:  # fmt: skip
    prompt, tokens, logits = answer
    traced = GateSettings(Rule.TRACE, force=tuple(tokens), record=f"for-{name}")
    ask(gated, prompt, traced, stop_token_ids=[stop], max_tokens=LENGTH + 1)
    seen = load_file(home / "traces" / f"for-{name}.safetensors")
    made = gate_artifact(embedding, HIDDEN if name == "deep" else 0)
    hidden = seen["hidden"].astype(np.float32) if made.hidden else None
    inputs = Inputs(hidden, embedding[logits.argmax(-1)], seen["top_logits"])
    scores = score(np, made.weights, inputs)
    for place in (2, 9):
        # Between two scores, so that half precision in the trace decides nothing.
        highest = np.sort(scores)[::-1]
        threshold = float(highest[place : place + 2].mean())
        at = int(np.argmax(scores >= threshold))
        asked = GateSettings(Rule.NEURAL, artifact=name, threshold=threshold)
        found = ask(gated, prompt, asked, stop_token_ids=[stop])
        assert found["token_ids"] == [*tokens[:at], stop]


def test_a_trace_holds_what_the_model_thought(
    gated: httpx.Client, stop: int, home: Path, answer: tuple[list[int], list[int], Floats]
) -> None:
    prompt, tokens, logits = answer
    forced = tokens[:7]
    settings = GateSettings(Rule.TRACE, force=tuple(forced), record="seven")
    found = ask(gated, prompt, settings, stop_token_ids=[stop])
    assert (found["token_ids"], found["stop_reason"]) == ([*forced, stop], stop)
    seen, rows = load_file(home / "traces/seven.safetensors"), logits[:7]
    assert seen["hidden"].shape == (7, HIDDEN)
    assert seen["predicted"].tolist() == rows.argmax(-1).tolist()
    wanted = [plain.entropy(row.tolist()) for row in rows]
    assert seen["entropy"].tolist() == pytest.approx(wanted, abs=1e-3)
    np.testing.assert_allclose(seen["top_logits"], -np.sort(-rows)[:, :TOP], atol=1e-3)
    found_there = np.take_along_axis(rows, seen["top_ids"].astype(np.int64), -1)
    np.testing.assert_allclose(found_there, seen["top_logits"], atol=1e-3)


@pytest.mark.parametrize(
    ("xargs", "said"),
    [
        ({"tandem_gate": "oracle"}, "tandem_gate is one of"),
        ({"tandem_gate": "entropy"}, "tandem_gate_threshold"),
        ({"tandem_gate": "random", "tandem_gate_rate": 2}, "tandem_gate_rate is 0 to 1"),
        ({"tandem_gate": "probe", "tandem_gate_force": [99999]}, "tandem_gate_force"),
        ({"tandem_gate": "neural", "tandem_gate_artifact": "nope"}, "there are: deep, flat"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_wrong_gate_is_refused(
    gated: httpx.Client, path: str, xargs: dict[str, Any], said: str
) -> None:
    words = {"prompt": "1", "messages": [{"role": "user", "content": "1"}]}
    response = gated.post(path, json={**words, "vllm_xargs": xargs})
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (
        400,
        "BadRequestError",
        "vllm_xargs",
    )
    assert said in error["message"]


def test_a_gate_and_min_tokens_exclude_each_other(gated: httpx.Client) -> None:
    asked = {"vllm_xargs": GateSettings(Rule.PROBE).xargs(), "min_tokens": 3}
    response = gated.post("/v1/completions", json={"prompt": "1", **asked})
    assert response.status_code == 400
    assert "min_tokens" in response.json()["error"]["message"]


def test_without_a_folder_there_are_no_traces(pair: httpx.Client) -> None:
    settings = GateSettings(Rule.TRACE, force=(1,), record="x")
    response = pair.post("/v1/completions", json={"prompt": "1", "vllm_xargs": settings.xargs()})
    assert response.status_code == 400
    assert "TANDEM_GATE_TRACES" in response.json()["error"]["message"]


def test_arguments_for_others_are_ignored(pair: httpx.Client) -> None:
    body = {"prompt": "1", "max_tokens": 2, "vllm_xargs": {"other": [1, "a"]}}
    assert pair.post("/v1/completions", json=body).status_code == 200


def test_a_folder_without_the_embedding_has_none(tmp_path: Path) -> None:
    assert embedding_matrix(tmp_path / WEIGHTS) is None
    save_file({"other": np.zeros(2, np.float32)}, tmp_path / WEIGHTS)
    assert embedding_matrix(tmp_path / WEIGHTS) is None

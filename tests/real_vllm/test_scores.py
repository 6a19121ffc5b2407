"""A reward model in a real vLLM: its scores are the embedded pair's, and best_of goes by them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.pair.export_reward import POOLING, TEMPLATE_FILE, export_reward
from router.dialect import SCORED_AT
from tests.real_vllm.conftest import MODELS
from tests.real_vllm.servers import Gateway, Json, Server, await_vllm, gateway, pooling

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(600)]  # the first one starts the servers

ASKED = "A shop has 36 pens. It sells 17 and then buys 25 more. How many pens are there now?"
ANSWERS = (
    "First subtract 36-17:",
    "First subtract 36-17:\nones 16-7=9 borrow 1\ntens 3-1-1=1\nmakes 19\n",
    (
        "Start subtract 36-17:\nones 16-7=9 borrow 1\ntens 3-1-1=1\nmakes 19\n"
        "Then add 19+25:\nones 9+5=14 carry 1\ntens 1+2+1=4\nmakes 44\nAnswer: 44"
    ),
    "Start subtract 36-17:\nones 16-7=8\ntens 3-1=2\nmakes 28\nAnswer: 28",
    "naïve 🚲",
    "No.",
)
CLOSE = 1e-3
"""Between two engines in float32."""


@pytest.fixture(scope="module")
def reward(python: Path, logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """vLLM with the large model and its head as a classifier."""
    folder = tmp_path_factory.mktemp("exported") / "reward"
    export_reward(MODELS / "large", folder)
    pooler = ["--pooler-config", json.dumps(POOLING)]
    template = ["--chat-template", str(folder / TEMPLATE_FILE)]
    with pooling(python, folder, logs, *pooler, *template) as server:
        await_vllm(server)
        yield server


@pytest.fixture(scope="module")
def scored(reward: Server, pair: Server, logs: Path) -> Iterator[Gateway]:
    """A gateway with a best_of over the embedded pair for each way to ask the reward model."""
    config: dict[str, object] = {
        "listen": {"port": 0},
        "admin": {"port": 0},
        "models": {
            "small": {"backends": [pair.url]},
            "reward": {"backends": [reward.url], "price": {"input": 1.0}},
        },
        "policies": {
            api: {
                "use": "best_of", "small": "small", "stages": [3], "bar": 0.5,
                "score": {"by": "reward", "api": api},
            }
            for api in ("score", "classify", "pooling")
        },
        "default": "score",
    }  # fmt: skip
    folder = logs / "scored"
    folder.mkdir()
    with gateway(config, folder) as running:
        yield running


def scores(server: Server, model: str, **more: object) -> list[float]:
    body = {"model": model, "text_1": ASKED, "text_2": ANSWERS, **more}
    with server.client() as client:
        answer = client.post("/v1/score", json=body)
    assert answer.is_success, answer.text
    return [row["score"] for row in answer.json()["data"]]


@pytest.mark.parametrize("more", [{}, {"use_activation": False}], ids=["squashed", "logits"])
def test_vllm_and_the_pair_tell_the_same_scores(
    reward: Server, pair: Server, more: dict[str, object]
) -> None:
    theirs, ours = scores(reward, "reward", **more), scores(pair, "large", **more)
    assert ours == pytest.approx(theirs, abs=CLOSE)
    assert len({round(score, 2) for score in ours}) > 2, "they would agree on a constant, too"


@pytest.mark.parametrize("open_end", [True, False])
@pytest.mark.parametrize("path", ["/classify", "/pooling"])
def test_a_chat_is_scored_as_the_pair_scores_it(
    reward: Server, pair: Server, path: str, open_end: bool
) -> None:
    told: list[Json] = []
    for server, model in ((reward, "reward"), (pair, "large")):
        chat = [
            {"role": "user", "content": ASKED},
            {"role": "assistant", "content": ANSWERS[2]},
        ]
        body = {
            "model": model,
            "messages": chat,
            "add_generation_prompt": False,
            "continue_final_message": open_end,
        }
        with server.client() as client:
            answer = client.post(path, json=body)
        assert answer.is_success, answer.text
        told.append(answer.json())
    field = "probs" if path == "/classify" else "data"
    (theirs,), (ours,) = (said["data"] for said in told)
    assert ours[field] == pytest.approx(theirs[field], abs=CLOSE)
    assert ours.keys() == theirs.keys()
    assert told[0]["usage"] == told[1]["usage"]
    assert told[0].keys() == told[1].keys()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}),
        ("/v1/score", {"text_1": "a", "text_2": []}),
        ("/v1/score", {"text_1": [], "text_2": "a"}),
        ("/v1/score", {"text_1": "a", "text_2": "7" * 5000}),
        ("/v1/score", {"text_1": "a", "text_2": "b", "model": "none"}),
        ("/pooling", {"input": "a", "dimensions": 3}),
        ("/v1/score", {"text_1": "a"}),
    ],
)
def test_what_cannot_be_scored_is_refused_alike(
    reward: Server, pair: Server, path: str, body: Json
) -> None:
    said = []
    for server, model in ((reward, "reward"), (pair, "large")):
        with server.client() as client:
            answer = client.post(path, json={"model": model, **body})
        said.append((answer.status_code, answer.json()["error"]["type"]))
    assert said[0] == said[1]


@pytest.mark.parametrize("api", ["score", "classify", "pooling"])
def test_best_of_gives_the_sample_that_vllm_scores_highest(
    api: str, scored: Gateway, reward: Server
) -> None:
    body: Json = {
        "model": api,
        "messages": [{"role": "user", "content": ASKED}],
        "max_tokens": 200,
        "seed": 5,
    }
    with scored.client() as client:
        answer = client.post("/v1/chat/completions", json=body)
    assert answer.is_success, answer.text
    said = re.fullmatch(
        r"(sure|best); score ([0-9.]+) of 3 samples, stage 1 of 1",
        answer.headers["x-tandem-reason"],
    )
    assert said, answer.headers["x-tandem-reason"]
    text = answer.json()["choices"][0]["message"]["content"]
    with reward.client() as client:
        pair = {"model": "reward", "text_1": ASKED, "text_2": text}
        (row,) = client.post("/v1/score", json=pair).json()["data"]
    assert row["score"] == pytest.approx(float(said[2]), abs=0.006)
    assert float(answer.headers["x-tandem-cost-usd"]) > 0, "only the reward model has a price"


def test_probing_finds_how_a_vllm_tells_scores(scored: Gateway) -> None:
    with scored.admin() as client:
        backends = client.get("/admin/backends").json()["backends"]
    (able,) = (one["abilities"] for one in backends if one["model"] == "reward")
    assert able["scores"] == ["classify", "pooling", "score"]
    assert "chat/completions" not in able["surfaces"]


def test_a_vllm_that_writes_answers_tells_no_scores(large: Server) -> None:
    paths = large.get("/openapi.json").json()["paths"]
    assert "/v1/chat/completions" in paths
    assert not {*SCORED_AT.values()} & {*paths}

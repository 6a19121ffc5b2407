"""The reward head: what it is fitted to, what it refuses, and the endpoints that tell scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from deploy.pair.engine import Engine
from deploy.pair.export_reward import export_reward
from deploy.pair.graph import ModelFilesError
from deploy.pair.problems import TRAIN_SEEDS, TUNE_SEEDS
from deploy.pair.reward import REWARD_FILE, load_head, sigmoid
from deploy.pair.served import Served
from deploy.pair.train_reward import (
    TRAIN_SEED,
    TUNE_SEED,
    Examples,
    auc_interval,
    beginnings,
    examples,
    fitted,
    pair_text,
    share,
    solutions,
)
from tests.pair.conftest import folder

ASKED = "What is 47 + 38?"
ANSWERS = ["First add 47+38:\nones 7+8=15 carry 1", "Answer: 85", ""]
CHAT = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERS[1]}]
BOTH = {"model": "large", "text_1": ASKED, "text_2": ANSWERS}


@pytest.fixture(scope="module")
def large() -> Path:
    return folder("large")


def scores(client: httpx.Client, **more: Any) -> list[float]:
    answer = client.post("/v1/score", json=BOTH | more)
    assert answer.status_code == 200, answer.text
    return [row["score"] for row in answer.json()["data"]]


def test_seeds_that_are_reported_are_neither_trained_nor_chosen_on() -> None:
    assert TRAIN_SEED in TRAIN_SEEDS
    assert TUNE_SEED in TUNE_SEEDS


def test_a_logit_is_squashed_without_overflow() -> None:
    assert [sigmoid(x) for x in (-1e4, 0.0, 1e4)] == [0.0, 0.5, 1.0]
    assert sigmoid(1.5) == pytest.approx(1 / (1 + np.exp(-1.5)))


def test_scores_are_those_of_the_head(pair: httpx.Client, large: Path) -> None:
    served = Served("large", large)
    assert served.reward is not None
    told = scores(pair)
    for text, score in zip(ANSWERS, told, strict=True):
        prompt = served.engine.codec.encode(pair_text(ASKED, text))
        assert score == pytest.approx(served.score(prompt, squashed=True), abs=1e-6)
        assert 0 < score < 1
    logits = scores(pair, use_activation=False)
    assert [sigmoid(logit) for logit in logits] == pytest.approx(told)


def test_an_answer_has_vllms_fields(pair: httpx.Client, large: Path) -> None:
    codec = Engine(large).codec
    tokens = sum(len(codec.encode(pair_text(ASKED, text))) for text in ANSWERS)
    said = pair.post("/score", json=BOTH).json()
    assert said["id"].startswith("score-")
    assert (said["object"], said["model"]) == ("list", "large")
    assert [row | {"score": 0} for row in said["data"]] == [
        {"index": at, "object": "score", "score": 0} for at in range(3)
    ]
    assert said["usage"] == {
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }


@pytest.mark.parametrize(
    ("questions", "answers"),
    [("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2")],
)
def test_vllms_other_names_of_the_fields(pair: httpx.Client, questions: str, answers: str) -> None:
    body = {"model": "large", questions: [ASKED, "What is 1 + 1?"], answers: ["85", "2"]}
    assert len(pair.post("/v1/score", json=body).json()["data"]) == 2


@pytest.mark.parametrize("whole", [True, False])
def test_a_chat_has_the_score_of_its_pair(pair: httpx.Client, whole: bool) -> None:
    chat = {"model": "large", "messages": CHAT, "continue_final_message": not whole}
    (row,) = pair.post("/classify", json=chat).json()["data"]
    assert (row["label"], row["num_classes"]) == ("LABEL_0", 1)
    assert row["probs"] == pytest.approx([scores(pair)[1]])
    (pooled,) = pair.post("/pooling", json=chat | {"use_activation": False}).json()["data"]
    assert pooled["data"] == pytest.approx([scores(pair, use_activation=False)[1]])
    texts = {"model": "large", "input": [pair_text(ASKED, text) for text in ANSWERS]}
    found = [row["probs"][0] for row in pair.post("/classify", json=texts).json()["data"]]
    assert found == pytest.approx(scores(pair))


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/v1/score", {**BOTH, "text_1": ["a", "b"]}, 400, "Input lengths must be either"),
        ("/v1/score", {**BOTH, "text_1": []}, 400, "At least one text element"),
        ("/v1/score", {**BOTH, "text_2": []}, 400, "At least one text_pair element"),
        ("/v1/score", {"model": "large", "text_1": "a"}, 400, "validation error"),
        ("/v1/score", {**BOTH, "model": "none"}, 404, "does not exist"),
        ("/v1/score", {**BOTH, "model": "small"}, 501, "does not support Score API"),
        ("/v1/score", {**BOTH, "text_2": "7" * 5000}, 400, "maximum context length"),
        ("/classify", {"model": "small", "input": "a"}, 501, "Classification API"),
        ("/classify", {"model": "large"}, 400, "must be provided"),
        ("/pooling", {"model": "large", "input": "a", "dimensions": 3}, 400, "dimensions"),
        ("/pooling", {"model": "large", "input": "a", "encoding_format": "x"}, 400, "numbers"),
    ],
)
def test_what_cannot_be_scored(
    pair: httpx.Client, path: str, body: Any, status: int, said: str
) -> None:
    answer = pair.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]["message"]


@pytest.fixture
def copied(tmp_path: Path, large: Path) -> Path:
    """A folder with the large model's graph and head, to be spoilt."""
    spoilt = tmp_path / "large"
    shutil.copytree(large, spoilt)
    return spoilt


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        ({"graph": "00000000"}, "trained for other weights"),
        ({"weights": [1.0, 2.0]}, "its weights are not 128 numbers"),
        ({"weights": [float("nan")] * 128}, "its weights are not 128 numbers"),
        ({"bias": "x"}, "is damaged"),
        ({"bar": None}, "is damaged"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(copied: Path, spoilt: Any, why: str) -> None:
    file = copied / REWARD_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | spoilt))
    with pytest.raises(ModelFilesError, match=why):
        load_head(copied, Engine(copied).graph)
    file.unlink()
    assert load_head(copied, Engine(copied).graph) is None


def test_an_export_holds_the_head_under_vllms_names(tmp_path: Path, large: Path) -> None:
    from safetensors.numpy import load_file

    export_reward(large, tmp_path)
    head = load_head(large, Engine(large).graph)
    assert head is not None
    told = load_file(str(tmp_path / "score.safetensors"))
    assert np.array_equal(told["score.weight"], head.weights[np.newaxis, :])
    assert told["score.bias"] == pytest.approx([head.bias])
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["num_labels"] == 1


def test_states_are_those_at_the_end_of_every_step(small: Path, large: Path) -> None:
    engine = Engine(large)
    solved = list(solutions(Engine(small), TUNE_SEED, 3))
    found = examples(engine, solved)
    for at, solution in enumerate(solved):
        rows = np.flatnonzero(found.solution == at)
        parts = beginnings(solution.text)
        assert parts[-1] == solution.text
        assert len(rows) == len(parts) > 1
        assert list(found.whole[rows]) == [False] * (len(parts) - 1) + [True]
        assert set(found.right[rows]) == {solution.right}
        for row, part in zip(rows, parts, strict=True):
            begun = engine.codec.encode(pair_text(solution.prompt, part))
            mean = engine.mean_hidden(begun)
            assert found.states["mean"][row] == pytest.approx(mean, abs=1e-4)


def test_a_head_finds_what_is_linear_in_the_states() -> None:
    draw = np.random.default_rng(1)
    states = draw.normal(size=(400, 8)).astype(np.float32) * 3 + 1
    right = states @ np.arange(8) > 28
    rows = Examples({"mean": states}, right, np.full(400, fill_value=True), np.arange(400))
    weights, bias = fitted(states, rows, 1.0)
    reached = auc_interval(right, states @ weights + bias, rows.solution)
    assert reached.low > 0.98
    assert reached.low <= reached.value <= reached.high


def test_a_share_has_wilsons_interval() -> None:
    found = share(np.array([True] * 5 + [False] * 95))
    assert (found.value, found.low, found.high) == pytest.approx((0.05, 0.0215, 0.1118), abs=1e-4)

"""A reward model behind the gateway: what it is sent, what it costs, and every way to fail it."""

from __future__ import annotations

from typing import Any

import pytest

from app.keys import new_key
from router.dialect import SCORED_AT
from router.steps import Surface
from tests.conftest import Started
from tests.fleets import QUESTION
from tests.running import CHAT, Config, config
from tests.scripted import Backend, Script, answers, chat_answer, raw, silent

HEADERS = {"host", "content-type", "content-length", "x-request-id"}
TEXT = "It is 7."
SCORE = answers({
    "data": [{"index": 0, "score": 0.9, "probs": [0.1, 0.9], "data": [[0.2], [0.9]]}],
    "usage": {"prompt_tokens": 21, "total_tokens": 21},
})  # fmt: skip
CHATTED = {
    "messages": [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": TEXT},
    ],
    "add_generation_prompt": False,
    "continue_final_message": False,
}
SENT: dict[str, Config] = {
    "score": {"text_1": QUESTION, "text_2": [TEXT]},
    "classify": CHATTED,
    "pooling": CHATTED,
}


def tree(small: Backend, large: Backend, api: str = "score", **sections: Any) -> Config:
    """One sample, which `large` scores."""
    scored = {
        "use": "best_of",
        "small": "small",
        "stages": [1],
        "score": {"by": "large", "api": api},
    }
    return config({"small": small, "large": large}, policies={"auto": scored}, **sections)


async def ask(running: Any, **headers: str) -> Any:
    body = {"messages": [{"role": "user", "content": QUESTION}], "seed": 3}
    return await running.client.post(CHAT, json=body, headers=headers)


@pytest.mark.parametrize("api", SENT)
async def test_a_reward_model_gets_the_question_the_answer_and_nothing_else(
    gateway: Started, small: Backend, large: Backend, api: str, tmp_path: Any
) -> None:
    secret, entry = new_key("alice")
    (tmp_path / "keys.yaml").write_text(
        f'{{"keys": [{{"name": "alice", "sha256": "{entry.sha256}"}}]}}'
    )
    running = await gateway(
        tree(small, large, api, keys={"file": str(tmp_path / "keys.yaml"), "isolate": True})
    )
    small.plays(answers(chat_answer(TEXT)))
    large.plays(SCORE)
    answer = await ask(running, authorization=f"Bearer {secret}", cookie="evil=1")
    assert answer.headers["x-tandem-reason"] == "sure; score 0.90 of 1 sample, stage 1 of 1"
    (call,) = large.calls
    assert call.path == SCORED_AT[api]  # type: ignore[index]
    assert set(call.headers) <= HEADERS
    assert call.headers["x-request-id"] == answer.headers["x-request-id"]
    salt = call.json["cache_salt"]
    assert len(salt) == 64
    assert call.json == {"model": "large", "cache_salt": salt, **SENT[api]}
    ended = await running.ended()
    scorer = ended.attempts[1]
    assert (scorer.model, scorer.surface, scorer.answer) == ("large", Surface.SCORE, False)
    assert scorer.usage is not None
    assert scorer.usage.prompt == 21
    assert scorer.cost == pytest.approx(21e-6)
    assert ended.cost == pytest.approx(sum(attempt.cost for attempt in ended.attempts))
    assert running.in_flight() == 0


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (answers({"detail": "Not Found"}, 404), 'the model "large" has no /v1/score (404)'),
        (answers({"error": {"message": "too long", "code": 400}}, 400), "400"),
        (answers({"error": {"message": "full", "code": 503}}, 503), "503 overloaded"),
        (answers({"data": []}), "answers with 0 scores where 1 were asked for"),
        (answers({"data": [{"score": None}]}), "answers with a score that is no number"),
        (answers(b'{"data": [{"score": NaN}]}'), "the backend's answer is not JSON"),
        (answers({"object": "list"}), "/v1/score does not answer with scores"),
        (raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"), "200  where application/json"),
        (silent, "the backend said nothing for"),
    ],
    ids=["old", "refused", "full", "too few", "null", "NaN", "other", "no JSON", "silent"],
)
async def test_the_sample_is_given_however_the_scorer_fails(
    gateway: Started, small: Backend, large: Backend, script: Script, why: str
) -> None:
    running = await gateway(tree(small, large, limits={"deadline": 4, "first_token": 0.3}))
    small.plays(answers(chat_answer(TEXT)))
    large.plays(script)
    answer = await ask(running)
    assert answer.json()["choices"][0]["message"]["content"] == TEXT
    reason = answer.headers["x-tandem-reason"]
    assert reason.startswith("no_verdict; score of 1 sample, stage 1 of 1, large did not score: ")
    assert why in reason
    assert running.in_flight() == 0

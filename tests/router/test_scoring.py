"""The step `Score`: what is sent by each API, which answers are scores, and what is counted."""

from __future__ import annotations

from time import monotonic
from typing import Any

import orjson
import pytest

from router.fleet import Fleet, Price
from router.http1 import HungUpError
from router.phrases import score, serve
from router.steps import Failed, Finished, Score, Scorer, Scores, Steps, Surface
from tests.in_memory import (
    CHAT,
    SILENT,
    Canned,
    Core,
    core,
    policy,
    refusing,
    whole,
    with_policy,
)

ASKED, TEXTS = "3 + 4?", ("It is 7.", "It is 8.")
USED = {"prompt_tokens": 12, "total_tokens": 12}


def answering(*data: Any, **fields: Any) -> Canned:
    """A backend's answer with these rows."""
    body = {"data": [*data], "usage": USED, **fields}
    return Canned([orjson.dumps(body)], kind="application/json")


async def ask(
    by: Scorer,
    *replies: Canned,
    each: int = 1,
    within: float = 10.0,
    texts: tuple[str, ...] = TEXTS,
) -> tuple[Core, Scores | Failed]:
    """What a policy hears that asks `small` so, and then lets `large` answer."""
    heard: list[Scores | Failed] = []

    def steps(asked: Any, _: Fleet) -> Steps:
        heard.append((yield from score("small", asked, ASKED, texts, by)))
        return (yield from serve("large", asked))

    made = with_policy(steps, each=each)
    for at, reply in enumerate(replies):
        made.upstreams.add(f"{'ab'[at % each]}:1", reply)
    for backend in "xy"[:each]:
        made.upstreams.add(f"{backend}:1", whole("7"))
    assert isinstance(await made.run(CHAT, within), Finished)
    return made, heard[0]


def chat_of(text: str, *, whole: bool) -> dict[str, Any]:
    return {
        "model": "small",
        "messages": [
            {"role": "user", "content": ASKED},
            {"role": "assistant", "content": text},
        ],
        "add_generation_prompt": False,
        "continue_final_message": not whole,
    }


def test_the_phrase_says_the_step() -> None:
    said = score("small", CHAT, ASKED, TEXTS)
    assert next(said) == Score("small", CHAT, ASKED, TEXTS, Scorer())


async def test_all_texts_are_scored_in_one_call() -> None:
    rows = [{"index": 1, "score": 0.25}, {"index": 0, "score": 1}]
    made, heard = await ask(Scorer(), answering(*rows))
    assert heard == (1.0, 0.25)
    _, path, body = made.upstreams.sent[0]
    assert path == "/v1/score"
    assert body == {"model": "small", "text_1": ASKED, "text_2": [*TEXTS]}


async def test_a_scorer_is_an_attempt_that_is_counted_and_priced() -> None:
    made, _ = await ask(Scorer(), answering({"score": 1}, {"score": 0}))
    assert made.ledger is not None
    made.ledger.tallies[0].price = Price(input=2.0)
    told, answered = made.ledger.attempts(0.0)
    assert (told.model, told.surface, told.answer) == ("small", Surface.SCORE, False)
    assert told.usage is not None
    assert told.usage.prompt == 12
    assert told.cost == pytest.approx(24e-6)
    assert told.blame is None
    assert answered.answer


@pytest.mark.parametrize("whole_texts", [True, False])
async def test_a_classifier_is_sent_a_chat_per_text(whole_texts: bool) -> None:
    rows = [answering({"probs": [0.9, 0.1]}), answering({"probs": [0.2, 0.8]})]
    made, heard = await ask(Scorer("classify", whole=whole_texts), *rows)
    assert heard == (0.1, 0.8)
    sent = [(path, body) for _, path, body in made.upstreams.sent[:2]]
    assert sent == [("/classify", chat_of(text, whole=whole_texts)) for text in TEXTS]
    assert made.ledger is not None
    assert sum(tally.usage.prompt for tally in made.ledger.tallies[:2] if tally.usage) == 24


async def test_one_label_may_be_named() -> None:
    rows = [answering({"probs": [0.9, 0.1]}), answering({"probs": [0.2, 0.8]})]
    assert (await ask(Scorer("classify", label=0), *rows))[1] == (0.9, 0.2)


@pytest.mark.parametrize(
    ("data", "number"),
    [
        ([1.5], 1.5),
        ([0.1, 0.2, -3], -3.0),
        ([[0.5], [0.25]], 0.25),
        ([[0.9, 0.1], [0.3, 0.7]], 0.7),
    ],
    ids=["one number", "one a token", "one a token, each in a list", "labels a token"],
)
async def test_a_pooled_score_is_the_last_one(data: list[Any], number: float) -> None:
    made, heard = await ask(Scorer("pooling"), answering({"data": data}), texts=TEXTS[:1])
    assert heard == (number,)
    assert made.upstreams.sent[0][1:] == ("/pooling", chat_of(TEXTS[0], whole=True))


@pytest.mark.parametrize("api", ["score", "classify", "pooling"])
async def test_logits_are_asked_for(api: Any) -> None:
    row = {"score": -2.5, "probs": [-2.5], "data": [-2.5]}
    made, heard = await ask(Scorer(api, logits=True), answering(row), texts=TEXTS[:1])
    assert heard == (-2.5,)
    assert made.upstreams.sent[0][2]["use_activation"] is False


@pytest.mark.parametrize(
    ("api", "rows", "why"),
    [
        ("score", [{"score": 1}], "answers with 1 scores where 2 were asked for"),
        ("score", [{"score": 1}] * 3, "answers with 3 scores where 2 were asked for"),
        ("score", [{"index": 0, "score": 1}] * 2, "2 scores where 2 were asked for"),
        ("score", [{"score": 1}, {"score": None}], "no number"),
        ("score", [{"score": 1}, {"score": "1"}], "no number"),
        ("score", [{"score": 1}, {"score": True}], "no number"),
        ("score", [{"score": 1}, {}], "no number"),
        ("score", [7, 8], "does not answer with scores"),
        ("classify", [{"probs": []}], "no number"),
        ("classify", [{"probs": 1}], "no number"),
        ("classify", [], "answers with 0 scores where 1 were asked for"),
        ("pooling", [{"data": []}], "no number"),
        ("pooling", [{"data": "AAAA"}], "no number"),
        ("pooling", [{"data": [[]]}], "no number"),
    ],
)
async def test_what_is_no_score_is_a_failure(api: Any, rows: list[Any], why: str) -> None:
    made, heard = await ask(Scorer(api), answering(*rows), answering(*rows))
    assert isinstance(heard, Failed)
    assert why in heard.fault.summary
    assert heard.fault.code == "bad_json"
    assert made.ledger is not None
    assert made.ledger.tallies[0].blame is heard.fault.blame


@pytest.mark.parametrize(
    "said",
    [b'{"data": [{"score": NaN}, {"score": 1}]}', b'{"data": [{"score": 1e999}, {"score": 1}]}'],
)
async def test_a_score_that_is_not_finite_is_a_failure(said: bytes) -> None:
    _, heard = await ask(Scorer(), Canned([said], kind="application/json"))
    assert isinstance(heard, Failed)
    assert heard.fault.code == "bad_json"


async def test_an_error_in_a_200_is_a_failure() -> None:
    _, heard = await ask(Scorer(), answering(error={"message": "CUDA out of memory", "code": 500}))
    assert isinstance(heard, Failed)
    assert heard.fault.code == "backend_error"


@pytest.mark.parametrize(("api", "path"), [("score", "/v1/score"), ("pooling", "/pooling")])
async def test_a_server_without_the_api_is_told_as_such(api: Any, path: str) -> None:
    _, heard = await ask(Scorer(api), refusing(404, "Not Found"), refusing(404, "Not Found"))
    assert isinstance(heard, Failed)
    assert f'the model "small" has no {path} (404)' in heard.fault.summary
    assert heard.fault.elsewhere


async def test_another_backend_is_tried() -> None:
    row = answering({"score": 1}, {"score": 0})
    made, heard = await ask(Scorer(), refusing(503), refusing(503), each=2)
    assert isinstance(heard, Failed)
    assert len([1 for _, path, _ in made.upstreams.sent if path == "/v1/score"]) == 2
    made, heard = await ask(Scorer(), row, row, each=2)
    assert heard == (1.0, 0.0)


async def test_one_text_that_fails_leaves_none_running() -> None:
    cut = Canned([HungUpError("cut")])
    made, heard = await ask(Scorer("classify"), cut, Canned([SILENT], kind="application/json"))
    assert isinstance(heard, Failed)
    assert made.in_flight() == 0


async def test_a_silent_scorer_leaves_time_for_an_answer() -> None:
    made, heard = await ask(Scorer(), Canned([SILENT], kind="application/json"), within=1.0)
    assert isinstance(heard, Failed)
    assert heard.fault.code == "first_token_timeout"
    assert made.in_flight() == 0


async def test_nothing_is_asked_of_no_texts() -> None:
    made, heard = await ask(Scorer(), texts=())
    assert heard == ()
    assert len(made.upstreams.sent) == 1


async def test_a_line_in_front_of_the_scorer_leaves_time_for_an_answer() -> None:
    heard: list[Scores | Failed] = []

    def steps(asked: Any, _: Fleet) -> Steps:
        heard.append((yield from score("small", asked, ASKED, TEXTS)))
        return (yield from serve("large", asked))

    queue = {"in_flight": 1, "waiting": 4, "longest": 60}
    models = {
        "small": {"backends": ["http://a:1"], "queue": queue},
        "large": {"backends": ["http://x:1"]},
    }
    made = core({"auto": policy(steps)}, models=models)
    pool = made.runtime.pools["small"]
    place = pool.line.enter(pool, 1.0)
    assert place
    made.upstreams.add("x:1", whole("7"))
    began = monotonic()
    assert isinstance(await made.run(CHAT, 1.0), Finished)
    assert monotonic() - began < 0.8
    assert isinstance(heard[0], Failed)
    assert heard[0].fault.code in ("queue_timeout", "queue_slow")
    place.leave()


async def test_all_calls_of_one_request_share_a_place() -> None:
    heard: list[Scores | Failed] = []

    def steps(asked: Any, _: Fleet) -> Steps:
        heard.append((yield from score("small", asked, ASKED, TEXTS, Scorer("classify"))))
        return (yield from serve("large", asked))

    models = {
        "small": {"backends": ["http://a:1"], "queue": {"in_flight": 1}},
        "large": {"backends": ["http://x:1"]},
    }
    made = core({"auto": policy(steps)}, models=models)
    made.upstreams.add("a:1", answering({"probs": [0.1]}), answering({"probs": [0.2]}))
    made.upstreams.add("x:1", whole("7"))
    assert isinstance(await made.run(CHAT), Finished)
    assert heard == [(0.1, 0.2)]

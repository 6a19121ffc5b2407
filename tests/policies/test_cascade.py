"""Cascade: an accepted draft is relayed, a rejected one is dropped unseen, and why is told."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from policies.cascade import Cascade
from policies.verdicts.grading import Grade
from router.faults import Blame
from router.phrases import DRAFT_SHARE
from router.steps import Attempt, Compute, Next, Note, Open, Relay, Request, Route, Surface
from tests.fleets import QUESTION, attempt, delta, failed, finished, fleet, request
from tests.playbook import Playbook

SCHEMA = {"type": "object", "required": ["answer"], "properties": {"answer": {"type": "integer"}}}
EXAMPLES: tuple[dict[str, Any], ...] = (
    {"small": "small", "large": "large", "mean_logprob": -0.4},
    {"small": "small", "large": "large", "pattern": "[0-9]"},
    {"small": "small", "large": "large", "json_schema": SCHEMA},
    {"small": "small", "large": "large", "json_schema": "request"},
    {"small": "small", "large": "large", "grade": {"by": "small"}},
    {
        "small": "small",
        "large": "large",
        "mean_logprob": -1,
        "pattern": ".",
        "json_schema": {},
        "grade": {"by": "large", "accept": ["yes", "right"]},
    },
)
NONSENSE: tuple[dict[str, Any], ...] = (
    {"small": "small", "large": "large"},
    {"small": "small", "large": "large", "mean_logprob": 0.5},
    {"small": "small", "large": "large", "mean_logprob": "low"},
    {"small": "small", "large": "large", "pattern": "("},
    {"small": "small", "large": "large", "json_schema": {"type": "bogus"}},
    {"small": "small", "large": "large", "json_schema": "draft"},
    {"small": "small", "large": "large", "grade": {}},
    {"small": "small", "large": "large", "grade": {"by": "small", "prompt": "Is it right?"}},
    {"small": "small", "large": "large", "grade": {"by": "small", "accept": []}},
)

CHAT = request()
SMALL = attempt("small", "a:1")
LOGPROBS = {"logprobs": True}


def drafted(
    policy: Cascade, *texts: str, chat: Request = CHAT, changes: dict[str, Any] | None = None
) -> Playbook:
    """The conversation up to the end of a draft of these pieces."""
    played = (
        Playbook(policy, chat, fleet())
        .asks(Open("small", chat, changes or {}, share=DRAFT_SHARE))
        .hears(SMALL)
    )
    for text in texts:
        played.asks(Next((SMALL,))).hears(delta(SMALL, text))
    return played.asks(Next((SMALL,))).hears(finished(SMALL))


def accepted(played: Playbook, why: str) -> None:
    played.asks(Note("draft_accepted", why), Relay(SMALL)).hears(finished(SMALL))
    played.ends(finished(SMALL))


def rejected(played: Playbook, why: str, chat: Request = CHAT) -> None:
    large = finished(attempt("large", "b:1", 1))
    played.asks(Note("draft_rejected", why), Route("large", chat)).hears(large).ends(large)


# --------------------------------------------------------------------------- log-probabilities


def with_logprobs(*values: float, chat: Request = CHAT, asked: dict[str, Any]) -> Playbook:
    policy = Cascade(small="small", large="large", mean_logprob=-0.4)
    played = (
        Playbook(policy, chat, fleet())
        .asks(Open("small", chat, asked, share=DRAFT_SHARE))
        .hears(SMALL)
    )
    played.asks(Next((SMALL,))).hears(delta(SMALL, "7", *values))
    played.asks(Next((SMALL,))).hears(delta(SMALL, "another", -9.0, choice=1))
    return played.asks(Next((SMALL,))).hears(finished(SMALL))


def test_a_sure_draft_is_accepted() -> None:
    accepted(with_logprobs(-0.1, -0.3, asked=LOGPROBS), "mean logprob -0.200")


def test_a_draft_at_the_threshold_is_accepted() -> None:
    accepted(with_logprobs(-0.4, asked=LOGPROBS), "mean logprob -0.400")


def test_an_unsure_draft_is_rejected() -> None:
    rejected(with_logprobs(-0.1, -0.9, asked=LOGPROBS), "mean logprob -0.500 < -0.4")


def test_a_draft_without_log_probabilities_is_rejected() -> None:
    rejected(with_logprobs(asked=LOGPROBS), "the draft came without log-probabilities")


@pytest.mark.parametrize(
    ("surface", "stated", "asked"),
    [
        (Surface.CHAT, False, {"logprobs": True}),
        (Surface.CHAT, True, {}),
        (Surface.COMPLETIONS, None, {"logprobs": 0}),
        (Surface.COMPLETIONS, 0, {"logprobs": 0}),
        (Surface.COMPLETIONS, 5, {}),
    ],
)
def test_log_probabilities_are_asked_for_as_the_api_wants_it(
    surface: Surface, stated: Any, asked: dict[str, Any]
) -> None:
    chat = request(surface, body={"messages": [], "logprobs": stated})
    accepted(with_logprobs(-0.1, chat=chat, asked=asked), "mean logprob -0.100")


# -------------------------------------------------------------------------- patterns and schemas


def test_a_draft_with_the_pattern_is_accepted() -> None:
    policy = Cascade(small="small", large="large", pattern="[0-9]+$")
    accepted(drafted(policy, "It is ", "7").computes(), "pattern found")


def test_a_draft_without_the_pattern_is_rejected() -> None:
    policy = Cascade(small="small", large="large", pattern="[0-9]+$")
    rejected(drafted(policy, "It is seven").computes(), "the pattern is not in the draft")


def test_a_draft_that_fits_the_schema_is_accepted() -> None:
    policy = Cascade(small="small", large="large", json_schema=SCHEMA)
    accepted(drafted(policy, '{"answer":', " 7}").computes(), "schema holds")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("seven", "the draft is not JSON"),
        ("", "the draft is not JSON"),
        ('{"answer": "7"}', "the draft does not fit the schema at answer"),
        ("{}", "the draft does not fit the schema at the top"),
    ],
)
def test_a_draft_that_does_not_fit_the_schema_is_rejected(text: str, why: str) -> None:
    policy = Cascade(small="small", large="large", json_schema=SCHEMA)
    rejected(drafted(policy, text).computes(), why)


def of_format(stated: Any) -> Request:
    return request(body={"messages": [], "response_format": stated})


def judged(chat: Request, text: str) -> str:
    """The note on this draft, under the schema that the request brings."""
    steps = Cascade(small="small", large="large", json_schema="request").route(chat, fleet())
    for reply in (None, SMALL, delta(SMALL, text)):
        steps.send(reply)
    work = steps.send(finished(SMALL))
    assert isinstance(work, Compute)
    noted = steps.send(work.function(*work.arguments))
    assert isinstance(noted, Note)
    return f"{noted.reason}: {noted.detail}"


def test_the_schema_may_come_with_the_request() -> None:
    chat = of_format({"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}})
    assert judged(chat, '{"answer": 7}') == "draft_accepted: schema holds"
    assert judged(chat, "{}").startswith("draft_rejected: the draft does not fit")


@pytest.mark.parametrize("stated", [None, {"type": "json_object"}, "json", {"json_schema": 5}])
def test_without_a_schema_in_the_request_any_json_will_do(stated: Any) -> None:
    assert judged(of_format(stated), "[7]") == "draft_accepted: schema holds"
    assert judged(of_format(stated), "seven") == "draft_rejected: the draft is not JSON"


def test_a_schema_from_a_client_cannot_make_the_gateway_read_a_file(tmp_path: Path) -> None:
    (tmp_path / "any.json").write_text("{}")
    schema = {"$ref": (tmp_path / "any.json").as_uri()}
    chat = of_format({"json_schema": {"schema": schema}})
    assert judged(chat, "7").startswith("draft_rejected: the draft does not fit the schema")


def test_a_schema_from_a_client_cannot_make_the_gateway_call_a_server() -> None:
    called: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            called.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True, args=(0.01,)).start()
        schema = {"$ref": f"http://127.0.0.1:{server.server_port}/secret"}
        said = judged(of_format({"json_schema": {"schema": schema}}), "7")
        server.shutdown()
    assert not called
    assert said.startswith("draft_rejected")


# --------------------------------------------------------------------------------------- grades


def graded(grade: Grade, verdict: str, chat: Request = CHAT) -> tuple[Playbook, dict[str, Any]]:
    """The conversation after the grader has said `verdict`, and what it was asked."""
    grader = attempt(grade.by, "g:1", 1)
    policy = Cascade(small="small", large="large", grade=grade)
    prompt = grade.prompt.replace("{question}", QUESTION).replace("{draft}", "It is 7.")
    asked = {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 1,
        "temperature": 0,
    }
    played = drafted(policy, "It is 7.", chat=chat).asks(
        Open(grade.by, chat.asking(asked), share=DRAFT_SHARE)
    )
    played.hears(grader).asks(Next((grader,))).hears(delta(grader, verdict))
    return played.asks(Next((grader,))).hears(finished(grader)), asked


@pytest.mark.parametrize("verdict", ["yes", "Yes", " yes"])
def test_a_draft_that_the_grader_likes_is_accepted(verdict: str) -> None:
    accepted(graded(Grade(by="small"), verdict)[0], f"grade {verdict!r}")


@pytest.mark.parametrize("verdict", ["no", "", "yesterday"])
def test_a_draft_that_the_grader_does_not_like_is_rejected(verdict: str) -> None:
    rejected(graded(Grade(by="small"), verdict)[0], f"grade {verdict!r}")


def test_case_and_space_do_not_count_in_the_accepted_words_either() -> None:
    accepted(graded(Grade(by="large", accept=(" OK ",)), "ok")[0], "grade 'ok'")


def test_the_grader_is_shown_the_question_and_the_draft() -> None:
    _, asked = graded(Grade(by="small"), "yes")
    prompt = asked["messages"][0]["content"]
    assert prompt.startswith(f"{QUESTION}\n\nSolution:\nIt is 7.\n\n")


def test_a_grade_is_a_chat_without_a_stream_under_the_same_id_and_session() -> None:
    chat = request(body={"messages": [], "stream": True}, session="ann")
    grade = chat.asking({"messages": []})
    assert (grade.id, grade.session, grade.draw) == (chat.id, "ann", chat.draw)
    assert (grade.surface, grade.stream, grade.raw) == (Surface.CHAT, False, b"")


def test_a_grader_that_fails_rejects_the_draft() -> None:
    grader = attempt("large", "g:1", 1)
    policy = Cascade(small="small", large="large", grade=Grade(by="large", prompt="{draft}"))
    played = drafted(policy, "7").asks(
        Open("large", CHAT.asking({
            "messages": [{"role": "user", "content": "7"}], "max_tokens": 1, "temperature": 0,
        }), share=DRAFT_SHARE)
    )  # fmt: skip
    rejected(played.hears(grader).asks(Next((grader,))).hears(failed(grader)), "grade ''")


@pytest.mark.parametrize(
    ("body", "question"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}, "b"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant"}]}, "a"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, 5, {}]}]}, "a"),
        ({"messages": [{"role": "user", "content": None}]}, ""),
        ({"messages": "no list"}, ""),
        ({"messages": 5}, ""),
        ({"messages": ["no object"]}, ""),
        ({"prompt": "c"}, "c"),
        ({"prompt": [1, 2]}, ""),
        ({}, ""),
    ],
    ids=repr,
)
def test_the_question_is_found_or_empty(body: dict[str, Any], question: str) -> None:
    """Only a chat's messages are checked on the way in: on other surfaces they may be anything."""
    chat = request(Surface.COMPLETIONS, body=body)
    policy = Cascade(
        small="small", large="large", grade=Grade(by="small", prompt="<{question}>{draft}")
    )
    asked = {
        "messages": [{"role": "user", "content": f"<{question}>7"}],
        "max_tokens": 1,
        "temperature": 0,
    }
    drafted(policy, "7", chat=chat).asks(Open("small", chat.asking(asked), share=DRAFT_SHARE))


# -------------------------------------------------------------------- several checks, and failure


def test_the_cheapest_check_that_fails_decides() -> None:
    policy = Cascade(
        small="small", large="large", pattern="7", json_schema={}, grade=Grade(by="large")
    )
    rejected(drafted(policy, "seven").computes(), "the pattern is not in the draft")


def test_every_check_must_pass_and_each_says_why() -> None:
    policy = Cascade(small="small", large="large", pattern="7", json_schema={})
    accepted(drafted(policy, "7").computes().computes(), "pattern found, schema holds")


def broken_draft(end: Any) -> Playbook:
    policy = Cascade(small="small", large="large", pattern="7")
    played = (
        Playbook(policy, CHAT, fleet()).asks(Open("small", CHAT, share=DRAFT_SHARE)).hears(SMALL)
    )
    return played.asks(Next((SMALL,))).hears(end)


def test_a_draft_that_fails_is_no_failure_for_the_client() -> None:
    large: Attempt = attempt("large", "b:1", 1)
    played = broken_draft(failed(SMALL)).asks(Note("draft_failed", "backend broke it"))
    played.asks(Route("large", CHAT)).hears(finished(large)).ends(finished(large))


def test_the_draft_spills_over_to_another_backend_first() -> None:
    other = attempt("small", "b:1", 1)
    played = broken_draft(failed(SMALL, spare=True))
    played.asks(Open("small", CHAT, avoid=frozenset({"a:1"}), share=DRAFT_SHARE)).hears(other).asks(
        Next((other,))
    )
    played.hears(finished(other)).computes().asks(
        Note("draft_rejected", "the pattern is not in the draft")
    )


@pytest.mark.parametrize("blame", [Blame.CLIENT, Blame.GATEWAY])
def test_a_request_that_no_model_could_answer_ends_at_once(blame: Blame) -> None:
    broken_draft(failed(SMALL, blame)).ends(failed(SMALL, blame))


def test_the_schema_of_a_response_format_survives_json() -> None:
    """What pydantic hands over is a plain dictionary all the way down."""
    policy = Cascade(small="small", large="large", json_schema=json.loads(json.dumps(SCHEMA)))
    accepted(drafted(policy, '{"answer": 1}').computes(), "schema holds")

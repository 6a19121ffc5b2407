"""Best of N: which sample is given, when more are drawn, when the large model is asked, and why."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from policies.best_of import MOST, MOST_PLANS, BestOf
from policies.verdicts.grading import GRADE_PROMPT
from router.faults import Blame
from router.fleet import Abilities, Fleet, Price
from router.phrases import DRAFT_SHARE, rewritten
from router.steps import (
    Alternative,
    Attempt,
    Begin,
    Delta,
    Emit,
    Finished,
    Next,
    Note,
    Open,
    Relay,
    Request,
    Route,
    Score,
    ScoreApi,
    Scorer,
    Steps,
    Surface,
    Token,
)
from tests.fleets import QUESTION, attempt, delta, failed, finished, fleet, request
from tests.playbook import Playbook
from tests.policies.verdicts.made_calibration import FILE

PAIR = {"small": "small", "large": "large"}
CALIBRATED: dict[str, Any] = {"majority": {}, "artifact": str(FILE)}
EXAMPLES: tuple[dict[str, Any], ...] = (
    {"small": "small", "majority": {"pattern": "[0-9]"}, "stages": [2, 3, 5]},
    {**PAIR, "majority": {"field": "answer", "sure": -0.5}, "stages": [1, 4, 8], "bar": 0.5},
    {**PAIR, "json_schema": "request", "alone": "small", "stages": [1, 2]},
    {**PAIR, "grade": {"by": "other"}, "stages": [1, 2]},
    {"small": "small", "grade": {"by": "small"}},
    {"small": "auto", "large": "large", "majority": {}, "stages": [2, 3]},
    {**PAIR, "score": {"by": "other"}, "stages": [1, 4]},
    {"small": "small", "score": {"by": "large", "api": "pooling", "scale": "sigmoid"}, "bar": 0.9},
    {**PAIR, "score": {"by": "other", "api": "classify", "label": 0}, "bar": -1.5},
    {**PAIR, "mean_logprob": -0.4, "stages": [1, 3]},
    {**PAIR, **CALIBRATED},
    {**PAIR, **CALIBRATED, "stages": [1], "worth": 5},
)
NONSENSE: tuple[dict[str, Any], ...] = (
    PAIR,
    {"majority": {}},
    {**PAIR, "majority": {}, "mean_logprob": -1},
    {**PAIR, "majority": {"pattern": "("}},
    {**PAIR, "majority": {"pattern": "a", "field": "a"}},
    {**PAIR, "majority": {"field": ""}},
    {**PAIR, "majority": {"sure": 1}},
    {**PAIR, "majority": {}, "stages": [1, 4]},
    {**PAIR, "majority": {}, "stages": []},
    {**PAIR, "majority": {}, "stages": [4, 4]},
    {**PAIR, "majority": {}, "stages": [8, 4]},
    {**PAIR, "majority": {}, "stages": [0, 4]},
    {**PAIR, "majority": {}, "stages": [4, MOST + 1]},
    {**PAIR, "majority": {}, "bar": 0},
    {**PAIR, "majority": {}, "bar": 1.5},
    {**PAIR, "majority": {}, "temperature": 0},
    {**PAIR, "mean_logprob": 0.5},
    {**PAIR, "json_schema": {"type": "bogus"}},
    {**PAIR, "grade": {"by": "large", "prompt": "Well?"}},
    {**PAIR, "score": {}},
    {**PAIR, "score": {"by": "other"}, "majority": {}},
    {**PAIR, "score": {"by": "other", "api": "rerank"}},
    {**PAIR, "score": {"by": "other", "scale": "log"}},
    {**PAIR, "score": {"by": "other", "scale": "sigmoid"}, "bar": 1.5},
    {**PAIR, **CALIBRATED, "worth": 0},
    {"small": "small", **CALIBRATED},
    {**PAIR, "majority": {}, "artifact": "nowhere.json"},
)

CHAT = request()
ONE, TWO = attempt("small", "a:1"), attempt("small", "b:1", 1)
LARGE = attempt("large", "c:1", 2)
OTHER = attempt("other", "d:1", 3)


def policy(**settings: Any) -> BestOf:
    from policies import TABLE
    from router.references import build_policy

    built, problems = build_policy({"use": "best_of", "small": "small", **settings}, TABLE)
    assert isinstance(built, BestOf), problems
    return built


def drawn(
    played: Playbook, of: Any, texts: tuple[str, ...], asked: Any, chat: Request = CHAT
) -> Playbook:
    """The policy asks for samples with these changes, and gets these texts."""
    played.asks(Open("small", chat, asked, share=DRAFT_SHARE)).hears(of)
    for choice, text in enumerate(texts):
        played.asks(Next((of,))).hears(delta(of, text, choice=choice))
    return played.asks(Next((of,))).hears(finished(of))


def several(n: int, **more: Any) -> dict[str, Any]:
    return {"temperature": 0.7, "n": n, **more}


def given(played: Playbook, why: Note, relay: Relay) -> None:
    played.asks(why, relay).hears(finished(relay.attempt)).ends(finished(relay.attempt))


def handed_on(played: Playbook, why: Note, to: str = "large", chat: Request = CHAT) -> None:
    played.asks(why, Route(to, chat)).hears(finished(LARGE)).ends(finished(LARGE))


def started(chat: Request = CHAT, **settings: Any) -> Playbook:
    return Playbook(policy(**settings), chat, fleet("small", "large", "other"))


# --------------------------------------------------------------------------- samples of a policy


def written(of: Attempt, text: str) -> Steps:
    """What a policy does that writes this, and keeps its call open."""
    yield Emit(of, text)
    return finished(of)


def test_a_policy_is_sampled_as_often_as_needed_each_time_with_its_own_seed() -> None:
    chat = request(body={"messages": [], "seed": 5})
    played = started(chat, small="auto", majority={}, stages=[2])
    asked = [rewritten(chat, {"temperature": 0.7, "seed": seed}) for seed in (5, 6)]
    played.computes().computes()
    played.asks(Begin("auto", asked[0])).hears(written(ONE, "So 7"))
    played.asks(Begin("auto", asked[1])).hears(written(TWO, "It is 7"))
    played.computes().asks(Note("sure", "majority 1.00 of 2 samples, stage 1 of 1"))
    played.asks(Emit(ONE, "So 7", beside=(TWO,))).ends(finished(ONE))


def test_samples_of_a_policy_that_fail_are_missing() -> None:
    played = started(small="auto", majority={}, stages=[2], large="large", bar=0.5)
    played.computes().computes()
    played.asks(Begin("auto", rewritten(CHAT, {"temperature": 0.7}))).hears(breaking(ONE))
    played.asks(Note("inside"))
    played.asks(Begin("auto", rewritten(CHAT, {"temperature": 0.7}))).hears(written(TWO, "7"))
    played.computes().asks(Note("sure", "majority 0.50 of 1 sample, stage 1 of 1"))
    played.asks(Emit(TWO, "7")).ends(finished(TWO))


def test_where_all_samples_of_a_policy_fail_the_large_model_answers() -> None:
    played = started(small="auto", majority={}, stages=[2, 4], large="large")
    played.computes().computes()
    for one in (ONE, TWO):
        asked = rewritten(CHAT, {"temperature": 0.7})
        played.asks(Begin("auto", asked)).hears(breaking(one))
        played.asks(Note("inside"))
    handed_on(played, Note("draft_failed", failed(ONE).fault.summary))


def breaking(of: Attempt) -> Steps:
    """What a policy does that fails."""
    yield Note("inside")
    return failed(of)


# ------------------------------------------------------------------------------------- majority


def test_the_answer_of_most_is_given_in_the_words_of_the_first_to_come_to_it() -> None:
    played = started(large="large", majority={})
    drawn(played, ONE, ("3 + 4 = 8", "It is 7", "7.0, I think", "So 7"), several(4)).computes()
    given(played, Note("sure", "majority 0.75 of 4 samples, stage 1 of 1"), Relay(ONE, 1))


def test_more_are_drawn_while_they_differ_and_the_first_ones_still_vote() -> None:
    played = started(large="large", majority={}, stages=[2, 5], bar=0.6)
    drawn(played, ONE, ("8", "7"), several(2)).computes()
    drawn(played, TWO, ("7", "7", "9"), several(3)).computes()
    given(played, Note("sure", "majority 0.60 of 5 samples, stage 2 of 2"), Relay(ONE, 1, (TWO,)))


def test_the_large_one_answers_if_they_go_on_to_differ() -> None:
    played = started(large="large", majority={})
    drawn(played, ONE, ("7", "8", "9", "7"), several(4)).computes()
    handed_on(played, Note("unsure", "majority 0.50 of 4 samples, stage 1 of 1"))


def test_without_a_large_one_the_best_is_given() -> None:
    played = started(majority={})
    drawn(played, ONE, ("8", "7", "9", "7"), several(4)).computes()
    given(played, Note("best", "majority 0.50 of 4 samples, stage 1 of 1"), Relay(ONE, 1))


@pytest.mark.parametrize("large", ["large", None])
def test_an_answer_that_is_never_found_is_no_verdict(large: str | None) -> None:
    played = started(large=large, majority={"pattern": "Answer: (.*)"})
    drawn(played, ONE, ("7", "7", "7", "7"), several(4)).computes()
    why = Note("no_verdict", "majority of 4 samples, stage 1 of 1")
    if large:
        handed_on(played, why)
    else:
        given(played, why, Relay(ONE, 0))


def test_a_sample_that_was_cut_off_has_no_vote() -> None:
    played = started(large="large", majority={}, stages=[2], bar=0.5)
    played.asks(Open("small", CHAT, several(2), share=DRAFT_SHARE)).hears(ONE)
    for choice, text in enumerate(("What is 3", "It is 7")):
        played.asks(Next((ONE,))).hears(delta(ONE, text, choice=choice))
    ended = Finished(ONE, "length", None, None, ("length", "stop"))
    played.asks(Next((ONE,))).hears(ended).computes()
    played.asks(Note("sure", "majority 0.50 of 2 samples, stage 1 of 1"), Relay(ONE, 1))


@pytest.mark.parametrize(("logprob", "enough"), [(-0.1, True), (-0.9, False)])
def test_one_sure_sample_is_enough(logprob: float, enough: bool) -> None:
    played = started(large="large", majority={"sure": -0.3}, stages=[1, 3])
    played.asks(Open("small", CHAT, {"logprobs": True}, share=DRAFT_SHARE)).hears(ONE)
    played.asks(Next((ONE,))).hears(delta(ONE, "It is 7", logprob))
    played.asks(Next((ONE,))).hears(finished(ONE)).computes()
    if enough:
        given(played, Note("sure", "majority 1.00 of 1 sample, stage 1 of 2"), Relay(ONE, 0))
        return
    drawn(played, TWO, ("7", "7"), several(2, logprobs=True)).computes()
    given(played, Note("sure", "majority 1.00 of 3 samples, stage 2 of 2"), Relay(ONE, 0, (TWO,)))


# -------------------------------------------------------------------------- what is asked for


@pytest.mark.parametrize(
    ("body", "changes", "told"),
    [
        ({"temperature": 0}, {"temperature": 0.7, "n": 2}, ", drawn at temperature 0.7"),
        ({"temperature": None}, {"temperature": 0.7, "n": 2}, ""),
        ({"temperature": 1.2}, {"n": 2}, ""),
        ({"seed": 5}, {"temperature": 0.7, "n": 2}, ""),
    ],
)
def test_samples_differ(body: dict[str, Any], changes: dict[str, Any], told: str) -> None:
    chat = request(body={"messages": [], **body})
    played = started(chat, majority={}, stages=[2])
    drawn(played, ONE, ("7", "7"), changes, chat).computes()
    given(played, Note("sure", f"majority 1.00 of 2 samples, stage 1 of 1{told}"), Relay(ONE, 0))


def test_a_seed_moves_on_from_stage_to_stage() -> None:
    chat = request(body={"messages": [], "seed": 5})
    played = started(chat, majority={}, stages=[2, 4])
    drawn(played, ONE, ("7", "8"), several(2), chat).computes()
    drawn(played, TWO, ("7", "8"), several(2, seed=7), chat).computes()


def test_a_single_first_sample_is_drawn_as_the_client_has_it() -> None:
    chat = request(body={"messages": [], "temperature": 0, "logprobs": True})
    played = started(chat, mean_logprob=-0.5, stages=[1, 2])
    played.asks(Open("small", chat, {}, share=DRAFT_SHARE))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"messages": [], "n": 2}, "n: the client wants several answers"),
        ({"messages": [], "n": 0}, "n: the client wants several answers"),
        ({"messages": [], "tools": [{}]}, "tools: calls are no text to compare"),
        ({"messages": [], "functions": [{}]}, "functions: function calls are no text to compare"),
        ({"messages": [], "top_k": 1}, "top_k: samples would be equal"),
        (
            {"messages": [], "use_beam_search": True},
            "use_beam_search: a beam search draws no samples",
        ),
    ],
    ids=repr,
)
def test_what_is_not_sampled_goes_to_the_large_one(body: dict[str, Any], why: str) -> None:
    chat = request(body=body)
    handed_on(started(chat, large="large", majority={}), Note("not_sampled", why), chat=chat)


def test_tools_that_may_not_be_called_are_no_matter() -> None:
    chat = request(body={"messages": [], "tools": [{}], "tool_choice": "none"})
    started(chat, majority={}).asks(Open("small", chat, several(4), share=DRAFT_SHARE))


@pytest.mark.parametrize(
    ("surface", "body", "why"),
    [
        (Surface.MESSAGES, {"messages": []}, "messages gives one answer a call"),
        (Surface.RESPONSES, {"input": "?"}, "responses gives one answer a call"),
        (Surface.EMBEDDINGS, {"input": "?"}, "embeddings gives one answer a call"),
        (Surface.COMPLETIONS, {"prompt": ["a", "b"]}, "prompt: more than one"),
        (Surface.COMPLETIONS, {"prompt": [[1], [2]]}, "prompt: more than one"),
        (
            Surface.COMPLETIONS,
            {"prompt": "a", "echo": True},
            "echo: a sample would begin with the prompt",
        ),
        (
            Surface.COMPLETIONS,
            {"prompt": "a", "best_of": 3},
            "best_of: the client has the backend choose",
        ),
    ],
)
def test_nor_are_other_surfaces(surface: Surface, body: dict[str, Any], why: str) -> None:
    asked = request(surface, body=body)
    handed_on(started(asked, majority={}), Note("not_sampled", why), "small", asked)
    alone = started(asked, majority={}, large="large", alone="other")
    handed_on(alone, Note("not_sampled", why), "other", asked)


@pytest.mark.parametrize("prompt", ["a", ["a"], [1, 2], [[1, 2]]])
def test_one_prompt_is_sampled_however_it_is_written(prompt: Any) -> None:
    asked = request(Surface.COMPLETIONS, body={"prompt": prompt})
    started(asked, majority={}).asks(Open("small", asked, several(4), share=DRAFT_SHARE))


# ------------------------------------------------------------------------------ other verifiers


def test_the_first_that_fits_the_schema_is_given() -> None:
    played = started(large="large", json_schema={"required": ["a"]}, stages=[3])
    drawn(played, ONE, ("seven", '{"a": 7}', '{"a": 8}'), several(3))
    played.computes().computes().computes()
    given(played, Note("sure", "json_schema 1.00 of 3 samples, stage 1 of 1"), Relay(ONE, 1))


def test_none_that_fits_is_not_good_enough() -> None:
    played = started(large="large", json_schema="request", stages=[2])
    drawn(played, ONE, ("seven", "{}}"), several(2)).computes().computes()
    handed_on(played, Note("unsure", "json_schema 0.00 of 2 samples, stage 1 of 1"))


def test_the_likeliest_is_given() -> None:
    played = started(large="large", mean_logprob=-0.4, stages=[2])
    asked = several(2, logprobs=True)
    played.asks(Open("small", CHAT, asked, share=DRAFT_SHARE)).hears(ONE)
    for choice, value in enumerate((-0.5, -0.2)):
        played.asks(Next((ONE,))).hears(delta(ONE, "7", value, choice=choice))
    played.asks(Next((ONE,))).hears(finished(ONE))
    given(played, Note("sure", "mean_logprob -0.20 of 2 samples, stage 1 of 1"), Relay(ONE, 1))


def test_samples_without_log_probabilities_are_no_verdict() -> None:
    played = started(large="large", mean_logprob=-0.4, stages=[2])
    drawn(played, ONE, ("7", "7"), several(2, logprobs=True))
    handed_on(played, Note("no_verdict", "mean_logprob of 2 samples, stage 1 of 1"))


def grading(text: str) -> Request:
    prompt = GRADE_PROMPT.replace("{question}", QUESTION).replace("{draft}", text)
    return CHAT.asking({
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 20,
    })  # fmt: skip


def graded(played: Playbook, texts: tuple[str, ...]) -> tuple[Any, ...]:
    graders = tuple(attempt("other", "g:1", 5 + at) for at in range(len(texts)))
    for grader, text in zip(graders, texts, strict=True):
        played.asks(Open("other", grading(text), share=DRAFT_SHARE)).hears(grader)
    return graders


def says(grader: Any, **chances: float) -> Delta:
    import math

    top = tuple(Alternative(word, math.log(chance)) for word, chance in chances.items())
    return Delta(grader, top[0].text, (Token(top[0].text, None, top[0].logprob, top),))


def test_the_grader_is_read_by_the_probability_of_what_it_says() -> None:
    played = started(large="large", grade={"by": "other"}, stages=[2])
    drawn(played, ONE, ("a", "b"), several(2))
    first, second = graded(played, ("a", "b"))
    played.asks(Next((first, second))).hears(says(first, yes=0.6, no=0.4))
    played.asks(Next((second, first))).hears(says(second, no=0.2, yes=0.5, Yes=0.3))
    played.asks(Next((first, second))).hears(finished(second))
    played.asks(Next((first,))).hears(finished(first))
    given(played, Note("sure", "grade 0.80 of 2 samples, stage 1 of 1"), Relay(ONE, 1))


def test_a_grader_that_fails_is_no_verdict_and_no_more_samples_are_drawn() -> None:
    played = started(large="large", grade={"by": "other"}, stages=[2, 8])
    drawn(played, ONE, ("a", "b"), several(2))
    first, second = graded(played, ("a", "b"))
    played.asks(Next((first, second))).hears(failed(first))
    played.asks(Next((second,))).hears(failed(second))
    why = "grade of 2 samples, stage 1 of 2, other did not grade: backend broke it"
    handed_on(played, Note("no_verdict", why))


def test_all_new_samples_are_scored_in_one_step_stage_by_stage() -> None:
    played = started(large="large", score={"by": "other"}, stages=[2, 3])
    drawn(played, ONE, ("a", "b"), several(2))
    played.asks(Score("other", CHAT, QUESTION, ("a", "b"))).hears((0.5, 0.6))
    drawn(played, TWO, ("c",), several(1))
    played.asks(Score("other", CHAT, QUESTION, ("c",))).hears((0.7,))
    given(played, Note("sure", "score 0.70 of 3 samples, stage 2 of 2"), Relay(TWO, 0, (ONE,)))


def test_a_raw_score_may_be_any_number() -> None:
    played = started(score={"by": "other", "api": "pooling"}, bar=-1.0, stages=[2])
    drawn(played, ONE, ("a", "b"), several(2))
    played.asks(Score("other", CHAT, QUESTION, ("a", "b"), Scorer("pooling"))).hears((-3.5, -0.5))
    given(played, Note("sure", "score -0.50 of 2 samples, stage 1 of 1"), Relay(ONE, 1))


def test_a_logit_becomes_comparable_with_a_probability() -> None:
    by = Scorer("classify", 1, logits=True)
    scored = {"by": "other", "api": "classify", "label": 1, "scale": "sigmoid"}
    played = started(large="large", score=scored, bar=0.9, stages=[2])
    drawn(played, ONE, ("a", "b"), several(2))
    played.asks(Score("other", CHAT, QUESTION, ("a", "b"), by)).hears((-800.0, 2.0))
    handed_on(played, Note("unsure", "score 0.88 of 2 samples, stage 1 of 1"))


@pytest.mark.parametrize("blame", [Blame.CLIENT, Blame.BUSY, Blame.BACKEND])
def test_a_scorer_that_fails_is_no_verdict_and_no_more_samples_are_drawn(blame: Blame) -> None:
    played = started(large="large", score={"by": "other"}, stages=[2, 8])
    drawn(played, ONE, ("a", "b"), several(2))
    played.asks(Score("other", CHAT, QUESTION, ("a", "b"))).hears(failed(OTHER, blame))
    why = f"score of 2 samples, stage 1 of 2, other did not score: {blame} broke it"
    handed_on(played, Note("no_verdict", why))


def test_one_that_fails_later_leaves_the_best_of_those_it_scored() -> None:
    played = started(score={"by": "other"}, stages=[2, 3])
    drawn(played, ONE, ("a", "b"), several(2))
    played.asks(Score("other", CHAT, QUESTION, ("a", "b"))).hears((0.2, 0.6))
    drawn(played, TWO, ("c",), several(1))
    played.asks(Score("other", CHAT, QUESTION, ("c",))).hears(failed(OTHER))
    why = "score 0.60 of 3 samples, stage 2 of 2, other did not score: backend broke it"
    given(played, Note("best", why), Relay(ONE, 1, (TWO,)))


def test_a_model_that_tells_no_scores_is_refused_before_it_serves() -> None:
    models = dict(fleet("small", "large", "other").models)
    built = policy(score={"by": "other", "api": "pooling"})
    known: list[tuple[set[ScoreApi] | None, str | None]] = [
        (None, None),
        ({"pooling"}, None),
        ({"score"}, "servers have score"),
        (set(), "servers have none of them"),
    ]
    for scores, why in known:
        able = Abilities(scores=None if scores is None else frozenset(scores))
        models["other"] = replace(models["other"], abilities=able)
        told = built.misfit(Fleet(MappingProxyType(models)))
        assert (told is None) == (why is None), told
        assert why is None or why in (told or "")
    assert policy(majority={}).misfit(fleet("small")) is None


# -------------------------------------------------------------------------------------- failures


def broken(end: Any, **settings: Any) -> Playbook:
    played = started(majority={}, **settings)
    played.asks(Open("small", CHAT, several(4), share=DRAFT_SHARE)).hears(ONE)
    return played.asks(Next((ONE,))).hears(end)


def test_no_sample_at_all_is_answered_by_the_large_one() -> None:
    handed_on(broken(failed(ONE), large="large"), Note("draft_failed", "backend broke it"))


def test_or_is_the_failure_if_there_is_none() -> None:
    broken(failed(ONE)).ends(failed(ONE))


def test_a_pools_other_backend_is_tried_first() -> None:
    played = broken(failed(ONE, spare=True), large="large")
    played.asks(Open("small", CHAT, several(4), frozenset({"a:1"}), DRAFT_SHARE))


def test_a_backend_that_refuses_so_many_gives_one() -> None:
    played = broken(failed(ONE, Blame.CLIENT), large="large")
    drawn(played, TWO, ("7",), {}).computes()
    why = "majority 0.25 of 1 sample, stage 1 of 1, n=4 was refused: client broke it"
    handed_on(played, Note("unsure", why))


def test_what_is_refused_without_n_too_is_the_clients_mistake() -> None:
    played = broken(failed(ONE, Blame.CLIENT), large="large")
    played.asks(Open("small", CHAT, share=DRAFT_SHARE)).hears(TWO).asks(Next((TWO,)))
    played.hears(failed(TWO, Blame.CLIENT)).ends(failed(TWO, Blame.CLIENT))


def test_one_that_knows_no_n_does_not_agree_with_itself() -> None:
    played = started(large="large", majority={})
    drawn(played, ONE, ("7",), several(4)).computes()
    handed_on(played, Note("unsure", "majority 0.25 of 1 sample, stage 1 of 1"))


def test_a_later_stage_that_fails_leaves_what_there_is() -> None:
    played = started(majority={}, stages=[2, 4])
    drawn(played, ONE, ("8", "7"), several(2)).computes()
    played.asks(Open("small", CHAT, several(2), share=DRAFT_SHARE)).hears(TWO)
    played.asks(Next((TWO,))).hears(failed(TWO, Blame.CLIENT))
    why = "majority 0.50 of 2 samples, stage 1 of 2, stage 2 failed: client broke it"
    given(played, Note("best", why), Relay(ONE, 0))


# ----------------------------------------------------------------------------- by a calibration


def first(played: Playbook, text: str, logprob: float) -> Playbook:
    played.asks(Open("small", CHAT, {"logprobs": True}, share=DRAFT_SHARE)).hears(ONE)
    played.asks(Next((ONE,))).hears(delta(ONE, text, logprob))
    return played.asks(Next((ONE,))).hears(finished(ONE)).computes()


def planned(**settings: Any) -> Playbook:
    return started(large="large", **CALIBRATED, **settings)


def test_a_first_sample_is_given_where_nothing_is_worth_more() -> None:
    why = "majority -0.10 of 1 sample, expected 0.98, stage 1 of 2"
    expected = {"small": 0.98, "large": 0.9}
    given(first(planned(), "It is 7", -0.1), Note("sure", why, expected), Relay(ONE, 0))


def test_the_large_one_answers_at_once_where_samples_would_not_help() -> None:
    why = Note("no_verdict", "majority of 1 sample, expected 0.00, stage 1 of 2")
    why = replace(why, expected={"small": 0.0, "large": 0.9})
    handed_on(first(planned(), "I do not know", -0.1), why)


@pytest.mark.parametrize(("last", "right"), [("7", 0.97), ("9", 0.2)])
def test_more_are_drawn_where_that_is_worth_most(last: str, right: float) -> None:
    played = first(planned(), "It is 7", -0.9)
    drawn(played, TWO, ("7", "8", last), several(3, logprobs=True)).computes()
    share = "0.75" if last == "7" else "0.50"
    said = f"majority {share} of 4 samples, expected {right:.2f}, stage 2 of 2"
    expected = {"small": right, "large": 0.9}
    if last == "7":
        given(played, Note("sure", said, expected), Relay(ONE, 0, (TWO,)))
    else:
        handed_on(played, Note("unsure", said, expected))


def test_a_right_answer_that_is_worth_little_is_not_asked_for_twice() -> None:
    played = first(planned(worth=0.1), "It is 7", -0.9)
    why = "majority -0.90 of 1 sample, expected 0.30, stage 1 of 2"
    given(played, Note("sure", why, {"small": 0.3, "large": 0.9}), Relay(ONE, 0))


def test_fewer_stages_than_were_fitted_end_with_the_large_one() -> None:
    why = "majority -0.90 of 1 sample, expected 0.30, stage 1 of 1"
    note = Note("unsure", why, {"small": 0.3, "large": 0.9})
    handed_on(first(planned(stages=[1]), "It is 7", -0.9), note)


def test_a_later_stage_that_fails_leaves_it_to_the_large_one() -> None:
    played = first(planned(), "It is 7", -0.9)
    asked = several(3, logprobs=True)
    played.asks(Open("small", CHAT, asked, share=DRAFT_SHARE)).hears(TWO)
    played.asks(Next((TWO,))).hears(failed(TWO))
    why = (
        "majority -0.90 of 1 sample, expected 0.30, stage 1 of 2, stage 2 failed: backend broke it"
    )
    handed_on(played, Note("unsure", why, {"small": 0.3, "large": 0.9}))


def test_a_plan_is_made_once_for_the_prices() -> None:
    it = policy(large="large", **CALIBRATED)
    prices = fleet("small", "large", "other")
    assert it._plan(prices) is it._plan(prices)
    dear = replace(prices.models["large"], price=Price(9.0, 9.0))
    other = Fleet(MappingProxyType({**prices.models, "large": dear}))
    assert it._plan(other) is not it._plan(prices)
    for cents in range(40):
        dear = replace(dear, price=Price(cents, 9.0))
        it._plan(Fleet(MappingProxyType({**prices.models, "large": dear})))
    assert len(it._plans) <= MOST_PLANS


@pytest.mark.parametrize(
    ("block", "why"),
    [
        ({"small": "other"}, "it was fitted for small: small, and this is other"),
        ({"large": "other"}, "it was fitted for large: large, and this is other"),
        ({"large": None}, "it was fitted for large: large, and this is none"),
        ({"majority": {"field": "a"}}, 'it was fitted with field: null, and this is "a"'),
        (
            {"majority": None, "mean_logprob": -1},
            'with use: "majority", and this is "mean_logprob"',
        ),
        ({"temperature": 1.0}, "it was fitted with temperature: 0.7, and this is 1.0"),
        ({"stages": [1, 4, 8]}, "the artifact knows the stages 1, 4, and begins with them"),
        ({"stages": [4]}, "the artifact knows the stages 1, 4, and begins with them"),
        ({"artifact": "nowhere.json"}, "`tandem calibrate best-of` makes such a file"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_a_calibration_of_something_else_is_refused(block: dict[str, Any], why: str) -> None:
    from policies import TABLE
    from router.references import build_policy

    settings = {"use": "best_of", **PAIR, **CALIBRATED, **block}
    told = {name: value for name, value in settings.items() if value is not None}
    built, problems = build_policy(told, TABLE)
    assert built is None
    assert why in problems[0][1]


def test_what_only_models_have_is_asked_of_models() -> None:
    it = policy(large="large", **CALIBRATED)
    assert it.misfit(fleet("small", "large")) is None
    why = it.misfit(fleet("small", "other"))
    assert why == "artifact: large: large is no model, and only these have a price"
    assert policy(large="large", majority={}).misfit(fleet("other")) is None


def test_the_verifiers_settings_are_told_without_those_of_the_bar() -> None:
    told = {"use": "majority", "pattern": None, "field": "a"}
    assert policy(majority={"field": "a", "sure": -1}, stages=[1, 2]).facts == told
    assert policy(mean_logprob=-1).facts == {"use": "mean_logprob"}
    assert policy(json_schema="request").facts == {"use": "json_schema", "schema": "request"}
    grade = policy(grade={"by": "other"})
    assert grade.facts["accept"] == ["yes"]
    assert (grade.judge, policy(mean_logprob=-1).judge) == ("other", None)

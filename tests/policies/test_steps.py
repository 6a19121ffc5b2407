"""Steps: who writes which step, and that the client gets one answer however its text arrived."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from policies.duet.sheet import pieces
from policies.steps import TOP, Grade, Stepwise, entropy
from router.faults import Blame
from router.fleet import Abilities, Fleet
from router.phrases import DRAFT_SHARE
from router.steps import (
    Alternative,
    Attempt,
    Close,
    Delta,
    Emit,
    Finished,
    Next,
    Note,
    Open,
    Render,
    Request,
    Route,
    Spell,
    Surface,
    Token,
    Usage,
)
from tests.fleets import attempt, failed, finished, fleet, request
from tests.playbook import Playbook

EXAMPLES: tuple[dict[str, Any], ...] = (
    {"small": "small", "large": "large"},
    {"small": "small", "large": "large", "threshold": 0, "separator": "\n", "alone": "other"},
    {"small": "small", "large": "large", "grade": {"accept": 8}, "separator": "\n", "longest": 2},
    {"small": "small", "large": "large", "separator": ".", "longest": 3, "final": "7"},
    {"small": "small", "large": "large", "handoff": "prompt", "threshold": 0.001},
)
NONSENSE: tuple[dict[str, Any], ...] = (
    {"small": "small"},
    {"small": "small", "large": "small"},
    {"small": "small", "large": "large", "threshold": -1},
    {"small": "small", "large": "large", "threshold": float("nan")},
    {"small": "small", "large": "large", "separator": ""},
    {"small": "small", "large": "large", "separator": ". "},
    {"small": "small", "large": "large", "longest": 0},
    {"small": "small", "large": "large", "final": ""},
    {"small": "small", "large": "large", "handoff": "tokens"},
    {"small": "small", "large": "large", "grade": {"accept": 10}},
    {"small": "small", "large": "large", "grade": {"prompt": ""}},
)

QUESTION = [{"role": "user", "content": "What is 3 + 4?"}]
CHAT = request()
LOOKS = Stepwise(small="small", large="large")
GRADES = Stepwise(small="small", large="large", grade=Grade())
SURE, UNSURE = (0.0,), tuple(math.log(1 / 4) for _ in range(4))
"""Log-probabilities of a first token's alternatives: 0 nats, and 1.39."""
COUNTED = {"include_usage": True, "continuous_usage_stats": True}
SMALL, LARGE, AGAIN = (
    attempt("small", "a:1"), attempt("large", "b:1", 1), attempt("small", "a:1", 2),
)  # fmt: skip


def said(of: Attempt, text: str, top: Sequence[float] = SURE, choice: int = 0) -> Delta:
    """One token and its alternatives."""
    alternatives = tuple(Alternative(f"{n}", value) for n, value in enumerate(top))
    return Delta(of, text, (Token(text, None, top[0], alternatives),), choice)


def called(
    model: str, text: str = "", chat: Request = CHAT, prefer: str = "", **changes: Any
) -> Open:
    """The call by which `model` writes on behind `text`."""
    looks = TOP if model == "small" else 0
    body: dict[str, Any] = {
        "messages": QUESTION, "stream": True, "stream_options": COUNTED, "logprobs": True,
        "top_logprobs": looks,
    }  # fmt: skip
    if text:
        body["messages"] = [*QUESTION, {"role": "assistant", "content": text}]
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if model == "large":
        body["max_tokens"] = 512
    body = {name: value for name, value in (body | changes).items() if value is not None}
    asked = chat.asking(body, Surface.CHAT, stream=True)
    return Open(model, asked, share=DRAFT_SHARE, prefer=prefer)


def shown(heard: Delta, text: str | None = None) -> Emit:
    """What was heard is emitted, as far as `text` goes."""
    text = heard.text if text is None else text
    tokens = tuple(
        Token(text, token.id, token.logprob, token.top) if text != heard.text else token
        for token in heard.tokens
    )
    return Emit(heard.attempt, text, tokens)


def over(ended: Finished) -> Emit:
    return Emit(ended.attempt, "", finish=ended)


def looking(chat: Request = CHAT, policy: Stepwise = LOOKS) -> Playbook:
    return Playbook(policy, chat, fleet()).asks(Note("looked"))


def begun(chat: Request = CHAT, policy: Stepwise = LOOKS, **changes: Any) -> Playbook:
    """Up to the small model's first event."""
    played = looking(chat, policy).asks(called("small", chat=chat, **changes))
    return played.hears(SMALL).asks(Next((SMALL,)))


def handed_over(text: str = "It is.\n\n") -> Playbook:
    """The small model has written this step and is unsure of the next; the large one is called."""
    first = said(SMALL, text)
    played = begun().hears(first).asks(shown(first), Next((SMALL,))).hears(said(SMALL, "S", UNSURE))
    return played.asks(Close(SMALL), called("large", text)).hears(LARGE).asks(Next((LARGE,)))


# --------------------------------------------------------------------------------------- looking


def test_a_small_model_that_is_sure_writes_on_in_one_call() -> None:
    one, two, three = said(SMALL, "It"), said(SMALL, " is.\n\n"), said(SMALL, "So 7")
    end = finished(SMALL)
    (
        begun()
        .hears(one).asks(shown(one), Next((SMALL,)))
        .hears(two).asks(shown(two), Next((SMALL,)))
        .hears(three).asks(shown(three), Next((SMALL,)))
        .hears(end).asks(over(end), Note("looked", "0 of 2 steps by large"), Close(SMALL))
        .ends(end)
    )  # fmt: skip


def test_a_step_that_begins_unsure_is_written_by_the_large_model() -> None:
    one, two, last = said(LARGE, "So"), said(LARGE, " 3.\n\n"), said(AGAIN, "7")
    end, text = finished(AGAIN), "It is.\n\nSo 3.\n\n"
    (
        handed_over()
        .hears(one).asks(shown(one), Next((LARGE,)))
        .hears(two).asks(shown(two), Close(LARGE), called("small", text, prefer="a:1"))
        .hears(AGAIN).asks(Next((AGAIN,)))
        .hears(last).asks(shown(last), Next((AGAIN,)))
        .hears(end).asks(over(end), Note("looked", "1 of 3 steps by large"), Close(AGAIN))
        .ends(end)
    )  # fmt: skip


def test_only_a_steps_first_token_is_looked_at() -> None:
    one, two = said(SMALL, "It"), said(SMALL, " is", UNSURE)
    begun().hears(one).asks(shown(one), Next((SMALL,))).hears(two).asks(shown(two))


def test_at_the_threshold_the_large_model_writes() -> None:
    policy = Stepwise(small="small", large="large", threshold=0)
    begun(policy=policy).hears(said(SMALL, "It")).asks(Close(SMALL), called("large"))


def test_white_space_is_no_step_and_is_not_looked_at() -> None:
    space, one = said(SMALL, "\n\n", UNSURE), said(SMALL, "It")
    played = begun().hears(space).asks(Next((SMALL,))).hears(one)
    played.asks(shown(space), shown(one), Next((SMALL,)))


def test_a_character_in_several_tokens_is_looked_at_by_its_first() -> None:
    half = said(SMALL, "", UNSURE)
    begun().hears(half).asks(Close(SMALL), called("large"))


def test_what_stands_behind_a_separator_in_one_token_belongs_to_the_next_step() -> None:
    """It has no distribution of its own: the token after it is looked at."""
    one, two = said(SMALL, "It.\n\nSo"), said(SMALL, " 7")
    played = begun().hears(one).asks(shown(one, "It.\n\n"), Next((SMALL,))).hears(two)
    played.asks(Emit(SMALL, "So"), shown(two))


def test_what_stands_behind_a_separator_is_dropped_with_its_writer() -> None:
    one, two = said(SMALL, "It.\n\nSo"), said(SMALL, " 7", UNSURE)
    played = begun().hears(one).asks(shown(one, "It.\n\n"), Next((SMALL,))).hears(two)
    played.asks(Close(SMALL), called("large", "It.\n\n"))


def test_several_tokens_at_once_are_taken_one_by_one() -> None:
    one, two = said(SMALL, "It.\n\n"), said(SMALL, "So", UNSURE)
    both = Delta(SMALL, "It.\n\nSo", one.tokens + two.tokens)
    begun().hears(both).asks(shown(one), Close(SMALL), called("large", "It.\n\n"))


def told(text: str, *tokens: str) -> list[tuple[str, list[str]]]:
    """How a text that came with these tokens is taken apart."""
    delta = Delta(SMALL, text, tuple(Token(token) for token in tokens))
    return [(piece.text, [token.text for token in piece.tokens]) for piece in pieces(delta)]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("7\nSo", [["7"], ["\n"], ["So"]]),
        ("7\nSo", [["7"], ["\n"], ["So"], ["<|end|>"]]),  # a special token has no text
        ("7\nSo", [["7"], ["<|a|>", "<|b|>"], ["\n"], ["So"]]),
        ("a 🚲 b", [["a"], [" "], ["\ufffd", "\ufffd"], [" b"]]),  # half characters
        ("a 🚲", [["a"], [" "], ["", "\ufffd"]]),
        ("naïve", [["na"], ["\ufffd"], ["ve"]]),
        ("7", [[]]),  # nothing is told
        ("7 8", [["7"], []]),  # not all is told
        ("", [["\ufffd"]]),
    ],
)
def test_every_token_finds_its_text(text: str, tokens: list[list[str]]) -> None:
    found = told(text, *(token for piece in tokens for token in piece))
    assert [named for _, named in found] == tokens
    assert "".join(part for part, _ in found) == text


def test_tokens_behind_a_separator_are_dropped_with_their_text() -> None:
    """Also where one of them has no text, and so their texts do not join up to the answer's."""
    one, two = said(SMALL, "It.\n\n"), said(SMALL, "So", UNSURE)
    end = Token("<|end|>", None, 0.0)
    both = Delta(SMALL, "It.\n\nSo", (*one.tokens, *two.tokens, end))
    begun().hears(both).asks(shown(one), Close(SMALL), called("large", "It.\n\n"))


def test_a_step_without_an_end_is_ended() -> None:
    policy = Stepwise(small="small", large="large", longest=2)
    one, two = said(SMALL, "a"), said(SMALL, "b")
    played = begun(policy=policy).hears(one).asks(shown(one), Next((SMALL,))).hears(two)
    played.asks(shown(two), Next((SMALL,))).hears(said(SMALL, "c", UNSURE))
    large = called("large", "ab", max_tokens=2)
    three, four = said(LARGE, "c"), said(LARGE, "d")
    played.asks(Close(SMALL), large).hears(LARGE).asks(Next((LARGE,))).hears(three)
    played.asks(shown(three), Next((LARGE,))).hears(four)
    played.asks(shown(four), Close(LARGE), called("small", "abcd", prefer="a:1"))


def test_an_answer_that_ends_in_the_large_models_step_ends() -> None:
    one, end = said(LARGE, "7"), finished(LARGE)
    played = handed_over().hears(one).asks(shown(one), Next((LARGE,))).hears(end)
    played.asks(over(end), Close(LARGE), Note("looked", "1 of 2 steps by large")).ends(end)


def test_an_empty_answer_is_an_answer() -> None:
    end = finished(SMALL)
    played = begun().hears(end).asks(over(end), Note("looked", "0 of 1 steps by large"))
    played.asks(Close(SMALL)).ends(end)


def test_other_choices_than_the_first_are_not_heard() -> None:
    one = said(SMALL, "7")
    begun().hears(said(SMALL, "8", choice=1)).asks(Next((SMALL,))).hears(one).asks(shown(one))


def test_a_small_model_without_log_probabilities_is_not_asked_further() -> None:
    played = begun().hears(Delta(SMALL, "It")).asks(Close(SMALL))
    why = "0 of 0 steps by large, it tells no log-probabilities"
    played.asks(Note("small_failed", why), Route("large", CHAT))


def test_as_many_alternatives_are_asked_as_there_are() -> None:
    models = dict(fleet().models)
    models["small"] = replace(models["small"], abilities=Abilities(max_logprobs=5))
    played = Playbook(LOOKS, CHAT, Fleet(models)).asks(Note("looked"))
    played.asks(called("small", top_logprobs=5))


@pytest.mark.parametrize(
    ("logprobs", "nats"),
    [
        ([0.0], 0.0),
        ([math.log(0.5)] * 2, math.log(2)),
        ([math.log(0.1)] * 2, math.log(2)),  # renormalised
        ([0.0, -math.inf], 0.0),
        ([-5.0] * 30, math.log(TOP)),  # the likeliest only
        ([], math.inf),
        ([-math.inf], math.inf),
    ],
)
def test_the_entropy_is_that_of_the_renormalised_top(logprobs: list[float], nats: float) -> None:
    top = [Alternative(f"{n}", value) for n, value in enumerate(logprobs)]
    assert entropy(top) == pytest.approx(nats)


# --------------------------------------------------------------------------------------- grading


def graded(mark: str, drafted: str = "It is.\n\n") -> Playbook:
    """The conversation after the large model has graded this step."""
    step, ahead = said(SMALL, drafted), attempt("large", "b:1", 7)
    messages = [
        *QUESTION,
        {"role": "assistant", "content": drafted},
        {"role": "user", "content": Grade().prompt},
    ]
    asked = CHAT.asking({"messages": messages, "max_tokens": 1, "temperature": 0})
    played = Playbook(GRADES, CHAT, fleet()).asks(Note("graded"))
    played.asks(called("small", top_logprobs=0)).hears(SMALL).asks(Next((SMALL,))).hears(step)
    played.asks(Open("large", asked, share=DRAFT_SHARE)).hears(ahead).asks(Next((ahead,)))
    if not mark:
        return played.hears(failed(ahead))
    played.hears(Delta(ahead, mark)).asks(Next((ahead,))).hears(finished(ahead))
    return played.asks(Close(ahead))


@pytest.mark.parametrize("mark", ["7", "9", " 8", "10"])
def test_a_step_with_a_good_mark_is_shown_and_its_call_goes_on(mark: str) -> None:
    end = finished(SMALL)
    played = graded(mark).asks(shown(said(SMALL, "It is.\n\n")), Next((SMALL,))).hears(end)
    played.asks(over(end), Note("graded", "0 of 2 steps by large"), Close(SMALL)).ends(end)


@pytest.mark.parametrize("mark", ["6", "0", "bad", " "])
def test_a_step_with_a_bad_mark_is_written_anew(mark: str) -> None:
    graded(mark).asks(Close(SMALL), called("large"))


def test_without_a_mark_the_small_model_writes_on() -> None:
    end = finished(SMALL)
    played = graded("").asks(shown(said(SMALL, "It is.\n\n")), Next((SMALL,))).hears(end)
    played.asks(over(end), Note("large_failed", "0 of 1 steps by large"), Close(SMALL)).ends(end)


def test_a_drafted_step_is_held_to_its_end() -> None:
    played = Playbook(GRADES, CHAT, fleet()).asks(Note("graded"))
    played.asks(called("small", top_logprobs=0)).hears(SMALL).asks(Next((SMALL,)))
    played.hears(Delta(SMALL, "It")).asks(Next((SMALL,))).hears(Delta(SMALL, " is"))
    played.asks(Next((SMALL,)))


def test_what_is_graded_is_asked_as_the_client_would() -> None:
    """A switch of the chat template, such as one that turns thinking off, holds for grades too."""
    body = {"prompt": "3 + 4?", "chat_template_kwargs": {"enable_thinking": False}}
    asked = request(Surface.COMPLETIONS, body=body)
    steps = GRADES.route(asked, fleet())
    for reply in (None, None, SMALL, Delta(SMALL, "It is.\n\n")):
        step = steps.send(reply)
    assert isinstance(step, Open)
    assert step.request.surface is Surface.CHAT
    assert step.request.body["chat_template_kwargs"] == {"enable_thinking": False}
    assert step.request.body["messages"][0] == {"role": "user", "content": "3 + 4?"}


# ------------------------------------------------------------------------------- the large one ends


def test_after_the_mark_the_large_model_writes_all_the_rest() -> None:
    policy = Stepwise(small="small", large="large", final="</think>")
    one, two, three = said(SMALL, "3 and 4</th"), said(SMALL, "ink>7"), said(LARGE, "So\n\n7\n\n")
    end, whole = finished(LARGE), called("large", "3 and 4</think>", max_tokens=None)
    (
        begun(policy=policy)
        .hears(one).asks(shown(one), Next((SMALL,)))
        .hears(two).asks(shown(two, "ink>"), Close(SMALL), whole).hears(LARGE).asks(Next((LARGE,)))
        .hears(three).asks(shown(three), Next((LARGE,)))
        .hears(end).asks(over(end), Note("looked", "0 of 1 steps by large"), Close(LARGE))
        .ends(end)
    )  # fmt: skip


def test_a_large_model_that_writes_the_mark_itself_goes_on() -> None:
    policy = Stepwise(small="small", large="large", final="So")
    played = begun(policy=policy).hears(said(SMALL, "S", UNSURE)).asks(Close(SMALL))
    one, two, end = said(LARGE, "So"), said(LARGE, " 3.\n\n"), finished(LARGE)
    played.asks(called("large")).hears(LARGE).asks(Next((LARGE,))).hears(one)
    played.asks(shown(one), Next((LARGE,))).hears(two)
    played.asks(shown(two), Next((LARGE,))).hears(end).asks(over(end))


def test_and_is_called_again_if_its_call_was_for_a_step_only() -> None:
    policy = Stepwise(small="small", large="large", final="So", longest=2)
    played = begun(policy=policy).hears(said(SMALL, "S", UNSURE)).asks(Close(SMALL))
    one, two = said(LARGE, "So"), said(LARGE, " 3")
    end = finished(LARGE, "length")
    played.asks(called("large", max_tokens=2)).hears(LARGE).asks(Next((LARGE,))).hears(one)
    played.asks(shown(one), Next((LARGE,))).hears(two).asks(shown(two), Next((LARGE,))).hears(end)
    played.asks(Close(LARGE), called("large", "So 3", prefer="b:1", max_tokens=None))


# -------------------------------------------------------------------------------- what clients ask


def test_a_stop_string_may_begin_in_one_step_and_end_in_the_next() -> None:
    chat = request(body={"messages": QUESTION, "stop": ["is.\n\nSo"]})
    one, two = said(SMALL, "It is.\n\n"), said(SMALL, "So 7")
    end = Finished(SMALL, "stop", "is.\n\nSo")
    played = begun(chat).hears(one).asks(Emit(SMALL, "It ", one.tokens), Next((SMALL,))).hears(two)
    played.asks(Emit(SMALL, "", two.tokens), over(end))
    played.asks(Note("looked", "0 of 2 steps by large"), Close(SMALL)).ends(end)


def test_a_stop_string_may_be_kept() -> None:
    chat = request(body={
        "messages": QUESTION, "stop": "is", "include_stop_str_in_output": True,
    })  # fmt: skip
    one = said(SMALL, "It is.")
    begun(chat).hears(one).asks(Emit(SMALL, "It is", one.tokens))


def test_text_that_was_held_back_in_vain_is_shown() -> None:
    chat = request(body={"messages": QUESTION, "stop": ["7!"]})
    one, end = said(SMALL, "7"), finished(SMALL)
    played = begun(chat).hears(one).asks(Emit(SMALL, "", one.tokens), Next((SMALL,))).hears(end)
    played.asks(Emit(SMALL, "7", finish=end))


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_length_is_that_of_the_whole_answer(name: str) -> None:
    chat = request(body={"messages": QUESTION, name: 3})
    first: dict[str, Any] = {name: 3}
    one = said(SMALL, "It.\n\n")
    played = begun(chat, **first).hears(one).asks(shown(one), Next((SMALL,)))
    large: dict[str, Any] = {"max_tokens": None, name: 2}
    played.hears(said(SMALL, "So", UNSURE)).asks(
        Close(SMALL), called("large", "It.\n\n", chat, **large)
    )
    two, three = said(LARGE, "So"), said(LARGE, " 7")
    end = Finished(LARGE, "length")
    played.hears(LARGE).asks(Next((LARGE,))).hears(two).asks(shown(two), Next((LARGE,)))
    played.hears(three).asks(shown(three), over(end), Close(LARGE))
    played.asks(Note("looked", "1 of 2 steps by large")).ends(end)


def test_a_seed_is_another_at_every_call_and_the_same_in_every_replay() -> None:
    chat = request(body={"messages": QUESTION, "seed": 5, "temperature": 0.7})
    seeds = []
    for _ in range(2):
        steps = Stepwise(small="small", large="large", threshold=0).route(chat, fleet())
        opened = []
        for reply in (
            None,
            None,
            SMALL,
            said(SMALL, "a"),
            None,
            LARGE,
            said(LARGE, "b\n\n"),
            None,
            None,
        ):
            step = steps.send(reply)
            if isinstance(step, Open):
                opened.append(step.request.body)
        assert [body["temperature"] for body in opened] == [0.7] * 3
        seeds.append([body["seed"] for body in opened])
    assert seeds[0] == seeds[1]
    assert seeds[0][0] == 5
    assert seeds[0][2] != 5


def test_log_probabilities_are_those_that_the_client_asks_or_more() -> None:
    chat = request(body={"messages": QUESTION, "logprobs": True, "top_logprobs": 30})
    played = begun(chat, top_logprobs=30).hears(said(SMALL, "It", UNSURE)).asks(Close(SMALL))
    played.asks(called("large", chat=chat, top_logprobs=30))


def test_a_completion_is_continued_by_its_prompt() -> None:
    asked = request(Surface.COMPLETIONS, body={"prompt": "3 + 4?", "max_tokens": 9, "user": "ann"})
    one = said(SMALL, "It.\n\n")
    body = {"user": "ann", "stream": True, "stream_options": COUNTED}
    small = {**body, "prompt": "3 + 4?", "logprobs": 20, "max_tokens": 9}
    large = {**body, "prompt": "3 + 4?It.\n\n", "logprobs": 0, "max_tokens": 8}
    first, second = (asked.asking(b, Surface.COMPLETIONS, stream=True) for b in (small, large))
    played = looking(asked).asks(Open("small", first, share=DRAFT_SHARE)).hears(SMALL)
    played.asks(Next((SMALL,))).hears(one).asks(shown(one), Next((SMALL,)))
    played.hears(said(SMALL, "So", UNSURE))
    played.asks(Close(SMALL), Open("large", second, share=DRAFT_SHARE))


def rendered(
    played: Playbook, model: str, prompt: str, chat: Request = CHAT, **changes: Any
) -> Playbook:
    """The chat template's text is asked of this model, and continued as a completion."""
    played.asks(Render(model, chat)).hears((1, 2, 3)).asks(Spell(model, chat, (1, 2, 3)))
    return played.hears("<think>").asks(completed(model, f"<think>{prompt}", chat, **changes))


def completed(model: str, prompt: str, chat: Request = CHAT, **changes: Any) -> Open:
    body = {
        "prompt": prompt, "add_special_tokens": False, "stream": True, "stream_options": COUNTED,
        "logprobs": TOP if model == "small" else 0, **changes,
    }  # fmt: skip
    asked = chat.asking(body, Surface.COMPLETIONS, stream=True)
    return Open(model, asked, share=DRAFT_SHARE)


RENDERS = Stepwise(small="small", large="large", handoff="prompt")


def test_a_chat_may_be_handed_over_as_a_prompt() -> None:
    """Which leaves the thoughts alone that a chat template would take out of a message."""
    one = said(SMALL, "It.\n\n")
    played = rendered(looking(policy=RENDERS), "small", "", max_tokens=1024).hears(SMALL)
    played.asks(Next((SMALL,))).hears(one).asks(shown(one), Next((SMALL,)))
    played.hears(said(SMALL, "So", UNSURE)).asks(Close(SMALL))
    rendered(played, "large", "It.\n\n", max_tokens=512)


def test_the_fields_of_a_chat_do_not_travel_with_its_prompt() -> None:
    fields = {"chat_template_kwargs": {"enable_thinking": True}, "tool_choice": "none"}
    chat = request(body={"messages": QUESTION, "temperature": 0.5, "max_tokens": 9, **fields})
    played = looking(chat, RENDERS)
    rendered(played, "small", "", chat, max_tokens=9, temperature=0.5)


def test_the_end_of_the_context_is_the_end_of_the_answer() -> None:
    models = dict(fleet().models)
    models["small"] = replace(models["small"], context=5)
    played = Playbook(RENDERS, CHAT, Fleet(models)).asks(Note("looked"))
    one, end = said(SMALL, "It"), finished(SMALL, "length")
    played = rendered(played, "small", "", max_tokens=2).hears(SMALL).asks(Next((SMALL,)))
    played.hears(one).asks(shown(one), Next((SMALL,))).hears(end).asks(over(end))


def test_a_call_that_is_used_up_before_the_answer_is_followed_by_another() -> None:
    policy = Stepwise(small="small", large="large", handoff="prompt", longest=1)
    one, end = said(SMALL, "It"), finished(SMALL, "length")
    end = replace(end, usage=Usage(3, 1024))
    played = rendered(looking(policy=policy), "small", "", max_tokens=1024).hears(SMALL)
    played.asks(Next((SMALL,))).hears(one).asks(shown(one), Next((SMALL,))).hears(end)
    again = completed("small", "<think>It", max_tokens=1024)
    played.asks(Close(SMALL), replace(again, prefer="a:1"))


@pytest.mark.parametrize("step", ["render", "spell"])
def test_a_model_that_cannot_tell_its_prompt_is_done_without(step: str) -> None:
    lost = failed(attempt("small", "a:1", -1))
    played = looking(policy=RENDERS).asks(Render("small", CHAT))
    if step == "spell":
        played.hears((1, 2, 3)).asks(Spell("small", CHAT, (1, 2, 3)))
    played.hears(lost).asks(Note("small_failed", "0 of 0 steps by large, backend broke it"))
    played.asks(Route("large", CHAT))


ONE_MODEL: tuple[tuple[Surface, dict[str, Any], str], ...] = (
    (Surface.CHAT, {"n": 2}, "n"),
    (Surface.CHAT, {"max_tokens": 0}, "nothing"),
    (Surface.CHAT, {"tools": [{}]}, "tools"),
    (Surface.CHAT, {"response_format": {"type": "json_object"}}, "response_format"),
    (Surface.CHAT, {"logit_bias": {"5": 1}}, "logit_bias"),
    (Surface.CHAT, {"stop_token_ids": [5]}, "stop_token_ids"),
    (Surface.CHAT, {"return_token_ids": True}, "return_token_ids"),
    (Surface.CHAT, {"continue_final_message": True}, "continue_final_message"),
    (Surface.CHAT, {"add_generation_prompt": False}, "continue_final_message"),
    (Surface.COMPLETIONS, {"prompt": [1, 2]}, "prompt"),
    (Surface.COMPLETIONS, {"prompt": ["a", "b"]}, "prompt"),
    (Surface.COMPLETIONS, {"prompt": "a", "echo": True}, "echo"),
    (Surface.MESSAGES, {"max_tokens": 5}, "messages"),
    (Surface.EMBEDDINGS, {"input": "a"}, "embeddings"),
)


@pytest.mark.parametrize(("surface", "body", "why"), ONE_MODEL, ids=repr)
@pytest.mark.parametrize("alone", [None, "other"])
def test_what_cannot_be_handed_over_as_text_goes_to_one_model(
    surface: Surface, body: dict[str, Any], why: str, alone: str | None
) -> None:
    policy = Stepwise(small="small", large="large", alone=alone)
    asked = request(surface, body={"messages": QUESTION, **body})
    steps = policy.route(asked, fleet("small", "large", "other"))
    noted = next(steps)
    assert isinstance(noted, Note)
    assert noted.reason == "one_model"
    assert noted.detail.startswith(why)
    assert next(steps) == Route(alone or "large", asked)


# ----------------------------------------------------------------------------------------- faults


def test_a_small_model_that_cannot_begin_leaves_the_whole_answer_to_the_large_one() -> None:
    played = begun().hears(failed(SMALL))
    played.asks(Note("small_failed", "0 of 0 steps by large, backend broke it"))
    played.asks(Route("large", CHAT)).hears(finished(LARGE)).ends(finished(LARGE))


def test_a_large_model_that_cannot_begin_leaves_the_whole_answer_to_the_small_one() -> None:
    played = begun().hears(said(SMALL, "S", UNSURE)).asks(Close(SMALL), called("large"))
    played.hears(LARGE).asks(Next((LARGE,))).hears(failed(LARGE))
    played.asks(Note("large_failed", "1 of 1 steps by large, backend broke it"))
    played.asks(Route("small", CHAT)).hears(finished(AGAIN)).ends(finished(AGAIN))


def test_a_small_model_that_breaks_is_continued_by_the_large_one() -> None:
    one, two, end = said(SMALL, "It"), said(LARGE, " is.\n\n"), finished(LARGE)
    why = "0 of 1 steps by large, backend broke it"
    played = begun().hears(one).asks(shown(one), Next((SMALL,))).hears(failed(SMALL))
    played.asks(Note("small_failed", why), called("large", "It", max_tokens=None)).hears(LARGE)
    played.asks(Next((LARGE,))).hears(two).asks(shown(two), Next((LARGE,))).hears(end)
    played.asks(over(end), Note("small_failed", "0 of 1 steps by large"), Close(LARGE)).ends(end)


def test_a_large_model_that_breaks_is_continued_by_the_small_one() -> None:
    one = said(LARGE, "So")
    why = "1 of 2 steps by large, backend broke it"
    played = handed_over().hears(one).asks(shown(one), Next((LARGE,))).hears(failed(LARGE))
    played.asks(Note("large_failed", why), called("small", "It is.\n\nSo", prefer="a:1"))
    two, end = said(AGAIN, " 7\n\n", UNSURE), finished(AGAIN)
    played.hears(AGAIN).asks(Next((AGAIN,))).hears(two).asks(shown(two), Next((AGAIN,))).hears(end)
    played.asks(over(end), Note("large_failed", "1 of 2 steps by large"), Close(AGAIN)).ends(end)


def test_another_backend_goes_on_from_the_text_that_was_reached() -> None:
    one = said(LARGE, "So")
    played = handed_over().hears(one).asks(shown(one), Next((LARGE,)))
    played.hears(failed(LARGE, spare=True))
    again = called("large", "It is.\n\nSo")
    played.asks(Open("large", again.request, avoid=frozenset({"b:1"}), share=DRAFT_SHARE))


def test_another_backend_of_the_small_model_is_looked_at_anew() -> None:
    one = said(SMALL, "It")
    played = begun().hears(one).asks(shown(one), Next((SMALL,))).hears(failed(SMALL, spare=True))
    again = called("small", "It")
    played.asks(Open("small", again.request, avoid=frozenset({"a:1"}), share=DRAFT_SHARE))


def test_a_wrong_request_is_answered_at_once() -> None:
    wrong = failed(SMALL, Blame.CLIENT)
    begun().hears(wrong).ends(wrong)


def test_a_continuation_that_is_refused_is_the_other_models() -> None:
    """The request was good: it is the hand-off that this model's server cannot do."""
    played = handed_over().hears(failed(LARGE, Blame.CLIENT))
    played.asks(Note("large_failed", "1 of 2 steps by large, client broke it"))
    played.asks(called("small", "It is.\n\n", prefer="a:1"))


def test_when_both_break_the_client_is_told() -> None:
    played = handed_over().hears(failed(LARGE))
    played.asks(Note("large_failed", "1 of 2 steps by large, backend broke it"))
    played.asks(called("small", "It is.\n\n", prefer="a:1")).hears(AGAIN).asks(Next((AGAIN,)))
    played.hears(failed(AGAIN))
    played.asks(Note("small_failed", "1 of 2 steps by large, backend broke it"))
    played.ends(failed(AGAIN, sent=True))

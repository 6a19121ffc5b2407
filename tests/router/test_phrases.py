"""Phrases: each says its step and gives back the reply, and a draft is what was heard."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import replace
from typing import Any

from router import phrases
from router.phrases import DRAFT_SHARE
from router.steps import (
    Attempt,
    Close,
    Compute,
    Delta,
    Draft,
    Emit,
    Next,
    Note,
    Open,
    Parse,
    Parsed,
    Relay,
    Render,
    Route,
    Spell,
    Step,
    TimedOut,
)
from tests.fleets import attempt, delta, failed, finished, request

CHAT = request()
ONE, OTHER = attempt("small", "a:1"), attempt("small", "b:1", 1)


def said(phrase: Generator[Step, Any, Any], *replies: Any) -> tuple[list[Step], Any]:
    """The steps of a phrase that hears these replies, and what it gives back."""
    steps = [next(phrase)]
    for reply in replies:
        try:
            steps.append(phrase.send(reply))
        except StopIteration as stop:
            return steps, stop.value
    raise AssertionError(f"it goes on: {steps[-1]}")


def test_a_request_that_is_rewritten_keeps_all_other_bytes() -> None:
    raw = b'{"messages": [], "seed": 1.50, "x": "\\u0041"}'
    asked = replace(CHAT, raw=raw, body=json.loads(raw))
    changed = phrases.rewritten(asked, {"messages": [{"role": "user"}], "n": 2})
    assert changed.raw == b'{"n":2,"messages": [{"role":"user"}], "seed": 1.50, "x": "\\u0041"}'
    assert changed.body == json.loads(changed.raw)
    assert asked.raw == raw


def test_each_phrase_says_its_step_and_gives_back_the_reply() -> None:
    end = finished(ONE)
    avoid = frozenset({"a:1"})
    assert said(phrases.open_attempt("small", CHAT, {"n": 1}, avoid), ONE) == (
        [Open("small", CHAT, {"n": 1}, avoid)],
        ONE,
    )
    assert said(phrases.next_event(ONE, OTHER, timeout=1.0), end) == (
        [Next((ONE, OTHER), 1.0)],
        end,
    )
    assert said(phrases.relay(ONE), end) == ([Relay(ONE)], end)
    assert said(phrases.emit(ONE, "7"), None) == ([Emit(ONE, "7")], None)
    assert said(phrases.close(ONE, OTHER), None, None) == ([Close(ONE), Close(OTHER)], None)
    assert said(phrases.compute(max, 1, 2), 2) == ([Compute(max, (1, 2))], 2)
    assert said(phrases.render("small", CHAT), (1, 2)) == ([Render("small", CHAT)], (1, 2))
    assert said(phrases.spell("small", CHAT, (1, 2)), "It") == (
        [Spell("small", CHAT, (1, 2))],
        "It",
    )
    parsed = Parsed({"content": "It"}, "stop")
    assert said(phrases.parse("small", CHAT, (1,), (2,), "stop"), parsed) == (
        [Parse("small", CHAT, (1,), (2,), "stop")],
        parsed,
    )
    assert said(phrases.route("large", CHAT, 0.5), end) == ([Route("large", CHAT, 0.5)], end)
    assert said(phrases.note("why", "so"), None) == ([Note("why", "so")], None)


def test_collect_hears_the_first_choice_to_its_end() -> None:
    end = finished(ONE, "length")
    heard = (
        delta(ONE, "It ", -0.1),
        Delta(ONE, "other", choice=1),
        TimedOut(),
        delta(ONE, "is"),
        end,
    )
    steps, drafted = said(phrases.collect(ONE), *heard)
    assert set(steps) == {Next((ONE,))}
    assert isinstance(drafted, Draft)
    assert (drafted.text, drafted.finished) == ("It is", end)
    assert [token.logprob for token in drafted.tokens] == [-0.1]


def test_collect_gives_back_a_failure() -> None:
    broken = failed(ONE)
    assert said(phrases.collect(ONE), delta(ONE, "It"), broken)[1] == broken


def test_draft_spills_over_while_there_is_one_to_spare() -> None:
    steps, drafted = said(
        phrases.draft("small", CHAT, {"n": 1}), ONE, failed(ONE, spare=True), OTHER, finished(OTHER)
    )
    assert steps[2] == Open("small", CHAT, {"n": 1}, frozenset({"a:1"}), DRAFT_SHARE)
    assert drafted.attempt == OTHER


def test_a_draft_that_cannot_be_mended_is_a_failure() -> None:
    assert said(phrases.draft("small", CHAT), ONE, failed(ONE))[1] == failed(ONE)


# ------------------------------------------------------------------------------------- together


def heard(name: str, *attempts: Attempt) -> phrases.Phrase[list[str]]:
    """A phrase that notes what each of its attempts says, one after the other, and ends."""
    texts = []
    for one in attempts:
        yield from phrases.note(name)
        event = yield from phrases.next_event(one)
        assert isinstance(event, Delta)
        texts.append(event.text)
    return texts


def test_together_each_hears_its_own_as_soon_as_it_speaks() -> None:
    parts = [heard("a", ONE), heard("b", OTHER)]
    replies = (None, None, delta(OTHER, "7"), delta(ONE, "It"))
    steps, results = said(phrases.together(parts), *replies)
    assert steps == [Note("a"), Note("b"), Next((ONE, OTHER)), Next((ONE,))]
    assert results == [["It"], ["7"]]


def test_together_a_part_may_wait_for_several_attempts_in_turn() -> None:
    third = attempt("large", "x:1", 2)
    parts = [heard("a", ONE, third), heard("b", OTHER)]
    replies = (None, None, delta(ONE, "It"), None, delta(third, " is"), delta(OTHER, "7"))
    steps, results = said(phrases.together(parts), *replies)
    assert steps[2:] == [Next((ONE, OTHER)), Note("a"), Next((OTHER, third)), Next((OTHER,))]
    assert results == [["It", " is"], ["7"]]


def test_together_a_part_may_end_without_waiting() -> None:
    parts = [heard("a"), heard("b", OTHER), heard("c")]
    steps, results = said(phrases.together(parts), None, delta(OTHER, "7"))
    assert steps == [Note("b"), Next((OTHER,))]
    assert results == [[], ["7"], []]


def test_together_with_one_part_is_that_part() -> None:
    steps, results = said(phrases.together([heard("a", ONE)]), None, delta(ONE, "It"))
    assert steps == [Note("a"), Next((ONE,))]
    assert results == [["It"]]


def test_all_choices_are_collected_with_how_each_ended() -> None:
    ended = replace(finished(ONE), reasons=("stop", "length", None))
    heard = (delta(ONE, "a"), delta(ONE, "c", -0.5, choice=3), delta(ONE, "b"), ended)
    _, drafts = said(phrases.collect_all(ONE), *heard)
    assert [(d.choice, d.text, d.finished.reason) for d in drafts] == [
        (0, "ab", "stop"), (1, "", "length"), (2, "", None), (3, "c", None),
    ]  # fmt: skip
    assert drafts[3].tokens[0].logprob == -0.5


def test_a_draft_of_several_is_relayed_alone() -> None:
    chosen = Draft(ONE, "7", (), finished(ONE), 2)
    steps, _ = said(phrases.relay_one(chosen, (OTHER,)), finished(ONE))
    assert steps == [Relay(ONE, 2, (OTHER,))]

"""Particles: how they grow, who goes on, which one is given, and why."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.particles import MOST, ParticleFilter
from policies.verdicts.grading import StepGrade
from policies.verdicts.scoring import Scoring
from policies.verdicts.votes import Majority
from router.faults import Blame
from router.fleet import Abilities, Fleet
from router.steps import (
    Alternative,
    Attempt,
    Close,
    Compute,
    Delta,
    Emit,
    Ended,
    Event,
    Failed,
    Fault,
    Finished,
    Next,
    Note,
    Open,
    Render,
    Request,
    Route,
    Score,
    Spell,
    Step,
    Surface,
    Token,
    Usage,
)
from tests.fleets import QUESTION, fleet, request

PAIR = {"small": "small", "large": "large"}
GRADED = {**PAIR, "grade": {"by": "other"}}
EXAMPLES: tuple[dict[str, Any], ...] = (
    {**GRADED, "separator": "\n", "particles": 3},
    {"small": "small", "grade": {"by": "small"}, "separator": ".", "longest": 2, "softness": 0.5},
    {**GRADED, "majority": {"pattern": "[0-9]"}, "most_steps": 1, "alone": "small"},
    {**GRADED, "handoff": "prompt", "separator": "7", "particles": 5, "bar": 0.2, "longest": 3},
)
SCORED = {"small": "small", "score": {"by": "other", "scale": "sigmoid"}}
EXAMPLES += (
    {**SCORED, "large": "large", "separator": "\n", "particles": 2, "effective": 1},
    {**SCORED, "majority": {}, "longest": 2, "most_steps": 3},
)
NONSENSE: tuple[dict[str, Any], ...] = (
    PAIR,
    {"grade": {"by": "large"}},
    {**GRADED, "grade": {"by": "large", "prompt": "Well?"}},
    {**GRADED, "grade": {"by": "large", "accept": []}},
    {**GRADED, **SCORED},
    {**GRADED, "particles": 1},
    {**GRADED, "particles": 2},
    {**GRADED, "effective": 0.25},
    {**GRADED, "effective": 1.5},
    {**GRADED, "particles": MOST + 1},
    {**GRADED, "most_steps": 0},
    {**GRADED, "particles": 16, "most_steps": 32},
    {**GRADED, "bar": 0},
    {**GRADED, "bar": 1.1},
    {**GRADED, "softness": 0},
    {**GRADED, "majority": {"sure": -0.5}},
    {**GRADED, "separator": ""},
    {**GRADED, "separator": ". "},
    {**GRADED, "longest": 0},
    {**GRADED, "temperature": 0},
    {**GRADED, "temperature": 2.5},
    {**GRADED, "handoff": "tokens"},
)
MOST_STEPS = 100_000

Reply = tuple[str, str]
"""What one choice says to its end, and its finish_reason."""


def policy(**settings: Any) -> ParticleFilter:
    made = {"small": "small", "grade": StepGrade(by="judge"), "particles": 3, "separator": "\n"}
    return ParticleFilter(**{**made, **settings})


def broken(blame: Blame = Blame.BACKEND) -> Fault:
    return Fault(blame, f"{blame} broke it")


@dataclass(slots=True)
class World:
    """A small model that says what it is told to, a judge, and a client that looks on.

    `says` gives the choices of a call for `n` behind `text`: all that each would say, in tokens of
    one word each; a backend that ignores `n` gives fewer. `judges` gives the probability of a yes
    for a text, None to fail. `fails` says whether the call of this body fails before its first
    token, and how.
    """

    says: Callable[[str, int], Sequence[Reply]]
    judges: Callable[[str], float | None] = lambda _: 0.5
    fails: Callable[[dict[str, Any]], Fault | None] = lambda _: None
    told: bool = True
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    calls: list[dict[str, Any]] = field(default_factory=list)
    judged: list[str] = field(default_factory=list)
    scored: list[tuple[tuple[str, ...], bool]] = field(default_factory=list)
    shown: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: Finished | None = None
    drawn: tuple[Attempt, ...] = ()
    note: Note | None = None
    routed: str = ""
    _events: dict[Attempt, list[Event]] = field(default_factory=dict)
    _over: set[Attempt] = field(default_factory=set)

    def run(self, by: ParticleFilter, asked: Request | None = None) -> Ended:
        steps, reply = by.route(asked or request(), fleet("small", "large", "judge")), None
        for _ in range(MOST_STEPS):
            try:
                step = steps.send(reply)
            except StopIteration as stop:
                assert set(self._events) <= self._over, "a call is left open"
                ended: Ended = stop.value
                return ended
            reply = self._reply(step)
        raise AssertionError("no end")

    @property
    def texts(self) -> list[tuple[str, int]]:
        """What every call of the small model went on from, and for how many."""
        return [(_so_far(body), body.get("n", 1)) for body in self.calls]

    def _reply(self, step: Step) -> Any:  # noqa: C901, PLR0911  # a reply per kind of step
        match step:
            case Open():
                return self._open(step)
            case Next():
                return self._next(step)
            case Close():
                self._over.add(step.attempt)
            case Emit():
                assert self.finish is None, "it writes on behind the end"
                self.shown += step.text
                self.tokens += step.tokens
                self.finish, self.drawn = step.finish, step.beside
            case Note():
                self.note = step
            case Route():
                assert self.finish is None, "it was answered"
                self.routed = step.target
                return Finished(Attempt(-1, step.target, "r:1"), "stop")
            case Compute():
                return step.function(*step.arguments)
            case Score():
                self.scored.append((step.texts, step.by.whole))
                marks = [self.judges(text) for text in step.texts]
                if None in marks:
                    return Failed(Attempt(-1, step.model, "a:1"), broken())
                return tuple(math.log(mark / (1 - mark)) for mark in marks if mark)
            case Render():
                return (1, 2, 3)
            case Spell():
                return "<user>?<model>"
            case _:
                raise AssertionError(step)
        return None

    def _open(self, step: Open) -> Attempt:
        attempt = Attempt(len(self._events), step.model, "a:1")
        body = {**step.request.body, **step.changes}
        if step.model == "judge":
            self._events[attempt] = self._verdict(attempt, body)
            return attempt
        self.calls.append(body)
        if fault := self.fails(body):
            self._events[attempt] = [Failed(attempt, fault)]
        else:
            self._events[attempt] = self._stream(attempt, body)
        return attempt

    def _verdict(self, attempt: Attempt, body: dict[str, Any]) -> list[Event]:
        text = body["messages"][0]["content"].split("so far:\n")[1].rpartition("\n\nIs")[0]
        self.judged.append(text)
        mark = self.judges(text)
        if mark is None:
            return [Failed(attempt, broken())]
        top = tuple(
            Alternative(word, math.log(chance))
            for word, chance in (("yes", mark), ("no", 1 - mark))
            if chance > 0
        )
        return [Delta(attempt, "yes", (Token("yes", None, 0.0, top),)), Finished(attempt, "length")]

    def _stream(self, attempt: Attempt, body: dict[str, Any]) -> list[Event]:
        replies = self.says(_so_far(body), body.get("n", 1))
        most = body.get("max_tokens")
        pieces = [_words(text)[:most] for text, _ in replies]
        reasons = tuple(
            "length" if most is not None and len(_words(text)) >= most else reason
            for text, reason in replies
        )
        turns = [(number, word) for number, words in enumerate(pieces) for word in words]
        if len(replies) > 1:  # choices come by turns
            self.rng.shuffle(turns)
            left = [iter(words) for words in pieces]
            turns = [(number, next(left[number])) for number, _ in turns]
        events: list[Event] = [
            Delta(attempt, word, (Token(word),) if self.told else (), number)
            for number, word in turns
        ]
        used = Usage(3, len(turns))
        several = reasons if len(reasons) > 1 else ()
        return [*events, Finished(attempt, reasons[0], None, used, several)]

    def _next(self, step: Next) -> Event:
        assert step.timeout is None
        for attempt in step.attempts:
            assert attempt not in self._over, f"{attempt} is over"
        attempt = self.rng.choice(step.attempts)
        event = self._events[attempt].pop(0)
        if isinstance(event, Failed):
            self._over.add(attempt)
        return event


def _words(text: str) -> list[str]:
    """Tokens: words with the space before them, and line breaks."""
    return [part for line in text.splitlines(keepends=True) for part in _split(line)]


def _split(line: str) -> list[str]:
    words = line.split(" ")
    return [word for word in (words[0], *(" " + word for word in words[1:])) if word]


def _so_far(body: dict[str, Any]) -> str:
    """What the call goes on from."""
    if "prompt" in body:
        return str(body["prompt"]).removeprefix(QUESTION).removeprefix("<user>?<model>")
    said = [one["content"] for one in body["messages"] if one["role"] == "assistant"]
    return str(said[-1]) if said else ""


def one_of(*texts: str) -> Callable[[str, int], list[Reply]]:
    """The first particle would say the first of these answers, and so on; each goes on with what
    begins as it does.
    """

    def says(text: str, n: int) -> list[Reply]:
        fitting = [whole[len(text) :] for whole in texts if whole.startswith(text)]
        return [(fitting[number % len(fitting)], "stop") for number in range(n)]

    return says


GOOD, BAD = "a = 3\nb = 4\nIt is 7", "a = 2\nb = 4\nIt is 6"


def likes(text: str) -> float:
    return 0.02 if text.startswith("a = 2") else 0.9


# ------------------------------------------------------------------------------------- one answer


def test_all_begin_in_one_call_and_the_good_one_is_copied() -> None:
    world = World(one_of(BAD, GOOD, BAD), likes)
    ended = world.run(policy())
    assert world.texts == [("", 3), ("a = 3\n", 3), ("a = 3\nb = 4\n", 3)]
    assert world.judged == ["a = 2\n", "a = 3\n", "a = 3\nb = 4\n", GOOD]
    assert world.shown == GOOD
    assert world.finish == ended
    assert isinstance(ended, Finished)
    assert ended.reason == "stop"
    assert "".join(token.text for token in world.tokens) == GOOD
    assert len(world.drawn) == 3
    assert world.note == Note(
        "sure", "grade 0.90 of 3 particles, 3 steps, resampled 1x, 3.0 effective"
    )


def test_where_all_look_alike_nobody_is_copied() -> None:
    world = World(one_of(BAD, GOOD))
    world.run(policy())
    assert sorted(world.texts[1:]) == [
        ("a = 2\n", 2), ("a = 2\nb = 4\n", 2), ("a = 3\n", 1), ("a = 3\nb = 4\n", 1),
    ]  # fmt: skip
    assert world.note
    assert world.note.reason == "best"
    assert "resampled 0x, 3.0 effective" in world.note.detail
    assert world.shown == BAD, "of equal ones the first"


def test_how_uneven_weights_must_be_is_a_setting() -> None:
    """With 1, after every step whose marks differ at all."""
    for share, resampled in ((0.5, 0), (1.0, 1)):
        world = World(one_of(BAD, GOOD, GOOD, BAD), likes)
        world.run(policy(particles=4, effective=share))
        assert world.note
        assert f"resampled {resampled}x" in world.note.detail
    world = World(one_of(GOOD))
    world.run(policy(particles=4, effective=1.0))
    assert world.note
    assert "resampled 0x" in world.note.detail


def test_an_answer_in_one_step_is_best_of_n() -> None:
    world = World(one_of("It is 6", "It is 7"), lambda text: 0.9 if "7" in text else 0.2)
    world.run(policy())
    assert world.texts == [("", 3)]
    assert world.judged == ["It is 6", "It is 7"]
    assert world.shown == "It is 7"


def test_what_is_complete_keeps_its_mark_and_is_not_asked_again() -> None:
    world = World(one_of("It is 7", GOOD, "It is 7"), lambda text: 0.6 if "\n" in text else 0.7)
    world.run(policy(bar=0.65))
    assert world.judged.count("It is 7") == 1
    assert world.texts == [("", 3), ("a = 3\n", 1), ("a = 3\nb = 4\n", 1)]
    assert world.shown == "It is 7"


def test_a_mark_stands_where_the_answer_ends_right_behind_its_step() -> None:
    world = World(one_of("It is 7\n", "It is 7\n"))
    world.run(policy())
    assert world.judged == ["It is 7\n"], "equal texts are graded once"
    assert world.texts == [("", 3), ("It is 7\n", 3)]
    assert world.shown == "It is 7\n"


def test_after_the_last_step_all_are_written_to_their_end() -> None:
    world = World(one_of(BAD, GOOD))
    world.run(policy(most_steps=1))
    assert sorted(world.texts[1:]) == [("a = 2\n", 2), ("a = 3\n", 1)]
    assert {GOOD, BAD} <= set(world.judged)
    assert [body.get("max_tokens") for body in world.calls] == [512, None, None]


def test_a_step_without_a_separator_ends_after_the_longest() -> None:
    world = World(one_of("a b c d e f"), lambda _: 0.5)
    world.run(policy(longest=2))
    assert [text for text, _ in world.texts] == ["", "a b", "a b c d", "a b c d e f"]
    assert world.shown == "a b c d e f"


def test_one_that_repeats_itself_is_cut_where_the_client_says() -> None:
    def endless(text: str, n: int) -> list[Reply]:
        return [("7\n" * 100, "stop")] * n

    world = World(endless)
    asked = request(body={"messages": [], "max_tokens": 20})
    world.run(policy(most_steps=3), asked)
    assert world.shown == "7\n" * 20
    assert world.finish
    assert world.finish.reason == "length"
    assert world.texts[-1][0] == "7\n" * 3


def test_what_came_to_its_end_goes_before_what_was_cut_off() -> None:
    world = World(one_of("It is 7", "a b c d e f g"), lambda text: 0.3 if "7" in text else 0.9)
    world.run(policy(), request(body={"messages": [], "max_tokens": 5}))
    assert world.shown == "It is 7"
    assert world.note
    assert world.note.reason == "best"


@pytest.mark.parametrize("keeps", [False, True])
def test_stop_strings_may_begin_in_one_step_and_end_in_the_next(*, keeps: bool) -> None:
    world = World(one_of(GOOD))
    body = {"messages": [], "stop": ["3\nb"], "include_stop_str_in_output": keeps}
    world.run(policy(), request(body=body))
    assert world.shown == ("a = 3\nb" if keeps else "a = ")
    assert world.finish
    assert (world.finish.reason, world.finish.stop_reason) == ("stop", "3\nb")
    assert world.judged[-1] == world.shown
    assert all("stop" not in body for body in world.calls)


def test_a_backend_that_tells_no_tokens_has_its_events_counted() -> None:
    world = World(one_of(GOOD), told=False)
    world.run(policy())
    assert "".join(token.text for token in world.tokens) == GOOD
    assert len(world.tokens) == len(_words(GOOD))


# -------------------------------------------------------------------------------------- how asked


def test_what_a_call_asks_for() -> None:
    world = World(one_of(GOOD), likes)
    asked = request(
        body={"messages": [{"role": "user", "content": "?"}], "seed": 5, "temperature": 0.2}
    )
    world.run(policy(), asked)
    first, second = world.calls[:2]
    assert (first["n"], first["seed"], first["temperature"]) == (3, 5, 0.7)
    assert (first["stream"], first["max_tokens"], first["logprobs"]) == (True, 512, True)
    assert second["seed"] != 5
    assert second["messages"][-1] == {"role": "assistant", "content": "a = 3\n"}
    assert (second["continue_final_message"], second["add_generation_prompt"]) == (True, False)
    assert world.note
    assert "drawn at temperature 0.7" in world.note.detail


def test_a_client_that_wants_more_variety_gets_it() -> None:
    world = World(one_of(GOOD))
    world.run(policy(), request(body={"messages": [], "temperature": 1.2}))
    assert {body["temperature"] for body in world.calls} == {1.2}


def test_a_completion_is_continued_by_its_prompt() -> None:
    world = World(one_of(GOOD))
    world.run(policy(), request(Surface.COMPLETIONS, body={"prompt": QUESTION, "max_tokens": 40}))
    assert world.calls[1]["prompt"] == QUESTION + "a = 3\n"
    assert world.shown == GOOD


def test_a_chat_may_be_continued_by_the_prompt_of_its_template() -> None:
    world = World(one_of(GOOD))
    world.run(policy(handoff="prompt"))
    assert [body["prompt"] for body in world.calls[:2]] == [
        "<user>?<model>", "<user>?<model>a = 3\n",
    ]  # fmt: skip
    assert world.shown == GOOD


def test_the_same_seed_and_the_same_draw_choose_alike() -> None:
    marks = {"a = 2\n": 0.05, "a = 3\n": 0.1, "a = 4\n": 0.8, "a = 5\n": 0.4}
    answers = [f"a = {n}\nb\nc\nIt is {n}" for n in range(2, 6)]

    def run(**asked: Any) -> list[tuple[str, int]]:
        world = World(one_of(*answers), lambda text: marks.get(text, 0.5))
        draw = asked.pop("draw", 0.3)
        world.run(policy(particles=4), request(body={"messages": [], **asked}, draw=draw))
        return sorted(world.texts[1:])

    assert run(seed=1) == run(seed=1, draw=0.9)
    assert run(draw=0.5) == run(draw=0.5)
    assert len({str(run(seed=seed)) for seed in range(20)}) > 1


@pytest.mark.parametrize("seed", [-1, (1 << 64) - 1])
def test_any_whole_number_is_a_seed(seed: int) -> None:
    world = World(one_of(BAD, GOOD), likes)
    world.run(policy(), request(body={"messages": [], "seed": seed}))
    assert world.shown == GOOD


# ----------------------------------------------------------------------------------- who else asks


def test_the_large_model_answers_where_none_is_good_enough() -> None:
    world = World(one_of(GOOD), lambda _: 0.4)
    world.run(policy(large="large"))
    assert world.routed == "large"
    assert world.note
    assert world.note.reason == "unsure"
    assert world.note.detail.startswith("grade 0.40 of 3 particles, 3 steps")


def test_a_majority_of_the_weight_decides() -> None:
    texts = ("It is 6", "It is 7.0", "Seven: 7", "Well")
    marks = dict(zip(texts, (0.6, 0.5, 0.5, 0.9), strict=True))
    world = World(one_of(*texts), lambda text: marks[text])
    world.run(policy(particles=4, majority=Majority(), bar=0.1))
    assert world.shown == "It is 7.0"
    assert world.note
    assert world.note.reason == "sure"
    assert world.note.detail.startswith("majority 0.16 of 4 particles")


def test_no_answer_to_vote_for_is_no_verdict() -> None:
    world = World(one_of("Well", "Seven"), lambda text: 0.9 if text == "Seven" else 0.1)
    world.run(policy(majority=Majority()))
    assert world.note
    assert world.note.reason == "no_verdict"
    assert world.shown == "Seven"
    world = World(one_of("Well", "Seven"))
    world.run(policy(majority=Majority(), large="large"))
    assert world.routed == "large"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"n": 2}, "n: "),
        ({"tools": [{"type": "function"}]}, "tools: "),
        ({"response_format": {"type": "json_object"}}, "response_format: "),
        ({"guided_regex": "7"}, "guided_regex: "),
        ({"top_k": 1}, "top_k: "),
        ({"return_token_ids": True}, "return_token_ids: "),
        ({"prompt_logprobs": 1}, "prompt_logprobs: "),
        ({"presence_penalty": 1}, "presence_penalty: "),
        ({"continue_final_message": True}, "continue_final_message: "),
        ({"max_tokens": 0}, "nothing is to be written"),
    ],
)
def test_what_is_not_sampled_goes_to_one_model(body: dict[str, Any], why: str) -> None:
    for block, target in (
        ({}, "small"),
        ({"large": "large"}, "large"),
        ({"large": "large", "alone": "judge"}, "judge"),
    ):
        world = World(one_of(GOOD))
        world.run(policy(**block), request(body={"messages": [], **body}))
        assert (world.routed, world.calls) == (target, [])
        assert world.note
        assert world.note.reason == "not_sampled"
        assert world.note.detail.startswith(why)


def test_other_surfaces_are_not_sampled() -> None:
    world = World(one_of(GOOD))
    world.run(policy(), request(Surface.RESPONSES, body={"input": "?"}))
    assert world.routed == "small"


# -------------------------------------------------------------------------------- a reward model

SCORES = Scoring(by="judge", scale="sigmoid")


def test_a_reward_model_is_shown_beginnings_and_whole_answers_apart() -> None:
    world = World(one_of(GOOD, "It is 6"), lambda text: 0.9 if text == GOOD else 0.5)
    world.run(policy(grade=None, score=SCORES))
    assert world.scored == [
        (("a = 3\n",), False),
        (("It is 6",), True),
        (("a = 3\nb = 4\n",), False),
        ((GOOD,), True),
    ]
    assert world.shown == GOOD
    assert world.note
    assert world.note.reason == "sure"
    assert world.note.detail.startswith("score 0.90 of 3 particles")


def test_a_reward_model_that_fails_leaves_the_best_so_far() -> None:
    world = World(one_of(GOOD, BAD), lambda text: likes(text) if text.count("\n") < 2 else None)
    world.run(policy(grade=None, score=SCORES, softness=9, large="large"))
    assert world.shown == GOOD
    assert world.note
    assert world.note.reason == "no_verdict"
    assert world.note.detail.endswith("judge did not score: backend broke it in step 2")


def test_a_server_that_is_known_to_tell_no_scores_is_refused() -> None:
    able = replace(fleet("judge").models["judge"], abilities=Abilities(scores=frozenset()))
    known = Fleet(MappingProxyType({**fleet("small").models, "judge": able}))
    assert "judge does not serve score" in str(policy(grade=None, score=SCORES).misfit(known))
    assert policy(grade=None, score=SCORES).misfit(fleet("small", "judge")) is None
    assert policy().misfit(known) is None


# ------------------------------------------------------------------------------------ what fails


def test_a_judge_that_fails_leaves_the_best_so_far() -> None:
    """Nothing is copied from there on, and nobody is asked again."""

    def judges(text: str) -> float | None:
        return None if text == "a = 3\nb = 4\n" else likes(text)

    for large in (None, "large"):
        world = World(one_of(GOOD, BAD), judges)
        world.run(policy(large=large, softness=9))
        assert world.shown == GOOD
        assert world.judged == ["a = 3\n", "a = 2\n", "a = 3\nb = 4\n", "a = 2\nb = 4\n"]
        assert world.note
        assert world.note.reason == "no_verdict"
        assert world.note.detail.endswith("judge did not grade: backend broke it in step 2")
        assert not world.routed


def test_a_judge_that_never_grades_leaves_it_to_the_large_model() -> None:
    world = World(one_of(GOOD, BAD), lambda _: None)
    world.run(policy(large="large"))
    assert world.routed == "large"
    world = World(one_of(GOOD, BAD), lambda _: None)
    world.run(policy())
    assert (world.shown, len(world.texts)) == (GOOD, 3)


def test_a_backend_that_refuses_several_choices_is_asked_one_by_one() -> None:
    def one_only(body: dict[str, Any]) -> Fault | None:
        return broken(Blame.CLIENT) if body.get("n", 1) > 1 else None

    world = World(one_of(GOOD), likes, one_only)
    world.run(policy())
    assert [n for _, n in world.texts] == [3] + [1] * 9
    assert world.shown == GOOD
    assert world.note
    assert world.note.detail.endswith("n=3 was refused: client broke it")


def test_a_backend_that_ignores_n_is_asked_for_the_others() -> None:
    world = World(lambda text, _: one_of(GOOD)(text, 1), likes)
    world.run(policy())
    assert [n for _, n in world.texts] == [3] + [1] * 8
    assert world.shown == GOOD


def test_a_wrong_request_is_told_in_the_backends_words() -> None:
    world = World(one_of(GOOD), likes, lambda _: broken(Blame.CLIENT))
    ended = world.run(policy(large="large"))
    assert isinstance(ended, Failed)
    assert ended.fault.blame is Blame.CLIENT
    assert not world.routed


def test_a_small_model_that_is_gone_is_replaced_by_the_large_one() -> None:
    world = World(one_of(GOOD), likes, lambda _: broken())
    world.run(policy(large="large"))
    assert world.routed == "large"
    assert world.note == Note("draft_failed", "backend broke it")
    world = World(one_of(GOOD), likes, lambda _: broken())
    assert isinstance(world.run(policy()), Failed)


def test_a_server_that_cannot_go_on_answers_by_itself() -> None:
    """One that does not know `continue_final_message`, say."""

    def refuses(body: dict[str, Any]) -> Fault | None:
        return broken(Blame.CLIENT) if "continue_final_message" in body else None

    world = World(one_of(GOOD), likes, refuses)
    world.run(policy())
    assert world.routed == "small"
    assert world.note == Note("not_sampled", "no step goes on: client broke it")


def test_those_that_are_left_are_enough() -> None:
    def fails(body: dict[str, Any]) -> Fault | None:
        return broken() if _so_far(body) == "a = 2\n" else None

    world = World(one_of(BAD, GOOD), lambda _: 0.8, fails)
    world.run(policy())
    assert world.shown == GOOD
    assert world.note
    assert world.note.detail.endswith("1 left: backend broke it")


# ------------------------------------------------------------------------------------- the bounds


@given(st.integers(0, 1 << 32), st.integers(3, 6), st.integers(1, 5), st.booleans())
def test_calls_and_grades_are_bounded_whatever_is_said(
    seed: int, particles: int, most_steps: int, several: bool
) -> None:
    """One a particle and step, and one more where several choices are refused."""
    rng = random.Random(seed)

    def says(text: str, n: int) -> list[Reply]:
        came = n if several else 1
        lines = ["a b\n", "\n", " c", "7\n7\n7\n", "", " d e f g h"]
        return [
            ("".join(rng.choices(lines, k=rng.randint(0, 4))), rng.choice(("stop", "length")))
            for _ in range(came)
        ]

    world = World(says, lambda _: rng.random(), rng=rng)
    ended = world.run(policy(particles=particles, most_steps=most_steps, longest=3))
    assert isinstance(ended, Finished)
    most = particles * (most_steps + 1)
    assert len(world.calls) <= most + 1
    assert len(world.judged) <= most
    assert world.finish == ended
    assert "".join(token.text for token in world.tokens) == world.shown

"""The contract of every policy, held against each kind in the table, in several settings.

A simulated engine gives random but lawful replies, drawn from a seed, and watches: it knows what
the engine would refuse, and what a client would have been sent. The settings tried come from the
policy's own test, `tests/policies/test_KIND.py`: `EXAMPLES` are blocks that must work, `NONSENSE`
are blocks that must be refused. So a new policy costs its file, that test, and its line in the
table, and nothing here.
"""

from __future__ import annotations

import dataclasses
import importlib
import random
import re
from collections.abc import Callable
from statistics import median
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import settings as limited
from hypothesis import strategies as st

from policies import TABLE
from router.faults import Blame
from router.references import build_policy
from router.steps import (
    Attempt,
    Close,
    Emit,
    Failed,
    Finished,
    Next,
    Note,
    Open,
    Policy,
    Relay,
    Request,
    Route,
    Spell,
    Step,
    Surface,
)
from tests.fleets import request
from tests.policies.simulated import FAULTS, Conversation, broken, conversation

LONGEST_STEP = 1e-3
"""Seconds of CPU time between two steps, in the median: what may pass on an event loop."""


def settings(kind: str, name: str) -> tuple[dict[str, Any], ...]:
    tests = importlib.import_module(f"tests.policies.test_{kind}")
    blocks: tuple[dict[str, Any], ...] = getattr(tests, name)
    assert blocks, f"tests/policies/test_{kind}.py has no {name}"
    return blocks


def cases(name: str) -> list[Any]:
    return [
        pytest.param(kind, block, id=f"{kind}-{number}")
        for kind in TABLE
        for number, block in enumerate(settings(kind, name))
    ]


def policy_of(kind: str, block: dict[str, Any]) -> Policy:
    policy, problems = build_policy({"use": kind, **block}, TABLE)
    assert policy, problems
    return policy


KEPT: dict[str, Policy] = {}


def kept(kind: str, block: dict[str, Any]) -> Policy:
    """The same, built once: where it does not matter what it has heard before."""
    key = f"{kind} {block}"
    if key not in KEPT:
        KEPT[key] = policy_of(kind, block)
    return KEPT[key]


every_policy = pytest.mark.parametrize(("kind", "block"), cases("EXAMPLES"))
requests = pytest.mark.parametrize(
    "asked",
    [
        request(session="ann", body={"messages": [{"role": "user", "content": "?"}]}),
        request(body={"messages": [{"role": "user", "content": "?"}], "stream": True}, draw=0.95),
        request(Surface.COMPLETIONS, body={"prompt": "?"}),
        request(body={"messages": [], "n": 2, "stop": "yes", "max_tokens": 6, "logprobs": True}),
        request(Surface.MESSAGES, body={"messages": [], "max_tokens": 1}, draw=0.5),
        request(Surface.EMBEDDINGS, body={"input": "?"}),
        request(
            body={
                "messages": [{"role": "user", "content": "What is 3 + 4?"}],
                "documents": [{"text": "It is 7. " * 40}, {"id": "b", "text": "Yes. No. " * 40}],
                "stream": True,
            }
        ),
    ],
    ids=["chat", "stream", "completion", "choices", "messages", "embedding", "documents"],
)


# ----------------------------------------------------------------------------------- the contract


@every_policy
@requests
@limited(max_examples=14)  # of each of some hundred pairs
@given(seed=st.integers(0, 1 << 32))
def test_it_keeps_the_law_whatever_it_hears(
    kind: str, block: dict[str, Any], asked: Request, seed: int
) -> None:
    conversation(kept(kind, block), asked, seed).run()


@every_policy
@requests
def test_it_survives_a_failure_at_every_point(
    kind: str, block: dict[str, Any], asked: Request
) -> None:
    policy = kept(kind, block)
    for seed in range(2):
        for blame in FAULTS:
            for sent in (False, True):
                for once in (False, True):
                    _fail_at_every_point(policy, asked, seed, broken(blame, sent=sent), once=once)


def _fail_at_every_point(
    policy: Policy, asked: Request, seed: int, failed: Failed, *, once: bool
) -> None:
    """The k-th reply fails, alone or with all that follow, for every k that is reached."""
    at, reached = 0, 1
    while at < reached:
        played = Conversation(policy, asked, random.Random(seed))
        played.fails = lambda k, at=at: failed if k == at or (not once and k > at) else None
        played.run()
        reached, at = played.chances, at + 1


@every_policy
@requests
def test_the_same_replies_give_the_same_steps(
    kind: str, block: dict[str, Any], asked: Request
) -> None:
    for seed in range(5):
        first, second = (
            conversation(policy_of(kind, block), asked, seed) for _ in ("built", "built again")
        )
        assert (first.run(), first.transcript) == (second.run(), second.transcript)


@every_policy
def test_it_never_blocks_between_two_steps(kind: str, block: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": "What is 3 + 4? " * 2000}] * 10
    asked = request(body={"messages": messages}, session="ann")
    policy_times: list[list[float]] = []
    for _ in range(15):
        played = conversation(policy_of(kind, block), asked, 7)  # a new one remembers nothing
        played.run()
        policy_times.append(played.times)
    slowest = max(median(times) for times in zip(*policy_times, strict=True))
    assert slowest < LONGEST_STEP, f"{slowest * 1e3:.2f} ms of CPU time between two steps"


@every_policy
def test_it_is_an_immutable_value(kind: str, block: dict[str, Any]) -> None:
    policy = policy_of(kind, block)
    assert policy == policy_of(kind, block)
    for setting in block:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(policy, setting, None)


@pytest.mark.parametrize(("kind", "block"), cases("NONSENSE"))
def test_nonsense_in_its_settings_is_refused_with_a_reason(
    kind: str, block: dict[str, Any]
) -> None:
    policy, problems = build_policy({"use": kind, **block}, TABLE)
    assert policy is None
    assert all(reason for _, reason in problems)


@pytest.mark.parametrize("kind", TABLE)
def test_an_unknown_setting_is_refused(kind: str) -> None:
    for block in settings(kind, "EXAMPLES"):
        policy, problems = build_policy({"use": kind, **block, "no_such_setting": 1}, TABLE)
        assert policy is None
        assert any("there is no such setting" in reason for _, reason in problems)


@pytest.mark.parametrize("kind", TABLE)
def test_what_it_is_stands_in_its_docstrings(kind: str) -> None:
    """They are its documentation: the class says what it does."""
    said = TABLE[kind].__doc__ or ""
    assert said
    assert not said.startswith(f"{TABLE[kind].__name__}("), "that is generated"
    assert all(word.isidentifier() for word in TABLE[kind].reasons)


# ------------------------------------------------------------------------------ it can find fault


def unlawful(*steps: Callable[[Attempt, Request], Step]) -> Policy:
    class Unlawful:
        reasons: ClassVar[tuple[str, ...]] = ()

        def route(self, asked: Request, _: Any) -> Any:
            attempt = yield Open("small", asked)
            for step in steps:
                yield step(attempt, asked)
            return Failed(attempt, broken(Blame.BACKEND).fault)

    return Unlawful()


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        (unlawful(), "still running"),
        (unlawful(lambda *_: Note("because")), "because was not declared"),
        (unlawful(lambda *_: Next(())), "it waits for nobody"),
        (
            unlawful(lambda a, _: Close(a), lambda a, _: Relay(a)),
            "it relays an attempt that is over",
        ),
        (unlawful(lambda a, _: Next((a,), 0.1), lambda a, _: Relay(a)), "it races|is over"),
        (unlawful(lambda a, _: Relay(a)), "it ended otherwise|returned"),
        (unlawful(lambda a, _: Emit(a, "7"), lambda a, _: Relay(a)), "was emitted|is over"),
        (unlawful(lambda a, _: Emit(a, "7", choice=1)), "nobody asked for this choice"),
        (
            unlawful(
                lambda a, _: Emit(a, "", finish=Finished(a)),
                lambda a, _: Emit(a, "7"),
                lambda a, _: Close(a),
            ),
            "into a choice that has ended",
        ),
        (unlawful(lambda a, _: Emit(a, "7"), lambda a, _: Close(a)), "does not own up"),
        (unlawful(lambda _, r: Spell("small", r, ())), "the text of nothing"),
        (unlawful(lambda _, r: Open("small", r, prefer="z:9")), "z:9 is no backend"),
        (
            unlawful(
                lambda _, r: Open("small", r, {"return_token_ids": True, "prompt": (1, 2, 9)})
            ),
            "not what it was rendered to",
        ),
        (unlawful(lambda _, r: Route("large", r), lambda a, _: Relay(a)), "was given|is over"),
        (unlawful(lambda *_: 5), "not in the vocabulary"),  # type: ignore[arg-type]
    ],
)
def test_the_simulated_engine_finds_what_is_unlawful(policy: Policy, complaint: str) -> None:
    """With some seed or other: not every conversation gets to the fault."""
    found = []
    for seed in range(50):
        try:
            conversation(policy, request(), seed).run()
        except AssertionError as error:
            found.append(str(error))
    assert found
    assert any(re.search(complaint, text) for text in found), found

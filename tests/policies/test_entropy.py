"""Entropy-adaptive switching: a hand-over when the mean entropy crosses a threshold, and back."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from policies.entropy import Entropy
from router.fleet import Fleet
from router.steps import (
    Alternative,
    Attempt,
    Close,
    Delta,
    Emit,
    Finished,
    Note,
    Spell,
    Token,
)
from tests.fleets import failed
from tests.playbook import Playbook
from tests.policies.duet.lines import (
    CHAT,
    GATE,
    L1,
    L2,
    PROMPT,
    S1,
    S2,
    S3,
    able,
    chat,
    ends,
    fired,
    opens,
    over,
    play,
    shows,
    spent,
    wait,
    writes,
)

PAIR: dict[str, Any] = {"small": "small", "large": "large"}
EXAMPLES: tuple[dict[str, Any], ...] = (
    PAIR,
    {**PAIR, "threshold": 1.5, "back": 0.5, "window": 1, "dwell": 0},
    {**PAIR, "start": "large", "keep": True, "estimate": "high", "alone": "small"},
    {**PAIR, "window": 3, "dwell": 2, "reasoning": True},
)
NONSENSE: tuple[dict[str, Any], ...] = (
    {"small": "small"},
    {"small": "small", "large": "small"},
    {**PAIR, "threshold": -1},
    {**PAIR, "threshold": 0.5, "back": 0.6},
    {**PAIR, "back": -0.1},
    {**PAIR, "window": 0},
    {**PAIR, "window": 65, "dwell": 100},
    {**PAIR, "window": 5, "dwell": 3},
    {**PAIR, "start": "other"},
    {**PAIR, "estimate": "exact"},
)

EAD = Entropy(**PAIR, threshold=1.0, back=0.5, window=2, dwell=3)
UNSURE = {"": "entropy", "_threshold": 1.0, "_window": 2, "_dwell": 3}
SURE = {"": "entropy", "_threshold": 0.5, "_window": 2, "_dwell": 3, "_below": 1}
NEXT = Entropy(**PAIR, threshold=1.0, window=1, dwell=0)


def told(detail: str, reason: str = "in_engine") -> Note:
    return Note(reason, detail)


def to_the_large_model(models: Fleet | None = None) -> Playbook:
    """The small model has written 10 when it becomes unsure."""
    played = play(EAD, models=models).asks(Note("in_engine"), opens("small", rule=UNSURE)).hears(S1)
    played.asks(wait(S1)).hears(writes(S1, "It", 10)).asks(shows(S1, "It", 10), wait(S1))
    played.hears(writes(S1, "", GATE)).asks(wait(S1)).hears(fired(S1))
    return played.asks(Close(S1), opens("large", 10, rule=SURE)).hears(L1)


def test_it_is_handed_over_and_back_with_a_threshold_for_each() -> None:
    played = to_the_large_model().asks(wait(L1)).hears(writes(L1, " is", 20))
    played.asks(shows(L1, " is", 20), wait(L1)).hears(fired(L1)).asks(Close(L1))
    played.asks(opens("small", 10, 20, prefer="a:1", held=4, rule=UNSURE)).hears(S2)
    played.asks(wait(S2)).hears(fired(S2)).asks(Close(S2))
    played.asks(opens("large", 10, 20, prefer="x:1", held=5, rule=SURE)).hears(L2)
    played.asks(wait(L2)).hears(writes(L2, "", 2)).asks(shows(L2, "", 2), wait(L2)).hears(over(L2))
    played.asks(ends(L2, "", over(L2)), Close(L2))
    played.asks(told("2 of 3 tokens by large, in 2 turns")).ends(over(L2))


def test_the_large_model_may_begin() -> None:
    start_large = replace(EAD, start="large", keep=True)
    played = play(start_large).asks(Note("in_engine"), opens("large", rule={**SURE, "_keep": 1}))
    played.hears(L1).asks(wait(L1)).hears(fired(L1)).asks(Close(L1))
    played.asks(opens("small", rule={**UNSURE, "_keep": 1}))


def test_who_was_handed_the_pen_writes_at_least_one_token() -> None:
    """Or two models of which neither wants to would hand it to and fro for ever."""
    rule = {"": "entropy", "_threshold": 1.0}
    played = play(NEXT).asks(Note("in_engine"), opens("small", rule=rule)).hears(S1)
    played.asks(wait(S1)).hears(fired(S1)).asks(Close(S1))
    played.asks(opens("large", rule={**rule, "_dwell": 1, "_below": 1})).hears(L1)
    played.asks(wait(L1)).hears(writes(L1, "7", 20)).asks(shows(L1, "7", 20), wait(L1))
    played.hears(fired(L1)).asks(Close(L1))
    played.asks(opens("small", 20, prefer="a:1", held=3, rule={**rule, "_dwell": 1}))


@pytest.mark.parametrize(
    ("end", "tokens"),
    [
        (Finished(L1, "stop"), (2,)),
        (Finished(L1, "stop", 13), (13,)),
        (Finished(L1, "length"), (21,)),
        (Finished(L1, None), (21,)),
    ],
)
def test_the_end_is_that_of_the_model_that_comes_to_it(
    end: Finished, tokens: tuple[int, ...]
) -> None:
    named = replace(end, reason=end.reason or "stop")
    played = to_the_large_model().asks(wait(L1)).hears(writes(L1, "", *tokens))
    played.asks(shows(L1, "", *tokens), wait(L1)).hears(end).asks(ends(L1, "", named), Close(L1))
    played.asks(told("1 of 2 tokens by large, in 1 turn")).ends(named)


def test_the_models_go_on_alone_when_the_other_is_lost() -> None:
    played = to_the_large_model().asks(wait(L1)).hears(failed(L1))
    played.asks(opens("small", 10, prefer="a:1", held=4)).hears(S2)
    played.asks(wait(S2)).hears(over(S2)).asks(ends(S2, "", over(S2)), Close(S2))
    played.asks(told("0 of 1 tokens by large, in 1 turn", "large_failed")).ends(over(S2))


def test_a_model_that_is_lost_at_once_leaves_all_to_the_other() -> None:
    played = play(EAD).asks(Note("in_engine"), opens("small", rule=UNSURE)).hears(S1)
    played.asks(wait(S1)).hears(failed(S1)).asks(opens("large")).hears(L1)
    played.asks(wait(L1)).hears(failed(L1))
    played.asks(told("0 of 0 tokens by large, in 1 turn", "small_failed")).ends(failed(L1))


def test_the_dwell_goes_on_at_another_backend() -> None:
    played = to_the_large_model().asks(wait(L1)).hears(writes(L1, " is", 20))
    played.asks(shows(L1, " is", 20), wait(L1)).hears(failed(L1, sent=True, spare=True))
    avoid = frozenset({"x:1"})
    played.asks(opens("large", 10, 20, avoid=avoid, rule={**SURE, "_since": 1}))


def test_a_seed_becomes_another_one_with_every_hand_off() -> None:
    asked = chat(seed=7)
    first, second = (opens("small", *ids, asked=asked).request for ids in ((), (10,)))
    played = play(EAD, asked).asks(
        Note("in_engine"), opens("small", asked=asked, seed=7, rule=UNSURE)
    )
    played.hears(S1).asks(wait(S1)).hears(writes(S1, "It", 10)).asks(shows(S1, "It", 10), wait(S1))
    played.hears(fired(S1)).asks(Close(S1))
    played.asks(opens("large", 10, asked=asked, seed=7 + 7919, rule=SURE))
    assert first.body["prompt"] != second.body["prompt"]


# --------------------------------------------------------------------------- without a gate


def drawn(of: Attempt, *pieces: tuple[str, int, int]) -> Delta:
    """Tokens, each with its text, its id, and how many alternatives were as likely."""
    tokens = [
        Token(
            text, number, -math.log(n), tuple(Alternative(f"{k}", -math.log(n)) for k in range(n))
        )
        for text, number, n in pieces
    ]
    return Delta(of, "".join(text for text, *_ in pieces), (*tokens,))


def kept(of: Attempt, text: str, said: Delta, count: int) -> Emit:
    return Emit(of, text, said.tokens[:count])


def test_a_backend_without_a_gate_is_watched_and_stopped() -> None:
    """Entropies of 1 and 2 bits: the mean of two reaches 1.0 with the second token."""
    eager = replace(EAD, dwell=1)
    played = play(eager, models=able(gate=None)).asks(
        Note("estimated"), opens("small", logprobs=20)
    )
    said = drawn(S1, ("It", 10, 1), (" is", 11, 2), (" so", 12, 4), (" far", 13, 4))
    played.hears(S1).asks(wait(S1)).hears(said)
    played.asks(kept(S1, "It is", said, 2))
    played.asks(Spell("small", CHAT, (*PROMPT, 10, 11))).hears("2 + 2: It is").asks(Close(S1))
    played.asks(opens("large", 10, 11, logprobs=20)).hears(L1)
    back = drawn(L1, (" seven", 20, 1), (".", 21, 1))
    played.asks(wait(L1)).hears(back).asks(kept(L1, " seven", back, 1), Close(L1))
    played.asks(opens("small", 10, 11, 20, prefer="a:1", held=5, logprobs=20))


def test_a_stop_on_the_first_token_of_an_event_writes_nothing() -> None:
    played = play(NEXT, models=able(gate=None)).asks(Note("estimated"), opens("small", logprobs=20))
    played.hears(S1).asks(wait(S1)).hears(drawn(S1, ("It", 10, 4))).asks(Close(S1))
    played.asks(opens("large", logprobs=20))


def test_the_token_at_which_it_fires_may_be_kept_there_too() -> None:
    keeps = replace(NEXT, keep=True)
    played = play(keeps, models=able(gate=None))
    played.asks(Note("estimated"), opens("small", logprobs=20)).hears(S1).asks(wait(S1))
    said = drawn(S1, ("It", 10, 4))
    played.hears(said).asks(kept(S1, "It", said, 1), wait(S1))
    played.hears(drawn(S1, (" is", 11, 1))).asks(Close(S1), opens("large", 10, logprobs=20))


def test_a_text_that_the_tokens_do_not_make_up_is_spelled() -> None:
    """As where a backend tells halves of a character apart, or leaves a space out."""
    said = drawn(S1, ("\ufffd", 10, 1), ("\ufffd", 11, 1), (" far", 12, 4))
    said = replace(said, text="é far")
    played = play(NEXT, models=able(gate=None)).asks(Note("estimated"), opens("small", logprobs=20))
    played.hears(S1).asks(wait(S1)).hears(said).asks(kept(S1, "", said, 2))
    played.asks(Spell("small", CHAT, (*PROMPT, 10, 11))).hears("+é")
    played.asks(Spell("small", CHAT, PROMPT)).hears("+").asks(Close(S1))
    played.asks(opens("large", 10, 11, logprobs=20)).hears(L1)
    back = drawn(L1, ("!", 20, 1))
    played.asks(wait(L1)).hears(back).asks(kept(L1, "é!", back, 1))


def test_a_backend_that_tells_no_alternatives_is_of_no_use() -> None:
    played = play(NEXT, models=able(gate=None)).asks(Note("estimated"), opens("small", logprobs=20))
    played.hears(S1).asks(wait(S1)).hears(writes(S1, "It", 10)).asks(Close(S1), opens("large"))


def test_no_more_alternatives_are_asked_for_than_there_are() -> None:
    models = able(gate=None, max_logprobs=5)
    play(NEXT, models=models).asks(Note("estimated"), opens("small", logprobs=5))


@pytest.mark.parametrize(
    ("estimate", "reaches"), [("low", False), ("middle", True), ("high", True)]
)
def test_the_estimate_says_which_end_of_the_range_counts(estimate: Any, reaches: bool) -> None:
    """Half of the mass is known: the entropy is between 1 bit and many."""
    policy = replace(NEXT, threshold=1.5, estimate=estimate)
    played = play(policy, models=able(gate=None))
    played.asks(Note("estimated"), opens("small", logprobs=20)).hears(S1).asks(wait(S1))
    token = Token("It", 10, math.log(0.5), (Alternative("It", math.log(0.5)),))
    said = Delta(S1, "It", (token,))
    played.hears(said).asks(Close(S1) if reaches else kept(S1, "It", said, 1))


def test_a_gate_on_one_side_only_is_an_estimate_on_the_other() -> None:
    models = dict(able().models)
    models["large"] = able(gate=None).models["large"]
    played = play(EAD, models=Fleet(models)).asks(Note("estimated"), opens("small", rule=UNSURE))
    played.hears(S1).asks(wait(S1)).hears(fired(S1)).asks(Close(S1), opens("large", logprobs=20))


__all__ = ["S3", "spent"]

"""The token gate: single tokens are the large model's, the rest is the small one's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies.gate.chance import uniform
from policies.token_gate import TokenGate
from router.faults import Blame, Fault
from router.steps import (
    Alternative,
    Attempt,
    Close,
    Delta,
    Emit,
    Failed,
    Finished,
    Note,
    Open,
    Route,
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
    able,
    candidate,
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
    {**PAIR, "artifact": "gate-1"},
    {**PAIR, "artifact": "gate-1", "threshold": 0.4, "optimistic": True},
    {**PAIR, "rule": "entropy", "threshold": 0.45, "burst": 3},
    {**PAIR, "rule": "random", "rate": 0.1, "optimistic": True, "alone": "small"},
    {**PAIR, "artifact": "gate-1", "reasoning": True},
)
NONSENSE: tuple[dict[str, Any], ...] = (
    PAIR,
    {"small": "small", "large": "small", "artifact": "gate-1"},
    {**PAIR, "artifact": "../gate"},
    {**PAIR, "artifact": "gate-1", "threshold": 1.5},
    {**PAIR, "artifact": "gate-1", "burst": 0},
    {**PAIR, "artifact": "gate-1", "burst": 2, "optimistic": True},
    {**PAIR, "rule": "entropy"},
    {**PAIR, "rule": "entropy", "threshold": 1, "artifact": "gate-1"},
    {**PAIR, "rule": "random"},
    {**PAIR, "rule": "random", "rate": 2},
    {**PAIR, "rule": "chance", "rate": 0.1},
)

LEARNED = TokenGate(**PAIR, artifact="gate-1", threshold=0.5)
RULE = {"": "neural", "_threshold": 0.5, "_artifact": "gate-1"}
HOPEFUL = replace(LEARNED, optimistic=True)
NAMING: dict[str, Any] = {"logprobs": 1, "return_tokens_as_token_ids": True, "rule": RULE}


def told(detail: str, reason: str = "in_engine") -> Note:
    return Note(reason, detail)


def to_the_first_firing() -> Playbook:
    """The small model has written 10 and 11 when its gate fires."""
    played = play(LEARNED).asks(Note("in_engine"), opens("small", rule=RULE)).hears(S1)
    played.asks(wait(S1)).hears(writes(S1, "It", 10))
    played.asks(shows(S1, "It", 10), wait(S1)).hears(writes(S1, " is", 11))
    played.asks(shows(S1, " is", 11), wait(S1)).hears(writes(S1, "", GATE))
    return played.asks(wait(S1)).hears(fired(S1)).asks(Close(S1))


def to_the_second_turn() -> Playbook:
    """The large model has written 20, and the small one is asked to go on."""
    played = to_the_first_firing().asks(opens("large", 10, 11, max_tokens=1)).hears(L1)
    played.asks(wait(L1)).hears(writes(L1, " seven", 20)).asks(shows(L1, " seven", 20))
    played.asks(wait(L1)).hears(spent(L1)).asks(Close(L1))
    return played.asks(opens("small", 10, 11, 20, prefer="a:1", held=5, rule=RULE)).hears(S2)


def test_the_large_model_writes_the_token_at_which_the_gate_fires() -> None:
    played = to_the_second_turn().asks(wait(S2)).hears(writes(S2, ".", 12))
    played.asks(shows(S2, ".", 12), wait(S2)).hears(writes(S2, "", 2))
    played.asks(shows(S2, "", 2), wait(S2)).hears(over(S2)).asks(ends(S2, "", over(S2)), Close(S2))
    played.asks(told("1 of 5 tokens by large, in 1 turn")).ends(over(S2))


def test_it_goes_back_to_the_backends_that_hold_the_prefix() -> None:
    played = to_the_second_turn().asks(wait(S2)).hears(writes(S2, "", GATE))
    played.asks(wait(S2)).hears(fired(S2)).asks(Close(S2))
    played.asks(opens("large", 10, 11, 20, max_tokens=1, prefer="x:1", held=6)).hears(L2)
    played.asks(wait(L2)).hears(writes(L2, "", 2)).asks(shows(L2, "", 2), wait(L2)).hears(over(L2))
    played.asks(ends(L2, "", over(L2)), Close(L2))
    played.asks(told("2 of 4 tokens by large, in 2 turns")).ends(over(L2))


def test_a_burst_is_several_tokens_of_the_large_model() -> None:
    rule = {"": "entropy", "_threshold": 0.45}
    played = play(TokenGate(**PAIR, rule="entropy", threshold=0.45, burst=3))
    played.asks(Note("in_engine"), opens("small", rule=rule)).hears(S1).asks(wait(S1))
    played.hears(fired(S1)).asks(Close(S1), opens("large", max_tokens=3)).hears(L1)
    for token in (20, 21, 22):
        played.asks(wait(L1)).hears(writes(L1, "a", token)).asks(shows(L1, "a", token))
    played.asks(wait(L1)).hears(spent(L1)).asks(Close(L1))
    played.asks(opens("small", 20, 21, 22, prefer="a:1", held=3, rule=rule))


# ------------------------------------------------------------------------------------- its ends


def test_a_token_that_the_client_stops_at_ends_the_answer_whoever_writes_it() -> None:
    asked = chat(stop_token_ids=[13])
    played = play(LEARNED, asked).asks(
        Note("in_engine"), opens("small", asked=asked, stop_token_ids=(13,), rule=RULE)
    )
    end = Finished(S1, "stop", 13)
    played.hears(S1).asks(wait(S1)).hears(writes(S1, "", 13)).asks(shows(S1, "", 13))
    played.asks(wait(S1)).hears(end).asks(ends(S1, "", end), Close(S1))
    played.asks(told("0 of 1 tokens by large, in 0 turns")).ends(end)


def test_the_last_token_that_there_is_room_for_ends_the_answer() -> None:
    asked = chat(max_tokens=1)
    played = play(LEARNED, asked)
    played.asks(Note("in_engine"), opens("small", asked=asked, rule=RULE, max_tokens=1)).hears(S1)
    played.asks(wait(S1)).hears(fired(S1)).asks(Close(S1))
    played.asks(opens("large", asked=asked, max_tokens=1)).hears(L1).asks(wait(L1))
    played.hears(writes(L1, "7", 20)).asks(shows(L1, "7", 20), wait(L1)).hears(spent(L1))
    played.asks(ends(L1, "", spent(L1)), Close(L1))
    played.asks(told("1 of 1 tokens by large, in 1 turn")).ends(spent(L1))


def test_a_burst_is_not_longer_than_the_answer() -> None:
    asked = chat(max_tokens=2)
    gate = TokenGate(**PAIR, rule="random", rate=1.0, burst=8)
    steps = gate.route(asked, able())
    said = [steps.send(reply) for reply in (None, PROMPT, None, S1, fired(S1), None)]
    assert said[-1] == opens("large", asked=asked, max_tokens=2)


def test_a_backend_that_stops_at_its_own_limit_ends_the_answer() -> None:
    played = play(LEARNED).asks(Note("in_engine"), opens("small", rule=RULE)).hears(S1)
    played.asks(wait(S1)).hears(writes(S1, "It", 10)).asks(shows(S1, "It", 10), wait(S1))
    played.hears(spent(S1)).asks(ends(S1, "", spent(S1)), Close(S1))
    played.asks(told("0 of 1 tokens by large, in 0 turns")).ends(spent(S1))


# ----------------------------------------------------------------------------------- optimistic


def hopeful() -> Playbook:
    """The small model goes on from its own 12 while the large one writes."""
    played = play(HOPEFUL).asks(Note("in_engine"), opens("small", **NAMING)).hears(S1)
    played.asks(wait(S1)).hears(candidate(S1, 12)).asks(wait(S1)).hears(fired(S1))
    played.asks(Close(S1), opens("large", max_tokens=1)).hears(L1)
    return played.asks(opens("small", 12, prefer="a:1", held=3, **NAMING)).hears(S2)


def test_the_branch_is_kept_if_the_large_model_writes_the_same() -> None:
    played = hopeful().asks(wait(L1, S2)).hears(writes(S2, " so", 13))
    played.asks(wait(L1, S2)).hears(writes(L1, "It", 12))
    played.asks(shows(L1, "It", 12), wait(L1, S2)).hears(over(S2)).asks(wait(L1))
    played.hears(spent(L1)).asks(Close(L1), shows(S2, " so", 13), ends(S2, "", over(S2)), Close(S2))
    played.asks(told("1 of 2 tokens by large, in 1 turn, 1 of 1 guesses kept")).ends(over(S2))


def test_the_branch_is_dropped_unseen_if_it_writes_another() -> None:
    played = hopeful().asks(wait(L1, S2)).hears(writes(S2, " so", 13))
    played.asks(wait(L1, S2)).hears(writes(L1, "Seven", 20))
    played.asks(shows(L1, "Seven", 20), wait(L1, S2)).hears(spent(L1)).asks(Close(L1), Close(S2))
    played.asks(opens("small", 20, prefer="a:1", held=3, **NAMING))


def test_a_branch_that_broke_meanwhile_is_begun_anew() -> None:
    played = hopeful().asks(wait(L1, S2)).hears(writes(S2, " so", 13))
    played.asks(wait(L1, S2)).hears(failed(S2, spare=True))
    played.asks(wait(L1)).hears(writes(L1, "It", 12)).asks(shows(L1, "It", 12), wait(L1))
    played.hears(spent(L1)).asks(Close(L1), Close(S2))
    played.asks(opens("small", 12, prefer="a:1", held=3, **NAMING))


def test_the_branch_is_dropped_at_the_answers_end() -> None:
    played = hopeful().asks(wait(L1, S2)).hears(writes(L1, "", 2))
    played.asks(shows(L1, "", 2), wait(L1, S2)).hears(over(L1))
    played.asks(ends(L1, "", over(L1)), Close(L1), Close(S2))
    played.asks(told("1 of 1 tokens by large, in 1 turn, 0 of 1 guesses kept")).ends(over(L1))


def test_numbers_asked_of_the_engine_are_not_shown_for_texts() -> None:
    """To know the candidate, the engine is told to write ids where texts stand."""
    played = hopeful().asks(wait(L1, S2))
    played.hears(writes(L1, "It", 12)).asks(shows(L1, "It", 12), wait(L1, S2)).hears(spent(L1))
    numbered = Token("token_id:13", 13, -0.1, (Alternative("token_id:13", -0.1),))
    played.asks(Close(L1), wait(S2)).hears(Delta(S2, " so", (numbered,)))
    played.asks(shows(S2, " so", 13))


@pytest.mark.parametrize("spoiler", ["logprobs", "no gate"])
def test_without_what_it_needs_nothing_is_guessed(spoiler: str) -> None:
    gate = TokenGate(**PAIR, rule="random", rate=0.5, optimistic=True)
    asked = chat(logprobs=True) if spoiler == "logprobs" else CHAT
    steps = gate.route(asked, able(gate=None if spoiler == "no gate" else GATE))
    opened = [steps.send(reply) for reply in (None, PROMPT, None)][-1]
    assert isinstance(opened, Open)
    assert "return_tokens_as_token_ids" not in opened.request.body


# ------------------------------------------------------------------------------------- failures


def test_without_the_large_model_the_small_one_finishes_without_a_gate() -> None:
    played = to_the_first_firing().asks(opens("large", 10, 11, max_tokens=1)).hears(L1)
    played.asks(wait(L1)).hears(failed(L1))
    played.asks(opens("small", 10, 11, prefer="a:1", held=5)).hears(S2)
    played.asks(wait(S2)).hears(over(S2)).asks(ends(S2, "", over(S2)), Close(S2))
    played.asks(told("0 of 2 tokens by large, in 1 turn", "large_failed")).ends(over(S2))


def test_without_the_small_model_the_large_one_finishes() -> None:
    played = to_the_second_turn().asks(wait(S2)).hears(failed(S2, sent=True))
    played.asks(opens("large", 10, 11, 20, prefer="x:1", held=6)).hears(L2)
    played.asks(wait(L2)).hears(writes(L2, ".", 12)).asks(shows(L2, ".", 12), wait(L2))
    played.hears(over(L2)).asks(ends(L2, "", over(L2)), Close(L2))
    played.asks(told("2 of 4 tokens by large, in 2 turns", "small_failed")).ends(over(L2))


def test_without_either_the_answer_fails_and_owns_up_to_what_was_sent() -> None:
    played = to_the_second_turn().asks(wait(S2)).hears(failed(S2))
    played.asks(opens("large", 10, 11, 20, prefer="x:1", held=6)).hears(L2)
    played.asks(wait(L2)).hears(failed(L2))
    played.asks(told("1 of 3 tokens by large, in 2 turns", "small_failed"))
    played.ends(failed(L2, sent=True))


def test_a_turn_goes_on_at_another_backend_from_the_token_reached() -> None:
    played = play(LEARNED).asks(Note("in_engine"), opens("small", rule=RULE)).hears(S1)
    played.asks(wait(S1)).hears(writes(S1, "It", 10)).asks(shows(S1, "It", 10), wait(S1))
    played.hears(failed(S1, sent=True, spare=True))
    rule = {**RULE, "_since": 1}
    played.asks(opens("small", 10, avoid=frozenset({"a:1"}), rule=rule))


def test_chance_tosses_each_positions_own_coin_at_another_backend_too() -> None:
    gate = TokenGate(**PAIR, rule="random", rate=0.5)
    heard = (None, PROMPT, None, S1, writes(S1, "It", 10), None, failed(S1, spare=True))
    steps = gate.route(CHAT, able())
    asked = [step for step in (steps.send(reply) for reply in heard) if isinstance(step, Open)]
    first, second = (step.request.body["vllm_xargs"]["tandem_gate_seed"] for step in asked)
    seeds, positions = np.array([first, second]), np.array([1, 0])
    assert len(set(uniform(seeds, positions))) == 1


def test_a_token_that_came_before_its_call_broke_is_not_written_twice() -> None:
    played = to_the_first_firing().asks(opens("large", 10, 11, max_tokens=1)).hears(L1)
    played.asks(wait(L1)).hears(writes(L1, " seven", 20)).asks(shows(L1, " seven", 20), wait(L1))
    played.hears(failed(L1, sent=True, spare=True))
    played.asks(opens("small", 10, 11, 20, prefer="a:1", held=5, rule=RULE))


def test_an_answer_that_was_all_there_when_its_call_broke_is_complete() -> None:
    asked = chat(max_tokens=1, stop="zz")
    played = play(LEARNED, asked)
    played.asks(Note("in_engine"), opens("small", asked=asked, rule=RULE, max_tokens=1)).hears(S1)
    played.asks(wait(S1)).hears(writes(S1, "jaz", 10)).asks(Emit(S1, "ja", (Token("jaz", 10),)))
    played.asks(wait(S1)).hears(failed(S1, sent=True, spare=True))
    unsent = opens("small", 10, asked=asked, max_tokens=1, avoid=frozenset({"a:1"}))
    end = Finished(S2, "length")
    played.asks(unsent).hears(S2).asks(ends(S2, "z", end), Close(S2))
    played.asks(told("0 of 1 tokens by large, in 0 turns")).ends(end)


@pytest.mark.parametrize("blame", [Blame.CLIENT, Blame.GATEWAY])
def test_what_no_model_could_answer_is_returned_at_once(blame: Blame) -> None:
    played = play(LEARNED).asks(Note("in_engine"), opens("small", rule=RULE)).hears(S1)
    played.asks(wait(S1)).hears(failed(S1, blame))
    played.asks(told("0 of 0 tokens by large, in 0 turns")).ends(failed(S1, blame))


def test_a_refusal_of_the_large_model_drops_the_branch() -> None:
    played = hopeful().asks(wait(L1, S2)).hears(failed(L1, Blame.CLIENT)).asks(Close(S2))
    played.asks(told("0 of 0 tokens by large, in 1 turn, 0 of 1 guesses kept")).ends(
        failed(L1, Blame.CLIENT)
    )


def test_a_model_without_a_backend_is_lost() -> None:
    nowhere = Attempt(-1, "small", "")
    played = play(LEARNED).asks(Note("in_engine"), opens("small", rule=RULE)).hears(nowhere)
    played.asks(wait(nowhere)).hears(failed(nowhere)).asks(opens("large"))


def test_a_backend_that_keeps_its_token_ids_to_itself_is_of_no_use() -> None:
    played = play(LEARNED).asks(Note("in_engine"), opens("small", rule=RULE)).hears(S1)
    played.asks(wait(S1)).hears(Delta(S1, "It")).asks(Close(S1), opens("large"))
    played = play(LEARNED).asks(Note("in_engine"), opens("small", rule=RULE)).hears(S1)
    played.asks(wait(S1)).hears(Delta(S1, "It", (Token("It", None, -0.1),)))
    played.asks(Close(S1), opens("large"))


# ------------------------------------------------------------------------------ without a gate


def test_chance_is_tossed_here_where_the_engine_has_no_gate() -> None:
    gate = TokenGate(**PAIR, rule="random", rate=1.0)
    played = play(gate, models=able(gate=None))
    played.asks(Note("estimated"), opens("small", logprobs=20)).hears(S1).asks(wait(S1))
    played.hears(writes(S1, "It is", 10, 11)).asks(Close(S1), opens("large", max_tokens=1))


def test_a_learned_gate_runs_nowhere_but_in_an_engine() -> None:
    why = "the engines of small have no gate, and a learned one runs nowhere else"
    played = Playbook(LEARNED, CHAT, able(gate=None)).asks(Note("one_model", why))
    played.asks(Route("large", CHAT)).hears(over(L1)).ends(over(L1))


def test_who_answers_alone_can_be_chosen() -> None:
    gate = replace(LEARNED, alone="small")
    played = Playbook(gate, CHAT, able(token_ids=False))
    played.asks(Note("one_model", "the backends of small neither take nor give token ids"))
    played.asks(Route("small", CHAT)).hears(failed(S1, sent=True)).ends(failed(S1, sent=True))


def test_a_fault_of_the_spelling_counts_as_the_models() -> None:
    fault = Failed(Attempt(-1, "small", "a:1"), Fault(Blame.BACKEND, "no /detokenize"))
    played = play(LEARNED).asks(Note("in_engine"), opens("small", rule=RULE)).hears(S1)
    played.asks(wait(S1)).hears(writes(S1, "", 10, GATE)).asks(shows(S1, "", 10), wait(S1))
    spell = Spell("small", CHAT, (*PROMPT, 10))
    played.hears(fired(S1)).asks(spell).hears(fault).asks(Close(S1))
    played.asks(spell).hears(fault).asks(opens("large", 10, max_tokens=1))

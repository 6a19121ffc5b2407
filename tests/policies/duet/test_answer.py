"""From a request to the end of its answer, around what differs from policy to policy."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from policies.entropy import Entropy
from router.faults import Blame, Fault
from router.fleet import Fleet
from router.steps import (
    Alternative,
    Attempt,
    Close,
    Delta,
    Emit,
    Failed,
    Finished,
    Next,
    Note,
    Parse,
    Parsed,
    Render,
    Request,
    Route,
    Spell,
    Surface,
    Token,
)
from tests.fleets import failed, request
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

NEXT = Entropy("small", "large", threshold=1.0, window=1, dwell=1)
RULE = {"": "entropy", "_threshold": 1.0, "_dwell": 1}
BACK = {**RULE, "_below": 1}
TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "add"}}]


def one_model(why: str, asked: Request = CHAT, models: Fleet | None = None) -> None:
    """The large model answers, and the client is told why; nothing was asked before."""
    played = Playbook(NEXT, asked, models or able()).asks(Note("one_model", why))
    played.asks(Route("large", asked)).hears(over(L1)).ends(over(L1))


def fleet_of(small: dict[str, Any], large: dict[str, Any]) -> Fleet:
    views = {"small": able(**small).models["small"], "large": able(**large).models["large"]}
    return Fleet(MappingProxyType(views))


# ------------------------------------------------------------------------------------ one model


def test_a_request_that_two_models_cannot_keep_to_goes_to_one() -> None:
    why = "presence_penalty: a penalty counts the tokens of one call"
    one_model(why, chat(presence_penalty=1))


def test_models_with_different_tokenizers_do_not_write_together() -> None:
    models = fleet_of({"tokenizer": (1, 2, 3)}, {"tokenizer": (1, 5, 3)})
    why = (
        "the tokenizers of small and large differ: token 2 of the text that both were asked to "
        "split is 2 for small and 5 for large"
    )
    one_model(why, models=models)
    assert NEXT.misfit(models) == why
    assert NEXT.misfit(able()) is None


@pytest.mark.parametrize("model", ["small", "large"])
def test_models_without_token_ids_do_not_write_together(model: str) -> None:
    lacking, whole = {"token_ids": False}, dict[str, Any]()
    models = fleet_of(lacking, whole) if model == "small" else fleet_of(whole, lacking)
    one_model(f"the backends of {model} neither take nor give token ids", models=models)


def test_tool_calls_need_a_backend_that_reads_them() -> None:
    why = "tools and reasoning: only a backend with vLLM's derender tells them from text"
    one_model(why, chat(tools=TOOLS))


def test_stop_strings_among_tool_calls_are_for_one_model() -> None:
    asked = chat(tools=TOOLS, stop="END")
    why = "stop: in tool calls and reasoning the backend looks for it"
    one_model(why, asked, able(derender=True))


def test_a_prompt_that_does_not_fit_both_models_goes_to_one() -> None:
    models = dict(able().models)
    models["small"] = replace(models["small"], context=3)
    played = play(NEXT, CHAT, Fleet(models))
    played.asks(Note("one_model", "a prompt of 3 tokens does not fit both models"))
    played.asks(Route("large", CHAT))


def test_an_answer_is_not_longer_than_either_context() -> None:
    models = dict(able().models)
    models["large"] = replace(models["large"], context=10)
    asked = request(body={"messages": [], "temperature": 0})
    played = play(NEXT, asked, Fleet(models)).asks(Note("in_engine"))
    played.asks(opens("small", asked=asked, max_tokens=7, rule=RULE))


def test_without_any_limit_none_is_made_up() -> None:
    models = {n: replace(view, context=None) for n, view in able().models.items()}
    asked = request(body={"messages": [], "temperature": 0})
    played = play(NEXT, asked, Fleet(models)).asks(Note("in_engine"))
    played.asks(opens("small", asked=asked, max_tokens=None, rule=RULE))


def test_nothing_to_write_is_for_one_model() -> None:
    asked = chat(max_tokens=0)
    played = play(NEXT, asked).asks(Note("one_model", "nothing is to be written"))
    played.asks(Route("large", asked))


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault(Blame.BACKEND, "cannot connect"), "cannot connect"),
        (Fault(Blame.CLIENT, "Not Found", 404, quotes=True), "404"),
    ],
)
def test_a_backend_that_cannot_tokenize_is_no_fault_of_the_client(fault: Fault, why: str) -> None:
    played = Playbook(NEXT, CHAT, able()).asks(Render("small", CHAT))
    played.hears(Failed(Attempt(-1, "small", "a:1"), fault))
    played.asks(Note("one_model", f"small cannot tell the prompt's tokens: {why}"))
    played.asks(Route("large", CHAT))


def test_a_prompt_that_is_refused_is_the_clients_fault() -> None:
    refused = failed(Attempt(-1, "small", "a:1"), Blame.CLIENT)
    Playbook(NEXT, CHAT, able()).asks(Render("small", CHAT)).hears(refused).ends(refused)


def test_a_prompt_of_token_ids_needs_no_template() -> None:
    asked = request(Surface.COMPLETIONS, body={"prompt": [1, 2, 3], "temperature": 0})
    played = Playbook(NEXT, asked, able()).asks(Note("in_engine"))
    played.asks(opens("small", asked=asked, max_tokens=16, rule=RULE))


def test_a_prompt_in_a_list_of_one_is_rendered_by_itself() -> None:
    asked = request(Surface.COMPLETIONS, body={"prompt": ["?"], "temperature": 0})
    steps = NEXT.route(asked, able())
    step = next(steps)
    assert isinstance(step, Render)
    assert step.request.body["prompt"] == "?"


# ---------------------------------------------------------------------------- what travels along


def test_what_the_client_asks_of_the_sampler_goes_to_both_models() -> None:
    asked = chat(temperature=0.7, top_p=0.9, logit_bias={"5": 1}, vllm_xargs={"theirs": 1})
    fields = {"temperature": 0.7, "top_p": 0.9, "logit_bias": {"5": 1}}
    steps = NEXT.route(asked, able())
    replies: list[Any] = [None, PROMPT, None, S1, fired(S1), None]
    small, large = [step for step in map(steps.send, replies) if hasattr(step, "prefer")]
    for step in (small, large):
        body = getattr(step, "request").body  # noqa: B009
        assert {name: body[name] for name in fields} == fields
        assert body["vllm_xargs"]["theirs"] == 1


def test_log_probabilities_are_those_of_the_model_that_wrote_the_token() -> None:
    asked = chat(logprobs=True, top_logprobs=2)
    played = play(NEXT, asked)
    played.asks(Note("in_engine"), opens("small", asked=asked, logprobs=2, rule=RULE)).hears(S1)
    small = Token("It", 10, -0.1, (Alternative("It", -0.1), Alternative("So", -2.5)))
    large = Token(" is", 20, -0.3, (Alternative(" is", -0.3), Alternative(" was", -1.5)))
    played.asks(wait(S1)).hears(Delta(S1, "It", (small,))).asks(Emit(S1, "It", (small,)))
    played.asks(wait(S1)).hears(fired(S1)).asks(Close(S1))
    played.asks(opens("large", 10, asked=asked, logprobs=2, rule=BACK)).hears(L1)
    played.asks(wait(L1)).hears(Delta(L1, " is", (large,))).asks(Emit(L1, " is", (large,)))


def test_a_gates_settings_are_not_the_clients_to_make() -> None:
    asked = chat(vllm_xargs={"tandem_gate": "random", "tandem_gate_keep": 1})
    played = play(NEXT, asked)
    played.asks(Note("in_engine"), opens("small", asked=asked, rule=RULE))


# --------------------------------------------------------------------------------- stop strings


def stopping(**fields: Any) -> Playbook:
    """The small model has written "The E" when its gate fires."""
    asked = chat(stop=["END"], **fields)
    played = play(NEXT, asked).asks(Note("in_engine"), opens("small", asked=asked, rule=RULE))
    played.hears(S1).asks(wait(S1)).hears(writes(S1, "The E", 10))
    played.asks(Emit(S1, "The ", (Token("The E", 10),)), wait(S1)).hears(fired(S1))
    return played.asks(Close(S1), opens("large", 10, asked=asked, rule=BACK)).hears(L1)


def test_a_stop_string_may_span_a_hand_off() -> None:
    end = Finished(L1, "stop", "END")
    played = stopping().asks(wait(L1)).hears(writes(L1, "ND of", 20))
    played.asks(Emit(L1, "", (Token("ND of", 20),)), ends(L1, "", end), Close(L1))
    played.asks(Note("in_engine", "1 of 2 tokens by large, in 1 turn")).ends(end)


def test_a_stop_string_may_be_kept() -> None:
    end = Finished(L1, "stop", "END")
    played = stopping(include_stop_str_in_output=True).asks(wait(L1)).hears(writes(L1, "ND!", 20))
    played.asks(Emit(L1, "END", (Token("ND!", 20),)), ends(L1, "", end), Close(L1))


def test_what_was_held_back_in_vain_is_written_after_all() -> None:
    played = stopping().asks(wait(L1)).hears(writes(L1, "nd E", 20))
    played.asks(Emit(L1, "End ", (Token("nd E", 20),)), wait(L1)).hears(writes(L1, "", 2))
    played.asks(shows(L1, "", 2), wait(L1)).hears(over(L1)).asks(ends(L1, "E", over(L1)), Close(L1))


# ----------------------------------------------------------------------------- split characters


def spelling(*ids: int, model: str = "small") -> Spell:
    return Spell(model, CHAT, (*PROMPT, *ids))


def split() -> Playbook:
    """The small model has written the first byte of an é when its gate fires."""
    played = play(NEXT).asks(Note("in_engine"), opens("small", rule=RULE)).hears(S1)
    played.asks(wait(S1)).hears(writes(S1, "caf", 10)).asks(shows(S1, "caf", 10), wait(S1))
    played.hears(writes(S1, "", 11)).asks(shows(S1, "", 11), wait(S1)).hears(fired(S1))
    played.asks(spelling(10, 11)).hears("? caf\ufffd").asks(spelling(10)).hears("? caf")
    return played.asks(Close(S1), opens("large", 10, 11, max_tokens=1)).hears(L1)


def test_a_character_split_over_two_models_is_spelled_anew() -> None:
    played = split().asks(wait(L1)).hears(writes(L1, "\ufffd", 20))
    played.asks(shows(L1, "", 20), wait(L1)).hears(spent(L1))
    played.asks(spelling(10, 11, 20, model="large")).hears("? café")
    played.asks(spelling(10, model="large")).hears("? caf").asks(Close(L1))
    rule = {**BACK, "_since": 1}
    played.asks(opens("large", 10, 11, 20, prefer="x:1", held=6, rule=rule)).hears(L2)
    played.asks(wait(L2)).hears(writes(L2, "!", 21)).asks(Emit(L2, "é!", (Token("!", 21),)))


def test_a_character_that_is_never_completed_is_not_shown() -> None:
    played = split().asks(wait(L1)).hears(writes(L1, "", 2)).asks(shows(L1, "", 2), wait(L1))
    played.hears(over(L1)).asks(spelling(10, 11, model="large")).hears("? caf\ufffd")
    played.asks(spelling(10, model="large")).hears("? caf")
    played.asks(ends(L1, "", over(L1)), Close(L1))


def test_bytes_that_make_no_character_are_shown_as_such() -> None:
    played = split().asks(wait(L1)).hears(writes(L1, "", 20)).asks(shows(L1, "", 20), wait(L1))
    played.hears(spent(L1)).asks(spelling(10, 11, 20, model="large")).hears("? caf\ufffd\ufffd")
    played.asks(spelling(10, 11, model="large")).hears("? caf\ufffd")
    played.asks(spelling(10, model="large")).hears("? caf\ufffd")
    played.asks(spelling(10, model="large")).hears("? caf").asks(Close(L1))


def test_a_special_token_at_a_seam_is_no_character() -> None:
    played = play(NEXT).asks(Note("in_engine"), opens("small", rule=RULE)).hears(S1)
    played.asks(wait(S1)).hears(writes(S1, "", 5)).asks(shows(S1, "", 5), wait(S1))
    played.hears(fired(S1)).asks(spelling(5)).hears("?<think>").asks(Close(S1))
    played.asks(opens("large", 5, rule=BACK))


def test_several_tokens_at_once_may_end_inside_a_character() -> None:
    played = play(NEXT).asks(Note("in_engine"), opens("small", rule=RULE)).hears(S1)
    played.asks(wait(S1)).hears(writes(S1, "caf", 10, 11, GATE)).asks(shows(S1, "caf", 10, 11))
    played.asks(wait(S1)).hears(fired(S1)).asks(spelling(10, 11)).hears("? caf\ufffd")
    played.asks(spelling(10)).hears("? caf").asks(Close(S1), opens("large", 10, 11, max_tokens=1))


# -------------------------------------------------------------------------- tool calls, choices


def told(attempt: Attempt, text: str, number: int) -> Emit:
    """A token of an answer that is read as a whole: it counts, its text waits for the end."""
    return Emit(attempt, "", (Token(text, number),))


def test_tool_calls_are_read_out_of_the_whole_answer() -> None:
    asked, models = chat(tools=TOOLS), able(derender=True)
    played = play(NEXT, asked, models)
    played.asks(Note("in_engine"), opens("small", asked=asked, rule=RULE)).hears(S1).asks(wait(S1))
    played.hears(writes(S1, "<tool>", 10)).asks(told(S1, "<tool>", 10), wait(S1))
    played.hears(fired(S1)).asks(Close(S1), opens("large", 10, asked=asked, rule=BACK)).hears(
        L1
    ).asks(wait(L1))
    played.hears(writes(L1, "</tool>", 20)).asks(told(L1, "</tool>", 20), wait(L1)).hears(over(L1))
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}
    played.asks(Parse("large", asked, PROMPT, (10, 20), "stop"))
    end = replace(over(L1), reason="tool_calls")
    played.hears(Parsed(message, "tool_calls")).asks(Emit(L1, "", (), 0, end, message), Close(L1))


def test_an_answer_that_nobody_can_read_is_shown_as_text() -> None:
    asked, models = chat(), able(derender=True)
    policy = replace(NEXT, reasoning=True)
    played = play(policy, asked, models)
    played.asks(Note("in_engine"), opens("small", rule=RULE)).hears(S1).asks(wait(S1))
    played.hears(writes(S1, "So", 10)).asks(told(S1, "So", 10), wait(S1))
    played.hears(writes(S1, "", 2)).asks(told(S1, "", 2), wait(S1)).hears(over(S1))
    played.asks(Parse("large", asked, PROMPT, (10, 2), "stop"))
    played.hears(failed(Attempt(-1, "large", "x:1"))).asks(Spell("small", asked, (10,))).hears("So")
    played.asks(ends(S1, "So", over(S1)), Close(S1))


def test_an_answer_of_nothing_is_not_read() -> None:
    policy = replace(NEXT, reasoning=True)
    played = play(policy, CHAT, able(derender=True))
    played.asks(Note("in_engine"), opens("small", rule=RULE)).hears(S1).asks(wait(S1))
    played.hears(over(S1)).asks(ends(S1, "", over(S1)), Close(S1))


def test_choices_are_written_side_by_side() -> None:
    asked = chat(n=2, seed=7)
    played = play(NEXT, asked)
    played.asks(Note("in_engine"), opens("small", asked=asked, seed=7, rule=RULE)).hears(S1)
    played.asks(opens("small", asked=asked, seed=8, rule=RULE)).hears(S2)
    played.asks(wait(S1, S2)).hears(writes(S2, "7", 10)).asks(shows(S2, "7", 10, choice=1))
    played.asks(wait(S1, S2)).hears(over(S1)).asks(ends(S1, "", over(S1)), Close(S1))
    played.asks(wait(S2)).hears(fired(S2)).asks(Close(S2))
    played.asks(opens("large", 10, asked=asked, seed=8 + 7919, rule=BACK)).hears(L1)
    played.asks(wait(L1)).hears(over(L1)).asks(ends(L1, "", over(L1), choice=1), Close(L1))
    played.asks(Note("in_engine", "0 of 1 tokens by large, in 1 turn")).ends(over(S1))


def test_a_choice_that_fails_makes_the_answer_fail() -> None:
    asked = chat(n=2)
    played = play(NEXT, asked)
    played.asks(Note("in_engine"), opens("small", asked=asked, rule=RULE)).hears(S1)
    played.asks(opens("small", asked=asked, rule=RULE)).hears(S2)
    played.asks(Next((S1, S2))).hears(failed(S1, Blame.CLIENT)).asks(wait(S2)).hears(over(S2))
    played.asks(ends(S2, "", over(S2), choice=1), Close(S2))
    played.asks(Note("in_engine", "0 of 0 tokens by large, in 0 turns"))
    played.ends(failed(S1, Blame.CLIENT, sent=True))

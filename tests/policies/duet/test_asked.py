"""What a client asks, and which requests two models cannot answer together."""

from __future__ import annotations

from typing import Any

import pytest

from policies.duet.asked import Asked, asked_of, one_prompt, token_prompt
from router.steps import Surface
from tests.fleets import request

TOOLS = [{"type": "function", "function": {"name": "add"}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}
PICTURE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}


def asked(body: dict[str, Any], surface: Surface = Surface.CHAT) -> Asked:
    found = asked_of(request(surface, body=body))
    assert isinstance(found, Asked), found
    return found


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"functions": [{}]}, "functions: function calls are parsed by the backend"),
        ({"response_format": {"type": "json_object"}}, "response_format: a grammar starts anew"),
        ({"response_format": SCHEMA}, "response_format: a grammar starts anew"),
        ({"guided_regex": "[0-9]"}, "guided_regex: a grammar starts anew"),
        ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs: a grammar starts anew"),
        ({"tools": TOOLS, "tool_choice": "required"}, "tool_choice: a grammar starts anew"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice: a grammar"),
        ({"presence_penalty": 0.5}, "presence_penalty: a penalty counts"),
        ({"frequency_penalty": -1}, "frequency_penalty: a penalty counts"),
        ({"min_tokens": 5}, "min_tokens: until so many tokens no engine stops"),
        ({"use_beam_search": True}, "use_beam_search: a beam search cannot"),
        ({"prompt_logprobs": 1}, "prompt_logprobs: log-probabilities of the prompt"),
        ({"best_of": 2}, "best_of: the backend compares whole answers"),
        ({"messages": [PICTURE]}, "messages: only text can be handed over"),
        ({"max_tokens": "five"}, "max_tokens: not a count, which the backend will say"),
        ({"n": -1}, "n: not a count, which the backend will say"),
        ({"seed": "x"}, "seed: of a wrong kind, which the backend will say"),
        ({"stop": 5}, "stop: of a wrong kind, which the backend will say"),
        ({"stop_token_ids": 5}, "stop_token_ids: of a wrong kind"),
        ({"vllm_xargs": [1]}, "vllm_xargs: of a wrong kind"),
    ],
    ids=str,
)
def test_what_two_models_cannot_write_is_found_with_a_reason(
    body: dict[str, Any], why: str
) -> None:
    found = asked_of(request(body={"messages": [], **body}))
    assert isinstance(found, str)
    assert found.startswith(why)


@pytest.mark.parametrize("surface", [Surface.EMBEDDINGS, Surface.MESSAGES, Surface.RESPONSES])
def test_other_surfaces_have_no_tokens_to_hand_over(surface: Surface) -> None:
    assert asked_of(request(surface, body={})) == f"{surface.value} has no tokens to hand over"


@pytest.mark.parametrize("prompt", [["a", "b"], [[1, 2], [3]], None, 5, {"a": 1}, [["a"]]], ids=str)
def test_a_completion_has_one_prompt(prompt: Any) -> None:
    body = {"prompt": prompt}
    assert asked_of(request(Surface.COMPLETIONS, body=body)) == "prompt: more than one"


@pytest.mark.parametrize(
    "body",
    [
        {"response_format": {"type": "text"}, "response": 1},
        {"tools": TOOLS, "tool_choice": "none"},
        {"presence_penalty": 0.0, "min_tokens": 0, "best_of": 1, "echo": False},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}]}]},
    ],
    ids=str,
)
def test_what_asks_for_nothing_special_is_in_nobodys_way(body: dict[str, Any]) -> None:
    assert not asked({"messages": [], **body}).tools


def test_a_chat_is_taken_apart() -> None:
    body = {
        "messages": [], "stream": True, "n": 2, "stop": "END", "max_tokens": 9, "seed": 5,
        "max_completion_tokens": 7, "logprobs": True, "top_logprobs": 3, "temperature": 0.5,
        "stop_token_ids": [4], "tools": TOOLS, "user": "ann",
        "vllm_xargs": {"theirs": 1, "tandem_gate": "random", "tandem_gate_rate": 1.0},
    }  # fmt: skip
    assert asked(body) == Asked(
        room=7,
        stops=("END",),
        stop_ids=(4,),
        choices=2,
        seed=5,
        logprobs=3,
        tools=True,
        xargs={"theirs": 1},
        others={"temperature": 0.5, "user": "ann"},
    )


def test_a_completion_has_its_own_default_and_its_own_log_probabilities() -> None:
    assert asked({"prompt": "?"}, Surface.COMPLETIONS).room == 16
    assert asked({"prompt": "?", "logprobs": 2}, Surface.COMPLETIONS).logprobs == 2
    assert asked({"prompt": "?", "logprobs": True}, Surface.COMPLETIONS).logprobs is None
    assert asked({"messages": []}).room is None
    assert asked({"messages": [], "top_logprobs": 3}).logprobs is None


def test_every_call_has_a_seed_of_its_own() -> None:
    one = Asked(seed=5)
    seeds = [one.seed_at(position, choice) for position in range(50) for choice in range(4)]
    assert seeds[0] == 5
    assert len(set(seeds)) == len(seeds)
    assert Asked().seed_at(3, 1) is None


@pytest.mark.parametrize("prompt", [[1, 2], [[1, 2]]])
def test_a_prompt_of_token_ids_is_taken_as_it_is(prompt: Any) -> None:
    assert token_prompt(request(Surface.COMPLETIONS, body={"prompt": prompt})) == (1, 2)


def test_a_prompt_in_a_list_of_one_is_taken_out() -> None:
    inside = one_prompt(request(Surface.COMPLETIONS, body={"prompt": ["?"]}))
    assert (inside.body["prompt"], inside.surface, inside.raw) == ("?", Surface.COMPLETIONS, b"")
    alone = request(Surface.COMPLETIONS, body={"prompt": "?"})
    assert one_prompt(alone) is alone

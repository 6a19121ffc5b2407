"""The ask: what a person said last, in any of the four bodies, without what harnesses add."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.composition.ask import LONGEST, NOISE, Ask, ask_of, asks_of


def chat(*said: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in said]}


@pytest.mark.parametrize(
    "body",
    [
        chat(("user", "What is 3 + 4?")),
        chat(("user", [{"type": "text", "text": "What is 3 + 4?"}, {"type": "image_url"}])),
        {"prompt": "What is 3 + 4?"},
        {"prompt": ["What is 3 + 4?", "And 4 + 4?"]},
        {"input": "What is 3 + 4?"},
        {"input": ["What is 3 + 4?"]},
        {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "What is 3 + 4?"}]}
            ]
        },
    ],
    ids=["chat", "parts", "completion", "completions", "response", "strings", "items"],
)
def test_a_question_is_read_in_every_body(body: dict[str, Any]) -> None:
    assert ask_of(body) == Ask("What is 3 + 4?", length=14)


def test_the_last_turn_of_a_person_counts_and_the_rest_by_its_size() -> None:
    body = chat(("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi!"), ("user", "Why?"))
    assert ask_of({**body, "tools": [{}, {}]}) == Ask("Why?", 4, 9, 2, 2, 9 + 5 + 3)


def test_instructions_stand_where_each_api_has_them() -> None:
    said = chat(("user", "Why?"))
    assert ask_of({**said, "system": "Be brief."}).system == 9
    assert ask_of({**said, "system": [{"type": "text", "text": "Be brief."}]}).system == 9
    assert ask_of({"input": "Why?", "instructions": "Be brief."}).system == 9
    assert ask_of(chat(("developer", "Be brief."), ("user", "Why?"))).system == 9


def test_a_tool_is_no_person() -> None:
    body = chat(
        ("user", "Read the file"),
        ("assistant", [{"type": "tool_use", "id": "1", "name": "read", "input": {}}]),
        ("user", [{"type": "tool_result", "tool_use_id": "1", "content": "secret of the file"}]),
        ("tool", "and another"),
    )
    assert ask_of(body).text == "Read the file"
    items = [{"role": "user", "content": "Read"}, {"type": "function_call_output", "output": "x"}]
    assert ask_of({"input": items}).text == "Read"


@pytest.mark.parametrize("tag", NOISE)
def test_what_harnesses_add_is_left_out(tag: str) -> None:
    noise = f'<{tag} kind="a">\nfiles < and > more\n</{tag}>'
    assert ask_of(chat(("user", f"{noise}Why{noise}?{noise}"))).text == "Why?"
    assert ask_of(chat(("user", f"Why? <{tag}>never closed"))).text == "Why?"


def test_a_turn_of_noise_only_is_no_turn() -> None:
    noise = "<system-reminder>Be good.</system-reminder>"
    body = chat(("user", "Why?"), ("assistant", "So."), ("user", noise))
    assert ask_of(body).text == "Why?"
    assert ask_of(chat(("user", noise))) == Ask("")


def test_other_tags_and_a_files_worth_of_noise() -> None:
    assert ask_of(chat(("user", "What is <b>bold</b>?"))).text == "What is <b>bold</b>?"
    pasted = f"<file_contents>{'x' * 200_000}</file_contents>"
    assert ask_of(chat(("user", pasted + "Why?"))).text == "Why?"


def test_a_long_text_is_cut_and_its_length_kept() -> None:
    asked = ask_of(chat(("user", "word " * 10_000)))
    assert (len(asked.text), asked.length) == (LONGEST, 49_999)


def test_all_turns_of_a_person_or_everything_may_be_read() -> None:
    body = chat(("user", "One"), ("assistant", "Two"), ("user", "Three"))
    assert ask_of(body, "user").text == "Three\nOne"
    assert ask_of(body, "all").text == "Three\nTwo\nOne"
    assert ask_of(body, "all").length == len("Three\nTwo\nOne")


@pytest.mark.parametrize("source", ["ask", "user", "all"])
def test_each_turn_is_seen_as_it_was_seen_then(source: Any) -> None:
    said = [("user", "One"), ("assistant", "Two"), ("user", "Three"), ("user", "Four")]
    then = [ask_of(chat(*said[:end]), source) for end in (1, 3, 4)]
    assert asks_of(chat(*said), source, most=32) == then
    assert asks_of(chat(*said), source, most=2) == then[1:]
    assert asks_of(chat(*said, ("assistant", "Five")), source, most=1) == then[2:]


def test_nobody_said_anything() -> None:
    bodies: list[dict[str, Any]] = [{}, {"messages": []}, {"prompt": [1, 2, 3]}, {"input": None}]
    for body in [*bodies, {"prompt": []}]:
        assert asks_of(body) == []
        assert ask_of(body) == Ask("")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["user", "text"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "messages", "input", "tools"]),
            inner,
            max_size=4,
        )
    ),
)


@given(
    body=st.dictionaries(
        st.sampled_from(["messages", "input", "prompt", "system", "instructions", "tools"]), JSON
    ),
    source=st.sampled_from(["ask", "user", "all"]),
)
def test_any_json_is_read(body: dict[str, Any], source: Any) -> None:
    for asked in asks_of(body, source, most=3):
        assert 0 < len(asked.text) <= LONGEST
        assert asked.length >= len(asked.text)
        hash(asked)

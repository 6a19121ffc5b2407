"""Composing: one answer of OpenAI's shape, whatever a policy emits and whoever wrote it.

The official client's own models read every event and every body, strictly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from router import sse
from router.compose import FLOOR, Composer
from router.refusals import PolicyError
from router.steps import Alternative, Emit, Finished, Request, Surface, Token, Usage
from tests.fleets import attempt, request

SMALL, LARGE = attempt("small", "a:1"), attempt("large", "b:1", 1)
OVER = Finished(LARGE, "length")
USED = Usage(prompt=5, completion=7)
SURFACES = pytest.mark.parametrize("surface", [Surface.CHAT, Surface.COMPLETIONS])
LOGPROBS: Mapping[Surface, Mapping[str, Any]] = {
    Surface.CHAT: {"logprobs": True, "top_logprobs": 2},
    Surface.COMPLETIONS: {"logprobs": 2},
}
KINDS: Mapping[tuple[Surface, bool], type[BaseModel]] = {
    (Surface.CHAT, True): ChatCompletionChunk,
    (Surface.CHAT, False): ChatCompletion,
    (Surface.COMPLETIONS, True): Completion,
    (Surface.COMPLETIONS, False): Completion,
}
"""What the official client reads an event, or a body, as."""
REAL = json.loads((Path(__file__).parents[1] / "pair" / "vllm_answers.json").read_text())
"""Answers of a real vLLM."""


TOLD = {"models": {"small": 6, "large": 1}, "cost_usd": 1e-6}
"""What the ledger has to say of an answer."""


def asked(surface: Surface, *, stream: bool, explain: bool = False, **body: Any) -> Request:
    return replace(request(surface, body={"stream": stream, **body}), explain=explain)


def composed(
    asked: Request, steps: Sequence[Emit], *, show_usage: bool = False
) -> list[dict[str, Any]]:
    """The decoded events of a stream, or the one body; each read by the official client."""
    composer = Composer(asked, 1_700_000_000)
    parts = [composer.emit(step) for step in steps]
    if asked.stream:
        parts.append(composer.end(OVER, USED, show_usage=show_usage))
    else:
        parts.append(composer.body(OVER, USED, TOLD))
    if asked.stream:
        decoded = [orjson.loads(event.data) for part in parts for event in sse.read(part)]
    else:
        assert not any(parts[:-1])
        decoded = [orjson.loads(parts[-1])]
    for said in decoded:
        readable(asked, said)
    return decoded


def readable(asked: Request, said: Mapping[str, Any]) -> None:
    """The official client reads it, without making anything of another type fit. It types a piece
    of a completion as if it were the last, so the end of one is tried in place of none.
    """
    if asked.stream and asked.surface is Surface.COMPLETIONS:
        choices = [{**c, "finish_reason": c["finish_reason"] or "stop"} for c in said["choices"]]
        said = {**said, "choices": choices}
    KINDS[asked.surface, asked.stream].model_validate_json(orjson.dumps(said), strict=True)


def choices_of(answer: Sequence[Mapping[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """What was said of each choice, in order."""
    found: dict[int, list[dict[str, Any]]] = {}
    for said in answer:
        for choice in said["choices"]:
            found.setdefault(choice["index"], []).append(choice)
    return found


def text_of(choice: Mapping[str, Any]) -> str:
    said = choice.get("delta") or choice.get("message") or choice
    return said.get("content") or said.get("text") or ""


# -------------------------------------------------------------------------- whatever is emitted

TEXT = st.text(st.characters(codec="utf-8"), max_size=4)
ALTERNATIVE = st.builds(Alternative, TEXT, st.floats(FLOOR, 0))
TOKEN = st.builds(
    Token,
    TEXT,
    st.integers(0, 200_000),
    st.none() | st.floats(FLOOR, 0),
    st.lists(ALTERNATIVE, max_size=3).map(tuple),
)
TOKENS = st.lists(TOKEN, max_size=3).map(tuple)
EMIT = st.builds(Emit, st.sampled_from([SMALL, LARGE]), TEXT, TOKENS, st.integers(0, 2))
ENDING = st.builds(Finished, st.just(SMALL), st.sampled_from(["stop", "length"]), st.just(7))


@dataclass(frozen=True, slots=True)
class Given:
    """What is emitted, and what was asked."""

    asked: Request
    steps: Sequence[Emit]

    @property
    def choices(self) -> set[int]:
        return {step.choice for step in self.steps} or {0}

    def text(self, choice: int) -> str:
        return "".join(step.text for step in self.steps if step.choice == choice)

    def tokens(self, choice: int) -> list[Token]:
        return [t for step in self.steps if step.choice == choice for t in step.tokens]


@st.composite
def anything(draw: st.DrawFn) -> Given:
    """Steps for up to three choices, of which some are finished before the answer ends."""
    surface = draw(st.sampled_from([Surface.CHAT, Surface.COMPLETIONS]))
    body = {
        **(LOGPROBS[surface] if draw(st.booleans()) else {}),
        **({"return_token_ids": True} if draw(st.booleans()) else {}),
    }
    explain, stream = draw(st.booleans()), draw(st.booleans())
    steps = draw(st.lists(EMIT, max_size=8))
    for choice in draw(st.sets(st.integers(0, 2))):
        text, ending = draw(TEXT), draw(ENDING)
        steps.append(Emit(SMALL, text, draw(TOKENS), choice, ending))
    return Given(asked(surface, stream=stream, explain=explain, **body), steps)


@given(anything(), st.booleans())
def test_any_answer_is_whole_and_readable(given: Given, show_usage: bool) -> None:
    answer = composed(given.asked, given.steps, show_usage=show_usage)
    assert len({(said["id"], said["created"], said["model"]) for said in answer}) == 1
    found = choices_of(answer)
    assert found.keys() == given.choices
    for index, said in found.items():
        assert "".join(map(text_of, said)) == given.text(index)
        assert [c["finish_reason"] for c in said[:-1]] == [None] * (len(said) - 1)
        ends = [step.finish for step in given.steps if step.choice == index and step.finish]
        assert said[-1]["finish_reason"] == (ends or [OVER])[0].reason
        assert said[-1]["stop_reason"] == (ends or [OVER])[0].stop_reason
        if given.asked.surface is Surface.CHAT:
            roles = [(c.get("delta") or c.get("message") or {}).get("role") for c in said]
            assert roles == ["assistant"] + [None] * (len(said) - 1)
        told_of_tokens(given, index, said)
    assert sum("usage" in said for said in answer) == (show_usage or not given.asked.stream)


def told_of_tokens(given: Given, index: int, said: Sequence[Mapping[str, Any]]) -> None:
    """Each token comes exactly once in what the client asked for, and nowhere else."""
    tokens, body = given.tokens(index), given.asked.body
    ids = [number for choice in said for number in choice.get("token_ids", ())]
    assert ids == ([token.id for token in tokens] if body.get("return_token_ids") else [])
    reports = [choice["logprobs"] for choice in said if choice["logprobs"] is not None]
    if "logprobs" not in body:
        assert not reports
    elif given.asked.surface is Surface.CHAT:
        entries = [entry for report in reports for entry in report["content"]]
        assert [entry["token"] for entry in entries] == [token.text for token in tokens]
        assert all(bytes(entry["bytes"]).decode() == entry["token"] for entry in entries)
    else:
        lengths = [len(token.text) for token in tokens]
        offsets = [offset for report in reports for offset in report["text_offset"]]
        assert offsets == list(accumulate(lengths, initial=0))[:-1]
        told = [text for report in reports for text in report["tokens"]]
        assert told == [token.text for token in tokens]


@given(st.lists(st.tuples(st.sampled_from([SMALL, LARGE]), TEXT)))
def test_a_stream_tells_the_writer_of_every_piece(pieces: list[tuple[Any, str]]) -> None:
    steps = [Emit(by, text, (Token(text, n),)) for n, (by, text) in enumerate(pieces)]
    answer = composed(asked(Surface.CHAT, stream=True, explain=True), steps)
    told = [(c["tandem"]["model"], c["tandem"]["tokens"], text_of(c["choices"][0])) for c in answer]
    assert told[:-1] == [(by.model, [n], text) for n, (by, text) in enumerate(pieces)]
    assert told[-1] == ("large", [], ""), "the end, in the name of who came to it"


# ---------------------------------------------------------------------------------- one by one


@pytest.mark.parametrize(
    ("surface", "name"),
    [
        (Surface.CHAT, "chat: logprobs and ids"),
        (Surface.COMPLETIONS, "completion: logprobs and ids"),
        (Surface.COMPLETIONS, "completion: stop id"),
    ],
)
def test_it_says_of_a_choice_what_vllm_says(surface: Surface, name: str) -> None:
    """The tokens of a real answer, emitted one by one, are told as they were there."""
    body, real = REAL[name]["body"], REAL[name]["answer"]["choices"][0]
    steps = [
        Emit(SMALL, token.text, (token,)) for token in tokens_of(real) if real["logprobs"]
    ] or [Emit(SMALL, "", (Token("", real["token_ids"][0]),))]
    end = Finished(SMALL, real["finish_reason"], real["stop_reason"])
    steps.append(Emit(SMALL, "", (), 0, end))
    (answer,) = composed(asked(surface, stream=False, **body), steps)
    (ours,) = answer["choices"]
    theirs = {name: real[name] for name in ours}
    if surface is Surface.CHAT:
        theirs["message"] = {name: real["message"][name] for name in ours["message"]}
    assert ours == theirs


def tokens_of(choice: Mapping[str, Any]) -> list[Token]:
    """A real choice's tokens, as they are heard over `/v1/completions`."""
    report = choice["logprobs"] or {"content": []}
    if "content" in report:
        told = [
            (e["token"], e["logprob"], {t["token"]: t["logprob"] for t in e["top_logprobs"]})
            for e in report["content"]
        ]
    else:
        lists = report["tokens"], report["token_logprobs"], report["top_logprobs"]
        told = list(zip(*lists, strict=True))
    return [
        Token(text, number, logprob, tuple(Alternative(*pair) for pair in top.items()))
        for number, (text, logprob, top) in zip(choice["token_ids"], told, strict=False)
    ]


def test_alternatives_are_as_many_as_the_client_asked_for() -> None:
    """A policy may have asked the backend for more."""
    top = tuple(Alternative(text, -n / 2) for n, text in enumerate("abcd"))
    steps = [Emit(SMALL, "d", (Token("d", 4, -1.5, top),))]
    (chat,) = composed(asked(Surface.CHAT, stream=False, **LOGPROBS[Surface.CHAT]), steps)
    (entry,) = chat["choices"][0]["logprobs"]["content"]
    assert [t["token"] for t in entry["top_logprobs"]] == ["a", "b"]
    for most, told in ((0, {"d"}), (2, {"a", "b", "d"}), (4, {"a", "b", "c", "d"})):
        (answer,) = composed(asked(Surface.COMPLETIONS, stream=False, logprobs=most), steps)
        assert answer["choices"][0]["logprobs"]["top_logprobs"][0].keys() == told


@SURFACES
def test_a_character_split_over_tokens_comes_once_and_so_do_its_tokens(surface: Surface) -> None:
    steps = [Emit(SMALL, "", (Token("", 7, -0.5),)), Emit(LARGE, "é", (Token("é", 8, -1.0),))]
    wanted = asked(surface, stream=True, explain=True, **LOGPROBS[surface], return_token_ids=True)
    first, second, _ = composed(wanted, steps)
    assert (text_of(first["choices"][0]), text_of(second["choices"][0])) == ("", "é")
    assert [c["choices"][0]["token_ids"] for c in (first, second)] == [[7], [8]]
    assert [c["tandem"]["model"] for c in (first, second)] == ["small", "large"]


@SURFACES
def test_nothing_to_tell_is_not_told(surface: Surface) -> None:
    composer = Composer(asked(surface, stream=True), 0)
    assert composer.emit(Emit(SMALL, "", (Token("", 7, -0.5),))) == b""
    assert b"assistant" in composer.emit(Emit(SMALL, "é")) or surface is Surface.COMPLETIONS


def test_who_wrote_which_token_of_a_whole_answer() -> None:
    """Also of text that was held back, or that no token of its own has."""
    steps = [
        Emit(SMALL, "7 ", (Token("7 ", 1), Token("x", 2))),  # "x" may begin a stop string
        Emit(LARGE, "", (Token("", 3),)),
        Emit(LARGE, "xé"),
        Emit(SMALL, "!", (Token("!", 4),), 1),
    ]
    (answer,) = composed(asked(Surface.CHAT, stream=False, explain=True), steps)
    assert answer["tandem"] == {
        "choices": [
            {
                "index": 0,
                "tokens": [
                    {"model": "small", "id": 1, "text": "7 "},
                    {"model": "small", "id": 2, "text": "x"},
                    {"model": "large", "id": 3, "text": ""},
                    {"model": "large", "id": None, "text": "é"},
                ],
            },
            {"index": 1, "tokens": [{"model": "small", "id": 4, "text": "!"}]},
        ]
    }


CALL = {"id": "call-1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
MESSAGE = {
    "role": "assistant", "content": None, "reasoning": "so", "refusal": None, "tool_calls": [CALL],
}  # fmt: skip


def test_a_message_that_was_parsed_takes_the_place_of_text() -> None:
    steps = [
        Emit(SMALL, "", (Token("<call>", 7, -0.5),)),
        Emit(LARGE, "", (), 0, Finished(LARGE, "tool_calls"), MESSAGE),
    ]
    (whole,) = composed(asked(Surface.CHAT, stream=False), steps)
    assert whole["choices"][0]["message"] == MESSAGE
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    wanted = asked(Surface.CHAT, stream=True, **LOGPROBS[Surface.CHAT])
    first, last = (chunk["choices"][0] for chunk in composed(wanted, steps))
    assert first["delta"] == {"role": "assistant", "content": ""}
    assert last["delta"] == {"reasoning": "so", "tool_calls": [{"index": 0, **CALL}]}
    assert last["finish_reason"] == "tool_calls"


@SURFACES
def test_a_choice_ends_once(surface: Surface) -> None:
    composer = Composer(asked(surface, stream=True), 0)
    composer.emit(Emit(SMALL, "7", (), 0, Finished(SMALL, "stop")))
    composer.emit(Emit(SMALL, "8", (), 1))
    with pytest.raises(PolicyError, match="choice 0 has ended"):
        composer.emit(Emit(SMALL, "9"))


@SURFACES
def test_usage_comes_in_a_chunk_of_its_own_if_it_is_asked_for(surface: Surface) -> None:
    steps = [Emit(SMALL, "7")]
    *_, last = composed(asked(surface, stream=True), steps, show_usage=True)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    assert all("usage" not in chunk for chunk in composed(asked(surface, stream=True), steps))


def test_what_a_prefix_cache_held_is_told() -> None:
    composer = Composer(asked(Surface.CHAT, stream=False), 0)
    body = orjson.loads(composer.body(OVER, Usage(5, 7, 4), TOLD))
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    assert body["usage"]["tandem"] == TOLD


def test_an_answer_without_a_word_and_without_a_reason_stopped() -> None:
    composer = Composer(asked(Surface.CHAT, stream=False), 0)
    body = orjson.loads(composer.body(Finished(SMALL), USED, TOLD))
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["choices"][0]["message"]["content"] == ""


def test_names() -> None:
    for surface, prefix, kind in (
        (Surface.CHAT, "chatcmpl", "chat.completion"),
        (Surface.COMPLETIONS, "cmpl", "text_completion"),
    ):
        (body,) = composed(asked(surface, stream=False), [Emit(SMALL, "7")])
        assert (body["id"], body["object"]) == (f"{prefix}-0123456789abcdef01234567", kind)
        assert body["model"] == "auto", "what the client asked for"
        assert body["created"] == 1_700_000_000

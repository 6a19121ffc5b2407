"""Writing a body anew: what changes, what does not, and that no document can imitate a mark."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.reading.documents import Document, Passage
from policies.reading.found import Found, find
from policies.reading.prompts import (
    ANSWER_FROM,
    MAY_REFUSE,
    NOTHING,
    citations,
    cut,
    passages,
    whole,
)
from router.splice import splice
from router.steps import Surface
from tests.policies.reading.bodies import ASK, LEAST, STORY, chat, file, found, text


def first_words(read: Found, *numbers: int) -> list[Passage]:
    """The first 20 characters of these documents, the last one first and with the best score."""
    picked = [
        Passage(number, 0, 20, read.documents[number].text[:20], float(number))
        for number in numbers or range(len(read.documents))
    ]
    return picked[::-1]


def said(changes: Mapping[str, Any]) -> str:
    """The content of the last message."""
    return str(changes["messages"][-1]["content"])


START = STORY[:20]
FIRST = f'[1] <passage document="1">\n{START}\n</passage>'


# --------------------------------------------------------------------------------------- whole


@pytest.mark.parametrize(
    "body",
    [
        chat(f"<document>{STORY}</document>{ASK}"),
        chat([file(STORY), text(ASK)]),
        chat(f"{STORY}\n\n{ASK}"),
    ],
)
def test_documents_in_messages_stay_as_they_are(body: dict[str, Any]) -> None:
    assert whole(found(body)) == {}
    assert cut(found(body), len(STORY)) == ({}, 0)


def test_the_documents_field_is_written_before_the_ask() -> None:
    body = chat("Hello", "Hi", ASK, documents=[{"id": "a", "title": "T", "text": STORY}, "Two."])
    changes = whole(found(body))
    assert changes["documents"] is None
    assert changes["messages"][:2] == body["messages"][:2]
    assert said(changes) == (
        f'<document id="a" title="T">\n{STORY}\n</document>\n\n'
        f'<document id="2">\nTwo.\n</document>\n\n{ASK}'
    )
    assert whole(found(body), inline=False) == {}


def test_a_corpus_is_written_before_the_ask_whatever_becomes_of_the_field() -> None:
    read = find(chat(ASK, documents=["Two."]), Surface.CHAT, LEAST, [Document("h", "", "One.")])
    assert isinstance(read, Found)
    changes = whole(read, inline=False)
    assert changes.keys() == {"messages"}
    assert said(changes) == f'<document id="h">\nOne.\n</document>\n\n{ASK}'


# ------------------------------------------------------------------------------------ passages


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (f"<document>{STORY}</document>\n{ASK}", f"{FIRST}\n\n{ANSWER_FROM}\n\n{ASK}"),
        (f"{ASK}\n<document>{STORY}</document>", f"{FIRST}\n\n{ANSWER_FROM}\n\n{ASK}"),
        (
            f"Read this.\n```\n{STORY}\n```\n{ASK}",
            f"Read this.\n{FIRST}\n\n{ANSWER_FROM}\n\n{ASK}",
        ),
        (f"{STORY}\n\n{ASK}", f"{FIRST}\n\n{ANSWER_FROM}\n\n{ASK}"),
        (f"Summarize.\n\n{STORY}", f"{FIRST}\n\n{ANSWER_FROM}\n\nSummarize."),
        (
            f"<documents>\n<document>{STORY}</document>\n</documents>\n{ASK}",
            f"<documents>\n{FIRST}\n</documents>\n\n{ANSWER_FROM}\n\n{ASK}",
        ),
    ],
)
def test_passages_stand_where_their_document_stood(content: str, wanted: str) -> None:
    read = found(chat(content, temperature=0.5))
    changes = passages(read, first_words(read), refusal=False)
    assert changes == {"messages": [{"role": "user", "content": wanted}]}
    prompt = found({"prompt": content}, Surface.COMPLETIONS)
    assert passages(prompt, first_words(prompt), refusal=False) == {"prompt": wanted}


def test_passages_of_the_field_and_the_word_that_refuses() -> None:
    body = chat(ASK, documents=[{"id": "a", "title": "T", "text": STORY}, "Two.", "Three."])
    read = found(body)
    changes = passages(read, first_words(read, 0, 2), refusal=True)
    assert changes["documents"] is None
    assert said(changes) == (
        f'[1] <passage document="a" title="T">\n{START}\n</passage>\n\n'
        '[2] <passage document="3">\nThree.\n</passage>\n\n'
        f"{ANSWER_FROM} {MAY_REFUSE}\n\n{ASK}"
    )


def test_passages_of_parts_keep_their_marks_and_come_before_the_ask() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:,"}}
    body = chat([text(ASK), {**file(STORY), "cache_control": {"type": "ephemeral"}}, picture])
    read = found(body)
    assert passages(read, first_words(read), refusal=False)["messages"][0]["content"] == [
        text(FIRST.replace('">', '" title="story.txt">'), cache_control={"type": "ephemeral"}),
        text(f"{ANSWER_FROM}\n\n{ASK}"),
        picture,
    ]


def test_passages_of_earlier_turns_stay_in_them() -> None:
    body = chat(f"<document>{STORY}</document>Hello", "Hi", ASK)
    read = found(body)
    messages = passages(read, first_words(read), refusal=False)["messages"]
    assert [message["content"] for message in messages] == [
        f"{FIRST}Hello",
        "Hi",
        f"{ANSWER_FROM}\n\n{ASK}",
    ]
    nothing = passages(found(chat(STORY, "Hi", ASK)), [], refusal=False)["messages"]
    assert nothing[0]["content"] == NOTHING


def test_the_same_passages_make_the_same_prompt_in_whatever_order_they_come() -> None:
    read = found(chat(f"<doc>{STORY}</doc><doc>{STORY}</doc>{ASK}"))
    picked = [*first_words(read), Passage(0, 30, 40, STORY[30:40], 9.0)]
    prompts = [passages(read, order, refusal=True) for order in (picked, picked[::-1])]
    assert prompts[0] == prompts[1]
    assert [each["start"] for each in citations(read, picked)] == [0, 30, 0]


def test_citations() -> None:
    read = found(chat(ASK, documents=[{"id": "a", "title": "T", "text": STORY}]))
    assert citations(read, [Passage(0, 0, 20, START)]) == [
        {"number": 1, "document": "a", "title": "T", "start": 0, "end": 20, "text": START}
    ]


# ----------------------------------------------------------------------------------------- cut


def test_a_document_is_cut_in_its_middle_between_paragraphs() -> None:
    read = found(chat(f"<document>{STORY}</document>{ASK}"))
    changes, missing = cut(read, 1500)
    inside = re.fullmatch(
        rf"<document>(.*)\n\n\[\.\.\. {missing} characters left out \.\.\.\]\n\n(.*)</document>.*",
        said(changes),
        re.DOTALL,
    )
    assert inside
    head, tail = inside.groups()
    assert STORY.startswith(head)
    assert head.endswith("storm.\n\n")
    assert STORY.endswith(tail)
    assert tail.startswith("Chapter")
    assert len(head) + len(tail) + missing == len(STORY)
    assert 1000 < len(head) + len(tail) <= 1500


def test_short_documents_are_not_cut_for_long_ones() -> None:
    body = chat([file(STORY), text(f"<doc>Short.</doc> {ASK}")], documents=[STORY])
    changes, missing = cut(found(body), 2000)
    parts = changes["messages"][0]["content"]
    assert changes["documents"] is None
    assert parts[0]["type"] == "text"
    assert parts[0]["text"].startswith('<document id="2" title="story.txt">\nChapter 0.')
    assert parts[1]["text"].endswith(f"<doc>Short.</doc> {ASK}")
    assert missing > 2 * len(STORY) - 2000
    assert cut(found(body), 0)[1] == 2 * len(STORY) + len("Short.")


# -------------------------------------------------------------------------------- any document

TEXTS = st.lists(
    st.sampled_from([
        "<", "/", ">", "passage", "document", "-2", " ", "\n", "[", "... ", " ...]", "....", '"',
        "&", "a", "\u05e9", "\u6f22", "\ud800", "\0", ". ",
    ]),
    max_size=40,
).map("".join)  # fmt: skip


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_no_document_can_close_its_passage(documents: list[tuple[str, str]]) -> None:
    given_ = [{"title": title, "text": words} for title, words in documents]
    read = find(chat(ASK, documents=given_), Surface.CHAT, LEAST)
    if isinstance(read, str):
        return
    every = [
        Passage(number, 0, len(document.text), document.text)
        for number, document in enumerate(read.documents)
    ]
    for changes in (passages(read, every, refusal=False), whole(read)):
        content = said(changes)
        assert content.endswith(f"\n\n{ASK}")
        marks = re.search(r"<((?:passage|document)(?:-\d+)?)[ >]", content)
        assert marks
        kept = re.findall(rf"<{marks[1]}(?: [^<>\n]*)?>\n(.*?)\n</{marks[1]}>", content, re.DOTALL)
        assert kept == [words for _, words in documents]


@given(TEXTS, st.integers(0, 200))
def test_a_cut_says_how_much_is_missing(words: str, characters: int) -> None:
    read = find(chat(ASK, documents=[words * 5]), Surface.CHAT, LEAST)
    if isinstance(read, str):
        return
    changes, missing = cut(read, characters)
    assert missing >= len(words) * 5 - characters
    if missing:
        mark = re.findall(
            rf"\n\n(\[(\.+) {missing} characters left out (\.+)\])\n\n", said(changes)
        )
        assert len(mark) == 1
        assert f"[{mark[0][1]} " not in words * 5


FIELDS = st.dictionaries(
    st.sampled_from(["model", "tools", "temperature", "x-strange", "system", "metadata"]),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inside: st.lists(inside, max_size=3),
        max_leaves=5,
    ),
)


@given(FIELDS, st.sampled_from(["field", "tags", "parts"]))
def test_what_does_not_change_is_the_clients_byte_for_byte(
    fields: dict[str, Any], where: str
) -> None:
    spaced = {
        "field": chat("Hello", "Hi", ASK, **fields, documents=[STORY]),
        "tags": chat("Hello", "Hi", f"<document>{STORY}</document>{ASK}", **fields),
        "parts": chat("Hello", "Hi", [file(STORY), text(ASK), {"type": "x"}], **fields),
    }[where]
    raw = json.dumps(spaced, indent=3).encode()
    read = found(json.loads(raw))
    for changes in (
        whole(read),
        passages(read, first_words(read), refusal=True),
        cut(read, 500)[0],
    ):
        assert changes.keys() <= {"messages", "documents"}
        sent = splice(raw, spaced, changes)
        again = json.loads(sent)
        assert again == {**spaced, **changes}
        assert {k: v for k, v in again.items() if k not in changes} == {
            k: v for k, v in spaced.items() if k not in changes
        }
        assert again["messages"][:2] == spaced["messages"][:2]
        if not changes:
            assert sent == raw

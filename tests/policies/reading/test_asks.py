"""Asks: the question in a framework's words, and orders that no passages serve."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.reading.asks import question_in, wants_all

QUESTION = "Where had the captain come from?"


@pytest.mark.parametrize(
    "ask",
    [
        QUESTION,
        f"Context information is below.\nGiven it, answer the query.\nQuery: {QUESTION}\nAnswer:",
        f"Use this context to answer the question.\nQuestion: {QUESTION}\nHelpful Answer:",
        f"### Question: {QUESTION}\n\n### Response:",
        f"Q: {QUESTION}",
    ],
)
def test_the_question_is_what_a_line_is_marked_as(ask: str) -> None:
    assert question_in(ask) == QUESTION
    assert not wants_all(ask)


@pytest.mark.parametrize(
    "ask", [f"Question: one?\nQuestion: {QUESTION}", "Question:", "What is a query: a question?"]
)
def test_where_it_is_not_clear_the_ask_is_the_question(ask: str) -> None:
    assert question_in(ask) == ask


@pytest.mark.parametrize(
    "ask",
    [
        "Summarize the following text:",
        "Please summarise this in three sentences.",
        "Can you please translate this into German?",
        "Here is my essay. Proofread it.",
        "TL;DR",
        "Give me a short summary.",
        "Write a one page summary of the report for my manager",
        "A summary in five bullet points, please.",
        "What is this document about?",
        "What are the key takeaways?",
        "List all people who are mentioned.",
        "Fix the spelling.",
        "Answer the query.\nQuery: Summarize the report.\nAnswer:",
        "Fasse den Text zusammen.",
        "Traduisez ce texte en anglais.",
        "Resume el texto.",
        "\u603b\u7ed3\u8fd9\u7bc7\u6587\u7ae0",
        "\u6b21\u306e\u6587\u7ae0\u3092\u8981\u7d04\u3057\u3066\u304f\u3060\u3055\u3044",
    ],
)
def test_orders_about_the_whole_text(ask: str) -> None:
    assert wants_all(ask)


@pytest.mark.parametrize(
    "ask",
    [
        "How does the author summarize his findings?",
        "What was the translation adjustment in other comprehensive income?",
        "Who corrected the mistake?",
        "What is the report's stance on wages?",
        "Which summary of the data is given in table 3?",
        "How does the paper outline the method?",
        "What goals are outlined for new products?",
        "When does the ferry leave?",
        "Is there an abstract?",
    ],
)
def test_questions_are_no_orders(ask: str) -> None:
    assert not wants_all(ask)


@given(st.text(max_size=300))
def test_any_text_is_read(ask: str) -> None:
    assert question_in(ask) in ask
    wants_all(ask)

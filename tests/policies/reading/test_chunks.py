"""Cutting, counting and terms: exact places, any text, time in proportion."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policies.reading import counting
from policies.reading.chunks import spans
from policies.reading.counting import EXACT, tokens
from policies.reading.terms import terms

ANY = st.text(st.characters(), max_size=400)
"""Lone surrogates included."""
PROSE = st.lists(st.sampled_from(["One is here. ", "Two?\n", "\n\n", "三は日本語。", "\u200fאבג "]))


@given(text=ANY | PROSE.map("".join), longest=st.integers(1, 60), share=st.floats(0, 0.9))
@example(text="\r\n \ud800 e\u0301", longest=1, share=0)
@settings(deadline=None)
def test_every_character_but_blanks_is_in_a_piece(text: str, longest: int, share: float) -> None:
    overlap = int(share * longest)
    found = spans(text, longest, overlap)
    assert all(0 <= start < end <= len(text) for start, end in found)
    assert all(end - start <= longest for start, end in found)
    assert found == sorted(found)
    covered = {at for start, end in found for at in range(start, end)}
    assert all(text[at].isspace() for at in range(len(text)) if at not in covered)
    if not overlap:
        assert len(covered) == sum(end - start for start, end in found)


def test_pieces_end_where_sentences_do_and_share_some() -> None:
    text = " ".join(f"This is sentence {at}." for at in range(100))
    found = [text[slice(*span)] for span in spans(text, 120, 45)]
    assert all(piece.startswith("This") and piece.endswith(".") for piece in found)
    assert all(one.split(". ")[-1].rstrip(".") in other for one, other in zip(found, found[1:]))  # noqa: B905, RUF007


def test_in_blocks_it_is_as_at_once() -> None:
    """Twenty blocks' worth of paragraphs: no piece is cut short where a block ends."""
    text = "\n\n".join(
        f"Paragraph {at}. It says {'so ' * (at % 40)}and ends." for at in range(5000)
    )
    found = spans(text, 500)
    assert len(text) > 300_000
    assert all(text[start:].startswith("Para") and text[end - 1] == "." for start, end in found)
    assert sum(end - start < 250 for start, end in found) == 0


HOSTILE = {
    "one line": "word " * 400_000,
    "no blanks": "".join(random.Random(0).choices("abcdefgh", k=2_000_000)),
    "junk": random.Random(0).randbytes(2_000_000).decode("latin-1"),
    "accents": "e" + "\u0301\u0323" * 500_000,
    "blanks": " \n" * 1_000_000,
    "separators": "\u2029" * 700_000,
    "Chinese": "".join(random.Random(0).choices("的一是不了人我在有他。", k=700_000)),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_takes_time_in_proportion(text: str) -> None:
    began = time.perf_counter()
    found = spans(text, 2700, 450)
    assert time.perf_counter() - began < 3, "of a tenth; 20 MB take ten times as long"
    assert len(found) <= len(text) / 1500 + 1


@pytest.mark.parametrize(("longest", "overlap"), [(10, 10), (10, -1), (0, 0)])
def test_an_overlap_that_does_not_fit_is_refused(longest: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        spans("text", longest, overlap)


# --------------------------------------------------------------------------------------- counting


def test_tokens_are_those_of_the_embedders_tokenizer() -> None:
    assert tokens("") == 0
    assert tokens("The keeper of the library") == 5
    assert tokens("中文字") == 3
    assert tokens("word " * 5000) == 5000


def test_what_the_tokenizer_takes_for_one_unknown_word_is_counted_by_its_bytes() -> None:
    assert tokens("x" * 8000) == 1000
    assert tokens("ภาษาไทย" * 100) >= 700 * 3 / 8
    assert tokens("\ud800" * 3) > 0


def test_a_long_text_is_counted_by_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"Word {at} stands. " for at in range(20_000))
    exact = tokens(text)
    monkeypatch.setattr(counting, "EXACT", EXACT // 16)
    assert len(text) > EXACT // 16
    assert tokens(text) == pytest.approx(exact, rel=0.02)


# ------------------------------------------------------------------------------------------ terms


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Revenue of $1,093,095 in 2023.", ["revenue", "of", "1,093,095", "in", "2023"]),
        ("3.14, 2,5. snake_case", ["3.14", "2,5", "snake_case"]),
        ("Cafe\u0301 CAFÉ ﬁne \uff21\uff22\uff23", ["café", "café", "fine", "abc"]),
        ("日本語。中", ["日本", "本語", "中"]),
        ("ใช้ได้", ["ใช", "ช้", "้ไ", "ได", "ด้"]),
        ("ភាសា", ["ភា", "ាស", "សា"]),
        ("ພາສາ", ["ພາ", "າສ", "ສາ"]),
        ("မြန်", ["မြ", "ြန", "န်"]),
        ("שָׁלוֹם עולם", ["שָׁלוֹם", "עולם"]),
        ("مَرْحَبًا بالعالم", ["مَرْحَبًا", "بالعالم"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("안녕하세요 세계", ["안녕하세요", "세계"]),
        ("mixed中文text", ["mixed", "中文", "text"]),
        ("...!? \ud800", []),
    ],
)
def test_terms_of_many_scripts(text: str, found: list[str]) -> None:
    import unicodedata

    assert terms(text) == [unicodedata.normalize("NFKC", each) for each in found]


@given(text=st.text(st.characters(max_codepoint=127)))
def test_plain_text_has_the_terms_that_it_has_beside_others(text: str) -> None:
    assert terms(f"{text} é") == [*terms(text), "é"]


@given(text=ANY)
def test_terms_are_lower_case_without_blanks(text: str) -> None:
    found = terms(text)
    assert all(term and not any(map(str.isspace, term)) for term in found)
    assert terms(text.upper().lower()) == terms(text.upper())

"""The terms of a text that BM25 counts: words and numbers, in any script.

Knows characters, no language: no stemmer and no list of stop words. Where a script writes no
blanks between words, every two neighbouring characters are a term.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from itertools import chain

__all__ = ["terms"]

_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x19E0, 0x19FF),  # Khmer symbols
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),  # Katakana, phonetic
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF),  # Burmese, extended
    (0xAA60, 0xAA7F),
    (0xF900, 0xFAFF),  # Han, for compatibility
    (0x1AFF0, 0x1B16F),  # Kana, extended
    (0x20000, 0x3FFFF),  # Han, rare
)
"""Scripts that are written without blanks, and Chinese characters wherever they are used."""
_PLANES, _SELECTORS = 0x20000, 0xE0100
"""All marks stand below the one, or are the selectors of variants that begin at the other."""
_NUMBER = r"(?:[.,]\d+)*"
"""What may follow a word, and goes on a number: 1,093,095 is one term."""
_ASCII = re.compile(rf"\w+{_NUMBER}", re.ASCII)


def terms(text: str) -> list[str]:
    """Lower-case terms in their order, each as often as it stands there.

    Spellings that look alike (full width, ligatures, accents set apart) are one; an accent stays
    with its letter. Time grows with the square of the length of a run of accents, so hostile text
    must come in pieces.
    """
    if text.isascii():
        return _ASCII.findall(text.lower())
    found: list[str] = []
    for unspaced, word in _patterns().findall(unicodedata.normalize("NFKC", text).lower()):
        if word:
            found.append(word)
        else:
            found.extend(_pairs(unspaced))
    return found


def _pairs(run: str) -> Iterable[str]:
    """Every two neighbours; a character that stands alone is a term itself."""
    if len(run) == 1:
        return [run]
    return (run[at : at + 2] for at in range(len(run) - 1))


@cache
def _patterns() -> re.Pattern[str]:
    """Two groups: a run of a script without blanks, or a word with its accents."""
    unspaced = "".join(f"{chr(first)}-{chr(last)}" for first, last in _UNSPACED)
    marks = _marks()
    run = rf"(?:(?=[\w{marks}])[{unspaced}])+"
    word = rf"[^\W{unspaced}](?:[^\W{unspaced}]|(?![{unspaced}])[{marks}])*{_NUMBER}"
    return re.compile(f"({run})|({word})")


def _marks() -> str:
    """All combining marks, as the inside of a character class."""
    found: list[tuple[int, int]] = []
    for code in chain(range(_PLANES), range(_SELECTORS, _SELECTORS + 0x100)):
        if unicodedata.category(chr(code))[0] == "M":
            if found and found[-1][1] == code - 1:
                found[-1] = (found[-1][0], code)
            else:
                found.append((code, code))
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in found)

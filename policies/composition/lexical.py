"""What can be seen of an ask without understanding it: lengths, digits, code, LaTeX, options.

A few dozen numbers and the character n-grams of the text. Cheap (`tandem bench experts` measures
it), the same in training and in service, and free of any model. It knows the ask and nothing else.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from policies.composition.ask import Ask

Floats: TypeAlias = npt.NDArray[np.float32]

_OPTION = re.compile(r"^[ \t]*\(?([A-K])[.):][ \t]+(\S.*)$", re.MULTILINE)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NEGATED = re.compile(r"\b(?:not|except|least|never|incorrect|false|NOT|EXCEPT)\b")
_CODE = (
    *((sign, None) for sign in ("```", "#include", "=>")),
    *((word, re.compile(rf"\b{word}")) for word in ("def ", "class ", "import ")),
    *((word, re.compile(rf"\b{word}\b")) for word in ("return", "function")),
    (";", re.compile(r";\s*$", re.MULTILINE)),
)
"""Signs of code, and what must be true of them: whether a text holds one at all is soon seen."""
_LATEX = re.compile(r"\$|\\[a-zA-Z]+|\\\(|\\\[")
_STATEMENT = re.compile(r"\b(?:statement|Statement) ?[12]\b|\bI{1,3}\. ")
_ENGLISH = frozenset(
    {
        *("the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "as", "was", "with"),
        *("be", "by", "on", "not", "he", "his", "but", "at", "are", "this", "have", "from", "or"),
        *("had", "an", "they", "which", "one", "you", "were", "her", "all", "she", "there", "we"),
        *("would", "their", "him", "been", "has", "when", "who", "what", "how", "why", "where"),
        *("do", "does", "did", "can"),
    }
)
"""The commonest words: their share tells English prose from other languages, code and lists."""

NAMES = (
    "log_length", "log_words", "log_unique", "word_length", "sentence_length", "digits",
    "uppercase", "punctuation", "symbols", "non_ascii", "cjk", "numbers", "largest_number",
    "options", "option_length", "option_spread", "numeric_options", "stem_length", "lines",
    "question_marks", "blanks", "negated", "statements", "which_of", "code", "latex", "brackets",
    "commas", "quotes", "english", "what", "how", "why", "who", "write", "first_letter",
    "log_system", "log_tools", "log_turns",
)  # fmt: skip
"""What each number is, in order."""


def lexical(ask: Ask) -> Floats:
    """The numbers of `NAMES`, float32; all finite, whatever the text."""
    text = ask.text
    words = text.split()
    options = [*_OPTION.finditer(text)]
    values = [
        math.log1p(ask.length),
        *_words(text, words),
        *_characters(text),
        *_numbers(text),
        *_options(text, options),
        *_forms(text),
        sum(word.lower() in _ENGLISH for word in words) / max(len(words), 1),
        *_asked(text.lower()),
        math.log1p(ask.system),
        math.log1p(ask.tools),
        math.log1p(ask.turns),
    ]
    return np.array(values, dtype=np.float32)


def _words(text: str, words: Sequence[str]) -> list[float]:
    count = max(len(words), 1)
    return [
        math.log1p(len(words)),
        math.log1p(len(set(words))),
        sum(map(len, words)) / count,
        len(words) / max(text.count(". ") + text.count("?") + text.count("\n"), 1),
    ]


def _characters(text: str) -> list[float]:
    """Shares of kinds of characters. Counted once each kind by C code, not one by one here."""
    size = max(len(text), 1)
    kinds = text.encode("utf-8", "replace").translate(_KINDS)
    return [
        *(kinds.count(kind) / size for kind in (b"d", b"u", b"p", b"s")),
        0.0 if text.isascii() else 1 - len(text.encode("ascii", "ignore")) / size,
        0.0 if text.isascii() else len(_CJK.findall(text)) / size,
    ]


_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


def _kinds() -> bytes:
    """A letter for each byte: digit, uppercase, punctuation, symbol, or none of these."""
    table = bytearray(b"." * 256)
    for kind, members in {
        b"d": b"0123456789",
        b"u": bytes(range(65, 91)),
        b"p": b".,;:!?'\"()-",
        b"s": b"\\$^_{}=+*/<>|&#@~%[]`",
    }.items():
        for member in members:
            table[member] = kind[0]
    return bytes(table)


_KINDS = _kinds()


def _numbers(text: str) -> list[float]:
    found = _NUMBER.findall(text)
    longest = max((len(number) for number in found), default=0)
    return [math.log1p(len(found)), float(longest)]


def _options(text: str, options: Sequence[re.Match[str]]) -> list[float]:
    """Of a multiple choice: how many, how long and how alike, and how long the question is."""
    lengths = [len(option[2]) for option in options] or [0]
    mean = sum(lengths) / len(lengths)
    spread = math.sqrt(sum((each - mean) ** 2 for each in lengths) / len(lengths))
    numeric = sum(any(map(str.isdigit, option[2])) for option in options)
    return [
        math.log1p(len(options)),
        math.log1p(mean),
        spread / (mean + 1),
        numeric / max(len(options), 1),
        math.log1p(options[0].start() if options else len(text)),
    ]


def _forms(text: str) -> list[float]:
    """Signs of what kind of text it is."""
    code = sum(
        len(pattern.findall(text)) if pattern else text.count(sign)
        for sign, pattern in _CODE
        if sign in text
    )
    return [
        math.log1p(text.count("\n")),
        math.log1p(text.count("?")),
        float("___" in text),
        math.log1p(len(_NEGATED.findall(text))),
        math.log1p(len(_STATEMENT.findall(text))),
        float("which of the following" in text.lower()),
        math.log1p(code),
        math.log1p(len(_LATEX.findall(text))),
        math.log1p(text.count("(") + text.count("[")),
        math.log1p(text.count(",")),
        math.log1p(text.count('"') + text.count("'")),
    ]


def _asked(lower: str) -> list[float]:
    """Words that say what is wanted, and whether the text begins as a sentence does."""
    return [
        float("what" in lower),
        float("how" in lower),
        float("why" in lower),
        float("who" in lower),
        float("write" in lower),
        float(lower[:1].isalpha()),
    ]


# ------------------------------------------------------------------------------------- n-grams

GRAMS = (2, 5)
"""Characters of the n-grams, from and to: whole words are too rare in a thousand prompts."""
_READ = 2048
"""Characters that n-grams are taken of: enough to tell tasks apart, and soon done."""


def words_in(text: str) -> Counter[str]:
    """The words that n-grams are taken of, lower case: how often each."""
    return Counter(text[:_READ].lower().split())


def grams_of(word: str) -> list[str]:
    """A word's character n-grams, its ends marked by a space; a short one is a gram itself."""
    padded = f" {word} "
    size = len(padded)
    return [
        padded[start : start + length]
        for length in range(GRAMS[0], GRAMS[1] + 1)
        for start in range(max(size - length + 1, 1))
    ]


def grams(words: Counter[str]) -> Counter[str]:
    """The n-grams of some words: how often each."""
    found: Counter[str] = Counter()
    for word, times in words.items():
        for gram in grams_of(word):
            found[gram] += times
    return found

"""Documents that a text sets apart without naming them: by fences, by rulers, or by blank lines.

These are readings of what somebody typed, so they are made with care: where a second reading is
possible the answer is a sentence that says so, and nothing is done. Code is no document: a fence
with a programming language behind it makes a text a talk about code. Linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from policies.reading.tagged import Region, Span, stripped

LONGEST_ASK = 2000
"""Characters of an ask that is told from a document by its place alone."""
SHARE = 10
"""A document is at least so many times as long as an ask that only blank lines set apart."""
LABEL = 200
"""Characters between two fenced documents: a heading, not a part of the text."""
PROSE = frozenset({
    "", "text", "txt", "plain", "plaintext", "markdown", "md", "document", "article", "csv", "tsv",
})  # fmt: skip
"""What may stand behind the marks of a fence around a document."""
_TICKS = re.compile(
    r"^[ ]{0,3}(?P<marks>`{3,40}|~{3,40})[ \t]{0,8}(?P<info>[^\n`]{0,80})$", re.MULTILINE
)
_QUOTES = re.compile(r'"{3}')
_RULER = re.compile(r"^[ ]{0,3}(?:-{3,80}|={3,80})[ \t]{0,80}\r?$", re.MULTILINE)
_PARAGRAPH = re.compile(r"\n[ \t\r]*\n")
_MARKED = re.compile(r"\s*(?:question|query|q|task|instructions?)\s{0,2}[:\uff1a]", re.IGNORECASE)
_CONTEXT_LINE = re.compile(
    r"^(?:context|documents?|passages?)[ ]{0,2}[:\uff1a]", re.IGNORECASE | re.MULTILINE
)
_MARKED_LINE = re.compile(r"^(?:question|q)[ ]{0,2}[:\uff1a]", re.IGNORECASE | re.MULTILINE)
_ASKS = re.compile(
    r"""\s*(?:(?:please|kindly|now|then|also|can\ you|could\ you|would\ you)[\s,]{1,3}){0,3}
    (?:what|who|whom|whose|when|where|which|why|how|is|are|was|were|does|do|did|has|have|can|could
    |should|would|will|summari[sz]e|explain|compare|contrast|list|describe|tell|give|show|find
    |extract|identify|answer|write|rewrite|translate|classify|analy[sz]e|name|provide|outline
    |discuss|evaluate|review|determine|calculate|count|generate|create|draft|quote|cite|locate
    |highlight|based\ on|according\ to|given|using|read|use|from\ the|in\ the\ (?:text|document))\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_ENDS_ASKING = re.compile(r"[?\uff1f\u061f\u2e2e\u037e]\s{0,3}$")
_QUOTED = "\"'\u201c\u2018\u00ab\u201e\u300c"
"""What speech in a story begins with, and a question to a model hardly."""
_CODE = re.compile(
    r"""\s{0,80}(?:(?:def|class|import|from|return|if|elif|else|for|while|try|except|with|const|let|var
    |function|public|private|protected|static|void|int|struct|package|func|fn|impl|use|async|await
    |export|raise|throw|case|assert|select|insert)\b[^.?!]{0,200}[:;{(\[,]?$
    |\#include|//|/\*|\*/|<\?|[@}\])]|.{0,200}[;{}(\[]$|[\w.\[\]]{1,60}\s?[-+|]?=\s|[\w.]{1,60}\(.{0,200}\),?$)
    """,
    re.VERBOSE,
)
_SAMPLE, _CODED = 20_000, 0.4
"""Characters that tell whether a text is code, and the share of their lines that then is."""
_INTRODUCES = re.compile(
    r"\b(?:context|information|document|text|passage|excerpt|source|article|report)s?\b"
    r"[^\n]{0,80}(?:\bbelow\b[^\n]{0,3}|\bfollow(?:s|ing)\b[^\n]{0,3}|:)\s*$|^here (?:is|are)\b",
    re.IGNORECASE,
)
"""What a framework says before the ruler above a document."""
_ANNOUNCES = re.compile(r"\bquestions?\b", re.IGNORECASE)
_CLOSES = re.compile(r"\n[ \t]{0,8}(?:helpful )?answer[ ]{0,2}[:\uff1a]\s*$", re.IGNORECASE)
_ANSWER = re.compile(r"\n[ \t\r]*\n\s*(?:answer|a)\s{0,2}[:\uff1a]\s*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Unclear:
    """Two readings are possible; `why` says which, for people."""

    why: str


def fenced_in(text: str, least: int) -> list[Region] | Unclear:
    """The documents of at least `least` characters between fences, quotes or rulers of a text."""
    ticks = list(_TICKS.finditer(text))
    if is_code(text):
        return []
    if ticks:
        marks = ticks[0]["marks"]
        found = _between(text, _alike(ticks, marks), least)
        if found:
            return found
    quotes = [mark.span() for mark in _QUOTES.finditer(text)]
    if not ticks and (found := _between(text, quotes, least)):
        return found
    return _ruled(text, [mark.span() for mark in _RULER.finditer(text)], least)


def is_code(text: str) -> bool:
    """Whether a text is about code: a fence names a language, or many of its lines are code."""
    return any(_language(mark["info"]) for mark in _TICKS.finditer(text)) or coded(text)


def coded(text: str) -> bool:
    """Whether many lines of a text are code."""
    lines = [line for line in text[:_SAMPLE].splitlines() if line.strip()]
    coded = sum(_CODE.match(line.rstrip()) is not None for line in lines)
    return coded > _CODED * len(lines)


def _language(info: str) -> bool:
    words = info.split()
    return bool(words) and words[0].lower() not in PROSE


def _alike(ticks: Sequence[re.Match[str]], marks: str) -> list[tuple[int, int]]:
    """The fences that may close one with these marks, itself included."""
    return [tick.span() for tick in ticks if tick["marks"].startswith(marks)]


def _between(text: str, marks: Sequence[tuple[int, int]], least: int) -> list[Region] | Unclear:
    """What stands between the first and the second mark, the third and the fourth, and so on."""
    if len(marks) < 2 or marks[-1][0] - marks[0][1] < least:
        return []
    pairs = list(zip(marks[::2], marks[1::2], strict=False))
    gaps = [b[0] - a[1] for (_, a), (b, _) in pairwise(pairs)]
    small = any(close[0] - opened[1] < least for opened, close in pairs)
    if len(marks) % 2 or small or any(gap > LABEL for gap in gaps):
        return Unclear("fences in the text can be paired in more than one way")
    if len(text[: marks[0][0]].strip()) + len(text[marks[-1][1] :].strip()) > LONGEST_ASK:
        return Unclear("the text beside the fences is too long for a question")
    spans = [
        stripped(text, Span(opened[0], opened[1], close[0], close[1])) for opened, close in pairs
    ]
    return [Region(marks[0][0], marks[-1][1], tuple(spans))]


def _ruled(text: str, rulers: Sequence[tuple[int, int]], least: int) -> list[Region] | Unclear:
    """A document between two rulers, or on one side of a single one, with the ask outside."""
    if len(rulers) == 2 and rulers[1][0] - rulers[0][1] >= least:
        (first, start), (end, last) = rulers
        outside = [text[:first].strip(), text[last:].strip()]
        framed = _INTRODUCES.search(outside[0][-LABEL:]) and _ASKS.match(outside[1])
        if (all(outside) and not framed) or max(map(len, outside)) > LONGEST_ASK:
            return Unclear("rulers in the text may be a part of the document")
        return [_ruled_off(text, Span(first, start, end, last))]
    if len(rulers) != 1:
        return []
    first, last = rulers[0]
    before, after = Span(0, 0, first, last), Span(first, last, len(text), len(text))
    for document, ask in ((before, text[last:]), (after, text[:first])):
        short = ask.strip()
        if document.end - document.start >= least and _short(short, text) and _looks(short):
            return [_ruled_off(text, document)]
    return []


def _ruled_off(text: str, span: Span) -> Region:
    return Region(span.first, span.last, (stripped(text, span),))


# ------------------------------------------------------------------------- paragraphs


def parted(text: str) -> Region | Unclear | None:
    """The document of a text whose ask a label, or its first or last paragraph, sets apart.

    None where nothing does.
    """
    if is_code(text):
        return None
    labelled = _labelled(text)
    return _by_paragraph(text) if labelled is None else labelled


def _by_paragraph(text: str) -> Region | Unclear | None:
    """The document of a text whose first or last paragraph is the ask; None where neither is."""
    begins, until = _first_gap(text), _last_gap(text)
    if until is None:
        return Unclear("a line is marked as the question, and a paragraph follows it")
    first, last = text[: begins[0]].strip(), text[until[1] :].strip()
    asked_first = _short(first, text) and _looks(first)
    asked_last = _short(last, text) and _looks(last)
    if not asked_first and not asked_last:
        return None
    if asked_first and _runs_on(first):
        return Unclear("the paragraph with the question may go on with the document")
    begins_so = asked_first or _looks(text.lstrip().partition("\n")[0][:LONGEST_ASK])
    ends_so = asked_last or _looks(text.rstrip().rpartition("\n")[2][:LONGEST_ASK])
    if begins_so and ends_so and not (_MARKED.match(last) and _announces(first)):
        return Unclear("both the first and the last paragraph may be the question")
    return _whole(text, begins[1] if asked_first else 0, until[0] if asked_last else len(text))


def _labelled(text: str) -> Region | None:
    """The document of a framework's prompt: `Question:`, `Context:`, and `Answer:` at its end.

    Each stands there once, and the question before the document: of several, as in a prompt with
    examples, any may be meant.
    """
    closing = _CLOSES.search(text, max(0, len(text.rstrip()) - LABEL))
    asked, given = list(_MARKED_LINE.finditer(text)), list(_CONTEXT_LINE.finditer(text))
    if closing is None or len(asked) != 1 or len(given) != 1:
        return None
    start = given[0].end()
    if not asked[0].end() < given[0].start() <= asked[0].end() + LONGEST_ASK < len(text):
        return None
    inside = _whole(text, start, max(start, closing.start()))
    return Region(given[0].start(), inside.end, inside.spans)


def _first_gap(text: str) -> tuple[int, int]:
    """Between the first paragraph and the rest."""
    gap = _PARAGRAPH.search(text, len(text) - len(text.lstrip()))
    return gap.span() if gap else (0, 0)


def _last_gap(text: str) -> tuple[int, int] | None:
    """Between the rest and the last paragraph, which a line `Question:` may begin.

    None where the only line so marked has a paragraph behind it: either may be the document's.
    """
    end = len(text.rstrip())
    if closing := _ANSWER.search(text, max(0, end - LABEL)):
        end = closing.start()
    marked = list(_MARKED_LINE.finditer(text))
    if len(marked) == 1 and end - marked[0].start() <= LONGEST_ASK:
        behind = _PARAGRAPH.search(text, marked[0].start(), end)
        return None if behind else (marked[0].start(), marked[0].start())
    gaps = list(_PARAGRAPH.finditer(text, max(0, end - LONGEST_ASK - LABEL), end))
    return gaps[-1].span() if gaps else (len(text), len(text))


def _runs_on(first: str) -> bool:
    """Whether lines follow a question within its paragraph that ask nothing themselves."""
    lines = first.splitlines()
    return not _looks(lines[-1]) and any(_ENDS_ASKING.search(line[-8:]) for line in lines[:-1])


def _announces(first: str) -> bool:
    """Whether a first paragraph speaks of a question that is yet to come, and asks none."""
    return _ANNOUNCES.search(first) is not None and not _ENDS_ASKING.search(first)


def _whole(text: str, start: int, end: int) -> Region:
    span = stripped(text, Span(start, start, end, end))
    return Region(span.start, span.end, (Span(span.start, span.start, span.end, span.end),))


def _short(ask: str, text: str) -> bool:
    return 0 < len(ask) <= min(LONGEST_ASK, len(text) // SHARE)


def _looks(ask: str) -> bool:
    """Whether a paragraph asks or orders, as far as its first words or its end can tell."""
    if ask[:1] in _QUOTED:
        return False
    if _MARKED.match(ask) or _ASKS.match(ask):
        return True
    return _ENDS_ASKING.search(ask[-8:]) is not None and not ask[:1].islower()

"""What the words of an ask want, as far as they say it plainly.

Frameworks put a question into sentences of their own ("Use the following pieces of context ...
Question: ..."): it is the question that is searched for and judged. And some asks are no questions
but orders to work through a text from its beginning to its end, to sum it up or to translate it: no
handful of passages serves those. Orders are known by their verbs, in English and the commonest of
German, French, Spanish, Italian, Portuguese, Chinese and Japanese; one that is not known is judged
as a question. Knows words and no documents; linear in the ask.
"""

from __future__ import annotations

import re

__all__ = ["question_in", "wants_all"]

_READ = 8192
"""Characters of an ask that are read, from its end."""
_MARKED = re.compile(
    r"^[ \t]{0,3}(?:#{1,4}[ \t]?)?(?:user[ ]{0,2})?(?:question|query|q)[ \t]{0,2}[:\uff1a]",
    re.IGNORECASE | re.MULTILINE,
)
_ANSWER = re.compile(
    r"\n[ \t]{0,3}(?:#{1,4}[ \t]?)?(?:(?:your|helpful|final)[ ]{0,2})?(?:answer|response|a)"
    r"[ \t]{0,2}[:\uff1a]\s*$",
    re.IGNORECASE,
)
_BEGIN = r"(?:^|[.!?:;\n\u3002\uff01\uff1a]\s{0,3})"
_POLITE = r"(?:(?:please|kindly|now|then|also|(?:can|could|would|will) you)[\s,]{1,3}){0,3}"
_VERBS = (
    "summari[sz]e|translate|paraphrase|rewrite|rephrase|reword|reformat|proofread|condense|"
    "abridge|shorten|copy-?edit|anonymi[sz]e|tl;?dr|sum up|recap|outline (?:the|this)|"
    "(?:correct|fix|check|improve|polish|edit) (?:the|this|my|its|all|any) |"
    "(?:list|extract|find|name|count|show|give me|identify) (?:all|every|each)|"
    "(?:convert|turn) (?:the|this|it|my)|"
    "fass\\w*|übersetz\\w*|korrigier\\w*|résume[rz]?|résumez|tradui\\w+|corrige[rz]?|"
    "resum[ae]\\w*|traduzca|traduce|traduza|traduzir|riassum\\w+|traduci\\w*"
)
_MADE = (
    "summary|abstract|synopsis|overview|outline|translation|digest|recap|précis|paraphrase|"
    "table of contents|tl;?dr|zusammenfassung|übersetzung|traduction|resumen|resumo|riassunto|"
    "traducción|tradução|traduzione"
)
_ORDERS = re.compile(
    rf"{_BEGIN}{_POLITE}(?:{_VERBS})\b"
    rf"|{_BEGIN}{_POLITE}(?:give|write|provide|make|create|draft|produce|generate|prepare|need)\b"
    rf"(?:\s+[\w'-]+){{0,6}}?\s+(?:{_MADE})\b"
    rf"|{_BEGIN}(?:an?\s+(?:[\w'-]+\s+)?)?(?:{_MADE})\b"
    r"|\bwhat (?:is|are|was) (?:the|this|these|that|it)\b(?:\s+[\w'-]+){0,3}?\s+about\s*(?:\?|$)"
    r"|\b(?:main|key|most important) (?:points|ideas|takeaways|themes|topics|findings)\b"
    r"|(?:总结|概括|摘要|翻译|翻譯|總結|要約|翻訳|まとめて)",
    re.IGNORECASE,
)


def question_in(ask: str) -> str:
    """The question of an ask in which one line is marked as such; else all of the ask."""
    marks = list(_MARKED.finditer(ask))
    if len(marks) != 1:
        return ask
    end = closing.start() if (closing := _ANSWER.search(ask, marks[0].end())) else len(ask)
    return ask[marks[0].end() : end].strip() or ask


def wants_all(ask: str) -> bool:
    """Whether an ask orders something to be done with the whole of a text."""
    return _ORDERS.search(question_in(ask)[-_READ:]) is not None

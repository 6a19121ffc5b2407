"""Whether an answer says that the text does not hold the answer.

It is read off the beginning: models say so in their first two sentences ("The text does not
mention ..."), or write the word that they were told to. What follows does not count: an answer may
end in "other details are not given". Phrases of English, and the common ones of German, French,
Spanish, Italian, Portuguese, Chinese and Japanese. At most `HEAD` characters are looked at, so time
is bounded by that and by the blanks before them. Never raises; knows texts and nothing else.
"""

from __future__ import annotations

import re

__all__ = ["HEAD", "SENTINEL", "refuses", "undecided"]

HEAD = 300
"""Characters of an answer that are read, blanks before them apart."""
SENTINEL = "unanswerable"
"""What a model may be told to write instead of an answer."""
SENTENCES = 2

_HOW = r"(?:(?:\w+ly|appear to|seem to|yet|any|also|to be|been) ){0,2}"
_HOLD = (
    "address|analyze|answer|clarify|compare|contain|cover|define|delve|describe|detail|disclose|"
    "discuss|elaborate|examine|explain|explore|focus|give|have|hold|identify|include|indicate|"
    "investigate|list|mention|name|note|offer|outline|present|propose|provide|refer|report|reveal|"
    "say|share|show|speak|specify|state|suggest|talk|touch"
)
"""What a text does to what it holds."""
_HELD = (
    "addressed|answerable|applicable|available|clear|contained|covered|defined|described|detailed|"
    "disclosed|discussed|elaborated|enough|explained|explicit|explored|found|given|identified|"
    "included|indicated|known|listed|mentioned|named|offered|outlined|possible|present|presented|"
    "provided|referenced|relevant|reported|revealed|said|shared|shown|specified|stated"
)
_NOT = r"(?: not|n't)"
_FACTS = (
    "answers?|data|descriptions?|details?|discussions?|evidence|indications?|information|mentions?|"
    "passages?|records?|references?|statements?|text"
)
_HAS = "(?:contains?|finds?|found|gives?|has|have|includes?|is|are|was|were|provides?|with)"
_CANNOT = "(?:can not|cannot|can't|could not|couldn't|(?:unable|impossible|not possible) to)"
_ENGLISH = (
    rf"\b(?:do|does|did){_NOT} {_HOW}(?:{_HOLD})\b",
    rf"\b(?:is|are|was|were|be|has|have){_NOT} {_HOW}(?:{_HELD})\b",
    rf"\bnot {_HOW}(?:mentioned|provided|specified|stated|disclosed|discussed|answerable|given)\b",
    rf"\b(?:no|any) (?:[\w'-]+,? ){{0,4}}?(?:{_FACTS}) (?:\w+ ){{0,3}}?(?:{_HELD})\b",
    rf"\b{_HAS} no (?:[\w'-]+,? ){{0,4}}?(?:{_FACTS})\b",
    rf"^\W*no (?:\w+ ){{0,3}}?(?:{_FACTS})\b",
    rf"(?:^\W*|\bthere(?: is| are| was| were|'s) )no(?:ne)? (?:[\w'-]+,? ){{0,8}}?(?:{_HELD})\b",
    rf"\b{_CANNOT} (?:be )?{_HOW}(?:answer|determine|find|found|identify|infer|locate|say|tell)",
    r"\binsufficient (?:information|context|data)\b",
    r"\black(?:s|ing)? (?:of )?(?:any |specific |explicit |sufficient )*(?:information|details)\b",
    rf"^\W*{SENTINEL}\b|\b(?:is|are) {SENTINEL}\b",
)
_OTHERS = (
    r"\bnicht (?:\w+ ){0,2}?(?:angegeben|beantwort|enthalten|erwähnt|genannt|hervor)",
    r"\b(?:erwähnt|enthält|nennt|liefert) (?:\w+ ){0,4}?(?:nicht|kein)",
    r"\bkeine (?:\w+ ){0,2}?(?:angabe|erwähnung|hinweise|information)",
    r"\bne (?:\w+ )?(?:mentionne|contient|fournit|précise|donne|permet|dit|indique)\w* pas\b",
    r"\bn'(?:est|a|indique) (?:\w+ )?pas (?:\w+ )?(?:précis|mention|indiqu|fourni|inform)",
    r"\baucune (?:information|mention|indication|précision)",
    r"\bno (?:se |lo )?(?:menciona|proporciona|contiene|especifica|indica|ofrece|incluye|dice)",
    r"\bno (?:hay|existe|contiene|se encuentra) (?:\w+ ){0,2}?(?:información|mención|datos)",
    r"\bnon (?:si |viene |è |sono )?(?:menziona|fornisc|contien|specifica|indica|offr|dice)",
    r"\bnon (?:ci sono|c'è|contiene) (?:\w+ ){0,2}?(?:informazion|menzion|dati|riferiment)",
    r"\bnão (?:é |são |foi |se )?(?:menciona|fornec|contém|especifica|indica|oferece|inclui|diz)",
    r"\bnão há (?:\w+ ){0,2}?(?:informaç|menç|dados)",
    r"(?:没有|未|沒有)\w{0,4}?(?:提到|提及|提供|说明|說明|包含|涉及|给出|給出|信息|資訊)",
    r"(?:无法|無法)\w{0,4}?(?:回答|确定|確定)",
    r"(?:記載|言及|記述|情報|説明)\w{0,6}?(?:ありません|ない|いません)|述べられて(?:いません|いない)",
)
_SAID = re.compile("|".join([*_ENGLISH, *_OTHERS]))
_SURE = re.compile(rf"(?:{_SAID.pattern})(?=[\s\S])")
"""The same before some further character: no continuation makes another word of it."""
_END = re.compile(
    r"(?<!\bInc)(?<!\bCorp)(?<!\bLtd)(?<!\bCo)(?<!\bMr)(?<!\bMrs)(?<!\bDr)(?<!\bSt)(?<!\d)"
    r"[.!?][\"'”)*]*(?=\s+\S)|[\u3002\uff01\uff1f]|\S(?=\n)"
)
"""The last character of a sentence, seen once something follows."""


def refuses(answer: str) -> bool:
    """Whether this answer says that it cannot be had from the text."""
    head, _ = _head(answer)
    return _SAID.search(head) is not None


def undecided(beginning: str) -> bool:
    """Whether what follows this beginning of an answer may change what `refuses` says of it.

    Never again true once it was false: from then on nothing need be held back.
    """
    head, whole = _head(beginning)
    return not whole and _SURE.search(head) is None


def _head(answer: str) -> tuple[str, bool]:
    """What is read of it, lower case, and whether more of the answer would change that."""
    text = answer.lstrip()[:HEAD].replace("\u2019", "'")
    ends = [end.end() for end, _ in zip(_END.finditer(text), range(SENTENCES), strict=False)]
    if len(ends) == SENTENCES:
        return text[: ends[-1]].lower(), True
    return text.lower(), len(text) == HEAD

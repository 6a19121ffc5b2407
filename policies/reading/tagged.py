"""Documents between tags in a text: `<document title="...">...</document>`, `[DOCUMENT]`, and kin.

What a document says is not to be believed: it may hold closing tags, and words that want to be the
ask. So the documents of one tag fill a region, from its first opening tag to its LAST closing one.
Inside, a document ends at the last closing tag before the next opening one; words in between belong
to nobody, and to the ask least of all. An opening tag inside a document that is not closed yet is a
part of it, and a tag inside another's region is none. Where tags do not pair, nothing is found: a
document that opens what the client closes, or the other way round, could move the borders else.
What harnesses wrap (`policies.composition.ask.NOISE`) is passed over. Linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from policies.composition.ask import NOISE

PLAIN = ("document", "doc")
"""Tags that hold documents and nothing else, however short."""
OTHERS = (
    "file", "context", "text", "paper", "article", "report", "transcript", "attachment", "book",
)  # fmt: skip
"""Tags that may mean something else: what they hold counts where it is long."""
HOLDERS = {"documents": PLAIN, "docs": PLAIN, "files": ("file",), "papers": ("paper",)}
"""Tags around several documents; with no such tag inside they hold one."""
_NAMES = "|".join([*HOLDERS, *PLAIN, *OTHERS])
_BEGIN = "".join(sorted({name[0] for name in (*HOLDERS, *PLAIN, *OTHERS)}))
_WRAPPED = re.compile(
    rf"<({'|'.join(map(re.escape, NOISE))})(?:\s[^<>]{{0,1000}})?>", re.IGNORECASE
)
_TAG = re.compile(
    rf"<(?=[/{_BEGIN}])(?P<close>/?)(?P<name>{_NAMES})(?:[ _-]?(?P<number>\d{{1,6}}))?"
    r"(?P<told>[\s:=][^<>]{0,1000})?>"
    r"|\[(?P<ends>/|end (?:of )?)?(?P<word>document|doc|context|file|paper|article)"
    r"(?:[ _#-]{1,2}(?P<count>\d{1,6}))?(?P<title>[:\s][^\[\]\n]{0,200})?\]",
    re.IGNORECASE,
)
_TOLD = re.compile(r"""([\w:-]{1,40})\s{0,4}=\s{0,4}("[^"]*"|'[^']*'|[^\s"'>]+)""")
_IDS = ("id", "index", "number", "n", "num")
_TITLES = ("title", "name", "filename", "file", "path", "source", "src", "url")
_HEAD = re.compile(r"\s*<(source|title|name|filename|url)>([^<]{0,1000})</\1>", re.IGNORECASE)
_BODY = re.compile(r"\s*<(document_contents?|contents?|body)>", re.IGNORECASE)
_MOST = 200
"""Characters of an id or a title."""
_STRETCH, _LONGEST = 1 << 20, 1100
"""Characters that are searched at a time, and more than a tag may have."""


@dataclass(frozen=True, slots=True)
class Span:
    """A document in a text. It is the characters `start` to `end`, with its tags `first` to `last`.

    `id` and `title` are what its tags say, and may be empty.
    """

    first: int
    start: int
    end: int
    last: int
    id: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True)
class Region:
    """Where documents of one tag stand in a text: nothing from `start` to `end` is the ask."""

    start: int
    end: int
    spans: tuple[Span, ...]

    def moved(self, by: int) -> Region:
        """The same in a text that has `by` more characters in front."""
        spans = tuple(
            replace(s, first=s.first + by, start=s.start + by, end=s.end + by, last=s.last + by)
            for s in self.spans
        )
        return Region(self.start + by, self.end + by, spans)


@dataclass(frozen=True, slots=True)
class _Tag:
    start: int
    end: int
    kind: str
    """The name, in lower case; `[name` for square brackets."""
    closes: bool
    told: str
    number: str


def regions_in(text: str, least: int, names: Sequence[str] = (*PLAIN, *OTHERS)) -> list[Region]:
    """The regions of a text, in order. Of tags outside `PLAIN` those with `least` characters.

    Raises ValueError, in words for people, where tags do not pair: one opens `least` characters
    that nothing closes, two regions cross, or a block of a harness opens twice.
    """
    tags = list(_tags(text))
    closed = {tag.kind: tag for tag in tags if tag.closes}
    allowed = {*names, *(each for each, inner in HOLDERS.items() if {*inner} <= {*names})}
    tags = [tag for tag in tags if tag.kind.removeprefix("[") in allowed]
    found: list[Region] = []
    short: set[str] = set()
    at = 0
    for number, tag in enumerate(tags):
        if tag.start < at or tag.closes or tag.kind in short:
            continue
        end = closed.get(tag.kind)
        if end is None or end.start < tag.end:
            if len(text) - tag.end >= least and not tag.kind.startswith("["):
                raise ValueError("a tag opens a document and nothing closes it")
            continue
        inside = [each for each in tags[number:] if each.start <= end.start]
        region = _region(text, inside, tag, end)
        held = sum(span.end - span.start for span in region.spans)
        if tag.kind.removeprefix("[") in OTHERS and held < least:
            short.add(tag.kind)  # from a later one on it would hold less
            continue
        if any(closed[each.kind].start > end.start for each in inside if each.kind in closed):
            raise ValueError("tags around documents cross")
        found.append(region)
        at = region.end
    return found


def _region(text: str, tags: Sequence[_Tag], first: _Tag, end: _Tag) -> Region:
    inner = HOLDERS.get(first.kind, ())
    within = [tag for tag in tags if tag.kind in inner]
    spans = tuple(_spans(text, within)) if within else ()
    if not spans:
        spans = tuple(_spans(text, [tag for tag in tags if tag.kind == first.kind]))
    return Region(first.start, end.end, spans)


def _spans(text: str, tags: Sequence[_Tag]) -> Iterator[Span]:
    """Each document from an opening tag to the last closing one before the next opening one."""
    opened: _Tag | None = None
    closed: _Tag | None = None
    for tag in tags:
        if tag.closes:
            closed = tag if opened else None
        elif opened is None or closed is not None:
            if opened and closed:
                yield _span(text, opened, closed)
            opened, closed = tag, None
    if opened and closed:
        yield _span(text, opened, closed)


def _span(text: str, opened: _Tag, closed: _Tag) -> Span:
    told = {name.lower(): value.strip("\"'") for name, value in _TOLD.findall(opened.told)}
    label = "" if told or opened.told.lstrip()[:1] == "=" else opened.told.lstrip(": ")
    span = Span(
        first=opened.start,
        start=opened.end,
        end=closed.start,
        last=closed.end,
        id=opened.number or _first(told, _IDS),
        title=_first(told, _TITLES) or _line(label),
    )
    return stripped(text, _unfolded(text, span))


def _unfolded(text: str, span: Span) -> Span:
    """Without the tags that tell its source inside, where its content has a tag of its own."""
    at, title = span.start, span.title
    while (head := _HEAD.match(text, at, span.end)) is not None:
        at, title = head.end(), title or _line(head[2])
    body = _BODY.match(text, at, span.end)
    if body is None:
        return span
    end = text.rfind(f"</{body[1]}>", body.end(), span.end)
    if end < 0:
        return span
    return replace(span, start=body.end(), end=end, title=title)


def stripped(text: str, span: Span) -> Span:
    """Without white space around it."""
    inside = text[span.start : span.end].rstrip()
    blank = len(inside) - len(inside.lstrip())
    return replace(span, start=span.start + blank, end=span.start + len(inside))


def _first(told: dict[str, str], names: Sequence[str]) -> str:
    return next((_line(told[name]) for name in names if told.get(name, "").strip()), "")


def _line(value: str) -> str:
    return " ".join(value.split())[:_MOST]


def bare(text: str) -> tuple[int, int]:
    """Where a text starts and ends without what harnesses put before and behind it."""
    blocks = list(_noise(text))
    start, end = 0, len(text)
    for first, last in blocks:
        if text[start:first].strip():
            break
        start = last
    for first, last in reversed(blocks):
        if first < start or text[last:end].strip():
            break
        end = first
    return start, end


def _noise(text: str) -> Iterator[tuple[int, int]]:
    """What harnesses wrap, with its tags; what is not closed is none.

    Raises ValueError where a block opens twice: the first may be a document's own words.
    """
    endless: set[str] = set()
    kind, last = "", 0
    for found in _hits(_WRAPPED, text):
        if found.start() < last:
            if found[1] == kind:
                raise ValueError("a block of a harness is opened twice")
            continue
        closed = f"</{found[1]}>"
        end = -1 if found[1] in endless else text.find(closed, found.end())
        if end < 0:
            endless.add(found[1])
        else:
            kind, last = found[1], end + len(closed)
            yield found.start(), last


def _hits(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """The matches of a pattern, searched a stretch at a time: a search lets no other thread run."""
    at = 0
    while at < len(text):
        until = at + _STRETCH
        while found := pattern.search(text, at, until):
            yield found
            at = found.end()
        at = max(at, until - _LONGEST) if until < len(text) else len(text)


def _tags(text: str) -> Iterator[_Tag]:
    """The tags of a text outside of what harnesses wrap, in order."""
    noise = iter(list(_noise(text)))
    first, last = next(noise, (len(text), len(text)))
    for found in _hits(_TAG, text):
        while found.start() >= last < len(text):
            first, last = next(noise, (len(text), len(text)))
        if found.start() >= first:
            continue
        if name := found["name"]:
            told, number = found["told"] or "", found["number"] or ""
            kind, closes = name.lower(), bool(found["close"])
        else:
            told, number = found["title"] or "", found["count"] or ""
            kind, closes = f"[{found['word'].lower()}", bool(found["ends"])
        if not told.endswith("/"):  # such a tag opens nothing
            yield _Tag(found.start(), found.end(), kind, closes, told, number)

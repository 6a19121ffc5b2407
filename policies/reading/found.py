"""Where in a request's body the documents are, and what is asked about them.

The sources, by how sure they are: the `documents` field, file parts, text between tags, text
between fences or rulers, and last a long message or part beside a short ask. The ask is the last
turn of a user, without its documents and without what harnesses add. Where a request can be read
in two ways nothing is found: a sentence says why, in words that quote nothing.

What a document says has no say here. No character of one that is a field, a file or between tags is
ever in the ask: imitating tags, it can only make its own region larger or the request unreadable.
Linear in the body, raises on no JSON, and is meant to be computed off the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from policies.composition.ask import cleaned
from policies.reading.asks import question_in
from policies.reading.documents import Document
from policies.reading.fenced import LONGEST_ASK, Unclear, coded, fenced_in, is_code, parted
from policies.reading.files import Filed, Unread, documents_in, file_in
from policies.reading.places import Path, Piece, pieces_of
from policies.reading.tagged import OTHERS, PLAIN, Region, Span, bare, regions_in
from router.steps import Surface

READ = frozenset({Surface.CHAT, Surface.COMPLETIONS, Surface.RESPONSES, Surface.MESSAGES})
"""APIs whose requests ask something in words."""
Kind: TypeAlias = Literal["corpus", "field", "part", "text"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a document stood.

    A `text` is the characters `start` to `end` of the string at `path`, and with its tags or fences
    `first` to `last`; nothing from `opens` to `closes` around it is the ask. A `part` is the file
    at `path`, a `field` the documents field, and a `corpus` is not in the body.
    """

    kind: Kind
    path: Path = ()
    start: int = 0
    end: int = 0
    first: int = 0
    last: int = 0
    opens: int = 0
    closes: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """Documents, in the order of the body, and the ask about them.

    `how` says in a few words for people where they were, `places` where each one stood. `asked`
    leads to the string that the ask ends in. `unread` are kinds of files whose text is not known
    and which stay where they are. `body` is the request's, unchanged.
    """

    ask: str
    documents: tuple[Document, ...]
    how: str
    places: tuple[Place, ...]
    asked: Path
    body: Mapping[str, Any] = field(repr=False)
    surface: Surface = Surface.CHAT
    unread: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """The ask without what a framework says around it."""
        return question_in(self.ask)

    @property
    def characters(self) -> int:
        """Of all documents."""
        return sum(len(document.text) for document in self.documents)


def find(
    body: Mapping[str, Any], surface: Surface, least: int, corpus: Sequence[Document] = ()
) -> Found | str:
    """The documents of a request and its ask, or a sentence that says why there are none.

    `least` is how many characters make a document of text that nothing but its length, fences or
    an ambiguous tag sets apart. With a `corpus`, whose documents come first, a request that has
    none of its own is asked about those.
    """
    if surface not in READ:
        return "nothing is asked in words here"
    search = _Search(body, surface, least)
    if (trouble := search.look(guess=not corpus)) is not None:
        return trouble
    if not search.items and not corpus:
        return search.nothing()
    asked = search.asked()
    if isinstance(asked, str):
        return asked
    items = [*((_CORPUS, Filed(d.text, d.id, d.title)) for d in corpus), *search.items]
    if not any(filed.text.strip() for _, filed in items):
        return "the documents are empty"
    ask, path = asked
    return Found(
        ask=ask,
        documents=tuple(
            Document(filed.id or str(number), filed.title, filed.text)
            for number, (_, filed) in enumerate(items, 1)
        ),
        how=" and ".join(dict.fromkeys([*(["a corpus"] if corpus else []), *search.how])),
        places=tuple(place for place, _ in items),
        asked=path,
        body=body,
        surface=surface,
        unread=tuple(dict.fromkeys(search.unread)),
    )


_CORPUS = Place("corpus")


class _Said:
    """What somebody said, without what a harness put around it, and how it may be parted."""

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.start, end = bare(piece.text)
        self.text = piece.text[self.start : end]
        self.part = parted(self.text)


class _Search:
    """One look through a body: `items` are the documents so far, `how` where they were."""

    def __init__(self, body: Mapping[str, Any], surface: Surface, least: int) -> None:
        self.items: list[tuple[Place, Filed]] = []
        self.how: list[str] = []
        self.unread: list[str] = []
        self._body = body
        self._surface = surface
        self._least = max(least, 1)
        self._pieces = pieces_of(body, surface)
        self._regions: dict[Path, list[Region]] = {}

    def look(self, *, guess: bool) -> str | None:
        """Find documents; the reply says why the request cannot be read, if so."""
        if self._surface is Surface.COMPLETIONS and not self._pieces:
            return "the prompt is not one text"
        given = self._body.get("documents") if self._surface is Surface.CHAT else None
        if given is not None and given != []:
            documents = documents_in(given)
            if isinstance(documents, str):
                return documents
            self.items += [(Place("field"), filed) for filed in documents]
            self.how.append("the documents field")
        for piece in self._pieces:
            if (trouble := self._piece(piece)) is not None:
                return trouble
        return self._guess() if guess and not self.items else None

    def nothing(self) -> str:
        """Why no document was found."""
        if self.unread:
            kinds = ", ".join(dict.fromkeys(self.unread))
            return f"files of these kinds are not read here: {kinds}"
        return "there is no document in the request"

    def _piece(self, piece: Piece) -> str | None:
        if piece.file is not None:
            filed = file_in(piece.file)
            if isinstance(filed, Unread):
                self.unread.append(filed.kind)
            else:
                self.items.append((Place("part", piece.path), filed))
                self.how.append("file parts")
            return None
        names = (*PLAIN, *OTHERS) if piece.role == "user" else PLAIN
        try:
            regions = regions_in(piece.text, self._least, names)
        except ValueError as error:
            return str(error) if piece.role == "user" else None
        if any(coded(piece.text[s.start : s.end]) for r in regions for s in r.spans):
            return "what stands between tags is code" if piece.role == "user" else None
        self._take(piece, regions, "tags")
        if regions or piece.role != "user" or len(piece.text) < self._least:
            return None
        start, end = bare(piece.text)
        fenced = fenced_in(piece.text[start:end], self._least)
        if isinstance(fenced, Unclear):
            return fenced.why
        self._take(piece, [region.moved(start) for region in fenced], "fences")
        return None

    def _take(self, piece: Piece, regions: Sequence[Region], how: str) -> None:
        for region in regions:
            for span in region.spans:
                text = piece.text[span.start : span.end]
                place = Place(
                    "text", piece.path, span.start, span.end, span.first, span.last,
                    region.start, region.end,
                )  # fmt: skip
                self.items.append((place, Filed(text, span.id, span.title)))
            self.how.append(how)
        if regions:
            self._regions.setdefault(piece.path, []).extend(regions)

    # ---------------------------------------------------------------- by length alone

    def _guess(self) -> str | None:
        """Take what is long for a document, where something short beside it is the ask."""
        said = [_Said(p) for p in self._pieces if p.role == "user" and cleaned(p.text)]
        long = [one for one in said if len(one.text) >= self._least]
        if not long:
            return None
        for one in long:
            if isinstance(one.part, Unclear):
                return one.part.why
        now = said[-1].piece.turn
        lately = [one for one in said if one.piece.turn == now]
        if (trouble := self._doubt(lately)) is not None:
            return trouble
        for one in long:
            if isinstance(one.part, Region):
                self._take(one.piece, [one.part.moved(one.start)], "a long message")
            elif not is_code(one.text):
                end = len(one.text)
                region = Region(0, end, (Span(0, 0, end, end),))
                self._take(one.piece, [region.moved(one.start)], "a long message")
        return None

    def _doubt(self, lately: Sequence[_Said]) -> str | None:
        """Why it is not clear what the ask of the last turn is, where that has long pieces."""
        long = [one for one in lately if len(one.text) >= self._least]
        short = [one for one in lately if len(one.text) < self._least]
        asking = [one for one in long if one.part is not None]
        if not long:
            return None
        if any(is_code(one.text) for one in long):
            return "the text is long and has code in it"
        if short and asking:
            return "a paragraph of the long part and the part beside it may both be the question"
        if sum(len(one.text) for one in short) > LONGEST_ASK:
            return "the text beside the long part is too long for a question"
        if not short and len(asking) != 1:
            return "the text is long, and no paragraph of it is clearly the question"
        return None

    # ------------------------------------------------------------------------- the ask

    def asked(self) -> tuple[str, Path] | str:
        """The words of the last turn outside of documents, and where they end."""
        held = {place.path for place, _ in self.items if place.kind == "part"}
        said = [p for p in self._pieces if p.role == "user"]
        for turn in sorted({piece.turn for piece in said}, reverse=True):
            words: list[str] = []
            path: Path = ()
            documents = False
            for piece in (p for p in said if p.turn == turn):
                regions = self._regions.get(piece.path, [])
                documents = documents or bool(regions) or piece.path in held
                if rest := cleaned(_outside(piece.text, regions)):
                    words.append(rest)
                    path = piece.path
            if words:
                return "\n".join(words), path
            if documents:
                return "the last turn has documents and no question"
        return "nobody asks anything in words"


def _outside(text: str, regions: Sequence[Region]) -> str:
    """What stands before and after each region, a line each."""
    kept, at = [], 0
    for region in sorted(regions, key=lambda each: each.start):
        kept.append(text[at : region.start])
        at = region.end
    kept.append(text[at:])
    return "\n".join(stated for each in kept if (stated := each.strip()))

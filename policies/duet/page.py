"""The answer so far, of one choice: its token ids, its text, what is held back, who wrote what.

Every token of both models passes through `write`, and only what comes out of it reaches the client.
Text comes from the backends, which spell their own tokens in the light of the prompt's. A character
whose bytes are split over two calls is the exception: neither backend can spell it. So where a call
may have ended inside a character its last tokens are spelled anew, and until a character that was
begun is complete, tokens are written one by one and spelled here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from policies.duet.asked import Asked
from policies.duet.stops import Stops
from router.phrases import Phrase, parse, spell
from router.steps import Attempt, Emit, Failed, Finished, Request, Token

WINDOW = 8
"""Tokens before a seam that are spelled with it: spelling depends on the neighbours only (a space
that a tokenizer drops at a text's beginning, say)."""
UNFINISHED = "\ufffd"
"""What stands in a text for bytes that are no character yet."""
MOST_BEGUN = 3
"""Bytes, and so at most tokens, of a character in UTF-8 that is not complete yet."""


class SpellingError(Exception):
    """No backend spells the tokens."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.fault.message)
        self.failed = failed


@dataclass(slots=True)
class Page:
    """One choice being written. `ids` are the answer's, after those of `prompt`."""

    request: Request
    asked: Asked
    prompt: tuple[int, ...]
    choice: int = 0
    ids: list[int] = field(default_factory=list)
    wrote: Counter[str] = field(default_factory=Counter)
    turns: Counter[str] = field(default_factory=Counter)
    """How often each model was asked to write."""
    guesses: int = 0
    """How often a model went on before it was known from what; `kept` of them were right."""
    kept: int = 0
    begun: bool = False
    """Whether any of it was written into the client's answer."""
    split: bool = False
    """Whether the answer may end inside a character that no call of this turn's can spell."""
    parser: str | None = None
    """The model whose backend reads the whole answer at its end, for tool calls and reasoning; no
    text is shown before."""
    _open: int = 0
    """Tokens at the end of `ids` among which a character may have been begun."""
    _unknown: int = 0
    """Tokens at the end of `ids` whose text no backend will tell."""
    _blurred: bool = False
    """Whether the text ends in a character that stands for broken bytes. After a prompt that does,
    vLLM's first text is the whole prompt's: its decoder takes that for a character unfinished."""
    _due: str = ""
    """Text that was found out and is shown with the next token."""
    _stops: Stops = field(init=False)

    def __post_init__(self) -> None:
        self._stops = Stops(self.asked.stops, keep=self.asked.keeps_stop)

    @property
    def stopped(self) -> str | None:
        """The stop string that the text has come to."""
        return self._stops.found

    @property
    def complete(self) -> bool:
        """Whether the answer is all there, whatever a backend may still have to say."""
        return self.stopped is not None or self.room() == 0

    def write(self, attempt: Attempt, text: str | None, tokens: Sequence[Token]) -> Phrase[None]:
        """`attempt` has come up with more; `text` is what its backend makes of these tokens, None
        if that is not known.
        """
        self.begun = True
        self.ids.extend([token.id for token in tokens if token.id is not None])
        self.wrote[attempt.model] += len(tokens)
        if self.split or text is None:  # a backend that did not know how a character began
            self._unknown += len(tokens)
            self._open += len(tokens)
            text = ""
        elif text:  # up to some token: those behind it may begin a character
            self._unknown, self._open = 0, min(len(tokens) - 1, MOST_BEGUN)
            self._blurred = text.endswith(UNFINISHED)
        else:
            self._open += len(tokens)
        shown, self._due = self._due + self._stops.feed(text), ""
        shown = shown if self.parser is None else ""
        yield Emit(attempt, shown, _worded(tokens, text), self.choice)

    def mend(self, model: str) -> Phrase[Failed | None]:
        """A call is over: find out what it could not spell, and if it ended inside a character.

        What it was silent about, after what it did spell, is a character's beginning or nothing.
        """
        if self.parser is not None or self.stopped is not None:
            return None
        if not self._open:
            self.split = self._blurred
            return None
        try:
            begun, complete = yield from self._begun(model)
            if self._unknown > begun:
                known = yield from self._known(model)
                self._due += self._stops.feed(complete[len(known) :])
        except SpellingError as error:
            self.split = True
            return error.failed
        self._unknown = self._open = begun
        self.split = self._blurred = begun > 0 or complete.endswith(UNFINISHED)
        return None

    def mend_all_but_last(self, model: str) -> Phrase[None]:
        """As `mend`, at the end of the answer, whose last token is never shown."""
        last = self.ids.pop()
        self._unknown, self._open = max(self._unknown - 1, 0), max(self._open - 1, 0)
        yield from self.mend(model)
        self.ids.append(last)

    def _begun(self, model: str) -> Phrase[tuple[int, str]]:
        """How many of the last tokens begin a character, and the text before them."""
        whole = complete = yield from self._spelled(model, 0)
        begun = 0
        while complete.endswith(UNFINISHED) and begun < min(self._open, MOST_BEGUN):
            begun += 1
            complete = yield from self._spelled(model, begun)
        if not complete.endswith(UNFINISHED):
            return begun, complete
        for held in range(min(self._open, MOST_BEGUN), 0, -1):  # behind bytes that make none
            complete = yield from self._spelled(model, held)
            if whole.startswith(complete):
                return held, complete
        return 0, whole

    def _known(self, model: str) -> Phrase[str]:
        """The text before the tokens whose text is unknown, and before a character they end."""
        unknown = self._unknown
        known = yield from self._spelled(model, unknown)
        while known.endswith(UNFINISHED) and unknown < self._open:
            unknown += 1
            known = yield from self._spelled(model, unknown)
        return known

    def _spelled(self, model: str, but: int) -> Phrase[str]:
        """The text of the last tokens, `but` so many, always from the same one on."""
        count = WINDOW + self._open
        near = (*self.prompt[-WINDOW:], *self.ids[-count:])[-count:]
        if not (near := near[: len(near) - but]):
            return ""
        text = yield from spell(model, self.request, near)
        if isinstance(text, Failed):
            raise SpellingError(text)
        return text

    def end(self, attempt: Attempt, finished: Finished) -> Phrase[Finished]:
        """The choice is complete: write what was held back in vain, and why it ends."""
        self.begun = True
        if self.parser is not None and self.ids:
            return (yield from self._parse(self.parser, attempt, finished))
        yield Emit(attempt, self._due + self._stops.rest(), (), self.choice, finished)
        return finished

    def _parse(self, model: str, attempt: Attempt, finished: Finished) -> Phrase[Finished]:
        """Tool calls and reasoning, apart; the plain text if its backend cannot tell them apart."""
        ids = tuple(self.ids)
        parsed = yield from parse(model, self.request, self.prompt, ids, finished.reason or "stop")
        if isinstance(parsed, Failed):
            # What ended the answer is its last token, which is never shown.
            kept = ids[:-1] if finished.reason == "stop" else ids
            text = (yield from spell(attempt.model, self.request, kept)) if kept else ""
            shown = "" if isinstance(text, Failed) else text
            yield Emit(attempt, shown, (), self.choice, finished)
            return finished
        finished = replace(finished, reason=parsed.reason)
        yield Emit(attempt, "", (), self.choice, finished, parsed.message)
        return finished

    def room(self) -> int | None:
        """Tokens that may still be written; None if the client has set no limit."""
        return None if self.asked.room is None else max(self.asked.room - len(self.ids), 0)


def _worded(tokens: Sequence[Token], text: str) -> tuple[Token, ...]:
    """Tokens that came without their own text: one of them has the text of all."""
    if not text or not tokens or any(token.text for token in tokens):
        return tuple(tokens)
    *others, last = tokens
    return (*others, Token(text, last.id, last.logprob, last.top))

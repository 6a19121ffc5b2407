"""The answer so far, of one choice: its token ids, its text, what is held back, who wrote what.

Every token of both models passes through `write`, and only what comes out of it reaches the client.
Text comes from the backends, which spell their own tokens in the light of the prompt's. A character
whose bytes are split over two models is the exception: neither backend can spell it, so at such a
seam the tokens are spelled anew, and no model's turn begins inside a character.
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
LONGEST_CHARACTER = 4
"""Bytes, and so at most tokens, of a character in UTF-8."""


@dataclass(slots=True)
class Page:
    """One choice being written. `ids` are the answer's, after those of `prompt`."""

    request: Request
    asked: Asked
    prompt: tuple[int, ...]
    choice: int = 0
    ids: list[int] = field(default_factory=list)
    wrote: Counter[str] = field(default_factory=Counter)
    handoffs: int = 0
    """How often the other model took over."""
    unspelled: int = 0
    """Tokens at the end of `ids` whose text is not known yet."""
    split: bool = False
    """Whether those are the beginning of a character."""
    parser: str | None = None
    """The model whose backend reads the whole answer at its end, for tool calls and reasoning; no
    text is shown before."""
    _stops: Stops = field(init=False)

    def __post_init__(self) -> None:
        self._stops = Stops(self.asked.stops, keep=self.asked.keeps_stop)

    @property
    def stopped(self) -> str | None:
        """The stop string that the text has come to."""
        return self._stops.found

    def write(self, attempt: Attempt, text: str, tokens: Sequence[Token]) -> Phrase[None]:
        """`attempt` has come up with more; `text` is what its backend makes of these tokens."""
        self.ids.extend([token.id for token in tokens if token.id is not None])
        self.wrote[attempt.model] += len(tokens)
        if self.split:
            self.unspelled += len(tokens)
            text = ""  # spelled by a backend that did not know how the character began
        elif text:
            self.unspelled = 0
        else:
            self.unspelled += len(tokens)
        shown = self._stops.feed(text)
        if self.parser is None:
            yield Emit(attempt, shown, _worded(tokens, text), self.choice)
        else:
            yield Emit(attempt, "", tuple(replace(token, text="") for token in tokens), self.choice)

    def mend(self, attempt: Attempt) -> Phrase[Failed | None]:
        """At the end of a turn: find out what the tokens without a text are, and write it."""
        if not self.unspelled or self.stopped is not None:
            return None
        near = tuple(self.ids[-WINDOW - self.unspelled :])
        before = yield from spell(attempt.model, self.request, near[: -self.unspelled])
        whole = yield from spell(attempt.model, self.request, near)
        if isinstance(before, Failed):
            return before
        if isinstance(whole, Failed):
            return whole
        self.split = whole.endswith(UNFINISHED) and self.unspelled < LONGEST_CHARACTER
        if not self.split:
            self.unspelled = 0
            text = self._stops.feed(whole[len(before) :])
            if text and self.parser is None:
                yield Emit(attempt, text, (), self.choice)
        return None

    def end(self, attempt: Attempt, finished: Finished) -> Phrase[Finished]:
        """The choice is complete: write what was held back in vain, and why it ends."""
        if self.parser is not None:
            return (yield from self._parse(self.parser, attempt, finished))
        yield Emit(attempt, self._stops.rest(), (), self.choice, finished)
        return finished

    def _parse(self, model: str, attempt: Attempt, finished: Finished) -> Phrase[Finished]:
        """Tool calls and reasoning, apart; the plain text if its backend cannot tell them apart."""
        ids = tuple(self.ids)
        parsed = yield from parse(model, self.request, self.prompt, ids, finished.reason or "stop")
        if isinstance(parsed, Failed):
            text = yield from spell(attempt.model, self.request, ids)
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

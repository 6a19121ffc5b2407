"""The plan for one request: what was found, what the search says, and which readings are possible.

Everything here is CPU work and meant to be computed off the event loop. It knows how the pieces of
this room fit together, and neither the fleet nor what a policy does when a reader fails: readers
come in as values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from policies.composition.ask import LONGEST, Ask, said_in
from policies.reading import prompts
from policies.reading.asks import wants_all
from policies.reading.choice import MARGIN, Limits, Option, Reader, in_order, options
from policies.reading.corpus import Corpus
from policies.reading.documents import TASKS, Passage, Task, Way
from policies.reading.found import Found, find
from policies.reading.index import Embed, TooLarge
from policies.reading.measures import Measures
from policies.reading.recipe import Recipe
from policies.reading.search import Pool, candidates, ranked
from policies.reading.shelf import Shelf
from policies.reading.table import Table
from policies.reading.tasks import TaskJudge
from policies.reading.told import Told
from router.phrases import rewritten
from router.steps import Request, Vectors

__all__ = ["Plan", "Planner"]

ANSWER = 512
"""Tokens that are kept for an answer whose request sets no limit."""
LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
"""Fields that limit an answer, in the APIs that there are."""
CHARACTERS = 4
"""Of a prompt per token, for what is no document."""
FRAME, MARK = 60, 15
"""Tokens of the instruction beside passages, and of the tags around each."""
EVERYWHERE = (0.0, 0.0, 1.0, 0.0)
"""The chances of an order about the whole text: it is no question, and nearest to a comparison."""
TOLD = 8
"""Passages that a reason names: a header holds no more."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`order` are the readings that fit, the one to take first; `unfit` says why the others do not.

    `passages` are best first, of `chunks` that there are; `chances` [tasks] how likely each task
    is; `length` the documents' tokens, `tokens` those of the prompt each way, `answer` those that
    the answer may have. `entire` says that something is to be done with the whole text, to sum it
    up, say, which no passages serve.
    """

    found: Found
    passages: tuple[Passage, ...]
    chunks: int
    chances: tuple[float, ...]
    length: int
    tokens: Mapping[Way, int]
    answer: int
    order: tuple[Option, ...]
    unfit: tuple[Option, ...]
    entire: bool = False

    @property
    def task(self) -> Task:
        """What is most likely asked."""
        return TASKS[self.chances.index(max(self.chances))]

    @property
    def dense(self) -> float:
        """Characters of a document's token, on the mean."""
        return self.found.characters / max(1, self.length)

    @property
    def expected(self) -> Mapping[str, float]:
        """The score expected of each target that can read, read as is best for it."""
        best: dict[str, float] = {}
        for option in self.order:
            target = option.reader.target
            best[target] = max(option.value, best.get(target, 0.0))
        return best

    def sent(self, option: Option) -> float:
        """The share of the prompt that is sent: of one that some reader could have read whole."""
        readable = any(other.way == "whole" for other in self.order)
        return min(1.0, option.tokens / max(1, self.tokens["whole"])) if readable else 1.0

    def about(self, option: Option) -> str:
        """For people, in numbers only: the log keeps it, and no word of a client's."""
        told = "all of it; " if self.entire else ""  # whose score teaches nothing about a task
        told += str(
            Told(
                self.chances,
                self.length,
                option.tokens,
                self.tokens["whole"],
                option.reader.target,
                option.value,
            )
        )
        if self.found.unread:
            told += f"; {len(self.found.unread)} kinds of files are not read"
        if option.way == "whole":
            return told
        shown = prompts.in_order(self.passages)[:TOLD]
        places = ", ".join(f"{one.document + 1}:{one.start}-{one.end}" for one in shown)
        more = ", ..." if len(self.passages) > TOLD else ""
        return f"{told}; {len(self.passages)} of {self.chunks} passages: {places}{more}"

    @property
    def cited(self) -> tuple[Mapping[str, Any], ...]:
        """The passages as a client is shown them."""
        return tuple(prompts.citations(self.found, self.passages))


@dataclass(frozen=True, slots=True)
class Planner:
    """How requests are read. `embed` is the local embedder; None where a backend makes vectors, or
    where words alone are searched. `measured`: documents are cut and searched as they were when the
    judge learned what measures mean.
    """

    judge: TaskJudge = field(repr=False)
    table: Table = field(compare=False, repr=False)
    shelf: Shelf = field(compare=False, repr=False)
    recipe: Recipe
    limits: Limits
    least: int
    give_up: float
    patience: float
    inline: bool
    measured: bool
    embed: Embed | None = field(compare=False, repr=False)
    corpus: Corpus | None = field(default=None, compare=False, repr=False)

    def find(self, request: Request) -> Found | str:
        """The documents and the ask, or why there are none."""
        if self.corpus is None:
            return find(request.body, request.surface, self.least)
        kept = self.corpus.now()
        found = find(request.body, request.surface, self.least, kept.documents)
        return f"{found}; {kept.trouble}" if isinstance(found, str) and kept.trouble else found

    def look(self, found: Found) -> Pool | str:
        """The passages that may be read, their vectors yet to come; or why nothing can be searched.

        The second question about the same documents finds them indexed.
        """
        try:
            index = self.shelf.index([document.text for document in found.documents], self.recipe)
        except TooLarge as error:
            return str(error)
        return candidates(index, found.question, self.recipe)

    def plan(
        self, found: Found, pool: Pool, readers: Sequence[Reader], vectors: Vectors | None
    ) -> Plan:
        """What could be done. `vectors` are a backend's, the ask's last; None: see `embed`."""
        passages, measures = self._searched(found, pool, vectors)
        entire = wants_all(found.question)
        ask = Ask(found.question[:LONGEST], len(found.question))
        chances = EVERYWHERE if entire else self.judge.judge(ask, measures)
        length, rest = sum(pool.index.tokens), _rest(found)
        plan = Plan(
            found, passages, len(pool.index.chunks), chances, length, {"whole": length + rest},
            _answer(found.body), (), (), entire,
        )  # fmt: skip
        tokens = {"passages": _tokens(passages, plan.dense) + rest, **plan.tokens}
        plan = replace(plan, tokens=tokens)
        values = {
            reader.target: self.table.value(
                reader.model, length, chances, like=reader.like, params_b=reader.params_b
            )
            for reader in readers
        }
        return self._fitted(plan, readers, values, rest)

    def _fitted(
        self,
        plan: Plan,
        readers: Sequence[Reader],
        values: Mapping[str, Mapping[Way, float]],
        rest: int,
    ) -> Plan:
        """With the readings that fit; if there are none, with as many passages as make one fit."""
        while True:
            made = options(readers, plan.tokens, values, plan.answer, self.limits)
            order = self._ordered(made, entire=plan.entire)
            unfit = tuple(option for option in made if option.unfit is not None)
            plan = replace(plan, order=order, unfit=unfit)
            if order or len(plan.passages) <= 1:
                return plan
            fewer = plan.passages[:-1]
            tokens = {**plan.tokens, "passages": _tokens(fewer, plan.dense) + rest}
            plan = replace(plan, passages=fewer, tokens=tokens)

    def _ordered(self, made: Sequence[Option], *, entire: bool) -> tuple[Option, ...]:
        """The readings that fit, as they are tried; where all is wanted, of all before of parts."""
        order = in_order(made, self.give_up, self.patience)
        if not entire:
            return tuple(order)
        whole = [option for option in made if option.way == "whole"]
        first = in_order(whole, self.give_up, self.patience)
        return (*first, *(option for option in order if option.way != "whole"))

    def _searched(
        self, found: Found, pool: Pool, vectors: Vectors | None
    ) -> tuple[tuple[Passage, ...], Measures | None]:
        """Passages, best first, and the measures if they are those that the judge was taught."""
        import numpy as np

        if vectors is not None:
            learned = np.array(vectors, np.float32)
            with suppress(ValueError):  # a backend that changed the length of its vectors
                pool.learn(learned[:-1])
                return ranked(pool, learned[-1]).passages, None
            return ranked(pool, None).passages, None
        if self.embed is None or not self.recipe.dense:
            return ranked(pool, None).passages, None
        if missing := pool.missing():
            pool.learn(self.embed(missing))
        hits = ranked(pool, self.embed([found.question])[0])
        if not pool.index.whole:
            self.shelf.prepare(pool.index, self.embed)
        return hits.passages, hits.measures if self.measured else None

    def write(self, plan: Plan, way: Way, request: Request) -> Request:
        """The request as the reader gets it, who is told what the ask is, too."""
        if way == "passages":
            changes = prompts.passages(plan.found, plan.passages, refusal=False)
        else:
            changes = prompts.whole(plan.found, inline=self.inline)
        told = replace(request, ask=plan.found.question)
        return rewritten(told, changes) if changes else told

    def write_first(self, plan: Plan, request: Request) -> Request:
        """The request with passages, to a reader that may say "unanswerable"."""
        return rewritten(request, prompts.passages(plan.found, plan.passages, refusal=True))

    def cut(self, plan: Plan, window: int, request: Request) -> tuple[Request, int]:
        """The request with the middle of its documents cut to fit a window (tokens), and how many
        characters that left out.
        """
        outside = plan.tokens["whole"] - plan.length
        room = (window - plan.answer) / MARGIN - outside
        changes, missing = prompts.cut(
            plan.found, max(0, int(room * plan.dense)), inline=self.inline
        )
        return rewritten(request, changes), missing


def _tokens(passages: Sequence[Passage], dense: float) -> int:
    """Of a prompt's passages, with what stands around them."""
    characters = sum(len(passage.text) for passage in passages)
    return int(characters / max(dense, 1e-6)) + FRAME + MARK * len(passages)


def _rest(found: Found) -> int:
    """Tokens of what the body says beside its documents, about."""
    said = sum(len(turn.text) for turn in said_in(found.body))
    inside = sum(
        len(document.text)
        for document, place in zip(found.documents, found.places, strict=True)
        if place.kind == "text"
    )
    return max(0, said - inside) // CHARACTERS


def _answer(body: Mapping[str, Any]) -> int:
    """Tokens that the answer may have."""
    stated = (body.get(name) for name in LIMITS)
    return next((n for n in stated if isinstance(n, int) and n > 0), ANSWER)

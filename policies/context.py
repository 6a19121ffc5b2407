"""Context: what of its documents a request's model gets to read, and which model that is.

A long document can be answered from a few passages or from the whole. Neither always wins: it
depends on what is asked, on the length and on the model (LaRA, arXiv 2502.09977). So the request is
taken apart into documents and ask, the passages that match the ask are looked for, the ask is put
to a classifier, and the pair of a reader and a way is taken that is cheapest among the good ones.
Windows and limits on cost are hard: nothing is ever cut off in silence. In `self_route`
(arXiv 2407.16833) a model answers from passages first, unseen, and the whole is read only where it
says that they do not hold the answer.

The reader may be another policy: this one rewrites the request and hands it on. A request in which
no document is found goes on untouched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from policies.composition.embedder import EmbedderError, LocalEmbedder, minilm
from policies.reading.artifact import opened
from policies.reading.choice import Limits, Option, Reader
from policies.reading.corpus import Corpus
from policies.reading.first_pass import first_pass, may_refuse
from policies.reading.found import READ, Found
from policies.reading.kept_vectors import builder
from policies.reading.plan import Plan, Planner
from policies.reading.recipe import Recipe
from policies.reading.search import Pool
from policies.reading.shelf import MEGABYTES, Shelf, shared
from router.fleet import Fleet
from router.phrases import Phrase, close, compute, embed, note, relay, render, route
from router.steps import (
    Ended,
    Failed,
    ModelName,
    Request,
    Steps,
    Surface,
    TargetName,
    Vectors,
)

NEAR = 0.3
"""Share of a reader's window from which on its own tokenizer is asked whether the prompt fits."""
CUTS, CLOSER = 4, 0.95
"""Times that documents are cut until they fit by their reader's own count, and the part of what
seems to fit that is tried next."""


@dataclass(frozen=True, slots=True)
class Reads:
    """A model or policy that may read."""

    model: ModelName | None = None
    """For a policy: the model whose window, price and parameters hold for it."""
    like: str | None = None
    """The model of the published table that it is taken for; default: the one of its name, else
    what models of its size are worth."""


@dataclass(frozen=True, slots=True)
class Context:
    """Passages or the whole, and by whom: chosen together."""

    reasons: ClassVar[tuple[str, ...]] = (
        "passages",
        "whole",
        "second_pass",
        "kept_refusal",
        "cut",
        "too_long",
        "reader_failed",
        "no_documents",
    )

    readers: Mapping[TargetName, Reads]
    """The models or policies that may read, at least one."""
    otherwise: TargetName | None = None
    """Who answers a request without documents; default: the first reader."""
    way: Literal["choose", "passages", "whole", "self_route"] = "choose"
    """`choose` by what is asked; always `passages`; the `whole` where it fits; or passages first
    and the whole if they do not answer: `self_route`."""
    give_up: float = 0.0
    """Expected score, 0 to 1, that may be given up for a cheaper reading; 0.02, say."""
    keep_refusal: float | None = None
    """In `self_route`: from this probability on that a question has no answer, the first pass's
    word that there is none is kept. Without it the whole is always read then."""
    artifact: str = "default"
    """The folder that `tandem train context` made; `default` ships with Tandem."""
    corpus: str | None = None
    """The folder of a corpus that is asked about, beside what a request brings itself."""
    least: int = 4_000
    """Characters from which a text that nothing but its length sets apart counts as a document."""
    search: Recipe = field(default_factory=Recipe)
    """How documents are cut and searched."""
    dense: bool = True
    """Whether passages are searched by their meaning, too, and not by words alone."""
    embedder: ModelName | None = None
    """The model that makes vectors for that, of `/v1/embeddings`; default: the one that ships."""
    inline: bool = True
    """Whether the `documents` field is written into the messages where the whole is read: most
    chat templates pass over the field. `false` sends it on as it came."""
    cut: bool = False
    """Whether documents that nobody can read otherwise are cut in their middle, and the reason says
    by how much. Without it the backend refuses them."""
    max_tokens: int | None = None
    """Most tokens that one prompt may have."""
    max_usd: float | None = None
    """Most that one reading may cost, in USD, at the prices of the configuration."""
    patience: float = 0.01
    """Expected score that a second of waiting for a sleeping model costs."""
    memory_mb: float = MEGABYTES
    """Memory for the indexes of documents, in MB; the one not used for longest goes first."""
    _planner: Planner = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check()
        artifact, judge = opened(self.artifact)
        for target, reads in self.readers.items():
            if reads.like is not None and artifact.table.known(reads.like) is None:
                names = ", ".join(known.name for known in artifact.table.models)
                raise ValueError(f"readers.{target}.like: the table has no {reads.like}: {names}")
        try:
            local = minilm() if self.dense and self.embedder is None else None
        except EmbedderError as error:
            raise ValueError(f"dense: {error}") from None
        planner = Planner(
            judge=judge,
            table=artifact.table,
            shelf=self._shelf(local),
            recipe=self.search,
            limits=Limits(self.max_tokens, self.max_usd),
            least=self.least,
            give_up=self.give_up,
            patience=self.patience,
            inline=self.inline,
            measured=self.search.measures_as(artifact.card.retrieval),
            embed=local.embed if local else None,
            corpus=None if self.corpus is None else Corpus(Path(self.corpus)),
        )
        object.__setattr__(self, "_planner", planner)

    def _shelf(self, local: LocalEmbedder | None) -> Shelf:
        """Where indexes are kept. Policies that are alike share one, so that a swap loses none.

        Not so where the vectors are a corpus's or a backend's: then they are the policy's own, and
        one that is built anew asks a backend the same again.
        """
        if self.corpus is not None and local is not None:
            return Shelf(self.memory_mb, builder(Path(self.corpus), local.fingerprint))
        if self.embedder is not None:
            return Shelf(self.memory_mb)
        return shared(self.memory_mb, local.fingerprint if local else "words")

    def _check(self) -> None:
        """What one setting alone, or two together, may not be."""
        if not self.readers:
            raise ValueError("readers: name at least one model or policy")
        if self.corpus == "":
            raise ValueError("corpus: name the folder of a corpus")
        if self.keep_refusal is not None and self.way != "self_route":
            raise ValueError("keep_refusal: only where way is self_route")
        if self.embedder is not None and not self.dense:
            raise ValueError("embedder: nothing is embedded where dense is false")
        self._check_numbers()

    def _check_numbers(self) -> None:
        for name in ("give_up", "keep_refusal"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise ValueError(f"{name}: must lie between 0 and 1")
        for name in ("patience", "max_usd"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name}: must not be negative")
        for name in ("least", "max_tokens", "memory_mb"):
            if (stated := getattr(self, name)) is not None and stated <= 0:
                raise ValueError(f"{name}: must be above 0")

    def misfit(self, fleet: Fleet) -> str | None:
        """A policy among the readers has no window of its own; Self-Route needs a model."""
        models = [name for name in self.readers if name in fleet.models]
        for name, reads in self.readers.items():
            if reads.model is None and name not in models:
                return (
                    f"the reader {name} is a policy: say which model's window and price hold for "
                    f"it: readers: {{{name}: {{model: NAME}}}}"
                )
        if self.way == "self_route" and not models:
            return "self_route needs a reader that is a model, to hear its first answer unseen"
        return None

    # -------------------------------------------------------------------------- the request

    def route(self, request: Request, fleet: Fleet) -> Steps:
        """Let a reader answer from passages or from the whole."""
        if (why := self._nothing_in(request)) is not None:
            return (yield from self._pass_on(request, why))
        found = yield from compute(Planner.find, self._planner, request)
        if isinstance(found, str):
            return (yield from self._pass_on(request, found))
        pool = yield from compute(Planner.look, self._planner, found)
        if isinstance(pool, str):
            return (yield from self._pass_on(request, pool))
        vectors = yield from self._vectors(request, found, pool)
        readers = [self._reader(name, fleet) for name in self.readers]
        plan = yield from compute(Planner.plan, self._planner, found, pool, readers, vectors)
        if self.way == "self_route" and plan.task != "comp" and may_refuse(request.body):
            return (yield from self._self_route(request, plan, fleet))
        return (yield from self._read(request, plan, self._wanted(plan)))

    def _nothing_in(self, request: Request) -> str | None:
        """Why it need not even be looked for documents: what can be told at a glance."""
        if request.surface not in READ:
            return f"{request.surface.value} asks nothing in words"
        small = len(request.raw) < self.least and self.corpus is None
        if small and not request.body.get("documents") and b"<" not in request.raw:
            return "the request is short"
        return None

    def _pass_on(self, request: Request, why: str) -> Steps:
        yield from note("no_documents", why)
        return (yield from route(self.otherwise or next(iter(self.readers)), request))

    def _vectors(self, request: Request, found: Found, pool: Pool) -> Phrase[Vectors | None]:
        """What a backend makes of the passages and the ask; nothing where it is not asked, or does
        not answer: then words must do.
        """
        if self.embedder is None:
            return None
        texts = yield from compute(Pool.missing, pool)
        vectors = yield from embed(self.embedder, request, (*texts, found.question))
        return None if isinstance(vectors, Failed) else vectors

    def _reader(self, target: str, fleet: Fleet) -> Reader:
        reads = self.readers[target]
        model = fleet.models[reads.model or target]
        served = model.abilities.served
        known = self._planner.table.known
        names = (model.name, *(served if len(served) == 1 else ()))
        return Reader(
            target=target,
            model=model.name,
            window=model.context,
            price=model.price,
            params_b=model.params_b,
            healthy=model.healthy > 0,
            wake=model.wake,
            like=reads.like or next((name for name in names if known(name)), None),
        )

    def _wanted(self, plan: Plan) -> Sequence[Option]:
        """The readings in the order in which they are tried: those of a fixed way first."""
        if self.way not in ("passages", "whole"):
            return plan.order
        return sorted(plan.order, key=lambda option: option.way != self.way)

    # ------------------------------------------------------------------------------ reading

    def _read(
        self, request: Request, plan: Plan, order: Sequence[Option], reason: str | None = None
    ) -> Steps:
        """Let the first reader answer, the next one if it fails before a byte."""
        failed: dict[str, Ended] = {}
        for place, option in enumerate(order):
            target = option.reader.target
            if target in failed:
                continue
            written = yield from compute(Planner.write, self._planner, plan, option.way, request)
            if not (yield from self._fits(plan, option, written)):
                continue
            yield from self._say(plan, option, reason or option.way)
            others = {o.reader.target for o in order[place:]} - failed.keys()
            ended = yield from route(target, written, share=1 / len(others))
            if not isinstance(ended, Failed) or ended.sent or not ended.fault.elsewhere:
                return ended
            failed[target] = ended
            yield from note("reader_failed", f"{target}: {ended.fault.summary}")
        if failed:
            return next(reversed(failed.values()))
        return (yield from self._too_long(request, plan))

    def _say(self, plan: Plan, option: Option, reason: str, why: str = "") -> Phrase[None]:
        """Why this reading, what it is expected to be worth, and what is read of the whole."""
        passages = option.way == "passages"
        yield from note(
            reason,
            why + plan.about(option),
            plan.expected,
            cited=plan.cited if passages else (),
            sent=plan.sent(option),
        )

    def _fits(self, plan: Plan, option: Option, written: Request) -> Phrase[bool]:
        """Whether the prompt fits its reader's window: near it, by that model's own count."""
        window = option.reader.window
        if window is None or option.tokens + plan.answer <= NEAR * window:
            return True
        counted = yield from self._counted(option.reader, written)
        return counted is None or counted + plan.answer <= window

    def _counted(self, reader: Reader, written: Request) -> Phrase[int | None]:
        """Tokens of a prompt as its reader's own server counts them; None if it does not."""
        if written.surface is not Surface.CHAT:
            return None
        ids = yield from render(reader.model, written)
        return None if isinstance(ids, Failed) else len(ids)

    def _from_the_first_that_fits(
        self, request: Request, plan: Plan, order: Sequence[Option]
    ) -> Phrase[Sequence[Option]]:
        """These readings without those before the first that fits; empty if none does."""
        for place, option in enumerate(order):
            written = yield from compute(Planner.write, self._planner, plan, option.way, request)
            if (yield from self._fits(plan, option, written)):
                return order[place:]
        return ()

    def _too_long(self, request: Request, plan: Plan) -> Steps:
        """Nobody can read it: cut it if that is allowed, else let a backend say so."""
        readers = [option.reader for option in (*plan.unfit, *plan.order)]
        longest = max(readers, key=lambda reader: (reader.healthy, reader.window or 0))
        if self.cut and longest.window:
            room = min(longest.window, self.max_tokens or longest.window)
            written, missing = yield from self._cut(request, plan, longest, room)
            told = f"{missing} of {plan.found.characters} characters left out of the middle"
            yield from note("cut", f"{told}, for {longest.target}", cited=(), sent=1.0)
            return (yield from route(longest.target, written))
        why = plan.unfit[0].unfit if plan.unfit else "by its own count it fits no reader"
        yield from note("too_long", why or "", cited=(), sent=1.0)
        return (yield from route(longest.target, request))

    def _cut(
        self, request: Request, plan: Plan, reader: Reader, room: int
    ) -> Phrase[tuple[Request, int]]:
        """The request cut to `room` tokens, and the characters that this left out.

        By an estimate first, and smaller if the reader's own server counts more than that.
        """
        wanted = room
        for _ in range(CUTS):
            written, missing = yield from compute(Planner.cut, self._planner, plan, wanted, request)
            counted = yield from self._counted(reader, written)
            if counted is None or counted + plan.answer <= room:
                break
            fits = (room - plan.answer) / max(1, counted) * CLOSER
            wanted = plan.answer + int((wanted - plan.answer) * fits)
        return written, missing

    # --------------------------------------------------------------------------- self-route

    def _self_route(self, request: Request, plan: Plan, fleet: Fleet) -> Steps:
        """An answer from passages, unless it says that they hold none: then from the whole."""
        passages = [
            option
            for option in plan.order
            if option.way == "passages" and option.reader.target in fleet.models
        ]
        passages = [*(yield from self._from_the_first_that_fits(request, plan, passages))]
        if not passages:
            return (yield from self._read(request, plan, plan.order))
        first = passages[0]
        written = yield from compute(Planner.write_first, self._planner, plan, request)
        heard = yield from first_pass(first.reader.model, written)
        if isinstance(heard, Failed):
            if not heard.fault.elsewhere:
                yield from self._say(plan, first, "passages")
                return heard
            yield from note("reader_failed", f"{first.reader.target}: {heard.fault.summary}")
            rest = [o for o in plan.order if o.reader.target != first.reader.target]
            return (yield from self._read(request, plan, rest)) if rest else heard
        if not heard.refused:
            yield from self._say(plan, first, "passages")
            return (yield from relay(heard.attempt))
        whole = [option for option in plan.order if option.way == "whole"]
        why = self._keeps(plan)
        if why is None:
            whole = [*(yield from self._from_the_first_that_fits(request, plan, whole))]
            why = None if whole else "the whole fits no reader"
        if why is not None:
            yield from self._say(plan, first, "kept_refusal", f"{why}; ")
            return (yield from relay(heard.attempt))
        yield from close(heard.attempt)
        return (yield from self._read(request, plan, whole, "second_pass"))

    def _keeps(self, plan: Plan) -> str | None:
        """Why the first pass's refusal is wanted; None if it is not."""
        unanswerable = plan.chances[-1]
        if self.keep_refusal is not None and unanswerable >= self.keep_refusal:
            return f"unanswerable {unanswerable:.2f}"
        return None

"""From a request to the end of its answer, around the part that differs from policy to policy.

Here it is found out whether these two models can write this answer together; if not, one model
does, and the client is told why. If so, the prompt becomes token ids, every choice gets its page,
and the policy's `write` fills one of them; several are filled side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from policies.duet.asked import Asked, asked_of, one_prompt, token_prompt
from policies.duet.page import Page
from policies.duet.turn import Writer
from policies.duet.watch import ALTERNATIVES
from router.fleet import Fleet, ModelView, tokenizers_differ
from router.phrases import Phrase, note, render, route, together
from router.steps import Ended, Failed, Fault, Request, Steps

REASONS = ("in_engine", "estimated", "one_model", "small_failed", "large_failed")
"""Who decided when to hand over: the gates in the engines, or estimates made from what a backend
tells. Or why only one model wrote: two could not, or the other one was lost on the way."""
NO_SUCH_PATH = (404, 405, 501)
"""What a server without `/tokenize` answers."""


class Duet(Protocol):
    """What a token policy has to say itself."""

    returns: ClassVar[bool]
    """Whether a rule decides when the large model hands back, too."""

    @property
    def small(self) -> str:
        """The model that is cheap."""
        ...

    @property
    def large(self) -> str:
        """The model that is good."""
        ...

    @property
    def alone(self) -> str | None:
        """Who answers what two models cannot write together; the large one if nobody is named."""
        ...

    @property
    def reasoning(self) -> bool:
        """Whether backends keep the models' reasoning apart."""
        ...

    def unfit(self, small: ModelView, large: ModelView) -> str | None:
        """Why this pair cannot do it, if it cannot."""
        ...

    def write(self, page: Page, small: Writer, large: Writer) -> Phrase[Ended]:
        """Fill one page."""
        ...


@dataclass(frozen=True, slots=True)
class Start:
    """What every page begins with."""

    asked: Asked
    prompt: tuple[int, ...]
    parser: str | None


def answered(duet: Duet, request: Request, fleet: Fleet) -> Steps:
    """Answer `request` with both models of `duet`, or with one."""
    small, large = fleet.models[duet.small], fleet.models[duet.large]
    start = yield from _start(duet, request, small, large)
    if isinstance(start, Failed):
        return start
    if isinstance(start, str):
        yield from note("one_model", start)
        return (yield from route(duet.alone or duet.large, request))
    pages = [
        Page(request, start.asked, start.prompt, choice, parser=start.parser)
        for choice in range(start.asked.choices)
    ]
    pairs = [(_writer(small), _writer(large)) for _ in pages]
    decided_by = _decided_by(duet, small, large)
    yield from note(decided_by)
    ends = yield from together(
        [duet.write(page, *pair) for page, pair in zip(pages, pairs, strict=True)]
    )
    yield from _told(pages, pairs, decided_by)
    return _ended(pages, ends)


def _start(
    duet: Duet, request: Request, small: ModelView, large: ModelView
) -> Phrase[Start | str | Failed]:
    asked = asked_of(request)
    if isinstance(asked, str):
        return asked
    parses = asked.tools or duet.reasoning
    parser = next((view.name for view in (large, small) if view.abilities.derender), None)
    unparsed = _unparsed(asked, parser) if parses else None
    if why := unparsed or duet.unfit(small, large) or _unfit(small, large):
        return why
    prompt = yield from _prompt(duet.small, request)
    if not isinstance(prompt, tuple):
        return prompt
    room = _room(asked, prompt, (small, large))
    if isinstance(room, str):
        return room
    return Start(replace(asked, room=room), prompt, parser if parses else None)


def _unparsed(asked: Asked, parser: str | None) -> str | None:
    if parser is None:
        return "tools and reasoning: only a backend with vLLM's derender tells them from text"
    return "stop: in tool calls and reasoning the backend looks for it" if asked.stops else None


def _prompt(model: str, request: Request) -> Phrase[tuple[int, ...] | str | Failed]:
    """The prompt's token ids; or why they cannot be had, or what is wrong with the request."""
    if (ids := token_prompt(request)) is not None:
        return ids
    rendered = yield from render(model, one_prompt(request))
    if isinstance(rendered, Failed) and _cannot(rendered.fault):
        return f"{model} cannot tell the prompt's tokens: {rendered.fault.summary}"
    return rendered


def _cannot(fault: Fault) -> bool:
    """Whether it is the backend that cannot, and not the request that is wrong."""
    return fault.elsewhere or fault.status in NO_SUCH_PATH


def _room(
    asked: Asked, prompt: tuple[int, ...], models: tuple[ModelView, ModelView]
) -> int | str | None:
    """How many tokens the answer may have in both models; or why it cannot have any."""
    known = [view.context for view in models if view.context is not None]
    room = min(
        [limit for limit in (asked.room, *(c - len(prompt) for c in known)) if limit is not None],
        default=None,
    )
    if asked.room == 0:
        return "nothing is to be written"
    if room is not None and room < 1:
        return f"a prompt of {len(prompt)} tokens does not fit both models"
    return room


def _unfit(small: ModelView, large: ModelView) -> str | None:
    for view in (small, large):
        if view.abilities.token_ids is False:
            return f"the backends of {view.name} neither take nor give token ids"
    return tokenizers_differ(small, large)


def _writer(view: ModelView) -> Writer:
    most = view.abilities.max_logprobs
    alternatives = ALTERNATIVES if most is None else min(most, ALTERNATIVES)
    return Writer(view.name, view.abilities.gate, alternatives)


def _told(
    pages: Sequence[Page], pairs: Sequence[tuple[Writer, Writer]], reason: str
) -> Phrase[None]:
    """Say who wrote how much, and who decided."""
    large = pairs[0][1].model
    tokens = sum(page.wrote.total() for page in pages)
    by_large = sum(page.wrote[large] for page in pages)
    turns = sum(page.turns[large] for page in pages)
    if any(one.lost for pair in pairs for one in pair):
        reason = "small_failed" if any(small.lost for small, _ in pairs) else "large_failed"
    told = f"{by_large} of {tokens} tokens by {large}, in {turns} turn{'' if turns == 1 else 's'}"
    if guesses := sum(page.guesses for page in pages):
        told += f", {sum(page.kept for page in pages)} of {guesses} guesses kept"
    yield from note(reason, told)


def _decided_by(duet: Duet, small: ModelView, large: ModelView) -> str:
    ruled = (small, large) if duet.returns else (small,)
    return "estimated" if any(view.abilities.gate is None for view in ruled) else "in_engine"


def _ended(pages: Sequence[Page], ends: Sequence[Ended]) -> Ended:
    """One of the choices' ends, a failure first: what was written before cannot be taken back."""
    failed = next((ended for ended in ends if isinstance(ended, Failed)), None)
    if failed is None:
        return ends[0]
    return replace(failed, sent=failed.sent or any(page.begun for page in pages), spare=False)

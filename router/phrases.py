"""Phrases: the typed sentences that policies say with the vocabulary of `router.steps`.

Each is a generator to `yield from`; a bare `yield` has no reply type, these do. Only `rewritten`
asks nobody. Nothing here waits or knows the engine. What several policies would otherwise each
write (trying the next backend of a pool, collecting a draft) is written once, here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from router.steps import (
    UNCHANGED,
    Attempt,
    Begin,
    Close,
    Compute,
    Delta,
    Draft,
    Embed,
    Emit,
    Ended,
    Event,
    Failed,
    Finished,
    Next,
    Note,
    Open,
    Parse,
    Parsed,
    Relay,
    Render,
    Request,
    Route,
    Score,
    Scorer,
    Scores,
    Spell,
    Step,
    Steps,
    TimedOut,
    Token,
    Vectors,
)

DRAFT_SHARE = 0.5
"""Half for the draft, half for the answer, if it comes to that."""

T = TypeVar("T")
Phrase = Generator[Step, Any, T]


def open_attempt(
    model: str,
    request: Request,
    changes: Mapping[str, Any] = UNCHANGED,
    avoid: frozenset[str] = frozenset(),
    share: float = 1.0,
    *,
    waits: bool = True,
) -> Phrase[Attempt]:
    """Prepare a call to `model` with these fields changed, on a backend not in `avoid`.

    With `waits` off it fails where it would have to wait in line.
    """
    attempt: Attempt = yield Open(model, request, changes, avoid, share, waits=waits)
    return attempt


def next_event(*attempts: Attempt, timeout: float | None = None) -> Phrase[Event]:
    """The first event of any of these attempts, or `TimedOut` after `timeout` seconds."""
    event: Event = yield Next(attempts, timeout)
    return event


def relay(attempt: Attempt) -> Steps:
    """Give the client this attempt's answer, whole and untouched."""
    ended: Ended = yield Relay(attempt)
    return ended


def relay_one(draft: Draft, beside: tuple[Attempt, ...] = ()) -> Steps:
    """Give the client this draft as if its attempt had been asked for no other choice.

    The usage that the client is told counts all choices, and the attempts `beside`.
    """
    if draft.emits:
        *before, last = draft.emits
        for emit in before:
            yield replace(emit, choice=0)
        yield replace(last, choice=0, beside=(*draft.opened, *beside))
        return draft.finished
    ended: Ended = yield Relay(draft.attempt, draft.choice, beside)
    return ended


def emit(attempt: Attempt, text: str) -> Phrase[None]:
    """Write `text` into the client's answer."""
    yield Emit(attempt, text)


def close(*attempts: Attempt) -> Phrase[None]:
    """Cancel these attempts."""
    for attempt in attempts:
        yield Close(attempt)


def compute(function: Callable[..., T], *arguments: Any) -> Phrase[T]:
    """Run slow CPU work off the event loop."""
    result: T = yield Compute(function, arguments)
    return result


def render(model: str, request: Request) -> Phrase[tuple[int, ...] | Failed]:
    """The request's prompt as token ids of `model`."""
    ids: tuple[int, ...] | Failed = yield Render(model, request)
    return ids


def spell(model: str, request: Request, tokens: tuple[int, ...]) -> Phrase[str | Failed]:
    """The text of these tokens."""
    text: str | Failed = yield Spell(model, request, tokens)
    return text


def embed(model: str, request: Request, texts: tuple[str, ...]) -> Phrase[Vectors | Failed]:
    """The embeddings of these texts."""
    vectors: Vectors | Failed = yield Embed(model, request, texts)
    return vectors


def score(
    model: str, request: Request, asked: str, texts: tuple[str, ...], by: Scorer | None = None
) -> Phrase[Scores | Failed]:
    """What a reward model thinks of these answers to what was `asked`, whole ones or beginnings."""
    scores: Scores | Failed = yield Score(model, request, asked, texts, by or Scorer())
    return scores


def parse(
    model: str, request: Request, prompt: tuple[int, ...], tokens: tuple[int, ...], reason: str
) -> Phrase[Parsed | Failed]:
    """A whole answer as the backend reads its own."""
    parsed: Parsed | Failed = yield Parse(model, request, prompt, tokens, reason)
    return parsed


def route(target: str, request: Request, share: float = 1.0) -> Steps:
    """Let another policy or model answer, within `share` of the time that is left."""
    ended: Ended = yield Route(target, request, share)
    return ended


def begin(target: str, request: Request) -> Phrase[Steps]:
    """The steps of another policy or model, to be performed and closed by whoever asks."""
    steps: Steps = yield Begin(target, request)
    return steps


def note(
    reason: str,
    detail: str = "",
    expected: Mapping[str, float] = UNCHANGED,
    cited: tuple[Mapping[str, Any], ...] | None = None,
    sent: float | None = None,
) -> Phrase[None]:
    """Tell listeners and the client why, the score expected of each target, and what is read."""
    yield Note(reason, detail, expected, cited, sent)


def rewritten(request: Request, changes: Mapping[str, Any]) -> Request:
    """`request` as if the client had sent these top-level fields; all its other bytes stay its own.

    To be computed: it reads the whole body.
    """
    from router.splice import splice  # only here: vLLM, which loads the gate from beside, lacks it

    body = {**request.body, **changes}
    return replace(request, body=body, raw=splice(request.raw, request.body, changes))


def serve(model: str, request: Request, changes: Mapping[str, Any] = UNCHANGED) -> Steps:
    """Answer from `model`, spilling over to its other backends until a first byte is sent."""
    tried: frozenset[str] = frozenset()
    while True:
        attempt = yield from open_attempt(model, request, changes, tried)
        ended = yield from relay(attempt)
        if not (isinstance(ended, Failed) and ended.spare):
            return ended
        tried |= {attempt.backend}


def together(parts: Sequence[Phrase[T]]) -> Phrase[list[T]]:
    """Say several phrases side by side; each hears its own attempts as soon as they speak.

    A timeout that one of them sets begins anew when another hears something: nobody here has a
    clock, and so it may come later than it was asked for.
    """
    if len(parts) == 1:
        return [(yield from parts[0])]
    results: dict[int, T] = {}
    waiting: dict[int, Next] = {}

    def advance(number: int, reply: Any) -> Phrase[None]:
        while True:
            try:
                step = parts[number].send(reply)
            except StopIteration as stop:
                results[number] = stop.value
                return
            if isinstance(step, Next):
                waiting[number] = step
                return
            reply = yield step

    for number in range(len(parts)):
        yield from advance(number, None)
    while waiting:
        patience = {n: step.timeout for n, step in waiting.items() if step.timeout is not None}
        first = min(patience, key=lambda n: patience[n], default=None)
        event = yield from next_event(
            *(a for step in waiting.values() for a in step.attempts),
            timeout=None if first is None else patience[first],
        )
        owner = _hearer(event, waiting, first)
        del waiting[owner]
        yield from advance(owner, event)
    return [results[number] for number in range(len(parts))]


def _hearer(event: Event, waiting: Mapping[int, Next], impatient: int | None) -> int:
    """Whose event this is; a timeout is that of the most impatient."""
    if isinstance(event, TimedOut):
        assert impatient is not None
        return impatient
    return next(n for n, step in waiting.items() if event.attempt in step.attempts)


def collect(attempt: Attempt) -> Phrase[Draft | Failed]:
    """Hear an attempt to its end without sending anything; `relay` can still send it after."""
    text: list[str] = []
    tokens: list[Token] = []
    while True:
        match (yield from next_event(attempt)):
            case Delta(choice=0) as delta:
                text.append(delta.text)
                tokens.extend(delta.tokens)
            case Delta() | TimedOut():
                pass
            case Finished() as finished:
                return Draft(attempt, "".join(text), tuple(tokens), finished)
            case Failed() as failed:
                return failed


def collect_all(
    attempt: Attempt, heard: Iterable[Event] = ()
) -> Phrase[tuple[Draft, ...] | Failed]:
    """As `collect`, of every choice, in their order; `relay_one` can send one of them after.

    `heard` is what was heard of the attempt before.
    """
    before = iter(heard)
    texts: dict[int, list[str]] = {0: []}
    tokens: dict[int, list[Token]] = {}
    while True:
        event = next(before, None)
        match event or (yield from next_event(attempt)):
            case Delta() as delta:
                texts.setdefault(delta.choice, []).append(delta.text)
                tokens.setdefault(delta.choice, []).extend(delta.tokens)
            case TimedOut():
                pass
            case Failed() as failed:
                return failed
            case Finished() as finished:
                reasons = finished.reasons or (finished.reason,)
                ended = dict(enumerate(reasons))
                return tuple(
                    Draft(
                        attempt,
                        "".join(texts.get(number, ())),
                        tuple(tokens.get(number, ())),
                        replace(finished, reason=ended.get(number), reasons=()),
                        number,
                    )
                    for number in sorted({*texts, *ended})
                )


def draft(
    model: str, request: Request, changes: Mapping[str, Any] = UNCHANGED, share: float = DRAFT_SHARE
) -> Phrase[Draft | Failed]:
    """A whole answer of `model` that the client does not see, spilling over like `serve`.

    It may be silent for `share` of the time that is left: somebody has yet to answer.
    """
    return (yield from unseen(model, request, collect, changes, share))


def unseen(
    model: str,
    request: Request,
    hear: Callable[[Attempt], Phrase[T | Failed]],
    changes: Mapping[str, Any] = UNCHANGED,
    share: float = DRAFT_SHARE,
) -> Phrase[T | Failed]:
    """What `hear` makes of an answer of `model` that the client does not see; else as `draft`."""
    tried: frozenset[str] = frozenset()
    while True:
        attempt = yield from open_attempt(model, request, changes, tried, share)
        heard = yield from hear(attempt)
        if not (isinstance(heard, Failed) and heard.spare):
            return heard
        tried |= {attempt.backend}

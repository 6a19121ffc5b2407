"""vLLM's batches as its two interfaces tell them to a logits processor, played by chance.

Requests come, leave, wait and come back; rows move; prompts are read in parts. Each request is
followed by the rules in plain Python (`plain`), which is what the rows are compared with. Needs
neither vLLM nor torch: whoever has them hands in their classes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from policies.gate.arrays import Floats
from policies.gate.rules import OWN
from policies.gate.settings import GateSettings, Rule
from tests.policies.gate.plain import Plain

VOCABULARY = 40
STOP = 7
ROWS = 6
NEAR = 1e-4
"""A mean so near to its threshold may fall on either side in float32: nothing is said of it."""


class SeenTensor:
    """As much of a torch tensor on a processor as the gate uses."""

    def __init__(self, values: Floats) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def numpy(self) -> Floats:
        return self._values


def configuration(**changed: Any) -> Any:
    """As much of vLLM's configuration as the gate reads."""
    model = SimpleNamespace(
        get_vocab_size=lambda: VOCABULARY,
        get_hidden_size=lambda: 4,
        skip_tokenizer_init=True,
        hf_text_config=SimpleNamespace(eos_token_id=2),
    )
    scheduler = SimpleNamespace(max_num_seqs=ROWS)
    known = {"model_config": model, "scheduler_config": scheduler, "speculative_config": None}
    return SimpleNamespace(**known | changed)


def parameters(settings: GateSettings | None) -> Any:
    """As much of vLLM's `SamplingParams` as the gate reads."""
    return SimpleNamespace(extra_args=settings and settings.xargs(), min_tokens=0)


@dataclass(eq=False)
class Request:
    """One request: what it asks, and what it has had."""

    number: int
    settings: GateSettings | None
    params: Any
    prompt: int
    """How many steps its prompt takes to be read."""
    length: int
    output: list[int] = field(default_factory=list)
    read: int = 0

    def __post_init__(self) -> None:
        self.plain = Plain(self.settings, STOP) if self.settings else None

    def logits(self) -> Floats:
        """Of its next token; other ones while its prompt is being read."""
        draw = np.random.default_rng((self.number, len(self.output), self.reading))
        scale = 10 ** draw.uniform(-1, 1.2)
        return (draw.normal(size=VOCABULARY) * scale).astype(np.float32)

    @property
    def reading(self) -> bool:
        return self.read < self.prompt

    @property
    def done(self) -> bool:
        near = self.plain is not None and self.plain.closest < NEAR
        return len(self.output) >= self.length or near

    def forget(self) -> None:
        """Its window starts anew, as when vLLM gives a request a new slot."""
        if self.output and self.settings is not None and self.settings.rule is Rule.ENTROPY:
            since = self.settings.since + len(self.output)
            self.plain = Plain(replace(self.settings, history=(), since=since), STOP)

    def step(self, row: Floats) -> int:
        """The token that its row must write, and on to the next."""
        if self.reading:
            self.read += 1
            if self.reading:
                return OWN
        token = OWN if self.plain is None else self.plain.decide(row.tolist())
        self.output.append(0)
        return token


class Crowd:
    """Requests by chance: some with a gate, each with other settings."""

    def __init__(self, seed: int, make: Callable[[GateSettings | None], Any] = parameters) -> None:
        self.chance = random.Random(seed)
        self._make = make
        self._count = 0

    def one(self) -> Request:
        chance, self._count = self.chance, self._count + 1
        settings = None
        if chance.random() < 0.7:
            settings = GateSettings(
                rule=chance.choice([Rule.ENTROPY, Rule.ENTROPY, Rule.RANDOM]),
                token=STOP,
                threshold=chance.uniform(0, 5),
                window=chance.choice([1, 2, 5, 9]),
                dwell=chance.choice([0, 0, 4]),
                since=chance.choice([0, 2]),
                history=tuple(chance.uniform(0, 5) for _ in range(chance.choice([0, 0, 3, 70]))),
                below=chance.random() < 0.3,
                keep=chance.random() < 0.3,
                rate=0.3,
                seed=chance.randrange(2**40),
            )
        params = self._make(settings)
        return Request(
            self._count, settings, params, chance.choice([1, 1, 1, 3]), chance.randint(1, 25)
        )


def check(before: Floats, after: Floats, wanted: Sequence[int | None]) -> int:
    """Raise AssertionError if a row does not write what it must; how many were made to."""
    forced = 0
    for was, now, token in zip(before, after, wanted, strict=True):
        if token is None:
            continue
        if token == OWN:
            np.testing.assert_array_equal(now, was)
            continue
        forced += 1
        assert now[token] == 0.0
        assert np.isneginf(np.delete(now, token)).all()
    return forced


def played(requests: Sequence[Request], apply: Callable[[Floats], None]) -> int:
    """One step: `apply` to the rows of these requests, which then have one token more.

    Raises AssertionError if a row does not write what it must; how many were made to.
    """
    before = np.stack([each.logits() for each in requests])
    after = before.copy()
    apply(after)
    wanted: list[int | None] = []
    for request, row in zip(requests, before, strict=True):
        token = request.step(row)
        unsure = request.reading or (request.plain is not None and request.plain.closest < NEAR)
        wanted.append(None if unsure else token)
    return check(before, after, wanted)


# ------------------------------------------------------------------------------ the V1 interface


@dataclass(frozen=True)
class Words:
    """How vLLM says that a batch has changed: its class, and the two kinds of a move."""

    update: Callable[..., Any]
    one_way: Any
    swap: Any


class Batch:
    """vLLM's persistent batch, rows and all, and what it tells of its changes."""

    def __init__(self, crowd: Crowd, words: Words) -> None:
        self._crowd = crowd
        self._words = words
        self.rows: list[Request] = []
        self._waiting: list[Request] = []

    def change(self) -> Any:
        """Requests leave, come and move. None if nothing did."""
        chance = self._crowd.chance
        left = [row for row, each in enumerate(self.rows) if each.done or chance.random() < 0.05]
        for row in left:
            if not self.rows[row].done:
                self._waiting.append(self.rows[row])
        kept: list[Request | None] = [
            None if row in left else each for row, each in enumerate(self.rows)
        ]
        removed, added = sorted(left, reverse=True), []
        while len(kept) - kept.count(None) < ROWS and chance.random() < 0.3:
            request = self._next()
            row = removed.pop() if removed else len(kept)
            kept[row : row + 1] = [request]
            added.append((row, request.params, [1], request.output))
        moved = [*self._condense(kept), *self._swaps(kept)]
        self.rows = [each for each in kept if each is not None]
        if not (left or added or moved):
            return None
        return SimpleNamespace(batch_size=len(self.rows), removed=removed, added=added, moved=moved)

    def _next(self) -> Request:
        if self._waiting:
            request = self._waiting.pop(0)
            request.output = list(request.output)  # vLLM may make another list of it
            return request
        return self._crowd.one()

    def _condense(self, rows: list[Request | None]) -> Iterator[tuple[int, int, Any]]:
        """Fill empty rows with the last ones."""
        while None in rows:
            if rows[-1] is None:
                rows.pop()
                continue
            hole = rows.index(None)
            yield len(rows) - 1, hole, self._words.one_way
            rows[hole] = rows.pop()

    def _swaps(self, rows: list[Request | None]) -> Iterator[tuple[int, int, Any]]:
        if len(rows) > 1 and self._crowd.chance.random() < 0.3:
            one, other = self._crowd.chance.sample(range(len(rows)), 2)
            rows[one], rows[other] = rows[other], rows[one]
            yield one, other, self._words.swap


def play_first(gate: Any, crowd: Crowd, tensor: Callable[[Floats], Any], words: Words) -> int:
    """Three hundred steps through `update_state` and `apply`; how many rows were forced."""
    batch, forced = Batch(crowd, words), 0
    for _ in range(300):
        gate.update_state(batch.change())
        if batch.rows:
            forced += played(batch.rows, lambda rows: gate.apply(tensor(rows)))
    return forced


# ------------------------------------------------------------------------- Model Runner V2's


class Slots:
    """The request states of Model Runner V2: slots are taken from the top of a pile."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._free = list(range(ROWS))
        self.taken: dict[int, Request] = {}
        self.prompt_len = SimpleNamespace(np=np.zeros(ROWS, dtype=np.int32))
        self.prefill_len = SimpleNamespace(np=np.zeros(ROWS, dtype=np.int32))
        self._waiting: list[Request] = []

    def change(self, gate: Any) -> None:
        """Requests leave, come, and come back with all that they had to be read again."""
        chance = self._crowd.chance
        for slot, request in list(self.taken.items()):
            if request.done or chance.random() < 0.05:
                self._free.append(slot)
                del self.taken[slot]
                if not request.done:
                    self._waiting.append(request)
        while self._free and chance.random() < 0.3:
            back = self._waiting.pop(0) if self._waiting and chance.random() < 0.5 else None
            if back is not None:
                back.read, back.prompt = 0, back.prompt + len(back.output)
                back.forget()
            self._put(self._free.pop(), back or self._crowd.one(), gate)

    def _put(self, slot: int, request: Request, gate: Any) -> None:
        self.taken[slot] = request
        self.prefill_len.np[slot] = request.prompt
        self.prompt_len.np[slot] = request.prompt - len(request.output)
        assert gate.add_request(slot, request.params) == (request.settings is not None)

    def length(self, slot: int) -> int:
        """Tokens that the one being drawn can see."""
        request = self.taken[slot]
        if request.reading:
            return request.read + 1
        return int(self.prompt_len.np[slot]) + len(request.output)


def play_second(
    gate: Any,
    slots: Slots,
    tensor: Callable[[Floats], Any],
    context: Callable[[list[int], list[int]], Any],
) -> int:
    """Three hundred steps through `add_request` and `apply`; how many rows were forced.

    `context` makes the batch's layout of its slots and of the lengths of its sequences.
    """
    forced, chance = 0, slots._crowd.chance
    for _ in range(300):
        slots.change(gate)
        order = list(slots.taken)
        chance.shuffle(order)
        if order:
            layout = context(order, [slots.length(slot) for slot in order])
            requests = [slots.taken[slot] for slot in order]
            forced += played(requests, partial(_apply_second, gate, tensor, layout))
    return forced


def _apply_second(gate: Any, tensor: Callable[[Floats], Any], layout: Any, rows: Floats) -> None:
    gate.apply(tensor(rows), layout)


PADDING = 3
"""Lengths of 0 after those of a batch, as for a CUDA graph of more rows."""


def plain_context(order: list[int], lengths: list[int]) -> Any:
    """As much of vLLM's `LogitsContext` as the gate reads."""
    return SimpleNamespace(
        idx_mapping_np=np.asarray(order, dtype=np.int32),
        seq_lens_upper_bound_np=np.asarray([*lengths, *[0] * PADDING], dtype=np.int32),
    )

"""Two toy models over a vocabulary of bytes, and the engines that serve them.

A model is a pure function from token ids to the next token's distribution. The two often agree, are
sure or unsure in exact steps (so that means meet thresholds), and may write a character's bytes in
several tokens, but never bytes that are no UTF-8. An engine keeps to what vLLM does with a call of
`/v1/completions`: limits, stop tokens, the gate's reserved token with the raw distribution beside
it, text that is silent until a character is complete and wrong after a prompt that ends inside one.
It runs the gate's rules in plain Python, without the house's code.
"""

from __future__ import annotations

import codecs
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from policies.gate.settings import GateSettings, Rule
from router.steps import Alternative, Token

EOS, GATE, MARK = 0, 1, 2
"""The end, the reserved token, and a special token that a text leaves out."""
BYTES: tuple[bytes, ...] = (
    b"", b"", b"",
    b"a", b"b", b"c", b" ", b"ab", "é".encode(), b"\xc3", b"\xa9", b"\xf0\x9f", b"\x9a", b"\xb2",
    b" \xf0", b"\x9f", b"c\xc3", b"\xb2a", b"\xf0",
)  # fmt: skip
"""What the tokens are made of; some of 🚲 and é, whole and in parts."""
PROMPT = (3, 6, 4)
SPREADS = ((1.0,), (0.5, 0.5), (0.25,) * 4, (0.7, 0.2, 0.1))
"""Of 0, 1 and 2 bits exactly, and of some."""
MEMORY = 3
"""Tokens that a model looks back."""
LONGEST = 60
"""Tokens after which every engine's context ends, the prompt's included."""

Spread = tuple[tuple[int, float], ...]


def begun(ids: Sequence[int]) -> bytes:
    """The bytes of the character that these tokens end inside, if they do."""
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    decoder.decode(b"".join(BYTES[token] for token in ids[-4:]))
    return decoder.getstate()[0]


def decoded(ids: Sequence[int], *, marks: bool = False) -> str:
    """The text of these tokens, with U+FFFD for what is no character (yet)."""
    spoken = (b"<s>" if marks and token == MARK else BYTES[token] for token in ids)
    return b"".join(spoken).decode(errors="replace")


def shown(ids: Sequence[int]) -> str:
    """The text as one engine alone would show it: without tokens that end inside a character."""
    whole = next(n for n in range(len(ids), -1, -1) if not begun(ids[:n]))
    return decoded(ids[:whole])


@dataclass(frozen=True)
class World:
    """Two models, `small` and `large`, drawn from a seed."""

    seed: int
    marks: bool = False

    def spread(self, model: str, ids: Sequence[int]) -> Spread:
        """The next token's distribution, likeliest first."""
        return _spread(self.seed, model, tuple(ids[-MEMORY:]), begun(ids), self.marks)

    def score(self, ids: Sequence[int]) -> float:
        """What a learned gate makes of this position, 0 to 1."""
        return random.Random(hash((self.seed, -1, *ids[-MEMORY:]))).random()


@lru_cache(maxsize=50_000)
def _spread(seed: int, model: str, near: tuple[int, ...], inside: bytes, marks: bool) -> Spread:
    both = random.Random(hash((seed, near)))
    own = random.Random(hash((seed, len(model) + ord(model[0]), near)))
    options = [token for token in range(3, len(BYTES)) if _fits(inside + BYTES[token])]
    if not inside:
        options += [EOS] + [MARK] * marks
    both.shuffle(options)
    if own.random() < 0.4:
        own.shuffle(options)
    chances = own.choice(SPREADS)[: len(options)]
    whole = sum(chances)
    return tuple((token, p / whole) for token, p in zip(options, chances, strict=False))


def _fits(text: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")("strict").decode(text)
    except UnicodeDecodeError:
        return False
    return True


def entropy(spread: Spread) -> float:
    """Bits."""
    return -sum(p * math.log2(p) for _, p in spread)


def coin(seed: int, position: int) -> float:
    """The output number `position` of SplitMix64, from 0 to 1."""
    state = (seed + 0x9E3779B97F4A7C15 * (position + 1)) % 2**64
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return ((state ^ (state >> 31)) >> 11) / 2**53


# --------------------------------------------------------------------------------------- engines


@dataclass
class Gate:
    """One call's rule."""

    settings: GateSettings
    world: World
    _bits: list[float] = field(default_factory=list)
    _count: int = 0
    _fired: bool = False

    def stops(self, spread: Spread, ids: Sequence[int]) -> bool:
        """Whether the reserved token must come next."""
        fires = self._fires(spread, ids)
        self._count += 1
        stops, self._fired = self._fired, fires
        return stops if self.settings.keep else fires

    def _fires(self, spread: Spread, ids: Sequence[int]) -> bool:
        settings = self.settings
        self._bits.append(entropy(spread))
        if settings.since + self._count < settings.dwell:
            return False
        if settings.rule is Rule.RANDOM:
            return coin(settings.seed, self._count) < (settings.rate or 0)
        if settings.rule is Rule.NEURAL:
            return self.world.score(ids) >= (settings.threshold or 0)
        last = self._bits[-settings.window :]
        mean, bits = sum(last) / len(last), settings.threshold or 0
        return mean < bits if settings.below else mean >= bits


@dataclass
class Speller:
    """The text of one call's tokens as they come, as vLLM's detokenizer makes it."""

    ids: list[int]
    _prefix: str = ""

    def __post_init__(self) -> None:
        self._prefix = decoded(self.ids)

    def add(self, token: int) -> str:
        """What this token adds; nothing until a character is complete."""
        self.ids.append(token)
        whole = decoded(self.ids)
        known, now = self._prefix.encode(), whole.encode()
        if whole.endswith("\ufffd") or len(now) <= len(known):
            return ""
        self._prefix = whole
        return now[len(known) :].decode(errors="replace")


@dataclass(frozen=True)
class Spoken:
    """A token of an engine's answer with the text that it made known."""

    token: Token
    text: str


@dataclass(frozen=True)
class Said:
    """All that an engine says to one call."""

    tokens: tuple[Spoken, ...]
    reason: str
    stop_reason: int | None


def said(world: World, model: str, body: Mapping[str, Any]) -> Said:
    """The whole answer of an engine of this model; greedy."""
    ids, spoken = list(body["prompt"]), []
    speller, stops = Speller(list(ids)), body.get("stop_token_ids") or ()
    settings = GateSettings.of(body.get("vllm_xargs"))
    gate = Gate(settings, world) if settings else None
    assert gate is None or GATE in stops, "nothing stops the call when its gate fires"
    most = min(LONGEST - len(ids), body["max_tokens"] or LONGEST)
    assert most > 0, "the prompt is too long"
    while True:
        spread = world.spread(model, ids)
        token = GATE if gate and gate.stops(spread, ids) else spread[0][0]
        ends = token == EOS or token in stops
        text = "" if ends else speller.add(token)
        spoken.append(Spoken(_token(token, spread, body), text))
        ids.append(token)
        if ends:
            return Said(tuple(spoken), "stop", None if token == EOS else token)
        if len(spoken) == most:
            return Said(tuple(spoken), "length", None)


def _token(token: int, spread: Spread, body: Mapping[str, Any]) -> Token:
    """A token as it is told: with log-probabilities, and with a name instead of a text, if asked.

    Alternatives have names always: under one text, two halves of characters would be one.
    """
    if (most := body.get("logprobs")) is None:
        return Token("", token)
    chances = dict(spread)
    told = {token: chances.get(token, 1e-9), **dict(spread[:most])}
    top = tuple(Alternative(f"token_id:{each}", math.log(p)) for each, p in told.items())
    text = top[0].text if body.get("return_tokens_as_token_ids") else decoded([token])
    return Token(text, token, top[0].logprob, top)

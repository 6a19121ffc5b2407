"""What two models write together, computed by a plain loop: whose turn, next token, rule.

No engines, no calls, no chunks: what the policies make of all that must be exactly this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from policies.entropy import Entropy
from policies.token_gate import TokenGate
from tests.policies.duet.world import EOS, LONGEST, PROMPT, World, begun, coin, entropy, shown

Name = Literal["small", "large"]
OTHER: dict[Name, Name] = {"small": "large", "large": "small"}


@dataclass(frozen=True)
class Setting:
    """One question to a world: the most tokens, the client's stop tokens, the coins' first seed.

    `lost` says at which length of the answer a model was lost, `broken` where whose calls broke:
    if inside a character, no rule runs until it is complete.
    """

    world: World
    room: int | None = None
    stop_ids: tuple[int, ...] = ()
    coins: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    broken: frozenset[tuple[Name, int]] = frozenset()

    @property
    def most(self) -> int:
        """Tokens that the answer has at most."""
        context = LONGEST - len(PROMPT)
        return context if self.room is None else min(self.room, context)


@dataclass
class Composed:
    """The answer: its ids, who wrote each, how often a gate fired, and why it ended."""

    setting: Setting
    ids: list[int] = field(default_factory=list)
    writers: list[str] = field(default_factory=list)
    firings: list[str] = field(default_factory=list)
    reason: str = ""
    stop_reason: int | None = None

    @property
    def over(self) -> bool:
        return bool(self.reason)

    @property
    def inside(self) -> bool:
        """Whether the answer ends inside a character."""
        return bool(begun((*PROMPT, *self.ids)))

    def broke(self, model: Name) -> bool:
        """Whether a call of this model broke here."""
        return (model, len(self.ids)) in self.setting.broken

    @property
    def all_ids(self) -> tuple[int, ...]:
        return (*PROMPT, *self.ids)

    def gone(self, model: Name) -> bool:
        """Whether the model is lost by now."""
        return self.setting.lost.get(model, LONGEST) <= len(self.ids)

    def write(self, model: Name) -> None:
        """One token of this model."""
        token = self.setting.world.spread(model, self.all_ids)[0][0]
        self.ids.append(token)
        self.writers.append(model)
        if token == EOS:
            self.reason = "stop"
        elif token in self.setting.stop_ids:
            self.reason, self.stop_reason = "stop", token
        elif len(self.ids) == self.setting.most:
            self.reason = "length"

    def write_out(self, model: Name) -> Composed:
        """The rest, by this model alone."""
        while not self.over:
            self.write(model)
        return self


def ead(policy: Entropy, setting: Setting) -> Composed:
    """Entropy-adaptive switching, arXiv 2502.06833, with this policy's settings."""
    answer, first = Composed(setting), True
    writer: Name = policy.start
    while not answer.over:
        if answer.gone(writer):
            return answer.write_out(OTHER[writer])
        if answer.gone(OTHER[writer]):
            return answer.write_out(writer)
        dwell = policy.dwell if first else max(policy.dwell, 1)
        _ead_turn(policy, answer, writer, dwell)
        writer, first = OTHER[writer], False
    return answer


def _ead_turn(policy: Entropy, answer: Composed, writer: Name, dwell: int) -> None:
    since, bits, fired, free = 0, list[float](), False, answer.inside
    while not answer.over and not answer.gone(writer) and not answer.gone(OTHER[writer]):
        free = (free or answer.broke(writer)) and answer.inside
        if free:
            answer.write(writer)
            since += 1
            continue
        bits.append(entropy(answer.setting.world.spread(writer, answer.all_ids)))
        last = bits[-policy.window :]
        mean = sum(last) / len(last)
        if writer == "small":
            fires = mean >= policy.threshold
        else:
            fires = mean < (policy.threshold if policy.back is None else policy.back)
        fires = fires and since >= dwell
        if fired if policy.keep else fires:
            answer.firings.append(writer)
            return
        fired = fires
        answer.write(writer)
        since += 1


def gated(policy: TokenGate, setting: Setting) -> Composed:
    """Token-level routing, arXiv 2505.21600, with this policy's settings."""
    answer = Composed(setting)
    while not answer.over:
        free = answer.inside
        while not answer.gone("small"):
            free = (free or answer.broke("small")) and answer.inside
            if not free and _fires(policy, answer):
                break
            answer.write("small")
            if answer.over:
                return answer
        if answer.gone("small"):
            return answer.write_out("large")
        answer.firings.append("small")
        for _ in range(policy.burst):
            if answer.gone("large"):
                return answer.write_out("small")
            answer.write("large")
            if answer.over:
                break
    return answer


def _fires(policy: TokenGate, answer: Composed) -> bool:
    world = answer.setting.world
    match policy.rule:
        case "random":
            return coin(answer.setting.coins, len(answer.ids)) < (policy.rate or 0)
        case "entropy":
            bits = entropy(world.spread("small", answer.all_ids))
            return bits >= (policy.threshold or 0)
        case "neural":
            return world.score(answer.all_ids) >= (policy.threshold or 0)


def cut(text: str, strings: Sequence[str], *, keep: bool) -> tuple[str, str | None]:
    """The text up to the stop string that is complete first, and which one that is."""
    for end in range(len(text) + 1):
        for string in strings:
            if string and text[:end].endswith(string):
                return text[: end if keep else end - len(string)], string
    return text, None


def text_of(answer: Composed) -> str:
    """What a client sees of it, stop strings apart."""
    ends = answer.reason == "stop"
    return shown(answer.ids[:-1] if ends else answer.ids)

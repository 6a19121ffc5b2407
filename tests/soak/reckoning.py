"""What came of each answer: right, honestly ended, left, or wrong; counted for a table.

An answer that was asked while every server was well must be complete. One during which a server
died may have ended early, but must say so. Complete ones are compared with the answer that the same
request gets alone; where the policy need not come to the same one (chance, or a mean that began
anew on another server, or a model that was lost), each token must be its writer's own choice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from threading import Lock

from tests.soak.asking import BY_CHANCE, POLICIES, STATELESS, Asked
from tests.soak.hearing import Heard, Said
from tests.soak.judging import Judge

ONE_MODEL = "one_model"
ESTIMATED = "estimated"
"""Of an answer that began when nobody knew what a model's servers, all gone, could do."""
LOST = {"small_failed": "small", "large_failed": "large"}
"""Reasons of an answer that one model has finished, and the other one."""
EACH = 2
"""Servers of each model."""


class Outcome(StrEnum):
    """Every answer has one."""

    SAME = "as alone"
    CHOSEN = "each token its writer's"
    SAME_MOVED = "as alone, a server lost"
    CHOSEN_MOVED = "each token its writer's, a server lost"
    FINISHED = "finished by one of two models"
    ALONE = "by the large model alone"
    ENDED = "ended with an error"
    LEFT = "left by the client"
    WRONG = "WRONG"


@dataclass(frozen=True, slots=True)
class Ended:
    """An answer, how many servers of each model were not well while it was made, and whether one
    of its calls broke.
    """

    asked: Asked
    heard: Heard
    unwell: Mapping[str, int]
    broken: bool

    @property
    def reason(self) -> str:
        """The reason that it gave, without details."""
        return self.heard.reason.partition(";")[0]

    def lost(self, model: str) -> bool:
        """Whether there may have been no server of this model at the time."""
        return self.unwell.get(model, 0) == EACH


@dataclass(slots=True)
class Reckoning:
    """The outcomes so far. `alone` has the whole answer of each policy to each question, of the
    large model too, and `prompts` the questions' token ids.
    """

    judge: Judge
    prompts: Sequence[Sequence[int]]
    alone: Mapping[tuple[int, str], Said]
    counts: Counter[tuple[str, Outcome]] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def add(self, ended: Ended) -> None:
        """One more answer. Takes milliseconds, and may be called in several threads."""
        with self._lock:
            outcome, why = self._outcome(ended)
            self.counts[ended.asked.policy, outcome] += 1
            self.reasons[ended.reason or "none was told"] += 1
            if why:
                self.wrong.append(f"{why}\n    {ended}")

    def _outcome(self, ended: Ended) -> tuple[Outcome, str | None]:
        heard = ended.heard
        if heard.left:
            why = self._mixed(ended)
            return (Outcome.WRONG, why) if why else (Outcome.LEFT, None)
        if not heard.complete:
            honest = heard.error is not None and self._may_end(ended)
            return (Outcome.ENDED, None) if honest else (Outcome.WRONG, "ended without a cause")
        why = self._miscounted(ended) or self._mistold(ended)
        if why:
            return Outcome.WRONG, why
        return self._written(ended)

    def _mixed(self, ended: Ended) -> str | None:
        """What is wrong with as much as came before the client left."""
        if ended.unwell or ended.asked.policy == BY_CHANCE:
            return None
        wanted = self._wanted(ended.asked, ended.asked.policy).tokens
        odd = any(
            said.tokens != wanted[: len(said.tokens)] for said in ended.heard.choices.values()
        )
        return f"no beginning of {wanted}" if odd else None

    def _may_end(self, ended: Ended) -> bool:
        """Whether nobody could have gone on with it: one model's answer is never begun again, and
        a model alone, like vLLM, writes no two choices where nothing is drawn.
        """
        if ended.reason == ONE_MODEL:
            return ended.unwell.get("large", 0) > 0 or ended.asked.n > 1
        return ended.lost("small") and ended.lost("large")

    def _miscounted(self, ended: Ended) -> str | None:
        """What is wrong with the outside of a complete answer."""
        asked, choices = ended.asked, ended.heard.choices
        if set(choices) != set(range(asked.n)):
            return f"choices {sorted(choices)}"
        if any(said.finish not in ("stop", "length") for said in choices.values()):
            return "no finish_reason"
        if ended.reason == ONE_MODEL:
            return None  # passed on as it came: it tells no tokens
        if any(len(said.ids) > asked.most for said in choices.values()):
            return "longer than asked"
        wanted = {
            "prompt_tokens": len(self.prompts[asked.question]),
            "completion_tokens": sum(len(said.ids) for said in choices.values()),
        }
        usage = ended.heard.usage or {}
        odd = any(usage.get(name) != count for name, count in wanted.items())
        return f"usage: {wanted}" if odd else None

    def _mistold(self, ended: Ended) -> str | None:
        """What is wrong with how it says that it came about."""
        reason = ended.reason
        if reason in LOST and not ended.lost(LOST[reason]):
            return f"{reason}, where there was another server"
        if reason == ONE_MODEL and not ended.unwell.get("small"):
            return f"{reason}, and nothing died"
        if reason == ESTIMATED and not (ended.lost("small") or ended.lost("large")):
            return f"{reason}, where a server has a gate"
        if ended.broken and ended.asked.policy in STATELESS and reason == "in_engine":
            return self._different(ended)
        return None

    def _different(self, ended: Ended) -> str | None:
        wanted = self._wanted(ended.asked, ended.asked.policy)
        odd = any(said != wanted for said in ended.heard.choices.values())
        return f"not as alone: {wanted}" if odd else None

    def _wanted(self, asked: Asked, policy: str) -> Said:
        """What comes alone: the beginning of the whole answer, up to the first thing that ends it.

        A stop string ends it with the token that completes it.
        """
        whole = self.alone[asked.question, policy]
        for length in range(1, min(asked.most, len(whole.ids)) + 1):
            text = self.judge.text(whole.ids[:length])
            if (said := _stopped(text, asked.stop)) != text:
                return Said(said, whole.tokens[:length], "stop")
        if len(whole.ids) <= asked.most:
            return whole
        return Said(text, whole.tokens[: asked.most], "length")

    def _written(self, ended: Ended) -> tuple[Outcome, str | None]:
        asked, heard = ended.asked, ended.heard
        if ended.reason == ONE_MODEL:
            large = self._wanted(asked, "large").text
            same = all(said.text == large for said in heard.choices.values())
            return (Outcome.ALONE, None) if same else (Outcome.WRONG, f"not as alone: {large}")
        lost = ended.reason in LOST
        if asked.policy != BY_CHANCE:
            why = self._different(ended)
            if why is None:
                return (Outcome.SAME_MOVED if ended.broken else Outcome.SAME), None
            if not (ended.broken or lost or ended.reason == ESTIMATED):
                return Outcome.WRONG, why
        if why := self._not_chosen(asked, heard.choices.values()):
            return Outcome.WRONG, why
        if lost:
            return Outcome.FINISHED, None
        return (Outcome.CHOSEN_MOVED if ended.broken else Outcome.CHOSEN), None

    def _not_chosen(self, asked: Asked, choices: Iterable[Said]) -> str | None:
        """What is wrong with an answer that cannot be compared with another one."""
        for said in choices:
            if why := self.judge.wrong(self.prompts[asked.question], said):
                return why
            text = _stopped(self.judge.text(said.ids), asked.stop)
            if said.text != text:
                return f"its tokens say {text!r}"
        return None

    def table(self) -> str:
        """Outcomes by policy, and the reasons that answers gave."""
        rows = [["", *POLICIES, "all"]]
        for outcome in Outcome:
            counts = [self.counts[policy, outcome] for policy in POLICIES]
            rows.append([outcome, *map(str, counts), str(sum(counts))])
        lines = ["  ".join([f"{first:40}", *(f"{n:>10}" for n in rest)]) for first, *rest in rows]
        told = ", ".join(f"{reason}: {count}" for reason, count in self.reasons.most_common())
        return "\n".join([*lines, f"reasons: {told}"])


def _stopped(text: str, stops: Sequence[str]) -> str:
    """`text` up to the stop string that is complete first."""
    ends = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(ends)[1]] if ends else text

"""Who stands in the table of `tandem bench pair`, and which points make its curves.

The baselines are token gates without anything learned: chance, and the entropy of the one
distribution. To be compared fairly each hands over as many tokens as the learned gate does. How
many those are, and the threshold for as many, is found on problems for tuning by the code of
`tandem calibrate`, and never on those that are reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeAlias

from app.calibration import Policy, Search
from app.embedded import NO_HIDDEN
from app.trial import Trial
from deploy.pair.problems import Problem
from policies.training.token_gate.prompts import Prompt

Block: TypeAlias = Mapping[str, Any]

LEARNED = "r2r"
"""The policy whose share of large tokens the baselines are given."""
RANDOM, TOKEN_ENTROPY = "random", "token_entropy"
BASELINES = (RANDOM, TOKEN_ENTROPY)
LOTS: Block = MappingProxyType({"use": "split", "weights": {"small": 1, "large": 1}})
"""A coin for every request: what a request router must be better than."""
USUAL = (
    *("small", "large", "cascade", "split", "experts", RANDOM, TOKEN_ENTROPY),
    *("ead", "r2r_no_hidden", LEARNED, "r2r_optimistic"),
)
"""What is measured if nothing is said."""
NOT_ON_THE_FRONTIER = ("auto", "eager", "canary", "careful", "hedged", "read", "r2r_optimistic")
"""Those that answer as another one does, and those for failures and for documents."""
GATE: Block = MappingProxyType({"use": "token_gate", "small": "small", "large": "large"})

SAMPLED: Block = MappingProxyType({"use": "best_of", "small": "small"})
"""The small model alone, several times."""
VERIFIERS: Mapping[str, Block] = MappingProxyType(
    {
        "best_of": {"majority": {}},
        "likely": {"mean_logprob": -0.001},
        "graded": {"grade": {"by": "large"}, "bar": 1},
    }
)
"""Who chooses among samples, by the name of the policy; `best_of` is the majority. Without a large
model the bar does not matter: the best sample is given."""
SAMPLES = (2, 4, 8)
GATED: Block = MappingProxyType({"use": "best_of", "small": LEARNED, "majority": {}})
"""Samples that both models write, token by token."""
PARTICLES: Block = MappingProxyType(
    {
        "use": "particles",
        "small": "small",
        "grade": {"by": "large"},
        "separator": "\n",
        "majority": {},
    }
)
"""Beginnings of the small model's answers, graded line by line."""
LINES: Block = MappingProxyType(
    {
        "use": "steps",
        "small": "small",
        "large": "large",
        "separator": "\n",
    }
)
"""The large model writes the lines that look hard."""

RATES = (0.05, 0.1, 0.2, 0.4, 0.7)
TOKEN_BITS = (0.05, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
MEAN_BITS = (0.03, 0.1, 0.2, 0.4, 0.8)
SCORES = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9)
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
WORTHS = (1, 2, 5, 10, 40)
"""Points of the curves: from nearly no large tokens to more than anyone would want."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is measured: a model, or a policy with its block and what is varied for a curve.

    A dot in `varied` stands before a setting within another one. Entries of one `family` are drawn
    as one line.
    """

    name: str
    block: Block | None = None
    varied: str = "threshold"
    values: Sequence[float] = ()
    family: str = ""

    def points(self) -> Iterator[tuple[float, Block]]:
        """The settings of the curve, each with its block."""
        policy = Policy(self.name, self.block or {})
        for value in self.values:
            at = policy.at(value) if self.varied == "threshold" else self._at(value)
            yield value, {**policy.block, **at}

    def _at(self, value: float) -> Block:
        outer, _, inner = self.varied.partition(".")
        return {outer: {inner: value} if inner else value}


def lineup(blocks: Mapping[str, Block]) -> dict[str, Entry]:
    """What there is to measure, by name; `blocks` are the configured policies.

    The baselines have no share yet: that is `matched`.
    """
    ead, learned = blocks["ead"], blocks[LEARNED]
    known = (
        Entry("small"),
        Entry("large"),
        Entry("cascade", blocks["cascade"]),
        Entry("split", {**LOTS}),
        Entry("experts", blocks["experts"], "budget.large_share", SHARES),
        Entry("staged", blocks["staged"], "worth", WORTHS),
        *_sampled(blocks),
        Entry(RANDOM, {**GATE, "rule": "random"}, "rate", RATES),
        Entry(TOKEN_ENTROPY, {**GATE, "rule": "entropy"}, values=TOKEN_BITS),
        Entry("ead", ead, values=MEAN_BITS),
        Entry("r2r_no_hidden", {**learned, "artifact": NO_HIDDEN}, values=SCORES),
        Entry(LEARNED, learned, values=SCORES),
        Entry("r2r_optimistic", {**learned, "optimistic": True}),
    )
    entries = {entry.name: entry for entry in known}
    return entries | {name: Entry(name, blocks[name]) for name in blocks if name not in entries}


def _sampled(blocks: Mapping[str, Block]) -> Iterator[Entry]:
    """The small model several times, by every verifier; and samples of the two models together."""
    verifiers = dict(VERIFIERS)
    if scored := blocks.get("scored"):
        verifiers["scored"] = {"score": scored["score"]}
    for name, verifier in verifiers.items():
        for n in SAMPLES:
            block = {**SAMPLED, **verifier, "stages": [n]}
            yield Entry(f"{name}_{n}", block, family=f"best of 2, 4, 8: {name}")
    yield Entry("gated_4", {**GATED, "stages": [4]})
    yield Entry("particles", {**PARTICLES})
    yield Entry("lines", {**LINES})


def frontier(entries: Mapping[str, Entry]) -> list[str]:
    """Every way to answer, for one picture: `entries` without those that are baselines of a gate,
    or another's with one setting changed.
    """
    return [name for name in entries if name not in (*BASELINES, *NOT_ON_THE_FRONTIER)]


async def learned_share(trial: Trial, tuning: Sequence[Problem]) -> float:
    """The large model's part of the tokens where the learned gate answers these problems."""
    run = await trial.run(LEARNED, [messages(problem) for problem in tuning], f"{LEARNED}, tuning")
    return run.share("large")


async def matched(trial: Trial, entry: Entry, share: float, tuning: Sequence[Problem]) -> Entry:
    """The baseline, with this share of large tokens on these problems."""
    block = entry.block or {}
    if entry.name == RANDOM:
        return replace(entry, block={**block, "rate": round(share, 4)})
    prompts = [Prompt(str(n), messages(problem)) for n, problem in enumerate(tuning)]
    search = Search(trial, Policy(entry.name, block), prompts)
    found = await search.for_share(share)
    return replace(entry, block=search.policy.at(found.threshold))


def messages(problem: Problem) -> tuple[dict[str, Any], ...]:
    """The problem as a conversation."""
    return ({"role": "user", "content": problem.prompt},)

"""What is asked: policies that hand over in every way there is, and seeded requests to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx

from deploy.pair.problems import TUNE_SEEDS, problems
from tests.running import Config
from tests.soak.hearing import STAYING, Leaving
from tests.soak.servers import Server

POLICIES: Mapping[str, Config] = {
    "random": {"use": "token_gate", "rule": "random", "rate": 0.2},
    "gate": {"use": "token_gate", "rule": "entropy", "threshold": 0.2},
    "burst": {"use": "token_gate", "rule": "entropy", "threshold": 0.2, "burst": 3},
    "optimistic": {"use": "token_gate", "rule": "entropy", "threshold": 0.2, "optimistic": True},
    "ead": {"use": "entropy", "threshold": 0.2, "window": 5, "dwell": 4},
    "sway": {"use": "entropy", "threshold": 0.1, "back": 0.05, "window": 1, "dwell": 0},
}
"""Thresholds at which the pair hands over several times in most answers."""
BY_CHANCE = "random"
"""Its hand-offs cannot be foretold."""
STATELESS = frozenset({"gate", "burst", "optimistic"})
"""Decides on each token by itself, so that a model's other backend goes on exactly as the first
would have; a mean over some tokens begins anew there."""
MOST = (8, 96)
"""Tokens asked for, from and to: the pair's own answers have about 100."""
WHOLE = 320
"""More than any of them has."""
STOPS = ((), (), (), ("\nAnswer",), ("carry 1\nh", "=9"))
"""Most requests name no stop string."""


def policies() -> Config:
    """The section `policies`."""
    return {name: {**said, "small": "small", "large": "large"} for name, said in POLICIES.items()}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: `question` is the number of its prompt."""

    question: int
    policy: str
    most: int
    stop: tuple[str, ...] = ()
    n: int = 1
    stream: bool = True
    leaving: Leaving = STAYING

    def body(self, prompts: Sequence[str]) -> dict[str, Any]:
        """The request's JSON."""
        said: dict[str, Any] = {
            "model": self.policy,
            "messages": [{"role": "user", "content": prompts[self.question]}],
            "temperature": 0,
            "max_tokens": self.most,
            "stream": self.stream,
        }
        if self.stream:
            said["stream_options"] = {"include_usage": True}
        if self.stop:
            said["stop"] = self.stop
        return said if self.n == 1 else {**said, "n": self.n}


def prompts(number: int) -> list[str]:
    """Different problems, none of them one that a report uses."""
    return [problem.prompt for problem in problems(TUNE_SEEDS[-1], number)]


async def rendered(server: Server, questions: Sequence[str]) -> list[list[int]]:
    """The token ids of each question as a chat."""
    found = []
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        for question in questions:
            messages = [{"role": "user", "content": question}]
            answer = await client.post("/tokenize", json={"messages": messages})
            found.append(answer.json()["tokens"])
    return found


def many(number: int, questions: int, seed: int) -> Iterator[Asked]:
    """So many requests, of which one in twenty leaves before its end."""
    draw = Random(seed)
    for _ in range(number):
        asked = Asked(
            question=draw.randrange(questions),
            policy=draw.choice(list(POLICIES)),
            most=draw.choice(range(*MOST, 8)),
            stop=draw.choice(STOPS),
            n=2 if draw.random() < 0.1 else 1,
            stream=draw.random() < 0.7,
        )
        yield _leaving(asked, draw) if draw.random() < 0.05 else asked


def _leaving(asked: Asked, draw: Random) -> Asked:
    if asked.stream and draw.random() < 0.7:
        leaving = Leaving(events=draw.randint(1, 40))
    else:
        leaving = Leaving(seconds=draw.uniform(0.0, 0.3))
    return Asked(**{**_fields(asked), "leaving": leaving})


def _fields(asked: Asked) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in Asked.__slots__}

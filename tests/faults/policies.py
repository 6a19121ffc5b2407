"""The policies that faults are tried on, one of every kind, and how each is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from app import embedded
from policies import TABLE
from tests.running import Config, config

BOTH = {"small": "small", "large": "large"}
READING: Config = {
    "use": "context",
    "dense": False,
    "way": "passages",
    "search": {"chunk_tokens": 120, "overlap_tokens": 20, "keep": 2},
}
POLICIES: Mapping[str, Config] = {
    "direct": {"use": "direct", "model": "small"},
    "fallback": {"use": "fallback", "targets": ["small", "large"]},
    "overload": {"use": "overload", "target": "fallback", "cheaper": "large", "watch": ["small"]},
    "split": {"use": "split", "weights": {"small": 1}},
    "cascade": {"use": "cascade", **BOTH, "pattern": "[0-9]"},
    "rejecting": {"use": "cascade", **BOTH, "pattern": "no such words"},
    "hedge": {"use": "hedge", "model": "small", "backup": "large", "delay": 0.6},
    "entropy": {"use": "entropy", **BOTH, "threshold": 0.2, "window": 1, "dwell": 0},
    "token_gate": {"use": "token_gate", **BOTH, "rule": "entropy", "threshold": 0.2},
    "steps": {"use": "steps", **BOTH, "threshold": 0.1, "separator": "\n"},
    "experts": {
        "use": "experts",
        "artifact": str(embedded.MODELS / embedded.EXPERTS),
        "budget": {"large_share": 0.5},
    },
    "context": {**READING, "readers": {"small": {}, "large": {}}},
    "particles": {
        "use": "particles",
        **BOTH,
        "grade": {"by": "large"},
        "particles": 3,
        "most_steps": 2,
        "longest": 12,
        "temperature": 1e-4,
        "bar": 1e-6,
    },
    "best_of": {"use": "best_of", **BOTH, "mean_logprob": -9, "stages": [1]},
}
"""Limits and thresholds at which the pair's two models both have a hand in it."""
LARGE_ALONE: Mapping[str, Config] = {"large-context": {**READING, "readers": {"large": {}}}}
"""What a policy comes to that has lost the small model, where that is not what the large one says
by itself."""
ONE_MODEL = frozenset({"direct", "split"})
"""Those that may ask the small model only."""
HEDGED = "hedge"
"""Its second call is as much a fault's doing as its own delay's."""
COMPOSED = frozenset({"entropy", "token_gate", "steps"})
"""Those whose answer two models write."""

assert {said["use"] for said in POLICIES.values()} == TABLE.keys()

AMPLE: Config = {
    "deadline": 40,
    "connect": 10,
    "first_token": 10,
    "idle": 10,
    "retry_floor": 100_000,
}
"""Limits in seconds that strike on no machine, however busy: answers of the pair take a tenth."""
TIGHT: Config = {**AMPLE, "deadline": 10, "connect": 2, "first_token": 2, "idle": 2}
"""Those for faults at which one has to strike."""
DEADLINE = float(AMPLE["deadline"])
QUESTION = "A shop has 36 pens. It sells 17 and then buys 25 more. How many pens are there now?"
DOCUMENT = "\n\n".join(
    f"On day {day} the shop had {day * 7 + 3} pens and sold {day % 5} of them." for day in range(60)
)
MOST = 32
"""Tokens of an answer: several steps and hand-offs."""


def tree(backends: Sequence[tuple[str, str]], **sections: Any) -> Config:
    """A gateway in front of these, by model and URL; no breaker opens, so that cases do not meet
    each other's faults.
    """
    models = {name: [url for model, url in backends if model == name] for name in BOTH}
    made = {
        "policies": {**POLICIES, **LARGE_ALONE},
        "limits": AMPLE,
        "breaker": {"failures": 1000},
        "default": "direct",
        **sections,
    }
    said: Config = json.loads(json.dumps(config(models, **made)))
    said["models"]["small"]["price"] = {"input": 1.0, "output": 2.0}
    said["models"]["large"]["price"] = {"input": 10.0, "output": 20.0}
    return said


def body(policy: str, *, stream: bool) -> dict[str, Any]:
    """A request to this policy."""
    said: dict[str, Any] = {
        "model": policy,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": MOST,
        "stream": stream,
        "user": "somebody",
    }
    if stream:
        said["stream_options"] = {"include_usage": True}
    if "context" in policy:
        said["documents"] = [{"id": "book", "title": "The shop", "text": DOCUMENT}]
    return said

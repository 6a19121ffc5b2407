"""To come."""

from __future__ import annotations

from typing import Any

EXAMPLES: tuple[dict[str, Any], ...] = (
    {"small": "small", "large": "large", "artifact": "gate-1"},
    {
        "small": "small",
        "large": "large",
        "artifact": "gate-1",
        "threshold": 0.4,
        "optimistic": True,
    },
    {"small": "small", "large": "large", "rule": "entropy", "threshold": 0.45, "burst": 3},
    {
        "small": "small",
        "large": "large",
        "rule": "random",
        "rate": 0.1,
        "optimistic": True,
        "alone": "small",
        "reasoning": True,
    },
)
NONSENSE: tuple[dict[str, Any], ...] = (
    {"small": "small", "large": "large"},
    {"small": "small", "large": "small", "artifact": "gate-1"},
    {"small": "small", "large": "large", "artifact": "../gate"},
    {"small": "small", "large": "large", "artifact": "gate-1", "threshold": 1.5},
    {"small": "small", "large": "large", "artifact": "gate-1", "burst": 0},
    {"small": "small", "large": "large", "artifact": "gate-1", "burst": 2, "optimistic": True},
    {"small": "small", "large": "large", "rule": "entropy"},
    {"small": "small", "large": "large", "rule": "entropy", "threshold": 1, "artifact": "gate-1"},
    {"small": "small", "large": "large", "rule": "random"},
    {"small": "small", "large": "large", "rule": "random", "rate": 2},
    {"small": "small", "large": "large", "rule": "chance", "rate": 0.1},
)

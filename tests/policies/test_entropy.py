"""To come."""

from __future__ import annotations

from typing import Any

EXAMPLES: tuple[dict[str, Any], ...] = (
    {"small": "small", "large": "large"},
    {"small": "small", "large": "large", "threshold": 1.5, "back": 0.5, "window": 1, "dwell": 0},
    {
        "small": "small",
        "large": "large",
        "start": "large",
        "keep": True,
        "estimate": "high",
        "alone": "small",
        "reasoning": True,
    },
)
NONSENSE: tuple[dict[str, Any], ...] = (
    {"small": "small"},
    {"small": "small", "large": "small"},
    {"small": "small", "large": "large", "threshold": -1},
    {"small": "small", "large": "large", "threshold": 0.5, "back": 0.6},
    {"small": "small", "large": "large", "back": -0.1},
    {"small": "small", "large": "large", "window": 0},
    {"small": "small", "large": "large", "window": 65, "dwell": 100},
    {"small": "small", "large": "large", "window": 5, "dwell": 3},
    {"small": "small", "large": "large", "start": "other"},
    {"small": "small", "large": "large", "estimate": "exact"},
)

"""Particles: how they grow, who goes on, which one is given, and why."""

from __future__ import annotations

from typing import Any

from policies.particles import MOST

PAIR = {"small": "small", "large": "large"}
GRADED = {**PAIR, "grade": {"by": "other"}}
EXAMPLES: tuple[dict[str, Any], ...] = (
    {**GRADED, "separator": "\n", "particles": 3},
    {"small": "small", "grade": {"by": "small"}, "separator": ".", "longest": 2, "softness": 0.5},
    {**GRADED, "majority": {"pattern": "[0-9]"}, "most_steps": 1, "alone": "small"},
    {**GRADED, "handoff": "prompt", "separator": "7", "particles": 2, "bar": 0.2, "longest": 3},
)
NONSENSE: tuple[dict[str, Any], ...] = (
    PAIR,
    {"grade": {"by": "large"}},
    {**GRADED, "grade": {"by": "large", "prompt": "Well?"}},
    {**GRADED, "grade": {"by": "large", "accept": []}},
    {**GRADED, "particles": 1},
    {**GRADED, "particles": MOST + 1},
    {**GRADED, "most_steps": 0},
    {**GRADED, "particles": 16, "most_steps": 32},
    {**GRADED, "bar": 0},
    {**GRADED, "bar": 1.1},
    {**GRADED, "softness": 0},
    {**GRADED, "majority": {"sure": -0.5}},
    {**GRADED, "separator": ""},
    {**GRADED, "separator": ". "},
    {**GRADED, "longest": 0},
    {**GRADED, "temperature": 0},
    {**GRADED, "temperature": 2.5},
    {**GRADED, "handoff": "tokens"},
)

"""The style sheet, without a browser: contrast, and models that differ in more than colour."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.ui.figures import STYLES

CSS = (Path(__file__).parents[3] / "app/ui/static/ui.css").read_text(encoding="utf-8")
TEXT, GRAPHIC = 4.5, 3.0
"""Least contrasts of WCAG 2.2, level AA: of text, and of what is drawn."""
PAIRS = (
    ("ink", "paper"), ("ink", "desk"), ("soft", "paper"), ("soft", "desk"), ("link", "paper"),
    ("link", "desk"), ("on-strong", "strong"), ("good", "good-paper"), ("bad", "bad-paper"),
    ("bad", "paper"), ("bad", "desk"), ("ink", "good-paper"), ("ink", "bad-paper"),
    ("good", "paper"), ("link", "good-paper"),
)  # fmt: skip
LOOKS = [f"w{number}" for number in range(STYLES)]

Colour = tuple[float, float, float]


def palettes() -> dict[str, dict[str, Colour]]:
    light, dark = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    return {"light": colours(light), "dark": colours(dark)}


def colours(block: str) -> dict[str, Colour]:
    found = re.findall(r"--([\w-]+): #(..)(..)(..)", block)
    return {
        name: (int(red, 16) / 255, int(green, 16) / 255, int(blue, 16) / 255)
        for name, red, green, blue in found
    }


def luminance(colour: Colour) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one: Colour, other: Colour) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_written_can_be_read(scheme: str) -> None:
    palette = palettes()[scheme]
    weak = {pair: contrast(palette[pair[0]], palette[pair[1]]) for pair in PAIRS}
    assert not {pair: found for pair, found in weak.items() if found < TEXT}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_tokens_can_be_read_and_their_models_seen(scheme: str) -> None:
    palette = palettes()[scheme]
    (part,) = re.findall(r"color-mix\(in srgb, var\(--is\) (\d+)%, transparent\)", CSS)
    for look in LOOKS:
        drawn, paper = palette[look], palette["paper"]
        assert contrast(drawn, paper) >= GRAPHIC, look
        tint = [
            int(part) / 100 * a + (1 - int(part) / 100) * b
            for a, b in zip(drawn, paper, strict=True)
        ]
        assert contrast(palette["ink"], (tint[0], tint[1], tint[2])) >= TEXT, look


def test_models_differ_without_colour() -> None:
    looks = {}
    for look in LOOKS:
        rules = re.findall(rf"^\.token[^{{]*\.{look}\b[^{{]*\{{([^}}]*)\}}", CSS, re.MULTILINE)
        assert rules, look
        looks[look] = " ".join(sorted(re.findall(r"text-decoration-\w+: [\w ]+", " ".join(rules))))
    assert len(set(looks.values())) == STYLES, looks

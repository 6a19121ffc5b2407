"""docs/tracing.md names every attribute and metric that is sent, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from app.tracing import words

ROOT = Path(__file__).parents[2]
OURS = re.compile(r"`((?:gen_ai|tandem|http|url|server|error)\.[a-z_.]+)`")


def test_the_page_names_what_is_sent() -> None:
    named = set(OURS.findall((ROOT / "docs" / "tracing.md").read_text()))
    constants = {value for value in vars(words).values() if isinstance(value, str)}
    sent = {name for name in constants if OURS.fullmatch(f"`{name}`")} | set(
        words.SETTINGS.values()
    )
    measured = (ROOT / "app" / "tracing" / "measures.py").read_text()
    assert named == sent | set(re.findall(r'"(gen_ai\.[a-z_.]+)"', measured))


def test_operations_have_a_word_each() -> None:
    assert all(words.OPERATIONS.values())

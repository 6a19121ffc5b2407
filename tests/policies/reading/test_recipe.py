"""What a recipe may say: each refusal begins with the field's name."""

from __future__ import annotations

from typing import Any

import pytest

from policies.reading.recipe import Recipe


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chunk_tokens", 31),
        ("chunk_tokens", 8193),
        ("chunk_tokens", 600.0),
        ("chunk_tokens", "600"),
        ("overlap_tokens", -1),
        ("overlap_tokens", 301),
        ("lexical", -1),
        ("lexical", True),
        ("lexical", float("nan")),
        ("dense", 1001),
        ("dense", None),
        ("keep", 0),
        ("keep", True),
        ("pool", 4),
        ("pool", 1001),
    ],
)
def test_a_refusal_names_the_field(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field}: must be "):
        Recipe(**{field: value})


def test_something_must_weigh() -> None:
    with pytest.raises(ValueError, match=r"^dense: must be above 0 where lexical is 0"):
        Recipe(lexical=0, dense=0)
    assert Recipe(lexical=0, dense=0.5).dense == 0.5

"""The file of a calibration: what is written is read, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from policies.verdicts.calibrated import ArtifactError, Stage, read_calibrated, write_calibrated
from tests.policies.verdicts.made_calibration import FILE, FIRST, LAST, MADE, MAJORITY, cell


def test_what_is_written_is_read_and_the_same_bytes_are_written_again(tmp_path: Path) -> None:
    file = tmp_path / "new" / "one.json"
    write_calibrated(file, MADE)
    assert file.read_bytes() == FILE.read_bytes()
    assert read_calibrated(file) == MADE


def _without(*path: str) -> Callable[[Any], None]:
    def change(told: Any) -> None:
        for step in path[:-1]:
            told = told[int(step) if step.isdigit() else step]
        del told[path[-1]]

    return change


def _with(value: Any, *path: str) -> Callable[[Any], None]:
    def change(told: Any) -> None:
        for step in path[:-1]:
            told = told[int(step) if step.isdigit() else step]
        told[int(path[-1]) if path[-1].isdigit() else path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_with(2, "format"), "format is 2, and this version of Tandem reads 1"),
        (_with("experts", "kind"), "kind is 'experts'"),
        (_without("cap"), "cap: Field required"),
        (_with("small", "prompt_tokens"), "prompt_tokens: Input should be a valid number"),
        (_with([0.5, 0.4], "stages", "1", "cuts"), "cuts must grow"),
        (_with([0.1, 0.4], "stages", "1", "cuts"), "2 cuts need 4 cells in a row"),
        (_with([[]], "stages", "1", "cells"), "1 cuts need 3 cells in a row"),
        (_with(1.5, "stages", "0", "cells", "0", "1", "right"), "between 0 and 1"),
        (_with([0.5, 0.4, 0.0], "stages", "0", "cells", "0", "1", "next"), "must sum to 1"),
        (_with([1.0], "stages", "0", "cells", "0", "1", "next"), "leads to other bins"),
        (_with([1.0], "stages", "1", "cells", "0", "1", "next"), "the last stage leads nowhere"),
        (_with(-1, "stages", "0", "cells", "0", "1", "count"), "negative or not finite"),
        (_with([], "stages"), "numbers of samples that grow"),
        (_with(1, "stages", "1", "samples"), "numbers of samples that grow"),
        (_with(3, "cap", "most"), "its stages draw 4 samples, and its cap is 3"),
        (_with(9, "cap", "most"), "the cap's curve and its number do not fit together"),
        (_with(0, "large_tokens"), "large_tokens must be above 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_together_is_refused(
    change: Callable[[Any], None], why: str, tmp_path: Path
) -> None:
    told = json.loads(FILE.read_text())
    change(told)
    file = tmp_path / "one.json"
    file.write_text(json.dumps(told))
    with pytest.raises(ArtifactError) as refused:
        read_calibrated(file)
    assert why in str(refused.value)
    assert str(file) in str(refused.value)
    assert "`tandem calibrate best-of` makes such a file" in str(refused.value)


def test_so_is_what_is_no_json_and_what_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    with pytest.raises(ArtifactError, match="No such file"):
        read_calibrated(file)
    for text in ("{", "[]", "7"):
        file.write_text(text)
        with pytest.raises(ArtifactError, match=r"one\.json"):
            read_calibrated(file)


@pytest.mark.parametrize(("mark", "place"), [(-9, 0), (0.59, 0), (0.6, 1), (1.0, 1), (None, 2)])
def test_a_mark_at_a_cut_belongs_above_it(mark: float | None, place: int) -> None:
    assert LAST.bin_of(mark) == place


def test_a_stranger_is_told_by_what_differs() -> None:
    settings = {**MAJORITY, "temperature": 0.7}
    assert MADE.stranger("small", "large", settings) is None
    for small, large, wanted, why in (
        ("tiny", "large", settings, "it was fitted for small: small, and this is tiny"),
        ("small", None, settings, "it was fitted for large: large, and this is none"),
        ("small", "large", {"use": "grade", "by": "large"}, 'with use: "majority"'),
        ("small", "large", {**settings, "field": "a"}, 'with field: null, and this is "a"'),
        ("small", "large", {**settings, "temperature": 1.0}, "with temperature: 0.7, and this"),
    ):
        found = MADE.stranger(small, large, wanted)
        assert found is not None
        assert why in found


def test_fewer_stages_end_sooner() -> None:
    assert MADE.first(2) is MADE
    first = MADE.first(1)
    assert first.totals == (1,)
    assert [each.right for each in first.stages[0].cells[0]] == [0.3, 0.98, 0.0]
    assert not any(each.next for each in first.stages[0].cells[0])


def test_a_first_stage_beyond_the_cap_may_stay_alone() -> None:
    alone = Stage(4, (), ((cell(0.5), cell(0.0)),))
    assert replace(MADE, stages=(alone,), cap=replace(MADE.cap, most=2)).totals == (4,)
    with pytest.raises(ValueError, match="other rows than there are bins before"):
        replace(MADE, stages=(FIRST, replace(LAST, cells=LAST.cells[:1])))

"""A policy's block as a form: whatever a block says, a form that is sent untouched says again."""

from __future__ import annotations

from typing import Any

import pytest

from app.ui.forms import Control, Names, block_in, by_setting, fields_of, in_yaml, read_block
from policies import TABLE
from router.config import Problem
from router.explain import settings_of
from tests.policies.test_contract import cases

NAMES = Names(["small", "large"], ["auto"])
ODD: list[Any] = [
    pytest.param("split", {"weights": {"small": 1}, "salt": text}, id=repr(text))
    for text in (" ", "x ", "\n\n", '"', "a\nb", "no", "1", "{", "é", "&lt;")
]


@pytest.mark.parametrize(("kind", "block"), [*cases("EXAMPLES"), *ODD])
def test_an_untouched_form_says_what_the_block_said(kind: str, block: dict[str, Any]) -> None:
    fields = fields_of(TABLE[kind], block, NAMES, {})
    sent = {field.key: field.value for field in fields}
    again, problems = block_in(kind, TABLE[kind], sent)
    assert not problems
    assert again == {"use": kind, **block}
    assert read_block(in_yaml({"use": kind, **block})) == {"use": kind, **block}


@pytest.mark.parametrize("kind", TABLE)
def test_every_setting_has_a_field_and_a_sentence(kind: str) -> None:
    fields = fields_of(TABLE[kind], {}, NAMES, {})
    assert [field.name for field in fields] == list(settings_of(TABLE[kind]))
    assert not [field.name for field in fields if not field.about]
    for field in fields:
        assert bool(field.options) == (field.control in (Control.CHOICE, Control.SWITCH))


def test_fields_are_of_the_kind_of_their_setting() -> None:
    fields = {f.name: f for f in fields_of(TABLE["token_gate"], {}, NAMES, {"rate": "too much"})}
    assert fields["small"].options == ["small", "large"]
    assert fields["alone"].options == ["small", "large", "auto"]
    assert fields["rule"].default == "neural"
    assert fields["burst"].control is Control.NUMBER
    assert fields["optimistic"].options == ("true", "false")
    assert fields["small"].required
    assert fields["rate"].problem == "too much"


def test_what_was_typed_is_kept_for_the_check_to_judge() -> None:
    sent = {
        "set.number.threshold": " a lot ",
        "set.number.window": "1e999",
        "set.switch.keep": "true",
        "set.choice.small": "gone",
        "set.number.dwell": "",
    }
    block, problems = block_in("entropy", TABLE["entropy"], sent)
    assert block == {
        "use": "entropy", "small": "gone", "threshold": "a lot", "window": "1e999", "keep": True,
    }  # fmt: skip
    assert not problems
    shown = {f.name: f for f in fields_of(TABLE["entropy"], block, NAMES, {})}
    assert shown["small"].options == ["small", "large", "gone"]
    assert shown["threshold"].value == "a lot"


@pytest.mark.parametrize("text", ["{", "a: b: c", "!!int 3", "&x [*x]", "x\n y: 1\nz"])
def test_a_field_that_is_no_yaml_is_a_problem(text: str) -> None:
    block, problems = block_in("split", TABLE["split"], {"set.yaml.weights": text})
    assert [problem.path for problem in problems] == ["weights"]
    assert block["weights"] == text


def test_problems_stand_at_their_setting() -> None:
    several = (
        Problem("policies.auto.grade.by", "no such model"),
        Problem("policies.auto.grade", "odd"),
        Problem("policies.auto2.small", "not ours"),
        Problem("default", "not ours"),
    )
    assert by_setting(several, "auto") == {"grade": "by: no such model; odd"}
    assert by_setting((Problem('policies."a b".small', "x"),), "a b") == {"small": "x"}

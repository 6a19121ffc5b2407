"""A gate's settings: there and back through `vllm_xargs`, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.gate.settings import MAX_WINDOW, GateSettings, Rule

NAMES = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}", fullmatch=True)
IDS = st.integers(0, 200_000)
SETTINGS = st.builds(
    GateSettings,
    rule=st.sampled_from(Rule),
    token=st.none() | IDS,
    threshold=st.floats(0, 1),
    window=st.integers(1, MAX_WINDOW),
    dwell=st.integers(0, 99),
    since=st.integers(0, 99),
    history=st.lists(st.floats(0, 20), max_size=9).map(tuple),
    below=st.booleans(),
    keep=st.booleans(),
    rate=st.floats(0, 1),
    seed=st.integers(-(2**63), 2**63 - 1),
    artifact=NAMES,
    force=st.lists(IDS, min_size=1, max_size=9).map(tuple),
    record=NAMES,
)


@given(SETTINGS)
def test_there_and_back(settings: GateSettings) -> None:
    sent = json.loads(json.dumps(settings.xargs()))
    assert GateSettings.of(sent) == settings
    assert all(key.startswith("tandem_gate") for key in sent)


def test_defaults_are_left_out() -> None:
    assert GateSettings(Rule.ENTROPY, threshold=1.5, keep=True).xargs() == {
        "tandem_gate": "entropy",
        "tandem_gate_threshold": 1.5,
        "tandem_gate_keep": 1,
    }


@pytest.mark.parametrize("xargs", [None, {}, {"other": 1}])
def test_no_gate(xargs: dict[str, Any] | None) -> None:
    assert GateSettings.of(xargs) is None


def test_other_keys_are_not_the_gates() -> None:
    assert GateSettings.of({"tandem_gate": "probe", "other": [1]}) == GateSettings(Rule.PROBE)


@pytest.mark.parametrize(
    ("value", "read"), [(5, 5), (5.0, 5), (0, 0)], ids=["whole", "whole float", "zero"]
)
def test_whole_floats_are_integers(value: float, read: int) -> None:
    settings = GateSettings.of({"tandem_gate": "probe", "tandem_gate_dwell": value})
    assert settings is not None
    assert settings.dwell == read


ENTROPY = {"tandem_gate": "entropy", "tandem_gate_threshold": 1.0}
RANDOM = {"tandem_gate": "random", "tandem_gate_rate": 0.5}
NEURAL = {"tandem_gate": "neural", "tandem_gate_artifact": "a"}
TRACE = {"tandem_gate": "trace", "tandem_gate_force": [1], "tandem_gate_record": "r"}


@pytest.mark.parametrize("xargs", [ENTROPY, RANDOM, NEURAL, TRACE], ids=lambda each: each)
def test_each_rule_has_what_it_needs_and_nothing_less(xargs: dict[str, Any]) -> None:
    assert GateSettings.of(xargs) is not None
    for key in xargs.keys() - {"tandem_gate"}:
        less = {name: value for name, value in xargs.items() if name != key}
        with pytest.raises(ValueError, match=key):
            GateSettings.of(less)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tandem_gate", "oracle"),
        ("tandem_gate", ["entropy"]),
        ("tandem_gate", None),
        ("tandem_gate_colour", "red"),
        ("tandem_gatekeeper", 1),
        ("tandem_gate_token", -1),
        ("tandem_gate_token", "4"),
        ("tandem_gate_token", True),
        ("tandem_gate_threshold", "high"),
        ("tandem_gate_threshold", float("nan")),
        ("tandem_gate_threshold", float("inf")),
        ("tandem_gate_window", 0),
        ("tandem_gate_window", MAX_WINDOW + 1),
        ("tandem_gate_window", 2.5),
        ("tandem_gate_dwell", -1),
        ("tandem_gate_since", -1),
        ("tandem_gate_since", 10.5),
        ("tandem_gate_history", 1.0),
        ("tandem_gate_history", [1.0, "2"]),
        ("tandem_gate_history", [-1.0]),
        ("tandem_gate_below", 2),
        ("tandem_gate_below", [1]),
        ("tandem_gate_keep", "yes"),
        ("tandem_gate_rate", 1.5),
        ("tandem_gate_seed", 2**63),
        ("tandem_gate_artifact", "../gate"),
        ("tandem_gate_artifact", ".hidden"),
        ("tandem_gate_artifact", ""),
        ("tandem_gate_artifact", 3),
        ("tandem_gate_force", [1, -2]),
        ("tandem_gate_force", [1.5]),
        ("tandem_gate_record", "a/b"),
        ("tandem_gate_record", "a" * 129),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        GateSettings.of({**ENTROPY, key: value})


def test_a_score_lies_between_0_and_1() -> None:
    with pytest.raises(ValueError, match="tandem_gate_threshold"):
        GateSettings.of({**NEURAL, "tandem_gate_threshold": 1.5})


def test_settings_without_a_rule_are_no_gate_at_all() -> None:
    with pytest.raises(ValueError, match="tandem_gate is one of entropy, neural, random"):
        GateSettings.of({"tandem_gate_threshold": 1.0})

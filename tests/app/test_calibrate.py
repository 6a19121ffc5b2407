"""`tandem calibrate`: the search for a threshold, its intervals, and the command on the pair."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.calibration import CalibrationError, Policy, Search, chosen
from app.cli import main
from app.trial import Answered, Messages, Run
from policies import TABLE
from policies.training.calibrate import BITS, FINEST, SCORES, Halving, Scale, ratio
from policies.training.token_gate.prompts import Prompt
from router.config import parse
from router.steps import Usage
from tests.app.observations import attempt

N = 200
BOTH = {"small": "small", "large": "large"}
ENTROPY = Policy("it", {"use": "entropy", **BOTH, "threshold": 0.4, "back": 0.1})
PROMPTS = [Prompt(str(n), ({"role": "user", "content": str(n)},), "7") for n in range(N)]


# ------------------------------------------------------------------------------------ the search


@pytest.mark.parametrize("scale", [BITS, SCORES], ids=["bits", "scores"])
@given(at=st.floats(0.02, 0.98))
def test_halving_comes_to_the_turning_point(scale: Scale, at: float) -> None:
    turn = scale.shrink(scale.stretch(scale.low) * (1 - at) + scale.stretch(scale.high) * at)
    halving, asked = Halving(scale), 0
    while (threshold := halving.next()) is not None:
        assert scale.low < threshold < scale.high
        halving.heard(threshold, too_low=threshold < turn)
        asked += 1
    assert scale.apart(halving.low, halving.high) < FINEST
    assert halving.low <= turn <= halving.high
    assert asked <= 9


def test_a_ratio_has_an_interval_over_prompts() -> None:
    certain = ratio([1.0] * 50, [4.0] * 50)
    assert (certain.value, certain.low, certain.high) == (0.25, 0.25, 0.25)
    coin = ratio([1.0, 0.0] * 50, [1.0] * 100)
    assert coin.value == 0.5
    assert coin.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.02)
    assert coin.high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.02)
    assert ratio([0.0], [0.0]).value == 0.0


@dataclass(slots=True)
class Simulated:
    """Models of which the share and the accuracy follow from the threshold, and nothing runs.

    Of each answer's ten tokens the large model writes `10 * (1 - threshold)`, rounded; so many
    hundredths of the prompts are answered rightly.
    """

    blocks: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    async def put(self, name: str, block: Mapping[str, Any]) -> None:
        self.blocks[name] = block

    async def run(self, target: str, prompts: Sequence[Messages], label: str = "") -> Run:
        threshold = 0.0 if target == "large" else self.blocks[target]["threshold"]
        share = max(0.0, 1 - threshold)
        return Run(tuple(answered(share, n / N < share) for n in range(len(prompts))), 1.0)


def answered(share: float, right: bool) -> Answered:
    tokens = {"large": round(100 * share), "small": 100 - round(100 * share)}
    attempts = tuple(attempt(model, Usage(5, count)) for model, count in tokens.items())
    return Answered("7" if right else "8", attempts, (), "in_engine", "")


def search(policy: Policy = ENTROPY, runs: int = 12) -> Search:
    return Search(Simulated(), policy, PROMPTS, lambda a, p: a.text == p.answer, runs)


async def test_a_share_is_found() -> None:
    seeking = search()
    found = await seeking.for_share(0.3)
    assert found.share.value == pytest.approx(0.3, rel=0.05)
    assert found.threshold == pytest.approx(0.7, rel=0.05)
    assert seeking.complete


async def test_the_highest_threshold_that_keeps_the_quality_is_found() -> None:
    seeking = search()
    found = await seeking.for_quality(0.9)
    assert found.kept is not None
    assert found.kept.value >= 0.9
    assert found.threshold == pytest.approx(0.1, rel=0.06)
    assert seeking.complete
    assert all(tried.kept is not None for tried in seeking.tried)


async def test_few_runs_give_the_nearest_and_say_so() -> None:
    seeking = search(runs=2)
    found = await seeking.for_share(0.3)
    assert len(seeking.tried) == 2
    assert found in seeking.tried
    assert not seeking.complete


async def test_a_quality_that_nothing_keeps_is_refused() -> None:
    seeking = search(runs=1)  # its only run is at 0.09 bits, which keeps 0.91
    with pytest.raises(CalibrationError, match=r"the best keeps 91\.\d%"):
        await seeking.for_quality(0.95)


async def test_a_quality_needs_answers() -> None:
    seeking = search()
    seeking.prompts = [Prompt("1", PROMPTS[0].messages)]
    with pytest.raises(CalibrationError, match="answer"):
        await seeking.for_quality(0.9)


# -------------------------------------------------------------------------------------- policies


def test_the_way_back_keeps_its_ratio() -> None:
    assert ENTROPY.at(0.2) == {**ENTROPY.block, "threshold": 0.2, "back": 0.05}
    assert Policy("it", {"use": "entropy"}).at(0.2) == {"use": "entropy", "threshold": 0.2}


def test_every_kind_of_threshold_has_its_scale() -> None:
    assert ENTROPY.scale is BITS
    assert Policy("it", {"use": "token_gate", "artifact": "a"}).scale is SCORES
    assert Policy("it", {"use": "token_gate", "rule": "entropy"}).scale is BITS
    for block in ({"use": "token_gate", "rule": "random"}, {"use": "cascade"}):
        with pytest.raises(CalibrationError, match=r"policies\.it"):
            _ = Policy("it", block).scale


def test_the_policy_is_the_only_one_or_named() -> None:
    two = {
        "one": ENTROPY.block,
        "other": ENTROPY.block,
        "plain": {"use": "direct", "model": "small"},
    }
    tree = {"models": {name: {"backends": ["http://m:1"]} for name in BOTH}, "default": "small"}
    document = parse(json.dumps({**tree, "policies": two}), TABLE)
    assert chosen(document, "entropy", "other").name == "other"
    for name in (None, "plain", "nobody"):
        with pytest.raises(CalibrationError, match="there are one, other"):
            chosen(document, "entropy", name)
    with pytest.raises(CalibrationError, match="it has none"):
        chosen(document, "token_gate", None)
    default = parse(json.dumps({**tree, "policies": two, "default": "other"}), TABLE)
    assert chosen(default, "entropy", None).name == "other"
    one = parse(json.dumps({**tree, "policies": {"one": ENTROPY.block}}), TABLE)
    assert chosen(one, "entropy", None).name == "one"


# ------------------------------------------------------------------------------------ the command


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"What is {n} + 4?", "answer": str(n + 4)} for n in range(21, 25)]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.mark.xdist_group("pair")
def test_the_command_on_the_pair(prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["calibrate", "entropy", "--large-share", "0.3", "--prompts", str(prompts)]
    assert main([*command, "--runs", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["policy"] == "ead"
    assert told["decided"] == "in_engine"
    assert told["prompts"] == 4
    assert 1 <= len(told["runs"]) <= 2
    assert told["block"]["threshold"] == told["threshold"]
    assert 0 <= told["share"]["low"] <= told["share"]["value"] <= told["share"]["high"] <= 1
    assert 0 <= told["accuracy"]["value"] <= 1
    document = f"policies: {{it: {json.dumps(told['block'])}}}\ndefault: it\nmodels:\n"
    models = "".join(f"  {name}: {{backends: ['http://m:1']}}\n" for name in BOTH)
    assert parse(document + models, TABLE).kinds["it"] == "entropy"


def test_what_is_wrong_is_said_in_a_line(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text("models: {small: {backends: ['http://127.0.0.1:9']}}")
    command = ["calibrate", "token-gate", "--prompts", str(prompts), "--config", str(config)]
    assert main([*command, "--large-share", "0.2"]) == 1
    assert "it has none" in capsys.readouterr().err
    missing = ["calibrate", "entropy", "--large-share", "0.2", "--prompts", str(tmp_path / "no")]
    assert main(missing) == 1
    assert "cannot read" in capsys.readouterr().err
    for wrong in (["--large-share", "0"], ["--quality", "2"], []):
        with pytest.raises(SystemExit):
            main([*command, *wrong])

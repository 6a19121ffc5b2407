"""The rules: each says what to do, each is tried by `promtool`, where that is installed.

The cases themselves are Prometheus' own kind of test, in the folder `rules` beside this file.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.dashboards.asked import ROOT, Rule, rules
from tests.dashboards.promql import groupings, selectors

CASES = sorted((Path(__file__).parent / "rules").glob("*.yml"))
CONFIG = ROOT / "deploy" / "prometheus" / "prometheus.yml"
ALERTS = [rule for rule in rules() if not rule.record]
RECORDED = [rule for rule in rules() if rule.record]
PROMTOOL = shutil.which("promtool")

tried = pytest.mark.skipif(
    PROMTOOL is None, reason="no promtool: it is in Debian's package prometheus"
)


def promtool(*arguments: str | Path) -> None:
    assert PROMTOOL
    ran = subprocess.run([PROMTOOL, *arguments], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@tried
def test_the_configuration_is_good() -> None:
    promtool("check", "config", "--lint=all", "--lint-fatal", CONFIG)


@tried
@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_rules_do_what_they_should(case: Path) -> None:
    promtool("test", "rules", case)


def test_every_rule_is_tried() -> None:
    """An alert fires in some case and is silent in another; a record has a value, or an alert asks
    for it.
    """
    fires = set()
    text = "".join(case.read_text("utf-8") for case in CASES)
    for case in CASES:
        quiet = [sample for asked in expectations(case) if not (sample := asked["exp_samples"])]
        assert quiet, f"{case.stem} never expects silence"
        for asked in expectations(case):
            for sample in asked["exp_samples"]:
                fires.update(re.findall(r'alertname="(\w+)"', sample["labels"]))
    assert fires == {rule.where for rule in ALERTS}
    used = {selector.metric for rule in ALERTS for selector in selectors(rule.expr)}
    assert not [r.where for r in RECORDED if r.where not in used and r.where not in text]


def expectations(case: Path) -> list[Any]:
    tests = yaml.safe_load(case.read_text("utf-8"))["tests"]
    return [asked for test in tests for asked in test["promql_expr_test"]]


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule.where)
def test_an_alert_says_what_to_do(rule: Rule) -> None:
    assert rule.where.startswith("Tandem")
    assert rule.labels["severity"] in {"warning", "critical"}
    assert rule.annotations.keys() == {"summary", "runbook"}
    assert rule.annotations["runbook"].endswith(".")
    assert len(rule.annotations["runbook"]) > 60


@pytest.mark.parametrize("rule", RECORDED, ids=lambda rule: rule.where)
def test_a_records_name_tells_its_labels(rule: Rule) -> None:
    level, metric, done = rule.where.split(":")
    kept = set(level.split("_"))
    grouped = [set(group.labels) - {"le"} for group in groupings(rule.expr) if group.word == "by"]
    assert not grouped or kept == grouped[0]
    assert any(metric in selector.metric for selector in selectors(rule.expr)) or not grouped
    assert done


def test_the_page_lists_every_alert() -> None:
    page = (ROOT / "docs" / "dashboards.md").read_text("utf-8")
    told = re.findall(r"^\| `(Tandem\w+)` \| (\w+) \|", page, re.MULTILINE)
    assert told == [(rule.where, rule.labels["severity"]) for rule in ALERTS]

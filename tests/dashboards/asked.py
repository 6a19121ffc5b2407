"""Everything that is asked of Prometheus: the boards' queries and the rules, read from their files.

What is read is what is checked in, not the code that made it: that is what Grafana and Prometheus
read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
BOARDS = ROOT / "deploy" / "grafana" / "dashboards"
RULES = ROOT / "deploy" / "prometheus" / "rules"


@dataclass(frozen=True)
class Asked:
    """A query by where it stands; `legend` is what names its series, or an alert's sentences."""

    where: str
    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Rule(Asked):
    """A rule by its name. `record` says which of the two kinds it is."""

    record: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


def boards() -> dict[str, Any]:
    """The boards by their names."""
    found = sorted(BOARDS.glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in found}


def panels(board: Any) -> list[Any]:
    """The panels that draw something: all but the rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def drawn() -> list[Asked]:
    """The queries of all boards: of panels, and of marks."""
    return [asked for name, board in boards().items() for asked in _drawn(name, board)]


def _drawn(name: str, board: Any) -> Iterator[Asked]:
    for panel in panels(board):
        for target in panel["targets"]:
            where = f"{name}: {panel['title']} {target['refId']}"
            yield Asked(where, target["expr"], target["legendFormat"])
    for mark in board["annotations"]["list"]:
        yield Asked(f"{name}: marks", mark["expr"], mark["textFormat"])


def rules() -> list[Rule]:
    """All rules, recorded ones first."""
    files = [RULES / "recording.yml", RULES / "alerts.yml"]
    groups = [g for path in files for g in yaml.safe_load(path.read_text("utf-8"))["groups"]]
    return [_rule(each) for group in groups for each in group["rules"]]


def _rule(rule: Any) -> Rule:
    annotations = rule.get("annotations", {})
    return Rule(
        where=rule.get("record") or rule["alert"],
        expr=rule["expr"],
        legend=" ".join(annotations.values()),
        record="record" in rule,
        labels=rule.get("labels", {}),
        annotations=annotations,
    )


def named(legend: str) -> set[str]:
    """The labels that a legend or an alert's sentence names."""
    return set(re.findall(r"\{\{\s*(?:\$labels\.)?([a-z]\w*)\s*\}\}", legend))

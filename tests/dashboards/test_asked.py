"""What boards and rules ask for is there: every metric, every label, every value of a closed set.

Held against a page of the gateway's own metrics on which every family has a sample.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TypeAlias

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.member_metrics import members_now
from app.metrics import OK, STATES, Metrics
from router.faults import Blame
from tests.app.observations import MEMBERS, POOLS, everything
from tests.dashboards.asked import BOARDS, ROOT, Asked, boards, drawn, named, panels, rules
from tests.dashboards.promql import Selector, groupings, selectors, tokens

OF_A_TARGET = {"job", "instance"}
"""What Prometheus itself adds to every series."""
BLAMES = {str(blame) for blame in Blame}
SHADOWED = {"error", "dropped"}
KEPT = {"logged", "dropped", "failed"}
CLOSED: dict[tuple[str, str], set[str]] = {
    ("tandem_errors_total", "fault"): BLAMES,
    ("job_fault:tandem_errors:ratio_rate5m", "fault"): BLAMES,
    ("tandem_backend_state", "state"): set(STATES),
    ("tandem_attempts_total", "outcome"): {OK, *BLAMES},
    ("tandem_tokens_total", "direction"): {"prompt", "completion", "cached"},
    ("tandem_shadow_decisions_total", "agreed"): {"true", "false"},
    ("tandem_shadow_failures_total", "why"): SHADOWED,
    ("tandem_decisions_total", "outcome"): KEPT,
    ("tandem_sleep_changes_total", "change"): {"woken", "slept", "wake_failed", "sleep_failed"},
    ("tandem_shed_total", "why"): {"full", "slow", "timeout"},
    ("tandem_store_up", "kind"): {"memory", "sqlite", "redis"},
    ("up", "job"): {"tandem"},
}
"""The values that a label of a metric may have, wherever a query spells one out."""
Known: TypeAlias = dict[str, set[str]]
"""Labels by metrics."""


def exported() -> Known:
    """Every name of a sample of the gateway's page, with its labels."""
    metrics = Metrics(lambda: POOLS, "1.2.3", lambda: members_now(MEMBERS))
    everything(metrics)
    page = metrics.render()[0].decode()
    found: Known = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, set(OF_A_TARGET)).update(sample.labels)
    return found


@pytest.fixture(scope="module")
def known() -> Known:
    """What can be asked for: what is exported, what is recorded, and whether a scrape went well."""
    recorded = {rule.where: set(rule.where.split(":")[0].split("_")) for rule in rules()}
    return {**exported(), **recorded, "up": OF_A_TARGET}


ASKED = [*drawn(), *rules()]
every = pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.where)


@every
def test_every_metric_and_label_is_there(asked: Asked, known: Known) -> None:
    found = selectors(asked.expr)
    assert found
    for selector in found:
        assert selector.metric in known, selector
        for label, sign, value in selector.matchers:
            assert label in known[selector.metric], selector
            if not value.startswith("$"):
                values = set(value.split("|") if "~" in sign else [value])
                assert values <= CLOSED[selector.metric, label], selector
    for group in groupings(asked.expr):
        for selector in group.over:
            lacks = set(group.labels) - known[selector.metric] - made(asked.expr)
            assert not lacks, (selector, lacks)


@every
def test_every_label_that_is_shown_is_there(asked: Asked, known: Known) -> None:
    """In a legend, or in an alert's sentences."""
    grouped = [set(group.labels) for group in groupings(asked.expr) if group.word == "by"]
    whole = [known[selector.metric] for selector in bare(asked.expr)]
    assert named(asked.legend) <= set().union(*grouped, *whole)


def bare(expr: str) -> list[Selector]:
    """Selectors that no `by` takes labels from."""
    grouped = {str(over) for group in groupings(expr) for over in group.over}
    return [selector for selector in selectors(expr) if str(selector) not in grouped]


def made(expr: str) -> set[str]:
    """Labels that a query makes itself: the first word of `label_replace`."""
    said = tokens(expr)
    return {"policy"} if "label_replace" in said and '"policy"' in said else set()


UNSEEN = {
    "process_virtual_memory_bytes",  # says nothing beside the resident part
}
"""What no query asks for, and why."""


def test_every_exported_family_is_looked_at() -> None:
    looked_at = {selector.metric for asked in ASKED for selector in selectors(asked.expr)}
    families = {name for name in exported() if not name.endswith(("_count", "_sum"))}
    assert families - looked_at == UNSEEN


# -------------------------------------------------------------------------------------- the boards


def test_the_boards_are_what_their_code_makes(tmp_path: Path) -> None:
    """Made in a process of its own: the library need not be in this one."""
    made = subprocess.run(
        [sys.executable, "-m", "deploy.grafana", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert made.stdout
    fresh = {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text("utf-8") for path in BOARDS.iterdir()}
    assert fresh == kept, "make dashboards"


@pytest.mark.parametrize("name", boards())
def test_a_board_explains_itself(name: str) -> None:
    board = boards()[name]
    assert board["uid"] == f"tandem-{name}"
    assert board["description"]
    drawings = panels(board)
    assert len({panel["title"] for panel in drawings}) == len(drawings)
    assert len({panel["id"] for panel in drawings}) == len(drawings)
    for panel in drawings:
        assert len(panel["description"]) > 60, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"], panel["title"]
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("name", boards())
def test_panels_do_not_lie_on_each_other(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in boards()[name]["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]


@pytest.mark.parametrize("name", boards())
def test_variables_are_those_that_queries_use(name: str, known: Known) -> None:
    board = boards()[name]
    asked = str(board["panels"]) + str(board["annotations"])
    variables = {each["name"]: each for each in board["templating"]["list"]}
    assert not [name for name in variables if f"${name}" not in asked and name != "datasource"]
    # All jobs are those of gateways: process_* are anybody's.
    assert "allValue" not in variables["job"]
    for each in variables.values():
        if each["type"] == "query":
            query = each["query"]["query"].removeprefix("label_values(").removesuffix(")")
            selector, _, label = query.rpartition(", ")
            (found,) = selectors(selector)
            assert label in known[found.metric], query
            assert {label for label, *_ in found.matchers} <= known[found.metric]


def test_what_is_provisioned_fits_together() -> None:
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text("utf-8"))[
        "datasources"
    ]
    (provider,) = yaml.safe_load((provisioning / "dashboards/tandem.yaml").read_text("utf-8"))[
        "providers"
    ]
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
    assert source["type"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]
    told = (ROOT / "docs/dashboards.md").read_text("utf-8")
    for variable in (source["url"], provider["options"]["path"]):
        assert f"{variable.removeprefix('$')}=" in told

"""What a board is, and its JSON: rows of panels, variables, links, and revisions as marks.

All boards choose by the same names: a Prometheus, the job and the instances of the gateway, and
where it makes sense policies and models. Knows Grafana's library and one metric, that which tells
of revisions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import dashboard as make
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard
from grafana_foundation_sdk.models.common import TimeZoneBrowser

from deploy.grafana.panel import SOURCE, Panel, build
from deploy.grafana.queries import HERE, REVISIONS

__all__ = ["Board", "page"]

TAG = "tandem"


@dataclass(frozen=True, kw_only=True)
class Board:
    """`name` is that of its file and, behind `tandem-`, its uid. `chosen` are variables: a label of
    a metric by the variable's name. Rows are panels by the row's title.
    """

    name: str
    title: str
    about: str
    rows: Mapping[str, Sequence[Panel]]
    chosen: Mapping[str, tuple[str, str]]
    one_of: frozenset[str] = frozenset()
    """The variables of which exactly one value is chosen; of others any number, at first all."""
    since: str = "now-1h"


def page(board: Board) -> str:
    """The board as Grafana reads it, ending in a newline; the same for the same board."""
    made = make.Dashboard(board.title).uid(f"tandem-{board.name}").description(board.about)
    made.tags([TAG]).readonly().time(board.since, "now").timezone(TimeZoneBrowser).refresh("30s")
    made.tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
    made.with_variable(make.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    made.with_variable(_variable("job", "tandem_build_info", "job", every=None))
    made.with_variable(_variable("instance", 'tandem_build_info{job=~"$job"}', "instance"))
    for name, (metric, label) in board.chosen.items():
        made.with_variable(
            _variable(name, f"{metric}{{{HERE}}}", label, several=name not in board.one_of)
        )
    made.link(
        make.DashboardLink("Tandem")
        .type(dashboard.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .include_vars(True)
        .keep_time(True)
    )
    made.annotation(_Revisions())
    number = 0
    for title, panels in board.rows.items():
        made.with_row(make.Row(title))
        for panel in panels:
            number += 1
            made.with_panel(build(panel, number))
    return JSONEncoder(sort_keys=True, indent=1).encode(made.build()) + "\n"


def _variable(
    name: str, metric: str, label: str, *, several: bool = True, every: str | None = ".*"
) -> make.QueryVariable:
    """`every` is the pattern of all values; without it, all is those that were found."""
    variable = (
        make.QueryVariable(name)
        .label(name.replace("_", " ").capitalize())
        .datasource(SOURCE)
        .query({"query": f"label_values({metric}, {label})", "refId": name})
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
    )
    if not several:
        return variable
    whole = dashboard.VariableOption(True, ["All"], ["$__all"])
    variable.multi(True).include_all(True).current(whole)
    return variable if every is None else variable.all_value(every)


class _Marks(dashboard.AnnotationQuery):
    """An annotation with the fields that are Prometheus' own, which the library leaves out."""

    def to_json(self) -> dict[str, object]:
        own: dict[str, Any] = {
            "step": "15s",
            "tagKeys": "etag",
            "titleFormat": "A revision began to serve",
            "textFormat": "{{instance}}: {{etag}}",
        }
        return {**super().to_json(), **own}


class _Revisions(make.AnnotationQuery):
    def __init__(self) -> None:
        super().__init__()
        self._internal = _Marks(name="Revisions", datasource=SOURCE, icon_color="purple")
        self.expr(REVISIONS)

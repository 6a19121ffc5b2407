"""What a panel is, as data, and how Grafana is told of it.

A panel has queries by their legends, a unit, limits that colour it, and a text that says what it
shows and what to do about it. Sizes are in Grafana's grid: 24 columns, rows of about 30 pixels.
Knows Grafana's library; knows no metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import TypeAlias

from grafana_foundation_sdk.builders import common as part
from grafana_foundation_sdk.builders import dashboard as make
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.statetimeline import Panel as StateTimeline
from grafana_foundation_sdk.builders.timeseries import Panel as Timeseries
from grafana_foundation_sdk.models import common, dashboard

__all__ = ["SOURCE", "Colour", "Kind", "Panel", "above", "below", "build"]

SOURCE = dashboard.DataSourceRef("prometheus", "${datasource}")
"""The Prometheus that is chosen at the top of the board."""

HEIGHTS = {"number": 4, "graph": 8}


class Colour(StrEnum):
    """Good, look at it, act: and what is neither."""

    GOOD = "green"
    LOOK = "orange"
    ACT = "red"
    PLAIN = "blue"


Steps: TypeAlias = tuple[tuple[float | None, Colour], ...]
"""From this value on, this colour; None is minus infinity, and comes first."""


def above(look: float | None = None, act: float | None = None) -> Steps:
    """More is worse: look from here on, act from there on."""
    later = ((look, Colour.LOOK), (act, Colour.ACT))
    return ((None, Colour.GOOD), *((value, colour) for value, colour in later if value is not None))


def below(act: float, look: float | None = None) -> Steps:
    """Less is worse: act below this, look below that."""
    if look is None:
        return ((None, Colour.ACT), (act, Colour.GOOD))
    return ((None, Colour.ACT), (act, Colour.LOOK), (look, Colour.GOOD))


class Kind(Enum):
    """How it is drawn."""

    LINES = auto()
    STACKED = auto()
    SHARES = auto()
    """Stacked to 100 %."""
    NUMBER = auto()
    """The last value, large."""
    STATES = auto()
    """A bar for each series, coloured by its state."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """`queries` are PromQL by their legends; `states` names the values that `STATES` shows.

    A query of one moment (`instant`) is asked once, for the end of the range that is looked at.
    `none` is what stands where there is no data: often that is good news.
    """

    title: str
    about: str
    queries: Mapping[str, str]
    unit: str = "short"
    kind: Kind = Kind.LINES
    steps: Steps = ()
    width: int = 8
    instant: bool = False
    none: str = "no data"
    states: Mapping[int, tuple[str, Colour]] = field(default_factory=dict)


Drawn: TypeAlias = Timeseries | Stat | StateTimeline


def build(panel: Panel, number: int) -> Drawn:
    """The panel as Grafana's library has it; `number` is its id, unique within the board."""
    drawn = _drawn(panel)
    drawn.id(number).title(panel.title).description(panel.about).datasource(SOURCE)
    drawn.unit(panel.unit).no_value(panel.none).span(panel.width)
    drawn.height(HEIGHTS["number" if panel.kind is Kind.NUMBER else "graph"])
    steps = panel.steps or ((None, Colour.PLAIN),)
    drawn.thresholds(
        make.ThresholdsConfig()
        .mode(dashboard.ThresholdsMode.ABSOLUTE)
        .steps([dashboard.Threshold(value, colour.value) for value, colour in steps])
    )
    for letter, (legend, expr) in zip("ABCDEFGH", panel.queries.items(), strict=False):
        query = Dataquery().ref_id(letter).expr(expr).legend_format(legend).datasource(SOURCE)
        drawn.with_target(query.instant() if panel.instant else query.range())
    return drawn


def _drawn(panel: Panel) -> Drawn:
    match panel.kind:
        case Kind.NUMBER:
            return _number()
        case Kind.STATES:
            return _states(panel.states)
        case Kind.LINES | Kind.STACKED | Kind.SHARES:
            return _graph(panel)


def _number() -> Stat:
    last = part.ReduceDataOptions().calcs(["lastNotNull"])
    return Stat().reduce_options(last).graph_mode(common.BigValueGraphMode.AREA)


def _states(states: Mapping[int, tuple[str, Colour]]) -> StateTimeline:
    named = {
        str(value): dashboard.ValueMappingResult(text, colour.value, None, index)
        for index, (value, (text, colour)) in enumerate(states.items())
    }
    drawn = StateTimeline().mappings([dashboard.ValueMap(named)])
    return drawn.show_value(common.VisibilityMode.NEVER).merge_values(True).fill_opacity(80)


def _graph(panel: Panel) -> Timeseries:
    drawn = Timeseries().line_width(1).fill_opacity(0 if panel.kind is Kind.LINES else 30)
    drawn.show_points(common.VisibilityMode.AUTO)
    drawn.legend(
        part.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    several = part.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI)
    drawn.tooltip(several.sort(common.SortOrder.DESCENDING))
    if panel.kind is not Kind.LINES:
        whole = panel.kind is Kind.SHARES
        mode = common.StackingMode.PERCENT if whole else common.StackingMode.NORMAL
        drawn.stacking(part.StackingConfig().mode(mode))
    if panel.steps:
        line = part.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        drawn.thresholds_style(line)
    return drawn

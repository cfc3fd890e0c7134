"""Builders of panels, variables and dashboards, on Grafana's own types.

`dashboard_json` assigns positions and ids row by row, so no two panels share a position or an id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableRefresh,
    VariableSort,
)

TAG = "glm-vision-serve"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
PRESENT = 'ray_serve_deployment_status{application="glm"'  # exported by Serve's controller also without requests
HEIGHT = 8

Panel: TypeAlias = timeseries.Panel | stat.Panel | statetimeline.Panel


@dataclass(frozen=True)
class Query:
    """A PromQL expression and the legend of its series."""

    expression: str
    legend: str
    dashed: bool = False  # for limits and targets


def _target(query: Query, number: int) -> prometheus.Dataquery:
    reference = chr(ord("A") + number)
    return prometheus.Dataquery().expr(query.expression).legend_format(query.legend).ref_id(reference).range()


def _thresholds(steps: Sequence[tuple[float | None, str]]) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([Threshold(value=value, color=color) for value, color in steps])
    )


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 8,
    stacked: bool = False,
    maximum: float | None = None,
) -> Panel:
    """A time series from zero; the legend shows the last and the largest value."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(width)
        .height(HEIGHT)
        .line_width(1)
        .fill_opacity(30 if stacked else 8)
        .show_points(kinds.VisibilityMode.NEVER)
        .stacking(
            common.StackingConfig().group("A").mode(kinds.StackingMode.NORMAL if stacked else kinds.StackingMode.NONE)
        )
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(kinds.LegendDisplayMode.TABLE)
            .placement(kinds.LegendPlacement.BOTTOM)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING))
    )
    if maximum is not None:
        panel.max(maximum)
    for number, query in enumerate(queries):
        panel.with_target(_target(query, number))
        if query.dashed:
            panel.override_by_query(
                chr(ord("A") + number),
                [
                    DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
                    DynamicConfigValue("custom.fillOpacity", 0),
                    DynamicConfigValue("custom.stacking", {"group": "A", "mode": "none"}),
                ],
            )
    return panel


def number(
    title: str, description: str, unit: str, expression: str, *steps: tuple[float, str], none: str = "–"
) -> Panel:
    """The current value with a sparkline; `steps` are the values at which its colour changes."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(4)
        .height(4)
        .no_value(none)
        .thresholds(_thresholds([(None, "green" if steps else "blue"), *steps]))
        .color_mode(kinds.BigValueColorMode.VALUE)
        .graph_mode(kinds.BigValueGraphMode.AREA)
        .text_mode(kinds.BigValueTextMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_target(Query(expression, title), 0))
    )


def states(title: str, description: str, query: Query, names: Mapping[int, tuple[str, str]], *, width: int) -> Panel:
    """A state timeline of a numeric state; `names` has the text and colour of each value."""
    mapping = ValueMap(
        {
            str(value): ValueMappingResult(text, color, index=index)
            for index, (value, (text, color)) in enumerate(names.items())
        }
    )
    return (
        statetimeline.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit("none")
        .span(width)
        .height(HEIGHT)
        .mappings([mapping])
        .show_value(kinds.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(kinds.LegendDisplayMode.LIST)
            .placement(kinds.LegendPlacement.BOTTOM)
            .calcs([])
        )
        .with_target(_target(query, 0))
    )


def variable(name: str, label: str, metric: str, values_of: str, *, multiple: bool = False) -> dashboard.QueryVariable:
    """A variable with the values of the metric's label `values_of`; `multiple`: several or all can be selected."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"query": f"label_values({metric}, {values_of})", "refId": f"variable-{name}"})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(multiple)
        .include_all(multiple)
    )


RELEASE_VARIABLES = (
    variable("namespace", "Namespace", f"{PRESENT}}}", "namespace"),
    variable("release", "Release", f'{PRESENT}, namespace="$namespace"}}', "release"),
    variable(
        "cluster",
        "Cluster",
        f'{PRESENT}, namespace="$namespace", release="$release"}}',
        "ray_io_cluster",
        multiple=True,
    ),
)


def dashboard_json(
    uid: str,
    title: str,
    description: str,
    variables: Sequence[dashboard.QueryVariable],
    rows: Sequence[tuple[str, Sequence[Panel]]],
) -> str:
    """A dashboard as JSON; the most important `rows` first."""
    result = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .editable()
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("The other dashboard")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for each in (*RELEASE_VARIABLES, *variables):
        result.with_variable(each)
    for heading, panels in rows:
        result.with_row(dashboard.Row(heading))
        for panel in panels:
            result.with_panel(panel)
    tree = _tree(result.build())
    for position, panel in enumerate(tree["panels"]):
        panel["id"] = position + 1
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def _tree(built: Any) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(built))
    return tree

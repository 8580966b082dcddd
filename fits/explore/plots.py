"""Arrays to figures of Plotly, as plain dictionaries: no browser and no library is needed to make or test them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..diagnosis.vpc import Vpc
from ..figures import style

type Figure = dict[str, Any]
type Trace = dict[str, Any]
type Floats = NDArray[np.float64]

#: Lowest number of cells that is drawn: below it there is none.
ONE_CELL: Final = 1.0
#: Lowest CAR-T cells/µL that are drawn.
FEWEST_CART: Final = 1e-3


def figure(traces: Sequence[Trace], *, x: str, y: str, log: bool = False, y_range: Sequence[float] = ()) -> Figure:
    """Put traces into the page's one look."""
    axis = {"gridcolor": style.PALE, "linecolor": style.GREY, "zeroline": False, "automargin": True}
    vertical: dict[str, Any] = {**axis, "title": {"text": y}, "type": "log" if log else "linear"}
    if log:
        vertical |= {"exponentformat": "power", "nticks": 8}
    if y_range:
        vertical["range"] = list(y_range)
    return {
        "data": list(traces),
        "layout": {
            "xaxis": {**axis, "title": {"text": x}},
            "yaxis": vertical,
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "font": {"family": "DejaVu Sans, Arial, sans-serif", "size": 12, "color": "#222222"},
            "margin": {"l": 55, "r": 10, "t": 10, "b": 45},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "hovermode": "closest",
        },
    }


def band(x: ArrayLike, bands: ArrayLike, name: str, colour: str, labels: Sequence[str]) -> list[Trace]:
    """Nested bands around a middle line; rows of ``bands`` from lowest to highest, an odd number of them."""
    days, rows = np.asarray(x, dtype=float).tolist(), np.asarray(bands, dtype=float)
    middle = len(rows) // 2
    common: Trace = {"type": "scatter", "mode": "lines", "x": days, "legendgroup": name, "hoverinfo": "skip"}
    out = []
    for low in range(middle):
        high = len(rows) - 1 - low
        edge = {**common, "line": {"width": 0}, "showlegend": False}
        out.append({**edge, "y": rows[low].tolist(), "name": f"{name}, {labels[low]}"})
        shade = _see_through(colour, 0.18 + 0.14 * low)
        out.append(
            {**edge, "y": rows[high].tolist(), "name": f"{name}, {labels[high]}", "fill": "tonexty", "fillcolor": shade}
        )
    line = {**common, "y": rows[middle].tolist(), "name": name, "line": {"color": colour, "width": 2}}
    return [*out, {**line, "hoverinfo": "x+y+name"}]


def _see_through(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:.2f})"


def arms(x: ArrayLike, curves: Mapping[str, Floats], labels: Sequence[str], *, floor: float = 0.0) -> list[Trace]:
    """Bands of the arms over one another, no value below a floor."""
    colours = (style.BLUE, style.VERMILION)
    made = [
        band(x, np.maximum(rows, floor), name, colour, labels)
        for (name, rows), colour in zip(curves.items(), colours, strict=True)
    ]
    return [trace for traces in made for trace in traces]


def measured(rows: pd.DataFrame) -> list[Trace]:
    """Measurements, those below or above a limit as open triangles at it."""
    out = []
    for flag, symbol, name in (
        (0, "circle", "measured"),
        (1, "triangle-down-open", "below the limit"),
        (-1, "triangle-up-open", "above the limit"),
    ):
        some = rows[rows["cens"] == flag]
        if len(some):
            marker = {"color": style.BLACK, "symbol": symbol, "size": 8}
            points = {"x": some["time"].tolist(), "y": some["value"].tolist(), "marker": marker, "name": name}
            out.append({"type": "scatter", "mode": "markers", **points})
    return out


def predictive(found: Vpc, dvid: str, stratum: str) -> Figure:
    """Observed percentiles among those of simulated studies, by day since the latest infusion.

    A percentile below the limit of quantification has no value: its band ends at the limit, its line is interrupted.
    """
    table = found.percentiles
    rows = table[(table["dvid"] == dvid) & (table["stratum"] == stratum) & ~table["corrected"].astype(bool)]
    traces: list[Trace] = []
    for (percentile, lines), colour in zip(
        rows.groupby("percentile", sort=True), (style.SKY, style.BLUE, style.GREEN), strict=False
    ):
        ordered = lines.sort_values("day")
        name = f"{float(str(percentile)):.0%} simulated"
        upper = ordered["upper"].fillna(ordered["limit"])
        lower = np.minimum(ordered["lower"].fillna(ordered["limit"]), upper)
        bands = np.stack([lower, ordered["predicted"], upper])
        traces += band(ordered["day"], bands, name, colour, ("2.5 %", "50 %", "97.5 %"))
        seen = {"x": ordered["day"].tolist(), "y": ordered["observed"].tolist(), "name": f"{name[:3]} observed"}
        look = {"mode": "lines+markers", "line": {"color": style.BLACK, "width": 1}, "showlegend": percentile == 0.5}
        traces.append({"type": "scatter", **seen, **look})
    limits = rows.drop_duplicates("day").sort_values("day").dropna(subset="limit")
    if len(limits):
        at = {"x": limits["day"].tolist(), "y": limits["limit"].tolist(), "name": "limit of quantification"}
        look = {"mode": "lines", "line": {"color": style.GREY, "width": 1, "dash": "dot"}}
        traces.append({"type": "scatter", **at, **look})
    return figure(traces, x="days since the latest infusion", y=style.assay_name(dvid), log=True)


def free_of_progression(seen: pd.DataFrame, days: Floats, free: Floats) -> Figure:
    """Kaplan-Meier steps of the cohort on the predicted share."""
    step = {"x": seen["time"].tolist(), "y": seen["survival"].tolist(), "name": "observed (Kaplan-Meier)"}
    traces = band(days, free, "predicted", style.BLUE, ("2.5 %", "50 %", "97.5 %"))
    traces.append({"type": "scatter", "mode": "lines", **step, "line": {"shape": "hv", "color": style.BLACK}})
    return figure(traces, x="days since the first infusion", y="share free of progression", y_range=(0, 1.02))


def prognosis(table: pd.DataFrame | None) -> Figure:
    """Probability of progression by day, from `progression.csv` of a forecast; empty without one."""
    traces: list[Trace] = []
    if table is not None and not table.empty:
        around = table[["low_95", "low_50", "high_50", "high_95"]].to_numpy().T
        bands = np.insert(around, 2, table["probability"].to_numpy(), axis=0)
        edges = ("2.5 % of draws", "25 % of draws", "", "75 % of draws", "97.5 % of draws")
        traces = band(table["day"], bands, "mean of the draws", style.PURPLE, edges)
    return figure(traces, x="days since the first infusion", y="probability of progression", y_range=(0, 1.02))


def bars(rows: pd.DataFrame, label: str, *, most: int = 12) -> Figure:
    """Ranked bars with their intervals."""
    shown = rows.head(most).iloc[::-1]
    value = shown["value"].to_numpy(dtype=float)
    ends = np.sort(shown[["low", "high"]].to_numpy(dtype=float), axis=1)
    error = {"type": "data", "symmetric": False, "color": style.BLACK, "thickness": 1}
    error |= {"array": (ends[:, 1] - value).tolist(), "arrayminus": (value - ends[:, 0]).tolist()}
    trace = {"type": "bar", "orientation": "h", "x": value.tolist(), "y": shown["parameter"].tolist(), "name": label}
    made = figure([{**trace, "error_x": error, "marker": {"color": style.BLUE}}], x=label, y="")
    made["layout"]["yaxis"]["type"] = "category"
    return made


def numbers(shown: Figure) -> pd.DataFrame:
    """The data of a figure: ``series``, ``x``, ``y``, one line per point; ``low`` and ``high`` of bars."""
    tables = []
    for trace in shown["data"]:
        table = pd.DataFrame({"series": trace.get("name", ""), "x": trace["x"], "y": trace["y"]})
        if "error_x" in trace:
            table["low"] = table["x"] - np.asarray(trace["error_x"]["arrayminus"])
            table["high"] = table["x"] + np.asarray(trace["error_x"]["array"])
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["series", "x", "y"])

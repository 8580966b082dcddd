"""One patient's forecast: measurements to come, progression by month, and what options would gain."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from . import style
from .individual import points

BANDS = ((95, 0.15), (80, 0.22), (50, 0.35))
ROOM = 30.0  # times below the lowest and above the highest value or limit, at most


@style.styled
def assays(
    forecast: pd.DataFrame,
    observations: pd.DataFrame,
    *,
    now: float,
    limits: Mapping[str, float],
    patient: str,
    previous: pd.DataFrame | None = None,
    previous_day: float | None = None,
) -> Figure:
    """Draw every assay: measured values, and bands of measurements to come.

    Parameters
    ----------
    forecast
        `forecast.csv`.
    observations
        The patient's `time`, `dvid`, `value`, `cens`.
    now
        Last day that the forecast has seen.
    limits
        Lower limit of quantification by assay.
    patient
        For the title.
    previous, previous_day
        An earlier `forecast.csv`, drawn in dashes from its own last day on.

    Returns
    -------
    Figure
    """
    own = forecast[forecast["of"] == "measurement"]
    names = list(dict.fromkeys(own["assay"]))
    figure, axes = style.grid(len(names), min(len(names), 2), 2.3, extra=1.0)
    until = float(own["time"].max())
    for panel, name in zip(axes, names, strict=True):
        rows, seen = own[own["assay"] == name], observations[observations["dvid"] == name]
        low, high = _ends(rows, seen["value"], limits.get(name))
        for level, alpha in BANDS:
            edges = (rows[f"{end}_{level}"].clip(lower=low) for end in ("low", "high"))
            panel.fill_between(rows["time"], *edges, color=style.BLUE, alpha=alpha, linewidth=0)
        panel.plot(rows["time"], rows["median"].clip(lower=low), color=style.BLUE)
        if previous is not None:
            before = previous[(previous["of"] == "measurement") & (previous["assay"] == name)]
            before = before[before["time"] >= (previous_day or 0.0)]
            for column in ("median", "low_95", "high_95"):
                width = 1.1 if column == "median" else 0.7
                panel.plot(before["time"], before[column].clip(lower=low), "--", color=style.VERMILION, linewidth=width)
        points(panel, seen)
        if name in limits:
            panel.axhline(limits[name], color=style.GREY, linewidth=0.8, linestyle=":")
        panel.axvline(now, color=style.BLACK, linewidth=0.8)
        style.log_axis(panel)
        panel.set_ylim(low, high)
        style.day_axis(panel, until)
        panel.set_title(style.assay_name(name))
    figure.suptitle(f"{patient}: seen to day {now:g}, forecast to day {until:g}")
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=style.BLUE, label="median of measurements"),
        Patch(color=style.BLUE, alpha=0.4, label="50, 80 and 95 %"),
        Line2D([], [], marker="o", linestyle="none", color=style.BLACK, label="measured"),
        Line2D([], [], color=style.GREY, linestyle=":", label="lower limit"),
        Line2D([], [], color=style.BLACK, label="last day seen"),
    ]
    if previous is not None:
        handles.append(Line2D([], [], color=style.VERMILION, linestyle="--", label="earlier forecast, 95 %"))
    style.legend_below(figure, handles, columns=3)
    return figure


def _ends(rows: pd.DataFrame, seen: "pd.Series[float]", limit: float | None) -> tuple[float, float]:
    """Ends of the value axis: what was measured and may be, no lower than is worth showing."""
    middle, top = float(rows["median"].max()), float(rows["high_95"].max())
    values = [value for value in [*seen, limit or 0.0] if value > 0] or [middle]
    high = max(*values, middle)
    return min(values) / ROOM, 1.5 * max(high, min(top, ROOM * high))


@style.styled
def progression(table: pd.DataFrame, *, now: float, patient: str, previous: pd.DataFrame | None = None) -> Figure:
    """Draw the chance of progression by the end of each month, with the 50 and 95 % of what it may be.

    Parameters
    ----------
    table
        `progression.csv`.
    now
        Last day known to be free of progression.
    patient
        For the title.
    previous
        An earlier `progression.csv`.
    """
    figure = style.new_figure(2.8)
    panel = figure.subplots()
    panel.vlines(table["month"], table["low_95"], table["high_95"], color=style.BLUE, alpha=0.25, linewidth=5)
    panel.vlines(table["month"], table["low_50"], table["high_50"], color=style.BLUE, alpha=0.5, linewidth=5)
    panel.plot(table["month"], table["probability"], "o-", color=style.BLUE, label="chance of progression")
    if previous is not None:
        panel.plot(previous["month"], previous["probability"], "s--", color=style.VERMILION, label="earlier forecast")
    handles: list[Line2D | Patch] = [*panel.get_lines()]
    handles.append(Patch(color=style.BLUE, alpha=0.4, label="50 and 95 % of the patient's draws"))
    panel.set_ylim(-0.02, 1.02)
    panel.set_xlabel("months since infusion")
    panel.set_ylabel("progressed by then")
    figure.suptitle(f"{patient}: progression, known free of it until day {now:g}")
    style.legend_below(figure, handles, columns=3)
    return figure


@style.styled
def benefit(table: pd.DataFrame, *, patient: str) -> Figure:
    """Draw the chance that each option is better than none, and its gain; worlds in grey, stacked in colour.

    Parameters
    ----------
    table
        `benefit.csv`.
    patient
        For the title.
    """
    names = list(dict.fromkeys(table["option"]))
    figure = style.new_figure(1.4 + 0.4 * len(names))
    left, right = figure.subplots(1, 2, sharey=True)
    stacked = table[table["world"] == "stacked"].set_index("option").loc[names]
    place = np.arange(len(names))[::-1]
    for panel, value, error in ((left, "better", "better_mc_error"), (right, "gain_days", "gain_mc_error")):
        for name, at in zip(names, place, strict=True):
            worlds = table[(table["option"] == name) & (table["world"] != "stacked")]
            panel.plot(worlds[value], np.full(len(worlds), at), "|", color=style.GREY, markersize=9)
        panel.errorbar(stacked[value], place, xerr=1.96 * stacked[error], fmt="o", color=style.BLUE, markersize=5)
        _plain(panel)
    right.hlines(place, stacked["gain_low"], stacked["gain_high"], color=style.BLUE, alpha=0.3, linewidth=4)
    right.axvline(0.0, color=style.BLACK, linewidth=0.8)
    left.set_yticks(place, names)
    left.set_xlim(0, 1.02)
    left.set_xlabel("chance of being better than none")
    right.set_xlabel("progression-free days gained")
    figure.suptitle(f"{patient}: options after progression, to two years from it")
    handles: list[Line2D | Patch] = [
        Line2D([], [], marker="o", linestyle="none", color=style.BLUE, label="worlds stacked (Monte Carlo 95 %)"),
        Line2D([], [], marker="|", linestyle="none", color=style.GREY, label="each world"),
        Patch(color=style.BLUE, alpha=0.3, label="95 % of the patient's draws"),
    ]
    style.legend_below(figure, handles, columns=3)
    return figure


def _plain(panel: Axes) -> None:
    panel.grid(axis="x", color=style.PALE, linewidth=0.5)
    panel.tick_params(axis="y", length=0)

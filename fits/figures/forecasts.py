"""Forecasts of late samples and of progression, by cut-off day and model."""

from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..diagnosis.forecasts import CARRIED, CHANGED, CURVE, LAST, MODEL
from . import style

COLOURS: Final = {MODEL: style.BLUE, CURVE: style.VERMILION, LAST: style.GREY, CHANGED: style.GREEN}
MARKERS: Final = {MODEL: "o", CURVE: "s", LAST: "v", CHANGED: "^"}
LEVELS: Final = (50, 80, 95)
NUDGE: Final = 0.17  # between models at one cut-off, in places of the axis


@style.styled
def by_cutoff(table: pd.DataFrame, *, title: str = "Forecasts of about day 100") -> Figure:
    """Draw error, CRPS and coverage by cut-off, one column of panels for each assay.

    Parameters
    ----------
    table
        From `diagnosis.forecasts.score`.
    title
        Of the figure.

    Returns
    -------
    Figure
    """
    assays = [name for name in CARRIED if name in set(table["dvid"])]
    cutoffs = sorted(table["cutoff"].unique())
    models = [name for name in COLOURS if name in set(table["model"])]
    figure = style.new_figure(6.4)
    axes = figure.subplots(3, len(assays), squeeze=False, sharex=True, sharey="row", height_ratios=(1, 1, 1.3))
    for column, dvid in enumerate(assays):
        rows = table[table["dvid"] == dvid]
        for place, model in enumerate(models):
            own = rows[rows["model"] == model].set_index("cutoff").reindex(cutoffs)
            at = np.arange(len(cutoffs), dtype=np.float64) + NUDGE * (place - 0.5 * (len(models) - 1))
            for panel, score in ((axes[0, column], "error_in_ln"), (axes[1, column], "crps")):
                panel.plot(at, own[score], MARKERS[model], color=COLOURS[model], markersize=5)
            _coverage(axes[2, column], at, own, model)
        counted = rows[rows["model"] == rows["model"].iloc[0]]["n"].max()
        axes[0, column].set_title(f"{style.assay_name(dvid, unit=False)} (n = {counted})")
        axes[2, column].set_xticks(range(len(cutoffs)), [f"day {day:.0f}" for day in cutoffs])
        axes[2, column].set_xlim(-0.5, len(cutoffs) - 0.5)
        axes[2, column].set_xlabel("last day seen")
    for panel, label in zip(axes[:, 0], ("median error (ln)", "CRPS (ln)", "inside intervals (%)"), strict=True):
        panel.set_ylabel(label)
    for row in (0, 1):
        axes[row, 0].set_ylim(bottom=0.0)
    axes[2, 0].set_ylim(0, 102)
    axes[2, 0].set_yticks([0, *LEVELS, 100])
    figure.suptitle(title)
    handles = [
        Line2D([], [], marker=MARKERS[name], linestyle="none", color=COLOURS[name], label=name) for name in models
    ]
    style.legend_below(figure, handles, columns=len(handles))
    return figure


@style.styled
def calibration(thirds: pd.DataFrame) -> Figure:
    """Draw observed against predicted progression in thirds of the predicted risk, a panel for each cut-off.

    Parameters
    ----------
    thirds
        From `diagnosis.landmark.thirds`.

    Returns
    -------
    Figure
    """
    cutoffs = sorted(thirds["cutoff"].unique())
    figure = style.new_figure(2.9)
    axes = figure.subplots(1, len(cutoffs), squeeze=False, sharey=True)[0]
    for panel, cutoff in zip(axes, cutoffs, strict=True):
        own = thirds[thirds["cutoff"] == cutoff]
        panel.plot([0, 1], [0, 1], "-", color=style.PALE, zorder=0)
        panel.vlines(own["predicted"], own["lower"], own["upper"], color=style.BLUE, linewidth=1.2)
        panel.plot(own["predicted"], own["observed"], "o", color=style.BLUE, markersize=5)
        panel.set_xlim(-0.03, 1.03)
        panel.set_ylim(-0.03, 1.03)
        panel.set_aspect("equal")
        panel.set_title(f"seen until day {cutoff:.0f} (n = {own['n'].sum()})")
        panel.set_xlabel("predicted")
    axes[0].set_ylabel("observed")
    figure.suptitle("Progression by day 180 in thirds of the predicted risk")
    return figure


def _coverage(panel: Axes, at: style.Array, own: pd.DataFrame, model: str) -> None:
    for level in LEVELS:
        panel.axhline(level, color=style.PALE, linewidth=0.7, zorder=0)
        shares = 100.0 * own[f"inside_{level}"]
        panel.plot(at, shares, MARKERS[model], color=COLOURS[model], markersize=3.0 + 1.2 * LEVELS.index(level))
    panel.vlines(at, 100.0 * own["inside_50"], 100.0 * own["inside_95"], color=COLOURS[model], linewidth=0.8)

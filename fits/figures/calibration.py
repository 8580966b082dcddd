"""Figures of a calibration: ranks against uniformity, coverage of intervals, recovery of known values."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from . import style

COLUMNS: Final = 6
MARGIN: Final = 1.15

#: Places, difference from uniformity, and lower and upper limit of its band.
type Curve = tuple[style.Array, style.Array, style.Array, style.Array]


@style.styled
def ecdf_differences(curves: Mapping[str, Curve], *, title: str, level: float) -> Figure:
    """Draw, for each quantity, the empirical distribution of its ranks minus the uniform one, with a band.

    Parameters
    ----------
    curves
        By quantity.
    title
        Of the figure.
    level
        Of the bands, each for itself.
    """
    figure, axes = style.grid(len(curves), COLUMNS, 0.95, extra=0.75, sharex=True, sharey=True)
    highest = max(float(np.abs(np.concatenate(curve[1:])).max()) for curve in curves.values())
    for panel, (name, (at, difference, lower, upper)) in zip(axes, curves.items(), strict=True):
        outside = bool(np.any((difference < lower) | (difference > upper)))
        panel.fill_between(at, lower, upper, color=style.PALE, linewidth=0)
        panel.axhline(0.0, color=style.GREY, linewidth=0.6)
        panel.plot(at, difference, color=style.VERMILION if outside else style.BLUE, drawstyle="steps-post")
        panel.set_title(name, fontsize=6.5)
        panel.set_ylim(-MARGIN * highest, MARGIN * highest)
        panel.set_xlim(0.0, 1.0)
        panel.set_xticks([0.0, 0.5, 1.0], labels=["0", "0.5", "1"])
    for panel in axes[-COLUMNS:]:
        panel.set_xlabel("rank / draws", fontsize=7)
    figure.supylabel("ECDF minus uniform", fontsize=8)
    figure.suptitle(title)
    handles = [
        Line2D([], [], color=style.BLUE, label="inside its band"),
        Line2D([], [], color=style.VERMILION, label="leaves it somewhere"),
        Patch(color=style.PALE, label=f"simultaneous {level:.0%} band of each panel"),
    ]
    style.legend_below(figure, handles)
    return figure


@style.styled
def coverage_dots(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw how often central intervals hold the truth, by quantity and level.

    Parameters
    ----------
    table
        Columns `quantity`, `level`, `share`, `mc_error` (of a share that is nominal).
    title
        Of the figure.
    """
    levels = sorted(table["level"].unique())
    names = list(dict.fromkeys(table["quantity"]))
    figure = style.new_figure(0.135 * len(names) + 1.1)
    axes: Sequence[Axes] = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    rows = np.arange(len(names))
    for panel, level in zip(axes, levels, strict=True):
        mine = table[table["level"] == level].set_index("quantity").loc[names]
        error = float(mine["mc_error"].iloc[0])
        for width, shade in ((2.0, "#EEEEEE"), (1.0, style.PALE)):
            panel.axvspan(level - width * error, min(level + width * error, 1.0), color=shade, linewidth=0)
        panel.axvline(level, color=style.GREY, linewidth=0.8)
        far = (np.abs(mine["share"] - level) > 3.0 * error).to_numpy()
        colours = np.where(far, style.VERMILION, style.BLUE)
        panel.scatter(mine["share"], rows, s=9, c=colours.tolist(), zorder=3)
        panel.set_title(f"{level:.0%} intervals")
        panel.set_xlabel("share that holds the truth")
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.grid(axis="y", color="#F0F0F0", linewidth=0.5)
    axes[0].set_yticks(rows, labels=names, fontsize=6)
    figure.suptitle(title)
    handles = [
        Patch(color=style.PALE, label="one Monte Carlo error"),
        Patch(color="#EEEEEE", label="two"),
        Line2D([], [], color=style.VERMILION, marker="o", linestyle="", label="further than three"),
    ]
    style.legend_below(figure, handles)
    return figure


@style.styled
def recovered(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw bias of posterior medians with its Monte Carlo error, and the root mean square error, by quantity.

    Parameters
    ----------
    table
        Columns `quantity`, `bias`, `bias_mc_error`, `rmse`, on the transformed scales.
    title
        Of the figure.
    """
    figure = style.new_figure(0.16 * len(table) + 1.0)
    panel = figure.subplots()
    rows = np.arange(len(table))
    panel.axvline(0.0, color=style.GREY, linewidth=0.8)
    panel.barh(rows, 2.0 * table["rmse"], left=-table["rmse"], height=0.7, color=style.PALE, linewidth=0)
    panel.errorbar(
        table["bias"], rows, xerr=2.0 * table["bias_mc_error"], fmt="o", color=style.BLUE, markersize=3, linewidth=1.0
    )
    panel.set_yticks(rows, labels=table["quantity"].tolist(), fontsize=6.5)
    panel.set_ylim(len(table) - 0.5, -0.5)
    panel.set_xlabel("posterior median minus truth, transformed scale (ln as a rule)")
    figure.suptitle(title)
    handles = [
        Line2D([], [], color=style.BLUE, marker="o", label="bias, two Monte Carlo errors"),
        Patch(color=style.PALE, label="root mean square error"),
    ]
    style.legend_below(figure, handles)
    return figure

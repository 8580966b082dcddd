"""Normalised prediction distribution errors: against the normal distribution, over time, and against predictions."""

from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from . import style

GROUPS: Final = 6  # of about equal size, whose medians and spreads are drawn
EDGE: Final = 1.96


@style.styled
def prediction_errors(table: pd.DataFrame) -> Figure:
    """Draw npde, one row of panels per assay.

    Parameters
    ----------
    table
        From `diagnosis.npde.compute`.
    """
    assays = sorted(table["dvid"].unique())
    products = sorted(table["product"].unique())
    figure = style.new_figure(1.9 * len(assays) + 0.9)
    axes = figure.subplots(len(assays), 4, squeeze=False)
    for line, dvid in enumerate(assays):
        rows = table[table["dvid"] == dvid]
        _quantiles(axes[line, 0], rows["npde"].to_numpy(dtype=float))
        _histogram(axes[line, 1], rows["npde"].to_numpy(dtype=float))
        _scatter(axes[line, 2], rows, rows["since"].clip(lower=0).to_numpy(dtype=float), products, np.sqrt)
        style.day_axis(axes[line, 2], max(30.0, 1.05 * float(rows["since"].max())), label="")
        _scatter(axes[line, 3], rows, rows["predicted"].to_numpy(dtype=float), products, np.log)
        style.log_axis(axes[line, 3], "x")
        axes[line, 0].set_title(style.assay_name(dvid, unit=False))
        axes[line, 0].set_ylabel("npde")
        unit = style.ASSAYS.get(dvid, ("", ""))[1]
        axes[line, 3].set_xlabel(f"typical ({unit})" if unit else "typical prediction")
    for panel, label in zip(axes[-1, :3], ("normal quantile", "npde", "days since infusion"), strict=True):
        panel.set_xlabel(label)
    figure.suptitle("Normalised prediction distribution errors, new patients")
    handles = [
        Line2D([], [], marker="o", linestyle="none", color=style.product_colour(name, products), label=name)
        for name in products
    ]
    handles += [
        Line2D(
            [], [], marker="v", linestyle="none", color=style.GREY, markerfacecolor="white", label="censored (drawn)"
        ),
        Line2D([], [], color=style.BLACK, label="median of a sixth"),
        Line2D([], [], color=style.PALE, linewidth=5, label="95 % under the model"),
    ]
    style.legend_below(figure, handles)
    return figure


def _quantiles(panel: Axes, values: style.Array) -> None:
    """Draw ordered npde against normal quantiles, with the 95 % interval of each order statistic."""
    n = values.size
    ranks = np.arange(1, n + 1)
    x = stats.norm.ppf((ranks - 0.5) / n)
    band = [stats.norm.ppf(stats.beta.ppf(level, ranks, n + 1 - ranks)) for level in (0.025, 0.975)]
    panel.fill_between(x, *band, color=style.PALE, linewidth=0)
    panel.plot(x[[0, -1]], x[[0, -1]], color=style.GREY, linewidth=0.8)
    panel.plot(x, np.sort(values), "o", color=style.BLACK, markersize=2, markeredgewidth=0)


def _histogram(panel: Axes, values: style.Array) -> None:
    edges = np.arange(-3.5, 3.51, 0.5)
    panel.hist(
        np.clip(values, -3.49, 3.49),
        bins=edges.tolist(),
        density=True,
        color=style.SKY,
        edgecolor="white",
        linewidth=0.4,
    )
    x = np.linspace(-3.5, 3.5, 101)
    panel.plot(x, stats.norm.pdf(x), color=style.BLACK)
    panel.set_yticks([])


def _scatter(panel: Axes, rows: pd.DataFrame, x: style.Array, products: list[str], scale: np.ufunc) -> None:
    panel.axhspan(-EDGE, EDGE, color=style.PALE, alpha=0.5, linewidth=0)
    panel.axhline(0, color=style.GREY, linewidth=0.8)
    values, censored = rows["npde"].to_numpy(dtype=float), (rows["cens"] != 0).to_numpy()
    for product in products:
        mine = (rows["product"] == product).to_numpy()
        colour = style.product_colour(product, products)
        for some, marker, face in ((mine & ~censored, "o", colour), (mine & censored, "v", "white")):
            panel.plot(
                x[some], values[some], marker, color=colour, markerfacecolor=face, markersize=2.8, alpha=0.7,
                markeredgewidth=0.6 if face == "white" else 0,
            )  # fmt: skip
    with np.errstate(divide="ignore"):
        order = np.argsort(scale(x), kind="stable")
    parts = [part for part in np.array_split(order, GROUPS) if part.size]
    panel.plot([np.median(x[part]) for part in parts], [np.median(values[part]) for part in parts], color=style.BLACK)

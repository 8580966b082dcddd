"""Observed against predicted: by value, over time, and by visit window with the censored share."""

from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ..assays import LOG_OFFSET
from ..diagnosis.predictive import to_log
from . import style

PERCENTILES: Final = (0.1, 0.5, 0.9)
"""Percentiles of a visit window that are compared; with a dozen patients, wider ones are single patients."""

COLUMNS: Final = 3

ROOM: Final = 1.35  # factor beyond the outermost values

LOWEST: Final = 0.1
"""Share of an assay's offset at which values are drawn that lie below it: an axis of logarithms has no zero."""


@style.styled
def observed_against_predicted(observations: pd.DataFrame) -> Figure:
    """Draw each measurement against the median of its prediction.

    Parameters
    ----------
    observations
        From `diagnosis.predictive.per_observation`.
    """
    assays = sorted(observations["dvid"].unique())
    products = sorted(observations["product"].unique())
    figure, axes = style.grid(len(assays), min(COLUMNS, len(assays)), 2.5, extra=0.8)
    for panel, dvid in zip(axes, assays, strict=True):
        rows = observations[observations["dvid"] == dvid]
        for product in products:
            _scatter(panel, rows[rows["product"] == product], str(dvid), product, products)
        both = _natural(rows[["observed", "predicted"]].to_numpy(), str(dvid))
        ends = both.min() / ROOM, both.max() * ROOM
        panel.plot(ends, ends, color=style.GREY, linewidth=0.9, zorder=0)
        style.log_axis(panel, "x")
        style.log_axis(panel, "y")
        unit = style.ASSAYS.get(dvid, ("", ""))[1]
        panel.set_title(style.assay_name(dvid, unit=False))
        panel.set_xlabel(f"predicted ({unit})")
        panel.set_ylabel(f"observed ({unit})")
    figure.suptitle("Observed against predicted (posterior median, each patient's own data included)")
    style.legend_below(figure, _legend(products, bool((observations["cens"] != 0).any())))
    return figure


@style.styled
def residuals_over_time(observations: pd.DataFrame) -> Figure:
    """Draw the quantile residual of each measurement over time, with the median of each visit window.

    Parameters
    ----------
    observations
        From `diagnosis.predictive.per_observation`; censored rows have no residual and are left out.
    """
    rows = observations[np.isfinite(observations["deviate"])]
    assays = sorted(rows["dvid"].unique())
    products = sorted(rows["product"].unique())
    figure, axes = style.grid(len(assays), min(COLUMNS, max(len(assays), 1)), 2.3, extra=0.8, sharey=True)
    for panel, dvid in zip(axes, assays, strict=True):
        own = rows[rows["dvid"] == dvid]
        panel.axhspan(-1.96, 1.96, color=style.PALE, alpha=0.5, linewidth=0)
        panel.axhline(0, color=style.GREY, linewidth=0.8)
        for product in products:
            some = own[own["product"] == product]
            panel.plot(
                some["since"].clip(lower=0),
                some["deviate"],
                "o",
                color=style.product_colour(product, products),
                markersize=3,
                alpha=0.65,
                markeredgewidth=0,
            )
        middle = own.groupby("window")[["since", "deviate"]].median().sort_values("since")
        panel.plot(middle["since"].clip(lower=0), middle["deviate"], "-s", color=style.BLACK, markersize=3)
        style.day_axis(panel, max(30.0, 1.05 * float(own["since"].max())), label="days since the latest infusion")
        panel.set_title(style.assay_name(dvid, unit=False))
    if axes:
        axes[0].set_ylabel("quantile residual (sd)")
    figure.suptitle("Residuals over time: grey is where 95 % should lie")
    handles = [
        *_legend(products, False),
        Line2D([], [], color=style.BLACK, marker="s", markersize=3, label="median of window"),
    ]
    style.legend_below(figure, handles)
    return figure


@style.styled
def predictive_check(observations: pd.DataFrame, draws: style.Array, dvid: str) -> Figure | None:
    """Draw percentiles by visit window, observed and simulated, and the share below the limit under them.

    Parameters
    ----------
    observations
        From `diagnosis.predictive.per_observation`; the index gives the place in `draws`.
    draws
        (sample, observation) new measurements, ln scale (offset of the assay included).
    dvid
        The assay.

    Returns
    -------
    Figure or None
        None when no product has two measurements of the assay.
    """
    own = observations[observations["dvid"] == dvid]
    products = [str(name) for name, rows in own.groupby("product", sort=True) if len(rows) > 1]
    if not products:
        return None
    figure = style.new_figure(3.9)
    limited = bool(np.isfinite(own["lloq"]).any())
    heights = [3, 1] if limited else [1]
    axes = figure.subplots(
        len(heights), len(products), squeeze=False, sharex="col", sharey="row", height_ratios=heights
    )
    last = max(30.0, 1.05 * float(own["since"].max()))
    for column, product in enumerate(products):
        rows = own[own["product"] == product]
        colour = style.product_colour(product, products)
        _percentiles(axes[0, column], rows, draws, dvid, colour)
        axes[0, column].set_title(f"{product} (n = {rows['patient'].nunique()})")
        style.log_axis(axes[0, column])
        if limited:
            _censored_share(axes[1, column], rows, draws, colour)
        style.day_axis(axes[-1, column], last, label="days since the latest infusion")
    axes[0, 0].set_ylabel(style.assay_name(dvid))
    if limited:
        axes[1, 0].set_ylabel("share below\nlimit")
    figure.suptitle(f"Predictive check: {style.assay_name(dvid, unit=False)}")
    style.legend_below(figure, style.percentile_legend("95 % of simulated percentiles"), columns=4)
    return figure


def _natural(values: style.Array, dvid: str) -> style.Array:
    """From the scale of the residuals to the assay's unit."""
    offset = LOG_OFFSET.get(dvid, 0.0)
    return np.asarray(np.maximum(np.exp(values) - offset, LOWEST * offset))


def _percentiles(panel: Axes, rows: pd.DataFrame, draws: style.Array, dvid: str, colour: str) -> None:
    for flag, marker, face in ((0, "o", style.GREY), (1, "v", "white"), (-1, "^", "white")):
        some = rows[rows["cens"] == flag]
        panel.plot(
            some["since"].clip(lower=0),
            _natural(some["observed"].to_numpy(), dvid),
            marker,
            color=style.GREY,
            markerfacecolor=face,
            markersize=2.5 if flag == 0 else 4,
            alpha=0.6,
            markeredgewidth=0.6,
        )
    middles = []
    for left, right, window in _spans(rows):
        floor = np.where(np.isfinite(window["lloq"]), to_log(window["lloq"].fillna(1.0), window["dvid"]), -np.inf)
        seen = np.quantile(np.maximum(window["observed"], floor), PERCENTILES)
        simulated = np.quantile(np.maximum(draws[:, window.index.to_numpy()], floor), PERCENTILES, axis=1)
        for which, percentile in enumerate(PERCENTILES):
            low, high = _natural(np.quantile(simulated[which], [0.025, 0.975]), dvid)
            alpha = 0.45 if percentile == 0.5 else 0.2
            panel.add_patch(Rectangle((left, low), right - left, high - low, color=colour, alpha=alpha, linewidth=0))
        at = float(window["since"].clip(lower=0).median())
        low, middle, high = _natural(seen, dvid)
        middles.append((at, middle))
        panel.plot([at, at], [low, high], "_", color=style.BLACK, markersize=8)
    panel.plot(*zip(*middles, strict=True), "-o", color=style.BLACK, markersize=3.5)


def _censored_share(panel: Axes, rows: pd.DataFrame, draws: style.Array, colour: str) -> None:
    points, top = [], 0.25
    for left, right, window in _spans(rows[np.isfinite(rows["lloq"])]):
        shares = (draws[:, window.index.to_numpy()] < to_log(window["lloq"], window["dvid"])).mean(axis=1)
        low, high = np.quantile(shares, [0.025, 0.975])
        panel.add_patch(
            Rectangle((left, low), right - left, max(high - low, 0.01), color=colour, alpha=0.45, linewidth=0)
        )
        top = max(top, float(high), float((window["cens"] > 0).mean()))
        points.append((float(window["since"].clip(lower=0).median()), float((window["cens"] > 0).mean())))
    if points:
        panel.plot(*zip(*points, strict=True), "-o", color=style.BLACK, markersize=3.5)
    panel.set_ylim(-0.05 * top, max(1.1 * top, panel.get_ylim()[1]))  # the axis is that of all panels


def _spans(rows: pd.DataFrame) -> list[tuple[float, float, pd.DataFrame]]:
    """Return the visit windows in order, each with the ends of its box: at least 4 % of the axis wide."""
    least = 0.02 * np.sqrt(max(30.0, float(rows["since"].max())))
    spans = []
    for _, window in rows.groupby("window", sort=False):
        roots = np.sqrt(window["since"].clip(lower=0))
        spans.append((max(float(roots.min()) - least, 0.0) ** 2, (float(roots.max()) + least) ** 2, window))
    return sorted(spans, key=lambda span: span[0])


def _scatter(panel: Axes, rows: pd.DataFrame, dvid: str, product: str, products: list[str]) -> None:
    colour = style.product_colour(product, products)
    for flag, marker in ((0, "o"), (1, "v"), (-1, "^")):
        some = rows[rows["cens"] == flag]
        face = colour if flag == 0 else "white"
        panel.plot(
            _natural(some["predicted"].to_numpy(), dvid),
            _natural(some["observed"].to_numpy(), dvid),
            marker,
            color=colour,
            markerfacecolor=face,
            alpha=0.7,
            markersize=3 if flag == 0 else 4.5,
            markeredgewidth=0.7 if flag else 0,
        )


def _legend(products: list[str], censored: bool) -> list[Line2D]:
    handles = [
        Line2D([], [], marker="o", linestyle="none", color=style.product_colour(name, products), label=name)
        for name in products
    ]
    if censored:
        label = "censored (drawn at the limit)"
        handles.append(
            Line2D([], [], marker="v", linestyle="none", color=style.GREY, markerfacecolor="white", label=label)
        )
    return handles

"""Visual predictive checks with new patients: percentiles, prediction-corrected ones, and the share below the limit."""

from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from . import style

NARROWEST: Final = 0.02  # half the width of a bin's box, as a share of the axis


@style.styled
def visual_predictive_check(
    percentiles: pd.DataFrame, blq: pd.DataFrame, points: pd.DataFrame, dvid: str
) -> Figure | None:
    """Draw the visual predictive check of one assay, products side by side.

    Parameters
    ----------
    percentiles, blq, points
        From `diagnosis.vpc.Vpc`.
    dvid
        The assay.

    Returns
    -------
    Figure or None
        None when no bin of the assay has measurements enough.
    """
    own = percentiles[percentiles["dvid"] == dvid]
    if len(own) == 0:
        return None
    strata = sorted(own["stratum"].unique())
    under = blq[blq["dvid"] == dvid]
    heights = [3, 3, 1] if len(under) else [3, 3]
    figure = style.new_figure(6.4 if len(under) else 5.4)
    axes = figure.subplots(len(heights), len(strata), squeeze=False, sharex="col", sharey="row", height_ratios=heights)
    products = sorted({name.partition(",")[0] for name in strata})
    for column, stratum in enumerate(strata):
        colour = style.product_colour(stratum.partition(",")[0], products)
        seen = points[(points["dvid"] == dvid) & (points["stratum"] == stratum)]
        last = max(30.0, 1.05 * float(seen["since"].max()))
        for line, corrected in enumerate((False, True)):
            panel = axes[line, column]
            rows = own[(own["stratum"] == stratum) & (own["corrected"].astype(bool) == corrected)]
            _measured(panel, seen, corrected)
            _bands(panel, rows, colour, last, shown_limit=not corrected)
            style.log_axis(panel)
        if len(under):
            _share(axes[2, column], under[under["stratum"] == stratum], colour, last)
        axes[0, column].set_title(stratum)
        style.day_axis(axes[-1, column], last, label="days since the latest infusion")
    for line in (0, 1):
        axes[line, 0].set_ylim(*_range(own, points[points["dvid"] == dvid]))
    axes[0, 0].set_ylabel(style.assay_name(dvid))
    axes[1, 0].set_ylabel("prediction-corrected")
    if len(under):
        axes[2, 0].set_ylabel("share below\nlimit")
    figure.suptitle(f"Visual predictive check, new patients: {style.assay_name(dvid, unit=False)}")
    style.legend_below(figure, style.percentile_legend("95 % of simulated studies"), columns=4)
    return figure


def _measured(panel: Axes, seen: pd.DataFrame, corrected: bool) -> None:
    for flag, marker, face in ((0, "o", style.GREY), (1, "v", "white"), (-1, "^", "white")):
        some = seen[seen["cens"] == flag]
        if corrected and flag:
            continue
        panel.plot(
            some["since"].clip(lower=0),
            some["corrected" if corrected else "value"],
            marker,
            color=style.GREY,
            markerfacecolor=face,
            markersize=2.5 if flag == 0 else 4,
            alpha=0.6,
            markeredgewidth=0.6,
        )


def _bands(panel: Axes, rows: pd.DataFrame, colour: str, last: float, *, shown_limit: bool) -> None:
    """Draw boxes of simulated percentiles; a part among values below the limit ends at the limit."""
    for percentile, lines in rows.groupby("percentile", sort=True):
        middle = abs(float(str(percentile)) - 0.5) < 1e-9
        for row in lines.to_dict("records"):
            if not np.isfinite(row["upper"]):
                continue
            low = row["lower"] if np.isfinite(row["lower"]) else min(row["limit"], row["upper"])
            left, width = _box(row["first"], row["last"], last)
            panel.add_patch(
                Rectangle(
                    (left, low), width, row["upper"] - low, color=colour, alpha=0.45 if middle else 0.2, linewidth=0
                )
            )
        known = lines[np.isfinite(lines["observed"])].sort_values("day")
        panel.plot(
            known["day"].clip(lower=0),
            known["observed"],
            "-o" if middle else "_",
            color=style.BLACK,
            markersize=3.5 if middle else 8,
        )
    limits = rows["limit"].dropna()
    if shown_limit and len(limits):
        panel.axhline(float(limits.median()), color=style.GREY, linewidth=0.7, linestyle=":")


def _share(panel: Axes, rows: pd.DataFrame, colour: str, last: float) -> None:
    top = 0.25
    for row in rows.to_dict("records"):
        left, width = _box(row["first"], row["last"], last)
        height = max(row["upper"] - row["lower"], 0.01)
        panel.add_patch(Rectangle((left, row["lower"]), width, height, color=colour, alpha=0.45, linewidth=0))
        top = max(top, row["upper"], row["observed"])
    ordered = rows.sort_values("day")
    panel.plot(ordered["day"].clip(lower=0), ordered["observed"], "-o", color=style.BLACK, markersize=3.5)
    panel.set_ylim(-0.05 * top, max(1.1 * top, panel.get_ylim()[1]))


def _box(first: float, last: float, end: float) -> tuple[float, float]:
    """Left end and width of a bin's box on an axis of square roots, at least 4 % of it wide."""
    least = NARROWEST * np.sqrt(end)
    left = max(np.sqrt(max(first, 0.0)) - least, 0.0) ** 2
    return float(left), float((np.sqrt(max(last, 0.0)) + least) ** 2 - left)


def _range(rows: pd.DataFrame, seen: pd.DataFrame) -> tuple[float, float]:
    """Limits of the axis of values: all measurements and bands."""
    values = np.concatenate([seen["value"], rows["lower"], rows["upper"], rows["observed"]]).astype(float)
    values = values[np.isfinite(values) & (values > 0)]
    return float(values.min()) / 2, 2 * float(values.max())

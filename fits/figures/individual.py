"""Individual fits: each patient's measurements with the curves the posterior allows."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from . import style

PER_PAGE: Final = 12
COLUMNS: Final = 3


@style.styled
def individual_fits(
    *,
    times: style.Array,
    curves: style.Array,
    patients: Sequence[str],
    observations: pd.DataFrame,
    dvid: str,
    products: Mapping[str, str] | None = None,
    infusions: Mapping[str, Sequence[float]] | None = None,
    progressions: Mapping[str, float] | None = None,
    population: style.Array | None = None,
) -> list[Figure]:
    """Draw one assay of all patients who have it, twelve to a page.

    Parameters
    ----------
    times
        (time,) days since the first infusion.
    curves
        (sample, patient, time) posterior draws of the assay without residual error, natural scale.
    patients
        Names along the second axis of `curves`.
    observations
        `patient`, `time`, `dvid`, `value`, `cens`; other assays are left out.
    dvid
        The assay.
    products
        First product by patient, for the colour.
    infusions
        Days of the infusions by patient; those after day 0 are marked.
    progressions
        Day of progression by patient, marked too.
    population
        (patient, time) the typical patient with each one's dose and course, natural scale; drawn as a thin line.

    Returns
    -------
    list of Figure
        Empty when nobody has the assay.
    """
    own = observations[observations["dvid"] == dvid]
    shown = [name for name in patients if name in set(own["patient"])]
    if not shown:
        return []
    place = {name: i for i, name in enumerate(patients)}
    last = max(30.0, 1.05 * float(own["time"].max()))
    low, high = _limits(own["value"].to_numpy(dtype=float), curves[:, :, times <= last])
    pages = [shown[start : start + PER_PAGE] for start in range(0, len(shown), PER_PAGE)]
    figures = []
    for number, page in enumerate(pages, start=1):
        figure, axes = style.grid(len(page), COLUMNS, 1.55, extra=0.9, sharex=True, sharey=True)
        for panel, name in zip(axes, page, strict=True):
            product = (products or {}).get(name, "")
            colour = style.product_colour(product, sorted(set((products or {}).values())))
            bands(panel, times, curves[:, place[name]], colour)
            if population is not None:
                panel.plot(times, population[place[name]], color=style.GREY, linewidth=0.9, linestyle="-.")
            points(panel, own[own["patient"] == name])
            for day in (infusions or {}).get(name, ()):
                if day > 0:
                    panel.axvline(day, color=style.BLACK, linewidth=0.8, linestyle=":")
            if name in (progressions or {}):
                panel.axvline((progressions or {})[name], color=style.PURPLE, linewidth=1.0, linestyle="--")
            panel.set_title(f"{name}  {product}".rstrip())
            style.log_axis(panel)
            panel.set_ylim(low, high)
            style.day_axis(panel, last, label="")
        for panel in axes[-COLUMNS:]:
            panel.set_xlabel("days since the first infusion")
        part = f", {number} of {len(pages)}" if len(pages) > 1 else ""
        figure.suptitle(f"Individual fits: {style.assay_name(dvid)}{part}")
        figure.supylabel(style.assay_name(dvid), fontsize=8)
        handles = legend(own, bool(progressions), _has_second(infusions, page))
        if population is not None:
            handles.append(Line2D([], [], color=style.GREY, linewidth=0.9, linestyle="-.", label="typical patient"))
        style.legend_below(figure, handles, columns=4)
        figures.append(figure)
    return figures


def bands(panel: Axes, times: style.Array, draws: style.Array, colour: str) -> None:
    """Draw median, 50 and 95 % of curves (sample, time)."""
    if not np.isfinite(draws).any():
        panel.text(0.5, 0.5, "solver failed", transform=panel.transAxes, ha="center", color=style.GREY)
        return
    quantiles = np.nanquantile(draws, [0.025, 0.25, 0.5, 0.75, 0.975], axis=0)
    panel.fill_between(times, quantiles[0], quantiles[4], color=colour, alpha=0.18, linewidth=0)
    panel.fill_between(times, quantiles[1], quantiles[3], color=colour, alpha=0.35, linewidth=0)
    panel.plot(times, quantiles[2], color=colour)


def points(panel: Axes, rows: pd.DataFrame) -> None:
    """Draw measurements, censored ones as triangles at their limit."""
    for flag, marker in ((0, "o"), (1, "v"), (-1, "^")):
        some = rows[rows["cens"] == flag]
        face = style.BLACK if flag == 0 else "white"
        panel.plot(
            some["time"],
            some["value"],
            marker,
            color=style.BLACK,
            markerfacecolor=face,
            markersize=3.5 if flag == 0 else 5,
            markeredgewidth=0.8,
            linestyle="none",
            zorder=5,
        )


def legend(rows: pd.DataFrame, progressions: bool, second: bool) -> list[Line2D | Patch]:
    """Handles for what `bands` and `points` drew, and for the marks of days."""

    def mark(marker: str, face: str, label: str) -> Line2D:
        return Line2D([], [], marker=marker, linestyle="none", color=style.BLACK, markerfacecolor=face, label=label)

    handles: list[Line2D | Patch] = [mark("o", style.BLACK, "measured")]
    if (rows["cens"] > 0).any():
        handles.append(mark("v", "white", "below the limit (drawn at the limit)"))
    if (rows["cens"] < 0).any():
        handles.append(mark("^", "white", "above the upper limit"))
    handles.append(Patch(color=style.GREY, alpha=0.6, label="50 % and 95 % of posterior curves"))
    if progressions:
        handles.append(Line2D([], [], color=style.PURPLE, linestyle="--", label="progression"))
    if second:
        handles.append(Line2D([], [], color=style.BLACK, linestyle=":", label="further infusion"))
    return handles


def _has_second(infusions: Mapping[str, Sequence[float]] | None, page: Sequence[str]) -> bool:
    return any(day > 0 for name in page for day in (infusions or {}).get(name, ()))


def _limits(values: style.Array, curves: style.Array) -> tuple[float, float]:
    """Return limits of the value axis: all measurements, and curves down to a tenth of the smallest one."""
    low, high = float(values[values > 0].min()), float(values.max())
    top = float(np.nanquantile(curves, 0.995)) if np.isfinite(curves).any() else high
    return low / 6, 2 * max(high, min(top, 10 * high))

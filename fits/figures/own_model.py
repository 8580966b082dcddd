"""Figures of a fit of the user's own model: the same as elsewhere, in the model's own words, units and time."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import style
from .individual import COLUMNS, PER_PAGE, bands, legend, points

MARGIN: Final = 1.04  # of the time axis


@style.styled
def individual_fits(
    *,
    times: style.Array,
    curves: style.Array,
    patients: Sequence[str],
    observations: pd.DataFrame,
    label: str,
    time: str,
    log: bool,
) -> list[Figure]:
    """Draw one observable of all patients who have it, twelve to a page.

    Parameters
    ----------
    times
        (time,) in the model's unit.
    curves
        (sample, patient, time) posterior draws of the observable without error, natural scale.
    patients
        Names along the second axis of `curves`.
    observations
        `patient`, `time`, `value`, `cens` of this observable.
    label, time
        What the axes are called.
    log
        Whether the observable's axis is logarithmic.
    """
    place = {name: i for i, name in enumerate(patients)}
    shown = [name for name in patients if name in set(observations["patient"])]
    pages = [shown[start : start + PER_PAGE] for start in range(0, len(shown), PER_PAGE)]
    figures = []
    for number, page in enumerate(pages, start=1):
        figure, axes = style.grid(len(page), min(COLUMNS, len(page)), 1.55, extra=0.9, sharex=True, sharey=True)
        for panel, name in zip(axes, page, strict=True):
            bands(panel, times, curves[:, place[name]], style.BLUE)
            points(panel, observations[observations["patient"] == name])
            panel.set_title(name)
            panel.set_xlim(0.0, MARGIN * times[-1])
            _value_axis(panel, observations["value"].to_numpy(dtype=float), log)
        for panel in axes[-COLUMNS:]:
            panel.set_xlabel(time)
        part = f", {number} of {len(pages)}" if len(pages) > 1 else ""
        figure.suptitle(f"Individual fits{part}")
        figure.supylabel(label, fontsize=8)
        style.legend_below(figure, legend(observations, False, False), columns=4)
        figures.append(figure)
    return figures


def _value_axis(panel: Axes, values: style.Array, log: bool) -> None:
    """Limits from the measurements: curves may run off to nothing before a dose."""
    if log:
        style.log_axis(panel)
        panel.set_ylim(float(values.min()) / 4.0, float(values.max()) * 4.0)
    else:
        room = 0.3 * float(np.ptp(values)) + 1e-12
        panel.set_ylim(float(values.min()) - room, float(values.max()) + room)


@style.styled
def observed_against_predicted(observations: pd.DataFrame, labels: dict[str, tuple[str, bool]]) -> Figure:
    """Draw each measurement against the median of its prediction.

    Parameters
    ----------
    observations
        From `diagnosis.predictive.per_observation`.
    labels
        What each observable is called, and whether its axes are logarithmic.
    """
    names = sorted(observations["dvid"].unique())
    figure, axes = style.grid(len(names), min(COLUMNS, len(names)), 2.5, extra=0.6)
    for panel, name in zip(axes, names, strict=True):
        rows, (label, log) = observations[observations["dvid"] == name], labels[name]
        x, y = (np.exp(rows[column]) if log else rows[column] for column in ("predicted", "observed"))
        for flag, marker in ((0, "o"), (1, "v"), (-1, "^")):
            some = (rows["cens"] == flag).to_numpy()
            face = style.BLUE if flag == 0 else "white"
            panel.plot(
                x[some], y[some], marker, color=style.BLUE, markerfacecolor=face, markersize=3, alpha=0.7, linestyle=""
            )
        ends = [float(y.min()), float(y.max())]
        panel.plot(ends, ends, color=style.GREY, linewidth=0.9, zorder=0)
        if log:
            style.log_axis(panel, "x")
            style.log_axis(panel, "y")
        panel.set_title(label)
        panel.set_xlabel("predicted")
        panel.set_ylabel("observed")
    figure.suptitle("Observed against predicted (posterior median, each patient's own data included)")
    return figure

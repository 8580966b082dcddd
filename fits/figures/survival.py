"""Survival curves: observed steps, predicted bands, and the numbers at risk below them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import lifelines
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from . import style

DAYS_PER_MONTH: Final = 30.4375


@dataclass(frozen=True, kw_only=True)
class Group:
    """One group of patients in a survival figure; observed, predicted, or both.

    Attributes
    ----------
    label
        Name in legend and table.
    time, event
        (n,) days and whether the event happened; None without observed patients.
    at, predicted, lower, upper
        (k,) days, and a predicted curve with its interval; None without a prediction.
    colour
        The next of the palette when None.
    """

    label: str
    time: style.Array | None = None
    event: npt.NDArray[np.bool_] | None = None
    at: style.Array | None = None
    predicted: style.Array | None = None
    lower: style.Array | None = None
    upper: style.Array | None = None
    colour: str | None = None


@style.styled
def survival_curves(
    groups: Sequence[Group],
    *,
    title: str,
    ylabel: str = "share free of progression",
    until: float | None = None,
    months: bool = False,
    reference: tuple[str, Sequence[tuple[float, float, float, float]]] | None = None,
) -> Figure:
    """Draw Kaplan-Meier curves against predictions, with the numbers at risk.

    Parameters
    ----------
    groups
        What to draw; at most eight, one colour each.
    title, ylabel
        Words on the figure.
    until
        Last day; the end of the longest follow-up or prediction when None.
    months
        Label the axis in months.
    reference
        A name and published points (day, share, lower, upper) drawn beside the curves.

    Returns
    -------
    Figure
        Steps are Kaplan-Meier estimates, ticks on them patients whose follow-up ended, bands 95 % intervals.
    """
    unit = DAYS_PER_MONTH if months else 1.0
    if until is None:
        ends = [float(np.max(g.time)) for g in groups if g.time is not None and len(g.time)]
        ends += [float(np.max(g.at)) for g in groups if g.at is not None and not ends]
        until = max(ends, default=365.0)
    observed = [group for group in groups if group.time is not None and len(group.time)]
    figure = style.new_figure(3.4 + 0.17 * len(observed))
    if observed:
        upper, table = figure.subplots(2, 1, sharex=True, height_ratios=[3.0, 0.12 + 0.19 * len(observed)])
    else:
        upper, table = figure.subplots(1, 1), None
    for i, group in enumerate(groups):
        colour = group.colour or style.SERIES[i % len(style.SERIES)]
        if group.predicted is not None and group.at is not None:
            _predicted(upper, group, colour, unit)
        if group.time is not None and group.event is not None and len(group.time):
            _steps(upper, group.time, group.event, colour, unit, banded=group.predicted is None)
    if reference is not None:
        points = np.asarray(reference[1], dtype=float)
        bars = np.abs(points[:, [2, 3]] - points[:, [1]]).T
        upper.errorbar(
            points[:, 0] / unit, points[:, 1], yerr=bars, fmt="D", color=style.BLACK, capsize=2, markersize=4
        )
    upper.set_ylim(0, 1.03)
    upper.set_xlim(0, until / unit)
    upper.set_ylabel(ylabel)
    upper.grid(axis="y", color=style.PALE, linewidth=0.6)
    ticks = _ticks(until / unit)
    upper.set_xticks(ticks)
    (upper if table is None else table).set_xlabel("months since infusion" if months else "days since infusion")
    if table is not None:
        upper.tick_params(labelbottom=False)
        _at_risk(table, observed, groups, ticks, unit)
    figure.suptitle(title)
    style.legend_below(figure, _legend(groups, reference[0] if reference is not None else None), columns=4)
    return figure


def _steps(
    panel: Axes, time: style.Array, event: npt.NDArray[np.bool_], colour: str, unit: float, *, banded: bool
) -> None:
    fitter = lifelines.KaplanMeierFitter(alpha=0.05).fit(time, np.asarray(event, dtype=bool))
    curve = fitter.survival_function_
    at = curve.index.to_numpy(dtype=float) / unit
    values = curve.to_numpy(dtype=float)[:, 0]
    panel.step(at, values, where="post", color=colour, linewidth=1.6)
    if banded:
        low, high = fitter.confidence_interval_survival_function_.to_numpy(dtype=float).T
        panel.fill_between(at, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
    ended = np.sort(np.asarray(time)[~np.asarray(event, dtype=bool)])
    heights = fitter.survival_function_at_times(ended).to_numpy(dtype=float) if len(ended) else ended
    panel.plot(ended / unit, heights, "|", color=colour, markersize=6, markeredgewidth=0.9)


def _predicted(panel: Axes, group: Group, colour: str, unit: float) -> None:
    assert group.at is not None
    at = group.at / unit
    if group.lower is not None and group.upper is not None:
        panel.fill_between(at, group.lower, group.upper, color=colour, alpha=0.2, linewidth=0)
    panel.plot(at, np.asarray(group.predicted), color=colour, linestyle="--", linewidth=1.2)


def _at_risk(panel: Axes, observed: Sequence[Group], groups: Sequence[Group], ticks: style.Array, unit: float) -> None:
    panel.set_ylim(len(observed) - 0.4, -0.8)
    panel.set_yticks(range(len(observed)), labels=[group.label for group in observed])
    panel.tick_params(axis="y", length=0, pad=14)
    for side in ("left", "bottom"):
        panel.spines[side].set_visible(False)
    panel.tick_params(axis="x", length=0)
    panel.set_title("at risk", fontsize=7, fontweight="normal", pad=1)
    for row, group in enumerate(observed):
        colour = group.colour or style.SERIES[list(groups).index(group) % len(style.SERIES)]
        for tick in ticks:
            number = int((np.asarray(group.time) >= tick * unit).sum())
            panel.text(tick, row, str(number), ha="center", va="center", fontsize=7, color=colour, clip_on=False)


def _legend(groups: Sequence[Group], reference: str | None) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [
        Line2D(
            [],
            [],
            color=group.colour or style.SERIES[i % len(style.SERIES)],
            linewidth=1.6,
            label=group.label,
        )
        for i, group in enumerate(groups)
    ]
    if any(group.time is not None for group in groups) and any(group.predicted is not None for group in groups):
        handles.append(Line2D([], [], color=style.GREY, linewidth=1.6, label="observed (Kaplan-Meier)"))
    if any(group.predicted is not None for group in groups):
        handles.append(Line2D([], [], color=style.GREY, linestyle="--", label="predicted, with 95 % band"))
    if any(group.time is not None for group in groups):
        handles.append(Line2D([], [], color=style.GREY, marker="|", linestyle="none", label="follow-up ended"))
    if reference is not None:
        handles.append(Line2D([], [], color=style.BLACK, marker="D", linestyle="none", label=reference))
    return handles


def _ticks(last: float) -> style.Array:
    """Return six or so round numbers from 0 to the end of the axis."""
    steps = np.array([1, 2, 3, 6, 12, 24, 30, 60, 90, 180, 365, 730], dtype=float)
    step = steps[min(int(np.searchsorted(steps, last / 7)), len(steps) - 1)]
    return np.arange(0.0, last + 1e-9, step)

"""Figures of a global sensitivity analysis: ranked bars, heat map, indices over time, pairs, convergence."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from . import style

Array = npt.NDArray[np.float64]


@style.styled
def ranked_bars(
    names: Sequence[str],
    value: Array,
    lower: Array,
    upper: Array,
    *,
    title: str,
    label: str,
    second: Array | None = None,
) -> Figure:
    """Inputs by index, the largest on top, with intervals.

    Parameters
    ----------
    names, value, lower, upper
        Of the inputs to show, in falling order, (m,).
    title, label
        Of the figure, and of its axis.
    second
        Another index, (m,), as a mark on the same axis.
    """
    figure = style.new_figure(0.9 + 0.19 * len(names))
    axes = figure.add_subplot()
    place = np.arange(len(names))[::-1]
    axes.barh(place, value, color=style.BLUE, alpha=0.75, height=0.7)
    axes.hlines(place, lower, upper, color=style.BLACK, linewidth=1.0)
    if second is not None:
        axes.plot(second, place, "D", color=style.VERMILION, markersize=3.5, label="first order")
        axes.legend(loc="lower right")
    axes.set_yticks(place, list(names))
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.axvline(0.0, color=style.GREY, linewidth=0.7)
    axes.set_xlabel(label)
    axes.set_title(title)
    return figure


@style.styled
def heat_map(outcomes: Sequence[str], names: Sequence[str], values: Array, *, label: str) -> Figure:
    """Indices by outcome (rows) and input (columns), (o, m); the numbers stand in the cells."""
    figure = style.new_figure(1.5 + 0.3 * len(outcomes))
    axes = figure.add_subplot()
    top = max(float(np.nanmax(values)), 1e-9)
    image = axes.imshow(np.clip(values, 0.0, None), cmap="Blues", vmin=0.0, vmax=top, aspect="auto")
    for i, j in np.ndindex(values.shape):
        if values[i, j] >= 0.05 * top:
            shade = "white" if values[i, j] > 0.6 * top else style.BLACK
            axes.text(j, i, f"{values[i, j]:.2f}".lstrip("0"), ha="center", va="center", fontsize=6, color=shade)
    axes.set_xticks(range(len(names)), list(names), rotation=90)
    axes.set_yticks(range(len(outcomes)), list(outcomes))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label=label, shrink=0.9, pad=0.01)
    return figure


@style.styled
def over_time(
    days: Array, names: Sequence[str], value: Array, lower: Array, upper: Array, *, title: str, label: str
) -> Figure:
    """Indices (d, m) of a curve on its days, with bands."""
    figure = style.new_figure(3.2)
    axes = figure.add_subplot()
    for j, name in enumerate(names):
        colour = style.SERIES[j % len(style.SERIES)]
        axes.fill_between(days, lower[:, j], upper[:, j], color=colour, alpha=0.15, linewidth=0)
        axes.plot(days, value[:, j], color=colour, marker="o", label=name)
    style.day_axis(axes, float(days[-1]))
    axes.axhline(0.0, color=style.GREY, linewidth=0.7)
    axes.set_ylabel(label)
    axes.set_title(title)
    figure.legend(loc="outside right upper")
    return figure


@style.styled
def pair_matrix(names: Sequence[str], values: Array, clear: npt.NDArray[np.bool_], *, title: str) -> Figure:
    """Second-order indices (m, m), upper triangle; a dot marks those whose interval leaves out 0."""
    figure = style.new_figure(1.4 + 0.28 * len(names), width=min(style.WIDTH, 2.4 + 0.32 * len(names)))
    axes = figure.add_subplot()
    top = max(float(np.nanmax(np.abs(values))), 1e-9)
    image = axes.imshow(values, cmap="RdBu_r", vmin=-top, vmax=top)
    for i, j in np.argwhere(clear):
        axes.plot(j, i, "o", color=style.BLACK, markersize=2.5)
    axes.set_xticks(range(len(names)), list(names), rotation=90)
    axes.set_yticks(range(len(names)), list(names))
    axes.spines[:].set_visible(False)
    axes.set_title(title)
    figure.colorbar(image, ax=axes, label="second-order index (dot: interval leaves out 0)", shrink=0.8)
    return figure


@style.styled
def convergence(
    runs: Array, names: Sequence[str], value: Array, lower: Array, upper: Array, *, title: str, label: str
) -> Figure:
    """Indices (s, m) against the number of model runs (s,), with intervals."""
    figure = style.new_figure(2.8)
    axes = figure.add_subplot()
    for j, name in enumerate(names):
        shift = 1 + 0.03 * (j - (len(names) - 1) / 2)
        colour = style.SERIES[j % len(style.SERIES)]
        axes.vlines(runs * shift, lower[:, j], upper[:, j], color=colour, linewidth=1.0)
        axes.plot(runs * shift, value[:, j], color=colour, marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(runs, [f"{run:,.0f}" for run in runs])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("model runs")
    axes.set_ylabel(label)
    axes.set_title(title)
    figure.legend(loc="outside right upper")
    return figure

"""What data can know: profiles with their limits, ellipses of information, tornado plots, designs compared."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from . import style

ELLIPSE: Final = 0.89  # share of a normal distribution inside an ellipse
POINTS: Final = 200
SHOWN_DRAWS: Final = 400


@style.styled
def profile_curves(
    *,
    names: Sequence[str],
    value: Sequence[style.Array],
    drop: Sequence[style.Array],
    best: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    readable: Sequence[bool],
    threshold: float,
    logs: Sequence[bool],
    posterior: Sequence[tuple[float, float]],
    prior: Sequence[tuple[float, float]],
) -> Figure:
    """Draw profiles: twice the loss of log-likelihood against the value, with limits, posterior and prior.

    Parameters
    ----------
    names
        Of the parameters, one panel each.
    value, drop
        (k,) of each; values on the transformed scale.
    best, low, high
        Of each; an infinite limit is open.
    readable
        Whether the integrals' error lets the limits of each mean anything; the others are said to be none, in grey.
    threshold
        Drop at the limits.
    logs
        Whether the scale is a logarithm: axes show natural values.
    posterior, prior
        Mean and sd of each on the transformed scale.
    """
    figure, axes = style.grid(len(names), min(len(names), 2), 1.9, extra=0.8)
    top = 2.2 * threshold
    for k, panel in enumerate(axes):
        order = np.argsort(value[k])
        x, y = value[k][order], drop[k][order]
        for (mean, sd), colour, alpha in ((prior[k], style.GREY, 0.25), (posterior[k], style.SKY, 0.35)):
            grid = np.linspace(mean - 3.5 * sd, mean + 3.5 * sd, POINTS)
            panel.fill_between(
                grid, 0.9 * top * np.exp(-0.5 * ((grid - mean) / sd) ** 2), color=colour, alpha=alpha, lw=0
            )
        colour = style.BLUE if readable[k] else style.GREY
        panel.plot(x, y, "o", color=colour, markersize=3)
        panel.plot(*_smooth(x, y), color=colour)
        panel.axhline(threshold, color=style.VERMILION, linewidth=0.9, linestyle="--")
        for limit in (low[k], high[k]):
            if readable[k] and np.isfinite(limit):
                panel.axvline(limit, color=style.VERMILION, linewidth=0.8, linestyle=":")
        panel.set_ylim(0.0, top)
        middle, sd = prior[k]
        panel.set_xlim(min(x.min(), middle - 2.2 * sd), max(x.max(), middle + 2.2 * sd))
        _natural(panel, logs[k])
        panel.set_title(names[k] + (_openness(low[k], high[k]) if readable[k] else ": not to be read"))
        if k % 2 == 0:
            panel.set_ylabel("2 × loss of log-likelihood")
    figure.suptitle("Profile likelihood: everything else gives way")
    handles = [
        Line2D([], [], color=style.BLUE, marker="o", markersize=3, label="profile (own prior left out)"),
        Line2D([], [], color=style.VERMILION, linestyle="--", label="95 % limit (χ², 1 d.f.)"),
        Patch(color=style.SKY, alpha=0.5, label="posterior"),
        Patch(color=style.GREY, alpha=0.35, label="prior"),
    ]
    style.legend_below(figure, handles)
    return figure


def _openness(low: float, high: float) -> str:
    if not np.isfinite(low) and not np.isfinite(high):
        return ": open on both sides"
    return ": open above" if not np.isfinite(high) else ": open below" if not np.isfinite(low) else ""


def _smooth(x: style.Array, y: style.Array) -> tuple[style.Array, style.Array]:
    """A monotone-preserving curve through points."""
    from scipy.interpolate import PchipInterpolator

    if x.size < 3:
        return x, y
    grid = np.linspace(x[0], x[-1], POINTS)
    return grid, np.asarray(PchipInterpolator(x, y)(grid))


def _natural(panel: Axes, log: bool) -> None:
    """Label an axis of a transformed scale with natural values."""
    panel.xaxis.set_major_locator(MaxNLocator(5))
    if log:
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: style.short(float(np.exp(x)))))


@style.styled
def ellipses(
    *,
    pairs: Sequence[tuple[str, str]],
    places: Sequence[tuple[int, int]],
    logs: Sequence[bool],
    centre: style.Array,
    found: style.Array,
    expected: style.Array,
    prior_mean: style.Array,
    prior_sd: style.Array,
    draws: style.Array,
) -> Figure:
    """Draw pairs of parameters: draws of the posterior, the ellipse of the Fisher information, and the prior's.

    Parameters
    ----------
    pairs, places
        Names, and places in the vectors.
    logs
        (d,) whether a scale is a logarithm.
    centre, found
        (d,), (d, d) posterior mean and covariance.
    expected
        (d, d) covariance that information and prior let expect.
    prior_mean, prior_sd
        (d,).
    draws
        (S, d).
    """
    figure, axes = style.grid(len(pairs), min(3, len(pairs)), 2.3, extra=0.8)
    shown = draws[np.linspace(0, len(draws) - 1, min(len(draws), SHOWN_DRAWS)).astype(int)]
    for panel, (first, second), (i, j) in zip(axes, pairs, places, strict=True):
        panel.plot(shown[:, i], shown[:, j], ".", color=style.SKY, markersize=2, alpha=0.6)
        which = np.ix_((i, j), (i, j))
        for middle, covariance, colour, line in (
            (prior_mean[[i, j]], np.diag(prior_sd[[i, j]] ** 2), style.GREY, "-"),
            (centre[[i, j]], found[which], style.BLUE, "-"),
            (centre[[i, j]], expected[which], style.VERMILION, "--"),
        ):
            panel.plot(*_ellipse(middle, covariance), color=colour, linestyle=line, linewidth=1.2)
        for axis, k in ((panel.xaxis, i), (panel.yaxis, j)):
            axis.set_major_locator(MaxNLocator(4))
            if logs[k]:
                axis.set_major_formatter(FuncFormatter(lambda x, _: style.short(float(np.exp(x)))))
        panel.set_xlabel(first)
        panel.set_ylabel(second)
        correlation = found[i, j] / np.sqrt(found[i, i] * found[j, j])
        panel.set_title(f"correlation {correlation:+.2f}")
    figure.suptitle("The most strongly correlated pairs: 89 % ellipses")
    handles = [
        Line2D([], [], color=style.GREY, label="prior"),
        Line2D([], [], color=style.VERMILION, linestyle="--", label="expected: Fisher information and prior"),
        Line2D([], [], color=style.BLUE, label="posterior, and its draws"),
    ]
    style.legend_below(figure, handles)
    return figure


def _ellipse(middle: style.Array, covariance: style.Array) -> tuple[style.Array, style.Array]:
    radius = np.sqrt(-2.0 * np.log(1.0 - ELLIPSE))
    angle = np.linspace(0.0, 2.0 * np.pi, POINTS)
    values, vectors = np.linalg.eigh(covariance)
    xy = middle[:, None] + vectors @ (
        radius * np.sqrt(np.maximum(values, 0.0))[:, None] * np.stack([np.cos(angle), np.sin(angle)])
    )
    return xy[0], xy[1]


@style.styled
def information_chart(table: pd.DataFrame) -> Figure:
    """Draw each parameter's posterior sd over its prior sd: as found, and as the information of its data let expect.

    Parameters
    ----------
    table
        `identifiability.csv`.
    """
    rows = table[table["expected_sd"].notna() & table["prior_sd"].notna()].copy()
    rows["ratio"] = rows["posterior_sd"] / rows["prior_sd"]
    rows = rows.sort_values("ratio", kind="stable")
    colours = {
        "the data": style.GREEN,
        "partly the data": style.ORANGE,
        "aliased": style.PURPLE,
        "the prior": style.VERMILION,
    }
    size = -(-len(rows) // 2)
    figure = style.new_figure(0.9 + 0.165 * size)
    panels = figure.subplots(1, 2, squeeze=False, sharex=True)[0]
    for column, panel in enumerate(panels):
        part = rows.iloc[column * size : (column + 1) * size]
        place = np.arange(len(part))
        panel.barh(
            place, part["ratio"], color=[colours.get(word, style.GREY) for word in part["value_from"]], height=0.7
        )
        panel.plot(
            part["expected_sd"] / part["prior_sd"],
            place,
            "D",
            color=style.BLACK,
            markersize=3.5,
            markerfacecolor="white",
        )
        panel.set_yticks(place, labels=part["parameter"].tolist())
        panel.set_ylim(size - 0.4, -0.6)
        panel.set_xlim(0, max(1.05, float(rows["ratio"].max()) * 1.05))
        panel.axvline(1.0, color=style.GREY, linewidth=0.8)
        panel.tick_params(axis="y", length=0)
        panel.grid(axis="x", color=style.PALE, linewidth=0.6)
        panel.set_xlabel("posterior sd / prior sd")
    figure.suptitle("What gave each parameter its value")
    shown = set(rows["value_from"])
    handles: list[object] = [Patch(color=colour, label=word) for word, colour in colours.items() if word in shown]
    handles.append(
        Line2D(
            [], [], color=style.BLACK, marker="D", markerfacecolor="white", linestyle="none", label="expected (Fisher)"
        )
    )
    style.legend_below(figure, handles)
    return figure


@style.styled
def tornado_plot(table: pd.DataFrame, *, product: str, most: int = 8) -> Figure:
    """Draw, for each outcome, what one sd of each parameter up or down does to it, to first order.

    Parameters
    ----------
    table
        From `identification.elasticities.tornado`.
    product
        Of the infusion.
    most
        Parameters of each outcome.
    """
    outcomes = list(dict.fromkeys(table["outcome"]))
    figure, axes = style.grid(len(outcomes), 3, 0.55 + 0.17 * most, extra=0.6)
    for panel, outcome in zip(axes, outcomes, strict=True):
        rows = table[table["outcome"] == outcome].head(most)
        place = np.arange(len(rows))
        effect = rows["effect"].to_numpy()
        panel.barh(place, effect, color=style.VERMILION, height=0.7)
        panel.barh(place, -effect, color=style.BLUE, height=0.7)
        ends = np.sort(rows[["effect_low", "effect_high"]].to_numpy(), axis=1)
        panel.hlines(place, ends[:, 0], ends[:, 1], color=style.BLACK, linewidth=0.9)
        panel.set_yticks(place, labels=rows["parameter"].tolist())
        panel.set_ylim(most - 0.4, -0.6)
        panel.axvline(0.0, color=style.BLACK, linewidth=0.7)
        reach = 1.08 * max(float(np.abs(ends).max(initial=0.0)), float(np.abs(effect).max(initial=0.0)), 1e-6)
        panel.set_xlim(-reach, reach)
        panel.xaxis.set_major_locator(MaxNLocator(5, symmetric=True))
        panel.tick_params(axis="y", length=0)
        panel.set_title(outcome, fontsize=7.5)
    for panel in axes[-3:]:
        panel.set_xlabel("change of ln outcome")
    figure.suptitle(f"What one sd between patients does to each outcome, to first order ({product})")
    handles = [
        Patch(color=style.VERMILION, label="parameter up by one sd"),
        Patch(color=style.BLUE, label="down by one sd"),
        Line2D([], [], color=style.BLACK, label="up: 89 % of the draws"),
    ]
    style.legend_below(figure, handles)
    return figure


@style.styled
def design_bars(parameters: pd.DataFrame, prediction: pd.DataFrame | None, *, chosen: Sequence[str]) -> Figure:
    """Draw the expected posterior sd under each design over that of now: the prediction first, then parameters.

    Parameters
    ----------
    parameters
        From `identification.preposterior.Expected.table`.
    prediction
        From `identification.preposterior.predicted`; None: left out.
    chosen
        Parameters that are drawn.
    """
    designs = list(dict.fromkeys(parameters["design"]))
    panels: list[tuple[str, style.Array, style.Array]] = []
    if prediction is not None:
        rows = prediction.set_index("design").loc[designs]
        panels.append(("benefit of a second infusion", rows["ratio"].to_numpy(), rows["ratio_error"].to_numpy()))
    for name in chosen:
        rows = parameters[parameters["parameter"] == name].set_index("design").loc[designs]
        panels.append((name, rows["ratio"].to_numpy(), (rows["mc_error"] / rows["sd_now"]).to_numpy()))
    columns = 3
    figure, axes = style.grid(len(panels), columns, 0.45 + 0.19 * len(designs), extra=0.5, sharex=True)
    colours = [style.GREY, *(style.SERIES[k % len(style.SERIES)] for k in range(len(designs) - 1))]
    for k, (panel, (title, ratio, error)) in enumerate(zip(axes, panels, strict=True)):
        place = np.arange(len(designs))
        panel.barh(place, ratio, color=colours, height=0.7)
        panel.errorbar(ratio, place, xerr=1.6 * np.nan_to_num(error), fmt="none", ecolor=style.BLACK, elinewidth=0.9)
        panel.set_yticks(place, labels=designs if k % columns == 0 else [""] * len(designs))
        panel.set_ylim(len(designs) - 0.4, -0.6)
        panel.set_xlim(0.0, 1.08)
        panel.axvline(1.0, color=style.GREY, linewidth=0.8)
        panel.tick_params(axis="y", length=0)
        panel.set_title(title)
    for panel in axes[-columns:]:
        panel.set_xlabel("expected sd / sd now")
    figure.suptitle("What each schedule may be expected to leave, with Monte Carlo 89 % intervals")
    return figure

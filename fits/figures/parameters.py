"""What was learned: prior against posterior, contraction, and the individual effects."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from scipy import special, stats

from . import style

VERDICT_COLOURS: Final = {
    "measured by the data": style.GREEN,
    "partly": style.ORANGE,
    "prior": style.VERMILION,
    "fixed": style.GREY,
}

VERDICT_LABELS: Final = {
    "measured by the data": "measured by the data",
    "partly": "partly measured",
    "prior": "still the prior",
    "fixed": "fixed",
}

COLUMNS: Final = 4
PER_PAGE: Final = 24


@style.styled
def prior_against_posterior(
    *,
    names: Sequence[str],
    units: Sequence[str],
    transforms: Sequence[str],
    prior: style.Array,
    posterior: style.Array,
    contraction: Sequence[float],
    verdict: Sequence[str],
) -> list[Figure]:
    """Draw the densities of prior and posterior of each scalar, twenty-four to a page.

    Parameters
    ----------
    names, units, transforms, contraction, verdict
        By scalar; transforms are `log`, `logit` or `identity`.
    prior, posterior
        (n, scalar) draws on the transformed scale; axes are labelled on the natural one.
    """
    moving = [i for i in range(len(names)) if np.ptp(posterior[:, i]) > 0]
    figures = []
    for start in range(0, len(moving), PER_PAGE):
        page = moving[start : start + PER_PAGE]
        figure, axes = style.grid(len(page), COLUMNS, 1.25, extra=0.8)
        for panel, i in zip(axes, page, strict=True):
            _densities(panel, prior[:, i], posterior[:, i], VERDICT_COLOURS[verdict[i]])
            _natural_ticks(panel, transforms[i])
            unit = f" ({units[i]})" if units[i] not in ("", "-") else ""
            panel.set_title(f"{names[i]}{unit}", fontsize=7.5)
            panel.text(
                0.99,
                0.97,
                f"{100 * contraction[i]:.0f} %" if np.isfinite(contraction[i]) else "",
                fontsize=7,
                transform=panel.transAxes,
                ha="right",
                va="top",
                color=style.BLACK,
            )
        figure.suptitle("Prior against posterior; the number is the contraction")
        handles = [Patch(color=style.PALE, label="prior")]
        shown = {verdict[i] for i in page}
        handles += [
            Patch(color=colour, alpha=0.7, label=VERDICT_LABELS[word])
            for word, colour in VERDICT_COLOURS.items()
            if word in shown
        ]
        style.legend_below(figure, handles)
        figures.append(figure)
    return figures


@style.styled
def contraction_chart(judged: pd.DataFrame) -> Figure:
    """Draw the contraction of every scalar, best measured first.

    Parameters
    ----------
    judged
        From `diagnosis.identifiability.judge`.
    """
    rows = judged[judged["verdict"] != "fixed"].sort_values("contraction", ascending=False, kind="stable")
    count = len(rows)
    columns = 1 if count <= 20 else 2
    figure = style.new_figure(0.9 + 0.155 * -(-count // columns))
    panels = figure.subplots(1, columns, squeeze=False, sharex=True)[0]
    size = -(-count // columns)
    for column, panel in enumerate(panels):
        part = rows.iloc[column * size : (column + 1) * size]
        place = np.arange(len(part))
        widths = part["contraction"].clip(lower=0).to_numpy()
        panel.barh(place, widths, color=[VERDICT_COLOURS[word] for word in part["verdict"]], height=0.7)
        panel.set_yticks(place, labels=part["parameter"].tolist())
        panel.set_ylim(size - 0.4, -0.6)
        panel.set_xlim(0, 1)
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        panel.tick_params(axis="y", length=0)
        panel.grid(axis="x", color=style.PALE, linewidth=0.6)
        panel.set_xlabel("contraction: 1 − posterior variance / prior variance")
    figure.suptitle("What the data said about each parameter")
    shown = set(rows["verdict"])
    handles = [
        Patch(color=colour, label=VERDICT_LABELS[word]) for word, colour in VERDICT_COLOURS.items() if word in shown
    ]
    style.legend_below(figure, handles)
    return figure


@style.styled
def individual_effects(
    *,
    draws: style.Array,
    patients: Sequence[str],
    effects: Sequence[str],
    units: Sequence[str],
    positive: Sequence[bool],
    products: Sequence[str],
) -> list[Figure]:
    """Draw the individual parameters: 50 and 95 % intervals by patient, four effects to a page.

    Parameters
    ----------
    draws
        (n, patient, effect) natural scale.
    patients, products
        By patient; patients are ordered by product, then as given.
    effects, units, positive
        By effect; a positive effect gets a logarithmic axis.
    """
    order = sorted(range(len(patients)), key=lambda i: (products[i], i))
    kinds = sorted(set(products))
    size = 5.0 if len(patients) > 40 else 6.0
    figures = []
    for start in range(0, len(effects), COLUMNS):
        page = range(start, min(start + COLUMNS, len(effects)))
        figure = style.new_figure(1.2 + 0.1 * max(len(patients), 12))
        panels = figure.subplots(1, len(page), squeeze=False, sharey=True)[0]
        for panel, effect in zip(panels, page, strict=True):
            quantiles = np.quantile(draws[:, order, effect], [0.025, 0.25, 0.5, 0.75, 0.975], axis=0)
            place = np.arange(len(order))
            for product in kinds:
                mine = np.array([products[i] == product for i in order])
                colour = style.product_colour(product, kinds)
                panel.hlines(
                    place[mine],
                    quantiles[0, mine],
                    quantiles[4, mine],
                    color=colour,
                    linewidth=0.7,
                    alpha=0.7,
                )
                panel.hlines(place[mine], quantiles[1, mine], quantiles[3, mine], color=colour, linewidth=2.0)
                panel.plot(
                    quantiles[2, mine],
                    place[mine],
                    "o",
                    color="white",
                    markeredgecolor=colour,
                    markersize=2.6,
                )
                panel.axvline(float(np.median(quantiles[2, mine])), color=colour, linewidth=0.8, linestyle=":")
            if positive[effect]:
                panel.set_xscale("log")
                ticks = style.round_numbers(float(quantiles.min()), float(quantiles.max()), 3)
                panel.xaxis.set_minor_locator(NullLocator())
                panel.set_xticks(ticks, labels=[style.short(value) for value in ticks])
            unit = f" ({units[effect]})" if units[effect] not in ("", "-") else ""
            panel.set_title(f"{effects[effect]}{unit}")
            panel.set_ylim(len(order) - 0.3, -0.7)
        panels[0].set_yticks(np.arange(len(order)), labels=[patients[i] for i in order], fontsize=size)
        figure.suptitle("Individual parameters: median, 50 % and 95 % intervals; dotted: median of the product")
        handles = [
            Line2D([], [], color=style.product_colour(name, kinds), linewidth=2, label=name or "unknown")
            for name in kinds
        ]
        style.legend_below(figure, handles)
        figures.append(figure)
    return figures


def _densities(panel: Axes, prior: style.Array, posterior: style.Array, colour: str) -> None:
    centre, width = (float(np.median(posterior)), float(posterior.std()))
    if np.isfinite(prior).all() and np.ptp(prior) > 0:
        low, high = np.quantile(prior, [0.005, 0.995])
        low, high = min(low, centre - 4 * width), max(high, centre + 4 * width)
        at = np.linspace(low, high, 300)
        panel.fill_between(at, _scaled(prior, at), color=style.PALE, linewidth=0)
    else:
        at = np.linspace(centre - 4 * width, centre + 4 * width, 300)
    panel.fill_between(at, _scaled(posterior, at), color=colour, alpha=0.55, linewidth=0)
    panel.plot(at, _scaled(posterior, at), color=colour, linewidth=1.0)
    panel.set_xlim(float(at[0]), float(at[-1]))
    panel.set_ylim(0, 1.25)
    panel.set_yticks([])
    panel.spines["left"].set_visible(False)


def _scaled(draws: style.Array, at: style.Array) -> style.Array:
    """Return a kernel density scaled to height 1, so that a narrow posterior does not flatten its prior."""
    some = draws[:: max(1, len(draws) // 2000)]
    density = stats.gaussian_kde(some)(at)
    return np.asarray(density / density.max())


def _natural_ticks(panel: Axes, transform: str) -> None:
    """Label an axis of transformed values with round natural ones."""
    low, high = panel.get_xlim()
    if transform == "log":
        natural = style.round_numbers(float(np.exp(low)), float(np.exp(high)))
        panel.set_xticks(np.log(natural), labels=[style.short(value) for value in natural])
    elif transform == "logit":
        ends = special.expit([low, high])
        natural = [x for x in MaxNLocator(4).tick_values(*ends) if ends[0] <= x <= ends[1] and 0 < x < 1]
        panel.set_xticks(special.logit(natural), labels=[style.short(value) for value in natural])
    else:
        panel.xaxis.set_major_locator(MaxNLocator(4))
    panel.tick_params(axis="x", labelsize=6)

"""Chains: traces and rank plots of population scalars (Vehtari et al., Bayesian Analysis 16:667, 2021)."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from . import style

PER_PAGE: Final = 8
BINS: Final = 20


@style.styled
def traces_and_ranks(
    *, names: Sequence[str], draws: style.Array, rhat: Sequence[float], divergent: style.Array | None = None
) -> list[Figure]:
    """Draw trace and rank histogram of each scalar, eight to a page.

    Parameters
    ----------
    names
        By scalar.
    draws
        (chain, draw, scalar) on the transformed scale.
    rhat
        By scalar, written beside the name.
    divergent
        (chain, draw) flags; divergent draws are ticked below the trace.

    Returns
    -------
    list of Figure
        Scalars that never move are left out.
    """
    moving = [i for i in range(len(names)) if np.ptp(draws[:, :, i]) > 0]
    figures = []
    pages = [moving[start : start + PER_PAGE] for start in range(0, len(moving), PER_PAGE)]
    for number, page in enumerate(pages, start=1):
        figure = style.new_figure(0.8 + 0.95 * len(page))
        axes = figure.subplots(len(page), 2, squeeze=False, width_ratios=[2.2, 1], sharex="col")
        for row, i in enumerate(page):
            _trace(axes[row, 0], draws[:, :, i], divergent)
            axes[row, 0].set_title(f"{names[i]}   R-hat {rhat[i]:.3f}")
            _ranks(axes[row, 1], draws[:, :, i])
        axes[0, 1].set_title("ranks by chain")
        axes[-1, 0].set_xlabel("draw after tuning")
        axes[-1, 1].set_xlabel("rank of the draw among all chains")
        part = f", {number} of {len(pages)}" if len(pages) > 1 else ""
        figure.suptitle(f"Traces and ranks, transformed scale{part}")
        handles = [
            Line2D([], [], color=style.SERIES[c % len(style.SERIES)], label=f"chain {c}") for c in range(draws.shape[0])
        ]
        style.legend_below(figure, handles, columns=8)
        figures.append(figure)
    return figures


def _trace(panel: Axes, draws: style.Array, divergent: style.Array | None) -> None:
    step = max(1, draws.shape[1] // 1000)
    at = np.arange(0, draws.shape[1], step)
    for chain, values in enumerate(draws):
        panel.plot(at, values[::step], color=style.SERIES[chain % len(style.SERIES)], linewidth=0.35, alpha=0.8)
    if divergent is not None and divergent.any():
        where = np.flatnonzero(divergent.any(axis=0))
        panel.plot(where, np.full(len(where), draws.min()), "|", color=style.BLACK, markersize=5)
    panel.margins(x=0.01)


def _ranks(panel: Axes, draws: style.Array) -> None:
    """Draw how the ranks of each chain spread over all ranks, as a share of an even spread."""
    chains, n = draws.shape
    ranks = stats.rankdata(draws).reshape(draws.shape)
    edges = np.linspace(0.5, chains * n + 0.5, BINS + 1)
    for chain in range(chains):
        counts, _ = np.histogram(ranks[chain], edges)
        colour = style.SERIES[chain % len(style.SERIES)]
        panel.stairs(counts / (n / BINS), edges, color=colour, linewidth=0.9, baseline=None)
    panel.axhline(1.0, color=style.GREY, linewidth=0.8, linestyle="--")
    panel.set_ylim(0, 2)
    panel.set_xticks([])

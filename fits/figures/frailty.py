"""What the correlation of first and second PFS is made of: simulations with parts of another patient, and shares."""

from textwrap import fill
from typing import Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from . import style

#: What is the same patient twice, and what may be wear.
FRAILTY: Final = style.BLUE
WEAR: Final = style.VERMILION
#: Errors drawn on either side.
ERRORS: Final = 1.96


@style.styled
def decomposition(
    ladder: pd.DataFrame, attribution: pd.DataFrame, *, wear: str = "dysfunction", title: str = ""
) -> Figure:
    """Draw a decomposition: correlations on the left, what each part carries on the right.

    Parameters
    ----------
    ladder, attribution
        From `fits.retreatment.frailty.decompose`.
    wear
        Factor with a colour of its own.
    title
        Of the figure.
    """
    figure = style.new_figure(1.1 + 0.33 * max(len(ladder), len(attribution)))
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 0.9))
    names = [fill(name, 32) for name in ladder["simulation"]]
    _bars(left, ladder, "correlation", names, [style.BLACK, *[style.GREY] * (len(ladder) - 1)])
    left.set_xlabel("correlation of first and second PFS")
    left.set_title("With parts of another patient")
    colours = [WEAR if factor == wear else FRAILTY for factor in attribution["factor"]]
    _bars(right, attribution, "shapley", list(attribution["factor"]), colours)
    for place, row in enumerate(attribution.to_dict("records")):
        right.plot([row["alone"], row["last"]], [place, place], "|", color=style.ORANGE, ms=9, mew=1.6, zorder=4)
    right.set_xlabel("part of the correlation (Shapley)")
    right.set_title("What carries it")
    style.legend_below(
        figure,
        [
            Patch(color=FRAILTY, label="the same patient twice"),
            Patch(color=WEAR, label="host dysfunction"),
            Line2D([], [], color=style.BLACK, lw=1.2, label="± 1.96 Monte Carlo errors"),
            Line2D([], [], color=style.PALE, lw=4, label="95 % over draws of the population"),
            Line2D([], [], color=style.ORANGE, marker="|", ms=9, mew=1.6, lw=0, label="added first, added last"),
        ],
        columns=3,
    )
    figure.suptitle(title or "What the correlation of first and second PFS is made of")
    return figure


def _bars(axes: Axes, table: pd.DataFrame, column: str, names: list[str], colours: list[str]) -> None:
    """Horizontal bars from zero with both intervals, the first on top."""
    for place, (row, colour) in enumerate(zip(table.to_dict("records"), colours, strict=True)):
        value, error = row[column], ERRORS * row["mc_error"]
        axes.plot([row["low"], row["high"]], [place, place], color=style.PALE, lw=4, solid_capstyle="butt", zorder=1)
        axes.barh(place, value, height=0.55, color=colour, zorder=2)
        # a white edge keeps the error visible on the black bar
        axes.plot([value - error, value + error], [place, place], color="white", lw=2.6, zorder=3)
        axes.plot([value - error, value + error], [place, place], color=style.BLACK, lw=1.2, zorder=3)
        axes.annotate(
            f"{value:.2f}".replace("-0.00", "0.00"),
            (1.01, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=7,
        )
    axes.axvline(0.0, color=style.BLACK, lw=0.7)
    axes.set(ylim=(len(names) - 0.4, -0.6))
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)

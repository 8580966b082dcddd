"""Models criticised: who makes the difference between two, and which priors show."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from . import style

NAMED: Final = 5  # patients whose names stand beside their points


LABELLED: Final = 8  # scalars whose names stand beside their points

VERDICTS: Final = {
    "prior-driven": style.VERMILION,
    "prior and data disagree": style.PURPLE,
    "prior and data both count": style.ORANGE,
    "data-driven": style.GREEN,
    "neither moves it": style.GREY,
    "leans on its prior": style.VERMILION,
    "not on its prior": style.GREY,
}


@style.styled
def prior_sensitivity(table: pd.DataFrame, *, threshold: float, noise: float) -> Figure:
    """Draw each scalar's sensitivity to the priors against that to the likelihood.

    Parameters
    ----------
    table
        ``parameter``, ``prior``, ``likelihood``, ``verdict``: from `diagnosis.powerscaling.sensitivity`.
    threshold
        From which a sensitivity counts.
    noise
        What weights that mean nothing give: shaded.
    """
    figure = style.new_figure(4.4)
    panel = figure.subplots()
    top = 1.12 * max(2.0 * threshold, float(table[["prior", "likelihood"]].to_numpy().max()))
    panel.axhspan(0.0, noise, color=style.PALE, alpha=0.5, linewidth=0)
    panel.axvspan(0.0, noise, color=style.PALE, alpha=0.5, linewidth=0)
    for line in (panel.axhline, panel.axvline):
        line(threshold, color=style.GREY, linewidth=0.8, linestyle=":")
    for verdict, rows in table.groupby("verdict", sort=False):
        panel.plot(rows["likelihood"], rows["prior"], "o", color=VERDICTS[str(verdict)], markersize=4.5)
    _name_points(panel, table, threshold, top)
    panel.set_xlim(0.0, top)
    panel.set_ylim(0.0, top)
    panel.set_xlabel("sensitivity to the likelihood")
    panel.set_ylabel("sensitivity to the priors")
    figure.suptitle("Which posteriors move when priors or data are given more weight")
    shown = set(table["verdict"])
    handles = [
        Line2D([], [], color=colour, marker="o", linewidth=0, label=verdict)
        for verdict, colour in VERDICTS.items()
        if verdict in shown
    ]
    style.legend_below(figure, handles)
    return figure


def _name_points(panel: Axes, table: pd.DataFrame, threshold: float, top: float) -> None:
    """Write the names of scalars that lean on their priors, those first whose verdict says most."""
    told = table["verdict"].isin(["prior-driven", "prior and data disagree"])
    ordered = table.assign(told=told).sort_values(["told", "prior"], ascending=False)
    named = ordered[ordered["prior"] >= threshold].head(LABELLED)
    every = table[["likelihood", "prior"]]
    x, y = named["likelihood"].to_numpy(), named["prior"].to_numpy()
    for k, name in enumerate(named["parameter"]):
        # beside its point, to the left where another point is in the way
        right, up = every["likelihood"] - x[k], every["prior"] - y[k]
        crowded = bool(((up.abs() < 0.035 * top) & (right > 0) & (right < 0.13 * top)).any())
        panel.annotate(
            name,
            (x[k], y[k]),
            xytext=(-5 if crowded else 5, 3),
            textcoords="offset points",
            ha="right" if crowded else "left",
            fontsize=6.5,
        )


@style.styled
def differences_by_patient(
    *,
    patients: Sequence[str],
    differences: Mapping[str, style.Array],
    errors: Mapping[str, style.Array],
    doubtful: Mapping[str, NDArray[np.bool_]],
    best: str,
    names: bool = True,
) -> Figure:
    """Draw every patient's difference of elpd from the best model, sorted, one panel per model.

    Parameters
    ----------
    patients
        IDs, (n,).
    differences, errors, doubtful
        By model, (n,) each: elpd less that of the best model, its Monte Carlo standard error, and whether the weights
        of the patient are not to be trusted.
    best
        Name of the best model.
    names
        Whether the patients who make most of the difference are named.
    """
    models = list(differences)
    figure, axes = style.grid(len(models), 1, 2.3, extra=0.7)
    for panel, model in zip(axes, models, strict=True):
        _panel(panel, patients, differences[model], errors[model], doubtful[model], names=names)
        total = float(differences[model].sum())
        spread = float(np.sqrt(len(patients)) * differences[model].std(ddof=1)) if len(patients) > 1 else 0.0
        panel.set_title(f"{model} less {best}: {total:+.1f} in all (s.e. {spread:.1f})")
    axes[-1].set_xlabel("patients, from those that speak against the model to those that speak for it")
    figure.suptitle("Who makes the difference: each patient predicted from all others")
    kinds = [(style.BLUE, "patient, with Monte Carlo error (2 s.e.)")]
    if any(doubts.any() for doubts in doubtful.values()):
        kinds.append((style.VERMILION, "not to be trusted (heavy tail of weights)"))
    handles = [Line2D([], [], color=colour, marker="o", linewidth=0, label=label) for colour, label in kinds]
    style.legend_below(figure, handles)
    return figure


def _panel(
    panel: Axes,
    patients: Sequence[str],
    difference: style.Array,
    error: style.Array,
    doubtful: NDArray[np.bool_],
    *,
    names: bool,
) -> None:
    order = np.argsort(difference, kind="stable")
    place = np.arange(order.size)
    for mask, colour in ((~doubtful[order], style.BLUE), (doubtful[order], style.VERMILION)):
        chosen = order[mask]
        panel.errorbar(
            place[mask],
            difference[chosen],
            yerr=2.0 * error[chosen],
            fmt="o",
            color=colour,
            markersize=3,
            linewidth=0.8,
        )
    panel.axhline(0.0, color=style.GREY, linewidth=0.8)
    panel.set_ylabel("difference of elpd")
    panel.set_xticks([])
    panel.set_xlim(-1.0, order.size)
    panel.grid(axis="y", color=style.PALE, linewidth=0.6)
    if not names:
        return
    largest = set(np.argsort(-np.abs(difference), kind="stable")[:NAMED].tolist())
    for x, i in zip(place, order, strict=True):
        if i in largest:
            against = difference[i] < 0  # points rise from left to right: below or above them is room
            panel.annotate(
                patients[i],
                (x, difference[i]),
                xytext=(3, -7) if against else (-3, 7),
                textcoords="offset points",
                ha="left" if against else "right",
                va="center",
                fontsize=6,
            )

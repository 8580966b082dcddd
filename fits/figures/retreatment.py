"""Figures of a retreatment experiment: both courses per patient, survival, best response, anchor study."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH

from ..retreatment.statistics import kaplan_meier, survival_band
from . import style

type Floats = NDArray[np.float64]

#: Response classes, worst to best, from warm to cold; readable in grey and by the colour-blind.
CLASS_COLOURS: Final[Mapping[str, str]] = {
    "PD": "#b2182b",
    "SD": "#ef8a62",
    "MR": "#fddbc7",
    "PR": "#d1e5f0",
    "VGPR": "#67a9cf",
    "CR": "#2166ac",
    "SCR": "#053061",
}
GROUP_COLOURS: Final[Mapping[str, str]] = {
    "all": style.BLACK,
    "non-responder": style.VERMILION,
    "early-relapse": style.ORANGE,
    "intermediate": style.GREEN,
    "durable": style.BLUE,
    "antigen-loss": style.PURPLE,
}
MODEL: Final = style.BLUE
#: Months at which the intervals of further survival curves are drawn.
MARKED: Final = (12.0, 24.0)
#: Fewest patients of whom a survival curve is drawn.
FEWEST: Final = 10


# --------------------------------------------------------------------------------------------- swimmer


@style.styled
def swimmer(patients: pd.DataFrame, *, title: str = "", at_most: int = 36, horizon_months: float = 60.0) -> Figure:
    """Swimmer plot: one line per virtual patient, both courses one after the other.

    Parameters
    ----------
    patients
        Rows of one scenario, as the engine gives them.
    title
        Of the figure.
    at_most
        Lines; the patients are thinned evenly within their first-response groups.
    horizon_months
        Follow-up of the second course, for the axis.

    Raises
    ------
    ReinfuseError
        If there are no patients.
    """
    if patients.empty:
        raise ReinfuseError("a swimmer plot of no patients; give rows of one scenario")
    shown = _thinned(patients, at_most)
    figure = style.new_figure(1.4 + 0.13 * len(shown))
    axes = figure.subplots()
    for place, row in enumerate(shown.to_dict("records")):
        _swim(axes, float(place), {str(name): value for name, value in row.items()})
    _name_groups(axes, shown)
    last = shown["infusion_day"].max() / DAYS_PER_MONTH + horizon_months
    longest = (shown["infusion_day"] + shown["pfs_days_2"]).max() / DAYS_PER_MONTH
    axes.set(
        yticks=[],
        xlabel="months since the first infusion",
        ylim=(len(shown) - 0.5, -0.5),
        xlim=(0, 1.02 * min(longest, last)),
        title=title or "Both courses, coloured by best response",
    )
    handles: list[Any] = [Patch(color=colour, label=name) for name, colour in CLASS_COLOURS.items()]
    if (~shown["evaluable_2"]).any():
        handles.append(Patch(color=style.PALE, label="no class"))
    handles.append(Line2D([], [], color=style.GREY, lw=1, label="relapsed, waiting"))
    for marker, label in (
        ("D", "second infusion"),
        ("x", "progression"),
        ("+", "death without relapse"),
        (">", "still in remission"),
    ):
        handles.append(Line2D([], [], color=style.BLACK, marker=marker, lw=0, label=label))
    style.legend_below(figure, handles, columns=6)
    return figure


def _name_groups(axes: Axes, shown: pd.DataFrame) -> None:
    """Write each group's name beside its lines, and draw a line between groups."""
    top = 0
    for group, members in shown.groupby("group", sort=False):
        axes.text(
            -0.012,
            top + (len(members) - 1) / 2,
            str(group),
            transform=axes.get_yaxis_transform(),
            ha="right",
            va="center",
            color=GROUP_COLOURS.get(str(group), style.GREY),
        )
        if top:
            axes.axhline(top - 0.5, color=style.PALE, lw=0.8, zorder=0)
        top += len(members)


def _thinned(patients: pd.DataFrame, at_most: int) -> pd.DataFrame:
    """Choose patients evenly within groups, groups in their usual order, each sorted by first PFS."""
    order = {name: place for place, name in enumerate(GROUP_COLOURS)}
    parts = []
    for _, members in sorted(patients.groupby("group"), key=lambda item: order.get(str(item[0]), 99)):
        ranked = members.sort_values(["pfs_days_1", "pfs_days_2"])
        if len(patients) > at_most:
            ranked = ranked.iloc[_even(len(ranked), max(1, round(at_most * len(ranked) / len(patients))))]
        parts.append(ranked)
    return pd.concat(parts)


def _even(n: int, count: int) -> NDArray[np.int64]:
    """Places of `count` members spread evenly over n."""
    return np.unique(np.round(np.linspace(0, n - 1, min(n, count) + 2)[1:-1]).astype(np.int64))


def _swim(axes: Axes, y: float, row: Mapping[str, Any]) -> None:
    first, start = row["pfs_days_1"] / DAYS_PER_MONTH, row["infusion_day"] / DAYS_PER_MONTH
    second = row["pfs_days_2"] / DAYS_PER_MONTH
    axes.barh(y, first, height=0.72, color=CLASS_COLOURS.get(row["best_1"], style.PALE))
    axes.plot([first, start], [y, y], color=style.GREY, lw=1)
    axes.barh(y, second, left=start, height=0.72, color=CLASS_COLOURS.get(row["best_2"], style.PALE))
    axes.plot(first, y, "x", color=style.BLACK, ms=3.2, mew=0.8)
    axes.plot(start, y, "D", color=style.BLACK, ms=2.0)
    marker = {"progression": "x", "death": "+", "none": ">"}[row["pfs_event_2"]]
    axes.plot(start + second, y, marker, color=style.BLACK, ms=5 if marker == "+" else 3.2, mew=0.8)


# --------------------------------------------------------------------------------------------- survival


@style.styled
def survival(
    curves: Mapping[str, pd.DataFrame],
    *,
    course: int = 2,
    title: str = "",
    months: float = 60.0,
    level: float = 0.95,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Kaplan-Meier curves of PFS with posterior intervals, and the numbers at risk.

    The first curve has its whole band, the others an interval at 12 and 24 months: more would hide them.

    Parameters
    ----------
    curves
        Rows of the engine's outcomes by the label of their curve; fewer than ten rows are left out.
    course
        1 or 2.
    title
        Of the figure.
    months
        End of the axis; nobody may be censored before.
    level
        Of the posterior intervals: uncertainty about the population, not that of a trial of this size.
    colours
        By label.

    Raises
    ------
    ReinfuseError
        If no curve has ten patients.
    """
    drawn = {label: rows for label, rows in curves.items() if len(rows) >= FEWEST}
    if not drawn:
        raise ReinfuseError(f"no curve has {FEWEST} patients; ask for more with --patients")
    figure = style.new_figure(3.8 + 0.17 * len(drawn))
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 0.3 + 0.17 * len(drawn)))
    grid, ticks = np.arange(0.0, months + 1e-9, 1.0), np.arange(0.0, months + 1e-9, 12.0)
    for place, (label, rows) in enumerate(drawn.items()):
        colour = (colours or {}).get(label, style.SERIES[place % len(style.SERIES)])
        days = rows[f"pfs_days_{course}"].to_numpy()
        event = (rows[f"pfs_event_{course}"] != "none").to_numpy()
        draw = rows["draw"].to_numpy()
        curve = kaplan_meier(days, event, level).survival_function_
        axes.step(curve.index, curve.iloc[:, 0], where="post", color=colour, lw=1.5, label=label)
        if place == 0:
            inside = grid[grid <= days[~event].min(initial=np.inf) / DAYS_PER_MONTH]
            low, high = survival_band(days, event, draw, inside, level)
            axes.fill_between(inside, low, high, step="post", color=colour, alpha=0.1, lw=0)
        else:
            low, high = survival_band(days, event, draw, MARKED, level)
            axes.vlines(np.add(MARKED, 0.45 * place), low, high, color=colour, lw=1.2, alpha=0.7)
        beside = {"ha": "right", "va": "center", "transform": below.get_yaxis_transform()}
        below.text(-0.035, place, label, color=colour, **beside)
        for tick in ticks:
            at_risk = int((days / DAYS_PER_MONTH >= tick).sum())
            below.text(tick, place, str(at_risk), ha="center", va="center", fontsize=7)
    which = "first" if course == 1 else "second"
    axes.set(ylim=(0, 1.02), xlim=(0, months), ylabel="free of progression and death")
    axes.set_title(title or f"PFS of the {which} course")
    axes.yaxis.set_major_formatter(_percent)
    axes.legend(loc="upper right")
    axes.tick_params(labelbottom=False)
    below.set(ylim=(len(drawn) - 0.4, -0.6), yticks=[], xticks=ticks)
    below.set_xlabel(
        f"months since the {which} infusion\n"
        f"numbers: virtual patients at risk; band and bars: {level:.0%} posterior intervals"
    )
    below.spines["left"].set_visible(False)
    return figure


# --------------------------------------------------------------------------------------------- response


@style.styled
def best_response(outcomes: pd.DataFrame, *, groups: Sequence[str], title: str = "") -> Figure:
    """Stacked bars of the best second response, by scenario and first-response group.

    Parameters
    ----------
    outcomes
        As the engine gives them; patients without a response class are left out.
    groups
        First-response groups in order; `all` comes first.
    title
        Of the figure.

    Raises
    ------
    ReinfuseError
        If nobody has a response class.
    """
    judged = outcomes[outcomes["evaluable_2"]]
    if judged.empty:
        raise ReinfuseError("no virtual patient has a response class for the second course; nothing to draw")
    scenarios = list(dict.fromkeys(judged["scenario"]))
    rows = ("all", *groups)
    height = 0.55 + 0.2 * len(rows)
    figure, panels = style.grid(len(scenarios), min(2, len(scenarios)), height, sharex=True, sharey=True)
    for axes, scenario in zip(panels, scenarios, strict=True):
        of_scenario = judged[judged["scenario"] == scenario]
        for place, group in enumerate(rows):
            members = of_scenario if group == "all" else of_scenario[of_scenario["group"] == group]
            left = 0.0
            for name, colour in CLASS_COLOURS.items():
                share = float((members["best_2"] == name).mean()) if len(members) else 0.0
                axes.barh(place, share, left=left, color=colour, height=0.74)
                left += share
            axes.text(1.02, place, f"n {len(members)}", va="center", fontsize=7, color=style.GREY)
        axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5), title=str(scenario))
        axes.set_yticks(range(len(rows)), list(rows))
        axes.xaxis.set_major_formatter(_percent)
    handles = [Patch(color=colour, label=name) for name, colour in CLASS_COLOURS.items()]
    style.legend_below(figure, handles, columns=len(handles))
    figure.suptitle(title or "Best response to the second course, by first-response group")
    return figure


# ----------------------------------------------------------------------------------------------- anchor


@style.styled
def anchor(
    table: pd.DataFrame,
    counts: Sequence[Floats],
    *,
    responders: pd.DataFrame | None = None,
    title: str = "",
    level: float = 0.95,
) -> Figure:
    """The published study of ten beside the model: shares with intervals, and counts in virtual studies.

    Parameters
    ----------
    table
        From `fits.retreatment.anchor.compare`.
    counts
        Distribution of the count in virtual studies, one array per row of the table.
    responders
        The same table for those who had responded to the first product, as a further line.
    title
        Of the figure.
    level
        Of the intervals, for the legend.
    """
    figure = style.new_figure(0.9 + (1.05 if responders is None else 1.25) * len(table))
    grid = figure.subplots(len(table), 2, width_ratios=(1.2, 1.0), squeeze=False)
    for place, (row, mass) in enumerate(zip(table.to_dict("records"), counts, strict=True)):
        shares, bars = grid[place]
        _share(shares, 0.0, [row[f"observed_{end}"] for end in ("low", "share", "high")], style.BLACK, "o")
        models = [row] if responders is None else [row, responders.iloc[place].to_dict()]
        for line, model in enumerate(models, start=1):
            near = np.add(model["simulated_share"], [-2 * model["mc_error"], 2 * model["mc_error"]])
            shares.plot(near, [line, line], color=style.ORANGE, lw=3.5, solid_capstyle="butt")
            _share(shares, line, [model[f"simulated_{end}"] for end in ("low", "share", "high")], MODEL, "s")
        names = [
            f"study, {row['observed']}/{row['n_observed']}",
            *(f"model, {m['patients']}" for m in models),
        ]
        shares.set(xlim=(-0.02, 1.02), ylim=(len(models) + 0.6, -0.6), title=str(row["measure"]))
        shares.set_yticks(range(len(names)), names)
        shares.xaxis.set_major_formatter(_percent)
        size = np.asarray(mass).size
        colours = [style.BLACK if k == row["observed"] else MODEL for k in range(size)]
        bars.bar(range(size), mass, color=colours, width=0.8)
        tail = f"{size - 1} of all: tail probability {row['tail_probability']:.2f}"
        bars.set(xticks=range(0, size, 2), yticks=[])
        bars.set_title(tail, fontweight="normal")
        for axes in (shares, bars):
            axes.tick_params(labelbottom=place == len(table) - 1)
    grid[-1][0].set_xlabel("share of patients")
    grid[-1][1].set_xlabel("patients in virtual studies (black: the study)")
    handles = [
        Line2D([], [], color=style.BLACK, marker="o", label=f"study, exact binomial {level:.0%} interval"),
        Line2D([], [], color=MODEL, marker="s", label=f"model, {level:.0%} posterior interval"),
        Line2D([], [], color=style.ORANGE, lw=3.5, label="± 2 Monte Carlo errors"),
    ]
    style.legend_below(figure, handles, columns=3)
    figure.suptitle(title or "The published study of ten patients beside the model")
    return figure


def _share(axes: Axes, y: float, ends: Sequence[float], colour: str, marker: str) -> None:
    low, value, high = ends
    axes.plot([low, high], [y, y], color=colour, lw=1.4)
    axes.plot(value, y, marker, color=colour, ms=4)


def _percent(value: float, _: float) -> str:
    return f"{value:.0%}"

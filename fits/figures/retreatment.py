"""Figures of a retreatment experiment: courses per patient, survival, response, arms side by side, small trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH

from ..retreatment.outcome_table import infusion_day
from ..retreatment.statistics import survival_band
from ..retreatment.survival import kaplan_meier
from ..retreatment.virtual_trials import ALPHA, Trials
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
#: Curves whose whole band is drawn; of more, each has bars at `MARKED`.
BANDED: Final = 2
#: Fewest patients of whom a survival curve is drawn.
FEWEST: Final = 10


# --------------------------------------------------------------------------------------------- swimmer


@style.styled
def swimmer(patients: pd.DataFrame, *, title: str = "", at_most: int = 36, horizon_months: float = 60.0) -> Figure:
    """Swimmer plot: one line per virtual patient, all courses one after the other.

    Parameters
    ----------
    patients
        Rows of one scenario and world, as the engine gives them.
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
    courses = max(int(name[5:]) for name in shown.columns if name[:5] == "best_" and name[5:].isdigit())
    figure = style.new_figure(1.4 + 0.13 * len(shown))
    axes = figure.subplots()
    for place, row in enumerate(shown.to_dict("records")):
        _swim(axes, float(place), {str(name): value for name, value in row.items()}, courses)
    _name_groups(axes, shown)
    ends = [shown[infusion_day(course)] + shown[f"pfs_days_{course}"] for course in range(2, courses + 1)]
    last = max(shown[infusion_day(course)].max() for course in range(2, courses + 1)) / DAYS_PER_MONTH + horizon_months
    longest = max(end.max() for end in ends) / DAYS_PER_MONTH
    axes.set(
        yticks=[],
        xlabel="months since the first infusion",
        ylim=(len(shown) - 0.5, -0.5),
        xlim=(0, 1.02 * min(longest, last)),
        title=title or "Courses, coloured by best response",
    )
    handles: list[Any] = [Patch(color=colour, label=written(name)) for name, colour in _classes_of(shown).items()]
    if (~shown["evaluable_2"]).any():
        handles.append(Patch(color=style.PALE, label="no class"))
    handles.append(Line2D([], [], color=style.GREY, lw=1, label="relapsed, waiting"))
    for marker, label in (
        ("D", "second infusion" if courses == 2 else "later infusion"),
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
    for group, members in shown.groupby("group", sort=False, observed=True):
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
    for _, members in sorted(patients.groupby("group", observed=True), key=lambda item: order.get(str(item[0]), 99)):
        ranked = members.sort_values(["pfs_days_1", "pfs_days_2"])
        if len(patients) > at_most:
            ranked = ranked.iloc[_even(len(ranked), max(1, round(at_most * len(ranked) / len(patients))))]
        parts.append(ranked)
    return pd.concat(parts)


def _even(n: int, count: int) -> NDArray[np.int64]:
    """Places of `count` members spread evenly over n."""
    return np.unique(np.round(np.linspace(0, n - 1, min(n, count) + 2)[1:-1]).astype(np.int64))


def _swim(axes: Axes, y: float, row: Mapping[str, Any], courses: int) -> None:
    first = row["pfs_days_1"] / DAYS_PER_MONTH
    axes.barh(y, first, height=0.72, color=CLASS_COLOURS.get(row["best_1"], style.PALE))
    axes.plot(first, y, "x", color=style.BLACK, ms=3.2, mew=0.8)
    ended = first
    for course in range(2, courses + 1):
        start, lasting = row[infusion_day(course)] / DAYS_PER_MONTH, row[f"pfs_days_{course}"] / DAYS_PER_MONTH
        if not np.isfinite(start + lasting):
            return
        axes.plot([ended, start], [y, y], color=style.GREY, lw=1)
        axes.barh(y, lasting, left=start, height=0.72, color=CLASS_COLOURS.get(row[f"best_{course}"], style.PALE))
        axes.plot(start, y, "D", color=style.BLACK, ms=2.0)
        marker = {"progression": "x", "death": "+", "none": ">"}[row[f"pfs_event_{course}"]]
        ended = start + lasting
        axes.plot(ended, y, marker, color=style.BLACK, ms=5 if marker == "+" else 3.2, mew=0.8)


def _classes_of(rows: pd.DataFrame) -> dict[str, str]:
    """Response classes with their colours; sCR only where someone has it, since not every model tells it from CR."""
    seen = any((rows[name] == "SCR").any() for name in rows.columns if name.startswith("best_"))
    return {name: colour for name, colour in CLASS_COLOURS.items() if seen or name != "SCR"}


def written(name: str) -> str:
    """A response class as it is written in print."""
    return "sCR" if name == "SCR" else name


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

    One or two curves have their whole bands. Of more, only the first has it and the others an interval at 12 and 24
    months: more bands would hide the curves.

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
        if place == 0 or len(drawn) <= BANDED:
            inside = grid[grid <= days[~event].min(initial=np.inf) / DAYS_PER_MONTH]
            low, high = survival_band(days, event, draw, inside, level)
            # no survival curve rises, so no edge of the band does: the wider of its neighbours is taken
            low, high = np.minimum.accumulate(low), np.maximum.accumulate(high[::-1])[::-1]
            axes.fill_between(inside, low, high, color=colour, alpha=0.15, lw=0)
        else:
            low, high = survival_band(days, event, draw, MARKED, level)
            axes.vlines(np.add(MARKED, 0.25 * (place - len(drawn) / 2)), low, high, color=colour, lw=1.2, alpha=0.7)
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
    scenarios = list(judged["scenario"].unique())
    rows = ("all", *groups)
    height = 0.55 + 0.2 * len(rows)
    figure, panels = style.grid(len(scenarios), min(2, len(scenarios)), height, sharex=True, sharey=True)
    for axes, scenario in zip(panels, scenarios, strict=True):
        of_scenario = judged[judged["scenario"] == scenario]
        for place, group in enumerate(rows):
            members = of_scenario if group == "all" else of_scenario[of_scenario["group"] == group]
            left = 0.0
            for name, colour in _classes_of(judged).items():
                share = float((members["best_2"] == name).mean()) if len(members) else 0.0
                axes.barh(place, share, left=left, color=colour, height=0.74)
                left += share
            axes.text(1.02, place, f"n {len(members)}", va="center", fontsize=7, color=style.GREY)
        axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5), title=str(scenario))
        axes.set_yticks(range(len(rows)), list(rows))
        axes.xaxis.set_major_formatter(_percent)
    handles = [Patch(color=colour, label=written(name)) for name, colour in _classes_of(judged).items()]
    style.legend_below(figure, handles, columns=7)
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


# ----------------------------------------------------------------------------------------- arms side by side


@style.styled
def benefit_map(
    value: Floats,
    *,
    waiting_days: Sequence[float],
    doses: Sequence[float],
    error: Floats | None = None,
    title: str = "",
    label: str = "months of PFS gained, to the horizon",
    rows_label: str = "CAR+ cells of the second infusion",
    columns_label: str = "days from progression to the second infusion",
) -> Figure:
    """Heat map of a benefit over two levers, by default waiting time and dose.

    Parameters
    ----------
    value
        (doses, waiting) benefit; 0 is none. NaN: not computed.
    waiting_days, doses
        The levers' values, in order.
    error
        (doses, waiting) Monte Carlo errors: a value within two of nothing is written in brackets.
    title, label, rows_label, columns_label
        Words.

    Raises
    ------
    ReinfuseError
        If the shapes do not agree, or no value is finite.
    """
    table = np.asarray(value, dtype=np.float64)
    if table.shape != (len(doses), len(waiting_days)) or (error is not None and np.shape(error) != table.shape):
        raise ReinfuseError(
            f"benefit has shape {table.shape}; give (doses, waiting) = ({len(doses)}, {len(waiting_days)}), "
            "and errors alike"
        )
    if not np.isfinite(table).any():
        raise ReinfuseError("no benefit is finite; nothing to draw")
    figure = style.new_figure(1.5 + 0.42 * len(doses))
    axes = figure.subplots()
    reach = float(np.nanmax(np.abs(table))) or 1.0
    colours = matplotlib.colormaps["RdBu"].with_extremes(bad=style.PALE)
    image = axes.imshow(table, cmap=colours, vmin=-reach, vmax=reach, origin="lower", aspect="auto")
    for (row, column), number in np.ndenumerate(table):
        if np.isfinite(number):
            unsure = error is not None and abs(number) <= 2 * error[row, column]
            text = style.short(float(number)) if number else "0"
            colour = "white" if abs(number) > 0.6 * reach else style.BLACK
            axes.text(column, row, f"({text})" if unsure else text, ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(waiting_days)), [f"{day:g}" for day in waiting_days])
    axes.set_yticks(range(len(doses)), [style.short(dose) for dose in doses])
    axes.set(xlabel=columns_label, ylabel=rows_label, title=title or "Benefit by waiting time and dose")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, shrink=0.9, label=label)
    bar.outline.set_visible(False)
    if error is not None:
        axes.annotate(
            "in brackets: within two Monte Carlo errors of none",
            (0, 0),
            xytext=(0, -34),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=7,
            color=style.GREY,
            va="top",
        )
    return figure


def _bins(reach: float, step: float) -> Floats:
    """At most 61 bins to ±reach, one of them about 0, of whole steps: else some would hold no visit."""
    width = step * np.ceil(2 * reach / 61 / step) if step else 2 * reach / 61
    half = np.ceil(reach / width - 0.5) + 0.5
    return np.asarray(np.arange(-half, half + 0.5) * width)


@style.styled
def paired_differences(
    differences: Mapping[str, Floats],
    *,
    table: pd.DataFrame | None = None,
    title: str = "",
    label: str = "difference of second PFS, months (first arm less second)",
    margin: float = 1.0,
    step: float = 0.0,
) -> Figure:
    """How much longer each patient stays free of progression under one arm than the other, by group.

    Parameters
    ----------
    differences
        (n,) months of each patient, by group.
    table
        Index the group; columns `value`, `low`, `high`: the mean and its posterior interval, drawn below each group.
    title, label
        Words.
    margin
        Months within which a difference counts as none.
    step
        Months between visits, of which most differences are a whole number; 0: they are not.

    Raises
    ------
    ReinfuseError
        If no group has patients.
    """
    drawn = {name: np.asarray(values, dtype=np.float64) for name, values in differences.items() if np.size(values)}
    if not drawn:
        raise ReinfuseError("no group has patients; nothing to draw")
    figure = style.new_figure(1.3 + 0.62 * len(drawn))
    axes = figure.subplots()
    reach = 1.05 * max(float(np.abs(values).max()) for values in drawn.values()) or 1.0
    bins = _bins(reach, step)
    axes.axvspan(-margin, margin, color=style.PALE, alpha=0.5, lw=0)
    for place, (name, values) in enumerate(drawn.items()):
        colour = GROUP_COLOURS.get(name, style.BLUE)
        count, _ = np.histogram(values, bins)
        height = 0.62 * np.sqrt(count / max(int(count.max()), 1))  # roots: the few who gain much can be seen
        axes.bar(bins[:-1], -height, width=np.diff(bins), bottom=place, align="edge", color=colour, alpha=0.55)
        gains, loses = (values > margin).mean(), (values < -margin).mean()
        axes.text(1.01, place - 0.3, f"{gains:.0%} gain", transform=axes.get_yaxis_transform(), fontsize=7, va="center")
        axes.text(
            1.01, place - 0.05, f"{loses:.0%} lose", transform=axes.get_yaxis_transform(), fontsize=7, va="center"
        )
        if table is not None and name in table.index:
            row = table.loc[name]
            axes.plot([row["low"], row["high"]], [place + 0.12] * 2, color=style.BLACK, lw=1.4)
            axes.plot(row["value"], place + 0.12, "o", color=style.BLACK, ms=4)
    axes.axvline(0, color=style.BLACK, lw=0.8)
    axes.set(ylim=(len(drawn) - 0.6, -0.75), xlim=(-reach, reach), xlabel=label)
    axes.set_yticks(range(len(drawn)), [f"{name}\nn {values.size}" for name, values in drawn.items()])
    axes.set_title(title or "The same patients under two arms")
    handles: list[Any] = [
        Patch(color=style.GREY, alpha=0.55, label="patients (height: root of their number)"),
        Patch(color=style.PALE, alpha=0.5, label=f"within ± {margin:g} months"),
    ]
    if table is not None:
        handles.append(Line2D([], [], color=style.BLACK, marker="o", label="mean, posterior interval"))
    style.legend_below(figure, handles, columns=3)
    return figure


# --------------------------------------------------------------------------------------------- trajectories


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """One virtual patient's way through its courses.

    Attributes
    ----------
    name : str
        Title of its panel.
    days : ndarray
        (t,) since the first infusion.
    burden : ndarray
        (t,) myeloma cells of the whole body.
    cart : ndarray
        (products, t) CAR+ cells/µL of each infusion; NaN or 0 before it.
    infusions : tuple
        Days of the infusions.
    progressions : tuple
        Days of progression.
    """

    name: str
    days: Floats
    burden: Floats
    cart: Floats
    infusions: tuple[float, ...]
    progressions: tuple[float, ...] = ()


@style.styled
def trajectories(
    patients: Sequence[Trajectory],
    *,
    products: Sequence[str],
    mrd_cells: float | None = None,
    least_cart: float = 1e-2,
    least_burden: float = 1.0,
    title: str = "",
) -> Figure:
    """Myeloma burden and CAR-T cells of a few named virtual patients, through both courses.

    Parameters
    ----------
    patients
        The patients, a panel each.
    products
        Names of the infused products, in order, for the legend.
    mrd_cells
        Burden below which MRD is negative; a line is drawn there.
    least_cart, least_burden
        Below these the curves are cut: so few cells mean nothing here.
    title
        Of the figure.

    Raises
    ------
    ReinfuseError
        If there are no patients, or one has CAR-T cells of another number of products.
    """
    wrong = [one.name for one in patients if np.atleast_2d(one.cart).shape[0] != len(products)]
    if not patients or wrong:
        raise ReinfuseError(
            f"{len(patients)} patients; without a row of CAR-T cells for each of {len(products)} products: "
            f"{', '.join(wrong) or 'none'}; give at least one patient, and a row for each product"
        )
    figure, panels = style.grid(len(patients), min(2, len(patients)), 2.1, extra=0.8)
    highest = 3 * max(float(np.nanmax(one.burden)) for one in patients)
    peak = 3 * max(float(np.nanmax(one.cart)) for one in patients)
    colours = [style.SERIES[k % len(style.SERIES)] for k in range(len(products))]
    for place, (axes, one) in enumerate(zip(panels, patients, strict=True)):
        other = axes.twinx()
        other.spines["right"].set_visible(True)
        months = one.days / DAYS_PER_MONTH
        axes.plot(months, np.where(one.burden >= least_burden, one.burden, np.nan), color=style.BLACK, lw=1.5)
        for cells, colour in zip(np.atleast_2d(one.cart), colours, strict=True):
            other.plot(months, np.where(cells >= least_cart, cells, np.nan), color=colour, lw=1.1)
        for day in one.infusions:
            axes.axvline(day / DAYS_PER_MONTH, color=style.GREY, lw=0.8, ls="--", zorder=0)
        for day in one.progressions:
            at = float(np.interp(day, one.days, one.burden))
            axes.plot(day / DAYS_PER_MONTH, at, "X", color=style.YELLOW, mec=style.BLACK, ms=7, mew=0.8)
        if mrd_cells is not None:
            axes.axhline(mrd_cells, color=style.GREY, lw=0.8, ls=":")
        for side, low, high in ((axes, least_burden, highest), (other, least_cart, peak)):
            style.log_axis(side)
            side.set_ylim(low, high)
        axes.set_title(one.name)
        axes.set_xlim(0, months[-1])
        axes.set_xlabel("months since the first infusion")
        if place % 2 == 0:
            axes.set_ylabel("myeloma cells")
        if place % 2 == 1 or place == len(patients) - 1:
            other.set_ylabel("CAR+ cells/µL")
    handles: list[Any] = [Line2D([], [], color=style.BLACK, lw=1.5, label="myeloma burden")]
    handles += [Line2D([], [], color=c, label=f"CAR-T, {name}") for name, c in zip(products, colours, strict=True)]
    handles.append(Line2D([], [], color=style.GREY, ls="--", lw=0.8, label="infusion"))
    handles.append(
        Line2D([], [], color=style.YELLOW, mec=style.BLACK, mew=0.8, ms=6, marker="X", lw=0, label="progression")
    )
    if mrd_cells is not None:
        handles.append(Line2D([], [], color=style.GREY, ls=":", lw=0.8, label="MRD-negative below"))
    style.legend_below(figure, handles, columns=6)
    figure.suptitle(title or "Virtual patients through both courses")
    return figure


# ------------------------------------------------------------------------------------------------ waterfall


@style.styled
def waterfall(
    best: Sequence[str],
    *,
    change: Floats | None = None,
    title: str = "",
    at_most: int = 120,
) -> Figure:
    """Waterfall of best response: one bar per patient, worst to best, coloured by class.

    Parameters
    ----------
    best
        Best response of each patient.
    change
        (n,) deepest change of M-protein as a share of baseline, -1 for gone; NaN where it cannot be told. Without it,
        bars stand for the class alone.
    title
        Of the figure.
    at_most
        Bars: patients are taken evenly along the order.

    Raises
    ------
    ReinfuseError
        If nobody has a response class (and a change, where changes are given), or numbers differ.
    """
    labels = np.asarray(best, dtype=str)
    if change is not None and np.shape(change) != labels.shape:
        raise ReinfuseError(f"{labels.size} responses and {np.size(change)} changes; give as many of each")
    names = list(CLASS_COLOURS)
    rank = np.array([names.index(label) if label in names else -1 for label in labels])
    height = rank.astype(np.float64) if change is None else np.clip(np.asarray(change, dtype=np.float64), -1.0, 1.0)
    shown = np.flatnonzero((rank >= 0) & np.isfinite(height))
    if not shown.size:
        raise ReinfuseError("no patient has a response class to draw; nothing to draw")
    many = shown.size
    shown = shown[np.lexsort((rank[shown], height[shown] if change is None else -height[shown]))]
    shown = shown[_even(shown.size, at_most)] if shown.size > at_most else shown
    figure = style.new_figure(3.2)
    axes = figure.subplots()
    colours = [CLASS_COLOURS[names[rank[k]]] for k in shown]
    places = np.arange(shown.size)
    if change is None:
        axes.bar(places, height[shown] + 0.5, width=0.92, color=colours, edgecolor=style.GREY, linewidth=0.3)
        axes.set_yticks(np.arange(len(names)) + 0.5, [written(name) for name in names])
        axes.set(ylim=(0, max(rank[shown]) + 0.7), ylabel="best response")
    else:
        axes.bar(places, height[shown], width=0.92, color=colours, edgecolor=style.GREY, linewidth=0.3)
        for level in (-0.5, -0.9):
            axes.axhline(level, color=style.GREY, lw=0.8, ls=":")
        axes.axhline(0, color=style.BLACK, lw=0.8)
        axes.set(ylim=(-1.03, max(0.25, 1.1 * float(height[shown].max()))), ylabel="deepest change of M-protein")
        axes.yaxis.set_major_formatter(_percent)
    of_all = "" if many == shown.size else f" (of {many}, taken evenly)"
    axes.set(xticks=[], xlim=(-0.8, shown.size - 0.2), xlabel=f"{shown.size} virtual patients{of_all}")
    axes.set_title(title or "Best response to the second course")
    present = [name for k, name in enumerate(names) if (rank[shown] == k).any()]
    handles = [
        Patch(facecolor=CLASS_COLOURS[name], edgecolor=style.GREY, linewidth=0.3, label=written(name))
        for name in present
    ]
    style.legend_below(figure, handles, columns=7)
    return figure


# -------------------------------------------------------------------------------------------- virtual trials


@style.styled
def virtual_trials(trials: Trials, *, truth: tuple[float, float] | None = None, title: str = "") -> Figure:
    """What studies of this size would find: hazard ratios and differences of restricted mean PFS.

    Parameters
    ----------
    trials
        From `fits.retreatment.virtual_trials.virtual_trials`.
    truth
        Hazard ratio and difference of restricted mean PFS over all virtual patients, if known.
    title
        Of the figure.

    Raises
    ------
    ReinfuseError
        If no trial could be compared.
    """
    if not trials.p_value.size:
        raise ReinfuseError("no virtual trial has patients and events on both sides; nothing to draw")
    figure = style.new_figure(3.3)
    left, right = figure.subplots(1, 2)
    edges = float(np.log(0.05)), float(np.log(20.0))
    logs = np.log(np.clip(trials.hazard_ratio, 0.05, 20.0))
    significant = trials.p_value < ALPHA
    bins = np.linspace(*edges, 41)
    left.hist([logs[significant], logs[~significant]], bins, stacked=True, color=[MODEL, style.PALE])
    ticks = [0.05, 0.2, 0.5, 1, 2, 5, 20]
    left.set_xticks(np.log(ticks), ["≤ 0.05", *(f"{tick:g}" for tick in ticks[1:-1]), "≥ 20"])
    left.set(xlabel="hazard ratio, durable to others", ylabel="virtual trials", xlim=edges)
    left.set_title(f"above 1 in {trials.wrong_way:.0%}, p < {ALPHA:g} in {trials.significant:.0%}")
    low, high = trials.interval(trials.rmst_difference)
    spread = [trials.rmst_difference[significant], trials.rmst_difference[~significant]]
    right.hist(spread, 40, stacked=True, color=[MODEL, style.PALE])
    right.set(xlabel=f"months of PFS to {trials.rmst_months:g}, durable less others")
    right.set_title(f"95 % of trials: {low:.1f} to {high:.1f} months")
    for axes, none, true in ((left, 0.0, truth and np.log(truth[0])), (right, 0.0, truth and truth[1])):
        axes.axvline(none, color=style.BLACK, lw=0.8)
        if true is not None:
            axes.axvline(float(true), color=style.ORANGE, lw=1.6)
    handles: list[Any] = [
        Patch(color=MODEL, label=f"log-rank p < {ALPHA:g}"),
        Patch(color=style.PALE, label=f"p ≥ {ALPHA:g}"),
        Line2D([], [], color=style.BLACK, lw=0.8, label="no difference"),
    ]
    if truth is not None:
        handles.append(Line2D([], [], color=style.ORANGE, lw=1.6, label="all virtual patients"))
    style.legend_below(figure, handles, columns=4)
    told = "" if trials.comparable > 0.995 else f", {1 - trials.comparable:.0%} of them cannot be compared"
    figure.suptitle(title or f"What a study of {trials.size} would find ({trials.repeats} virtual trials{told})")
    return figure


def _percent(value: float, _: float) -> str:
    return f"{value:.0%}"

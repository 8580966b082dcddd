"""Paired counterfactuals: the same virtual patient under two arms, who gains, and what a common choice costs.

Equal numbers are the same patient (same parameters, same draw, same luck) in every scenario and world, so a difference
between arms is the patient's own and most of chance cancels. All differences are the first arm less the second.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH

from .counts import NOTHING, Estimate, Layout, Mean, Share
from .statistics import RESPONSES, STACKED, checked_weights, followed, reaches

type Floats = NDArray[np.float64]
type Ints = NDArray[np.int64]
type Flags = NDArray[np.bool_]
#: Outcomes of a scenario in a world.
type Read = Callable[[str, str], pd.DataFrame]

#: Columns of `contrasts.csv`.
CONTRAST_COLUMNS: Final = (
    "first_arm",
    "second_arm",
    "world",
    "group",
    "measure",
    "unit",
    "n",
    "value",
    "low",
    "high",
    "mc_error",
)
#: Columns of `choices.csv`.
CHOICE_COLUMNS: Final = ("world", "group", "measure", "arm", "unit", "n", "value", "low", "high", "mc_error")
#: Columns that a comparison reads.
COMPARED: Final = frozenset(
    "patient draw group best_2 evaluable_2 mrd5_2 mrd6_2 pfs_days_2 pfs_event_2 pfs_from_relapse_days "
    "cure_chance_2".split()
)
#: What must be said of a patient's own best arm.
UPPER_BOUND: Final = (
    "The best arm of each patient is found with that patient's simulated future in hand, luck included. Nobody can "
    "choose so: the regret of the common choice is an upper bound of what any choice by patient can win."
)


# --------------------------------------------------------------------------------------------------- pairs


@dataclass(frozen=True, kw_only=True, eq=False)
class Paired:
    """The same patients under two arms, in the order of their numbers.

    Attributes
    ----------
    patient, draw : ndarray
        (n,).
    group : ndarray of str
        (n,) of the first response.
    first, second : DataFrame
        Outcomes of each arm, row by row the same patient.
    """

    patient: Ints
    draw: Ints
    group: NDArray[np.str_]
    first: pd.DataFrame
    second: pd.DataFrame


def pair(frame_a: pd.DataFrame, frame_b: pd.DataFrame) -> Paired:
    """Join two arms by patient; who counts in one arm only is left out.

    Parameters
    ----------
    frame_a, frame_b
        Outcomes of two scenarios in one world, rows in any order.

    Raises
    ------
    ReinfuseError
        If an arm has a patient twice, or equal numbers are not of one draw.
    """
    first, second = _kept(frame_a), _kept(frame_b)
    ones, others = (frame["patient"].to_numpy().astype(np.int64) for frame in (first, second))
    if not np.array_equal(ones, others):
        _, left, right = np.intersect1d(ones, others, assume_unique=True, return_indices=True)
        first, second = first.iloc[left], second.iloc[right]
    draw = first["draw"].to_numpy().astype(np.int64)
    if not np.array_equal(draw, second["draw"].to_numpy()):
        raise ReinfuseError("equal patient numbers are of different draws; pair scenarios of one experiment")
    group = first["group"].to_numpy().astype(str)
    return Paired(
        patient=first["patient"].to_numpy().astype(np.int64), draw=draw, group=group, first=first, second=second
    )


def _kept(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that are compared, of the patients that count, in the order of their numbers."""
    own = frame.loc[followed(frame), [name for name in frame.columns if name in COMPARED]]
    number = own["patient"].to_numpy()
    if not (np.diff(number) > 0).all():
        own = own.iloc[np.argsort(number, kind="stable")]
        if (np.diff(own["patient"].to_numpy()) == 0).any():
            raise ReinfuseError("an arm has a patient twice; give outcomes of one scenario and one world")
    return own


def limited_months(frame: pd.DataFrame, horizon_months: float) -> Floats:
    """Second PFS of each patient in months, cut at a horizon.

    Raises
    ------
    ReinfuseError
        If the horizon is not positive, or someone is censored before it.
    """
    days = frame["pfs_days_2"].to_numpy(dtype=np.float64)
    if not horizon_months > 0:
        raise ReinfuseError(f"horizon is {horizon_months:g} months; give more than 0")
    ends = days[np.asarray(frame["pfs_event_2"] == "none")]
    if ends.size and ends.min() < horizon_months * DAYS_PER_MONTH * (1 - 1e-6):
        raise ReinfuseError(
            f"follow-up ends at {ends.min() / DAYS_PER_MONTH:.1f} months, before {horizon_months:g}; "
            "raise settings.second_horizon_months, or give a shorter horizon"
        )
    return np.asarray(np.minimum(days / DAYS_PER_MONTH, horizon_months))


# ----------------------------------------------------------------------------------------------- contrasts


def contrasts(
    read: Read,
    *,
    pairs: Sequence[tuple[str, str]],
    groups: Sequence[str],
    weights: Mapping[str, float],
    horizon_months: float = 24.0,
    margin_months: float = 1.0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Differences between arms in the same patients, per world and over worlds.

    Parameters
    ----------
    read
        Gives the outcomes of a scenario in a world; called twice for each pair and world.
    pairs
        Scenarios to set against each other: first less second.
    groups
        First-response groups; `all` comes before them.
    weights
        Of the worlds, summing to 1.
    horizon_months
        To which second PFS is counted.
    margin_months
        A patient benefits whose second PFS, so counted, is longer by more than this, and is harmed by the reverse.
    level
        Of the posterior intervals.

    Returns
    -------
    DataFrame
        Columns `CONTRAST_COLUMNS`; the world `stacked` comes first in each pair. Monte Carlo errors take draws as
        clusters; intervals hold how draws and worlds differ too.

    Raises
    ------
    ReinfuseError
        If weights are no weights, the margin is negative, arms do not pair, or follow-up ends before the horizon.
    """
    share = checked_weights(weights)
    _check_margin(margin_months)
    rows: list[dict[str, object]] = []
    for first, second in pairs:
        worlds = {}
        for world in share:
            paired = pair(read(first, world), read(second, world))
            worlds[world] = dict(_differences(paired, groups, horizon_months, margin_months))
        for world in (STACKED, *worlds):
            for (measure, unit), figures in _of_world(worlds, share, world):
                for group, figure in zip(("all", *groups), figures, strict=True):
                    if figure is not None or group == "all":
                        key = {"first_arm": first, "second_arm": second, "world": world, "group": group}
                        rows.append(key | {"measure": measure, "unit": unit, **_columns(figure, level)})
    table = pd.DataFrame(rows, columns=list(CONTRAST_COLUMNS))
    return _in_order(table, ["first_arm", "second_arm", "world", "group"])


def benefit(
    read: Read,
    *,
    first: str,
    second: str,
    weights: Mapping[str, float],
    horizon_months: float = 24.0,
    margin_months: float = 1.0,
) -> pd.DataFrame:
    """Each virtual patient's probability, over worlds, of gaining by the first arm rather than the second.

    Parameters
    ----------
    read, weights, horizon_months, margin_months
        As in `contrasts`.
    first, second
        Scenarios.

    Returns
    -------
    DataFrame
        Index `patient`; columns `draw`, `group` (in the world of the largest weight that has the patient), `difference`
        (months, mean over worlds), `benefit`, `harm` (probabilities over worlds). Worlds in which a patient does not
        count are left out of its own average.

    Notes
    -----
    A virtual patient is one possible patient. The probability of a *real* one is the mean over that patient's draws.

    Raises
    ------
    ReinfuseError
        As `contrasts`.
    """
    share = checked_weights(weights)
    _check_margin(margin_months)
    out = pd.DataFrame()
    for world in sorted((name for name in share if share[name] > 0), key=lambda name: -share[name]):
        paired = pair(read(first, world), read(second, world))
        difference = limited_months(paired.first, horizon_months) - limited_months(paired.second, horizon_months)
        sums = {
            "weight": np.ones(difference.size),
            "difference": difference,
            "benefit": (difference > margin_months).astype(np.float64),
            "harm": (difference < -margin_months).astype(np.float64),
        }
        index = pd.Index(paired.patient, name="patient")
        table = share[world] * pd.DataFrame(sums, index=index)
        labels = pd.DataFrame({"draw": paired.draw, "group": pd.Categorical(paired.group)}, index=index)
        out = _joined(out, table, labels)
    for name in ("difference", "benefit", "harm"):
        out[name] /= out["weight"]
    return out.drop(columns="weight").astype({"draw": np.int64, "group": str})


def _joined(out: pd.DataFrame, table: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Sums with those of one more world; labels stay those of the first world that has the patient."""
    if out.empty:
        return labels.join(table)
    if out.index.equals(table.index):
        out[table.columns] += table
        return out
    before = out[["draw", "group"]].astype({"group": str})
    summed = out[table.columns].add(table, fill_value=0.0)
    return before.combine_first(labels.astype({"group": str})).join(summed)


def _check_margin(margin_months: float) -> None:
    if not margin_months >= 0:
        raise ReinfuseError(f"margin is {margin_months:g} months; give 0 or more")


type Figure = Mean | Share


def _differences(
    paired: Paired, groups: Sequence[str], horizon: float, margin: float
) -> Iterator[tuple[tuple[str, str], list[Figure | None]]]:
    """Every measure of one pair in one world: for everyone, then for each group."""
    layout = _layout(paired.draw, paired.group, groups)
    everyone = np.ones(paired.patient.size, dtype=np.bool_)
    gain = limited_months(paired.first, horizon) - limited_months(paired.second, horizon)
    yield (f"second PFS to {horizon:g} months", "months"), _means(layout, gain, everyone, horizon)
    judged = [frame["evaluable_2"].to_numpy(dtype=np.bool_) for frame in (paired.first, paired.second)]
    for name, least in RESPONSES:
        flags = [reaches(frame["best_2"], least).astype(np.float64) for frame in (paired.first, paired.second)]
        yield (name, "proportion"), _means(layout, flags[0] - flags[1], judged[0] & judged[1], 1.0)
    for name, column in (
        ("MRD-negative 1e-5", "mrd5_2"),
        ("MRD-negative 1e-6", "mrd6_2"),
        ("cure chance", "cure_chance_2"),
    ):
        if column in paired.first and column in paired.second:
            values = [frame[column].to_numpy(dtype=np.float64) for frame in (paired.first, paired.second)]
            difference = values[0] - values[1]
            if np.isfinite(difference).any():
                yield (name, "proportion"), _means(layout, difference, np.isfinite(difference), 1.0)
    unit = "month" if margin == 1 else "months"
    beyond = f"more than {margin:g} {unit} of PFS" if margin else "PFS"
    yield (f"gains {beyond}", "proportion"), _shares(layout, gain > margin)
    yield (f"loses {beyond}", "proportion"), _shares(layout, gain < -margin)


def _layout(draw: Ints, group: NDArray[np.str_], groups: Sequence[str]) -> Layout:
    place = np.full(group.size, len(groups), dtype=np.int64)
    for k, name in enumerate(groups):
        place[group == name] = k
    return Layout(draw, place, len(groups) + 1)


def _means(layout: Layout, value: Floats, who: Flags, bound: float, least: float | None = None) -> list[Figure | None]:
    """Means between -bound and bound, or between `least` and bound."""
    some, own = layout.only(who), value[who]
    total, squares, size = some.add(own), some.add(own**2), some.count()
    return [
        Mean.of(total[k], squares[k], size[k], (-bound if least is None else least, bound)) for k in range(some.groups)
    ]


def _shares(layout: Layout, flags: Flags) -> list[Figure | None]:
    hits, size = layout.count(flags), layout.count()
    return [Share.of(hits[k], size[k]) for k in range(layout.groups)]


def _of_world[Key](
    worlds: Mapping[str, Mapping[Key, Sequence[Figure | None]]], share: Mapping[str, float], world: str
) -> Iterator[tuple[Key, list[Figure | None]]]:
    """Figures of one world, or of the mixture of all."""
    if world != STACKED:
        yield from ((key, list(figures)) for key, figures in worlds[world].items())
        return
    for key in dict.fromkeys(key for figures in worlds.values() for key in figures):
        having = [(share[name], figures[key]) for name, figures in worlds.items() if key in figures]
        yield key, [_mixed([(w, figures[k]) for w, figures in having]) for k in range(len(having[0][1]))]


def _mixed(figures: Sequence[tuple[float, Figure | None]]) -> Figure | None:
    there = [(weight, figure) for weight, figure in figures if figure is not None and weight > 0]
    total = sum(weight for weight, _ in there)
    if not there:
        return None
    several = [figure for _, figure in there]
    return type(several[0]).mixed(several, [weight / total for weight, _ in there])  # type: ignore[arg-type]


def _columns(figure: Figure | None, level: float) -> dict[str, object]:
    found: Estimate = NOTHING if figure is None else figure.estimate(level)
    return {
        "n": found.n, "value": found.value, "low": found.low, "high": found.high, "mc_error": found.mc_error,
    }  # fmt: skip


def _in_order(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Rows of a group one after another, all else in the order in which it came."""
    if table.empty:
        return table
    place = table.groupby(keys, sort=False).ngroup()
    return table.iloc[np.argsort(place.to_numpy(), kind="stable")].reset_index(drop=True)


# ------------------------------------------------------------------------------------------------- choices


def choices(
    read: Read,
    *,
    arms: Sequence[str],
    groups: Sequence[str],
    weights: Mapping[str, float],
    horizon_months: float = 24.0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Which arm is best on average, for how many patients it is their own best, and what choosing it for all costs.

    Parameters
    ----------
    read, weights, horizon_months
        As in `contrasts`; called once for each arm and world.
    arms
        Scenarios to choose among, at least two.
    groups
        First-response groups; `all` comes before them.
    level
        Of the intervals.

    Returns
    -------
    DataFrame
        Columns `CHOICE_COLUMNS`. For each world and group: the mean of each arm; the share of patients whose own best
        it is (ties go to the arm that is better on average); the regret of the common choice, that is the mean over
        patients of their own best less what the arm chosen for everyone gives them; and the regret that stays when the
        arm that is best in the group is chosen in the group. In the world `stacked` the outcome of an arm is its mean
        over worlds, since who chooses does not know the world. Regrets are upper bounds: see `UPPER_BOUND`.

    Raises
    ------
    ReinfuseError
        As `contrasts`, or if there are fewer than two different arms.
    """
    share = {world: weight for world, weight in checked_weights(weights).items() if weight > 0}
    if len(set(arms)) != len(arms) or len(arms) < 2:
        raise ReinfuseError(f"arms are {', '.join(arms) or 'none'}; give at least two different scenarios")
    rows: dict[str, list[dict[str, object]]] = {STACKED: []}
    for world, table in _world_by_world(read, arms, share, horizon_months):
        rows[world] = [
            {"world": world, **key, **_columns(figure, level)}
            for key, figure in _choice(table, arms, groups, horizon_months)
        ]
    return pd.DataFrame([row for of_world in rows.values() for row in of_world], columns=list(CHOICE_COLUMNS))


def best_arms(
    read: Read, *, arms: Sequence[str], weights: Mapping[str, float], horizon_months: float = 24.0
) -> pd.DataFrame:
    """Each virtual patient's own best arm over worlds, and what the common choice costs the patient.

    Parameters
    ----------
    read, arms, weights, horizon_months
        As in `choices`.

    Returns
    -------
    DataFrame
        Index `patient`; columns `draw`, `group`, `best` (the arm), `regret` (months, of the arm best on average), and
        each arm's months averaged over worlds.
    """
    share = {world: weight for world, weight in checked_weights(weights).items() if weight > 0}
    *_, (_, table) = _world_by_world(read, arms, share, horizon_months)
    table = table.astype({"group": str})
    if table.empty:
        return table.assign(best="", regret=0.0)
    months = table[list(arms)].to_numpy()
    best = _own_best(months)
    regret = months[np.arange(len(months)), best] - months[:, _common(months)]
    return table.assign(best=np.array(arms)[best], regret=regret)


def _world_by_world(
    read: Read, arms: Sequence[str], share: Mapping[str, float], horizon: float
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each world and its `_arm_table`, one in memory beside the running mean of all, which comes last as `STACKED`.

    The mean is of patients who count in every world; their group is of the heaviest.
    """
    heaviest = max(share, key=lambda world: share[world])
    mean, labels = pd.DataFrame(), pd.DataFrame()
    for place, (world, weight) in enumerate(share.items()):
        table = _arm_table(read, arms, world, horizon)
        yield world, table
        if world == heaviest:
            labels = table[["draw", "group"]]
        own = weight * table[list(arms)]
        mean = own if place == 0 else _sum(mean, own)
    yield STACKED, labels.loc[mean.index].join(mean)


def _sum(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Sum over the rows that both have, in order."""
    if not one.index.equals(other.index):
        common = one.index.intersection(other.index).sort_values()
        one, other = one.loc[common], other.loc[common]
    return one + other


def _arm_table(read: Read, arms: Sequence[str], world: str, horizon: float) -> pd.DataFrame:
    """Months of second PFS by patient (index) and arm, of those who count in every arm; `draw` and `group` beside."""
    columns: list[pd.Series] = []
    base = pd.DataFrame()
    for arm in arms:
        own = _kept(read(arm, world))
        index = pd.Index(own["patient"].to_numpy(), name="patient")
        columns.append(pd.Series(limited_months(own, horizon), index=index, name=arm))
        if len(columns) == 1:
            labels = {"draw": own["draw"].to_numpy(), "group": pd.Categorical(own["group"])}
            base = pd.DataFrame(labels, index=index)
    return pd.concat([base, *columns], axis=1, join="inner").sort_index()


def _choice(
    table: pd.DataFrame, arms: Sequence[str], groups: Sequence[str], horizon: float
) -> Iterator[tuple[dict[str, str], Figure | None]]:
    """Every row of one world."""
    months, group = table[list(arms)].to_numpy(dtype=np.float64), table["group"]
    draw = table["draw"].to_numpy().astype(np.int64)
    common = _common(months) if len(months) else 0
    for name in ("all", *groups):
        who = slice(None) if name == "all" else np.asarray(group == name, dtype=np.bool_)
        own, layout = months[who], Layout(draw[who])
        if not len(own):
            continue
        everyone = np.ones(len(own), dtype=np.bool_)
        best = _own_best(own)
        for k, arm in enumerate(arms):
            key = {"group": name, "arm": arm}
            yield (
                key | {"measure": f"mean PFS to {horizon:g} months", "unit": "months"},
                _means(layout, own[:, k], everyone, horizon, 0.0)[0],
            )
            yield key | {"measure": "own best arm", "unit": "proportion"}, _shares(layout, best == k)[0]
        top = own.max(axis=1)
        here = _common(own)
        for measure, k in (("regret of the common choice", common), ("regret of the group's choice", here)):
            key = {"group": name, "arm": arms[k], "measure": measure, "unit": "months"}
            yield key, _means(layout, top - own[:, k], everyone, horizon, 0.0)[0]


def _common(months: Floats) -> int:
    """The arm that is best on average; the first of equals."""
    return int(np.argmax(months.mean(axis=0)))


def _own_best(months: Floats) -> Ints:
    """Each patient's best arm, (n,); ties go to the arm that is better on average."""
    order = np.argsort(-months.mean(axis=0), kind="stable")
    return np.asarray(order[np.argmax(months[:, order], axis=1)], dtype=np.int64)

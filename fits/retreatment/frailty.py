"""What the correlation of first and second PFS is made of: how much is frailty, how much dysfunction.

A patient who did well once tends to do well again: the tumour is the same, and so are the T cells. Such frailty
makes first and second PFS correlate without any exhaustion. Here the second course of a virtual patient is
simulated again with parts of it taken from another patient of the same draw (a donor): what the correlation
loses with a part is what that part carried. A coalition says which parts stay the patient's own; with all of
them it is the patient's own second course, with none the donor's. The correlation is attributed to the parts
by Shapley's value, exactly, over all coalitions.

Correlations are taken *within* a draw of the population and averaged over draws. Over all draws together, what
we do not know about the population correlates too: under a draw of slow tumours everybody does well twice.

The kernel cannot change a parameter in the middle of a course. So the second course is simulated as a first
one that begins in the state at the second infusion. That is the same differential equation but for what it
leaves out: first-product cells that outlive the second lymphodepletion, immunity against the CAR so far, and,
where fewer BCMA-low cells are left than the model starts with, some of their mutation. M-protein does not act
back on anything and is linear in the tumour, so its start is put right exactly.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import combinations
from math import comb
from types import MappingProxyType
from typing import Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from reinfuse.model.course import VEIN_TO_VEIN, Infusion, resolve
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH, table
from reinfuse.model.response import Response, ResponseRules, assess, progression_free
from reinfuse.model.simulate import simulate_population, solved

from .statistics import Estimate, rank_correlation
from .virtual_patients import PopulationDraws, VirtualPatients

type Floats = NDArray[np.float64]
type Flags = NDArray[np.bool_]
type Places = NDArray[np.int64]
type Coalition = frozenset[str]

GROWTH: Final = "tumour growth"
T_CELLS: Final = "T-cell quality"
KILLING: Final = "killing"
BURDEN: Final = "burden"
ANTIGEN: Final = "BCMA-low share"
DYSFUNCTION: Final = "dysfunction"
#: The parts of a second course that may stay or be another's, and what is meant.
FACTORS: Final[Mapping[str, str]] = MappingProxyType(
    {
        GROWTH: "how fast the tumour grows",
        T_CELLS: "expansion, memory, exhaustion rates and persistence of CAR-T cells",
        KILLING: "how well CAR-T cells kill this tumour",
        BURDEN: "size of the tumour and its M-protein at the second infusion",
        ANTIGEN: "BCMA-low share of the tumour at the second infusion",
        DYSFUNCTION: "the host's T-cell dysfunction when the second product's cells are taken",
    }
)
#: Parameters that go with a part; the last three parts are mostly states at the second infusion.
PARAMETERS_OF: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        GROWTH: ("r", "KB", "crt", "u"),
        T_CELLS: (
            *("rho", "KA", "KC", "tg", "hg", "psi", "lag", "hlag"),
            *("dE", "eps", "eta", "rM", "dM", "kX", "rX", "dX", "bX", "feng", "fXQ"),
            *("kA", "KAC", "dA", "alA"),
        ),
        KILLING: ("k", "KE", "w", "xi", "by", "bK", "KQ"),
        BURDEN: ("kP",),
        ANTIGEN: (),
        DYSFUNCTION: (),
    }
)
EVERYTHING: Final[Coalition] = frozenset(FACTORS)
#: Draws with fewer patients than this who count are left out: they say little about a correlation.
FEWEST: Final = 20
#: Share of BCMA-low cells above which the simulator could not start.
MOST_ANTIGEN_LOW: Final = 1 - 1e-12
#: As for the scenarios: response classes and visits do not see more.
TOLERANCE: Final = 1e-6
FULL: Final = "full"
NO_DYSFUNCTION: Final = "host dysfunction off, both courses"
NO_LOSSES: Final = "lasting losses per line off"
NO_EFFECT: Final = "dysfunction at apheresis without effect"
#: Parameters held at 0 in both courses. The lasting losses are the same for all patients of a draw: they tell patients
#: apart only by making more or less of what tells them apart.
SWITCHED_OFF: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        NO_DYSFUNCTION: ("bR", "bXQ", "sline", "sres"),
        NO_LOSSES: ("sline", "sres"),
        NO_EFFECT: ("bR", "bXQ"),
    }
)
BANKED: Final = "second product from cells taken before therapy"
#: What is shown of all coalitions, most of the patient's own first.
LADDER: Final[Mapping[str, Coalition]] = MappingProxyType(
    {
        "T cells and killing redrawn": frozenset({GROWTH, BURDEN, ANTIGEN, DYSFUNCTION}),
        "T cells, killing and dysfunction redrawn": frozenset({GROWTH, BURDEN, ANTIGEN}),
        "everything redrawn but tumour growth": frozenset({GROWTH}),
        "everything redrawn but dysfunction": frozenset({DYSFUNCTION}),
        "everything redrawn": frozenset(),
    }
)
LADDER_COLUMNS: Final = (
    *("simulation", "own", "correlation", "low", "high", "mc_error"),
    *("change", "change_mc_error", "n", "draws"),
)
ATTRIBUTION_COLUMNS: Final = (
    *("factor", "shapley", "low", "high", "mc_error", "share"),
    *("alone", "alone_mc_error", "last", "last_mc_error"),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class TwoCourses:
    """What is given: the first infusion on day 0, the second some days after progression.

    Attributes
    ----------
    first, second : Infusion
        The day of the second is not read; its `apheresis_day` is None (35 days before) or a number of at most 0
        (taken before therapy).
    days_after_progression : float
        The second infusion falls on the next whole day.
    follow_up_months : float
        Of each course; who has not progressed by then has no second course.
    rules : ResponseRules
        Visits and thresholds.

    Raises
    ------
    ReinfuseError
        If the wait or the follow-up is not positive, or the cells are taken on a fixed day during therapy.
    """

    first: Infusion
    second: Infusion
    days_after_progression: float = 60.0
    follow_up_months: float = 60.0
    rules: ResponseRules = field(default_factory=ResponseRules)

    def __post_init__(self) -> None:
        for name in ("days_after_progression", "follow_up_months"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise ReinfuseError(f"{name} is {value}; give a number above 0")
        taken = self.second.apheresis_day
        if taken is not None and not np.all(np.asarray(taken, dtype=np.float64) <= 0):
            raise ReinfuseError(
                f"apheresis_day of the second infusion is {taken}; leave it out (cells taken at relapse) or give 0 "
                "(taken before therapy)"
            )

    @property
    def follow_up_days(self) -> float:
        """Whole days of follow-up of each course."""
        return float(np.ceil(self.follow_up_months * DAYS_PER_MONTH))


@dataclass(frozen=True, kw_only=True, eq=False)
class StateAtSecond:
    """State just before the second infusion (and before bridging), (n,) each; NaN for who gets none.

    Attributes
    ----------
    day : ndarray
        Of the second infusion, since the first.
    burden : ndarray
        Myeloma cells.
    antigen_low : ndarray
        Share of BCMA-low cells.
    mprotein : ndarray
        g/dL.
    secretion : ndarray
        M-protein that a steady tumour would have per cell, g/dL.
    dysfunction : ndarray
        Of the host's T cells when the cells of the second product were taken, 0 to 1.
    """

    day: Floats
    burden: Floats
    antigen_low: Floats
    mprotein: Floats
    secretion: Floats
    dysfunction: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstCourse:
    """First courses of n candidates.

    Attributes
    ----------
    pfs_days : ndarray (n,)
        First PFS.
    again : ndarray of bool (n,)
        Who gets a second infusion: solved, measurable, progressed within follow-up, alive on the day.
    responded : ndarray of bool (n,)
        At least PR.
    death_days : ndarray (n,)
        From the second infusion to death without relapse.
    state : StateAtSecond
    """

    pfs_days: Floats
    again: Flags
    responded: Flags
    death_days: Floats
    state: StateAtSecond


@dataclass(frozen=True, kw_only=True, eq=False)
class Decomposition:
    """What the correlation of first and second PFS is made of.

    Attributes
    ----------
    ladder : DataFrame
        `LADDER_COLUMNS`: correlation with more and more of the second course taken from another patient. `change`
        is against the full simulation, by pairs. `low` and `high` hold what is unknown about the population.
    attribution : DataFrame
        `ATTRIBUTION_COLUMNS`, one row per factor: Shapley's value of the correlation, its share of the full
        correlation, and the two extreme orders: `alone` (added first, to nothing) and `last` (added to all others).
    pooled : float
        Correlation over the patients of all draws together, which holds ignorance about the population too.
    candidates, patients, failures : int
        Virtual patients treated once; those whose correlation is looked at; second courses left out because they
        could not be solved or M-protein was not measurable at the second infusion.
    responders : bool
        Whether only those count who had responded to the first product.
    """

    ladder: pd.DataFrame
    attribution: pd.DataFrame
    pooled: float
    candidates: int
    patients: int
    failures: int
    responders: bool

    @property
    def sentences(self) -> tuple[str, ...]:
        """The answer in plain words."""
        return _in_words(self)


# ------------------------------------------------------------------------------------------ two courses


def first_course(patients: VirtualPatients, plan: TwoCourses, *, options: str, luck: Floats) -> FirstCourse:
    """Treat candidates once and note the state in which each would get the second infusion.

    Parameters
    ----------
    patients
        n candidates.
    plan
        What is given.
    options
        Parameter table of the numbers: `reference` or `real`.
    luck
        Standard exponential numbers (n, 2): death without relapse in either course.
    """
    visits = _visits(plan)
    again = np.ceil(visits[1:] + plan.days_after_progression)
    times = np.unique(np.concatenate([visits, again, again[again > VEIN_TO_VEIN] - VEIN_TO_VEIN]))
    simulated = simulate_population(
        course=[plan.first],
        times=times,
        parameters={**patients.parameters, **_slot(patients, plan.first, occasion=patients.occasion[:, 0])},
        options=options,
        readouts=("Ts", "Tr", "Q", "mprotein"),
        tolerance=TOLERANCE,
        land=False,
    )
    sensitive, low, dysfunction, protein = (_array(simulated, name) for name in ("Ts", "Tr", "Q", "mprotein"))
    death = _deaths(patients, options, luck)
    until = np.minimum(plan.follow_up_days, death[:, 0])
    judged = assess(
        times=times, mprotein=protein, burden=sensitive + low, start=np.zeros(patients.n), until=until, rules=plan.rules
    )
    progression = judged.time_to_progression
    known = np.where(np.isnan(progression), np.inf, progression)
    pfs, _ = progression_free(known, death[:, 0], plan.follow_up_days)
    relapsed = np.isfinite(progression) & (progression <= np.minimum(death[:, 0], plan.follow_up_days))
    day = np.where(relapsed, np.ceil(np.where(relapsed, progression, 0.0) + plan.days_after_progression), np.nan)
    left = death[:, 1] - (day - progression)
    return FirstCourse(
        pfs_days=pfs,
        again=solved(simulated["status"].to_numpy()) & relapsed & (left > 0),
        responded=judged.at_least(Response.PR),
        death_days=left,
        state=StateAtSecond(
            day=day,
            burden=_on(times, sensitive + low, day),
            antigen_low=_on(times, low / (sensitive + low), day),
            mprotein=_on(times, protein, day),
            secretion=patients.parameters["P0"] / patients.parameters["B0"],
            dysfunction=_at_apheresis(times, dysfunction, day, patients, plan),
        ),
    )


def _at_apheresis(
    times: Floats, dysfunction: Floats, day: Floats, patients: VirtualPatients, plan: TwoCourses
) -> Floats:
    before = patients.parameters["Q0"]
    if plan.second.apheresis_day is not None:
        return np.where(np.isnan(day), np.nan, before)
    taken = day - VEIN_TO_VEIN
    return np.where(taken > 0, _on(times, dysfunction, taken), np.where(np.isnan(day), np.nan, before))


def second_course(
    patients: VirtualPatients,
    state: StateAtSecond,
    plan: TwoCourses,
    *,
    options: str,
    times: Floats | None = None,
) -> xr.Dataset:
    """Simulate second courses as first ones that begin in the state at the second infusion.

    Parameters
    ----------
    patients
        n patients with their parameters during the second course.
    state
        In which each gets the second infusion.
    plan
        What is given.
    options
        Parameter table of the numbers.
    times
        Days since the second infusion; the visits when None.

    Returns
    -------
    xarray.Dataset
        `Ts`, `Tr`, `mprotein`, `cart` (patient, time) and `status` (patient).
    """
    grid = _visits(plan) if times is None else np.asarray(times, dtype=np.float64)
    simulated = simulate_population(
        course=[_as_first(plan.second)],
        times=grid,
        parameters=_restart(patients, state, plan),
        options=options,
        readouts=("Ts", "Tr", "mprotein", "cart"),
        tolerance=TOLERANCE,
        land=False,
    )
    steady = state.secretion * state.burden
    missing = (state.mprotein - steady)[:, None] * np.exp(-patients.parameters["kP"][:, None] * grid)
    return simulated.assign(mprotein=simulated["mprotein"] + xr.DataArray(missing, dims=("patient", "time")))


def _restart(patients: VirtualPatients, state: StateAtSecond, plan: TwoCourses) -> dict[str, Floats]:
    """Parameters with which a first course begins as the second one would."""
    own = patients.parameters
    low = np.minimum(state.antigen_low, MOST_ANTIGEN_LOW)
    # a start has at least 20 u of BCMA-low cells: where fewer are left, mutation gives way, not the state
    mutation = np.minimum(own["u"], low / 20.0)
    given = resolve([plan.first, Infusion(product=plan.second.product, day=1.0, same_scfv=plan.second.same_scfv)])[1]
    slot = _slot(patients, plan.second, occasion=patients.occasion[:, 1] - own["sline"])
    # losses that a second infusion brings: of proliferation by `sline`, of killing by `sres`
    killing = slot.get("m0_1", np.full(patients.n, given.product.m0)) * np.exp(-own["sres"])
    return {
        **own,
        **slot,
        "m0_1": killing,
        "chi_1": np.full(patients.n, float(given.chi)),
        "B0": state.burden,
        "u": mutation,
        "fr": np.maximum(low - 20.0 * mutation, 0.0),
        "P0": state.secretion * state.burden,
        "Q0": state.dysfunction,
    }


def _as_first(second: Infusion) -> Infusion:
    return Infusion(
        product=second.product,
        dose=second.dose,
        lymphodepletion=second.lymphodepletion,
        bridging=second.bridging,
    )


def _slot(patients: VirtualPatients, infusion: Infusion, *, occasion: Floats) -> dict[str, Floats]:
    """Fields of the product of the only infusion of a course, where uncertain or fitted."""
    name = resolve([_as_first(infusion)])[0].product.name
    fields = {f"{field}_1": values for (product, field), values in patients.fields.items() if product == name}
    return {**fields, "occ_1": occasion}


def _pfs(simulated: xr.Dataset, death: Floats, plan: TwoCourses) -> Floats:
    """Second PFS, days; NaN where not solved or not measurable."""
    burden, protein = _array(simulated, "Ts") + _array(simulated, "Tr"), _array(simulated, "mprotein")
    judged = assess(
        times=simulated["time"].to_numpy().astype(np.float64),
        mprotein=protein,
        burden=burden,
        start=np.zeros(burden.shape[0]),
        until=np.minimum(plan.follow_up_days, death),
        rules=plan.rules,
    )
    # who dies before the first visit cannot be judged, but has a PFS
    never = np.where(np.isfinite(burden).all(axis=1) & (judged.baseline >= plan.rules.measurable), np.inf, np.nan)
    progression = np.where(np.isnan(judged.time_to_progression), never, judged.time_to_progression)
    pfs, _ = progression_free(np.where(np.isnan(progression), np.inf, progression), death, plan.follow_up_days)
    return np.where(np.isnan(progression), np.nan, pfs)


def _visits(plan: TwoCourses) -> Floats:
    return np.unique(np.concatenate([[0.0], plan.rules.schedule(plan.follow_up_days), [plan.follow_up_days]]))


def _deaths(patients: VirtualPatients, options: str, luck: Floats) -> Floats:
    hazard = patients.parameters.get("hD", np.full(patients.n, table(options)["hD"].median))
    with np.errstate(divide="ignore"):
        return np.asarray(luck / hazard[:, None], dtype=np.float64)


def _array(simulated: xr.Dataset, name: str) -> Floats:
    return np.asarray(simulated[name].transpose("patient", "time").to_numpy(), dtype=np.float64)


def _on(times: Floats, values: Floats, day: Floats) -> Floats:
    """Value of each patient on a day of the grid; NaN where the day is."""
    there = np.isfinite(day)
    place = np.clip(np.searchsorted(times, np.where(there, day, times[0])), 0, times.size - 1)
    return np.where(there, values[np.arange(day.size), place], np.nan)


# ---------------------------------------------------------------------------------------- what is whose


def donors(draw: Places, rng: np.random.Generator) -> Places:
    """Another patient of the same draw for each, every one used once, (n,); who is alone is his own donor."""
    out = np.arange(draw.size)
    for members in _by_draw(draw):
        order = rng.permutation(members)
        out[order] = np.roll(order, 1)
    return out


def recombined(
    patients: VirtualPatients, state: StateAtSecond, other: Places, own: Coalition
) -> tuple[VirtualPatients, StateAtSecond]:
    """Give each patient the second course of another, but for the parts that stay.

    Parameters
    ----------
    patients, state
        n patients and their states at the second infusion.
    other
        Whose parts are taken, places in 0..n-1.
    own
        Factors that stay the patient's own.
    """
    unknown = own - EVERYTHING
    if unknown:
        raise ReinfuseError(f"unknown factor {sorted(unknown)[0]!r}; there are {', '.join(FACTORS)}")
    here = np.arange(patients.n)
    whose = {factor: here if factor in own else other for factor in FACTORS}
    parameters = dict(patients.parameters)
    for factor, names in PARAMETERS_OF.items():
        parameters |= {name: parameters[name][whose[factor]] for name in names if name in parameters}
    burden = whose[BURDEN]
    return (
        VirtualPatients(parameters=parameters, draw=patients.draw, fields=patients.fields, occasion=patients.occasion),
        StateAtSecond(
            day=state.day,
            burden=state.burden[burden],
            antigen_low=state.antigen_low[whose[ANTIGEN]],
            mprotein=state.mprotein[burden],
            secretion=state.secretion[burden],
            dysfunction=state.dysfunction[whose[DYSFUNCTION]],
        ),
    )


def coalitions() -> list[Coalition]:
    """All sets of factors, the empty one first and the full one last."""
    return [frozenset(some) for size in range(len(FACTORS) + 1) for some in combinations(FACTORS, size)]


# -------------------------------------------------------------------------------------------- correlation


@dataclass(frozen=True, kw_only=True, eq=False)
class ByDraw:
    """A figure of each of D draws, and the same from the two halves of its patients.

    Two halves share the draw but not the chance: their covariance over draws is what truly differs between draws.

    Attributes
    ----------
    all, odd, even : ndarray (D,)
        NaN where a draw has too few patients.
    """

    all: Floats
    odd: Floats
    even: Floats

    def __sub__(self, other: "ByDraw") -> "ByDraw":
        return ByDraw(all=self.all - other.all, odd=self.odd - other.odd, even=self.even - other.even)

    def __add__(self, other: "ByDraw") -> "ByDraw":
        return ByDraw(all=self.all + other.all, odd=self.odd + other.odd, even=self.even + other.even)

    def __truediv__(self, number: float) -> "ByDraw":
        return ByDraw(all=self.all / number, odd=self.odd / number, even=self.even / number)


def within_draws(first: Floats, second: Floats, draw: Places, n_draws: int) -> ByDraw:
    """Spearman correlation among the patients of each draw; NaN with fewer than `FEWEST` patients."""
    out = ByDraw(all=np.full(n_draws, np.nan), odd=np.full(n_draws, np.nan), even=np.full(n_draws, np.nan))
    for members in _by_draw(draw):
        if members.size >= FEWEST:
            which = draw[members[0]]
            for figures, some in ((out.all, members), (out.odd, members[1::2]), (out.even, members[::2])):
                figures[which] = rank_correlation(first[some], second[some])
    return out


def averaged(figures: ByDraw, *, n: int = 0, level: float = 0.95) -> Estimate:
    """Average a figure of each draw.

    Parameters
    ----------
    figures
        One per draw.
    n
        Patients it rests on, for the record.
    level
        Of the interval, which holds what differs between draws, chance taken out, and the Monte Carlo error. It is
        symmetric.

    Returns
    -------
    Estimate
        The Monte Carlo error treats draws as clusters.
    """
    there = np.isfinite(figures.all) & np.isfinite(figures.odd) & np.isfinite(figures.even)
    known = figures.all[there]
    nothing = float("nan")
    if known.size < 2:
        value = float(known[0]) if known.size else nothing
        return Estimate(value=value, low=nothing, high=nothing, mc_error=nothing, n=n)
    value, error = float(known.mean()), float(np.sqrt(known.var(ddof=1) / known.size))
    between = max(float(np.cov(figures.odd[there], figures.even[there])[0, 1]), 0.0)
    half = float(stats.norm.ppf((1 + level) / 2)) * float(np.sqrt(between + error**2))
    return Estimate(value=value, low=max(value - half, -1.0), high=min(value + half, 1.0), mc_error=error, n=n)


def shapley(worth: Mapping[Coalition, ByDraw]) -> dict[str, ByDraw]:
    """Shapley's value of each factor (Shapley 1953), the mean of what it adds over all orders of adding.

    Parameters
    ----------
    worth
        Value of every coalition.

    Returns
    -------
    dict of str to ByDraw
        They sum to the worth of everything less the worth of nothing.
    """
    out: dict[str, ByDraw] = {}
    count = len(FACTORS)
    for factor in FACTORS:
        gains = [
            (worth[some | {factor}] - worth[some]) / (count * comb(count - 1, len(some)))
            for some in worth
            if factor not in some
        ]
        out[factor] = reduce(ByDraw.__add__, gains)
    return out


def _by_draw(draw: Places) -> Iterator[Places]:
    """Places of the members of each draw, by rising draw."""
    order = np.argsort(draw, kind="stable")
    _, begin = np.unique(draw[order], return_index=True)
    yield from np.split(order, begin[1:])


# ------------------------------------------------------------------------------------------ decomposition


def decompose(
    population: PopulationDraws,
    plan: TwoCourses,
    *,
    per_draw: int = 150,
    seed: int = 1,
    responders: bool = True,
    level: float = 0.95,
    progress: Callable[[float], None] | None = None,
) -> Decomposition:
    """Decompose the correlation of first and second PFS.

    Parameters
    ----------
    population
        Where virtual patients come from; every draw gives as many candidates.
    plan
        What is given.
    per_draw
        Candidates per draw; about half of them progress after a response.
    seed
        Of every random number. The same patients, chance events and donors go through every simulation.
    responders
        Only those who had responded to the first product (at least PR), as most who are retreated have.
    level
        Of the intervals.
    progress
        Called with the share of the work done since the last call.

    Returns
    -------
    Decomposition

    Raises
    ------
    ReinfuseError
        If `per_draw` is too small, or no draw has enough patients who progress.
    """
    if per_draw < FEWEST:
        raise ReinfuseError(f"per_draw is {per_draw}; give at least {FEWEST} candidates per draw")
    tick = progress or (lambda _: None)
    seeds = np.random.SeedSequence(seed).spawn(3)
    candidates = population.sample(per_draw * population.n_draws, np.random.default_rng(seeds[0]))
    luck = np.random.default_rng(seeds[1]).standard_exponential((candidates.n, 2))
    run = _Paired(candidates, plan, population.options, luck, responders)
    work = len(coalitions()) + 1 + 3 * len(SWITCHED_OFF) + 1

    own = run.kept(candidates.parameters)
    other = donors(own.patients.draw, np.random.default_rng(seeds[2]))
    tick(1 / work)
    pfs: dict[Coalition, Floats] = {}
    for coalition in coalitions():
        pfs[coalition] = run.second(own, *recombined(own.patients, own.state, other, coalition))
        tick(1 / work)
    banked = _with_dysfunction(own.state, own.patients.parameters["Q0"])
    before_therapy = run.second(own, own.patients, banked)
    tick(1 / work)
    off: dict[str, tuple[_Kept, Floats]] = {}
    for label, names in SWITCHED_OFF.items():
        off[label] = run.without(names)
        tick(3 / work)

    solved_all = np.isfinite(np.column_stack([*pfs.values(), before_therapy])).all(axis=1)
    failures = int(np.count_nonzero(~solved_all))
    own = own.only(solved_all)
    most = int(np.bincount(own.patients.draw).max(initial=0)) if own.patients.n else 0
    if most < FEWEST:
        raise ReinfuseError(
            f"no draw has {FEWEST} patients who {'responded, ' if responders else ''}progressed and lived to a second "
            f"infusion (at most {most} of {per_draw}); raise per_draw or the follow-up"
        )

    def correlated(kept: _Kept, second: Floats) -> ByDraw:
        return within_draws(kept.first, second, kept.patients.draw, population.n_draws)

    worth = {coalition: correlated(own, second[solved_all]) for coalition, second in pfs.items()}
    ladder = [
        _Rung(FULL, "everything", worth[EVERYTHING], own),
        *(_Rung(label, "everything", correlated(kept, second), kept) for label, (kept, second) in off.items()),
        _Rung(BANKED, "everything", correlated(own, before_therapy[solved_all]), own),
        *(_Rung(label, _named(coalition), worth[coalition], own) for label, coalition in LADDER.items()),
    ]
    return Decomposition(
        ladder=_ladder(ladder, level),
        attribution=_attribution(worth, level),
        pooled=rank_correlation(own.first, pfs[EVERYTHING][solved_all]),
        candidates=candidates.n,
        patients=own.patients.n,
        failures=failures,
        responders=responders,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Kept:
    """Those who get a second infusion."""

    patients: VirtualPatients
    first: Floats
    death: Floats
    state: StateAtSecond

    def only(self, rows: Flags) -> "_Kept":
        return _Kept(
            patients=self.patients.subset(rows),
            first=self.first[rows],
            death=self.death[rows],
            state=_subset(self.state, rows),
        )


@dataclass(frozen=True, eq=False)
class _Rung:
    """One line of the ladder: what is done, what stays the patient's own, correlations, and whose they are."""

    simulation: str
    own: str
    correlations: ByDraw
    kept: _Kept


@dataclass(frozen=True, eq=False)
class _Paired:
    """The same candidates and the same luck, under whichever parameters."""

    candidates: VirtualPatients
    plan: TwoCourses
    options: str
    luck: Floats
    responders: bool

    def kept(self, parameters: Mapping[str, Floats]) -> _Kept:
        patients = VirtualPatients(
            parameters=dict(parameters),
            draw=self.candidates.draw,
            fields=self.candidates.fields,
            occasion=self.candidates.occasion,
        )
        first = first_course(patients, self.plan, options=self.options, luck=self.luck)
        rows = first.again & first.responded if self.responders else first.again
        return _Kept(
            patients=patients.subset(rows),
            first=first.pfs_days[rows],
            death=first.death_days[rows],
            state=_subset(first.state, rows),
        )

    def without(self, names: Sequence[str]) -> tuple[_Kept, Floats]:
        """Who is treated again and their second PFS with some parameters at 0 in both courses."""
        held = {name: np.zeros(self.candidates.n) for name in names}
        kept = self.kept({**self.candidates.parameters, **held})
        second = self.second(kept, kept.patients, kept.state)
        known = np.isfinite(second)
        return kept.only(known), second[known]

    def second(self, kept: _Kept, patients: VirtualPatients, state: StateAtSecond) -> Floats:
        if patients.n == 0:
            return np.empty(0)
        return _pfs(second_course(patients, state, self.plan, options=self.options), kept.death, self.plan)


def _subset(state: StateAtSecond, rows: Flags) -> StateAtSecond:
    return StateAtSecond(**{name: values[rows] for name, values in vars(state).items()})


def _with_dysfunction(state: StateAtSecond, dysfunction: Floats) -> StateAtSecond:
    return StateAtSecond(**{**vars(state), "dysfunction": dysfunction})


def _named(coalition: Coalition) -> str:
    return ", ".join(factor for factor in FACTORS if factor in coalition) or "nothing"


def _ladder(rungs: Sequence[_Rung], level: float) -> pd.DataFrame:
    full = rungs[0].correlations
    out: list[dict[str, object]] = []
    for rung in rungs:
        counted = np.isfinite(rung.correlations.all)
        n = int(counted[rung.kept.patients.draw].sum())
        figure = averaged(rung.correlations, n=n, level=level)
        change = averaged(rung.correlations - full)
        out.append(
            {
                "simulation": rung.simulation,
                "own": rung.own,
                "correlation": figure.value,
                "low": figure.low,
                "high": figure.high,
                "mc_error": figure.mc_error,
                "change": change.value,
                "change_mc_error": change.mc_error,
                "n": n,
                "draws": int(counted.sum()),
            }
        )
    return pd.DataFrame(out, columns=list(LADDER_COLUMNS))


def _attribution(worth: Mapping[Coalition, ByDraw], level: float) -> pd.DataFrame:
    nothing: Coalition = frozenset()
    full = averaged(worth[EVERYTHING]).value
    out: list[dict[str, object]] = []
    for factor, by_draw in shapley(worth).items():
        figure = averaged(by_draw, level=level)
        alone = averaged(worth[frozenset({factor})] - worth[nothing])
        last = averaged(worth[EVERYTHING] - worth[EVERYTHING - {factor}])
        out.append(
            {
                "factor": factor,
                "shapley": figure.value,
                "low": figure.low,
                "high": figure.high,
                "mc_error": figure.mc_error,
                "share": figure.value / full if full > 0 else float("nan"),
                "alone": alone.value,
                "alone_mc_error": alone.mc_error,
                "last": last.value,
                "last_mc_error": last.mc_error,
            }
        )
    return pd.DataFrame(out, columns=list(ATTRIBUTION_COLUMNS))


def _in_words(found: Decomposition) -> tuple[str, ...]:
    rungs = {str(row["simulation"]): row for row in found.ladder.to_dict("records")}
    parts = {str(row["factor"]): row for row in found.attribution.to_dict("records")}
    full, banked, dysfunction = rungs[FULL], rungs[BANKED], parts[DYSFUNCTION]
    others = ", ".join(f"{factor} {_two(parts[factor]['shapley'])}" for factor in FACTORS if factor != DYSFUNCTION)
    return (
        f"Among {'first responders' if found.responders else 'all who progressed'}, first and second PFS correlate by "
        f"{_two(full['correlation'])} (Spearman, within a draw of the population; Monte Carlo error "
        f"{_two(full['mc_error'])}), and by {_two(rungs['everything redrawn']['correlation'])} when everything but the "
        "first course is another patient's.",
        f"Dysfunction of the host's T cells at the second apheresis carries {_two(dysfunction['shapley'])} of it "
        f"({_two(dysfunction['alone'])} if added first, {_two(dysfunction['last'])} if added last). "
        f"The rest: {others}.",
        "With the second product made from cells taken before therapy the correlation is "
        f"{_two(banked['correlation'])}: what changed in the host's T cells since then accounts for "
        f"{_two(-banked['change'])}.",
        f"With dysfunction off in both courses it is {_two(rungs[NO_DYSFUNCTION]['correlation'])}; without the lasting "
        f"losses per line alone {_two(rungs[NO_LOSSES]['correlation'])}, without effects of dysfunction at apheresis "
        f"alone {_two(rungs[NO_EFFECT]['correlation'])}. The losses are the same for every patient of a draw: they can "
        "make more of what differs between patients, but do not differ themselves.",
        "The same patient has the same tumour and the same T cells twice. That a long first remission goes with a long "
        "second one is not evidence of exhaustion.",
    )


def _two(value: float) -> str:
    """Two decimals, and no minus before zero."""
    return f"{value:.2f}".replace("-0.00", "0.00")

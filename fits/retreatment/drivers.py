"""What drove a patient's relapse? Take one mechanism away, and see by how much the relapse is put off.

Counterfactual removal, in the model and one mechanism at a time: the same virtual patient has the same first course
once more, with the same luck, but without the mechanism. Hypotheses of relapse (`MECHANISMS`) are switched off.
A tumour cannot be without resistance, nor a T cell immortal: there, the patient gets the killing, or the loss of
CAR-T cells, of a favourable patient of the same population (`favourable_values`), unless the patient's own is better.

The gain of a removal is the PFS won. The *main driver* is the removal with the largest gain, if that is more than one
visit interval; equal gains share it; where no removal gains that much, it is `none alone`. A probability is over
patients of a group and draws of the population. It is a statement about the model: where no data have moved a
mechanism's numbers, it is the prior's, and `summarise_drivers` says so.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH, Parameter, from_transformed
from reinfuse.model.products import Product

from .arms import under_hypotheses
from .mechanisms import MECHANISMS
from .virtual_patients import SampledPopulation, VirtualPatients

type Floats = NDArray[np.float64]

#: Quantile of a patient who kills, or keeps CAR-T cells, well (ASSUMED).
FAVOURABLE: Final = 0.9
#: Main driver where no removal gains more than a visit interval, and of a patient who did not relapse.
NONE_ALONE: Final = "none alone"
NO_RELAPSE: Final = "no relapse"
#: Width of an interval from which on draws of the population are said to disagree.
WIDE: Final = 0.5
_ROUNDING = 1e-6  # d


@dataclass(frozen=True, kw_only=True)
class Driver:
    """One possible cause of relapse, and what its removal means.

    Attributes
    ----------
    key
        In column names; for a hypothesis, its key in `mechanisms.MECHANISMS`.
    name
        In words.
    parameters
        What the removal changes.
    better
        For a driver that is no hypothesis: +1 where more of the parameter is better for the patient, -1 where less.
    """

    key: str
    name: str
    parameters: tuple[str, ...]
    better: Mapping[str, int] = field(default_factory=dict)


DRIVERS: Final = (
    *(Driver(key=each.key, name=each.words, parameters=each.parameters) for each in MECHANISMS),
    Driver(key="resistance", name="tumour-intrinsic resistance", parameters=("k", "KE"), better={"k": 1, "KE": -1}),
    Driver(key="persistence", name="short persistence", parameters=("dM", "dE"), better={"dM": -1, "dE": -1}),
)


class Followed(Protocol):
    """What is asked of a first course (`outcomes.CourseOutcome` has it)."""

    @property
    def pfs_days(self) -> NDArray[np.floating[Any]]:
        """Days to progression, death or the end of follow-up, (n,); NaN where it failed."""

    @property
    def progressed(self) -> NDArray[np.bool_]:
        """Whether the course ended with progression, (n,)."""


#: Simulates and judges first courses: patients whose parameters are final, in their order, always with the same luck.
type FirstCourse = Callable[[VirtualPatients], Followed]


def favourable_values(
    population: SampledPopulation, *, drivers: Sequence[Driver] = DRIVERS, quantile: float = FAVOURABLE
) -> dict[str, Floats]:
    """Values of a favourable patient of each draw of a population, by symbol, (D,) each, natural scale.

    Parameters
    ----------
    population
        With medians and spreads.
    drivers
        Of these, the parameters with a direction; those that the population's variant holds are left out.
    quantile
        Share of the draw's patients who are worse off, from 0.5 to below 1.

    Raises
    ------
    ReinfuseError
        If the quantile is out of range.
    """
    if not 0.5 <= quantile < 1:
        raise ReinfuseError(f"quantile is {quantile!r}; give the share of patients who are worse off, 0.5 to below 1")
    normal, names = float(stats.norm.ppf(quantile)), list(population.rows)
    found = {}
    for name, sign in _directions(drivers).items():
        if name in population.rows:
            j = names.index(name)
            scaled = population.centre[:, j] + sign * normal * population.spread[:, j]
            found[name] = from_transformed(scaled, transform=population.rows[name].transform)
    return found


def attribute(
    *,
    patients: VirtualPatients,
    first_course: FirstCourse,
    factors: Mapping[str, float],
    rows: Mapping[str, Parameter],
    product: Product,
    favourable: Mapping[str, Floats],
    visit_interval: float,
    group: ArrayLike | None = None,
    number: ArrayLike | None = None,
    drivers: Sequence[Driver] = DRIVERS,
    progress: Callable[[float], None] | None = None,
) -> pd.DataFrame:
    """Follow every patient's first course as it was and without each mechanism.

    Parameters
    ----------
    patients
        Virtual patients (or draws of a real one), before any hypothesis is multiplied.
    first_course
        Simulates and judges them; called once as they are and once per driver. It must give equal patients equal
        outcomes, so chance events belong to patients and not to calls.
    factors
        Multipliers of `mechanisms.MECHANISMS` under which the patients relapsed (`Scenario.hypotheses`).
    rows
        Table of parameters, for transforms.
    product
        Of the first infusion.
    favourable
        From `favourable_values`, by symbol: one value per draw.
    visit_interval
        Days; a gain has to be larger.
    group, number
        First-response group and number of each patient, (n,); `all` and 0, 1, … when None.
    drivers
        What to remove.
    progress
        Called with the number of patients followed since the last call, ``n (1 + drivers)`` in all.

    Returns
    -------
    DataFrame
        A row per patient: `patient`, `draw`, `group`, `relapsed`, `pfs_days`; for each driver `gain_KEY` (days of PFS
        won), `averted_KEY` (no progression within follow-up), `share_KEY` (of the main driver: 1, or less where gains
        are equal); `share_none` and `main`, keys joined by ` + `. Without a relapse (or with a course that could not
        be simulated) gains and shares are NaN.

    Raises
    ------
    ReinfuseError
        If there is no driver, the interval is not positive, or lengths differ.
    """
    n = patients.n
    if not drivers:
        raise ReinfuseError("there is no driver; give at least one")
    if not (np.isfinite(visit_interval) and visit_interval > 0):
        raise ReinfuseError(f"visit_interval is {visit_interval!r}; give days, above 0")
    tick = progress or (lambda done: None)
    assumed = under_hypotheses(patients, factors, rows, [product])
    base = _followed(first_course, assumed)
    tick(float(n))
    relapsed = base.days_known & base.progressed
    table: dict[str, NDArray[np.generic]] = {
        "patient": _one_each("number", np.arange(n) if number is None else number, n),
        "draw": patients.draw,
        "group": _one_each("group", np.full(n, "all") if group is None else group, n),
        "relapsed": relapsed,
        "pfs_days": base.days,
    }
    gains = np.empty((n, len(drivers)))
    for j, driver in enumerate(drivers):
        if driver.better:
            improved = _improved(assumed.parameters, driver, favourable, patients.draw)
            removed = replace(assumed, parameters=assumed.parameters | improved)
        else:
            removed = under_hypotheses(patients, {**factors, driver.key: 0.0}, rows, [product])
        without = _followed(first_course, removed)
        tick(float(n))
        gains[:, j] = np.where(relapsed, without.days - base.days, np.nan)
        table[f"gain_{driver.key}"] = gains[:, j]
        table[f"averted_{driver.key}"] = relapsed & without.days_known & ~without.progressed
    shares = _shares(gains, visit_interval)
    table |= {f"share_{driver.key}": shares[:, j] for j, driver in enumerate(drivers)}
    table |= {"share_none": shares[:, -1], "main": _main(shares, drivers)}
    return pd.DataFrame(table)


def summarise_drivers(
    table: pd.DataFrame,
    *,
    prior_only: Iterable[str] = (),
    favourable: Mapping[str, Floats] | None = None,
    patients: VirtualPatients | None = None,
    drivers: Sequence[Driver] = DRIVERS,
    level: float = 0.95,
) -> pd.DataFrame:
    """Probability of each driver as the main one, per first-response group.

    Parameters
    ----------
    table
        From `attribute`.
    prior_only
        Parameters that no data have moved (`PopulationDraws.prior_only`).
    favourable, patients
        As given to `attribute`: with both, a driver whose removal changed nobody's numbers is named.
    drivers
        As given to `attribute`.
    level
        Of the intervals over draws.

    Returns
    -------
    DataFrame
        A row per group (`all` first) and driver, `none alone` last: `group`, `driver`, `n` relapses, `probability`
        with `low`, `high` and `mc_error`; `averted`, the share of relapses that the removal averts within follow-up;
        `gain_months`, the median PFS won; and `warning`, empty where there is none.

    Raises
    ------
    ReinfuseError
        If the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ReinfuseError(f"level is {level!r}; give a number between 0 and 1")
    known = table[table["share_none"].notna()]
    found = []
    for group in ("all", *dict.fromkeys(known.loc[known["group"] != "all", "group"])):
        chosen = known if group == "all" else known[known["group"] == group]
        if chosen.empty:
            continue
        for driver in (*drivers, None):
            column = "share_none" if driver is None else f"share_{driver.key}"
            row = {"group": group, "driver": NONE_ALONE if driver is None else driver.name, "n": len(chosen)}
            figures = _probability(chosen[column].to_numpy(np.float64), chosen["draw"].to_numpy(), level)
            row |= dict(zip(("probability", "low", "high", "mc_error"), figures, strict=True))
            row |= {"averted": np.nan, "gain_months": np.nan, "warning": ""}
            if driver is not None:
                row["averted"] = float(chosen[f"averted_{driver.key}"].mean())
                row["gain_months"] = float(chosen[f"gain_{driver.key}"].median()) / DAYS_PER_MONTH
                row["warning"] = _warning(driver, frozenset(prior_only), favourable, patients, figures)
            found.append(row)
    columns = ("group", "driver", "n", "probability", "low", "high", "mc_error", "averted", "gain_months", "warning")
    return pd.DataFrame(found, columns=list(columns))


# ---------------------------------------------------------------------------------------------- removal


@dataclass(frozen=True, eq=False)
class _Course:
    days: Floats
    progressed: NDArray[np.bool_]

    @property
    def days_known(self) -> NDArray[np.bool_]:
        return np.isfinite(self.days)


def _followed(first_course: FirstCourse, patients: VirtualPatients) -> _Course:
    outcome = first_course(patients)
    days = np.asarray(outcome.pfs_days, dtype=np.float64)
    if days.shape != (patients.n,):
        raise ReinfuseError(f"first_course gave {days.shape} PFS for {patients.n} patients; keep their order")
    return _Course(days, np.asarray(outcome.progressed))


def _improved(
    parameters: Mapping[str, Floats], driver: Driver, favourable: Mapping[str, Floats], draw: NDArray[np.int64]
) -> dict[str, Floats]:
    """The driver's parameters, of a favourable patient or the patient's own, whichever is better."""
    return {
        name: (np.maximum if sign > 0 else np.minimum)(parameters[name], favourable[name][draw])
        for name, sign in driver.better.items()
        if name in favourable and name in parameters
    }


def _directions(drivers: Sequence[Driver]) -> dict[str, int]:
    return {name: sign for driver in drivers for name, sign in driver.better.items()}


def _one_each(name: str, value: ArrayLike, n: int) -> NDArray[np.generic]:
    values = np.asarray(value)
    if values.shape != (n,):
        raise ReinfuseError(f"{name} has shape {values.shape}; give one for each of {n} patients")
    return values


# --------------------------------------------------------------------------------------------- verdicts


def _shares(gains: Floats, visit_interval: float) -> Floats:
    """Shares of the main driver, (n, drivers + 1), none alone last; NaN for patients of whom a gain is missing."""
    best = gains.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        leads = (gains >= best - _ROUNDING) & (best > visit_interval + _ROUNDING)
    shares = np.column_stack([leads, ~leads.any(axis=1)]).astype(np.float64)
    shares /= shares.sum(axis=1, keepdims=True)
    shares[np.isnan(best[:, 0])] = np.nan
    return shares


def _main(shares: Floats, drivers: Sequence[Driver]) -> NDArray[np.str_]:
    keys = [*(driver.key for driver in drivers), NONE_ALONE]
    return np.array(
        [NO_RELAPSE if np.isnan(row[0]) else " + ".join(keys[j] for j in np.flatnonzero(row > 0)) for row in shares],
        dtype=np.str_,
    )


def _probability(share: Floats, draw: NDArray[np.int64], level: float) -> tuple[float, float, float, float]:
    """Mean share, ends of its interval over draws, Monte Carlo error.

    Variance between draws by one-way analysis of variance, for raw scatter between draws of few patients each would
    be chance; plus the squared Monte Carlo error. The interval is that of the beta distribution with this variance.
    """
    n, value = share.size, float(share.mean())
    _, place = np.unique(draw, return_inverse=True)
    size = np.bincount(place).astype(np.float64)
    groups = size.size
    middle = (float(share.sum()) + 0.5) / (n + 1)
    error = float(np.sqrt(middle * (1 - middle) / (n + 2)))  # what n certain patients still leave open (Jeffreys)
    between = 0.0
    if groups > 1:
        excess = np.bincount(place, weights=share - value)
        error = max(error, float(np.sqrt(groups / (groups - 1) * (excess**2).sum()) / n))
        if groups < n:
            means = np.bincount(place, weights=share) / size
            within = max(float((share**2).sum() - (size * means**2).sum()), 0.0) / (n - groups)
            among = float((size * (means - value) ** 2).sum()) / (groups - 1)
            typical = (n - float((size**2).sum()) / n) / (groups - 1)
            between = max(among - within, 0.0) / typical
    chance = middle * (1 - middle)
    total = chance / min(between + error**2, 0.999 * chance) - 1
    low, high = stats.beta.ppf([(1 - level) / 2, (1 + level) / 2], middle * total, (1 - middle) * total)
    return value, min(float(low), value), max(float(high), value), error


def _warning(
    driver: Driver,
    prior_only: frozenset[str],
    favourable: Mapping[str, Floats] | None,
    patients: VirtualPatients | None,
    figures: tuple[float, float, float, float],
) -> str:
    """What a reader must know before using a driver's probability."""
    said = []
    names = ", ".join(driver.parameters)
    unmoved = [name for name in driver.parameters if name in prior_only]
    if len(unmoved) == len(driver.parameters):
        said.append(f"The data cannot tell: no data have moved {names}, so this probability is the prior's.")
    elif unmoved:
        said.append(f"Partly the prior's: no data have moved {', '.join(unmoved)}.")
    moved = driver.parameters if patients is None else _moved(driver, favourable or {}, patients)
    if not moved:
        said.append(f"It could not be found: these patients are all alike in {names}, or have none of it.")
    elif driver.better and len(moved) < len(driver.parameters):
        held = ", ".join(name for name in driver.parameters if name not in moved)
        said.append(f"Through {', '.join(moved)} alone: these patients are all alike in {held}.")
    if figures[2] - figures[1] > WIDE:
        said.append(f"Draws of the population disagree: from {figures[1]:.0%} to {figures[2]:.0%}.")
    return " ".join(said)


def _moved(driver: Driver, favourable: Mapping[str, Floats], patients: VirtualPatients) -> tuple[str, ...]:
    """Parameters that the removal changes in some patient."""
    own = patients.parameters
    if not driver.better:
        return tuple(name for name in driver.parameters if name in own and np.any(own[name] != 0))
    better = _improved(own, driver, favourable, patients.draw)
    return tuple(name for name, values in better.items() if not np.allclose(values, own[name], rtol=1e-9, atol=0))

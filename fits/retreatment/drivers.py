"""What drove a patient's relapse? Take one mechanism away, and see by how much the relapse is put off.

Counterfactual removal, in the model and one mechanism at a time: the same virtual patient has the same first course
once more, with the same luck, but without the mechanism, as in a world that has its multiplier at 0 (`MECHANISMS`).

The gain of a removal is the PFS won. The *main driver* is the removal with the largest gain, if that is more than one
visit interval; equal gains share it; where no removal gains that much, it is `none alone`. A probability is over
patients of a group and draws of the population. It is a statement about the model: where no data have moved a
mechanism's numbers, it is the prior's, and `summarise_drivers` says so.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH, Parameter
from reinfuse.model.products import Product

from .arms import under_hypotheses
from .mechanisms import MECHANISMS, Mechanism
from .virtual_patients import VirtualPatients

type Floats = NDArray[np.float64]

#: Main driver where no removal gains more than a visit interval, and of a patient who did not relapse.
NONE_ALONE: Final = "none alone"
NO_RELAPSE: Final = "no relapse"
#: Width of an interval from which on draws of the population are said to disagree.
WIDE: Final = 0.5
_ROUNDING = 1e-6  # days; also of a value


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


def attribute(
    *,
    patients: VirtualPatients,
    first_course: FirstCourse,
    factors: Mapping[str, float],
    rows: Mapping[str, Parameter],
    product: Product,
    visit_interval: float,
    group: ArrayLike | None = None,
    number: ArrayLike | None = None,
    drivers: Sequence[Mechanism] = MECHANISMS,
    progress: Callable[[float], None] | None = None,
) -> pd.DataFrame:
    """Follow every patient's first course as it was and without each mechanism.

    Parameters
    ----------
    patients
        Virtual patients (or draws of a real one), before any hypothesis is multiplied, with favourable values.
    first_course
        Simulates and judges them; called once as they are and once per driver. It must give equal patients equal
        outcomes, so chance events belong to patients and not to calls.
    factors
        Multipliers of `mechanisms.MECHANISMS` under which the patients relapsed (`Scenario.hypotheses`).
    rows
        Table of parameters, for transforms.
    product
        Of the first infusion.
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
        without = _followed(first_course, under_hypotheses(patients, {**factors, driver.key: 0.0}, rows, [product]))
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
    patients: VirtualPatients | None = None,
    drivers: Sequence[Mechanism] = MECHANISMS,
    level: float = 0.95,
) -> pd.DataFrame:
    """Probability of each driver as the main one, per first-response group.

    Parameters
    ----------
    table
        From `attribute`.
    prior_only
        Parameters that no data have moved (`PopulationDraws.prior_only`).
    patients
        As given to `attribute`: with them, a driver whose removal changed nobody's numbers is named.
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
            row = {"group": group, "driver": NONE_ALONE if driver is None else driver.words, "n": len(chosen)}
            figures = _probability(chosen[column].to_numpy(np.float64), chosen["draw"].to_numpy(), level)
            row |= dict(zip(("probability", "low", "high", "mc_error"), figures, strict=True))
            row |= {"averted": np.nan, "gain_months": np.nan, "warning": ""}
            if driver is not None:
                row["averted"] = float(chosen[f"averted_{driver.key}"].mean())
                row["gain_months"] = float(chosen[f"gain_{driver.key}"].median()) / DAYS_PER_MONTH
                row["warning"] = _warning(driver, frozenset(prior_only), patients, figures)
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


def _main(shares: Floats, drivers: Sequence[Mechanism]) -> NDArray[np.str_]:
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
    driver: Mechanism,
    prior_only: frozenset[str],
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
    moved = [name for name in driver.parameters if patients is None or _moves(driver, name, patients)]
    if not moved:
        said.append(f"It could not be found: these patients are all alike in {names}, or have none of it.")
    elif driver.better and len(moved) < len(driver.parameters):
        held = ", ".join(name for name in driver.parameters if name not in moved)
        said.append(f"Through {', '.join(moved)} alone: these patients are all alike in {held}.")
    if figures[2] - figures[1] > WIDE:
        said.append(f"Draws of the population disagree: from {figures[1]:.0%} to {figures[2]:.0%}.")
    return " ".join(said)


def _moves(driver: Mechanism, name: str, patients: VirtualPatients) -> bool:
    """Whether the removal changes a parameter in some patient."""
    own = patients.parameters.get(name, np.zeros(patients.n))
    if not driver.better:
        return bool(np.any(own != 0))
    short = driver.better[name] * (patients.favourable.get(name, own) - own)
    return bool(np.any(short > _ROUNDING * own))

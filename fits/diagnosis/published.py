"""Published figures of trials, and where they fall among simulated trials of the same size.

Every figure has the size of its study, a tag (READ: from the source named; READ-abs: from an abstract or a page of
summary) and its source. Virtual patients are like those who got the product in the run's cohort, at the product's
reference dose, in draws of the run's population.

Two things are not alike and stay so. Copies per µg depend on the laboratory: a run's transgene is on the scale of its
own cohort's assay, so Cmax and AUC differ by an unknown factor, and only figures without a scale (days, ratios) are
comparable as they stand. And a trial's patients are not the cohort's: who was treated, and when, is part of every
difference.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from reinfuse.model.equations.bcma import EARLY
from reinfuse.model.parameters import DAYS_PER_MONTH
from reinfuse.model.products import PRODUCTS
from reinfuse.model.response import kinetics

from ..new_patients import NewPatients, PopulationDraws, first_infusion_only, has_progression
from ..problem import Problem
from .scores import two_sided

Array = npt.NDArray[np.float64]

STUDIES: Final = 100
LLOQ: Final = 50.0
"""Copies/µg DNA below which transgene is not quantified (RECALLED: the usual limit)."""
DAYS: Final = np.concatenate([np.arange(0.0, 40.0), np.arange(40.0, 200.0, 5.0), np.arange(200.0, 1401.0, 25.0)])
"""Days of the virtual patients' trajectories."""
HALF_LIFE: Final = (28.0, 100.0)
"""Days between which a half-life is measured (ASSUMED: the source does not say)."""

_JNJ: Final = "J&J Medical Connect, Carvykti pharmacokinetics (November 2025)"
_LABEL: Final = "EU product information of ide-cel, as shown by rxreasoner.com"
_KARMMA: Final = "ashpublications.net view-large/11527903"
_CARTITUDE: Final = "CARTITUDE-1 long-term figures, as in ashpublications.net view-large/11527903"


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published figure.

    Attributes
    ----------
    product, study
        What was given, in which trial.
    n
        Patients behind the figure.
    statistic
        A key of `STATISTICS`.
    value
        In the unit of the statistic.
    tag, source
        Provenance.
    """

    product: str
    study: str
    n: int
    statistic: str
    value: float
    tag: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Courses:
    """First courses of virtual patients of many studies, (studies, patients) each; days since the infusion.

    Attributes
    ----------
    cmax, tmax, auc28, auc180
        Of transgene, without residual error (copies/µg, days, copies/µg times days).
    tlast
        Last day at or above `LLOQ` before progression or death.
    half_life
        Between the days of `HALF_LIFE`, of patients quantifiable and in the study until its end; NaN of others.
    pfs
        Day of progression or death; +inf: later than the last of `DAYS`, NaN: not modelled.
    """

    cmax: Array
    tmax: Array
    auc28: Array
    auc180: Array
    tlast: Array
    half_life: Array
    pfs: Array

    def first(self, n: int) -> "Courses":
        """The first n patients of every study."""
        return Courses(**{name: getattr(self, name)[:, :n] for name in Courses.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """A statistic of a study: its name, unit, whether the laboratory's scale matters, and how to compute it."""

    label: str
    unit: str
    scaled: bool
    of: Callable[[Courses], Array]


#: Statistics by key; each gives one number per simulated study.
STATISTICS: Final[Mapping[str, Statistic]] = {
    "cmax_mean": Statistic(label="Cmax, mean", unit="copies/µg", scaled=True, of=lambda c: np.nanmean(c.cmax, axis=1)),
    "cmax_cv": Statistic(
        label="Cmax, sd / mean",
        unit="-",
        scaled=False,
        of=lambda c: np.nanstd(c.cmax, axis=1, ddof=1) / np.nanmean(c.cmax, axis=1),
    ),
    "tmax_median": Statistic(label="Tmax, median", unit="d", scaled=False, of=lambda c: np.nanmedian(c.tmax, axis=1)),
    "auc28_mean": Statistic(
        label="AUC0-28, mean", unit="d copies/µg", scaled=True, of=lambda c: np.nanmean(c.auc28, axis=1)
    ),
    "auc28_by_cmax": Statistic(
        label="AUC0-28 / Cmax, means",
        unit="d",
        scaled=False,
        of=lambda c: np.nanmean(c.auc28, axis=1) / np.nanmean(c.cmax, axis=1),
    ),
    "auc180_by_auc28": Statistic(
        label="AUC0-6 months / AUC0-28, means",
        unit="-",
        scaled=False,
        of=lambda c: np.nanmean(c.auc180, axis=1) / np.nanmean(c.auc28, axis=1),
    ),
    "tlast_median": Statistic(
        label="last quantifiable day, median", unit="d", scaled=True, of=lambda c: np.nanmedian(c.tlast, axis=1)
    ),
    "half_life_mean": Statistic(
        label="half-life, mean", unit="d", scaled=False, of=lambda c: np.nanmean(c.half_life, axis=1)
    ),
    "pfs_median": Statistic(
        label="PFS, median",
        unit="months",
        scaled=False,
        of=lambda c: np.nanmedian(c.pfs, axis=1) / DAYS_PER_MONTH,
    ),
    "pfs_24": Statistic(
        label="free of progression at 24 months",
        unit="%",
        scaled=False,
        of=lambda c: 100 * np.where(np.isnan(c.pfs), np.nan, c.pfs > 24 * DAYS_PER_MONTH).mean(axis=1),
    ),
}


def _cartitude(statistic: str, value: float, n: int = 97, source: str = _JNJ) -> Published:
    return Published(
        product="cilta-cel", study="CARTITUDE-1", n=n, statistic=statistic, value=value, tag="READ", source=source
    )


def _karmma(statistic: str, value: float, source: str = _KARMMA) -> Published:
    return Published(
        product="ide-cel", study="KarMMa", n=128, statistic=statistic, value=value, tag="READ", source=source
    )


#: The figures; ratios are those of the published means.
PUBLISHED: Final = (
    _cartitude("cmax_mean", 48_692.0),
    _cartitude("cmax_cv", 27_174.0 / 48_692.0),
    _cartitude("tmax_median", 12.71),
    _cartitude("auc28_mean", 504_496.0),
    _cartitude("auc28_by_cmax", 504_496.0 / 48_692.0),
    _cartitude("auc180_by_auc28", 1_033_373.0 / 504_496.0),
    _cartitude("tlast_median", 125.9),
    _cartitude("half_life_mean", 23.5, n=41),
    _cartitude("pfs_median", 35.0, source=_CARTITUDE),
    _cartitude("pfs_24", 60.5, source=_CARTITUDE),
    _karmma("tmax_median", 11.0, source=_LABEL),
    _karmma("pfs_median", 8.8),
)

COLUMNS: Final = (
    "product",
    "study",
    "n",
    "statistic",
    "unit",
    "published",
    "lower",
    "simulated",
    "upper",
    "p_value",
    "comparable",
    "tag",
    "source",
)


def compare(
    problem: Problem, draws: PopulationDraws, *, rng: np.random.Generator, studies: int = STUDIES
) -> pd.DataFrame:
    """Say where published figures fall among simulated studies of the published size.

    Parameters
    ----------
    problem
        The posed cohort of a run.
    draws
        Its population; each study takes one draw.
    rng
        Source of patients and events.
    studies
        How many are simulated per published size.

    Returns
    -------
    DataFrame
        One row per figure of `PUBLISHED` whose product the cohort has: `published`, `simulated` (median), `lower` and
        `upper` (95 % of the studies), `p_value` (`scores.two_sided`) and
        `comparable` (False: on the scale of another laboratory).
    """
    lines = []
    for product in dict.fromkeys(figure.product for figure in PUBLISHED):
        figures = [figure for figure in PUBLISHED if figure.product == product]
        if not (problem.slot_products[:, 0] == product).any() or "transgene" not in problem.kernel.readouts:
            continue
        largest = max(figure.n for figure in figures)
        courses = first_courses(problem, draws, product=product, n=largest, studies=studies, rng=rng)
        for figure in figures:
            statistic = STATISTICS[figure.statistic]
            with warnings.catch_warnings():  # a study without a single value has no statistic
                warnings.simplefilter("ignore", RuntimeWarning)
                found = statistic.of(courses.first(figure.n))
            found = found[~np.isnan(found)]
            if found.size == 0:
                continue
            low, middle, high = np.quantile(found, [0.025, 0.5, 0.975], method="nearest")
            lines.append(
                {
                    "product": product,
                    "study": figure.study,
                    "n": figure.n,
                    "statistic": statistic.label,
                    "unit": statistic.unit,
                    "published": figure.value,
                    "lower": low,
                    "simulated": middle,
                    "upper": high,
                    "p_value": two_sided(found, figure.value),
                    "comparable": not statistic.scaled,
                    "tag": figure.tag,
                    "source": figure.source,
                }
            )
    return pd.DataFrame(lines, columns=list(COLUMNS))


def first_courses(
    problem: Problem,
    draws: PopulationDraws,
    *,
    product: str,
    n: int,
    studies: int,
    rng: np.random.Generator,
) -> Courses:
    """Simulate the first course of ``studies`` studies of ``n`` patients each under a product.

    Parameters
    ----------
    problem
        The posed cohort; someone in it got the product first.
    draws
        Population; studies take draws evenly spaced over them.
    product
        A registered product (its reference dose is given) or the cohort's own (doses of the cohort).
    n, studies
        Sizes.
    rng
        Source of patients and events.
    """
    base = problem.base.copy()
    dose = problem.column("dose_1")
    if dose is not None and product in PRODUCTS:
        base[:, dose] = PRODUCTS[product].dose
    alone = first_infusion_only(problem, base)
    new = NewPatients(alone, draws)
    who = np.flatnonzero(problem.slot_products[:, 0] == product)
    place = rng.choice(who, size=studies * n)
    draw = np.repeat(np.linspace(0, len(draws) - 1, studies).round().astype(np.int64), n)
    thetas = new.thetas(place, draw, rng)
    threshold, life = rng.standard_exponential(place.size), rng.standard_exponential(place.size)
    out = {name: np.full(place.size, np.nan) for name in Courses.__dataclass_fields__}
    deaths = new.problem.column("hD")
    for part, simulated in new.in_chunks(thetas, place, DAYS):
        pfs = np.full(part.stop - part.start, np.nan)
        if has_progression(problem):
            pfs = _crossing(np.where(DAYS < EARLY, 0.0, simulated["H"]), threshold[part])
            if deaths is not None:
                died = life[part] / thetas[part][:, deaths]
                pfs = np.where(np.isnan(pfs), np.nan, np.minimum(pfs, np.where(died > DAYS[-1], np.inf, died)))
        for name, values in _exposure(simulated["transgene"], pfs).items():
            out[name][part] = values
    return Courses(**{name: values.reshape(studies, n) for name, values in out.items()})


def _exposure(transgene: Array, pfs: Array) -> dict[str, Array]:
    """Exposure of patients (m,) from transgene (m, T) on `DAYS`."""
    left = np.where(np.isnan(pfs), np.inf, pfs)
    short = kinetics(DAYS, transgene, end=np.full(len(transgene), 180.0), auc_days=28.0)
    last = kinetics(DAYS, transgene, end=np.minimum(left, DAYS[-1]), lloq=LLOQ, auc_days=28.0).tlast
    first, end = (int(np.searchsorted(DAYS, day)) for day in HALF_LIFE)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.log(transgene[:, end] / transgene[:, first]) / (DAYS[end] - DAYS[first])
        half = -np.log(2) / slope
    measured = (transgene[:, end] >= LLOQ) & (left > HALF_LIFE[1]) & (slope < 0)
    return {
        "cmax": short.cmax,
        "tmax": short.tmax,
        "auc28": short.auc,
        "auc180": kinetics(DAYS, transgene, auc_days=180.0).auc,
        "tlast": last,
        "half_life": np.where(measured, half, np.nan),
        "pfs": pfs,
    }


def _crossing(hazard: Array, threshold: Array) -> Array:
    """Days on which cumulative hazards (m, T) on `DAYS` reach thresholds (m,); +inf: never, NaN: not solved."""
    reached = hazard >= threshold[:, None]
    after = np.argmax(reached, axis=1)
    rows, before = np.arange(len(hazard)), np.maximum(after - 1, 0)
    low, high = hazard[rows, before], hazard[rows, after]
    share = np.clip((threshold - low) / np.where(high > low, high - low, 1.0), 0.0, 1.0)
    day = DAYS[before] + share * (DAYS[after] - DAYS[before])
    day = np.where(reached.any(axis=1), day, np.inf)
    return np.where(np.isfinite(hazard).all(axis=1), day, np.nan)

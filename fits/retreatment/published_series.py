"""Published series of BCMA-directed therapy after BCMA-directed therapy, beside what the model says of them.

Every number printed was read, and where it was read stands with it. Misfits are named in plain words. The patients of
these series are not those of the model: more lines of therapy, mixed products, chosen by doctors for a second
infusion; what differs stands with each series. None of it is used to fit anything.

A median of a virtual trial needs no simulation of trials: it lies at or below t where at least half of the patients
have had the event by t, and that count is beta-binomial, as the count of any outcome.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH

from .anchor import ONE_WORLD, mixed_share
from .counts import DAYS, NOTHING, Estimate, Layout, Median, resamples_of, spread
from .statistics import STACKED, central_counts, checked_weights, counted, reaches, two_sided_tail

type Floats = NDArray[np.float64]
type Flags = NDArray[np.bool_]
type Measure = Literal["ORR", ">=VGPR", "sCR", "MRD-negative", "PFS median", "DOR median"]
type Tag = Literal["READ", "READ-abs", "secondary"]
type Second = Literal["CAR-T", "bispecific", "T-cell engaging"]

#: Class that a response measure asks for.
CLASS_OF: Final[Mapping[str, str]] = {"ORR": "PR", ">=VGPR": "VGPR", "sCR": "SCR"}
#: Words that make a second treatment a bispecific antibody, or none at all.
BISPECIFIC: Final = "bispecific"
NO_TREATMENT: Final = ("", "none", "nothing", "wait-and-see")
#: A median that was not reached.
NOT_REACHED: Final = float("inf")

TABLE_COLUMNS: Final = (
    *("series", "world", "arms", "measure", "unit", "n_published"),
    *("published", "published_low", "published_high"),
    *("simulated", "low", "high", "mc_error", "n_simulated"),
    *("trial_low", "trial_high", "tail_probability"),
    *("verdict", "differs", "source", "tag"),
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One number of a series.

    Attributes
    ----------
    measure : str
        What was measured; medians in months, the others as shares.
    value : float
        As published.
    low, high : float or None
        Its 95 % interval, `NOT_REACHED` where it has no upper end; None where none was read.
    n : int or None
        Patients it rests on; None where not read. For lines of therapy rather than patients it is not known either.
    """

    measure: Measure
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @property
    def months(self) -> bool:
        """Whether it is a time."""
        return self.measure in ("PFS median", "DOR median")

    @property
    def count(self) -> int | None:
        """Patients with the outcome, of `n`; None for a time or an unknown `n`."""
        return None if self.months or self.n is None else round(self.value * self.n)


@dataclass(frozen=True, kw_only=True)
class Series:
    """One published series and the arms that it may be set beside.

    Attributes
    ----------
    name : str
        In the tables.
    first, second : str
        What its patients had before, and what they got, in words.
    readings : tuple of Reading
    arm_first : tuple of str
        First products of arms that may be set beside it; empty: any.
    arm_second : str
        Kind of second treatment of such arms.
    arm_second_products : tuple of str
        Their second products; empty: any of the kind.
    another_binder : bool
        Whether the second product must not be the first again.
    arm_responders : bool
        Whether only virtual patients who had responded first are taken.
    differs : str
        How its patients differ from the model's.
    source, tag : str
        Title and journal reference, and how it was read: READ, READ-abs (from the abstract) or secondary (quoted by
        others).
    """

    name: str
    first: str
    second: str
    readings: tuple[Reading, ...]
    arm_second: Second
    arm_first: tuple[str, ...] = ()
    arm_second_products: tuple[str, ...] = ()
    another_binder: bool = False
    arm_responders: bool = False
    differs: str
    source: str
    tag: Tag


_SALVAGE: Final = (
    '"Salvage therapies including retreatment with BCMA…", 68 patients relapsed after BCMA-directed CAR-T, '
    "Blood Advances 2024;8(9):2207"
)
_MIXED: Final = (
    "retrospective; products before and after not named in the abstract; responses are counted among all lines of "
    "salvage, so other salvage may lie between"
)

SERIES: Final[tuple[Series, ...]] = (
    Series(
        name="BCMA CAR-T after BCMA CAR-T",
        first="BCMA-directed CAR-T",
        second="another BCMA-directed CAR-T",
        readings=(
            Reading(measure="ORR", value=0.89),
            Reading(measure="PFS median", value=8.3, low=7.9, high=NOT_REACHED),
            Reading(measure="DOR median", value=8.0),
        ),
        arm_second="CAR-T",
        differs=_MIXED,
        source=_SALVAGE,
        tag="READ-abs",
    ),
    Series(
        name="BCMA bispecific after BCMA CAR-T",
        first="BCMA-directed CAR-T",
        second="BCMA-directed bispecific antibody",
        readings=(
            Reading(measure="ORR", value=0.60),
            Reading(measure="PFS median", value=3.6, low=1.4, high=NOT_REACHED),
            Reading(measure="DOR median", value=4.4),
        ),
        arm_second="bispecific",
        differs=_MIXED,
        source=_SALVAGE,
        tag="READ-abs",
    ),
    Series(
        name="T-cell-engaging salvage after BCMA CAR-T",
        first="BCMA-directed CAR-T",
        second="a bispecific antibody or another CAR-T",
        readings=(Reading(measure="ORR", value=0.914, n=35),),
        arm_second="T-cell engaging",
        differs=(
            "two institutions, retrospective; bispecific antibodies and CAR-T together, their targets not in the "
            "abstract, at any line of salvage"
        ),
        source=(
            '"Interventions and outcomes of patients with multiple myeloma…", 79 patients relapsed after '
            "BCMA-directed CAR-T, Blood 2023;141(7):756"
        ),
        tag="READ-abs",
    ),
    Series(
        name="CT103A after murine BCMA CAR-T",
        first="a BCMA-directed CAR-T with a murine binder",
        second="CT103A, a CAR-T with a fully human binder",
        readings=(
            Reading(measure=">=VGPR", value=1.0, n=4),
            Reading(measure="sCR", value=0.75, n=4),
        ),
        arm_first=("ide-cel",),
        arm_second="CAR-T",
        another_binder=True,
        differs="four patients of a phase 1 trial; neither product is in the model: the arm's second product stands in",
        source=('"A phase 1 study of a novel fully human BCMA…" (CT103A), Blood 2021;137(21):2890'),
        tag="READ-abs",
    ),
    Series(
        name="cilta-cel after noncellular BCMA therapy",
        first="a BCMA-directed antibody-drug conjugate (13) or bispecific antibody (7), no CAR-T",
        second="cilta-cel",
        readings=(
            Reading(measure="ORR", value=0.60, low=0.361, high=0.809, n=20),
            Reading(measure="MRD-negative", value=0.35, n=20),
            Reading(measure="PFS median", value=9.1, low=1.5, high=NOT_REACHED, n=20),
            Reading(measure="DOR median", value=11.5, low=7.9, high=NOT_REACHED, n=12),
        ),
        arm_second="CAR-T",
        arm_second_products=("cilta-cel",),
        another_binder=True,
        differs=(
            "CARTITUDE-2 cohort C: no CAR-T before, 16 of 20 refractory to the earlier BCMA therapy, so the nearest "
            "arm, with ide-cel before, is another question; MRD evaluable in 10 of 20"
        ),
        source=('"Efficacy and safety of cilta-cel in patients with…", CARTITUDE-2 cohort C, Blood 2023;141(3):219'),
        tag="READ-abs",
    ),
    Series(
        name="ide-cel after BCMA therapy",
        first="a BCMA-directed therapy",
        second="ide-cel",
        readings=(
            Reading(measure="ORR", value=0.74),
            Reading(measure="PFS median", value=3.2),
        ),
        arm_second="CAR-T",
        arm_second_products=("ide-cel",),
        differs=(
            "which BCMA therapy came before is not known here, and the nearest arm has a CAR-T; without any before, "
            "the same report has 88 % and 9.0 months, which no arm can be set beside: arms hold those who progressed"
        ),
        source="Ferreri 2023, Blood Cancer Journal, doi 10.1038/s41408-023-00886-8, as quoted by others",
        tag="secondary",
    ),
)


# ------------------------------------------------------------------------------------------------- arms


def suits(series: Series, first_product: str, second_product: str) -> bool:
    """Whether an arm of these products may be set beside a series."""
    second = second_product.lower()
    if second in NO_TREATMENT or (series.arm_first and first_product not in series.arm_first):
        return False
    bispecific = BISPECIFIC in second
    if (series.arm_second == "CAR-T" and bispecific) or (series.arm_second == "bispecific" and not bispecific):
        return False
    if series.arm_second_products and second_product not in series.arm_second_products:
        return False
    return not (series.another_binder and first_product == second_product)


def arms_for(series: Series, outcomes: pd.DataFrame) -> list[str]:
    """Names of the scenarios that a series may be set beside, in the order of the outcomes."""
    seen = outcomes[["scenario", "first_product", "second_product"]].drop_duplicates()
    return [
        str(row["scenario"])
        for row in seen.to_dict("records")
        if suits(series, str(row["first_product"]), str(row["second_product"]))
    ]


# ------------------------------------------------------------------------------------------- comparison


@dataclass(frozen=True, kw_only=True, eq=False)
class Tally:
    """What is kept of the virtual patients of one arm and world for one reading; the other kind of field is empty.

    Attributes
    ----------
    hits, size : ndarray (draws,)
        Patients with the outcome and patients, by draw.
    median : Median or None
        Of a time.
    reached : ndarray (draws, edges)
        Patients who have had the event by each coarse edge of `counts.DAYS`.
    """

    hits: Floats
    size: Floats
    median: Median | None = None
    reached: Floats | None = None


def tally(patients: pd.DataFrame, series: Series, reading: Reading, *, rng: np.random.Generator) -> Tally:
    """Count what a reading asks for.

    Parameters
    ----------
    patients
        Rows of one scenario and world; rows that do not count are passed over.
    series, reading
        What is asked.
    rng
        Resamples draws for the Monte Carlo error of a median.
    """
    given = counted(patients)
    if series.arm_responders:
        given &= reaches(patients["best_1"], "PR")
    layout = Layout(patients["draw"].to_numpy())
    if not reading.months:
        who, outcome = _outcome(patients, reading.measure, given)
        return Tally(hits=layout.count(who & outcome)[0], size=layout.count(who)[0])
    who, days = _days(patients, reading.measure, given)
    nothing = np.zeros(layout.draws)
    if not who.any():
        return Tally(hits=nothing, size=nothing)
    place, some = DAYS.place(days[who]), layout.only(who)
    coarse = some.by_draw(DAYS.coarse_of_fine[place], DAYS.coarse.size + 1)[0]
    return Tally(
        hits=nothing,
        size=coarse.sum(axis=1),
        median=Median.by_group(some, days[who], DAYS, resamples_of(rng))[0],
        reached=np.cumsum(coarse[:, :-1], axis=1),
    )


def _outcome(patients: pd.DataFrame, measure: Measure, given: Flags) -> tuple[Flags, Flags]:
    if measure == "MRD-negative":
        return given, patients["mrd5_2"].to_numpy(dtype=np.bool_)
    judged = given & patients["evaluable_2"].to_numpy(dtype=np.bool_)
    reached = reaches(patients["best_2"], CLASS_OF[measure])
    # a class that nobody reaches is one that the rules of these outcomes do not have
    return (judged if measure != "sCR" or reached.any() else np.zeros_like(judged)), reached


def _days(patients: pd.DataFrame, measure: Measure, given: Flags) -> tuple[Flags, Floats]:
    """Who has the duration, and days to its event, +inf without one within follow-up."""
    event = np.asarray(patients["pfs_event_2"] != "none")
    column = "pfs_days_2" if measure == "PFS median" else "dor_days_2"
    days = patients[column].to_numpy(dtype=np.float64)
    return given & ~np.isnan(days), np.where(event, days, np.inf)


def compare(
    outcomes: pd.DataFrame,
    *,
    series: Sequence[Series] = SERIES,
    weights: Mapping[str, float] | None = None,
    rng: np.random.Generator,
    level: float = 0.95,
) -> pd.DataFrame:
    """Set every series beside every arm that suits it.

    Parameters
    ----------
    outcomes
        As the engine gives them, in one world or several.
    series
        Which.
    weights
        Of worlds; with them the mixture is compared too.
    rng
        Resamples draws for Monte Carlo errors of medians.
    level
        Of the intervals.

    Returns
    -------
    DataFrame
        Columns `TABLE_COLUMNS`, as `beside`; a series without an arm has one row per reading that says so.
    """
    worlds = [ONE_WORLD] if "world" not in outcomes else [str(world) for world in outcomes["world"].unique()]
    rows: list[dict[str, object]] = []
    for one in series:
        arms = arms_for(one, outcomes)
        for arm in arms:
            of_arm = {world: _rows_of(outcomes, arm, world) for world in worlds}
            for reading in one.readings:
                tallies = {world: tally(rows, one, reading, rng=rng) for world, rows in of_arm.items()}
                rows += beside(one, reading, tallies, arm=arm, weights=weights, level=level)
        if not arms:
            rows += [beside_nothing(one, reading) for reading in one.readings]
    return pd.DataFrame(rows, columns=list(TABLE_COLUMNS))


def _rows_of(outcomes: pd.DataFrame, scenario: str, world: str) -> pd.DataFrame:
    rows = (outcomes["scenario"] == scenario).to_numpy()
    if "world" in outcomes:
        rows = rows & (outcomes["world"] == world).to_numpy()
    return outcomes.loc[rows]


def beside(
    series: Series,
    reading: Reading,
    tallies: Mapping[str, Tally],
    *,
    arm: str,
    weights: Mapping[str, float] | None = None,
    level: float = 0.95,
) -> list[dict[str, object]]:
    """Set one reading beside one arm, in every world and in their mixture.

    Parameters
    ----------
    series, reading
        What was published.
    tallies
        By world.
    arm
        Name of the scenario.
    weights
        Of worlds; with them a row of the mixture, `STACKED`, comes last.
    level
        Of the intervals.

    Returns
    -------
    list of dict
        One per row of the table: simulated figure with its interval and, where the published n is known, the interval
        in virtual trials of that size and the chance of a trial at least as far out as the published one.

    Raises
    ------
    ReinfuseError
        If the weights do not sum to 1, or name a world without a tally.
    """
    groups = [(world, {world: 1.0}) for world in tallies]
    if weights is not None:
        share = {world: weight for world, weight in checked_weights(weights).items() if weight > 0}
        missing = [world for world in share if world not in tallies]
        if missing:
            raise ReinfuseError(f"there are no outcomes of the world {missing[0]!r}; there are {', '.join(tallies)}")
        groups.append((STACKED, share))
    return [
        {
            **_published(series, reading),
            "world": world,
            "arms": arm,
            **_simulated(reading, [(weight, tallies[name]) for name, weight in mixture.items()], level),
        }
        for world, mixture in groups
    ]


def beside_nothing(series: Series, reading: Reading) -> dict[str, object]:
    """Row of a reading that no arm can be set beside."""
    return {
        **_published(series, reading),
        **dict.fromkeys(("world", "arms"), ""),
        "n_simulated": 0,
        "verdict": f"no arm with {series.second} after {series.first}: nothing to compare with",
    }


def _published(series: Series, reading: Reading) -> dict[str, object]:
    return {
        "series": series.name,
        "measure": reading.measure,
        "unit": "months" if reading.months else "share",
        "n_published": reading.n,
        "published": reading.value,
        "published_low": reading.low,
        "published_high": reading.high,
        "differs": series.differs,
        "source": series.source,
        "tag": series.tag,
    }


def _simulated(reading: Reading, parts: Sequence[tuple[float, Tally]], level: float) -> dict[str, object]:
    there = [(weight, part) for weight, part in parts if part.size.sum() > 0]
    if not there:
        return {"n_simulated": 0, "verdict": "nothing simulated to compare with"}
    figure, low, high, tail = _time(reading, there, level) if reading.months else _share(reading, there, level)
    return {
        "simulated": figure.value,
        "low": figure.low,
        "high": figure.high,
        "mc_error": figure.mc_error,
        "n_simulated": figure.n,
        "trial_low": low,
        "trial_high": high,
        "tail_probability": tail,
        "verdict": verdict(reading, figure, tail=tail, level=level),
    }


def _share(
    reading: Reading, parts: Sequence[tuple[float, Tally]], level: float
) -> tuple[Estimate, float, float, float]:
    size = reading.n or 1
    figure, counts = mixed_share([(weight, part.hits, part.size) for weight, part in parts], level, size)
    nothing = float("nan")
    if counts is None or reading.count is None:
        return figure, nothing, nothing, nothing
    low, high = central_counts(counts, level)
    return figure, low / size, high / size, two_sided_tail(counts, reading.count)


def _time(reading: Reading, parts: Sequence[tuple[float, Tally]], level: float) -> tuple[Estimate, float, float, float]:
    weights = np.array([weight for weight, _ in parts]) / sum(weight for weight, _ in parts)
    medians = [part.median for _, part in parts if part.median is not None]
    figure = Median.mixed(medians, list(weights)).estimate(level, DAYS_PER_MONTH) if medians else NOTHING
    nothing = float("nan")
    if reading.n is None:
        return figure, nothing, nothing, nothing
    below = sum(
        (weight * trial_median(part, reading.n) for weight, (_, part) in zip(weights, parts, strict=True)),
        np.zeros(DAYS.coarse.size),
    )
    low, high = (_reaching(below, share) for share in ((1 - level) / 2, (1 + level) / 2))
    at = float(np.interp(reading.value * DAYS_PER_MONTH, DAYS.coarse, below))
    return figure, low, high, min(1.0, 2 * min(at, 1 - at))


def trial_median(part: Tally, size: int) -> Floats:
    """Chance that the median of a trial lies at or below each coarse edge of `counts.DAYS`, (edges,).

    Patients of a trial share a draw; nobody is censored before the end of follow-up.
    """
    if part.reached is None:
        raise ReinfuseError("a tally of a share has no median; ask for a time")
    found = spread(part.reached, part.size)
    mean, correlation = np.clip(found.value, 1e-12, 1 - 1e-12), np.maximum(found.correlation, 1e-9)
    scale = (1 - correlation) / correlation
    half = int(np.ceil(size / 2))
    out = np.where(
        found.correlation <= 1e-9,
        stats.binom.sf(half - 1, size, mean),
        stats.betabinom.sf(half - 1, size, mean * scale, (1 - mean) * scale),
    )
    return np.maximum.accumulate(np.clip(out, 0.0, 1.0))


def _reaching(below: Floats, share: float) -> float:
    """Months at which a distribution reaches a share; +inf if it does not."""
    at = int(np.searchsorted(below, share))
    return float(DAYS.coarse[at]) / DAYS_PER_MONTH if at < below.size else NOT_REACHED


# ---------------------------------------------------------------------------------------------- in words


def verdict(reading: Reading, figure: Estimate, *, tail: float = float("nan"), level: float = 0.95) -> str:
    """Say in plain words whether the model fits.

    Parameters
    ----------
    reading
        What was published.
    figure
        What was simulated.
    tail
        Chance of a trial of the published size at least as far out; NaN where the size is not known.
    level
        A misfit has a tail below 1 - level or, where the size is not known, a published value outside the simulated
        interval.

    Returns
    -------
    str
        A longer time or a larger share than published is called optimistic, a smaller one pessimistic.
    """
    if np.isnan(figure.value):
        return "nothing simulated to compare with"
    text = (
        f"simulated {reading.measure} {_shown(reading, figure.value)} "
        f"[{_shown(reading, figure.low)}, {_shown(reading, figure.high)}], published {_shown(reading, reading.value)}"
    )
    if reading.low is not None and reading.high is not None:
        text += f" ({_shown(reading, reading.low)}-{_shown(reading, reading.high)})"
    known = not np.isnan(tail)
    misfit = tail < 1 - level if known else not figure.low <= reading.value <= figure.high
    if misfit:
        text += f": the model is {'optimistic' if figure.value > reading.value else 'pessimistic'}"
        if reading.low is not None and reading.high is not None and reading.low <= figure.value <= reading.high:
            text += ", though the published interval reaches that far"
        return text
    if known:
        return f"{text}: no misfit that {reading.n} patients could show"
    return f"{text}: within what the simulation leaves open"


def misfits(table: pd.DataFrame) -> list[str]:
    """Every misfit of a table in a sentence, none left out; first whom, then what."""
    wrong = table[table["verdict"].str.contains(": the model is ", regex=False)]
    return [
        f"{row['series']}, beside {row['arms']!r} ({row['world']}): {row['verdict']}. "
        f"The patients differ: {row['differs']}."
        for row in wrong.to_dict("records")
    ]


def sources(series: Iterable[Series] = SERIES) -> list[str]:
    """Where the series were read, one line each, in order and once."""
    return list(dict.fromkeys(f"{one.source} ({one.tag})" for one in series))


def _shown(reading: Reading, value: float) -> str:
    if np.isinf(value):
        return "NR"
    return f"{value:.1f} months" if reading.months else f"{value:.0%}"

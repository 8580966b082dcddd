"""Patients who never were: a cohort simulated from the model on the schedule and limits of a real study.

For `reinfuse demo`, the tutorial and tests of the fit. `synthetic_cohort` draws it and tells the truth behind
it; `scripts/make_synthetic_cohort.py` wrote the bundled one (`BUNDLED`, with its truth in `BUNDLED_TRUTH`).
No value of a patient is in it. What it owes to people is the plan of the visits: when they took place, which
share of the patients was sampled at each and where the assays end, rounded, as a summary of the cohort of
Fandrei et al. (Blood Cancer Discovery 2024).

How a patient comes about:

- Parameters with a random effect are drawn around the medians of `REAL_COHORT`, each infusion's fitness has a
  deviation of its own, cilta-cel differs from ide-cel by `MULTIPLIERS`. All else is at its median.
- Progression is drawn from the model's hazard, which starts 10 days after an infusion, death from the
  constant hazard `hD`, before and after progression. Samples end with progression, death or follow-up.
- Of the ide-cel patients who progressed some get cilta-cel 45 to 90 days later, are seen by the same schedule
  again and have a second follow-up. Bridging has no column in a cohort table, so there is none: whoever reads
  the table as it stands (bridging 1, apheresis 35 days before infusion) has the model that made it.
- Assays have Student-t residuals with 4 degrees of freedom on the log scale; what falls below the limit of
  quantification is censored there.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reinfuse.model.course import Infusion
from reinfuse.model.equations.bcma import EARLY
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import (
    PRODUCT_ASSAY,
    PRODUCT_EFFECTS,
    RANDOM_EFFECTS,
    REAL_COHORT,
    VARIANTS,
    from_transformed,
    to_transformed,
)
from reinfuse.model.products import PRODUCTS
from reinfuse.model.simulate import Status, simulate_population

from .assays import LOG_OFFSET
from .cohort import cohort_from_frame, write_cohort
from .cohort_terms import ASSAY_TABLE, WRITTEN_COLUMNS

type Floats = NDArray[np.float64]

#: The bundled cohort, and the parameters and choices that made it.
BUNDLED: Final = Path(__file__).parent / "data" / "synthetic_cohort.csv"
BUNDLED_TRUTH: Final = Path(__file__).parent / "data" / "synthetic_truth.json"

FIRST, SECOND = "ide-cel", "cilta-cel"

#: What cilta-cel multiplies, by label of `PRODUCT_EFFECTS`. CAL: feasibility fit to the Fandrei 2024 cohort,
#: not converged. The prior means, which rest on other studies, put flow on day 14 some 20 times below it.
MULTIPLIERS: Final[Mapping[str, float]] = {
    "rho:cilta-cel": 1.1,
    "tg:cilta-cel": 2.2,
    "feng:cilta-cel": 0.54,
    "B0:cilta-cel": 0.43,
    "KE:cilta-cel": 0.21,
}

#: Days of the visits after an infusion: earliest, as planned, latest. Summary of the Fandrei 2024 cohort.
VISITS: Final[Mapping[int, tuple[int, int, int]]] = {
    7: (7, 7, 10),
    14: (10, 14, 19),
    30: (20, 29, 35),
    100: (73, 99, 114),
}
#: Share of visits on the planned day; the others are spread evenly over the range. ASSUMED.
PUNCTUAL: Final = 0.6

#: Share of the patients sampled, by assay, product of the latest infusion and visit (0: its day). Rounded
#: summary of the Fandrei 2024 cohort; here a share of those still followed.
SAMPLED: Final[Mapping[str, Mapping[str, Mapping[int, float]]]] = {
    "transgene": {
        FIRST: {7: 0.91, 14: 0.91, 30: 0.91, 100: 0.41},
        SECOND: {7: 0.67, 14: 0.67, 30: 0.78, 100: 0.11},
    },
    "cart": {
        FIRST: {7: 0.91, 14: 0.82, 30: 0.91, 100: 0.79},
        SECOND: {7: 0.78, 14: 0.72, 30: 0.78, 100: 0.44},
    },
    "sbcma": {
        FIRST: {0: 0.91, 7: 0.76, 30: 0.88, 100: 0.76},
        SECOND: {0: 0.83, 30: 0.83, 100: 0.61},
    },
}

#: Limits of quantification in the assays' units: those of the Leipzig converter; M-protein's ASSUMED.
LLOQ: Final[Mapping[str, float]] = {"transgene": 50.0, "sbcma": 1.1, "mprotein": 0.1}
#: That of flow is a share of CD3+ cells and differs between samples: median (cells/µL), log-sd. ASSUMED.
CART_LLOQ: Final = 0.5
CART_LLOQ_LOG_SD: Final = 0.6

#: Serum M-protein, which the Fandrei 2024 cohort lacks: every 28 days, give or take, in patients whose
#: disease is measurable by the samples of day 0: M-protein (g/dL) as in `ResponseRules`, and sBCMA (ng/mL) as
#: of some 1e10 myeloma cells, since the model's M-protein says nothing of the size of the tumour. ASSUMED.
MPROTEIN_EVERY: Final = 28
MPROTEIN_JITTER: Final = 3
MEASURABLE_MPROTEIN: Final = 0.5
MEASURABLE_SBCMA: Final = 20.0

#: Days from an infusion to the end of its follow-up, and from progression to the second infusion. ASSUMED.
FOLLOW_UP: Final = (180, 750)
TO_SECOND: Final = (45, 90)
#: Sd of an infusion's own deviation on ln(fitness), as the fit's prior has it. ASSUMED.
OCCASION_SD: Final = 0.1

RESIDUAL_DEGREES: Final = 4
MAX_DRAWS: Final = 200
_TOLERANCE: Final = 1e-8
_CHUNK: Final = 128
_WHAT: Final = (
    "Synthetic: simulated from the model of reinfuse, no data of patients. Visits, sampling and limits "
    "follow a rounded summary of the cohort of Fandrei et al., Blood Cancer Discovery 2024."
)


@dataclass(frozen=True)
class _People:
    """What is drawn before anything is simulated; arrays of shape (n,) unless said otherwise.

    `resistance` (n, 2) is the cumulative hazard that each infusion's progression waits for, `death` a day,
    `follow_up` (n, 2) days from each infusion, `interval` days from progression to the second infusion.
    """

    product: NDArray[np.str_]
    individual: dict[str, Floats]
    resistance: Floats
    death: Floats
    follow_up: Floats
    interval: Floats

    @property
    def n(self) -> int:
        """Number of patients."""
        return int(self.product.size)


class _Sample(NamedTuple):
    """A result of an assay, or an event."""

    day: float
    assay: str
    value: float
    censored: int = 0
    limit: float = np.nan


@dataclass(frozen=True)
class _Story:
    """One patient's course: per infusion its product, day, progression (+inf: never) and end of follow-up."""

    products: tuple[str, ...]
    starts: tuple[float, ...]
    progressions: tuple[float, ...]
    ends: tuple[float, ...]
    death: float


def synthetic_cohort(
    *,
    patients: int = 24,
    second_infusions: int | float = 6,
    seed: int,
    cilta_share: float = 1 / 3,
    mprotein_share: float = 2 / 3,
    random_effects: Sequence[str] = RANDOM_EFFECTS,
    variant: str = "no-exhaustion",
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Draw a cohort of virtual patients and sample it like a real one.

    Parameters
    ----------
    patients
        How many, `SYN-001` and so on.
    second_infusions
        How many patients (int), or which share of the ide-cel patients who progressed and lived (float, 0 to
        1), get cilta-cel as well. A number is met by drawing whole cohorts until one has so many to choose
        from, which favours progression a little; `truth["draws"]` says how many it took.
    seed
        Not negative. The same seed gives the same cohort.
    cilta_share
        Share of the patients whose first product is cilta-cel.
    mprotein_share
        Share of the patients with measurable disease whose M-protein is followed.
    random_effects
        Parameters that differ between patients. With the default every M-protein starts near 3 g/dL; add
        "P0", here and in the fit's specification, for patients who differ in it.
    variant
        A name of `VARIANTS`.

    Returns
    -------
    table : pandas.DataFrame
        A canonical cohort table (`fits.cohort.Cohort.table`) with the covariate `synthetic` = 1.
    truth : dict
        Ready for JSON: the choices, `population` (labels as in a run's posterior), `omega`,
        `product_effect` (log multipliers) and `individual`, by patient and parameter.

    Raises
    ------
    ReinfuseError
        If a choice makes no sense, a patient cannot be simulated, or `MAX_DRAWS` cohorts had too few patients
        to infuse again.
    """
    _check(patients, second_infusions, seed, cilta_share, mprotein_share, random_effects, variant)
    for draw, sequence in enumerate(np.random.SeedSequence(seed).spawn(MAX_DRAWS), start=1):
        rng = np.random.default_rng(sequence)
        people = _draw(rng, patients, cilta_share, random_effects)
        first = _first_progression(people, variant)
        candidates = _candidates(people, first)
        many = second_infusions if isinstance(second_infusions, int) else candidates.size * second_infusions
        if candidates.size >= many:
            table, names = _observe(rng, people, first, candidates, round(many), variant, mprotein_share)
            choices: dict[str, Any] = {
                "what": _WHAT,
                "synthetic": True,
                "seed": seed,
                "draws": draw,
                "patients": patients,
                "cilta_share": cilta_share,
                "mprotein_share": mprotein_share,
                "variant": variant,
                "options": "real",
                "bridging": 1.0,
            }
            return table, choices | _truth(people, names, random_effects, variant)
    raise ReinfuseError(
        f"in none of {MAX_DRAWS} cohorts of {patients} patients did {second_infusions} progress after "
        f"{FIRST} and live to be infused again; ask for fewer second infusions or for more patients"
    )


def write_synthetic(table: pd.DataFrame, truth: Mapping[str, Any], out: str | Path, truth_out: str | Path) -> None:
    """Write a synthetic cohort as CSV and the truth behind it as JSON.

    Parameters
    ----------
    table, truth
        From `synthetic_cohort`.
    out, truth_out
        Files to write; replaced if they are there.

    Raises
    ------
    OSError
        A folder does not exist or cannot be written.
    """
    whole = {"TIME": "int64", "AMT": "Int64", "LD": "Int64", "synthetic": "int64"}  # days, cells: no ".0"
    write_cohort(table.astype(whole), out)
    text = json.dumps(truth, indent=1, ensure_ascii=False)
    Path(truth_out).write_text(text + "\n", encoding="utf-8", newline="\n")


def _check(
    patients: int,
    second_infusions: int | float,
    seed: int,
    cilta_share: float,
    mprotein_share: float,
    random_effects: Sequence[str],
    variant: str,
) -> None:
    if patients < 1:
        raise ReinfuseError(f"patients is {patients}; give a number of at least 1")
    if seed < 0:
        raise ReinfuseError(f"seed is {seed}; give a whole number of at least 0")
    shares = {"cilta_share": cilta_share, "mprotein_share": mprotein_share}
    if isinstance(second_infusions, float):
        shares["second_infusions"] = second_infusions
    else:
        most = patients - round(patients * cilta_share)
        if not 0 <= second_infusions <= most:
            raise ReinfuseError(
                f"second_infusions is {second_infusions}; give a whole number from 0 to {most}, the patients "
                f"who get {FIRST} first, or a share from 0.0 to 1.0"
            )
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ReinfuseError(f"{name} is {value}; give a share from 0 to 1")
    if variant not in VARIANTS:
        raise ReinfuseError(f"unknown variant {variant!r}; use one of {', '.join(VARIANTS)}")
    for name in random_effects:
        if name not in REAL_COHORT or REAL_COHORT[name].iiv <= 0:
            raise ReinfuseError(f"{name!r} has no spread between patients in the table; choose other random effects")


# ---- the patients


def _draw(rng: np.random.Generator, n: int, cilta_share: float, random_effects: Sequence[str]) -> _People:
    product = np.full(n, FIRST, dtype="<U16")
    product[rng.permutation(n)[: round(n * cilta_share)]] = SECOND
    individual: dict[str, Floats] = {}
    for name in random_effects:
        row = REAL_COHORT[name]
        middle = to_transformed(row.median, transform=row.transform)
        shift = np.zeros(n)
        for effect in PRODUCT_EFFECTS.values():
            if effect.parameter == name and effect.product_field is None:
                shift[product == effect.product] = np.log(MULTIPLIERS[effect.label])
        drawn = middle + shift + row.iiv * rng.standard_normal(n)
        individual[name] = from_transformed(drawn, transform=row.transform)
    for slot in (1, 2):
        individual[f"occ_{slot}"] = OCCASION_SD * rng.standard_normal(n)
    return _People(
        product=product,
        individual=individual,
        resistance=rng.exponential(size=(n, 2)),
        death=np.ceil(rng.exponential(1.0 / REAL_COHORT["hD"].median, size=n)),
        follow_up=rng.integers(*FOLLOW_UP, size=(n, 2), endpoint=True).astype(np.float64),
        interval=rng.integers(*TO_SECOND, size=n, endpoint=True).astype(np.float64),
    )


def _simulate(people: _People, second_day: Floats, horizon: float, variant: str) -> dict[str, Floats]:
    """Assays and cumulative hazard of everyone on every day from 0 to `horizon`, arrays (n, days)."""
    held = VARIANTS[variant]
    days = np.arange(horizon + 1.0)
    names = ("transgene", "cart", "sbcma", "mprotein", "cumhaz")
    curves = {name: np.full((people.n, days.size), np.nan) for name in names}
    for product in (FIRST, SECOND):
        everyone = np.flatnonzero(people.product == product)
        for low in range(0, everyone.size, _CHUNK):
            mine = everyone[low : low + _CHUNK]
            parameters: dict[str, float | Floats] = {k: v[mine] for k, v in people.individual.items()}
            parameters |= held.parameters
            for slot, name in enumerate((product, SECOND), start=1):
                parameters |= {f"{field}_{slot}": value for field, value in held.product.items()}
                for effect in PRODUCT_EFFECTS.values():
                    if effect.product == name and effect.product_field:
                        parameters[f"{effect.product_field}_{slot}"] = MULTIPLIERS[effect.label]
            result = simulate_population(
                course=[Infusion(product=product), Infusion(product=SECOND, day=second_day[mine])],
                times=days,
                parameters=parameters,
                options="real",
                tolerance=_TOLERANCE,
            )
            if result.attrs["failures"]:
                worst = Status(int(result["status"].to_numpy().max()))
                raise ReinfuseError(f"a patient could not be simulated ({worst.sentence}); take another seed")
            for name, values in curves.items():
                values[mine] = result[name].to_numpy()
    return curves


def _progression(cumhaz: Floats, people: _People, infusion: int, start: Floats) -> Floats:
    """Day on which progression after an infusion (0 or 1) is found, (n,); +inf if never within the curves."""
    days = np.arange(cumhaz.shape[1], dtype=np.float64)
    reached = (days >= start[:, None] + EARLY) & (cumhaz >= people.resistance[:, infusion, None])
    return np.where(reached.any(axis=1), days[reached.argmax(axis=1)], np.inf)


def _first_progression(people: _People, variant: str) -> Floats:
    never = np.full(people.n, np.inf)
    curves = _simulate(people, never, float(people.follow_up[:, 0].max()), variant)
    return _progression(curves["cumhaz"], people, 0, np.zeros(people.n))


def _candidates(people: _People, progression: Floats) -> NDArray[np.int64]:
    """Patients to infuse again: ide-cel, progression seen, alive on the day of the second infusion."""
    seen = (progression <= people.follow_up[:, 0]) & (progression < people.death)
    alive = people.death > progression + people.interval
    return np.flatnonzero((people.product == FIRST) & seen & alive).astype(np.int64)


# ---- what is seen of them


def _observe(
    rng: np.random.Generator,
    people: _People,
    first: Floats,
    candidates: NDArray[np.int64],
    many: int,
    variant: str,
    mprotein_share: float,
) -> tuple[pd.DataFrame, list[str]]:
    """Infuse so `many` of the candidates again and sample everyone: the canonical table, and the IDs."""
    again = rng.choice(candidates, size=many, replace=False)
    second_day = np.full(people.n, np.inf)
    second_day[again] = first[again] + people.interval[again]
    ends = np.stack([people.follow_up[:, 0], second_day + people.follow_up[:, 1]], axis=1)
    ends = np.minimum(ends, people.death[:, None])
    curves = _simulate(people, second_day, float(ends[second_day < np.inf].max(initial=ends[:, 0].max())), variant)
    second = _progression(curves["cumhaz"], people, 1, second_day)
    names = [f"SYN-{i:03d}" for i in range(1, people.n + 1)]
    rows: list[tuple[Any, ...]] = []
    for i, name in enumerate(names):
        slots = 2 if np.isfinite(second_day[i]) else 1
        story = _Story(
            products=(str(people.product[i]), SECOND)[:slots],
            starts=(0.0, float(second_day[i]))[:slots],
            progressions=(float(first[i]), float(second[i]))[:slots],
            ends=(float(ends[i, 0]), float(ends[i, 1]))[:slots],
            death=float(people.death[i]),
        )
        mine = {assay: values[i] for assay, values in curves.items()}
        rows += _rows(rng, name, story, mine, mprotein_share)
    frame = pd.DataFrame.from_records(rows, columns=list(WRITTEN_COLUMNS))
    frame["synthetic"] = 1
    return cohort_from_frame(frame, name="the synthetic cohort").table, names


def _rows(
    rng: np.random.Generator, name: str, story: _Story, curves: Mapping[str, Floats], mprotein_share: float
) -> list[tuple[Any, ...]]:
    """Rows of one patient in the order of the table's columns, sorted."""
    samples: list[_Sample] = []
    followed = bool(rng.uniform() < mprotein_share)
    for product, start, progression, end in zip(
        story.products, story.starts, story.progressions, story.ends, strict=True
    ):
        progressed = progression <= end and progression < story.death
        last = progression if progressed else end
        taken = _visits(rng, product, start, last, curves)
        protein = _mprotein(rng, start, last, curves)
        if start == 0:
            followed = followed and _measurable(taken, protein)
        samples += [*taken, *(protein if followed else []), _Sample(last, "progression", float(progressed))]
    end = story.ends[-1]
    samples.append(_Sample(end, "death", float(story.death <= end)))
    none = np.nan
    rows: list[tuple[Any, ...]] = [
        (name, start, 1, PRODUCTS[product].dose, product, 1.0, "", none, 0, none)
        for product, start in zip(story.products, story.starts, strict=True)
    ]
    rows += [(name, s.day, 0, none, "", none, s.assay, s.value, s.censored, s.limit) for s in samples]
    rank = {assay: position for position, assay in enumerate(("", *ASSAY_TABLE))}
    return sorted(rows, key=lambda row: (row[1], rank[row[6]]))


def _visits(
    rng: np.random.Generator, product: str, start: float, last: float, curves: Mapping[str, Floats]
) -> list[_Sample]:
    """Samples of the study's visits after one infusion, until day `last`."""
    taken = []
    before = -1
    for visit, (earliest, planned, latest) in {0: (0, 0, 0), **VISITS}.items():
        spread = int(rng.integers(earliest, latest, endpoint=True))
        after = planned if rng.uniform() < PUNCTUAL else spread
        before = after = max(after, before + 1)  # no two visits on one day
        for assay, shares in SAMPLED.items():
            if rng.uniform() < shares[product].get(visit, 0.0) and start + after <= last:
                limit = LLOQ.get(assay) or _flow_limit(rng)
                taken.append(_measured(rng, assay, start + after, curves, limit))
    return taken


def _flow_limit(rng: np.random.Generator) -> float:
    return float(f"{CART_LLOQ * np.exp(CART_LLOQ_LOG_SD * rng.standard_normal()):.2g}")


def _mprotein(rng: np.random.Generator, start: float, last: float, curves: Mapping[str, Floats]) -> list[_Sample]:
    """M-protein on the day of an infusion and monthly from then on, until day `last`."""
    planned = np.arange(start + MPROTEIN_EVERY, last + MPROTEIN_JITTER + 1, MPROTEIN_EVERY)
    jitter = rng.integers(-MPROTEIN_JITTER, MPROTEIN_JITTER, size=planned.size, endpoint=True)
    days = [start, *(planned + jitter).tolist()]
    return [_measured(rng, "mprotein", day, curves, LLOQ["mprotein"]) for day in days if day <= last]


def _measurable(taken: Sequence[_Sample], protein: Sequence[_Sample]) -> bool:
    """Whether the samples of day 0 show a disease that M-protein can follow."""
    sbcma = [sample.value for sample in taken if sample.assay == "sbcma" and sample.day == 0]
    return bool(sbcma) and sbcma[0] >= MEASURABLE_SBCMA and protein[0].value >= MEASURABLE_MPROTEIN


def _measured(rng: np.random.Generator, assay: str, day: float, curves: Mapping[str, Floats], limit: float) -> _Sample:
    """One sample with residual error, censored at the limit or at the top of the assay's range."""
    residual = REAL_COHORT[f"sigma_{assay}"].median * rng.standard_t(RESIDUAL_DEGREES)
    offset = LOG_OFFSET.get(assay, 0.0)
    value = float(f"{(curves[assay][int(day)] + offset) * np.exp(residual) - offset:.4g}")
    highest = ASSAY_TABLE[assay].highest
    if value < limit:
        return _Sample(day, assay, limit, 1, limit)
    return _Sample(day, assay, highest, -1, limit) if value > highest else _Sample(day, assay, value, 0, limit)


# ---- the truth


def _truth(people: _People, names: Sequence[str], random_effects: Sequence[str], variant: str) -> dict[str, Any]:
    population = {symbol: row.median for symbol, row in REAL_COHORT.items() if symbol not in ("aT", "bT")}
    population |= VARIANTS[variant].parameters
    for product in (FIRST, SECOND):
        population |= {f"{symbol}:{product}": row.median for symbol, row in PRODUCT_ASSAY[product].items()}
    individual = {symbol: [_short(v) for v in values.tolist()] for symbol, values in people.individual.items()}
    return {
        "residual": f"Student t, {RESIDUAL_DEGREES} degrees of freedom, times sigma_* on the log scale",
        "population": {symbol: _short(value) for symbol, value in population.items()},
        "omega": {symbol: REAL_COHORT[symbol].iiv for symbol in random_effects} | {"occasion": OCCASION_SD},
        "product_effect": {label: _short(np.log(value)) for label, value in MULTIPLIERS.items()},
        "individual": {name: {s: values[i] for s, values in individual.items()} for i, name in enumerate(names)},
    }


def _short(value: float) -> float:
    """Six digits: the last ones of a float may differ between machines."""
    return float(f"{value:.6g}")

"""Prior predictive check: what share of patients drawn from the prior is like no patient at all.

Whole patients are drawn, population, spread and deviations, and followed for a year after one infusion; progression
does not stop them. The limits are wide: a value beyond one is not merely rare. A large share says that the prior
spends its mass on what cannot be; the data may still rule it out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from reinfuse.model.parameters import table

from ..cohort_terms import ASSAY_TABLE
from ..new_patients import NewPatients, PopulationDraws, first_infusion_only
from ..problem import Problem

Array = npt.NDArray[np.float64]

PATIENTS: Final = 1000
DAYS: Final = np.concatenate([np.arange(0.0, 61.0), np.arange(65.0, 366.0, 10.0)])


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A limit of physiology.

    Attributes
    ----------
    readout
        Needed read-out of the model.
    label, unit
        What is compared.
    value
        The limit.
    above
        Whether values above it are outside (else those below).
    tag, source
        Provenance.
    of
        The quantity (m,) from read-outs (m, T) on `DAYS`.
    """

    readout: str
    label: str
    unit: str
    value: float
    above: bool
    tag: str
    source: str
    of: Callable[[Mapping[str, Array]], Array]


def _highest(name: str) -> Callable[[Mapping[str, Array]], Array]:
    return lambda curves: curves[name].max(axis=1)


def _first(name: str) -> Callable[[Mapping[str, Array]], Array]:
    return lambda curves: curves[name][:, 0]


def _peak_day(curves: Mapping[str, Array]) -> Array:
    return DAYS[np.argmax(np.nan_to_num(curves["cart"], nan=-1.0), axis=1)]


LIMITS: Final = (
    Limit(
        readout="cart", label="highest CAR+ count", unit="cells/µL", value=1e5, above=True, tag="ASSUMED",
        source="ten times the leukocytes of a healthy adult (RECALLED: some 1e4 cells/µL)", of=_highest("cart"),
    ),
    Limit(
        readout="transgene", label="highest transgene", unit="copies/µg", value=1e7, above=True, tag="ASSUMED",
        source="66 copies in each of the 1.5e5 genomes of a µg of DNA (RECALLED: 6.6 pg per genome)",
        of=_highest("transgene"),
    ),
    Limit(
        readout="cart", label="day of the highest CAR+ count", unit="d", value=60.0, above=True, tag="ASSUMED",
        source="far beyond medians of 11 to 13 days (READ, ide-cel and cilta-cel); single patients of CARTITUDE-1 "
        "had a later one (READ: to 330 days)", of=_peak_day,
    ),
    Limit(
        readout="cart", label="day of the highest CAR+ count", unit="d", value=2.0, above=False, tag="ASSUMED",
        source="no expansion: shorter than the lag of 3.3 days found for liso-cel (READ-abs, Ogasawara 2021)",
        of=_peak_day,
    ),
    Limit(
        readout="Ts", label="myeloma cells on day 0", unit="cells", value=table("real")["KB"].median, above=True,
        tag="RECALLED", source="the model's carrying capacity: 1e12 to 1e13 cells are lethal",
        of=lambda curves: curves["Ts"][:, 0] + curves["Tr"][:, 0],
    ),
    Limit(
        readout="sbcma", label="sBCMA on day 0", unit="ng/mL", value=1e4, above=True, tag="ASSUMED",
        source="twenty times the median of 508.5 ng/mL before cilta-cel (READ-abs, PubMed 36720180)",
        of=_first("sbcma"),
    ),
    Limit(
        readout="mprotein", label="M-protein on day 0", unit="g/dL", value=ASSAY_TABLE["mprotein"].highest, above=True,
        tag="ASSUMED", source="the highest that a cohort file may hold", of=_first("mprotein"),
    ),
)  # fmt: skip

COLUMNS: Final = (
    "product", "quantity", "unit", "limit", "outside", "lower", "median", "upper", "n", "tag", "source",
)  # fmt: skip


def check(
    problem: Problem, draws: PopulationDraws, *, rng: np.random.Generator, patients: int = PATIENTS
) -> pd.DataFrame:
    """Return the shares of patients drawn from a prior that lie beyond the limits of physiology.

    Parameters
    ----------
    problem
        The posed cohort: products and doses, read-outs of its assays.
    draws
        Population draws of the prior (of a posterior, if that is to be judged).
    rng
        Source of patients.
    patients
        How many per product.

    Returns
    -------
    DataFrame
        One row per first product and limit: `quantity`, `unit`, `limit` (in words), `outside` (share), `median` and
        95 % interval (`lower`, `upper`) of the quantity, `n` patients whose trajectory was solved, `tag`, `source`;
        then a row per product with the share beyond any limit, and one with trajectories that could not be solved.
    """
    alone = first_infusion_only(problem, problem.base)
    new = NewPatients(alone, draws)
    lines: list[dict[str, object]] = []
    for product in sorted(set(problem.slot_products[:, 0].tolist())):
        place = rng.choice(np.flatnonzero(problem.slot_products[:, 0] == product), size=patients)
        draw = np.arange(patients) % len(draws)
        thetas = new.thetas(place, draw, rng)
        limits = [limit for limit in LIMITS if limit.readout in problem.kernel.readouts]
        values = np.full((len(limits), patients), np.nan)
        for part, simulated in new.in_chunks(thetas, place, DAYS):
            for k, limit in enumerate(limits):
                values[k, part] = limit.of(simulated)
        # the day of a peak is a number even where nothing was solved
        solved = np.isfinite(values[[k for k, x in enumerate(limits) if x.unit != "d"]]).all(axis=0)
        seen = values[:, solved]
        beyond = np.array([row > x.value if x.above else row < x.value for row, x in zip(seen, limits, strict=True)])
        for row, outside, limit in zip(seen, beyond, limits, strict=True):
            low, middle, high = np.quantile(row, [0.025, 0.5, 0.975])
            lines.append(
                {
                    "product": product,
                    "quantity": limit.label,
                    "unit": limit.unit,
                    "limit": f"{'above' if limit.above else 'below'} {limit.value:g}",
                    "outside": float(outside.mean()),
                    "lower": low,
                    "median": middle,
                    "upper": high,
                    "n": int(solved.sum()),
                    "tag": limit.tag,
                    "source": limit.source,
                }
            )
        rest = {"product": product, "unit": "", "n": patients, "tag": "", "source": ""}
        anything = float(beyond.any(axis=0).mean())
        lines.append({**rest, "quantity": "any of these", "limit": "", "outside": anything, "n": int(solved.sum())})
        lines.append({**rest, "quantity": "not solved", "limit": "", "outside": float((~solved).mean())})
    return pd.DataFrame(lines, columns=list(COLUMNS))

"""From a cohort to observation records: what kind of value, how it is censored, under which product.

The likelihood compares six kinds of record with the model (`ASSAYS`). `flc` and `pd1` stay in the cohort and
its summaries but have no observation model: free light chains have another turnover than the M-protein, and
the share of PD-1+ cells follows the model's exhausted state only weakly (rho 0.28 in CD8+ and 0.07 in CD4+
CAR+ cells of the Leipzig cohort).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from reinfuse.model.densities import Family
from reinfuse.model.equations.bcma import IMMUNOFIXATION
from reinfuse.model.errors import ReinfuseError

from .cohort import Cohort

#: Kinds of record; a record's `kind` is its index here.
ASSAYS: Final = ("transgene", "cart", "sbcma", "mprotein", "progression", "death")

#: Added before the logarithm is taken, by assay, in its unit; 0 for those not named.
LOG_OFFSET: Final[Mapping[str, float]] = {"mprotein": IMMUNOFIXATION}

_BLOOD_CAR: Final = ("transgene", "cart")


@dataclass(frozen=True)
class Padded:
    """Records as rectangles, one row per patient; only the first `n_obs` entries of a row count.

    Attributes
    ----------
    time
        (n_patients, max_obs) days; 0 in the padding.
    kind
        (n_patients, max_obs) index into `ASSAYS`; 0 in the padding.
    family
        (n_patients, max_obs) `Family`; 0 in the padding.
    value
        (n_patients, max_obs) natural units; 1 in the padding.
    n_obs
        (n_patients,) number of records; 0 for a patient without any.
    """

    time: npt.NDArray[np.float64]
    kind: npt.NDArray[np.int64]
    family: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    n_obs: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Records:
    """Observation records as flat arrays of length n, sorted by patient, time and kind.

    Attributes
    ----------
    patients
        IDs of all patients of the cohort, also of those without records.
    patient
        (n,) index into `patients`.
    time
        (n,) days since the first infusion, >= 0.
    kind
        (n,) index into `ASSAYS`.
    dvid
        (n,) name of the assay, `ASSAYS[kind]`.
    family
        (n,) `Family`.
    value
        (n,) natural units: copies/µg DNA, cells/µL, ng/mL, g/dL; the limit where censored; 1 for events.
    product
        (n,) product of the latest infusion at or before the record (for progression: strictly before).
    lower
        (n,) lower end where the family is `Family.INTERVAL`, whose upper end is `value`; NaN elsewhere.
    lloq
        (n,) lower limit of quantification: as given, or else the limit itself where censored below; NaN: unknown.
    """

    patients: tuple[str, ...]
    patient: npt.NDArray[np.int64]
    time: npt.NDArray[np.float64]
    kind: npt.NDArray[np.int64]
    dvid: npt.NDArray[np.str_]
    family: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    product: npt.NDArray[np.str_]
    lower: npt.NDArray[np.float64]
    lloq: npt.NDArray[np.float64]

    def __len__(self) -> int:
        """Count the records."""
        return int(self.patient.size)

    @property
    def n_patients(self) -> int:
        """Number of patients, with or without records."""
        return len(self.patients)

    def only(self, keep: npt.NDArray[np.bool_]) -> Self:
        """Some of the records, by a mask (n,); the patients stay."""
        columns = [f.name for f in fields(self) if f.name != "patients"]
        return replace(self, **{name: getattr(self, name)[keep] for name in columns})

    def padded(self) -> Padded:
        """Lay the records out as (n_patients, max_obs) rectangles for the likelihood kernel."""
        n_obs = np.bincount(self.patient, minlength=self.n_patients).astype(np.int64)
        shape = (self.n_patients, int(n_obs.max(initial=0)))
        first = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(n_obs)[:-1]])
        column = np.arange(len(self)) - first[self.patient]
        time, value = np.zeros(shape), np.ones(shape)
        kind, family = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        at = (self.patient, column)
        time[at], value[at], kind[at], family[at] = self.time, self.value, self.kind, self.family
        return Padded(time=time, kind=kind, family=family, value=value, n_obs=n_obs)


def records(cohort: Cohort, *, include_after_progression: bool = False, assays: Sequence[str] = ASSAYS) -> Records:
    """Take the observation records of a cohort.

    Times at or before the first infusion become 0: a baseline. CAR-T assays (`transgene`, `cart`) at or
    before it are left out, for then there are no CAR+ cells to measure.

    Parameters
    ----------
    cohort
        A checked cohort.
    include_after_progression
        Keep the assays taken after the progression of their infusion course; they reflect salvage therapy.
    assays
        Which kinds of record to take, out of `ASSAYS`.

    Returns
    -------
    Records
        At least the patients, if no record.

    Raises
    ------
    ReinfuseError
        A name is not in `ASSAYS`.
    """
    unknown = [name for name in assays if name not in ASSAYS]
    if unknown:
        raise ReinfuseError(f"no observation model for assay {unknown[0]!r}; choose from {', '.join(ASSAYS)}")
    rows = cohort.observations
    dvid = rows["DVID"].to_numpy(dtype=np.str_)
    days = rows["TIME"].to_numpy(dtype=np.float64)
    keep = np.isin(dvid, list(assays)) & ~(np.isin(dvid, _BLOOD_CAR) & (days <= 0))
    if not include_after_progression:
        keep &= ~cohort.after_progression

    index = {patient: i for i, patient in enumerate(cohort.patients)}
    patient = np.array([index[name] for name in rows["ID"]], dtype=np.int64)[keep]
    time = np.maximum(days[keep], 0.0)
    kind = np.array([ASSAYS.index(name) for name in dvid[keep]], dtype=np.int64)
    given = rows["DV"].to_numpy(dtype=np.float64)[keep]
    limit = rows["LIMIT"].to_numpy(dtype=np.float64)[keep]
    family = _families(kind, given, rows["CENS"].to_numpy(dtype=np.int64)[keep], limit)
    lloq = rows["LLOQ"].to_numpy(dtype=np.float64)[keep]
    infusions = cohort.infusions
    slots = zip(infusions["ID"], infusions["SLOT"], infusions["PRODUCT"], strict=True)
    product_of = {(name, slot): product for name, slot, product in slots}
    under = zip(rows["ID"], cohort.observation_slots.tolist(), strict=True)
    product = np.array([product_of[key] for key in under], dtype=np.str_)[keep]

    order = np.lexsort((kind, time, patient))
    return Records(
        patients=tuple(cohort.patients),
        patient=patient[order],
        time=time[order],
        kind=kind[order],
        dvid=dvid[keep][order],
        family=family[order],
        value=np.where(kind >= ASSAYS.index("progression"), 1.0, given)[order],
        product=product[order],
        lower=np.where(family == int(Family.INTERVAL), limit, np.nan)[order],
        lloq=np.where(np.isnan(lloq) & below_limit(family), given, lloq)[order],
    )


def _families(
    kind: npt.NDArray[np.int64],
    given: npt.NDArray[np.float64],
    cens: npt.NDArray[np.int64],
    limit: npt.NDArray[np.float64],
) -> npt.NDArray[np.int64]:
    is_event = kind >= ASSAYS.index("progression")
    event = np.where(given == 1, int(Family.EVENT), int(Family.NO_EVENT))
    # an interval from 0 on is a value below the limit: no assay reads less than nothing
    codes = int(Family.INTERVAL), int(Family.BELOW), int(Family.ABOVE)
    sampled = np.select([(cens == 1) & (limit > 0), cens == 1, cens == -1], codes, int(Family.QUANTIFIED))
    return np.where(is_event, event, sampled).astype(np.int64)


def below_limit(family: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether records are censored below a limit, with or without a lower end."""
    return np.isin(family, (int(Family.BELOW), int(Family.INTERVAL)))


def above_limit(family: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether records are censored above a limit."""
    return np.asarray(family == int(Family.ABOVE))


def log_offset(dvid: Sequence[str] | npt.NDArray[np.str_]) -> npt.NDArray[np.float64]:
    """What is added to values and predictions of each assay before their logarithm, shape of ``dvid``."""
    return np.array([LOG_OFFSET.get(str(name), 0.0) for name in dvid], dtype=np.float64)

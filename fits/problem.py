"""A cohort and a specification become the arrays that the likelihood kernel takes.

The specification says which model (variant), which population parameters are estimated, which of them vary between
patients, and which differ between products. Everything else is a number fixed at its prior median, folded into the
kernel. The individual parameters of all patients form one matrix ``theta``; `Columns` says what each column is made of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reinfuse.model.course import Infusion, ResolvedInfusion, resolve
from reinfuse.model.define import SMALLEST
from reinfuse.model.densities import Family, interval_code
from reinfuse.model.derive.build import Kernel
from reinfuse.model.derive.build import build as compile_model
from reinfuse.model.equations import bcma
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import (
    PRODUCT_ASSAY,
    PRODUCT_EFFECTS,
    RANDOM_EFFECTS,
    REAL_COHORT,
    VARIANTS,
    Parameter,
)
from reinfuse.model.schedule import FAR, events, slot_parameters

from .assays import ASSAYS, LOG_OFFSET, Padded, Records, log_offset, records
from .cohort import Cohort
from .cohort_terms import EVENTS

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]

TOLERANCE: Final = 1e-4  # a cohort's log-likelihood is then within 0.01 of the exact one (docs/validation.md)
MAX_STEPS: Final = 1000  # a hundred are usual; runaway trajectories should fail early

#: Population parameters that a cohort with these assays can move; a parameter needs one of its assays. Not here, though
#: blood kinetics touch them: k (aliased with KE), dE and eps (with each other and with dM), feng (with aT), lag (with
#: rho, before the first sample); they keep their prior medians.
INFORMED: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("rho", "tg", "hg", "dM"), ("transgene", "cart")),
    **dict.fromkeys(("KE", "B0"), ("sbcma", "mprotein", "progression")),
    **dict.fromkeys(("Sbg", "sS", "kS", "sigma_sbcma"), ("sbcma",)),
    **dict.fromkeys(("kP", "P0", "sigma_mprotein", "r"), ("mprotein",)),
    **dict.fromkeys(("Bc", "h1"), ("progression",)),
    "hD": ("death",),
    **dict.fromkeys(("aT", "bT", "dlt", "gT", "sigma_transgene"), ("transgene",)),
    "sigma_cart": ("cart",),
}
#: Assay parameters that each product has for itself.
BY_PRODUCT: Final = ("aT", "bT")


@dataclass(frozen=True, kw_only=True)
class Specification:
    """What is fitted.

    Attributes
    ----------
    variant
        A name of `reinfuse.model.parameters.VARIANTS`.
    random_effects
        Parameters that vary between patients.
    """

    variant: str = "no-exhaustion"
    random_effects: tuple[str, ...] = RANDOM_EFFECTS

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ReinfuseError(f"unknown variant {self.variant!r}; use one of {', '.join(VARIANTS)}")
        for name in self.random_effects:
            if name not in REAL_COHORT or REAL_COHORT[name].iiv <= 0:
                raise ReinfuseError(
                    f"{name!r} has no spread between patients in the table; choose other random effects"
                )


@dataclass(frozen=True)
class Effect:
    """A product effect: ``parameter`` of patients (or infusions) with ``product`` is multiplied by exp(effect)."""

    label: str
    parameter: str
    product: str
    mean: float
    sd: float
    slot_field: str | None


@dataclass(frozen=True)
class Observable:
    """How values of an assay are compared with the read-out of its name.

    Attributes
    ----------
    log
        Whether residuals are those of ln(value + offset), or of the value itself.
    offset
        In the assay's unit.
    sd
        The read-out, or else the population parameter, that is the residuals' scale.
    """

    sd: str
    log: bool = True
    offset: float = 0.0

    def compared(self, value: Floats) -> Floats:
        """Values or predictions, in the assay's unit, on the scale of the residuals."""
        return np.log(np.maximum(value + self.offset, SMALLEST)) if self.log else value


@dataclass(frozen=True)
class Problem:
    """Everything about a cohort that does not change while sampling.

    Attributes
    ----------
    kernel
        The compiled model; its ``parameters`` name the columns of theta.
    patients
        IDs, in the order of the rows.
    population
        Estimated population parameters by label (``aT:cilta-cel`` is the product's own), with their priors.
    random
        Labels of population parameters that vary between patients.
    residual
        Labels of population parameters that are scales of residuals.
    observables
        How each assay is compared; events are not here.
    effects
        Product effects.
    base
        (n, columns) theta at prior medians, with each patient's own course.
    slot_products
        Product of every infusion (n, slots); "" where not infused.
    order, ev_time, ev_code, n_ev, ob_time, ob_kind, ob_family, ob_value, n_ob
        The kernel's arrays; assay values on the log scale.
    observed
        The records, as they are in the cohort.
    own
        Whether the model is a user's own: without products, progression and what belongs to them.
    """

    kernel: Kernel
    patients: tuple[str, ...]
    population: Mapping[str, Parameter]
    random: tuple[str, ...]
    residual: tuple[str, ...]
    observables: Mapping[str, Observable]
    effects: tuple[Effect, ...]
    base: Floats
    slot_products: NDArray[np.str_]
    order: Integers
    ev_time: Floats
    ev_code: Integers
    n_ev: Integers
    ob_time: Floats
    ob_kind: Integers
    ob_family: Integers
    ob_value: Floats
    n_ob: Integers
    observed: Records
    occasions: bool = False
    specification: Specification | None = None
    own: bool = False
    fixed: Mapping[str, float] = field(default_factory=dict)
    tolerance: float = TOLERANCE
    max_steps: int = MAX_STEPS

    @property
    def n(self) -> int:
        """Number of patients."""
        return len(self.patients)

    @property
    def slots(self) -> int:
        """Largest number of infusions of a patient."""
        return int(self.slot_products.shape[1])

    def column(self, name: str) -> int | None:
        """Column of a kernel parameter; None where the kernel does not have it."""
        return self.kernel.parameters.index(name) if name in self.kernel.parameters else None


def courses(cohort: Cohort) -> tuple[list[ResolvedInfusion], NDArray[np.str_], dict[str, Floats]]:
    """When everyone is infused, the products by slot (n, slots), and all parameters that carry an infusion's number.

    Patients may have different products in the same slot; their parameters are resolved one sequence of products at a
    time and merged. The course returned is for its days alone: its products are those of no patient in particular.
    """
    table = cohort.infusions
    n, slots = cohort.n_patients, cohort.max_infusions
    index = {patient: i for i, patient in enumerate(cohort.patients)}
    product = np.full((n, slots), "", dtype="<U64")
    day = np.full((n, slots), np.inf)
    dose, ld = np.full((n, slots), np.nan), np.ones((n, slots))
    rows: Any
    for rows in table.to_dict(orient="records"):
        i, j = index[str(rows["ID"])], int(rows["SLOT"]) - 1
        product[i, j], day[i, j], ld[i, j] = str(rows["PRODUCT"]), float(rows["TIME"]), float(rows["LD"])
        dose[i, j] = float(rows["AMT"])
    merged: dict[str, Floats] = {}
    sequences = np.unique(product, axis=0)
    for sequence in sequences:
        mine = np.flatnonzero((product == sequence).all(axis=1))
        infusions = [
            Infusion(
                product=str(name) if name else str(sequence[0]),
                day=day[mine, j],
                dose=None if np.isnan(dose[mine, j]).all() else dose[mine, j],
                lymphodepletion=ld[mine, j],
            )
            for j, name in enumerate(sequence)
        ]
        for name, value in slot_parameters(resolve(infusions), "real").items():
            merged.setdefault(name, np.full(n, np.nan))[mine] = value
    everyone = [Infusion(product=str(sequences[-1][0]), day=day[:, j]) for j in range(slots)]
    return resolve(everyone), product, merged


def competing_deaths(rec: Records) -> Records:
    """The records with death as an event that competes with progression.

    A death after progression is not a death without relapse: its record becomes "free of it until the last progression
    record of the patient". A patient without any progression record keeps the record of death as it is.
    """
    time, family = rec.time.copy(), rec.family.copy()
    death, progression = ASSAYS.index("death"), ASSAYS.index("progression")
    for row in np.flatnonzero(rec.kind == death):
        others = np.flatnonzero((rec.patient == rec.patient[row]) & (rec.kind == progression))
        if others.size == 0:
            continue
        last = others[np.argmax(rec.time[others])]
        relapsed = family[last] == Family.EVENT
        if relapsed or time[row] > rec.time[last]:
            family[row] = Family.NO_EVENT
            time[row] = rec.time[last]
    return replace(rec, time=time, family=family)


def assessed(rec: Records, days: Floats) -> Records:
    """The records without "free of progression" of days on which nobody looks for it yet, since they say nothing.

    The hazard counts from `EARLY` days after the latest infusion. Until then the model's cumulative hazard is that of
    the course before, whose own record has counted it already.

    Parameters
    ----------
    rec
        All records.
    days
        (n, slots) days of the infusions, infinite where not infused.
    """
    before = np.where(days[rec.patient] < rec.time[:, None], days[rec.patient], -np.inf)
    since = rec.time - np.maximum(before.max(axis=1), 0.0)
    free = (rec.kind == ASSAYS.index("progression")) & (rec.family == Family.NO_EVENT)
    return rec.only(~(free & (since < bcma.EARLY)))


def pose(cohort: Cohort, specification: Specification | None = None, *, tolerance: float = TOLERANCE) -> Problem:
    """Turn a cohort into a problem.

    Parameters
    ----------
    cohort
        A checked cohort.
    specification
        What to fit; the default is the variant without exhaustion, which one infusion's blood kinetics support best.
    tolerance
        Of the solver.

    Returns
    -------
    Problem

    Raises
    ------
    ReinfuseError
        If no record of the cohort has an observation model.
    """
    specification = specification or Specification()
    rec = records(cohort)
    if len(rec) == 0:
        raise ReinfuseError(
            f"the cohort has no record of {', '.join(ASSAYS)} after the first infusion; nothing can be fitted"
        )
    present = tuple(a for k, a in enumerate(ASSAYS) if np.any(rec.kind == k))
    variant = VARIANTS[specification.variant]
    course, product, slot_values = courses(cohort)
    products = sorted(set(product[product != ""]))

    population = _population(present, products, variant.parameters)
    random = tuple(e for e in specification.random_effects if e in population)
    effects = tuple(
        Effect(e.label, e.parameter, e.product, e.mean, e.sd, e.product_field)
        for e in PRODUCT_EFFECTS.values()
        if e.product in products and e.reference in products and e.parameter in population
    )
    slots = product.shape[1]
    for name in variant.product:
        for j in range(1, slots + 1):
            slot_values[f"{name}_{j}"] = np.full(len(cohort.patients), variant.product[name])

    own = {f"{name}_{j}" for name in ("day", *bcma.SLOT_PARAMETERS) for j in range(1, slots + 1)}
    fixed = {s: row.median for s, row in REAL_COHORT.items() if s not in population} | dict(variant.parameters)
    fixed |= {name: float(values[0]) for name, values in slot_values.items() if _is_constant(name, values, effects)}
    occasions = slots > 1
    if not occasions:
        fixed["occ_1"] = 0.0
    compiled = compile_model(
        bcma.build(slots, bcma.OPTIONS["real"]), fixed=fixed, kinds=present, readouts=_readouts(present)
    )
    n = len(cohort.patients)
    base = np.empty((n, len(compiled.parameters)))
    for c, name in enumerate(compiled.parameters):
        base[:, c] = slot_values[name] if name in own else REAL_COHORT[name].median
    base = np.where(np.isnan(base), 1.0, base)

    days = np.stack([np.broadcast_to(infusion.day, (n,)) for infusion in course], axis=1)
    taken = _compare(assessed(competing_deaths(rec), days), present)
    ev_time, ev_code, n_ev = events(course, n, compiled.events)
    last = np.where(taken.n_obs > 0, taken.time[np.arange(n), np.maximum(taken.n_obs - 1, 0)], 0.0)
    return Problem(
        kernel=compiled,
        specification=specification,
        patients=tuple(cohort.patients),
        population=population,
        random=random,
        residual=tuple(label for label in population if label.startswith("sigma_")),
        observables={a: Observable(f"sigma_{a}", offset=LOG_OFFSET.get(a, 0.0)) for a in present if a not in EVENTS},
        effects=effects,
        base=base,
        slot_products=product,
        order=np.argsort(-last, kind="stable").astype(np.int64),
        ev_time=ev_time,
        ev_code=ev_code,
        n_ev=n_ev,
        ob_time=taken.time,
        ob_kind=taken.kind,
        ob_family=taken.family,
        ob_value=taken.value,
        n_ob=taken.n_obs,
        observed=rec,
        occasions=occasions,
        fixed=fixed,
        tolerance=tolerance,
    )


def several(problem: Problem, rows: NDArray[np.int64]) -> Problem:
    """A cohort of some patients of another, a patient as often as it is named."""
    arrays = ("base", "slot_products", "ev_time", "ev_code", "n_ev", "ob_time", "ob_kind", "ob_family", "ob_value")
    taken: dict[str, Any] = {name: np.ascontiguousarray(getattr(problem, name)[rows]) for name in (*arrays, "n_ob")}
    names = tuple(f"{problem.patients[i]}#{k}" for k, i in enumerate(rows.tolist()))
    return replace(problem, patients=names, order=np.arange(rows.size, dtype=np.int64), **taken)


def _readouts(present: Sequence[str]) -> tuple[str, ...]:
    """What a fit's simulations report: nothing that would keep a state alive for its own sake."""
    assays = tuple(a for a in ("transgene", "cart", "sbcma", "mprotein") if a in present)
    return (*assays, "Ts", "Tr", *(("H", "hazard") if "progression" in present else ()))


def _is_constant(name: str, values: Floats, effects: Sequence[Effect]) -> bool:
    """Whether a slot parameter is the same number for everyone and not estimated."""
    stem = name.rsplit("_", 1)[0]
    if stem in BY_PRODUCT or stem == "occ" or stem in {e.slot_field for e in effects}:
        return False
    return bool(np.all(values == values[0])) and values[0] < FAR


def _population(present: Sequence[str], products: Sequence[str], off: Mapping[str, float]) -> dict[str, Parameter]:
    """Estimated population parameters: informed by an assay that is present, and not switched off."""
    result: dict[str, Parameter] = {}
    for name, assays in INFORMED.items():
        if name in off or not set(assays) & set(present):
            continue
        if name in BY_PRODUCT:
            for product in products:
                rows = PRODUCT_ASSAY.get(product, PRODUCT_ASSAY["ide-cel"])
                result[f"{name}:{product}"] = rows[name]
        else:
            result[name] = REAL_COHORT[name]
    return result


def _compare(rec: Records, present: Sequence[str]) -> Padded:
    """Records as rectangles in the kernel's terms: its kinds, and logarithms of assay values."""
    order = np.lexsort((rec.kind, rec.time, rec.patient))
    kind = np.array([present.index(a) if a in present else -1 for a in ASSAYS])[rec.kind]
    offset = log_offset(rec.dvid)
    between = rec.family == int(Family.INTERVAL)
    family = rec.family.copy()
    family[between] = interval_code(np.log((rec.value + offset)[between] / (rec.lower + offset)[between]))
    columns: dict[str, Any] = {
        "patient": rec.patient,
        "time": rec.time,
        "kind": kind,
        "family": family,
        "dvid": rec.dvid,
    }
    columns |= {"value": np.log(rec.value + offset), "product": rec.product}
    return replace(rec, **{name: column[order] for name, column in columns.items()}).padded()

"""Exact derivatives of the kinetics of the first infusion, by the discrete adjoint of the solver.

The adjoint knows the gradient of a log-likelihood. That of an event is its location, here ``ln C`` on a day: so one
backward pass gives the derivative of the transgene on that day, and of the peak (whose day does not move it to first
order). For the area every day's ``d ln C`` is weighted: a quantified value a little above the prediction, so far that
the score of its density (Student's t with 4 degrees of freedom) is the weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reinfuse.model.course import resolve
from reinfuse.model.densities import Family
from reinfuse.model.derive.build import Kernel, build
from reinfuse.model.equations import bcma
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.judgement import AUC_DAYS, PEAK_DAYS
from reinfuse.model.parameters import table
from reinfuse.model.schedule import events, slot_parameters
from reinfuse.model.simulate import simulate_population, solved

from ..retreatment.arms import arm_parameters, first_infusion
from .outcomes import Reader

type Floats = NDArray[np.float64]

#: Outcomes with exact derivatives; days of the transgene's curve too.
EXACT: Final = ("cmax", "auc28")
TOLERANCE: Final = 1e-6
STEPS: Final = 5000
#: Days after the infusion that stand for its own.
JUST_AFTER: Final = 1e-6


def is_exact(outcome: str) -> bool:
    """Whether the adjoint gives an outcome's derivative."""
    return outcome in EXACT or outcome.startswith("transgene@")


@cache
def _kernel(options: str) -> Kernel:
    return build(bcma.build(1, bcma.OPTIONS[options]), kinds=("transgene", "cart"), readouts=())


@dataclass(frozen=True, eq=False)
class _Records:
    """Observations whose log-likelihood has the derivative that is wanted: (n, m) each."""

    time: Floats
    kind: int
    family: Family
    value: Floats


def gradient(reader: Reader, outcome: str, scores: Floats) -> Floats:
    """Derivatives of an outcome by the standard normal scores of the inputs.

    Parameters
    ----------
    reader
        With the inputs and the course.
    outcome
        One that `is_exact`.
    scores
        (n, k).

    Returns
    -------
    ndarray (n, k)
        NaN where the patient could not be solved.

    Raises
    ------
    ReinfuseError
        If the outcome has no exact derivative here.
    """
    if not is_exact(outcome):
        raise ReinfuseError(f"{outcome} has no exact derivative; exact are {', '.join(EXACT)} and transgene")
    values = reader.inputs.at(scores)
    patients, _ = reader.inputs.patients(values)
    course = [first_infusion(reader.scenario, reader.file)]
    rows = table(reader.options)
    given = arm_parameters(patients, reader.scenario, reader.world, course, rows)
    _check_untouched(reader, values, given)
    times = np.arange(0.0, PEAK_DAYS + 1.0)
    cart = simulate_population(
        course=course, times=times, parameters=given, options=reader.options, readouts=["cart"], tolerance=TOLERANCE
    )["cart"].to_numpy()
    theta, columns = _theta(reader, given, len(values))
    found = _adjoint(reader, theta, _records(outcome, times, cart))
    result = np.zeros((len(values), reader.inputs.k))
    for i, name in enumerate(reader.inputs.names):
        if (column := columns.get(_parameter_of(name, reader))) is not None:
            result[:, i] = found[:, column]
    slopes = reader.inputs.slope(scores)
    return np.asarray(result * slopes / np.log(10.0))


def _parameter_of(name: str, reader: Reader) -> str:
    """The kernel's name of an input, of the first infusion; empty for what it does not have."""
    word, _, rest = name.partition(" ")
    if not rest:
        return word
    if word == "occasion":
        return "occ_1" if rest == "1" else ""
    return f"{word}_1" if rest == reader.scenario.first.product else ""


def _check_untouched(reader: Reader, values: Floats, given: Mapping[str, Floats]) -> None:
    """Refuse a world or scenario that multiplies what is varied: its derivative would need the multiplier's own."""
    for i, name in enumerate(reader.inputs.names):
        if name in given and not np.array_equal(given[name], values[:, i]):
            raise ReinfuseError(
                f"the scenario or its world changes {name!r}: exact derivatives are made without; take another method"
            )


def _theta(reader: Reader, given: Mapping[str, Floats], n: int) -> tuple[Floats, dict[str, int]]:
    """The kernel's parameters (n, p), and the columns of their names."""
    rows = table(reader.options)
    resolved = resolve([first_infusion(reader.scenario, reader.file)])
    values: dict[str, object] = {symbol: row.median for symbol, row in rows.items()}
    values |= {"gT": 1.0, "dlt": 0.0} if reader.options == "reference" else {}
    values |= {"sigma_transgene": 1.0, "sigma_cart": 1.0, **slot_parameters(resolved, reader.options), **given}
    values |= {"sigma_transgene": 1.0, "sigma_cart": 1.0}
    names = _kernel(reader.options).parameters
    theta = np.column_stack([np.broadcast_to(np.asarray(values[name], dtype=np.float64), n) for name in names])
    return np.ascontiguousarray(theta), {name: i for i, name in enumerate(names)}


def _records(outcome: str, times: Floats, cart: Floats) -> _Records:
    n = len(cart)
    cart = np.nan_to_num(cart)
    if outcome == "auc28":
        until = int(AUC_DAYS)
        share = np.ones(until + 1)
        share[[0, -1]] = 0.5
        area = np.maximum(share * cart[:, : until + 1], 1e-300)
        weight = area / area.sum(axis=1, keepdims=True)
        days = np.tile(np.maximum(times[: until + 1], JUST_AFTER), (n, 1))
        return _Records(
            days, 1, Family.QUANTIFIED, np.log(np.maximum(cart[:, : until + 1], 1e-300)) + _distance(weight)
        )
    if outcome == "cmax":
        return _Records(times[cart[:, 1:].argmax(axis=1) + 1][:, None], 1, Family.EVENT, np.ones((n, 1)))
    day = float(outcome.partition("@")[2])
    return _Records(np.full((n, 1), day), 0, Family.EVENT, np.ones((n, 1)))


def _distance(weight: Floats) -> Floats:
    """Where the score ``1.25 z / (1 + z**2 / 4)`` of the density is the weight, from 0 to 1."""
    return np.asarray(2.0 * weight / (1.25 + np.sqrt(1.5625 - weight**2)))


def _adjoint(reader: Reader, theta: Floats, wanted: _Records) -> Floats:
    """Derivative of the log-likelihood by the kernel's parameters, (n, p); NaN where unsolved."""
    kernel = _kernel(reader.options)
    n, m = wanted.time.shape
    resolved = resolve([first_infusion(reader.scenario, reader.file)])
    ev_time, ev_code, ev_count = events(resolved, n, kernel.events)
    kinds = np.full((n, m), wanted.kind, dtype=np.int64)
    families = np.full((n, m), int(wanted.family), dtype=np.int64)
    counts = np.full(n, m, dtype=np.int64)
    loglik, grad, status = np.empty(n), np.zeros(theta.shape), np.zeros(n, dtype=np.int64)
    kernel.loglik_grad(
        np.arange(n), theta, ev_time, ev_code, ev_count, wanted.time, kinds, families, wanted.value, counts,
        TOLERANCE, STEPS, True, loglik, grad, status,
    )  # fmt: skip
    grad[~solved(status)] = np.nan
    return grad

"""What can be asked of a model of one's own: simulation, log-likelihood with gradient, exact sensitivities.

The only place outside of fits that calls the kernels of a `reinfuse.model.define.Model`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from .densities import Family, interval_code
from .derive.build import Kernel
from .errors import ReinfuseError
from .parameters import from_transformed, to_transformed
from .schedule import FAR
from .simulate import MAX_STEPS, Status, checked_numbers, solved

if TYPE_CHECKING:
    from .define import Model

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]
#: Times and amounts of doses; numbers, or arrays with one value per patient (a time of +inf: not given).
type Doses = Sequence[tuple[ArrayLike, ArrayLike]]

AMOUNT: Final = "amount_"  # prefix of the kernel's parameters that hold amounts of doses
TAPED_STEPS: Final = 5000  # of a solve with gradient, which keeps every step


def nearest(name: str, names: Sequence[str]) -> str:
    """A remedy for a name that is not known: the one that was meant, or all there are."""
    near = get_close_matches(name.lower(), {known.lower(): known for known in names}, n=1)
    meant = next((known for known in names if near and known.lower() == near[0]), None)
    return f"did you mean {meant!r}?" if meant else f"there are {', '.join(names) or 'none'}"


@dataclass(frozen=True)
class Dosing:
    """Doses as events: ``time``, ``code`` (n, e), ``count`` (n,), and the amounts (n, slots) that codes stand for.

    Doses of one amount share a slot, so that a hundred equal doses cost no more than one.
    """

    time: Floats
    code: Integers
    count: Integers
    amounts: Floats

    @property
    def slots(self) -> int:
        """Number of amounts that the kernel takes; a power of two, so that kernels are few."""
        return int(self.amounts.shape[1])

    def repeated(self, times: int) -> Dosing:
        """Each patient so many times, one after the other."""
        return Dosing(
            time=np.repeat(self.time, times, axis=0),
            code=np.repeat(self.code, times, axis=0),
            count=np.repeat(self.count, times, axis=0),
            amounts=np.repeat(self.amounts, times, axis=0),
        )


def _slots(model: Model, needed: int) -> int:
    """A power of two, so that kernels are few."""
    return 0 if model.dose is None else 1 << max(needed - 1, 0).bit_length()


def dose_arrays(model: Model, doses: Doses) -> list[tuple[Floats, Floats]]:
    """Times and amounts of doses as arrays, (n,) or (), checked.

    Raises
    ------
    ReinfuseError
        If the model takes no doses, or a time or an amount makes no sense.
    """
    if model.dose is None and len(doses):
        raise ReinfuseError(f"model {model.name!r} takes no doses; give it a `dose` function, or leave doses out")
    read = []
    for j, dose in enumerate(doses, start=1):
        try:
            time, amount = (np.asarray(x, dtype=np.float64) for x in dose)
        except (TypeError, ValueError):
            raise ReinfuseError(f"dose {j} is {dose!r}; give (time, amount), numbers or one per patient") from None
        if not np.all(time >= 0):
            raise ReinfuseError(f"dose {j} is at {time[~(time >= 0)].flat[0]:g}; give a time from 0 up")
        if not np.all(np.isfinite(amount)):
            raise ReinfuseError(f"dose {j} has amount {amount[~np.isfinite(amount)].flat[0]:g}; give a finite number")
        read.append((time, amount))
    return read


def dosing(model: Model, doses: Sequence[tuple[Floats, Floats]], n: int) -> Dosing:
    """Doses of ``n`` patients, from `dose_arrays`, as events."""
    times, codes = np.full((n, max(len(doses), 1)), np.inf), np.zeros((n, max(len(doses), 1)), dtype=np.int64)
    amounts: list[Floats] = []
    for j, (time, given) in enumerate(doses):
        amount = np.broadcast_to(given, n)
        slot = next((k for k, other in enumerate(amounts) if np.array_equal(other, amount)), len(amounts))
        if slot == len(amounts):
            amounts.append(amount)
        times[:, j], codes[:, j] = time, slot
    return _in_order(model, times, codes, np.stack(amounts, axis=1) if amounts else np.zeros((n, 0)))


def _in_order(model: Model, times: Floats, codes: Integers, amounts: Floats) -> Dosing:
    rank = np.argsort(times, axis=1, kind="stable")
    times, codes = np.take_along_axis(times, rank, axis=1), np.take_along_axis(codes, rank, axis=1)
    padded = np.zeros((times.shape[0], _slots(model, amounts.shape[1])))
    padded[:, : amounts.shape[1]] = amounts
    given = np.isfinite(times)
    return Dosing(np.where(given, times, FAR), codes, given.sum(axis=1).astype(np.int64), padded)


def individual(model: Model, parameters: Mapping[str, ArrayLike] | None) -> dict[str, Floats]:
    """Every parameter's values, checked: the prior median where none is given.

    Raises
    ------
    ReinfuseError
        If a name is unknown, or a value is not finite or outside its domain.
    """
    values = {symbol: np.asarray(row.median) for symbol, row in model.table.items()}
    for name, value in (parameters or {}).items():
        if name not in model.table:
            raise ReinfuseError(f"model {model.name!r} has no parameter {name!r}; {nearest(name, [*model.table])}")
        values[name] = checked_numbers(name, value, model.table[name].transform)
    return values


def _size(arrays: Mapping[str, Floats], n: int | None = None) -> int:
    """How many patients the arrays are for; 1 if there is none."""
    sizes = {name: len(a) for name, a in arrays.items() if np.ndim(a) == 1}
    size = n if n is not None else next(iter(sizes.values()), 1)
    if wrong := {name: s for name, s in sizes.items() if s != size}:
        raise ReinfuseError(f"lengths differ: {wrong}, expected {size}; give one value per patient")
    return size


def columns(kernel: Kernel, values: Mapping[str, ArrayLike], given: Dosing) -> Floats:
    """The kernel's parameters, (n, columns): the individual ones, and amounts."""
    theta = np.empty((given.count.size, len(kernel.parameters)))
    for c, name in enumerate(kernel.parameters):
        theta[:, c] = values[name] if name in values else given.amounts[:, int(name.removeprefix(AMOUNT)) - 1]
    return theta


def _grid(times: ArrayLike) -> Floats:
    grid = np.array(times, dtype=np.float64, ndmin=1)
    if not (grid.ndim == 1 and grid.size and np.all(np.isfinite(grid)) and np.all(np.diff(grid) > 0) and grid[0] >= 0):
        raise ReinfuseError(f"times are {np.asarray(times)!r}; give finite numbers, rising, from 0")
    return grid


def _tolerance(value: float) -> float:
    if not 1e-13 <= value <= 1e-2:
        raise ReinfuseError(f"tolerance is {value!r}; choose a number from 1e-13 to 1e-2")
    return value


def solve(
    kernel: Kernel, theta: Floats, given: Dosing, times: Floats, tolerance: float, max_steps: int = MAX_STEPS
) -> tuple[Floats, Integers]:
    """Read-outs (n, T, names), NaN where unsolved, and status (n,)."""
    n = theta.shape[0]
    out, status = np.full((n, times.size, len(kernel.readouts)), np.nan), np.zeros(n, dtype=np.int64)
    kernel.simulate(theta, given.time, given.code, given.count, times, tolerance, max_steps, out, status)
    out[~solved(status)] = np.nan
    return out, status


def observe(
    kernel: Kernel, theta: Floats, given: Dosing, records: Records, tolerance: float
) -> tuple[Floats, Floats, Integers]:
    """Log-likelihood (n,), its gradient by ``theta`` (n, columns) and status (n,)."""
    n = theta.shape[0]
    loglik, grad, status = np.empty(n), np.empty(theta.shape), np.zeros(n, dtype=np.int64)
    kernel.loglik_grad(
        np.arange(n), theta, given.time, given.code, given.count,
        records.time, records.kind, records.family, records.value, records.count,
        tolerance, TAPED_STEPS, True, loglik, grad, status,
    )  # fmt: skip
    return loglik, grad, status


@dataclass(frozen=True)
class Records:
    """Measurements as the kernel takes them, one row per patient: (n, m) each, ``count`` (n,) of them.

    ``kind`` is the place of the observable in the kernel's list; ``value`` is on the scale of its residuals.
    """

    time: Floats
    kind: Integers
    family: Integers
    value: Floats
    count: Integers


@dataclass(frozen=True)
class Rows:
    """A table of doses and measurements, read.

    Attributes
    ----------
    patients
        IDs, in the order of the table.
    dosing
        Doses.
    patient, time, dvid, family, value
        (r,) of every measurement, sorted by patient, time and observable; ``value`` in natural units.
    lower
        (r,) lower end of an interval whose upper end is the value; NaN elsewhere.
    """

    patients: tuple[str, ...]
    dosing: Dosing
    patient: Integers
    time: Floats
    dvid: NDArray[np.str_]
    family: Integers
    value: Floats
    lower: Floats

    def records(self, model: Model, kinds: Sequence[str]) -> Records:
        """As rectangles, for a kernel with these kinds of observation."""
        n = len(self.patients)
        count = np.bincount(self.patient, minlength=n).astype(np.int64)
        first = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(count)[:-1]])
        at = self.patient, np.arange(self.patient.size) - first[self.patient]
        shape = n, int(count.max(initial=1))
        logged = np.array([model.observed[str(name)].log for name in self.dvid], dtype=bool)
        time, value = np.zeros(shape), np.ones(shape)
        kind, family = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        kind[at] = [list(kinds).index(str(name)) for name in self.dvid]

        def compared(x: Floats) -> Floats:
            return np.where(logged, np.log(np.where(logged, x, 1.0)), x)

        codes, between = self.family.copy(), self.family == int(Family.INTERVAL)
        codes[between] = interval_code((compared(self.value) - compared(np.where(between, self.lower, 1.0)))[between])
        time[at], family[at], value[at] = self.time, codes, compared(self.value)
        return Records(time, kind, family, value, count)


def read_rows(model: Model, data: Any) -> Rows:
    """Read a table with the columns of NONMEM.

    Parameters
    ----------
    model
        Whose doses and observables they are.
    data
        Columns by name: a dictionary, a DataFrame, or what `reinfuse.fits.own_model.read_data` gives. ``ID, TIME, DV``;
        ``EVID`` (1: a dose, of ``AMT``), ``DVID`` (the observable; may be left out if there is one) and ``CENS`` (1:
        below the limit in DV, -1: above it) and ``LIMIT`` (with CENS 1: the value lay above it) where they are needed.

    Raises
    ------
    ReinfuseError
        If a column is missing or a value makes no sense. `read_data` says more.
    """
    data = getattr(data, "table", data)
    if missing := [name for name in ("ID", "TIME", "DV") if name not in data]:
        raise ReinfuseError(
            f"the data have no column {', '.join(missing)}; give ID, TIME and DV, for doses EVID and AMT"
        )
    ids = np.array([str(name) for name in data["ID"]])

    def numbers(name: str, otherwise: float) -> Floats:
        return np.asarray(data[name] if name in data else np.full(ids.size, otherwise), dtype=np.float64)

    evid, time, dv, cens = numbers("EVID", 0.0), numbers("TIME", 0.0), numbers("DV", 0.0), numbers("CENS", 0.0)
    only = next(iter(model.observed)) if len(model.observed) == 1 else ""
    dvid = np.array([str(name) for name in data["DVID"]] if "DVID" in data else [only] * ids.size)
    patients = tuple(dict.fromkeys(ids.tolist()))
    patient = np.array([{name: i for i, name in enumerate(patients)}[name] for name in ids], dtype=np.int64)
    measured = evid == 0
    if only:
        dvid = np.where(measured & (dvid == ""), only, dvid)
    if unknown := sorted(set(dvid[measured].tolist()) - set(model.observed)):
        known = ", ".join(model.observed)
        raise ReinfuseError(f"DVID is {unknown[0]!r}; model {model.name!r} has the observables {known}")
    if bad := np.flatnonzero(~(time >= 0)).tolist():
        raise ReinfuseError(f"TIME is {time[bad[0]]:g} in row {bad[0] + 1}; give times from 0 up")
    logged = np.array([str(name) in model.observed and model.observed[str(name)].log for name in dvid])
    wrong = measured & (~np.isfinite(dv) | (logged & ~(dv > 0)))
    if wrong.any():
        row = int(np.argmax(wrong))
        remedy = "a value above 0, or, if it was below the limit, the limit and 1 in CENS" if logged[row] else "a value"
        raise ReinfuseError(f"DV of {dvid[row]} is {dv[row]:g} in row {row + 1}; give {remedy}")
    place = np.array([[*model.observed].index(str(name)) if name in model.observed else -1 for name in dvid])
    order = np.lexsort((place, time, patient))
    order = order[measured[order]]
    limit = numbers("LIMIT", np.nan)
    between = (cens == 1) & np.isfinite(limit) & (~logged | (limit > 0))
    if (wrong := measured & between & ~(limit < dv)).any():
        row = int(np.argmax(wrong))
        raise ReinfuseError(
            f"LIMIT is {limit[row]:g} and DV {dv[row]:g} in row {row + 1}; LIMIT is the lower of the two"
        )
    codes = int(Family.INTERVAL), int(Family.BELOW), int(Family.ABOVE)
    family = np.select([between, cens == 1, cens == -1], codes, int(Family.QUANTIFIED))
    return Rows(
        patients=patients,
        dosing=_doses_of(model, patient[~measured], time[~measured], numbers("AMT", np.nan)[~measured], len(patients)),
        patient=patient[order],
        time=time[order],
        dvid=dvid[order],
        family=family[order].astype(np.int64),
        value=dv[order],
        lower=np.where(between, limit, np.nan)[order],
    )


def _doses_of(model: Model, patient: Integers, time: Floats, amount: Floats, n: int) -> Dosing:
    """Doses from rows, (r,) each: every patient's own times and amounts."""
    if model.dose is None and patient.size:
        raise ReinfuseError(f"model {model.name!r} takes no doses, the data hold {patient.size}; remove EVID = 1")
    if not np.all(np.isfinite(amount)):
        raise ReinfuseError(f"a dose at TIME {time[~np.isfinite(amount)][0]:g} has no AMT; give its amount")
    count = np.bincount(patient, minlength=n)
    times = np.full((n, max(int(count.max(initial=0)), 1)), np.inf)
    codes, own = np.zeros(times.shape, dtype=np.int64), [np.unique(amount[patient == i]) for i in range(n)]
    amounts = np.zeros((n, max(map(len, own), default=0)))
    for i in range(n):
        rows = np.flatnonzero(patient == i)
        times[i, : rows.size], amounts[i, : own[i].size] = time[rows], own[i]
        codes[i, : rows.size] = np.searchsorted(own[i], amount[rows])
    return _in_order(model, times, codes, amounts)


def simulate(
    model: Model,
    *,
    times: ArrayLike,
    doses: Doses = (),
    parameters: Mapping[str, ArrayLike] | None = None,
    tolerance: float = 1e-8,
) -> xr.Dataset:
    """Simulate one patient, or many on all cores.

    Parameters
    ----------
    model
        What to simulate.
    times
        When to report, rising, from 0 (shape ``(T,)``). The row at a dose is after it.
    doses
        Pairs (time, amount); numbers, or arrays with one value per patient (a time of +inf: not given).
    parameters
        Values by symbol, numbers or arrays of shape ``(n,)``; those not named take their prior medians.
    tolerance
        Absolute local error on logarithmic states, relative to ``|y|`` and the state's ``scale`` on linear ones.

    Returns
    -------
    xarray.Dataset
        States and observables (without error), dim ``time``; and ``patient``, with ``status`` (see
        `reinfuse.model.simulate.Status`), if anything was given as an array. Unsolved patients are NaN.

    Raises
    ------
    ReinfuseError
        If a name is unknown, lengths differ, a value is not finite or outside its domain, times are not rising from 0,
        or a single patient cannot be solved.
    """
    grid, values, pairs = _grid(times), individual(model, parameters), dose_arrays(model, doses)
    arrays = dict(values)
    for j, (time, amount) in enumerate(pairs, start=1):
        arrays |= {f"time of dose {j}": time, f"amount of dose {j}": amount}
    n = _size(arrays)
    given = dosing(model, pairs, n)
    kernel = model.kernel(given.slots, gradient=False, tolerance=_tolerance(tolerance))
    out, status = solve(kernel, columns(kernel, values, given), given, grid, _tolerance(tolerance))
    data: dict[str, Any] = {
        name: (("patient", "time"), out[:, :, kernel.readouts.index(name)], {"units": model.unit(name)})
        for name in model.outputs
    }
    data["status"] = (("patient",), status)
    failed = int((~solved(status)).sum())
    coords = {"patient": np.arange(n), "time": ("time", grid, {"units": model.time_unit})}
    result = xr.Dataset(data, coords=coords, attrs={"model": model.name, "failures": failed})
    if any(np.ndim(a) == 1 for a in arrays.values()):
        return result
    if failed:
        raise ReinfuseError(f"the patient could not be simulated: {Status(int(status[0])).sentence}")
    return result.isel(patient=0, drop=True).drop_vars("status")


def log_likelihood(
    model: Model,
    *,
    data: Any,
    parameters: Mapping[str, ArrayLike] | None = None,
    tolerance: float = 1e-8,
) -> xr.Dataset:
    """Each patient's log-likelihood with its exact gradient (discrete adjoint).

    Parameters
    ----------
    model
        Under which.
    data
        As in `read_rows`.
    parameters
        Values by symbol, numbers or one per patient; those not named take their prior medians.
    tolerance
        Of the solver.

    Returns
    -------
    xarray.Dataset
        ``log_likelihood`` (patient), ``gradient`` (patient, parameter) by parameters on their natural scale, and
        ``status``. A patient that cannot be solved has minus infinity and a gradient of 0.

    Raises
    ------
    ReinfuseError
        If the data or the parameters make no sense.
    """
    rows, values = read_rows(model, data), individual(model, parameters)
    _size(values, len(rows.patients))
    kernel = model.kernel(rows.dosing.slots, gradient=True, tolerance=_tolerance(tolerance))
    theta = columns(kernel, values, rows.dosing)
    records = rows.records(model, kernel.kinds)
    loglik, grad, status = observe(kernel, theta, rows.dosing, records, _tolerance(tolerance))
    return xr.Dataset(
        {
            "log_likelihood": (("patient",), loglik),
            "gradient": (("patient", "parameter"), _by_parameter(model, kernel, grad)),
            "status": (("patient",), status),
        },
        coords={"patient": list(rows.patients), "parameter": list(model.table)},
    )


def _by_parameter(model: Model, kernel: Kernel, grad: Floats) -> Floats:
    """Gradient by the model's parameters; 0 for those that the kernel does not need."""
    result = np.zeros((grad.shape[0], len(model.table)))
    for k, name in enumerate(model.table):
        if name in kernel.parameters:
            result[:, k] = grad[:, kernel.parameters.index(name)]
    return result


def sensitivity(
    model: Model,
    *,
    times: ArrayLike,
    doses: Doses = (),
    parameters: Mapping[str, float] | None = None,
    tolerance: float = 1e-9,
) -> xr.Dataset:
    """How states and observables of one patient answer to small changes of the parameters, exactly.

    No differences are taken: every value is solved for with its discrete adjoint.

    Parameters
    ----------
    model, times, doses, parameters, tolerance
        As in `simulate`; numbers only.

    Returns
    -------
    xarray.Dataset
        Dims ``output, time, parameter``: ``value``, its ``derivative`` by each parameter, and ``elasticity``, the
        relative change of the value for a relative change of the parameter (NaN where the value is 0).

    Raises
    ------
    ReinfuseError
        As `simulate`.
    """
    grid, values = _grid(times), individual(model, parameters)
    if arrays := [name for name, value in values.items() if np.ndim(value)]:
        raise ReinfuseError(f"parameter {arrays[0]!r} has several values; sensitivities are of one patient")
    outputs = model.outputs
    one = dosing(model, dose_arrays(model, doses), 1)
    kernel = model.kernel(one.slots, gradient=True, tolerance=_tolerance(tolerance))
    n = len(outputs) * grid.size
    given = one.repeated(n)
    # an event's log density is its location less its scale, and that is 0 here: what comes back is the value itself
    kinds = np.repeat([kernel.kinds.index(f"value of {name}") for name in outputs], grid.size).astype(np.int64)
    records = Records(
        time=np.tile(grid, len(outputs))[:, None],
        kind=kinds[:, None],
        family=np.full((n, 1), int(Family.EVENT)),
        value=np.ones((n, 1)),
        count=np.ones(n, dtype=np.int64),
    )
    value, grad, status = observe(kernel, columns(kernel, values, given), given, records, _tolerance(tolerance))
    if np.any(~solved(status)):
        failed = Status(int(status[~solved(status)][0]))
        raise ReinfuseError(f"the patient could not be solved: {failed.sentence}")
    value = value.reshape(len(outputs), grid.size)
    derivative = _by_parameter(model, kernel, grad).reshape(*value.shape, len(model.table))
    at = np.array([float(values[name]) for name in model.table])
    with np.errstate(divide="ignore", invalid="ignore"):
        elasticity = np.where(value[..., None] != 0.0, derivative * at / value[..., None], np.nan)
    dims = ("output", "time", "parameter")
    return xr.Dataset(
        {"value": (dims[:2], value), "derivative": (dims, derivative), "elasticity": (dims, elasticity)},
        coords={
            "output": list(outputs),
            "time": ("time", grid, {"units": model.time_unit}),
            "parameter": list(model.table),
        },
    )


def patients(model: Model, *, n: int, rng: np.random.Generator, prior: bool = False) -> dict[str, Floats]:
    """Virtual patients: parameters by symbol, (n,) each, for `simulate`.

    Parameters
    ----------
    model
        Whose parameters.
    n
        How many.
    rng
        Draws them.
    prior
        Draw each patient's population from the prior, too; else the population is at its prior medians.

    Returns
    -------
    dict
        Normal on the transformed scale, with sd ``iiv`` (and, with ``prior``, ``log_sd`` besides).
    """
    if n < 1:
        raise ReinfuseError(f"n is {n}; ask for at least one patient")
    drawn = {}
    for symbol, row in model.table.items():
        sd = float(np.hypot(row.iiv, row.log_sd if prior else 0.0))
        centre = float(to_transformed(row.median, transform=row.transform))
        drawn[symbol] = from_transformed(centre + sd * rng.standard_normal(n), transform=row.transform)
    return drawn

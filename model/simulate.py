"""The public face of the model: one virtual patient, or a population of them; validated in, xarray out."""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from enum import IntEnum
from functools import cache
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from .course import Infusion, ResolvedInfusion, patients, resolve
from .derive.build import Kernel
from .derive.build import build as compile_model
from .equations import bcma
from .errors import ReinfuseError
from .parameters import table
from .schedule import events, slot_parameters

type Floats = NDArray[np.float64]

MAX_STEPS: Final = 20_000
UNITS: Final = {
    **{
        "Ts": "cells",
        "Tr": "cells",
        "Q": "1",
        "A": "1",
        "P": "g/dL",
        "S": "ng/mL",
        "cumhaz": "1",
        "hazard": "1/d",
    },
    **{"transgene": "copies/µg DNA", "cart": "cells/µL", "sbcma": "ng/mL", "mprotein": "g/dL"},
}


class Status(IntEnum):
    """How a trajectory ended; `sentence` says it in words."""

    SOLVED = 0
    STEP_LIMIT = 1
    STEP_TOO_SMALL = 2
    NOT_FINITE = 3

    @property
    def sentence(self) -> str:
        """What happened and what to try."""
        return {
            Status.SOLVED: "solved",
            Status.STEP_LIMIT: "the solver reached its limit of steps: the parameters make the system stiff, "
            "or the tolerance is very tight; loosen it or check the parameters",
            Status.STEP_TOO_SMALL: "the step size fell below its limit: a parameter is extreme; check the values",
            Status.NOT_FINITE: "a state or the likelihood was not a finite number: a parameter lies outside its domain",
        }[self]


@cache
def kernel(infusions: int, options: str) -> Kernel:
    """The compiled simulator for a number of infusions and a configuration ("reference" or "real")."""
    return compile_model(bcma.build(infusions, bcma.OPTIONS[options]))


def _check(name: str, value: float, ok: bool, remedy: str) -> None:
    if not ok:
        raise ReinfuseError(f"{name} is {value!r}; {remedy}")


#: Domain by transform, as a test and in words; 0 switches a mechanism off.
_DOMAINS: Final[Mapping[str, tuple[Callable[[Floats], NDArray[np.bool_]], str]]] = {
    "log": (lambda x: x >= 0, "give a number from 0 up"),
    "logit": (lambda x: (x >= 0) & (x <= 1), "give a number from 0 to 1"),
    "identity": (np.isfinite, "give a finite number"),
}
#: Transforms of what is not in the table (the infusions' own parameters) where they are not "log".
_TRANSFORMS: Final = {
    **dict.fromkeys(("occ", "aT", "bT", "dlt"), "identity"),
    **dict.fromkeys(("ld", "bridge", "survive", "chi", "fM0", "fX0"), "logit"),
}


def _numbers(name: str, value: ArrayLike, transform: str) -> Floats:
    """A parameter's values, checked."""
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ReinfuseError(f"parameter {name!r} is {value!r}; give a number, or one per patient") from None
    if numbers.ndim > 1:
        raise ReinfuseError(f"parameter {name!r} has shape {numbers.shape}; give a number, or one per patient")
    inside, remedy = _DOMAINS[transform]
    bad = ~(np.isfinite(numbers) & inside(numbers))
    if bad.any():
        where = f" in patient {int(np.argmax(bad)) + 1}" if bad.ndim else ""
        raise ReinfuseError(f"parameter {name!r} is {numbers[bad].flat[0]:g}{where}; {remedy}")
    return numbers


def _theta(
    parameters: Mapping[str, ArrayLike],
    slots: Mapping[str, ArrayLike],
    names: Sequence[str],
    options: str,
    n: int | None,
) -> Floats:
    defaults: dict[str, Any] = {symbol: row.median for symbol, row in table(options).items()}
    defaults |= {"gT": 1.0, "dlt": 0.0} if options == "reference" else {}
    defaults |= slots
    for name in parameters:
        if name not in defaults:
            near = get_close_matches(name, defaults, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "see `reinfuse models` for the names"
            raise ReinfuseError(f"unknown parameter {name!r}; {hint}")
        if name.startswith("day_"):
            raise ReinfuseError(f"parameter {name!r} is the day of an infusion; set it in the course")
    rows = table(options)
    values = dict(defaults)
    for name, value in parameters.items():
        stem = name.rsplit("_", 1)[0]
        values[name] = _numbers(name, value, rows[name].transform if name in rows else _TRANSFORMS.get(stem, "log"))
    sizes = {name: np.asarray(v).shape[0] for name, v in values.items() if np.ndim(v) == 1}
    size = n if n is not None else next(iter(sizes.values()), 1)
    wrong = {name: s for name, s in sizes.items() if s != size}
    if wrong:
        raise ReinfuseError(f"parameters differ in length: {wrong}, expected {size}; give one value per patient")
    theta = np.empty((size, len(names)))
    for column, name in enumerate(names):
        theta[:, column] = np.asarray(values[name], dtype=np.float64)
    return theta


def simulate_population(
    *,
    course: Sequence[Infusion],
    times: ArrayLike,
    parameters: Mapping[str, ArrayLike] | None = None,
    options: str = "reference",
    tolerance: float = 1e-6,
    max_chunk: int = 2048,
) -> xr.Dataset:
    """Simulate a population of patients on all cores.

    Parameters
    ----------
    course
        Infusions; their numbers may be arrays with one value per patient (a day of +inf: not given).
    times
        Days at which to report, rising, from 0 (shape ``(T,)``). The row at an infusion is after it.
    parameters
        Values by symbol, numbers or arrays of shape ``(n,)``; those not named take the table's median.
        Parameters of an infusion carry its number (``f0_1``, ``dose_2``) and override the product's.
    options
        ``"reference"`` (science as first written down) or ``"real"`` (with the changes real patients asked
        for).
    tolerance
        Absolute local error on log states, relative to ``1 + |y|`` on linear ones.
    max_chunk
        Patients simulated at a time.

    Returns
    -------
    xarray.Dataset
        Dims ``patient, time``: states, assays, and per patient ``status`` (see `Status`); unsolved patients
        are NaN.

    Raises
    ------
    ReinfuseError
        If a name is unknown, lengths differ, a value is not finite or outside its domain (a number on the log
        scale is negative, a share is outside [0, 1]), or the times are not rising from 0.
    """
    if options not in bcma.OPTIONS:
        raise ReinfuseError(f"options is {options!r}; use one of {', '.join(bcma.OPTIONS)}")
    grid = np.array(times, dtype=np.float64, ndmin=1)  # a copy: of one memory layout, for one compiled signature
    rising = grid.ndim == 1 and grid.size > 0 and bool(np.all(np.diff(grid) > 0)) and bool(grid[0] >= 0)
    if not (rising and np.all(np.isfinite(grid))):
        raise ReinfuseError(f"times are {np.asarray(times)!r}; give finite days, rising, from 0")
    _check("tolerance", tolerance, 1e-13 <= tolerance <= 1e-2, "choose a number from 1e-13 to 1e-2")
    _check("max_chunk", max_chunk, max_chunk >= 1, "simulate at least one patient at a time")
    resolved = resolve(course)
    compiled = kernel(len(resolved), options)
    slots = slot_parameters(resolved, options)
    theta = _theta(parameters or {}, slots, compiled.parameters, options, patients(resolved))
    n = theta.shape[0]
    times_ev, codes, count = events(resolved, n, compiled.events)
    out = np.full((n, grid.size, len(compiled.readouts)), np.nan)
    status = np.zeros(n, dtype=np.int64)
    for low in range(0, n, max_chunk):
        part = slice(low, min(n, low + max_chunk))
        compiled.module.simulate(
            theta[part],
            times_ev[part],
            codes[part],
            count[part],
            grid,
            tolerance,
            MAX_STEPS,
            out[part],
            status[part],
        )
    out[status != Status.SOLVED] = np.nan
    return _dataset(out, status, grid, compiled, resolved)


def _dataset(
    out: Floats,
    status: NDArray[np.int64],
    times: Floats,
    compiled: Kernel,
    course: Sequence[ResolvedInfusion],
) -> xr.Dataset:
    columns = {name: out[:, :, i] for i, name in enumerate(compiled.readouts)}
    data: dict[str, Any] = {}
    for name, values in columns.items():
        if name.startswith("on"):
            continue
        slot = name[-1] if name[:-1] in ("E", "M", "X") else ""
        shown = np.where(columns[f"on{slot}"] > 0, values, np.nan) if slot else values
        label = "cumhaz" if name == "H" else name
        unit = "cells/µL" if slot else UNITS.get(label, "1")
        data[label] = (("patient", "time"), shown, {"units": unit})
    data["status"] = (("patient",), status)
    coords = {"patient": np.arange(out.shape[0]), "time": ("time", times, {"units": "d"})}
    failed = int((status != Status.SOLVED).sum())
    attrs = {"failures": failed, "products": ", ".join(item.product.name for item in course)}
    if failed:
        kinds, counts = np.unique(status[status != Status.SOLVED], return_counts=True)
        reasons = (f"{c} x {Status(k).sentence}" for k, c in zip(kinds, counts, strict=True))
        attrs["failure_reasons"] = "; ".join(reasons)
    return xr.Dataset(data, coords=coords, attrs=attrs)


def simulate(
    *,
    course: Sequence[Infusion],
    until: float,
    every: float = 1.0,
    times: ArrayLike | None = None,
    parameters: Mapping[str, float] | None = None,
    options: str = "reference",
    tolerance: float = 1e-8,
) -> xr.Dataset:
    """Simulate one virtual patient.

    Parameters
    ----------
    course
        Infusions, the first on day 0.
    until, every
        Last day and spacing of the report (d); ignored where ``times`` is given.
    times
        Days at which to report, instead.
    parameters, options, tolerance
        As in `simulate_population`, but numbers.

    Returns
    -------
    xarray.Dataset
        Dim ``time``.

    Raises
    ------
    ReinfuseError
        As `simulate_population`; also if there is more than one patient, or the patient could not be solved.
    """
    _check("until", until, bool(np.isfinite(until)) and until > 0, "give a day above 0")
    _check("every", every, bool(np.isfinite(every)) and every > 0, "give a spacing above 0 days")
    grid = np.arange(0.0, until + 1e-9, every) if times is None else times
    result = simulate_population(course=course, times=grid, parameters=parameters, options=options, tolerance=tolerance)
    _check("the number of patients", n := result.sizes["patient"], n == 1, "use simulate_population")
    status = Status(int(result["status"][0]))
    if status is not Status.SOLVED:
        raise ReinfuseError(f"the patient could not be simulated: {status.sentence}")
    return result.isel(patient=0, drop=True).drop_vars("status")

"""The public face of the model: one virtual patient, or a population of them; validated in, xarray out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from enum import IntEnum
from functools import cache
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from .branch import Start, origin_from, resumed, still_to_come
from .course import Engager, Infusion, ResolvedInfusion, patients, resolve
from .derive.build import Kernel
from .derive.build import build as compile_model
from .derive.trace import Trace
from .equations import bcma
from .errors import ReinfuseError
from .judgement import PEAK_DAYS
from .kernels.tableaux import TSIT5, method_for
from .parameters import table
from .schedule import FAR, events, slot_parameters
from .stopping import Stopping, fastest_growth

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
    IMPLICIT = 4

    @property
    def sentence(self) -> str:
        """What happened and what to try."""
        return {
            Status.SOLVED: "solved",
            Status.IMPLICIT: "solved by the implicit method, because the explicit one would take too many steps",
            Status.STEP_LIMIT: "the solver reached its limit of steps: the parameters make the system stiff, "
            "or the tolerance is very tight; loosen it or check the parameters",
            Status.STEP_TOO_SMALL: "the step size fell below its limit: a parameter is extreme; check the values",
            Status.NOT_FINITE: "a state or the likelihood was not a finite number: a parameter lies outside its domain",
        }[self]


def solved(status: ArrayLike) -> NDArray[np.bool_]:
    """Whether each trajectory was solved, by whichever method."""
    return np.isin(status, (Status.SOLVED, Status.IMPLICIT))


@cache
def kernel(
    infusions: int,
    options: str,
    method: str = TSIT5.name,
    readouts: tuple[str, ...] | None = None,
    *,
    engager: bool = False,
    given: int = 0,
) -> Kernel:
    """The compiled simulator for a number of infusions, a configuration ("reference" or "real"), method, read-outs.

    With ``engager``, a bispecific antibody may be given too; with ``given`` infusions in the past, it begins from a
    state (`branch`).
    """
    chosen = replace(bcma.OPTIONS[options], engager=engager)
    model = bcma.build(infusions, chosen)
    return compile_model(resumed(model, given) if given else model, method=method, readouts=readouts)


def _needed(readouts: Sequence[str] | None, infusions: int, options: str) -> tuple[str, ...] | None:
    """Read-outs of the kernel: those asked for, and whether the infusion of a cell state has been given."""
    if readouts is None:
        return None
    known = kernel_readouts(infusions, options)
    names = ["H" if name == "cumhaz" else name for name in readouts]
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise ReinfuseError(
                f"unknown read-out {name!r}; "
                + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}")
            )
    cells = {name[-1] for name in names if name[:-1] in ("E", "M", "X")}
    return (*dict.fromkeys(names), *(f"on{slot}" for slot in sorted(cells)))


@cache
def kernel_readouts(infusions: int, options: str) -> tuple[str, ...]:
    """Names of everything that a simulation can report."""
    found = Trace(bcma.build(infusions, bcma.OPTIONS[options]), {}).readouts
    return tuple(name for name in found if not name.startswith("on"))


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


def checked_numbers(name: str, value: ArrayLike, transform: str) -> Floats:
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


def _values(parameters: Mapping[str, ArrayLike], slots: Mapping[str, ArrayLike], options: str) -> dict[str, Floats]:
    """Every parameter's values, () or (n,), checked: the table's median where none is given."""
    rows = table(options)
    values = {symbol: np.asarray(row.median) for symbol, row in rows.items()}
    values |= {"gT": np.asarray(1.0), "dlt": np.asarray(0.0)} if options == "reference" else {}
    values |= {name: np.asarray(value, dtype=np.float64) for name, value in slots.items()}
    known = tuple(values)
    for name, value in parameters.items():
        if name not in known:
            near = get_close_matches(name, known, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "see `reinfuse models` for the names"
            raise ReinfuseError(f"unknown parameter {name!r}; {hint}")
        if name.startswith("day_"):
            raise ReinfuseError(f"parameter {name!r} is the day of an infusion; set it in the course")
        stem = name.rsplit("_", 1)[0]
        transform = rows[name].transform if name in rows else _TRANSFORMS.get(stem, "log")
        values[name] = checked_numbers(name, value, transform)
    return values


def _size(values: Mapping[str, Floats], n: int | None) -> int:
    """How many patients the values are for."""
    sizes = {name: len(v) for name, v in values.items() if v.ndim == 1}
    size = n if n is not None else next(iter(sizes.values()), 1)
    wrong = {name: s for name, s in sizes.items() if s != size}
    if wrong:
        raise ReinfuseError(f"parameters differ in length: {wrong}, expected {size}; give one value per patient")
    return size


def _origin(since: ArrayLike | None, n: int) -> Floats:
    """Where each patient's times begin, (n,)."""
    given = np.asarray(0.0 if since is None else since, dtype=np.float64)
    if given.shape not in ((), (n,)) or not np.all(np.isfinite(given) & (given >= 0)):
        raise ReinfuseError(f"since is {since!r}; give a finite day from 0 up, or one for each of {n} patients")
    return np.array(np.broadcast_to(given, n))


def _engagement(engager: Engager, n: int) -> Floats:
    """Days on which a bispecific antibody begins, (n,)."""
    day = np.asarray(engager.day, dtype=np.float64)
    if day.shape not in ((), (n,)) or np.any(day < 0):
        raise ReinfuseError(f"the engager's day is {engager.day!r}; give a day from 0 up, or one per patient")
    return np.array(np.broadcast_to(np.where(np.isnan(day), np.inf, day), n))


def _theta(values: Mapping[str, Floats], names: Sequence[str], part: slice) -> Floats:
    """The kernel's parameters of some patients."""
    theta = np.empty((part.stop - part.start, len(names)))
    for column, name in enumerate(names):
        theta[:, column] = values[name][part] if values[name].ndim else values[name]
    return theta


def _growth(
    values: Mapping[str, Floats], course: Sequence[ResolvedInfusion], start: Start | None, origin: Floats
) -> Floats:
    """Bound the growth of each patient's CAR-T cells from the day on which nobody looks for a peak any more, (n,)."""
    given = [np.broadcast_to(item.day, origin.shape) for item in course]
    latest = np.max([np.where(np.isfinite(day), day, 0.0) for day in given], axis=0)
    known = (np.zeros(1), values["Q0"]) if start is None else (start.day, start.state["Q"])
    return fastest_growth(
        values,
        infusions=len(course),
        since_infusion=origin + PEAK_DAYS - latest,
        apheresis={item.slot: item.apheresis_day for item in course},
        dysfunction=known,
    )


def simulate_population(
    *,
    course: Sequence[Infusion],
    times: ArrayLike,
    parameters: Mapping[str, ArrayLike] | None = None,
    options: str = "reference",
    readouts: Sequence[str] | None = None,
    tolerance: float = 1e-6,
    land: bool = True,
    since: ArrayLike | None = None,
    engager: Engager | None = None,
    start: Start | None = None,
    stopping: Stopping | None = None,
    max_chunk: int = 16_384,
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
    readouts
        What to report, by name (None: everything). States that nothing asked for depends on are not solved, so a
        short list is faster and takes less memory.
    tolerance
        Absolute local error on log states, relative to ``1 + |y|`` on linear ones; below 1e-6 the method of order
        7 is taken. A patient who would need too many steps is solved by the implicit method (`Status`).
    land
        Whether steps may end on the times, which is more exact than interpolation. Without, a patient's numbers are
        the same to the last bit whatever other times are asked for.
    since
        Day of each patient from which it counts the times, >= 0 (shape ``(n,)`` or one number); None: the first
        infusion.
    engager
        A bispecific antibody that is given too.
    start
        Begin from a state after the first infusion, instead of the start of it all. Course, days and times are those
        of the whole; what came before ``start.day`` is not simulated again, and `since` is not before it.
    stopping
        Leave out what cannot change how a course that begins at `since` is judged; there the last values stay.
    max_chunk
        Patients simulated at a time.

    Returns
    -------
    xarray.Dataset
        Dims ``patient, time``: states, assays, and per patient ``status`` (see `Status`); unsolved patients
        are NaN. Its attributes count ``failures`` and patients solved by the ``implicit`` method.

    Raises
    ------
    ReinfuseError
        If a name of a parameter or a read-out is unknown, lengths differ, a value is not finite or outside its
        domain (a number on the log scale is negative, a share is outside [0, 1]), the times are not rising
        from 0, or a start does not fit the course.
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
    chosen = _needed(readouts, len(resolved), options)
    slots: dict[str, ArrayLike] = {**slot_parameters(resolved, options)}
    slots |= {} if engager is None else {"kbs": engager.killing, "gbs": engager.power, "wbs": engager.wear}
    values = _values(parameters or {}, slots, options)
    n = _size(values, patients(resolved))
    engaged = None if engager is None else _engagement(engager, n)
    origin = _origin(since, n)
    given = 0 if start is None else start.given(resolved, n)
    compiled = kernel(len(resolved), options, method_for(tolerance), chosen, engager=engager is not None, given=given)
    occasions = events(resolved, n, compiled.events, engaged)
    if start is not None:
        values |= start.parameters(compiled.parameters, bcma.build(len(resolved), bcma.OPTIONS[options]))
        values |= {f"day_{item.slot}": np.minimum(item.day, FAR) - start.day for item in resolved}
        occasions = still_to_come(*occasions, names=compiled.events, day=start.day, given=given, far=FAR)
        origin = origin_from(origin, start.day)
    watch = None
    if stopping is not None:
        watch = stopping.watch(grid, compiled.readouts, _growth(values, resolved, start, _origin(since, n)))
    times_ev, codes, count = occasions
    out = np.full((n, grid.size, len(compiled.readouts)), np.nan)
    status = np.zeros(n, dtype=np.int64)
    for low in range(0, n, max_chunk):
        part = slice(low, min(n, low + max_chunk))
        compiled.simulate(
            _theta(values, compiled.parameters, part),
            times_ev[part],
            codes[part],
            count[part],
            grid,
            tolerance,
            MAX_STEPS,
            out[part],
            status[part],
            land=land,
            since=origin[part],
            watch=None if watch is None else (*watch[:2], watch[2][part], watch[3][part]),
        )
    out[~solved(status)] = np.nan
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
    unsolved = ~solved(status)
    failed = int(unsolved.sum())
    attrs = {
        "failures": failed,
        "implicit": int((status == Status.IMPLICIT).sum()),
        "products": ", ".join(item.product.name for item in course),
    }
    if failed:
        kinds, counts = np.unique(status[unsolved], return_counts=True)
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
    if not solved(status):
        raise ReinfuseError(f"the patient could not be simulated: {status.sentence}")
    return result.isel(patient=0, drop=True).drop_vars("status")

"""Read-outs of a course of infusions with their exact gradients, from the same adjoint as the likelihood's.

The model's text gets observations that are values themselves ("value of …": an event's log density is its location less
its scale, and that is 0 here) and two integrals as states: the area under the CAR+ cells, and the expected days free of
progression since the latest infusion. Everything else is untouched, so the numbers are those of a fit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from reinfuse.model.course import Infusion, resolve
from reinfuse.model.densities import Family
from reinfuse.model.derive.algebra import exp, log, maximum
from reinfuse.model.derive.build import Kernel
from reinfuse.model.derive.build import build as compile_model
from reinfuse.model.equations import bcma
from reinfuse.model.equations.definition import OdeModel, State, Values
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import VARIANTS, table
from reinfuse.model.schedule import events, slot_parameters
from reinfuse.model.simulate import solved

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]

#: What can be read, on a logarithmic scale but for cells and rates; by name, its meaning.
VALUES: Final[Mapping[str, str]] = {
    "transgene": "ln of the transgene assay's location",
    "cart": "ln of CAR+ cells/µL",
    "cells": "CAR+ cells/µL",
    "sbcma": "ln of soluble BCMA",
    "mprotein": "ln of M-protein, with the assay's offset",
    "burden": "ln of all myeloma cells",
    "hazard": "ln of the hazard of progression",
    "cumulative hazard": "cumulative hazard of progression since the latest infusion",
    "area": "ln of the area under CAR+ cells since the first infusion",
    "free": "ln of the expected days free of progression since the latest infusion",
    "rate of cart": "time derivative of ln CAR+ cells",
    "rate of burden": "time derivative of ln burden",
}
#: Of these, what needs a model with a hazard of progression.
OF_HAZARD: Final = ("hazard", "cumulative hazard", "free")
TOLERANCE: Final = 1e-7
MAX_STEPS: Final = 5000
#: Scale of the two integrals as states: below it their error is absolute.
SCALE: Final = 1.0
LEAST: Final = 1e-30  # keeps logarithms finite before there is anything to integrate


def kind_of(name: str) -> str:
    """The kind of observation that is a value itself."""
    return f"value of {name}"


def read_model(infusions: int, options: str = "real") -> OdeModel:
    """A model of `bcma.OPTIONS` with its `VALUES` to be observed, and the two integrals."""
    base = bcma.build(infusions, bcma.OPTIONS[options])
    slots = range(1, infusions + 1)

    def start(p: Any) -> tuple[Values, Values]:
        y, h = base.start(p)
        return {**y, "area": 0.0, "free": 0.0}, h

    def rates(t: Any, y: Any, h: Any, p: Any) -> Values:
        cells = base.readouts(t, y, h, p)["cart"]
        return {**base.rates(t, y, h, p), "area": cells, "free": exp(-y.H)}

    def counted(event: Callable[..., tuple[Values, Values]], days: float) -> Callable[..., tuple[Values, Values]]:
        def changed(y: Any, h: Any, p: Any) -> tuple[Values, Values]:
            states, held = event(y, h, p)
            return {**states, "free": days}, held

        return changed

    def observations(t: Any, y: Any, h: Any, p: Any) -> dict[str, tuple[Any, Any]]:
        out = base.readouts(t, y, h, p)
        d = base.rates(t, y, h, p)
        burden = y.Ts + y.Tr
        cells: Any = sum(getattr(h, f"on{j}") * getattr(y, f"{c}{j}") for j in slots for c in "EMX")
        flux: Any = sum(getattr(h, f"on{j}") * getattr(y, f"{c}{j}") * d[f"{c}{j}"] for j in slots for c in "EMX")
        values = {
            "transgene": log(out["transgene"]),
            "cart": log(out["cart"]),
            "cells": out["cart"],
            "sbcma": log(out["sbcma"]),
            "mprotein": log(out["mprotein"] + bcma.IMMUNOFIXATION),
            "burden": log(burden),
            "area": log(maximum(y.area, LEAST)),
            "rate of cart": flux / cells,
            "rate of burden": (y.Ts * d["Ts"] + y.Tr * d["Tr"]) / burden,
        }
        if "hazard" in out:
            values |= {"hazard": log(out["hazard"]), "cumulative hazard": y.H, "free": log(maximum(y.free, LEAST))}
        return {kind_of(name): (value, 0.0) for name, value in values.items()}

    counts = {"infusion": 0.0, "assessment": bcma.EARLY}  # a day free is a day free, also before anybody looks
    made = {
        name: counted(event, counts[name.split("_")[0]]) if name.split("_")[0] in counts else event
        for name, event in base.events.items()
    }
    own = State("area", "cells·d/µL", log=False, scale=SCALE), State("free", "d", log=False, scale=SCALE)
    return replace(
        base,
        name="bcma_readouts",
        states=(*base.states, *own),
        start=start,
        rates=rates,
        events=made,
        observations=observations,
    )


@dataclass(frozen=True, eq=False)
class Reader:
    """A compiled model whose read-outs come with exact gradients.

    Attributes
    ----------
    kernel
        Its ``parameters`` name the columns of theta.
    kinds
        Names of `VALUES` that it knows.
    tolerance
        Of the solver.
    """

    kernel: Kernel
    kinds: tuple[str, ...]
    tolerance: float = TOLERANCE

    @classmethod
    def of(
        cls,
        infusions: int,
        fixed: Mapping[str, float],
        kinds: Sequence[str] = tuple(VALUES),
        tolerance: float = TOLERANCE,
        options: str = "real",
    ) -> Self:
        """Compile a reader; what ``fixed`` names is a number in it and has no gradient."""
        kernel = _compiled(infusions, tuple(sorted(fixed.items())), tuple(kinds), options)
        return cls(kernel, tuple(kinds), tolerance)

    def read(
        self, name: str, theta: Floats, course: tuple[Floats, Integers, Integers], day: Floats, *, slope: bool = True
    ) -> tuple[Floats, Floats]:
        """A read-out of patients, each on days of its own.

        Parameters
        ----------
        name
            Of `VALUES`.
        theta
            (n, columns), natural scale.
        course
            Events of each patient: times and codes (n, e), counts (n,).
        day
            (n,), or (n, m): summed over these days, which rise.
        slope
            Whether gradients are wanted.

        Returns
        -------
        value, gradient
            (n,) and (n, columns) by natural values; NaN where the solver failed or a day is not finite.
        """
        days = day.reshape(len(day), -1)
        n, m = days.shape
        asked = np.isfinite(days).all(axis=1)
        loglik, grad, status = np.empty(n), np.zeros(theta.shape), np.zeros(n, dtype=np.int64)
        time = np.where(asked[:, None], days, 0.0)
        kind = np.full((n, m), self.kernel.kinds.index(kind_of(name)), dtype=np.int64)
        family = np.full((n, m), int(Family.EVENT), dtype=np.int64)
        self.kernel.loglik_grad(
            np.flatnonzero(asked), np.ascontiguousarray(theta), *map(np.ascontiguousarray, course),
            time, kind, family, np.ones((n, m)), np.full(n, m),
            self.tolerance, MAX_STEPS, slope, loglik, grad, status,
        )  # fmt: skip
        good = asked & solved(status) & np.isfinite(loglik)
        return np.where(good, loglik, np.nan), np.where(good[:, None], grad, np.nan)

    def curve(self, name: str, theta: Floats, course: tuple[Floats, Integers, Integers], days: Floats) -> Floats:
        """A read-out at common days, (n, T), from one solve for each patient; NaN where unsolved.

        ``name`` is one of cart, burden and, where there is a hazard, H (its cumulation) and hazard; natural scales.
        """
        out = np.full((theta.shape[0], days.size, len(self.kernel.readouts)), np.nan)
        status = np.zeros(theta.shape[0], dtype=np.int64)
        arrays = [np.ascontiguousarray(a) for a in (theta, *course)]
        self.kernel.simulate(*arrays, days, self.tolerance, MAX_STEPS, out, status)
        out[~solved(status)] = np.nan
        if name == "burden":
            return np.asarray(sum(out[:, :, self.kernel.readouts.index(clone)] for clone in ("Ts", "Tr")))
        return np.asarray(out[:, :, self.kernel.readouts.index(name)])


@cache
def _compiled(infusions: int, fixed: tuple[tuple[str, float], ...], kinds: tuple[str, ...], options: str) -> Kernel:
    asked = tuple(kind_of(name) for name in kinds)
    readouts = ("cart", "Ts", "Tr", *(("H", "hazard") if any(name in kinds for name in OF_HAZARD) else ()))
    return compile_model(read_model(infusions, options), fixed=dict(fixed), kinds=asked, readouts=readouts)


@dataclass(frozen=True, eq=False)
class Posed:
    """Patients with a course, ready to be read.

    Attributes
    ----------
    reader
        For so many infusions.
    theta
        (n, columns).
    course
        Events: times and codes (n, e), counts (n,).
    """

    reader: Reader
    theta: Floats
    course: tuple[Floats, Integers, Integers]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the columns."""
        return self.reader.kernel.parameters

    @property
    def n(self) -> int:
        """Number of patients."""
        return int(self.theta.shape[0])

    def read(self, name: str, day: Any, *, slope: bool = True) -> tuple[Floats, Floats]:
        """As `Reader.read`; ``day`` one number, (n,) or (n, m)."""
        days = np.asarray(day, dtype=np.float64)
        each = days if days.ndim == 2 else np.array(np.broadcast_to(days, self.n))
        return self.reader.read(name, self.theta, self.course, each, slope=slope)

    def curve(self, name: str, days: Floats) -> Floats:
        """As `Reader.curve`."""
        return self.reader.curve(name, self.theta, self.course, days)

    def moved(self, column: int, values: Floats) -> Self:
        """The same patients with other values (n,) of a parameter."""
        theta = self.theta.copy()
        theta[:, column] = values
        return replace(self, theta=theta)


def pose(
    *,
    course: Sequence[Infusion],
    parameters: Mapping[str, Any],
    variant: str = "no-exhaustion",
    n: int | None = None,
    options: str = "real",
    kinds: Sequence[str] = tuple(VALUES),
    tolerance: float = TOLERANCE,
) -> Posed:
    """Make patients ready to be read.

    Parameters
    ----------
    course
        Infusions, numbers or one per patient.
    parameters
        Individual parameters by symbol, natural scale, numbers or (n,); those not named take their prior medians. What
        carries an infusion's number overrides the product's own.
    variant
        A name of `reinfuse.model.parameters.VARIANTS`; what it switches off has no gradient.
    n
        Number of patients; that of the first array when None.
    options
        ``real`` or ``reference``: parameter table and model.
    kinds, tolerance
        As for `Reader.of`; fewer kinds are compiled and solved sooner.

    Raises
    ------
    ReinfuseError
        If the variant or a parameter is unknown, or lengths differ.
    """
    if variant not in VARIANTS:
        raise ReinfuseError(f"unknown variant {variant!r}; use one of {', '.join(VARIANTS)}")
    off, resolved = VARIANTS[variant], resolve(course)
    values: dict[str, Any] = {symbol: row.median for symbol, row in table(options).items()}
    values |= {"gT": 1.0, "dlt": 0.0} if options == "reference" else {}
    values |= slot_parameters(resolved, options)
    if unknown := [name for name in parameters if name not in values]:
        raise ReinfuseError(f"unknown parameter {unknown[0]!r}; see `reinfuse models` for the names")
    values |= parameters
    fixed = dict(off.parameters) | {
        f"{name}_{item.slot}": value for item in resolved for name, value in off.product.items()
    }
    reader = Reader.of(len(resolved), fixed, kinds, tolerance, options)
    lengths = {np.shape(value)[0] for value in values.values() if np.ndim(value) == 1}
    size = n if n is not None else next(iter(lengths), 1)
    if lengths - {size}:
        raise ReinfuseError(f"parameters have {sorted(lengths)} values, expected {size}; give one per patient")
    theta = np.empty((size, len(reader.kernel.parameters)))
    for column, name in enumerate(reader.kernel.parameters):
        theta[:, column] = values[name]
    return Posed(reader, theta, events(resolved, size, reader.kernel.events))

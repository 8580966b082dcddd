"""A model of one's own: states, parameters, equations, a dose effect and observables, in one short file.

The functions of a `Model` take namespaces (``y.central``, ``p.ka``) and return dictionaries. They are run once on
symbols, from which simulation, exact gradients and fits are generated; so they use `exp`, `log`, `expit`, `maximum`
and `step_up` of this module, and do not branch on values.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from . import experiment
from .derive.algebra import exp, expit, leaves, log, maximum, step_up
from .derive.build import Kernel, build
from .derive.trace import Trace
from .equations.definition import OdeModel, State, Values
from .errors import ReinfuseError
from .experiment import AMOUNT, nearest
from .kernels.tableaux import method_for
from .parameters import Parameter, Tag, Transform

__all__ = [
    "Model",
    "Observable",
    "State",
    "absolute_error",
    "exp",
    "expit",
    "log",
    "maximum",
    "parameter",
    "relative_error",
    "step_up",
]

SMALLEST: Final = 1e-300  # what a prediction of 0 counts as where its logarithm is compared
FUNCTIONS: Final = "exp, log, expit, maximum and step_up of reinfuse.model.define, and no `if`, min or max on values"
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def parameter(
    symbol: str,
    meaning: str,
    *,
    unit: str = "-",
    median: float,
    log_sd: float,
    iiv: float = 0.0,
    transform: Transform = "log",
    tag: Tag = "ASSUMED",
    source: str = "as the model's author states it",
    iiv_log_sd: float = 0.4,
) -> Parameter:
    """A row of a model's parameter table.

    Parameters
    ----------
    symbol, meaning, unit
        Name in the equations, what it is, its unit.
    median, log_sd
        Prior of the population median: median on the natural scale, sd on the transformed scale (of the logarithm as a
        rule; 0: fixed).
    iiv
        Sd between patients on the transformed scale; 0: the same in all patients.
    transform
        ``"log"`` (positive), ``"logit"`` (between 0 and 1) or ``"identity"`` (any number).
    tag, source
        Where the median comes from; see `reinfuse.model.parameters`.
    iiv_log_sd
        Log-sd of the lognormal prior around ``iiv``.

    Raises
    ------
    ReinfuseError
        If the median lies outside the transform's domain, a spread is negative, or the tag is unknown.
    """
    return Parameter(symbol, meaning, unit, median, log_sd, iiv, transform, tag, source, iiv_log_sd)


@dataclass(frozen=True)
class Observable:
    """What measurements are compared with; made by `relative_error` and `absolute_error`.

    Attributes
    ----------
    prediction
        Without error, natural scale.
    sd
        Scale of the residuals.
    log
        Whether residuals are those of the logarithm.
    unit
        Of the measurement.
    """

    prediction: Any
    sd: Any
    log: bool
    unit: str = "-"

    @property
    def location(self) -> Any:
        """Prediction on the scale of the residuals."""
        return log(maximum(self.prediction, SMALLEST)) if self.log else self.prediction


def relative_error(prediction: Any, sd: Any, *, unit: str = "-") -> Observable:
    """An observable whose error is relative: ln(value) is compared with ln(prediction).

    Residuals are Student t with 4 degrees of freedom and scale ``sd``, as everywhere in this package: close to normal
    in the middle, forgiving of single wild values.
    """
    return Observable(prediction, sd, True, unit)


def absolute_error(prediction: Any, sd: Any, *, unit: str = "-") -> Observable:
    """An observable whose error is absolute: the value is compared with the prediction, ``sd`` in its unit.

    Residuals as of `relative_error`, without the logarithm.
    """
    return Observable(prediction, sd, False, unit)


class _Named:
    """A namespace that knows its names, and says so when asked for another."""

    def __init__(self, values: Any, names: Sequence[str], what: str) -> None:
        self._values, self._names, self._what = values, names, what

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self._names:
            raise ReinfuseError(f"there is no {self._what} {name!r}; {nearest(name, self._names)}")
        return getattr(self._values, name)


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """An ODE model of one's own.

    Parameters
    ----------
    name
        What it is called.
    time_unit
        Unit of time, in rates, doses, measurements and figures alike.
    states
        Unit by name; or rows of `State`, which say more: one with ``log=True`` is integrated as a logarithm (it stays
        positive and may span many orders of magnitude). ``rates`` returns dy/dt for either kind.
    parameters
        Rows made by `parameter`.
    start
        ``start(p)``: every state at time 0, before any dose.
    rates
        ``rates(t, y, p)``: the time derivative of every state.
    observables
        ``observables(t, y, p)``: by name, what `relative_error` or `absolute_error` return.
    dose
        ``dose(y, p, amount)``: the states that a dose changes, after it. None: the model takes no doses.
    dose_unit
        Unit of amounts.

    Raises
    ------
    ReinfuseError
        If names do not agree, a function takes other arguments or cannot be run on symbols, or a value at the prior
        medians makes no sense.
    """

    name: str
    time_unit: str
    states: Mapping[str, str] | Sequence[State]
    parameters: Sequence[Parameter]
    start: Callable[[Any], Values]
    rates: Callable[[Any, Any, Any], Values]
    observables: Callable[[Any, Any, Any], Mapping[str, Observable]]
    dose: Callable[[Any, Any, Any], Values] | None = None
    dose_unit: str = "-"
    table: Mapping[str, Parameter] = field(init=False, repr=False)
    state_rows: tuple[State, ...] = field(init=False, repr=False)
    observed: Mapping[str, Observable] = field(init=False, repr=False)
    _kernels: dict[tuple[int, bool, str], Kernel] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        given = self.states
        states = (
            tuple(State(name, unit, log=False) for name, unit in given.items())
            if isinstance(given, Mapping)
            else tuple(given)
        )
        object.__setattr__(self, "state_rows", states)
        self._check_names("state", [s.name for s in states])
        self._check_names("parameter", [row.symbol for row in self.parameters])
        object.__setattr__(self, "table", {row.symbol: row for row in self.parameters})
        for what, arguments in (("start", 1), ("rates", 3), ("observables", 3), ("dose", 3)):
            self._check_arguments(what, arguments)
        object.__setattr__(self, "observed", self._at_medians())
        self._check_equations()

    def ode(self, amounts: int) -> OdeModel:
        """The model as the generator of kernels takes it, for patients with doses of up to so many amounts.

        Event ``dose_j`` gives the amount in the kernel's parameter ``amount_j``. Observations are the observables, and
        ``value of x`` for every state and observable: the value itself, with a scale of 0.
        """
        log_states = {s.name for s in self.state_rows if s.log}

        def rates(t: Any, y: Any, h: Any, p: Any) -> Values:
            derivatives = self._run("rates", t, self._y(y), self._p(p))
            return {n: d / getattr(y, n) if n in log_states else d for n, d in derivatives.items()}

        def dose(j: int) -> Callable[[Any, Any, Any], tuple[Values, Values]]:
            def event(y: Any, h: Any, p: Any) -> tuple[Values, Values]:
                return self._run("dose", self._y(y), self._p(p), getattr(p, f"{AMOUNT}{j}")), {}

            return event

        def values(t: Any, y: Any, p: Any) -> tuple[Values, Mapping[str, Observable]]:
            observables = self._run("observables", t, self._y(y), self._p(p))
            found = {s.name: getattr(y, s.name) for s in self.state_rows}
            return found | {name: x.prediction for name, x in observables.items()}, observables

        def readouts(t: Any, y: Any, h: Any, p: Any) -> Values:
            found, observables = values(t, y, p)
            return {**found, **{sd_of(name): x.sd for name, x in observables.items()}}

        def observations(t: Any, y: Any, h: Any, p: Any) -> dict[str, tuple[Any, Any]]:
            found, observables = values(t, y, p)
            pairs: dict[str, tuple[Any, Any]] = {name: (x.location, x.sd) for name, x in observables.items()}
            return pairs | {value_of(name): (value, 0.0) for name, value in found.items()}

        return OdeModel(
            name=re.sub(r"\W+", "_", self.name),
            states=self.state_rows,
            held=(),
            start=lambda p: (self._run("start", self._p(p)), {}),
            rates=rates,
            readouts=readouts,
            events={f"dose_{j}": dose(j) for j in range(1, amounts + 1)},
            observations=observations,
        )

    def kernel(self, amounts: int, *, gradient: bool, tolerance: float) -> Kernel:
        """The compiled model for so many amounts: to simulate, or to observe with gradients; the method fits."""
        key = (amounts, gradient, method_for(tolerance))
        if key not in self._kernels:
            kinds = (*self.observed, *(value_of(name) for name in self.outputs)) if gradient else ()
            self._kernels[key] = build(self.ode(amounts), kinds=kinds, method=key[-1])
        return self._kernels[key]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of states and observables, which a simulation reports."""
        return (*(s.name for s in self.state_rows), *self.observed)

    def unit(self, name: str) -> str:
        """Unit of a state or an observable."""
        units = {s.name: s.unit for s in self.state_rows} | {k: x.unit for k, x in self.observed.items()}
        return units[name]

    def simulate(
        self,
        *,
        times: ArrayLike,
        doses: experiment.Doses = (),
        parameters: Mapping[str, ArrayLike] | None = None,
        tolerance: float = 1e-8,
    ) -> xr.Dataset:
        """Simulate; see `reinfuse.model.experiment.simulate`."""
        return experiment.simulate(self, times=times, doses=doses, parameters=parameters, tolerance=tolerance)

    def log_likelihood(
        self,
        *,
        data: Any,
        parameters: Mapping[str, ArrayLike] | None = None,
        tolerance: float = 1e-8,
    ) -> xr.Dataset:
        """Each patient's log-likelihood and its gradient; see `reinfuse.model.experiment.log_likelihood`."""
        return experiment.log_likelihood(self, data=data, parameters=parameters, tolerance=tolerance)

    def sensitivity(
        self,
        *,
        times: ArrayLike,
        doses: experiment.Doses = (),
        parameters: Mapping[str, float] | None = None,
        tolerance: float = 1e-9,
    ) -> xr.Dataset:
        """Exact local sensitivities; see `reinfuse.model.experiment.sensitivity`."""
        return experiment.sensitivity(self, times=times, doses=doses, parameters=parameters, tolerance=tolerance)

    def patients(self, *, n: int, rng: np.random.Generator, prior: bool = False) -> dict[str, Any]:
        """Virtual patients; see `reinfuse.model.experiment.patients`."""
        return experiment.patients(self, n=n, rng=rng, prior=prior)

    # ------------------------------------------------------------------ running the user's functions

    def _y(self, y: Any) -> _Named:
        return _Named(y, [s.name for s in self.state_rows], "state")

    def _p(self, p: Any) -> _Named:
        return _Named(p, list(self.table), "parameter")

    def _run(self, what: str, *arguments: Any) -> Any:
        """What a function of the user's returns, its names checked."""
        try:
            found = getattr(self, what)(*arguments)
        except ReinfuseError as error:
            raise ReinfuseError(f"model {self.name!r}, {what}: {error}") from None
        except (TypeError, AttributeError, ValueError, ArithmeticError) as error:
            raise ReinfuseError(f"model {self.name!r}, {what}: {error}; use {FUNCTIONS}") from error
        if not isinstance(found, Mapping):
            raise self._fault(what, f"returned {type(found).__name__}", "return a dictionary")
        if what == "observables":
            for name, value in found.items():
                if not isinstance(value, Observable):
                    raise self._fault(what, f"{name!r} is {value!r}", "make it with relative_error or absolute_error")
            return found
        known = [s.name for s in self.state_rows]
        for name in found:
            if name not in known:
                raise self._fault(what, f"{name!r} is no state", nearest(name, known))
        if missing := [name for name in known if name not in found and what != "dose"]:
            raise self._fault(what, f"nothing is returned for {', '.join(missing)}", "return a value for every state")
        return found

    # ------------------------------------------------------------------ checks

    def _fault(self, where: str, what: str, remedy: str) -> ReinfuseError:
        return ReinfuseError(f"model {self.name!r}, {where}: {what}; {remedy}")

    def _check_names(self, what: str, names: Sequence[str]) -> None:
        if not names:
            raise self._fault(f"{what}s", "there are none", "name at least one")
        for k, name in enumerate(names):
            if not _NAME.fullmatch(name):
                raise self._fault(f"{what}s", f"{name!r} is no name", "use letters, digits and _, a letter first")
            if name in names[:k]:
                raise self._fault(f"{what}s", f"{name!r} stands twice", "rename one")
            if name.startswith(AMOUNT) and what == "parameter":
                raise self._fault(f"{what}s", f"{name!r} is taken", f"names in {AMOUNT} belong to doses; rename it")

    def _check_arguments(self, what: str, count: int) -> None:
        function = getattr(self, what)
        if what == "dose" and function is None:
            return
        if not callable(function):
            raise self._fault(what, f"it is {function!r}", "give a function")
        wanted = {"start": "p", "dose": "y, p, amount"}.get(what, "t, y, p")
        try:
            inspect.signature(function).bind(*range(count))
        except TypeError:
            seen = inspect.signature(function)
            raise self._fault(what, f"its arguments are {seen}", f"define it as {what}({wanted})") from None

    def _at_medians(self) -> dict[str, Observable]:
        """Start and observables as numbers, at the prior medians: states in their domain, and names of observables."""
        p = self._p(_Numbers({symbol: row.median for symbol, row in self.table.items()}))
        with np.errstate(all="ignore"):
            start = self._run("start", p)
            for state in self.state_rows:
                at = float(start[state.name])
                if not np.isfinite(at) or (state.log and at <= 0):
                    remedy = "start above 0, or integrate it as it is" if state.log else "start from a finite number"
                    raise self._fault("start", f"{state.name!r} is {at:g} at the prior medians", remedy)
            found: dict[str, Observable] = dict(self._run("observables", 0.0, self._y(_Numbers(start)), p))
        if not found:
            raise self._fault("observables", "there are none", "return at least one")
        self._check_names("observable", list(found))
        for name, value in found.items():
            if name in {s.name for s in self.state_rows}:
                raise self._fault("observables", f"{name!r} is a state, too", "give the observable another name")
            if not float(value.sd) > 0:
                raise self._fault("observables", f"sd of {name!r} is {float(value.sd):g}", "give a number above 0")
        return found

    def _check_equations(self) -> None:
        """Run the equations on symbols, and see that they use every parameter."""
        trace = Trace(self.ode(0 if self.dose is None else 1), {})
        pairs = [n for pair in trace.observations.values() for n in pair]
        jumps = [n for changed, _ in trace.events.values() for n in changed.values()]
        used = leaves([*trace.start_state.values(), *trace.rates.values(), *pairs, *jumps])
        if idle := [symbol for symbol in self.table if f"p.{symbol}" not in used]:
            raise self._fault("parameters", f"{', '.join(idle)} stands in no equation", "use it, or remove it")


class _Numbers:
    """Numbers as attributes; NumPy's, which divide by 0 without an exception."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update({name: np.float64(value) for name, value in values.items()})


def sd_of(observable: str) -> str:
    """The read-out that holds the residual scale of an observable."""
    return f"sd of {observable}"


def value_of(output: str) -> str:
    """The kind of observation that is the value of a state or observable itself."""
    return f"value of {output}"

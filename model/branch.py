"""From a state on a day on: the same equations, another start.

Arms of an experiment share everything up to the day on which they first differ. What came before is simulated once;
each arm then goes on from the state of that day, on a clock that begins there. Held values that the infusions of the
past had set are computed again from the parameters and the dysfunction noted at each apheresis; events of the past are
dropped. No solver knows of this: the state comes to it as parameters, ``from_Ts`` and so on, of a model whose start
reads them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .course import ResolvedInfusion
from .equations.definition import OdeModel, Values
from .errors import ReinfuseError

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]

PREFIX: Final = "from_"
#: Least value of a state that is integrated as a logarithm.
LEAST: Final = 1e-300
#: Read-outs that later read-outs of response and cells depend on; those of an infusion carry its number.
SHARED: Final = ("Ts", "Tr", "Q", "A", "P")
OF_INFUSION: Final = ("E", "M", "X")
#: The state that simulations report as ``cumhaz``.
HAZARD: Final = "H"


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """Where each of n patients stands on a day.

    Attributes
    ----------
    day : ndarray (n,)
        Days since the first infusion, from 0. An infusion on this day has been given; whatever else falls on it has yet
        to happen.
    state : mapping of str to ndarray (n,)
        Read-outs of a simulation of the same patients on that day, by name: `states` for responses and cells, ``S`` for
        soluble BCMA, ``cumhaz`` for hazards.
    """

    day: Floats
    state: Mapping[str, Floats]

    def given(self, course: Sequence[ResolvedInfusion], n: int) -> int:
        """Count the infusions of the past.

        Parameters
        ----------
        course, n
            Of the whole simulation.

        Returns
        -------
        int
            The same for all patients.

        Raises
        ------
        ReinfuseError
            If days or states are not one finite number per patient, or patients differ in this.
        """
        for name, values in {"day": self.day, **self.state}.items():
            if np.shape(values) != (n,) or not np.all(np.isfinite(values)):
                raise ReinfuseError(
                    f"start: {name} is {values!r}; give one finite number for each of {n} patients who were solved"
                )
        if np.any(self.day < 0):
            raise ReinfuseError(f"start: day is {self.day.min():g}; count days from the first infusion, >= 0")
        given = 0
        for item in course:
            past = np.broadcast_to(item.day, (n,)) <= self.day
            if past.any() and not past.all():
                raise ReinfuseError(
                    f"start: infusion {item.slot} was given to {int(past.sum())} of {n} patients by their day; "
                    "start all of them before it, or all after"
                )
            given += int(n > 0 and past.all())
        return given

    def parameters(self, names: Sequence[str], model: OdeModel) -> dict[str, Floats]:
        """Make the parameters of a kernel that begins here.

        Parameters
        ----------
        names
            The kernel's parameters.
        model
            Its equations.

        Returns
        -------
        dict of str to ndarray (n,)

        Raises
        ------
        ReinfuseError
            If the state lacks one of them.
        """
        wanted = [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)]
        state = {**self.state, **({HAZARD: self.state["cumhaz"]} if "cumhaz" in self.state else {})}
        lacking = [name for name in wanted if name not in state]
        if lacking:
            raise ReinfuseError(f"start: the state lacks {', '.join(lacking)}; ask the earlier simulation for them")
        logs = {state.name for state in model.states if state.log}
        return {PREFIX + name: np.maximum(state[name], LEAST) if name in logs else state[name] for name in wanted}


def states(infusions: int) -> tuple[str, ...]:
    """Read-outs that a `Start` after so many infusions needs for responses and cells."""
    cells = (f"{cell}{j}" for j in range(1, infusions + 1) for cell in OF_INFUSION)
    return (*SHARED, *cells, *(f"Qaph{j}" for j in range(2, infusions + 1)))


def resumed(model: OdeModel, given: int) -> OdeModel:
    """Build the same model, to begin from a state after so many infusions.

    Parameters
    ----------
    model
        Of `equations.bcma`.
    given
        Infusions of the past, at least 1.

    Returns
    -------
    OdeModel
        Its time counts from the day of the state, and so must ``day_1`` and so on.
    """

    def start(p: Any) -> tuple[Values, Values]:
        values, held = model.start(p)
        noted = {**held, **{f"Qaph{j}": getattr(p, f"{PREFIX}Qaph{j}") for j in range(2, given + 1)}}
        for j in range(1, given + 1):
            _, changed = model.events[f"infusion_{j}"](SimpleNamespace(**values), SimpleNamespace(**noted), p)
            noted |= changed
        there = [s.name for s in model.states if s.name[:-1] not in OF_INFUSION or int(s.name[-1]) <= given]
        return {**values, **{name: getattr(p, PREFIX + name) for name in there}}, noted

    return replace(model, start=start)


def still_to_come(
    times: Floats, codes: Integers, count: Integers, *, names: Sequence[str], day: Floats, given: int, far: float
) -> tuple[Floats, Integers, Integers]:
    """Events after a start, in order, on the clock that begins there.

    Parameters
    ----------
    times, codes, count
        As from `schedule.events`.
    names
        The kernel's event names.
    day : ndarray (n,)
        Of the start.
    given
        Infusions of the past.
    far
        What stands in unused places.

    Returns
    -------
    times, codes, count
        As `schedule.events` gives them.
    """
    done = [names.index(f"infusion_{j}") for j in range(1, given + 1) if f"infusion_{j}" in names]
    coming = (np.arange(times.shape[1]) < count[:, None]) & (times >= day[:, None]) & ~np.isin(codes, done)
    shifted = np.where(coming, times - day[:, None], np.inf)
    rank = np.argsort(shifted, axis=1, kind="stable")
    shifted = np.take_along_axis(shifted, rank, axis=1)
    left = np.isfinite(shifted).sum(axis=1).astype(np.int64)
    return np.where(np.isfinite(shifted), shifted, far), np.take_along_axis(codes, rank, axis=1), left


def origin_from(since: ArrayLike, day: Floats) -> Floats:
    """Days from the start to where each patient's times begin, (n,).

    Raises
    ------
    ReinfuseError
        If one comes before the start.
    """
    origin = np.asarray(since, dtype=np.float64) - day
    if np.any(origin < 0):
        i = int(np.argmax(origin < 0))
        raise ReinfuseError(
            f"since is {np.broadcast_to(since, day.shape)[i]:g} in patient {i + 1}, before the start on day "
            f"{day[i]:g}; start earlier"
        )
    return np.asarray(origin)

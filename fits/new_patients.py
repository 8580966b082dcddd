"""New patients: drawn from draws of a population, each in the place of a patient of a cohort, and simulated.

A place gives product, dose and course; the deviations are drawn anew. `diagnosis` compares what they show with what the
cohort showed, with published trials, and with physiology.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import to_transformed
from reinfuse.model.schedule import FAR
from reinfuse.model.simulate import solved

from .assays import ASSAYS
from .population import Design, design, estimated
from .problem import Problem
from .results import MAX_STEPS

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]

TOLERANCE: Final = 1e-5
CHUNK_NUMBERS: Final = 4_000_000  # of simulated read-outs held at a time
CHUNK_PATIENTS: Final = 4096


@dataclass(frozen=True, kw_only=True)
class PopulationDraws:
    """Draws of a population on transformed scales.

    Attributes
    ----------
    population, effect
        (draws, parameters) and (draws, product effects), in the order of the problem.
    omega
        (draws, deviations): sds of the random effects and, with several infusions, of each infusion's deviation.
    """

    population: Floats
    effect: Floats
    omega: Floats

    def __len__(self) -> int:
        """Number of draws."""
        return int(self.population.shape[0])

    def typical(self) -> "PopulationDraws":
        """One draw: the median of every number, and no spread between patients."""
        return PopulationDraws(
            population=np.median(self.population, axis=0, keepdims=True),
            effect=np.median(self.effect, axis=0, keepdims=True),
            omega=np.zeros((1, self.omega.shape[1])),
        )


def population_draws(problem: Problem, group: xr.Dataset) -> PopulationDraws:
    """Take the population out of a `/posterior` or `/prior` group.

    Parameters
    ----------
    problem
        The posed cohort of the run.
    group
        With `population`, `omega` and, where the problem has them, `product_effect` and `omega_occasion`.

    Raises
    ------
    ReinfuseError
        If a number of the problem is not in the group: the run is of another version or specification.
    """
    labels = estimated(problem)
    natural = _labelled(group, "population", "parameter", labels)
    rows = [problem.population[label] for label in labels]
    columns = [to_transformed(natural[:, j], transform=row.transform) for j, row in enumerate(rows)]
    omega = _labelled(group, "omega", "effect", list(problem.random))
    if problem.occasions:
        if "omega_occasion" not in group:
            raise ReinfuseError("the run does not hold omega_occasion; fit again with this version")
        each = group["omega_occasion"].transpose("chain", "draw").values.reshape(-1, 1)
        omega = np.hstack([omega, np.repeat(each, problem.slots, axis=1)])
    effect = np.zeros((natural.shape[0], 0))
    if problem.effects:
        effect = _labelled(group, "product_effect", "contrast", [e.label for e in problem.effects])
    return PopulationDraws(population=np.stack(columns, axis=1), effect=effect, omega=omega)


def _labelled(group: xr.Dataset, variable: str, dim: str, labels: list[str]) -> Floats:
    """Draws (draws, labels) of a variable."""
    held = [str(label) for label in group[dim].values] if variable in group else []
    if missing := [label for label in labels if label not in held]:
        raise ReinfuseError(
            f"the run does not hold {', '.join(missing[:4])} in {variable}; it was fitted otherwise: fit again"
        )
    array = group[variable].sel({dim: labels}).transpose("chain", "draw", dim).values
    return np.asarray(array, dtype=float).reshape(-1, len(labels))


class NewPatients:
    """Individual parameters and trajectories of new patients, each in the place of a patient of the design.

    Parameters
    ----------
    problem
        The posed cohort.
    draws
        Its population.
    """

    def __init__(self, problem: Problem, draws: PopulationDraws) -> None:
        self.problem, self.draws = problem, draws
        self.design: Design = design(problem)

    def thetas(self, place: Integers, draw: Integers, rng: np.random.Generator) -> Floats:
        """Individual parameters (m, columns) of patients in places (m,) of the design, from draws (m,)."""
        made, draws = self.design, self.draws
        deviation = rng.standard_normal((place.size, draws.omega.shape[1])) * draws.omega[draw]
        out = np.empty((place.size, made.offset.shape[1]))
        for low in range(0, place.size, CHUNK_PATIENTS):
            part = slice(low, low + CHUNK_PATIENTS)
            i, d = place[part], draw[part]
            x = made.offset[i] + np.einsum("mcp,mp->mc", made.by_population[i], draws.population[d])
            x += np.einsum("mce,me->mc", made.by_effect[i], draws.effect[d])
            x += np.einsum("mcq,mq->mc", made.by_deviation[i], deviation[part])
            out[part] = made.back(x)
        return out

    def simulate(self, thetas: Floats, place: Integers, times: Floats) -> dict[str, Floats]:
        """Read-outs (m, T) at common times; NaN where the solver failed."""
        problem, kernel = self.problem, self.problem.kernel
        out = np.full((place.size, times.size, len(kernel.readouts)), np.nan)
        status = np.zeros(place.size, dtype=np.int64)
        kernel.simulate(
            np.ascontiguousarray(thetas),
            np.ascontiguousarray(problem.ev_time[place]),
            np.ascontiguousarray(problem.ev_code[place]),
            np.ascontiguousarray(problem.n_ev[place]),
            times,
            TOLERANCE,
            MAX_STEPS,
            out,
            status,
        )
        out[~solved(status)] = np.nan
        return {name: out[..., k] for k, name in enumerate(kernel.readouts)}

    def in_chunks(self, thetas: Floats, place: Integers, times: Floats) -> Iterator[tuple[slice, dict[str, Floats]]]:
        """`simulate`, so many patients at a time that the read-outs stay small."""
        size = max(1, CHUNK_NUMBERS // max(1, times.size * len(self.problem.kernel.readouts)))
        for low in range(0, place.size, size):
            part = slice(low, min(place.size, low + size))
            yield part, self.simulate(thetas[part], place[part], times)

    def sd(self, dvid: str, thetas: Floats) -> Floats:
        """Residual sd (m,) of an assay."""
        column = self.problem.column(self.problem.observables[dvid].sd)
        assert column is not None
        return thetas[:, column]


def first_infusion_only(problem: Problem, base: Floats) -> Problem:
    """The same problem without the events of further infusions, and with other individual constants (n, columns)."""
    names = np.array([str(name).endswith("_1") for name in problem.kernel.events])
    keep = names[problem.ev_code] & (np.arange(problem.ev_time.shape[1]) < problem.n_ev[:, None])
    times = np.where(keep, problem.ev_time, FAR)
    order = np.argsort(times, axis=1, kind="stable")
    changed: dict[str, Any] = {
        "base": base,
        "ev_time": np.take_along_axis(times, order, axis=1),
        "ev_code": np.take_along_axis(problem.ev_code, order, axis=1),
        "n_ev": keep.sum(axis=1).astype(np.int64),
    }
    return replace(problem, **changed)


def has_progression(problem: Problem) -> bool:
    """Whether the problem's model follows the hazard of progression."""
    return "H" in problem.kernel.readouts and ASSAYS.index("progression") in problem.observed.kind

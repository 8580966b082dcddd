"""Profiles of a run's parameters, each a task of its own: on all cores, on a cluster, kept as they come."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.products import Product, product, register

from ..cohort import Cohort, read_cohort
from ..geometry import Posterior
from ..problem import Specification, pose
from ..proposals import pairs
from ..reopened import Reopened, specification_of
from ..results import layout
from ..run import POSTERIOR_FILE, sha256_of
from ..tasks import Arrays, TaskFolder
from .profiles import POINTS, Marginal, Profile, Profiler
from .records import hyper_names

type Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ProfileTask:
    """What another process, or another machine, needs to draw a profile.

    Attributes
    ----------
    cohort, products, specification
        To pose the run's problem again.
    hyper, deviations
        Draws of the population (S, d) and of the patients (S, n, q).
    rng
        Of the integrals' points; the same for all profiles of a run.
    points
        How many, for each patient; a power of two uses them best.
    penalised
        Whether the priors of all other population values count.
    name
        Of the parameter.
    """

    cohort: Cohort
    products: tuple[Product, ...]
    specification: Specification
    hyper: Floats
    deviations: Floats
    rng: np.random.Generator
    points: int
    penalised: bool
    name: str


def profiles(
    run: Reopened,
    names: Sequence[str],
    *,
    folder: TaskFolder,
    rng: np.random.Generator,
    points: int = POINTS,
    penalised: bool = True,
    cores: int | None = None,
    cluster: str | None = None,
    tick: Callable[[int], None] = lambda _: None,
) -> list[Profile]:
    """Profiles of population values of a run, by its marginal likelihood.

    Parameters
    ----------
    run
        A finished run.
    names
        Of the parameters, as `check` has let them pass.
    folder
        Keeps each profile as it is done.
    rng, points, penalised
        As in `ProfileTask`.
    cores, cluster
        As of `tasks.run_tasks`; they do not change the result.
    tick
        Told of each profile.
    """
    hyper, deviations = pairs(run.draws)
    cohort = read_cohort(run.run.cohort_path)
    task = partial(
        ProfileTask,
        cohort,
        tuple(product(name) for name in cohort.products),
        specification_of(run.run),
        hyper,
        deviations,
        rng,
        points,
        penalised,
    )
    tasks = {number: task(name) for number, name in enumerate(names)}
    found = folder.complete(draw_profile, tasks, cores=cores, cluster=cluster, tick=tick)
    return [_profile(name, arrays) for name, arrays in zip(names, found, strict=True)]


def check(run: Reopened, names: Sequence[str]) -> None:
    """Refuse names that the run has no population value of; spreads are ``omega:…`` (raises ReinfuseError)."""
    known = hyper_names(run.problem)
    if unknown := [name for name in names if name not in known]:
        raise ReinfuseError(f"no profile of {unknown[0]!r}; there are those of {', '.join(known)}")


def recipe(run: Reopened, names: Sequence[str], *, seed: int, points: int, penalised: bool) -> dict[str, Any]:
    """What profiles depend on."""
    posterior = sha256_of(run.run.path / POSTERIOR_FILE)
    return {"posterior": posterior, "names": list(names), "seed": seed, "points": points, "penalised": penalised}


def draw_profile(task: ProfileTask) -> Arrays:
    """Draw one profile; its numbers as arrays."""
    for own in task.products:
        register(own)
    problem = pose(task.cohort, task.specification)
    posterior = Posterior(problem)
    first, second = (
        Marginal(posterior, layout(problem), task.hyper, task.deviations, each, task.points)
        for each in task.rng.spawn(2)
    )
    profiler = Profiler(
        first,
        prior_mean=posterior.prior_mean,
        prior_sd=posterior.prior_sd,
        centre=task.hyper.mean(axis=0),
        covariance=np.cov(task.hyper, rowvar=False),
        penalised=task.penalised,
        again=second,
    )
    found = profiler.profile(task.name, hyper_names(problem).index(task.name))
    return {name: np.asarray(value) for name, value in vars(found).items() if name != "name"}


def _profile(name: str, arrays: Arrays) -> Profile:
    found: dict[str, Any] = {key: value if value.ndim else value.item() for key, value in arrays.items()}
    return Profile(name, **found)

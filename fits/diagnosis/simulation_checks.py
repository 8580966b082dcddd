"""Predictive checks that simulate new patients from a run's population, gathered.

Visual check, npde, peaks as sampled, published trials, and patients of the prior. They need the model of the run, posed
again with the run's own cohort, and cost a few seconds.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from reinfuse.model.errors import ReinfuseError

from ..cohort import Cohort
from ..new_patients import NewPatients, population_draws
from ..problem import Problem, Specification, pose
from ..simulated_studies import replicate_studies, typical_curves
from ..study_plan import plan
from . import npde, physiology, published, sampled, vpc
from .vpc import Vpc

STUDIES: Final = 200
FEWEST_STUDIES: Final = 60
PATIENTS: Final = 20_000  # simulated for the visual predictive check; large cohorts get fewer studies
CANDIDATES: Final = 60_000  # simulated for npde; large cohorts get fewer each
FEWEST_CANDIDATES: Final = 200

NOT_OURS: Final = (
    "New patients are not simulated for a model of one's own: the run holds its description, and not its equations."
)


@dataclass(frozen=True, kw_only=True)
class NewPatientChecks:
    """What checks with new patients found; tables are empty, and `vpc` None, where they could not be made.

    Attributes
    ----------
    vpc
        From `vpc.check`.
    npde, npde_tests
        From `npde.compute` and `npde.tests`.
    sampled
        From `sampled.compare`.
    published
        From `published.compare`.
    prior
        From `physiology.check`, for the prior.
    typical
        Curves (n, T) of the typical patient in each place, by assay, at the days of the run's `/curves`.
    missing
        A sentence for each thing that could not be done.
    """

    vpc: Vpc | None = None
    npde: pd.DataFrame = field(default_factory=pd.DataFrame)
    npde_tests: pd.DataFrame = field(default_factory=pd.DataFrame)
    sampled: pd.DataFrame = field(default_factory=pd.DataFrame)
    published: pd.DataFrame = field(default_factory=pd.DataFrame)
    prior: pd.DataFrame = field(default_factory=pd.DataFrame)
    typical: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def examine(
    tree: xr.DataTree, cohort: Cohort, written: dict[str, Any], *, rng: np.random.Generator
) -> NewPatientChecks:
    """Make all checks with new patients.

    Parameters
    ----------
    tree, cohort
        Posterior and cohort of a run of the built-in model.
    written
        Its `run.json`: variant and random effects.
    rng
        For everything that is drawn.

    Returns
    -------
    NewPatientChecks
        With a sentence in `missing` where the run does not hold the population of the model as it is now.
    """
    try:
        problem = _posed(cohort, written)
        draws = population_draws(problem, tree["posterior"].to_dataset())
    except ReinfuseError as error:
        return NewPatientChecks(missing=(f"New patients are not simulated: {error}",))
    studies_rng, npde_rng, published_rng, prior_rng = rng.spawn(4)
    new, made = NewPatients(problem, draws), plan(cohort, problem)
    if made.patient.size == 0:
        return NewPatientChecks(missing=("New patients are not simulated: the cohort has no measurement.",))
    count = int(np.clip(PATIENTS // problem.n, FEWEST_STUDIES, STUDIES))
    studies = replicate_studies(new, made, count=count, rng=studies_rng)
    candidates = int(np.clip(CANDIDATES // problem.n, FEWEST_CANDIDATES, npde.CANDIDATES))
    errors = npde.compute(new, made, rng=npde_rng, candidates=candidates, simulations=min(npde.SIMULATIONS, candidates))
    missing = []
    prior = pd.DataFrame()
    if "prior" in tree.children:
        before = population_draws(problem, tree["prior"].to_dataset())
        prior = physiology.check(problem, before, rng=prior_rng)
    else:
        missing.append("The run holds no draws of the prior: whether they are patients is not checked.")
    typical = {}
    if "curves" in tree.children:
        typical = typical_curves(new, tree["curves"].to_dataset()["time"].values.astype(float))
    trials = published.compare(problem, draws, rng=published_rng)
    if len(trials) == 0:
        missing.append("No published figure is about a product and an assay of this cohort.")
    return NewPatientChecks(
        vpc=vpc.check(new, made, studies),
        npde=errors,
        npde_tests=npde.tests(errors),
        sampled=sampled.compare(problem, made, studies),
        published=trials,
        prior=prior,
        typical=typical,
        missing=tuple(missing),
    )


def _posed(cohort: Cohort, written: dict[str, Any]) -> Problem:
    """The problem of the run's fit."""
    usual = Specification()
    effects = written.get("random_effects")
    return pose(
        cohort,
        Specification(
            variant=str(written.get("variant", usual.variant)),
            random_effects=usual.random_effects if effects is None else tuple(str(name) for name in effects),
        ),
    )

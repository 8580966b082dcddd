"""A finished run, posed again: its problem and its draws, to compute with what the run folder does not hold."""

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from reinfuse.model.errors import ReinfuseError

from .cohort import read_cohort
from .hypotheses import SAME_LIKELIHOOD, TO_BE_FITTED
from .likelihood_op import loglik_and_gradient
from .own_model import load_model, pose_model, read_data
from .problem import Problem, Specification, pose
from .results import Draws, flat_draws, thinned
from .run import COHORT_FILE, MODEL_FILE, RunFolder

SAME: Final = 1e-6  # largest difference of a patient's log-likelihood that counts as none
COMPARED_AT: Final = 8  # draws


@dataclass(frozen=True, eq=False)
class Reopened:
    """A run's folder, the problem that was fitted, and the draws.

    Attributes
    ----------
    run
        The folder.
    problem
        Posed from the run's own copies of cohort, products and model.
    draws
        On the scales they were sampled in.
    """

    run: RunFolder
    problem: Problem
    draws: Draws

    @classmethod
    def of(cls, run: RunFolder, *, variant: str | None = None) -> Self:
        """Pose a run again, or, with ``variant``, the same cohort under another restriction of the model.

        Raises
        ------
        ReinfuseError
            If the run is not finished, a file was changed, or the draws are of another version of the model.
        """
        problem = posed_again(run, variant=variant)
        posterior = run.posterior()["posterior"].to_dataset()
        return cls(run, problem, Draws(problem, flat_draws(problem, posterior)))


def posed_again(run: RunFolder, *, variant: str | None = None) -> Problem:
    """The problem of a run from its own files."""
    written: dict[str, Any] = run.provenance
    model_file, cohort = run.path / MODEL_FILE, run.path / COHORT_FILE
    if written.get("own_model") is not None:
        if not model_file.is_file():
            raise ReinfuseError(f"{run.path} lacks {MODEL_FILE}, the model that was fitted. Fit again.")
        model = load_model(model_file)
        return pose_model(read_data(cohort, model=model), model)
    run.register_products()
    return pose(read_cohort(cohort), specification_of(run, variant=variant))


def specification_of(run: RunFolder, *, variant: str | None = None) -> Specification:
    """What a run of the built-in model fitted, or, with ``variant``, the same under another restriction."""
    written: dict[str, Any] = run.provenance
    chosen: dict[str, Any] = {"variant": str(variant if variant is not None else written["variant"])}
    if "random_effects" in written:
        chosen["random_effects"] = tuple(str(name) for name in written["random_effects"])
    return Specification(**chosen)


def tell_apart(run: RunFolder, null: str) -> dict[str, Any]:
    """Whether the data of a run can tell its model from the null, before anything is fitted.

    Parameters
    ----------
    run
        A finished fit.
    null
        The variant to tell it from.

    Returns
    -------
    dict
        ``variant``, ``largest_difference`` of a patient's log-likelihood over some draws of the posterior, and
        ``status``: ``same likelihood`` or ``to be fitted``.
    """
    opened, other = Reopened.of(run), posed_again(run, variant=null)
    twin = Draws(other, opened.draws.flat)
    largest = 0.0
    for c, k in thinned(opened.draws, COMPARED_AT):
        mine, _, _ = loglik_and_gradient(opened.draws.theta(c, k), opened.problem)
        theirs, _, _ = loglik_and_gradient(twin.theta(c, k), other)
        both = np.isfinite(mine) & np.isfinite(theirs)
        largest = max(largest, float(np.abs(mine - theirs)[both].max(initial=0.0)))
        if not np.array_equal(np.isfinite(mine), np.isfinite(theirs)):
            largest = float("inf")
    status = SAME_LIKELIHOOD if largest <= SAME else TO_BE_FITTED
    return {"variant": null, "largest_difference": largest, "status": status}

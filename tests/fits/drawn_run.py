"""A run folder whose draws are made, not sampled: normal, half as wide as the priors, for commands that read runs."""

import json
from pathlib import Path

import numpy as np
import xarray as xr

from reinfuse.fits.results import Draws, curves, layout, observed, posterior_draws, prior_draws
from reinfuse.fits.run import RunFolder, provenance

from .small_cohorts import Posed, rows_of

CHAINS, DRAWS = 2, 120


def write(
    path: Path, posed: Posed, *, one: int = 4, two: int = 0, converged: bool = True, seed: int = 3, until: float = 0.0
) -> RunFolder:
    """Write the folder of a small cohort's run; its deviations are normal, half as wide as their spreads.

    Curves of the patients come with it if `until` is a day.
    """
    rng = np.random.default_rng(seed)
    problem, lay, posterior = posed.problem, layout(posed.problem), posed.posterior
    x = np.zeros((CHAINS, DRAWS, lay.size))
    h = posterior.prior_mean + 0.5 * posterior.prior_sd * rng.standard_normal(
        (CHAINS, DRAWS, posterior.prior_mean.size)
    )
    x[..., lay.hyper] = h
    sd = np.exp(h[..., posterior.log_sd])
    x[..., lay.block] = 0.5 * sd[:, :, None, :] * rng.standard_normal((CHAINS, DRAWS, problem.n, posterior.q))
    run = RunFolder.create(path)
    digest = run.write_cohort(rows_of(one=one, two=two))
    groups = {
        "/posterior": posterior_draws(problem, Draws(problem, x)),
        "/prior": prior_draws(problem, rng),
        "/sample_stats": xr.Dataset({"diverging": (("chain", "draw"), np.zeros((CHAINS, DRAWS), dtype=bool))}),
        "/observed_data": observed(problem),
    }
    if until:
        groups["/curves"] = curves(problem, Draws(problem, x), until)
    run.write_posterior(xr.DataTree.from_dict(groups))
    run.write_provenance(
        provenance(
            seed=seed,
            cohort_sha256=digest,
            sampler="normal draws (tests)",
            model="bcma",
            options="real",
            variant=problem.specification.variant,
            status="done",
            wall_seconds={"sampling": 0.0},
            command=["reinfuse", "fit", "cohort.csv", "--out", "run"],
            random_effects=list(problem.random),
            solver_failures=0,
        )
    )
    (path / "diagnostics.json").write_text(json.dumps({"converged": converged}))
    return RunFolder.open(path)

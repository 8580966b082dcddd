"""Do two programs mean the same posterior? Densities and gradients at random points, then means and sds of draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from arviz_stats.base import array_stats
from cases import Case
from numpy.typing import NDArray

type Floats = NDArray[np.float64]

POINTS = ((0.1, 2), (0.3, 4), (0.6, 2))  # (spread around the prior's centre in its sds, number of points)
EXACT = 1e-9  # tolerance of both solvers for the comparison of densities
ALLOWED = 1e-4  # largest difference, relative to 1 + the value, of densities and their slopes
MAX_Z = 4.5  # of Monte Carlo standard errors, the largest over all scalars; chance exceeds 4.5 once in 150,000


class Disagreement(RuntimeError):
    """The two programs do not mean the same posterior."""


def points(case: Case, spreads: Sequence[tuple[float, int]] = POINTS) -> Floats:
    """Flat vectors of the statistical model, scattered around the prior's centre."""
    from reinfuse.fits.geometry import Posterior
    from reinfuse.fits.results import layout

    problem = case.problem()
    posterior, where = Posterior(problem), layout(problem)
    rng = np.random.default_rng(7)
    rows = []
    for spread, count in spreads:
        for _ in range(count):
            h = posterior.prior_mean + spread * posterior.prior_sd * rng.standard_normal(posterior.prior_mean.size)
            b = spread * np.exp(h[posterior.log_sd]) * rng.standard_normal((problem.n, posterior.q))
            x = np.empty(where.size)
            x[where.hyper], x[where.block] = h, b
            rows.append(x)
    return np.array(rows)


def ours(case: Case, at: Floats, tolerance: float | None = None) -> tuple[Floats, Floats]:
    """Our log densities and gradients: the PyMC model, as the fit evaluates it."""
    from reinfuse.fits.likelihood_op import LogDensity
    from reinfuse.fits.population import population_model

    density = LogDensity(population_model(case.problem(tolerance)))
    found = [density(x) for x in at]
    return np.array([value for value, _ in found]), np.array([gradient.copy() for _, gradient in found])


def difference(found: Floats, truth: Floats) -> float:
    """Largest difference, relative to 1 + the truth; infinite where something is not a number."""
    apart = np.abs(found - truth) / (1.0 + np.abs(truth))
    return float(apart.max()) if np.isfinite(apart).all() else float("inf")


def densities(case: Case, say: Callable[[str], None]) -> dict[str, Any]:
    """Compare log densities and gradients of both programs; both parametrisations of numpyro.

    Raises
    ------
    Disagreement
        If they differ by more than the solvers' errors.
    """
    from peers.numpyro import PARAMETRISATIONS, Peer, Solver, evaluated

    at = points(case)
    value, gradient = ours(case, at, EXACT)
    rows = []
    for parametrisation in PARAMETRISATIONS:
        peer = Peer(case.problem(EXACT), Solver(tolerance=EXACT, max_steps=4096, checkpoints=512))
        theirs, slopes = evaluated(peer, parametrisation, at)
        rows.append(
            {
                "parametrisation": parametrisation,
                "value_differs_by": difference(theirs, value),
                "gradient_differs_by": difference(slopes, gradient),
            }
        )
        say(f"densities, {parametrisation}: {rows[-1]}")
    worst = max(max(row["value_differs_by"], row["gradient_differs_by"]) for row in rows)
    if not worst <= ALLOWED:
        raise Disagreement(f"{case.name}: numpyro and reinfuse differ by {worst:.1e} (allowed: {ALLOWED:g}): {rows}")
    return {"points": len(at), "coordinates": at.shape[1], "tolerance": EXACT, "allowed": ALLOWED, "rows": rows}


def draws_agree(mine: Mapping[str, Floats], theirs: Mapping[str, Floats]) -> dict[str, Any]:
    """Means and sds of two posteriors, in Monte Carlo standard errors.

    Parameters
    ----------
    mine, theirs
        (chain, draw) of each scalar, on a scale where means and sds say something.

    Returns
    -------
    dict
        Largest |z| of means and of sds with the scalar's name, largest differences of means in sds and of sds in
        percent, and whether both |z| stay below `MAX_Z`.
    """
    names = [name for name in mine if name in theirs]
    summaries = [_moments(np.stack([draws[name] for name in names])) for draws in (mine, theirs)]
    (mean, mean_se, sd, sd_se), (other, other_se, other_sd, other_sd_se) = summaries
    z_mean = np.abs(mean - other) / np.hypot(mean_se, other_se)
    z_sd = np.abs(sd - other_sd) / np.hypot(sd_se, other_sd_se)
    in_sds, percent = np.abs(mean - other) / sd, 100.0 * np.abs(other_sd / sd - 1.0)
    found: dict[str, Any] = {"scalars": len(names), "max_z_allowed": MAX_Z}
    for key, values in (("mean_z", z_mean), ("sd_z", z_sd), ("mean_sds", in_sds), ("sd_percent", percent)):
        worst = int(np.argmax(values))
        found[key] = {"largest": float(values[worst]), "at": names[worst], "median": float(np.median(values))}
    found["z_of_means"] = [round(float(z), 3) for z in (other - mean) / np.hypot(mean_se, other_se)]
    found["agree"] = bool(z_mean.max() <= MAX_Z and z_sd.max() <= MAX_Z)
    return found


def _moments(values: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean, its Monte Carlo error, sd, its Monte Carlo error, of (scalar, chain, draw)."""
    flat = values.reshape(len(values), -1)
    errors = [np.asarray(array_stats.mcse(values, method=method)) for method in ("mean", "sd")]
    return flat.mean(axis=1), errors[0], flat.std(axis=1, ddof=1), errors[1]

"""Forecasts of what a fit did not see: each patient's late samples from the early ones, and the risk of progression.

For patient ``i`` the population is that of all other patients: draws of the fit, reweighted by the inverse of the
patient's own integrated likelihood (Pareto smoothed) and resampled. Given such a population, the patient's deviations
are sampled from the assays up to the cut-off day alone; progression is withheld altogether. What follows is predicted.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import xarray as xr
from arviz_stats.base import array_stats
from numpy.typing import NDArray

from .assays import ASSAYS, LOG_OFFSET
from .comparison import FEWEST_TO_SMOOTH, floored, in_threads
from .coordinates import Coordinates
from .geometry import Posterior
from .population import estimated
from .problem import Problem
from .results import DEGREES, Draws, observed, simulate_draws, thinned

type Floats = NDArray[np.float64]

CUTOFF: Final = 40.0
RISK_DAY: Final = 180.0
TRAJECTORIES: Final = 15
LEAPFROGS: Final = 6
STEP: Final = 0.25


def early(problem: Problem, cutoff: float) -> Problem:
    """The same problem with only the assays up to a day."""
    keep = problem.ob_time <= cutoff
    keep &= np.arange(problem.ob_time.shape[1]) < problem.n_ob[:, None]
    assays = [k for k, kind in enumerate(problem.kernel.kinds) if kind not in ("progression", "death")]
    keep &= np.isin(problem.ob_kind, assays)
    order = np.argsort(~keep, axis=1, kind="stable")
    arrays: dict[str, Any] = {
        name: np.take_along_axis(getattr(problem, name), order, axis=1)
        for name in ("ob_time", "ob_kind", "ob_family", "ob_value")
    }
    return replace(problem, n_ob=keep.sum(axis=1).astype(np.int64), **arrays)


def _inverse(loglik: Floats, smooth: bool) -> Floats:
    """Weights (draws,) proportional to exp(-loglik), Pareto smoothed where there are draws enough for a tail."""
    log_weights = -loglik
    if smooth and np.unique(loglik).size >= FEWEST_TO_SMOOTH:
        smoothed: Any = array_stats.psislw(loglik[None])  # takes log-likelihoods, gives logarithms of inverse ones
        log_weights = np.asarray(smoothed[0]).ravel()
    weights = np.exp(log_weights - log_weights.max())
    return np.asarray(weights / weights.sum())


def _left_out(loglik: Floats, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """For each patient, places (count, n) of population draws as if that patient had not been in the fit."""
    places = np.empty((count, loglik.shape[1]), dtype=np.int64)
    loglik, failed = floored(loglik)
    for i in range(loglik.shape[1]):
        weights = _inverse(loglik[:, i], smooth=not failed[i])
        grid = (rng.uniform() + np.arange(count)) / count
        places[:, i] = np.minimum(np.searchsorted(np.cumsum(weights), grid), weights.size - 1)
    return places


def forecast(
    problem: Problem,
    coordinates: Coordinates,
    draws: Draws,
    loglik: Floats,
    rng: np.random.Generator,
    *,
    cutoff: float = CUTOFF,
    until: float,
    cores: int = 1,
    tick: Callable[[int], None] = lambda _: None,
) -> xr.Dataset:
    """Predictions of late assay rows and of progression, each patient's own left out.

    Parameters
    ----------
    problem, coordinates, draws
        Of the fit.
    loglik
        (population draws, n) from `comparison.integrated_loglik`, for draws evenly spaced over the posterior.
    cutoff, until
        Rows after ``cutoff`` and up to ``until`` days are predicted from those up to ``cutoff``.
    cores
        Population draws at a time; does not change the result.
    tick
        Told of each population draw.

    Returns
    -------
    xarray.Dataset
        As `RunFolder.write_forecast` wants it.
    """
    posterior = Posterior(early(problem, cutoff))
    count = loglik.shape[0]
    places = thinned(draws, count)
    rows = observed(problem)
    late = np.flatnonzero((rows["time"].to_numpy() > cutoff) & (rows["time"].to_numpy() <= until))
    times = np.unique(np.concatenate([rows["time"].to_numpy()[late], [RISK_DAY]]))
    n, labels = problem.n, estimated(problem)

    def one(h: Floats, start: Floats, rng: np.random.Generator) -> Floats:
        return _conditional_draw(posterior, coordinates, h, start, rng)

    populations, starts = [draws.hyper(c, k) for c, k in places], [draws.deviation[c, k] for c, k in places]
    deviations = in_threads(one, populations, starts, rng.spawn(count), cores=cores, tick=tick)
    thetas = np.empty((count, n, problem.base.shape[1]))
    sigmas = np.empty((count, len(ASSAYS)))
    for sample, (c, k) in enumerate(places):
        thetas[sample] = draws.design.theta(draws.population[c, k], draws.effect[c, k], deviations[sample])
        for a, name in enumerate(ASSAYS):
            if f"sigma_{name}" in labels:
                sigmas[sample, a] = np.exp(draws.population[c, k, labels.index(f"sigma_{name}")])
    simulated = simulate_draws(problem, thetas, times)
    chosen = _left_out(loglik, count, rng)
    index = {name: i for i, name in enumerate(problem.patients)}
    prediction, sigma = np.empty((count, late.size)), np.empty((count, late.size))
    for column, row in enumerate(late.tolist()):
        patient, name = index[str(rows["patient"].values[row])], str(rows["dvid"].values[row])
        at = int(np.searchsorted(times, rows["time"].values[row]))
        offset = LOG_OFFSET.get(name, 0.0)
        prediction[:, column] = np.log(simulated[name][chosen[:, patient], patient, at] + offset)
        sigma[:, column] = sigmas[chosen[:, patient], ASSAYS.index(name)]
    kept = rows.isel(observation=late).rename({"observation": "row"})
    data: dict[str, Any] = {str(name): kept[name] for name in kept.data_vars}
    data |= {
        "prediction": (("sample", "row"), prediction),
        "sigma": (("sample", "row"), sigma),
        "nu": ((), DEGREES),
    }
    result = xr.Dataset(data, attrs={"cutoff_day": cutoff})
    if "H" in simulated:
        hazard = simulated["H"][:, :, int(np.searchsorted(times, RISK_DAY))]
        risk = np.array([np.nanmean(hazard[chosen[:, i], i]) for i in range(n)])
        result = result.assign(risk=(("subject",), risk)).assign_coords(subject=list(problem.patients))
    return result


def _conditional_draw(
    posterior: Posterior, coordinates: Coordinates, h: Floats, start: Floats, rng: np.random.Generator
) -> Floats:
    """Deviations given a population and the early assays: Hamiltonian trajectories from the fit's own."""
    root = coordinates.roots(h)
    density = posterior.conditional(h)
    b = start
    loglik, slope = density.likelihood(b)
    for _ in range(TRAJECTORIES):
        momentum = rng.standard_normal(b.shape)
        step = np.asarray(STEP * rng.uniform(0.3, 1.2, b.shape[0]))
        y, p, new, s = density.trajectory(b, slope, momentum, step, root, LEAPFROGS)
        taken = np.log(rng.uniform(size=b.shape[0])) < -density.energy_error((b, momentum, loglik), (y, p, new))
        b = np.where(taken[:, None], y, b)
        loglik, slope = np.where(taken, new, loglik), np.where(taken[:, None], s, slope)
    return b

"""Forecasts of what a fit did not see: each patient's late samples from the early ones, and progression.

For patient ``i`` and a cut-off day the posterior is that of everything but what the patient showed later: the draws of
the population are reweighted by 1 / p(late data of i | early data of i, population), and given a population the
patient's deviations are sampled from the assays up to the cut-off alone. Progression is withheld altogether.

The weight is log-linear in the population values, with the slope by Fisher's identity: the mean score of the patient
under all its data less that under its early data. Integrals estimated anew for each draw would be as accurate only with
thousands of simulations each; their noise used to be most of the noise of these forecasts.

A sample is taken only from somebody who has not progressed (rows after progression reflect salvage therapy, and are not
in the fit), so a sample is forecast *given that it is taken*: draws are weighted by their chance to be free of
progression on its day. A curve fitted to such samples, as Stein's, has that condition built in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from reinfuse.model.equations.bcma import EARLY

from .assays import LOG_OFFSET
from .comparison import FEWEST_TO_SMOOTH, in_threads, smoothed
from .conditional import Conditional
from .geometry import Explorer, Posterior
from .population import estimated
from .problem import Problem
from .results import DEGREES, Draws, observed, simulate_draws, thinned

type Floats = NDArray[np.float64]

CUTOFFS: Final = (14.0, 30.0, 40.0)
"""Last days that a forecast may see; each has forecasts of its own."""

HORIZONS: Final = (90.0, 180.0, 365.0)
"""Days until which progression is forecast."""

RISK_DAY: Final = 180.0
POPULATIONS: Final = 200
TRAJECTORIES: Final = 8
KEPT: Final = 4  # of them, the last ones
LEAPFROGS: Final = 6
LARGEST_STEP: Final = 1.0
LEARNING: Final = (20,) * 5  # draws of each round in which step and mass are learned
EXPLORED: Final = 120  # draws that starts and scores are taken from
FIRST_STEP: Final = 0.3
FIRST_SCALE: Final = 0.3  # of the prior's sd


@dataclass(frozen=True)
class Explored:
    """What some of the data say of each patient at one population.

    Attributes
    ----------
    deviations
        (draw, n, q).
    score
        (n, d) mean score by the population: the slope of the logarithm of the patient's integrated likelihood.
    root, step
        (n, q, q) and (n,) scales and step sizes that suit the patients.
    """

    deviations: Floats
    score: Floats
    root: Floats
    step: Floats


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


def late_rows(problem: Problem, after: float, until: float) -> xr.Dataset:
    """The assay rows after one day and up to another that belong to a patient's first infusion, as `observed` has them.

    Returns
    -------
    xarray.Dataset
        Dimension `row`.
    """
    rows = observed(problem)
    time = rows["time"].to_numpy()
    index = {name: i for i, name in enumerate(problem.patients)}
    second = _second(problem)[[index[str(name)] for name in rows["patient"].values]]
    return rows.isel(observation=np.flatnonzero((time > after) & (time <= until) & (time < second))).rename(
        observation="row"
    )


def forecast(
    problem: Problem,
    draws: Draws,
    rng: np.random.Generator,
    *,
    until: float,
    cutoffs: Sequence[float] = CUTOFFS,
    populations: int = POPULATIONS,
    cores: int = 1,
    tick: Callable[[int], None] = lambda _: None,
) -> xr.Dataset:
    """Predictions of late assay rows and of progression, each patient's own left out.

    Parameters
    ----------
    problem, draws
        Of the fit.
    until
        Rows after the latest cut-off and up to this day are predicted, the same from every cut-off.
    cutoffs
        Last days that are seen; none below day 10, when progression begins to count.
    populations
        Draws of the population to forecast from, evenly spaced over the posterior.
    cores
        Population draws at a time; does not change the result.
    tick
        Told of each population draw, once per cut-off.

    Returns
    -------
    xarray.Dataset
        As `RunFolder.write_forecast` wants it.
    """
    places = thinned(draws, populations)
    each = [place for place in places for _ in range(KEPT)]
    hyper = np.stack([draws.hyper(c, k) for c, k in places])
    centre = hyper.mean(axis=0)
    posteriors = [Posterior(problem), *(Posterior(early(problem, cutoff)) for cutoff in cutoffs)]

    def one(posterior: Posterior, stream: np.random.Generator) -> Explored:
        return explore(posterior, centre, stream)

    everything, *seen = in_threads(one, posteriors, rng.spawn(len(posteriors)), cores=cores, tick=lambda _: None)
    rows = late_rows(problem, max(cutoffs), until)
    parts, risks, frees = [], [], []
    for cutoff, posterior, known in zip(cutoffs, posteriors[1:], seen, strict=True):
        deviations = _deviations(posterior, known, hyper, rng, cores, tick)
        log_weights = np.repeat(left_out(everything.score - known.score, hyper - centre), KEPT, axis=0)
        simulated = simulated_until(problem, draws, each, deviations, rows, cutoff)
        parts.append(predicted(problem, draws, each, rows, simulated, log_weights, cutoff))
        if "H" in simulated.curves:
            risk, free = progression(problem, simulated, log_weights, cutoff)
            risks.append(risk)
            frees.append(free)
    result = xr.concat(parts, dim="row").assign(nu=((), DEGREES))
    if risks:
        result = result.assign(
            risk=(("cutoff", "subject"), np.stack(risks)), free=(("cutoff", "subject", "horizon"), np.stack(frees))
        ).assign_coords(cutoff=list(cutoffs), subject=list(problem.patients), horizon=list(HORIZONS))
    return result


def explore(posterior: Posterior, h: Floats, rng: np.random.Generator) -> Explored:
    """Deviations of all patients given one population, from nothing but the data of the posterior.

    Parameters
    ----------
    posterior
        Of a problem, or of its `early` part.
    h
        (d,) the population.
    rng
        For momenta and steps.
    """
    n, q = posterior.problem.n, posterior.q
    prior_sd = np.exp(h[posterior.log_sd])
    start = np.tile(np.diag(FIRST_SCALE * prior_sd), (n, 1, 1))
    explorer = Explorer(posterior, np.zeros((n, q)), start, np.full(n, FIRST_STEP))
    for count in LEARNING:
        explorer.learn_mass(explorer.round(h, count, rng).draws[count // 3 :], prior_sd)
    explorer.round(h, LEARNING[-1], rng)
    last = explorer.round(h, EXPLORED, rng)
    return Explored(last.draws, last.by_hyper.mean(axis=0), explorer.mass_root, np.minimum(explorer.step, LARGEST_STEP))


def left_out(slope: Floats, hyper: Floats) -> Floats:
    """Logarithms of the weights that take each patient's late data out of the population, Pareto smoothed.

    Parameters
    ----------
    slope
        (n, d) of ln p(late data | early data, population) by the population values.
    hyper
        (draw, d) population values, as differences from where the slope was taken.

    Returns
    -------
    array
        (draw, n); weights of a patient add up to 1.
    """
    loglik = hyper @ slope.T
    log_weights = -loglik
    if loglik.shape[0] >= FEWEST_TO_SMOOTH:
        for i in np.flatnonzero(np.ptp(loglik, axis=0) > 1e-6):
            log_weights[:, i] = smoothed(log_weights[:, i])[0]
    log_weights -= log_weights.max(axis=0)
    return np.asarray(log_weights - np.log(np.exp(log_weights).sum(axis=0)))


@dataclass(frozen=True)
class Simulated:
    """Read-outs (sample, n, T) of all draws at common times."""

    times: Floats
    curves: dict[str, Floats]

    def at(self, name: str, day: float) -> Floats:
        """One read-out on one day, (sample, n); the hazard counts from the first assessment on."""
        if name == "H" and day < EARLY:
            return np.zeros(self.curves[name].shape[:2])
        return self.curves[name][:, :, int(np.searchsorted(self.times, day))]


def simulated_until(
    problem: Problem,
    draws: Draws,
    places: Sequence[tuple[int, int]],
    deviations: Floats,
    rows: xr.Dataset,
    cutoff: float,
) -> Simulated:
    """Read-outs on all days that forecasts ask for, of populations at places and deviations (sample, n, q)."""
    thetas = [
        draws.design.theta(draws.population[c, k], draws.effect[c, k], b)
        for (c, k), b in zip(places, deviations, strict=True)
    ]
    times = np.unique(np.concatenate([rows["time"].to_numpy(), HORIZONS, [cutoff]]))
    return Simulated(times, simulate_draws(problem, np.stack(thetas), times))


def predicted(
    problem: Problem,
    draws: Draws,
    places: Sequence[tuple[int, int]],
    rows: xr.Dataset,
    simulated: Simulated,
    log_weights: Floats,
    cutoff: float,
) -> xr.Dataset:
    """The rows as seen from one cut-off, given that each is taken; arguments as in `simulated_until`."""
    index = {name: i for i, name in enumerate(problem.patients)}
    labels = estimated(problem)
    population = np.stack([draws.population[c, k] for c, k in places])
    shape = log_weights.shape[0], rows.sizes["row"]
    prediction, sigma, weight = np.empty(shape), np.empty(shape), np.empty(shape)
    for row in range(shape[1]):
        name, day = str(rows["dvid"].values[row]), float(rows["time"].values[row])
        patient = index[str(rows["patient"].values[row])]
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.log(simulated.at(name, day)[:, patient] + LOG_OFFSET.get(name, 0.0))
        weight[:, row] = log_weights[:, patient]
        if "H" in simulated.curves:
            weight[:, row] -= simulated.at("H", day)[:, patient]
        solved = np.isfinite(value) & np.isfinite(weight[:, row])
        prediction[:, row], weight[:, row] = np.where(solved, value, 0.0), np.where(solved, weight[:, row], -np.inf)
        sigma[:, row] = np.exp(population[:, labels.index(f"sigma_{name}")])
    data: dict[str, Any] = {str(name): rows[name] for name in rows.data_vars}
    data |= {name: (("sample", "row"), x) for name, x in (("prediction", prediction), ("sigma", sigma))}
    data["log_weight"] = (("sample", "row"), weight)
    data["cutoff_day"] = ("row", np.full(shape[1], cutoff))
    return xr.Dataset(data)


def progression(problem: Problem, simulated: Simulated, log_weights: Floats, cutoff: float) -> tuple[Floats, Floats]:
    """Mean cumulative hazard by `RISK_DAY`, (n,), and the chance of being free at each horizon if so at the cut-off."""
    weights = np.exp(log_weights)
    until_now = simulated.at("H", cutoff)
    known = np.isfinite(until_now)
    for day in HORIZONS:
        known &= np.isfinite(simulated.at("H", day))
    weights = np.where(known, weights, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        risk = np.where(known, weights * simulated.at("H", RISK_DAY), 0.0).sum(axis=0) / weights.sum(axis=0)
        still = np.where(known, weights * np.exp(-until_now), 0.0).sum(axis=0)
        free = np.stack(
            [np.where(known, weights * np.exp(-simulated.at("H", day)), 0.0).sum(axis=0) / still for day in HORIZONS],
            axis=-1,
        )
    second = _second(problem)[:, None]
    return risk, np.where(second > np.array(HORIZONS), free, np.nan)


def _second(problem: Problem) -> Floats:
    """Day of each patient's second infusion, (n,); far away without one."""
    column = problem.column("day_2") if problem.slots > 1 else None
    return np.full(problem.n, np.inf) if column is None else problem.base[:, column]


def _deviations(
    posterior: Posterior,
    known: Explored,
    hyper: Floats,
    rng: np.random.Generator,
    cores: int,
    tick: Callable[[int], None],
) -> Floats:
    """Deviations (draw * KEPT, n, q) given each population and the data of the posterior."""
    starts = known.deviations[rng.integers(len(known.deviations), size=len(hyper))]

    def one(h: Floats, start: Floats, stream: np.random.Generator) -> Floats:
        return conditional_draws(posterior.conditional(h), known.root, known.step, start, stream)

    found = in_threads(one, list(hyper), list(starts), rng.spawn(len(hyper)), cores=cores, tick=tick)
    return np.concatenate(found)


def conditional_draws(
    density: Conditional, root: Floats, step: Floats, start: Floats, rng: np.random.Generator
) -> Floats:
    """Deviations (KEPT, n, q) given a population: the ends of Hamiltonian trajectories."""
    b = start
    loglik, slope = density.likelihood(b)
    kept = np.empty((KEPT, *b.shape))
    for trajectory in range(TRAJECTORIES):
        momentum = rng.standard_normal(b.shape)
        length = np.asarray(step * rng.uniform(0.5, 1.1, b.shape[0]))
        y, p, new, s = density.trajectory(b, slope, momentum, length, root, LEAPFROGS)
        taken = np.log(rng.uniform(size=b.shape[0])) < -density.energy_error((b, momentum, loglik), (y, p, new))
        b = np.where(taken[:, None], y, b)
        loglik, slope = np.where(taken, new, loglik), np.where(taken[:, None], s, slope)
        kept[trajectory - (TRAJECTORIES - KEPT)] = b  # the first ones are written over
    return kept

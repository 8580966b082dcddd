"""The posterior of a new patient given a run, the uncertainty of its population carried.

Let ``D`` be the run's cohort, ``h`` the population, ``b`` the deviations of the new patient and ``y`` its data. Then

    p(h, b | D, y)  is proportional to  p(h | D) p(b | h) p(y | h, b).

The run's draws are ``h_s ~ p(h | D)``. For each of them deviations ``b_sk ~ g_s`` are proposed, with the weights

    w_sk = p(y | h_s, b_sk) p(b_sk | h_s) / g_s(b_sk),      W_s = mean_k w_sk,      E[W_s] = p(y | h_s).

One of the ``b_sk`` is kept, chosen with chances ``w_sk``, and the pair ``(h_s, b_s)`` counts with the weight ``W_s``:
for any f, E[W_s f(h_s, b_s)] is the integral of f p(h | D) p(b | h) p(y | h, b), whatever the proposal. So the
patient's data weigh the population, and they do so once. A proposal that misses part of where the deviations may be
shows as noise in ``W_s`` (two halves, `comparison.in_halves`) and as few effective draws.

Where the run has seen this patient already, with data ``y0``, its population knows them: ``p(h | D)`` is then divided
by ``p(y0 | h)``, estimated in the same way, and with ``y = y0`` nothing is left to weigh. That is also how a patient of
the run is forecast by the others.

The proposals are those of `comparison`, learnt from draws of this patient's deviations (`proposals`); those draws are
moved by the compiled trajectories of `conditional`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from ..comparison import (
    FEWEST_TO_SMOOTH,
    FURTHER,
    NOISY,
    floored,
    good_shape,
    in_halves,
    in_threads,
    proposed,
    smoothed,
)
from ..conditional import Conditional, KernelConditional
from ..coordinates import Coordinates
from ..geometry import Posterior
from ..holdout import KEPT, Explored, conditional_draws, explore
from ..problem import Problem, several
from ..proposals import Mixture, centres, learnt
from ..results import Draws, layout, thinned
from .patient import NewPatient

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]

POPULATION_DRAWS: Final = 1600
DEVIATION_DRAWS: Final = 64  # proposed for each of them, in two halves
TAUGHT_BY: Final = 320  # draws of the population
EXPLORERS: Final = 8  # of the deviations, at the population's mean: as many as the kernel has lanes
TOGETHER: Final = 200  # draws of the population in one call; fixed, so that cores do not change the result
ENOUGH: Final = 400.0  # effective draws


@dataclass(frozen=True, eq=False)
class PatientPosterior:
    """Weighted draws of a population and of one patient's deviations.

    Attributes
    ----------
    patient : NewPatient
    hyper : ndarray (S, d)
        Population vectors, in the order of `geometry.Posterior`.
    place : ndarray (S,)
        Which draw of the run each is, chains one after the other.
    deviation : ndarray (S, q)
        The patient's.
    log_weight : ndarray (S,)
        Logarithms of weights that add up to 1.
    pareto_k : float
        Shape of the tail of the weights; NaN where they are all the same or too few.
    error : float
        Relative Monte Carlo sd of one weight, from the integrals over the deviations.
    """

    patient: NewPatient
    hyper: Floats
    place: Integers
    deviation: Floats
    log_weight: Floats
    pareto_k: float
    error: float

    @property
    def weight(self) -> Floats:
        """Weights (S,), adding up to 1."""
        return np.asarray(np.exp(self.log_weight))

    @property
    def effective(self) -> float:
        """Effective number of draws: 1 / sum of squared weights."""
        return float(1.0 / (self.weight**2).sum())

    @property
    def doubts(self) -> list[str]:
        """Why these draws should not be trusted; empty if they may be."""
        said = []
        if not self.effective >= ENOUGH:
            few, unlike = "the run has few draws; fit with more --draws", "the patient is unlike the run's population"
            why = few if self.weight.size < ENOUGH else f"{unlike}; fit again with this patient in the cohort"
            said.append(
                f"the forecast rests on {self.effective:.0f} effective draws of {self.weight.size}, fewer than "
                f"{ENOUGH:.0f}: {why}"
            )
        if self.pareto_k > good_shape(self.weight.size):
            said.append(
                f"few draws of the population carry the patient's weight (Pareto k {self.pareto_k:.2f}, good up to "
                f"{good_shape(self.weight.size):.2f}). Fit again with this patient in the cohort"
            )
        return said

    @property
    def theta(self) -> Floats:
        """Individual parameters (S, columns), natural scale."""
        posterior = Posterior(self.patient.problem)
        made = posterior.design
        x = made.offset[0] + self.hyper @ posterior.by_hyper[0].T + self.deviation @ made.by_deviation[0].T
        return made.back(x)

    def equal(self, count: int, rng: np.random.Generator) -> Integers:
        """Places of draws that count the same (systematic resampling), in random order."""
        steps = (rng.uniform() + np.arange(count)) / count
        places = np.searchsorted(np.cumsum(self.weight), steps).clip(max=self.weight.size - 1)
        return np.asarray(rng.permutation(places), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Integral:
    """One patient's data at every draw of the population.

    Attributes
    ----------
    deviation : ndarray (S, q)
        A draw of the deviations given each population and the data.
    loglik : ndarray (S,)
        Of the data given each population, deviations integrated out.
    variance : ndarray (S,)
        Relative variance of each integral.
    """

    deviation: Floats
    loglik: Floats
    variance: Floats


def posterior_of(
    patient: NewPatient,
    draws: Draws,
    rng: np.random.Generator,
    *,
    populations: int = POPULATION_DRAWS,
    cores: int = 1,
    tick: Callable[[float], None] = lambda _: None,
) -> PatientPosterior:
    """Sample a patient's posterior.

    Parameters
    ----------
    patient
        Posed in the terms of the run.
    draws
        Of the run.
    rng
        Every random number comes from it.
    populations
        Draws of the population, evenly spaced over the run's; all of them if it has fewer.
    cores
        Threads; they do not change the result.
    tick
        Told of the share of the work that was done.
    """
    place, hyper = populations_of(draws, populations)
    seen = None if patient.alike else patient.known
    share = 1.0 if seen is None else 0.5
    now = integral_of(patient.problem, hyper, rng, cores=cores, tick=lambda x: tick(share * x))
    before = None
    if seen is not None:
        before = integral_of(seen, hyper, rng, cores=cores, tick=lambda x: tick(share * x))
    return weighed(patient, place, hyper, now, before)


def populations_of(draws: Draws, count: int = POPULATION_DRAWS) -> tuple[Integers, Floats]:
    """Places (S,) of draws evenly spaced over a run's, chains one after the other, and their populations (S, d)."""
    places = thinned(draws, count)
    length = draws.population.shape[1]
    hyper = np.stack([draws.hyper(c, k) for c, k in places])
    return np.array([c * length + k for c, k in places], dtype=np.int64), hyper


def weighed(
    patient: NewPatient, place: Integers, hyper: Floats, now: Integral, before: Integral | None
) -> PatientPosterior:
    """Weigh the populations by what they say of a patient.

    Parameters
    ----------
    patient
        Posed in the terms of the run.
    place, hyper
        From `populations_of`.
    now
        Of the patient's rows.
    before
        Of the rows that the run has seen; not needed where these are the same, or none.
    """
    log_weight, noise = now.loglik, now.variance
    if patient.alike:
        log_weight, noise = np.zeros_like(now.loglik), np.zeros_like(now.variance)
    elif before is not None:
        log_weight = now.loglik - floored(before.loglik[:, None])[0][:, 0]
        noise = now.variance + before.variance
    log_weight, shape = _normalised(log_weight)
    return PatientPosterior(
        patient=patient,
        hyper=hyper,
        place=place,
        deviation=now.deviation,
        log_weight=log_weight,
        pareto_k=shape,
        error=float(np.sqrt(noise.mean())),
    )


def _normalised(log_weight: Floats) -> tuple[Floats, float]:
    """Weights that add up to 1, their tail smoothed, and its shape."""
    finite = floored(log_weight[:, None])[0][:, 0]
    if log_weight.size < FEWEST_TO_SMOOTH or np.ptp(finite) < 1e-9:
        return np.asarray(log_weight - logsumexp(log_weight)), float("nan")
    found, shape = smoothed(finite)
    found = np.where(np.isfinite(log_weight), found, -np.inf)
    return np.asarray(found - logsumexp(found)), shape


# ------------------------------------------------------------------------------------- one patient's data


def integral_of(
    problem: Problem,
    hyper: Floats,
    rng: np.random.Generator,
    *,
    cores: int = 1,
    tick: Callable[[float], None] = lambda _: None,
) -> Integral:
    """Integrate one patient's deviations out at every population, and keep a draw of them.

    Parameters
    ----------
    problem
        Of one patient.
    hyper
        (S, d) populations.
    rng, cores, tick
        As in `posterior_of`.
    """
    h, b = _teaching_draws(problem, hyper, rng)
    tick(0.3)
    found = _learnt(problem, hyper, h, b, DEVIATION_DRAWS, rng, cores)
    tick(0.35)
    if not found.variance.mean() <= NOISY:
        # the draws kept so far teach the next proposals: they are nearer to the posterior than what taught the first
        kept = rng.choice(len(hyper), size=len(hyper), p=np.exp(_normalised(found.loglik)[0]))
        h, b = np.concatenate([h, hyper[kept]]), np.concatenate([b, found.deviation[kept]])
        found = _learnt(problem, hyper, h, b, FURTHER * DEVIATION_DRAWS, rng, cores)
    tick(0.35)
    return found


def _learnt(
    problem: Problem, hyper: Floats, h: Floats, b: Floats, count: int, rng: np.random.Generator, cores: int
) -> Integral:
    """Importance sampling, proposals learnt from populations (draws, d) and deviations (draws, q)."""
    coordinates = learnt(layout(problem), h, b[:, None])
    mixture = Mixture.learn(coordinates, h, b[:, None], rng)
    return _proposed(problem, hyper, coordinates, mixture, count, rng, cores)


def at_populations(problem: Problem, hyper: Floats) -> Conditional:
    """One patient many times, each time given a population of its own.

    Deviations are in units of their sds, which differ between populations.

    Parameters
    ----------
    problem
        Of one patient.
    hyper
        (m, d) populations.
    """
    posterior = Posterior(several(problem, np.zeros(len(hyper), dtype=np.int64)))
    made, sd = posterior.design, np.exp(hyper[:, posterior.log_sd])
    offset = made.offset + np.einsum("mcd,md->mc", posterior.by_hyper, hyper)
    scaled = np.ascontiguousarray(made.by_deviation * sd[:, None, :])
    return KernelConditional(
        posterior.problem, offset, scaled, made.log, made.logit, np.zeros(posterior.q), None, posterior.outcomes
    )


def _teaching_draws(problem: Problem, hyper: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Populations (draws, d) and deviations given each of them (draws, q): Hamiltonian trajectories."""
    centre = hyper.mean(axis=0)
    found = explore(Posterior(several(problem, np.zeros(EXPLORERS, dtype=np.int64))), centre, rng)
    some = hyper[np.linspace(0, len(hyper) - 1, min(TAUGHT_BY, len(hyper))).astype(int)]
    start, root, step = _launch(found, np.exp(centre[Posterior(problem).log_sd]), len(some), rng)
    kept = conditional_draws(at_populations(problem, some), root, step, start, rng)
    sd = np.exp(some[:, Posterior(problem).log_sd])
    return np.tile(some, (KEPT, 1)), np.concatenate(kept * sd)


def _launch(found: Explored, sd: Floats, count: int, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Where trajectories begin (count, q), their scales and step sizes, in units of the deviations' sds."""
    explored = found.deviations.reshape(-1, sd.size) / sd
    start = explored[rng.integers(len(explored), size=count)]
    away = explored - explored.mean(axis=0)
    covariance = away.T @ away / len(explored) + 1e-6 * np.eye(sd.size)
    root = np.tile(np.linalg.cholesky(covariance), (count, 1, 1))
    return start, root, np.full(count, float(np.median(found.step)))


def _proposed(
    problem: Problem,
    hyper: Floats,
    coordinates: Coordinates,
    mixture: Mixture,
    count: int,
    rng: np.random.Generator,
    cores: int,
) -> Integral:
    """Importance sampling of the deviations at every population: see the module's text."""
    log_sd = coordinates.layout.log_sd

    def one(h: Floats, stream: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        sd = np.exp(h[:, log_sd])
        sites = [centres(coordinates, each) for each in h]
        mean = np.concatenate([site[0] for site in sites]) / sd
        root = np.concatenate([site[1] for site in sites]) / sd[:, :, None]
        same = mixture.of(np.zeros(len(h), dtype=np.int64))
        found, weights = proposed(at_populations(problem, h), mean, root, same, stream, count)
        loglik, variance = in_halves(weights)
        flat = weights.reshape(-1, len(h))
        # Gumbel's maximum: one draw with chances in proportion to the weights
        chosen = np.argmax(flat + stream.gumbel(size=flat.shape), axis=0)
        return found.reshape(len(flat), len(h), -1)[chosen, np.arange(len(h))] * sd, loglik, variance

    parts = [hyper[low : low + TOGETHER] for low in range(0, len(hyper), TOGETHER)]
    done = in_threads(one, parts, rng.spawn(len(parts)), cores=cores, tick=lambda _: None)
    deviation, loglik, variance = (np.concatenate(part) for part in zip(*done, strict=True))
    return Integral(deviation, loglik, variance)

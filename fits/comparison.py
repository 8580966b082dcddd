"""How well each patient is predicted by the others: leave-one-patient-out, with its own effects integrated out.

The likelihood of a whole patient given the population, integrated over the patient's deviations, is what a new patient
would be judged by. It is estimated by importance sampling from a mixture that the patient's own draws have taught
(`proposals`), at randomised quasi-random points, in two independent halves: their difference tells the error. Leaving a
patient out is then Pareto-smoothed importance sampling over the draws of the population (arviz-stats).
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from arviz_stats.base import array_stats
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import qmc

from .conditional import Conditional
from .coordinates import Coordinates
from .geometry import Posterior
from .proposals import Mixture, centres, pairs
from .results import Draws, thinned

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]

POPULATION_DRAWS: Final = 400
DEVIATION_DRAWS: Final = 32  # of each integral, in two halves
NOISY: Final = 0.05  # relative variance of an integral from which a patient gets further draws
FURTHER: Final = 4  # times as many
LEAST: Final = -1e3  # log-likelihood of a patient for whom every integral failed
FEWEST_TO_SMOOTH: Final = 25  # draws: the tail that is smoothed is then five
TINY: Final = 1e-12  # uniform numbers keep so far from 0 and 1
GOOD_SHAPE: Final = 0.7  # Pareto k up to which weights of many draws are trusted


def good_shape(draws: int) -> float:
    """Pareto k up to which weights of so many draws are trusted (Vehtari, Simpson, Gelman, Yao & Gabry 2024)."""
    return min(1.0 - 1.0 / np.log10(draws), GOOD_SHAPE) if draws > 10 else 0.0


@dataclass(frozen=True)
class Integrals:
    """Log-likelihoods of patients given the population, deviations integrated out, with their own error.

    Attributes
    ----------
    loglik
        (draws, n).
    variance
        (draws, n) relative variance of each integral, from its two halves: unbiased, but with one degree of freedom, so
        to be averaged over draws.
    """

    loglik: Floats
    variance: Floats

    @property
    def error(self) -> Floats:
        """Monte Carlo sd of one log-likelihood of each patient, (n,)."""
        return np.asarray(np.sqrt(self.variance.mean(axis=0)))


@dataclass(frozen=True)
class LeftOut:
    """What is known of patients left out, each (n,).

    Attributes
    ----------
    elpd
        Expected log predictive density: of the patient given all others.
    pareto_k
        Shape of the weights' tail; NaN where draws are too few to judge it, infinite where an integral failed.
    mcse
        Monte Carlo standard error of ``elpd``, from draws of the population and of the deviations alike.
    lpd
        Log predictive density given everyone, the patient too; less ``elpd``, it is the effective number of parameters.
    """

    elpd: Floats
    pareto_k: Floats
    mcse: Floats
    lpd: Floats


def integrated_loglik(
    posterior: Posterior,
    coordinates: Coordinates,
    draws: Draws,
    rng: np.random.Generator,
    tick: Callable[[int], None] = lambda _: None,
    *,
    cores: int = 1,
) -> Floats:
    """Log-likelihood of each patient given the population, deviations integrated out, (draws, n)."""
    return integrals(posterior, coordinates, draws, rng, tick, cores=cores).loglik


def integrals(
    posterior: Posterior,
    coordinates: Coordinates,
    draws: Draws,
    rng: np.random.Generator,
    tick: Callable[[int], None] = lambda _: None,
    *,
    cores: int = 1,
) -> Integrals:
    """The same with its error.

    Parameters
    ----------
    posterior, coordinates, draws
        Of a fit; the coordinates are those it was sampled in, or `proposals.coordinates_of` it.
    rng
        Of the quasi-random points.
    tick
        Told of each population draw.
    cores
        Population draws at a time; does not change the result.

    Returns
    -------
    Integrals
        At `POPULATION_DRAWS` draws, evenly spaced over the posterior; patients whose integrals are noisier than `NOISY`
        have had `FURTHER` times the draws.
    """
    mixture = Mixture.learn(coordinates, *pairs(draws), rng)
    populations = [draws.hyper(c, k) for c, k in thinned(draws, POPULATION_DRAWS)]

    def one(h: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
        return integrate(posterior.conditional(h), coordinates, mixture, h, rng, DEVIATION_DRAWS)

    found = in_threads(one, populations, rng.spawn(len(populations)), cores=cores, tick=tick)
    loglik, variance = (np.stack(part) for part in zip(*found, strict=True))
    noisy = np.flatnonzero(~(variance.mean(axis=0) <= NOISY) & np.isfinite(loglik).any(axis=0)).astype(np.int64)
    if noisy.size == 0:
        return Integrals(loglik, variance)

    def again(h: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
        return integrate(posterior.conditional(h, noisy), coordinates, mixture, h, rng, FURTHER * DEVIATION_DRAWS)

    found = in_threads(again, populations, rng.spawn(len(populations)), cores=cores, tick=lambda _: None)
    for part, values in zip((loglik, variance), zip(*found, strict=True), strict=True):
        part[:, noisy] = np.stack(values)[:, noisy]
    return Integrals(loglik, variance)


def in_threads[T](
    task: Callable[..., T], *arguments: Iterable[Any], cores: int, tick: Callable[[int], None]
) -> list[T]:
    """``task`` of each tuple of arguments, in order."""
    results = []
    with ThreadPoolExecutor(max_workers=max(1, cores)) as pool:
        for result in pool.map(task, *arguments):
            results.append(result)
            tick(1)
    return results


def integrate(
    density: Conditional,
    coordinates: Coordinates,
    mixture: Mixture,
    h: Floats,
    rng: np.random.Generator,
    count: int,
) -> tuple[Floats, Floats]:
    """Importance sampling of every patient's integral at one population.

    Parameters
    ----------
    density
        The patients given the population.
    coordinates, mixture
        To propose deviations from.
    h
        The population.
    rng
        Shifts the points.
    count
        Draws, in two halves: an even power of two uses the points best.

    Returns
    -------
    loglik, variance
        (n,) each: minus infinity where every draw failed, and the relative variance of the integral.
    """
    _, weights = proposed(density, *centres(coordinates, h), mixture, rng, count)
    return in_halves(weights)


def proposed(
    density: Conditional, mean: Floats, root: Floats, mixture: Mixture, rng: np.random.Generator, count: int
) -> tuple[Floats, Floats]:
    """Deviations proposed for every patient, and their importance weights.

    Parameters
    ----------
    density
        The patients given the population.
    mean, root
        (n, q) and (n, q, q) centres and scales that the mixture is relative to.
    mixture
        To propose from.
    rng
        Shifts the points, anew for each half.
    count
        Draws, in two halves: an even power of two uses the points best.

    Returns
    -------
    deviations, log_weights
        (2, count / 2, n, q) and (2, count / 2, n): likelihood times prior over the density of the proposal, whose mean
        is the patient's integral; minus infinity where the model could not be solved.
    """
    n, q = mean.shape
    sequence = points(mixture.inputs, count // 2)
    constant = np.linalg.slogdet(root)[1] - 0.5 * q * np.log(2.0 * np.pi)
    deviations, weights = np.empty((2, len(sequence), n, q)), np.empty((2, len(sequence), n))
    for half in range(2):
        shift = rng.uniform(size=(n, mixture.inputs))
        z = np.stack([mixture.draw(np.clip((point + shift) % 1.0, TINY, 1.0 - TINY)) for point in sequence])
        weights[half] = constant - mixture.log_density(z)
        for s, one in enumerate(z):
            b = deviations[half, s] = mean + np.einsum("nqr,nr->nq", root, one)
            # `value` leaves out the constant of the normal prior
            weights[half, s] += density.value(b, density.loglik(b))
    return deviations, np.where(np.isnan(weights), -np.inf, weights)


def in_halves(log_weights: Floats) -> tuple[Floats, Floats]:
    """Logarithms of integrals (n,), and their relative variances, from the weights (2, draws, n) of two halves."""
    halves = logsumexp(log_weights, axis=1) - np.log(log_weights.shape[1])
    loglik = np.logaddexp(halves[0], halves[1]) - np.log(2.0)
    with np.errstate(invalid="ignore"):
        difference = np.tanh(0.5 * (halves[0] - halves[1]))  # of the halves, relative to their sum
    return loglik, np.where(np.isfinite(loglik), np.nan_to_num(difference) ** 2, 0.0)


@cache
def points(inputs: int, count: int) -> Floats:
    """Points of Sobol's sequence, scrambled once and for all: (count, inputs); who uses them shifts them at random."""
    return np.asarray(qmc.Sobol(inputs, scramble=True, rng=np.random.default_rng(0)).random(max(count, 1)))


def floored(loglik: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Integrals (draws, n) with those that failed (minus infinity) at the patient's worst, and who has such, (n,)."""
    failed = ~np.isfinite(loglik)
    worst = np.where(failed, np.inf, loglik).min(axis=0)
    return np.where(failed, np.where(np.isfinite(worst), worst, LEAST), loglik), failed.any(axis=0)


def smoothed(log_weights: Floats) -> tuple[Floats, float]:
    """Logarithms of weights (draws,) with their tail Pareto smoothed, adding up to 1, and the tail's shape."""
    found: Any = array_stats.psislw(-log_weights)  # takes log-likelihoods, gives inverse weights
    return np.asarray(found[0]), float(found[1])


def leave_one_out(loglik: Floats, variance: Floats | None = None) -> LeftOut:
    """Leave every patient out by importance weights.

    Parameters
    ----------
    loglik
        (draws, n) of each patient given the population, at draws of the posterior.
    variance
        (draws, n) relative variance of the integrals, where they are estimates: an unbiased estimate of a likelihood
        makes the mean of its inverse, which is what leaving out takes, too large by that share.

    Returns
    -------
    LeftOut
    """
    loglik, failed = floored(loglik)
    count = loglik.shape[0]
    lpd = logsumexp(loglik, axis=0) - np.log(count)
    if variance is not None:
        loglik = loglik + np.log1p(np.asarray(variance).mean(axis=0))
    smooth = count >= FEWEST_TO_SMOOTH
    log_weights = -loglik - logsumexp(-loglik, axis=0)  # inverse-likelihood weights as they are
    pareto = np.where(failed, np.inf, np.nan)
    for i in np.flatnonzero(~failed & smooth & (np.ptp(loglik, axis=0) > 0)):
        log_weights[:, i], pareto[i] = smoothed(-loglik[:, i])
    elpd = logsumexp(log_weights + loglik, axis=0)
    apart = np.exp(log_weights) * np.expm1(np.clip(loglik - elpd, -700.0, 700.0))
    return LeftOut(elpd, pareto, np.sqrt((apart**2).sum(axis=0)), lpd)

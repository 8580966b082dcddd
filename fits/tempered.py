"""Deviations of every patient given a population, with all their modes: particles from the prior to the posterior.

Tempered sequential Monte Carlo (Del Moral, Doucet & Jasra 2006): particles start as draws from the prior, and the
likelihood is let in by degrees, each patient's own (Jasra and others 2011), so that half of the particles count at each
step. Those are drawn again and moved by differences of others (ter Braak & Vrugt 2008), which need neither slopes nor a
smooth path. A search that climbs from one start finds one mode; this finds them about in proportion to their mass: all
particles move at once by the places of all, which would leave their distribution as it is only if each moved in turn.
That is enough for starts and sites; nothing drawn here counts as a draw of the posterior.
"""

from typing import Final

import numpy as np

from .conditional import Conditional, Floats, Integers

PARTICLES: Final = 128  # of each patient
MOVES: Final = 3  # of every particle at each step
COUNTING: Final = 0.5  # share of the particles that count after a step
MOST_STEPS: Final = 60
BISECTIONS: Final = 30
WHOLE: Final = 0.25  # share of moves that take a whole difference: from mode to mode
NOISE: Final = 1e-3  # added to moves, in prior sds
LEAST: Final = -1e300  # log weight of a patient none of whose particles counts
TINY: Final = 1e-300


def particles(density: Conditional, sd: Floats, rng: np.random.Generator, count: int = PARTICLES) -> Floats:
    """Draws of every patient's deviations.

    Parameters
    ----------
    density
        Every patient given the population.
    sd
        (q,) of the prior.
    rng
        For all draws.
    count
        Of particles per patient.

    Returns
    -------
    ndarray
        (count, n, q): of a patient whose likelihood was 0 at all draws of the prior, draws of the prior; of one who
        needs more than `MOST_STEPS`, draws of what is between prior and posterior.
    """
    n, q = density.n, sd.size
    who = np.repeat(np.arange(n), count)
    b = sd * rng.standard_normal((n, count, q))
    loglik = _known(density.logliks(b.reshape(-1, q), who).reshape(n, count))
    heat = np.where(np.isfinite(loglik).any(axis=1), 0.0, 1.0)  # power of the likelihood that is let in
    for _ in range(MOST_STEPS):
        if (heat == 1.0).all():
            break
        heat, weights = _hotter(heat, loglik)
        chosen = _drawn_again(weights, rng)
        b, loglik = np.take_along_axis(b, chosen[:, :, None], axis=1), np.take_along_axis(loglik, chosen, axis=1)
        for _ in range(MOVES):
            b, loglik = _moved(density, who, b, loglik, heat, sd, rng)
    return b.transpose(1, 0, 2)


def _known(loglik: Floats) -> Floats:
    return np.where(np.isnan(loglik), -np.inf, loglik)


def _hotter(heat: Floats, loglik: Floats) -> tuple[Floats, Floats]:
    """The next power of each patient's likelihood (n,), and the weights (n, count) for going there, 1 at most."""

    def weights(to: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            log = np.where(np.isfinite(loglik), (to - heat)[:, None] * loglik, -np.inf)
        return np.exp(log - np.maximum(log.max(axis=1, keepdims=True), LEAST))

    def counting(to: Floats) -> Floats:
        found = weights(to)
        return found.sum(axis=1) ** 2 / np.maximum((found**2).sum(axis=1), TINY)

    wanted = COUNTING * np.isfinite(loglik).sum(axis=1)
    low, high = heat, np.ones_like(heat)
    low = np.where(counting(high) >= wanted, high, low)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        enough = counting(middle) >= wanted
        low, high = np.where(enough, middle, low), np.where(enough, high, middle)
    return low, weights(low)


def _drawn_again(weights: Floats, rng: np.random.Generator) -> Integers:
    """Systematic resampling: places (n, count)."""
    n, count = weights.shape
    share = np.cumsum(weights, axis=1)
    points = (np.arange(count) + rng.uniform(size=(n, 1))) / count * share[:, -1:]
    below = (points[:, :, None] >= share[:, None, :]).sum(axis=2)
    return np.asarray(np.minimum(below, count - 1), dtype=np.int64)


def _moved(
    density: Conditional, who: Integers, b: Floats, loglik: Floats, heat: Floats, sd: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """A Metropolis step of every particle along a difference of two others of the same patient."""
    n, count, q = b.shape
    first, second = (rng.integers(1, count, size=(n, count)) for _ in range(2))
    place = np.arange(count)
    one, two = (np.take_along_axis(b, ((place + shift) % count)[:, :, None], axis=1) for shift in (first, second))
    length = np.where(rng.uniform(size=(n, count)) < WHOLE, 1.0, 2.38 / np.sqrt(2.0 * q) * rng.uniform(0.3, 1.0))
    proposal = b + length[:, :, None] * (one - two) + NOISE * sd * rng.standard_normal(b.shape)
    new = _known(density.logliks(proposal.reshape(-1, q), who).reshape(n, count))
    with np.errstate(invalid="ignore"):
        gain = heat[:, None] * (new - loglik) - 0.5 * ((proposal / sd) ** 2 - (b / sd) ** 2).sum(axis=2)
    taken = np.log(rng.uniform(size=(n, count))) < gain
    return np.where(taken[:, :, None], proposal, b), np.where(taken, new, loglik)

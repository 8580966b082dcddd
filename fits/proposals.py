"""Where each patient's deviations lie given a population: densities to propose from, learnt from a fit's own draws.

Two steps. *Sites*: the regression of a patient's deviations on the population values, and the precision that the data
add to the prior's, make Gaussian sites as `coordinates` has them; given a population they become a centre and a scale,
in which the patient's deviations are ``z``. *Mixture*: whatever the patient's ``z`` still are, one-sided or in two
modes, is met by a mixture of Gaussians fitted to them, proposed from with the tails of Student's t.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, gammaln, logsumexp, ndtri

from .coordinates import Coordinates, Layout, Sites
from .geometry import Posterior
from .results import Draws, layout, thinned

type Floats = NDArray[np.float64]

DEGREES: Final = 10.0  # of freedom of the proposals' tails; the wide ones guard the far ones
WIDER: Final = 1.05
COMPONENTS: Final = 4
WIDE_SHARE: Final = 0.1  # of proposals that are drawn wide around the site, whatever the draws look like
WIDE: Final = 1.6
ROUNDS: Final = 20  # of expectation and maximisation
LEARNT_FROM: Final = 2000  # draws at most: sites
MIXED_FROM: Final = 800  # the same: mixtures
FEWEST: Final = 100  # draws from which a mixture is learnt; below, the sites alone must do
RIDGE: Final = 5.0  # draws' worth of prior for no response to the population
SITE_FLOOR: Final = 1e-2  # smallest precision that the data add in a site, in units of the prior's


def pairs(draws: Draws, count: int = LEARNT_FROM) -> tuple[Floats, Floats]:
    """Population vectors (draws, d) and deviations (draws, n, q) of draws spread over a posterior."""
    return draws.hypers(count), np.stack([draws.deviation[c, k] for c, k in thinned(draws, count)])


def coordinates_of(posterior: Posterior, draws: Draws) -> Coordinates:
    """Coordinates learnt from draws: their mean and covariance, and sites by regression.

    They serve as those of `geometry.prepare` do, but a run folder is enough to make them.
    """
    h, b = pairs(draws)
    return learnt(layout(posterior.problem), h, b)


def learnt(lay: Layout, h: Floats, b: Floats) -> Coordinates:
    """Coordinates from population vectors (draws, d) and deviations (draws, n, q)."""
    count, d = h.shape
    _, n, q = b.shape
    centre = h.mean(axis=0)
    away = h - centre
    spread = np.maximum(h.std(axis=0), 1e-9)
    shared = np.setdiff1d(np.arange(d), np.unique(lay.log_sd))  # spreads act through the prior's precision itself
    x = away[:, shared] / spread[shared]
    mean = b.mean(axis=0)
    inner = x.T @ x + RIDGE * np.eye(shared.size)
    slope = np.linalg.solve(inner, np.einsum("ds,dnq->snq", x, b - mean).reshape(shared.size, n * q))
    left = b - mean - (x @ slope).reshape(count, n, q)
    prior = np.exp(-2.0 * centre[lay.log_sd])
    precision = _added(left, prior)
    total = precision + np.diag(prior)
    response = np.zeros((n, q, d))
    response[:, :, shared] = slope.reshape(shared.size, n, q).transpose(1, 2, 0) / spread[shared]
    covariance = away.T @ away / max(count - 1, 1) + np.diag(1e-3 * spread**2)
    sites = Sites(precision, np.einsum("nqr,nr->nq", total, mean), -total @ response)
    return Coordinates(lay, centre, np.linalg.cholesky(covariance), sites)


def _added(left: Floats, prior: Floats) -> Floats:
    """Precision (n, q, q) that data add to a prior's (q,), from deviations about their regression (draws, n, q)."""
    count, _, q = left.shape
    root = np.sqrt(prior)
    scaled = np.einsum("snq,snr->nqr", left, left) / max(count - 1, 1) * root[:, None] * root[None, :]
    weight = count / (count + 2.0 * q)
    shrunk = weight * scaled + (1.0 - weight) * np.eye(q)
    values, vectors = np.linalg.eigh(np.linalg.inv(shrunk + 1e-9 * np.eye(q)) - np.eye(q))
    added = (vectors * np.maximum(values, SITE_FLOOR)[:, None, :]) @ vectors.transpose(0, 2, 1)
    return np.asarray(added * root[:, None] * root[None, :])


def centres(coordinates: Coordinates, h: Floats) -> tuple[Floats, Floats]:
    """Centre (n, q) and scale (n, q, q) of every patient's deviations at a population."""
    sites = coordinates.sites
    total = sites.precision + np.diag(np.exp(-2.0 * h[coordinates.layout.log_sd]))
    shifted = sites.linear - np.einsum("nqd,d->nq", sites.cross, h - coordinates.centre)
    mean = np.linalg.solve(total, shifted[..., None])[..., 0]
    return mean, coordinates.roots(h)


@dataclass(frozen=True)
class Mixture:
    """A mixture of Student's t for every patient, in the units of its site.

    Attributes
    ----------
    weight
        (n, components), summing to 1.
    mean
        (n, components, q).
    root
        (n, components, q, q) lower Cholesky factors of the scales.
    """

    weight: Floats
    mean: Floats
    root: Floats

    @classmethod
    def of_sites(cls, n: int, q: int) -> Self:
        """The sites themselves, widened: where nothing more is known."""
        root = np.stack([1.15 * np.eye(q), 2.0 * np.eye(q)])
        weight = np.array([0.7, 0.3])
        return cls(np.tile(weight, (n, 1)), np.zeros((n, 2, q)), np.tile(root, (n, 1, 1, 1)))

    @classmethod
    def learn(cls, coordinates: Coordinates, h: Floats, b: Floats, rng: np.random.Generator) -> Self:
        """From population vectors (draws, d) and deviations (draws, n, q) of a posterior."""
        count, n, q = b.shape
        if count < FEWEST or q == 0:
            return cls.of_sites(n, q)
        some = np.linspace(0, count - 1, min(count, MIXED_FROM)).astype(int)
        h, b, count = h[some], b[some], some.size
        z = np.empty((n, count, q))
        for s in range(count):
            mean, root = centres(coordinates, h[s])
            z[:, s] = np.linalg.solve(root, (b[s] - mean)[..., None])[..., 0]
        weight, mean, covariance = _expectation_maximisation(z, rng)
        wide = np.tile(WIDE**2 * np.eye(q), (n, 1, 1, 1))
        return cls(
            np.concatenate([(1.0 - WIDE_SHARE) * weight, np.full((n, 1), WIDE_SHARE)], axis=1),
            np.concatenate([mean, np.zeros((n, 1, q))], axis=1),
            np.linalg.cholesky(np.concatenate([WIDER**2 * covariance, wide], axis=1)),
        )

    def of(self, rows: NDArray[np.int64]) -> Self:
        """For some patients, each as often as it is named."""
        return type(self)(self.weight[rows], self.mean[rows], self.root[rows])

    @property
    def inputs(self) -> int:
        """Uniform numbers that a draw takes: the component, the tail, and one for each deviation."""
        return int(self.mean.shape[2]) + 2

    def draw(self, uniform: Floats) -> Floats:
        """Draws (n, q) from uniform numbers (n, inputs), each within (0, 1)."""
        n = len(self.mean)
        chosen = (uniform[:, :1] > np.cumsum(self.weight, axis=1)[:, :-1]).sum(axis=1)
        each = np.arange(n)
        normal = ndtri(uniform[:, 2:])
        tail = np.sqrt(chdtri(DEGREES, 1.0 - uniform[:, 1]) / DEGREES)
        return np.asarray(
            self.mean[each, chosen] + np.einsum("nqr,nr->nq", self.root[each, chosen], normal) / tail[:, None]
        )

    def log_density(self, z: Floats) -> Floats:
        """Of points (..., n, q): (..., n)."""
        q = z.shape[-1]
        inverse = np.linalg.inv(self.root)
        x = np.einsum("ncqr,...ncr->...ncq", inverse, z[..., None, :] - self.mean)
        logdet = np.log(np.diagonal(self.root, axis1=-2, axis2=-1)).sum(axis=-1)
        each = (
            gammaln(0.5 * (DEGREES + q))
            - gammaln(0.5 * DEGREES)
            - 0.5 * q * np.log(DEGREES * np.pi)
            - logdet
            - 0.5 * (DEGREES + q) * np.log1p((x * x).sum(axis=-1) / DEGREES)
        )
        return np.asarray(logsumexp(np.log(self.weight) + each, axis=-1))


def _expectation_maximisation(z: Floats, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Weights (n, C), means (n, C, q) and covariances (n, C, q, q) of Gaussian mixtures of points (n, draws, q)."""
    n, count, q = z.shape
    every = np.einsum("nsq,nsr->nqr", z - z.mean(axis=1, keepdims=True), z - z.mean(axis=1, keepdims=True)) / count
    ground = 0.05 * np.einsum("nqq->n", every) / q + 1e-6
    mean = z[:, rng.choice(count, COMPONENTS, replace=False)]
    covariance = np.tile(every[:, None], (1, COMPONENTS, 1, 1)) + ground[:, None, None, None] * np.eye(q)
    weight = np.full((n, COMPONENTS), 1.0 / COMPONENTS)
    for _ in range(ROUNDS):
        root = np.linalg.cholesky(covariance)
        inverse = np.linalg.inv(root)
        logdet = np.log(np.diagonal(root, axis1=-2, axis2=-1)).sum(axis=-1)
        square = np.stack(
            [
                ((np.einsum("nqr,nsr->nsq", inverse[:, c], z - mean[:, c, None])) ** 2).sum(axis=-1)
                for c in range(COMPONENTS)
            ],
            axis=-1,
        )
        log_share = np.log(weight)[:, None] - logdet[:, None] - 0.5 * square
        share = np.exp(log_share - logsumexp(log_share, axis=-1, keepdims=True))
        mass = share.sum(axis=1) + 1e-9
        weight = (mass + 1.0) / (mass + 1.0).sum(axis=1, keepdims=True)
        mean = np.einsum("nsc,nsq->ncq", share, z) / mass[..., None]
        for c in range(COMPONENTS):
            away = z - mean[:, c, None]
            own = np.einsum("ns,nsq,nsr->nqr", share[:, :, c], away, away)
            # a few draws' worth of the whole's covariance: no component collapses onto a point
            covariance[:, c] = (own + 2.0 * q * every) / (mass[:, c] + 2.0 * q)[:, None, None]
            covariance[:, c] += ground[:, None, None] * 1e-2 * np.eye(q)
    return weight, mean, covariance

"""Metropolis proposals that need no smooth path: from a patient's earlier states, and within its prior.

They lead along ridges, over the plateaus of one-sided likelihoods, and from mode to mode, where Hamiltonian
trajectories are slow or do not go at all. A proposal takes all patients' deviations (n, q), their prior sds (q,) and a
generator; it gives new deviations and the logarithm of the ratio of prior and proposal densities, (n,).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float64]

WIDTH: Final = 0.5  # of a kernel, in units of the patient's sd
DEGREES: Final = 5.0  # of freedom of the kernels
JITTER: Final = 0.02  # sd of the noise added to a difference, in units of the prior's
WHOLE: Final = 0.2  # share of differences taken whole, which lead from mode to mode


def within_prior(b: Floats, sd: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """One deviation within its prior, whose density cancels: across the plateau of a one-sided likelihood."""
    each, one = np.arange(len(b)), rng.integers(b.shape[1], size=len(b))
    angle = rng.uniform(0.2, 0.5 * np.pi, len(b))
    proposal = b.copy()
    proposal[each, one] = np.cos(angle) * b[each, one] + np.sin(angle) * sd[one] * rng.standard_normal(len(b))
    return proposal, np.zeros(len(b))


def _log_prior(b: Floats, sd: Floats) -> Floats:
    """Of deviations (..., q): (...), up to a constant."""
    return np.asarray(-0.5 * ((b / sd) ** 2).sum(axis=-1))


class Archive:
    """Each patient's states of the warm-up, fixed once made, and proposals from them.

    A proposal takes deviations (n, q), their prior sds (q,) and a generator, and gives new deviations and the logarithm
    of the ratio of prior and proposal densities, (n,).

    Parameters
    ----------
    states
        (count, n, q) deviations.
    """

    def __init__(self, states: Floats) -> None:
        self.states = states
        centred = states - states.mean(axis=0)
        covariance = np.einsum("snq,snr->nqr", centred, centred) / len(states)
        floor = np.maximum(1e-3 * np.einsum("nqq->nq", covariance).max(axis=1), 1e-12)  # of one who never moved
        self.root = WIDTH * np.linalg.cholesky(covariance + floor[:, None, None] * np.eye(states.shape[2]))
        self.inverse = np.linalg.inv(self.root)
        self.whitened = np.einsum("nqr,snr->nsq", self.inverse, states)
        self.square = (self.whitened**2).sum(axis=2)

    def difference(self, b: Floats, sd: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Along the difference of two states: along ridges, and from mode to mode (ter Braak & Vrugt 2008)."""
        n, q = b.shape
        first, second = rng.integers(len(self.states), size=(2, n))
        length = np.where(rng.uniform(size=n) < WHOLE, 1.0, rng.uniform(0.2, 0.8, n))[:, None]
        step = length * (self.states[first, np.arange(n)] - self.states[second, np.arange(n)])
        proposal = b + step + JITTER * sd * rng.standard_normal((n, q))
        return proposal, _log_prior(proposal, sd) - _log_prior(b, sd)

    def jump(self, b: Floats, sd: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """To the surroundings of a state, wherever the chain is: a draw of the states' kernel density."""
        n, q = b.shape
        noise = rng.standard_normal((n, q)) / np.sqrt(rng.chisquare(DEGREES, n) / DEGREES)[:, None]
        proposal = self.states[rng.integers(len(self.states), size=n), np.arange(n)]
        proposal = proposal + np.einsum("nqr,nr->nq", self.root, noise)
        ratio = _log_prior(proposal, sd) - _log_prior(b, sd)
        return proposal, ratio + self._log_density(b) - self._log_density(proposal)

    def _log_density(self, b: Floats) -> Floats:
        w = np.einsum("nqr,nr->nq", self.inverse, b)
        square = self.square - 2.0 * np.einsum("nsq,nq->ns", self.whitened, w) + (w**2).sum(axis=1)[:, None]
        kernels = (1.0 + np.maximum(square, 0.0) / DEGREES) ** (-0.5 * (DEGREES + b.shape[1]))
        return np.asarray(np.log(kernels.sum(axis=1)))

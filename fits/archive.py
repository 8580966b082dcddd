"""Metropolis proposals that need no smooth path: from a patient's earlier states, and within its prior.

They lead along ridges, over the plateaus of one-sided likelihoods, and from mode to mode, where Hamiltonian
trajectories are slow or do not go at all.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from reinfuse.model.kernels.policy import kernel

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]

WIDTH: Final = 0.5  # of a kernel, in units of the patient's sd
DEGREES: Final = 5  # of freedom of the kernels, or one more: with the dimension they make an even number
JITTER: Final = 0.02  # sd of the noise added to a difference, in units of the site
WHOLE: Final = 0.2  # share of differences taken whole, which lead from mode to mode
MOST: Final = 120  # states kept


def within_prior(b: Floats, sd: Floats, rng: np.random.Generator) -> Floats:
    """One deviation of each patient (n, q) within its prior, sd (q,): across the plateau of a one-sided likelihood.

    The prior's density cancels with the proposal's.
    """
    each, one = np.arange(len(b)), rng.integers(b.shape[1], size=len(b))
    angle = rng.uniform(0.2, 0.5 * np.pi, len(b))
    proposal = b.copy()
    proposal[each, one] = np.cos(angle) * b[each, one] + np.sin(angle) * sd[one] * rng.standard_normal(len(b))
    return proposal


class Archive:
    """Each patient's states of the warm-up, fixed once made, and proposals from them.

    States are standardised deviations ``z`` (see `coordinates`), so that they go with the population.

    Parameters
    ----------
    states
        (count, n, q).
    """

    def __init__(self, states: Floats) -> None:
        self.states = states[np.linspace(0, len(states) - 1, min(MOST, len(states))).astype(int)]
        centred = states - states.mean(axis=0)
        covariance = np.einsum("snq,snr->nqr", centred, centred) / len(states)
        floor = np.maximum(1e-3 * np.einsum("nqq->nq", covariance).max(axis=1), 1e-12)  # of one who never moved
        self.root = WIDTH * np.linalg.cholesky(covariance + floor[:, None, None] * np.eye(states.shape[2]))
        self.inverse = np.linalg.inv(self.root)
        self.whitened = np.ascontiguousarray(np.einsum("nqr,snr->nsq", self.inverse, self.states))
        self.degrees = DEGREES + (DEGREES + states.shape[2]) % 2

    def draw(self, who: Integers, rng: np.random.Generator) -> Floats:
        """Draws (m, q) of the kernel densities of patients ``who`` (m,): the surroundings of some state."""
        noise = rng.standard_normal((who.size, self.states.shape[2]))
        noise /= np.sqrt(rng.chisquare(self.degrees, who.size) / self.degrees)[:, None]
        chosen = self.states[rng.integers(len(self.states), size=who.size), who]
        return np.asarray(chosen + np.einsum("mqr,mr->mq", self.root[who], noise))

    def log_density(self, z: Floats, who: Integers) -> Floats:
        """Logarithms (m,) of the kernel densities of patients ``who`` at ``z`` (m, q), up to a patient's constant."""
        at, found = np.einsum("mqr,mr->mq", self.inverse[who], z), np.empty(who.size)
        _log_density(at, who, self.whitened, self.degrees, found)
        return found

    def difference(self, z: Floats, rng: np.random.Generator) -> Floats:
        """From ``z`` (n, q) along a difference of two states: along ridges, and to other modes; it goes back as often.

        ter Braak & Vrugt 2008.
        """
        n, q = z.shape
        first, second = rng.integers(len(self.states), size=(2, n))
        length = np.where(rng.uniform(size=n) < WHOLE, 1.0, rng.uniform(0.2, 0.8, n))[:, None]
        step = length * (self.states[first, np.arange(n)] - self.states[second, np.arange(n)])
        return np.asarray(z + step + JITTER * rng.standard_normal((n, q)))


@kernel
def _log_density(at: Floats, who: Integers, whitened: Floats, degrees: int, found: Floats) -> None:
    """The kernels are Student's t: (1 + r^2 / degrees)^-((degrees + q) / 2)."""
    q = at.shape[1]
    power = (degrees + q) // 2
    for m in range(who.size):
        total = 0.0
        for s in range(whitened.shape[1]):
            square = 0.0
            for k in range(q):
                gap = at[m, k] - whitened[who[m], s, k]
                square += gap * gap
            base, value = 1.0 / (1.0 + square / degrees), 1.0
            for _ in range(power):
                value *= base
            total += value
        found[m] = np.log(total)


@kernel
def independent(now: Floats, weights: Floats, copies: Integers, chances: Floats) -> Integers:
    """Metropolis steps of every patient through its own proposals, which do not depend on where it is.

    Parameters
    ----------
    now
        (n,) logarithms of target over proposal density where the patients are.
    weights
        (m,) the same of the proposals, patient by patient.
    copies
        (n,) proposals of each.
    chances
        (m,) logarithms of uniform numbers.

    Returns
    -------
    array
        (n,) the proposal at which each patient ends; -1: where it was.
    """
    taken = np.full(now.size, -1)
    row = 0
    for i in range(now.size):
        here = now[i]
        for _ in range(copies[i]):
            if chances[row] < weights[row] - here:
                here, taken[i] = weights[row], row
            row += 1
    return taken

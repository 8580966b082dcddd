"""Fisher information of samples: what a schedule of assays, with its limits, can tell of a population.

A patient's records are, near its own parameters, linear in its parameters on their transformed scales: record r says
``a_r @ x`` with information ``w_r``. ``w_r`` is the expected information of a Student-t value (4 degrees of freedom) of
residual sd sigma that is left-censored below the limit of quantification (M3, whose probability counts too), times the
probability that the patient is still followed; an event time contributes ``S(t) h(t) dt`` times the square of the slope
of its log hazard. With ``x = X h + Z b`` and ``b ~ N(0, Omega)`` integrated out, records behave as Gaussian ones of
covariance ``V = W^-1 + H Omega H'`` (``H = A Z``), and the information of population values is that of a linear mixed
model: ``X'A' V^-1 A X`` for values, ``tr(V^-1 V_k V^-1 V_l) / 2`` for ln omega and ln sigma. It is computed at
individual parameters that are drawn, not at the typical ones, and averaged over them.

What is approximate: that a patient's records are linear over the width of its own deviations' posterior, that V's
dependence on population values through the slopes is left out, and that location and scale of a censored value are
taken as orthogonal. For a linear Gaussian model without censoring nothing is approximate
(tests/fits/identification/test_information.py).
"""

from dataclasses import dataclass
from functools import cache
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]

DEGREES: Final = 4.0  # of freedom of the residuals
#: Expected information of an uncensored Student-t value on its location (in units of sigma) and on ln sigma.
LOCATION: Final = (DEGREES + 1.0) / (DEGREES + 3.0)
SCALE: Final = 2.0 * DEGREES / (DEGREES + 3.0)
#: What a Gaussian value tells of ln sigma.
GAUSSIAN_SCALE: Final = 2.0
NODES: Final = 400
FARTHEST: Final = 60.0  # residual sds between a limit and a prediction that are told apart
CHUNK: Final = 512  # patients at a time


def distribution(z: Floats) -> Floats:
    """Student's t with 4 degrees of freedom, its distribution function."""
    s = z / np.sqrt(DEGREES + z * z)
    return np.asarray((1.0 + s) ** 2 * (2.0 - s) / 4.0)


def density(z: Floats) -> Floats:
    """Its density."""
    return np.asarray(0.375 * (1.0 + 0.25 * z * z) ** -2.5)


@cache
def _tabulated() -> tuple[Floats, Floats, Floats]:
    """Limits in residual sds, and the expected information of what is measured above them plus that of what is not."""
    limit = np.sinh(np.linspace(-np.arcsinh(FARTHEST), np.arcsinh(FARTHEST), 1201))
    node, weight = np.polynomial.legendre.leggauss(NODES)
    s_low = limit / np.sqrt(DEGREES + limit * limit)
    # s = z / sqrt(4 + z^2) runs over (-1, 1) and its density is smooth: Gauss-Legendre is as good as exact
    s = 0.5 * ((1.0 - s_low)[:, None] * node + (1.0 + s_low)[:, None])
    measure = 0.5 * (1.0 - s_low)[:, None] * weight * 0.75 * (1.0 - s * s)
    z2 = DEGREES * s * s / (1.0 - s * s)
    pull = (DEGREES + 1.0) ** 2 * z2 / (DEGREES + z2) ** 2  # square of the slope of the log density
    stretch = ((DEGREES + 1.0) * z2 / (DEGREES + z2) - 1.0) ** 2
    below, at = distribution(limit), density(limit)
    with np.errstate(divide="ignore", invalid="ignore"):
        unseen = np.where(below > 0, at * at / below, 0.0)
    location = (measure * pull).sum(axis=1) + unseen
    scale = (measure * stretch).sum(axis=1) + limit * limit * unseen
    return limit, location, scale


def censored(limit: Floats) -> tuple[Floats, Floats]:
    """Expected information of a value that is left-censored below a limit, censored or not.

    Parameters
    ----------
    limit
        (limit of quantification - location) / sigma; minus infinity: none.

    Returns
    -------
    location, scale
        On location / sigma and on ln sigma.
    """
    grid, location, scale = _tabulated()
    inside = np.clip(limit, -FARTHEST, FARTHEST)
    gone = np.asarray(limit) > FARTHEST
    first = np.where(np.asarray(limit) < -FARTHEST, LOCATION, np.interp(inside, grid, location))
    second = np.where(np.asarray(limit) < -FARTHEST, SCALE, np.interp(inside, grid, scale))
    return np.where(gone, 0.0, first), np.where(gone, 0.0, second)


@dataclass(frozen=True, eq=False)
class Lines:
    """Records of n patients as lines through their parameters, padded with weights of 0.

    Attributes
    ----------
    slope
        (n, R, columns) slope of a record's location by the patient's parameters on their transformed scales.
    weight
        (n, R) information on that location.
    scale
        (n, R) information on ln sigma.
    sigma
        (n, R) place of ln sigma in the population vector; -1: known, or none.
    """

    slope: Floats
    weight: Floats
    scale: Floats
    sigma: Integers

    @property
    def n(self) -> int:
        """Number of patients."""
        return int(self.slope.shape[0])

    def only(self, taken: NDArray[np.bool_]) -> Self:
        """The same with some records (R,) only."""
        return type(self)(self.slope[:, taken], self.weight[:, taken], self.scale[:, taken], self.sigma[:, taken])


@dataclass(frozen=True, eq=False)
class Structure:
    """How individual parameters are made of population values and deviations, for n patients.

    Attributes
    ----------
    by_hyper
        (n, columns, d) from the population vector.
    by_deviation
        (n, columns, q) from a patient's deviations.
    log_sd
        (q,) places of the deviations' ln omega in the population vector.
    """

    by_hyper: Floats
    by_deviation: Floats
    log_sd: Integers

    def of(self, patients: Integers) -> Self:
        """For some patients, each as often as it is named."""
        return type(self)(self.by_hyper[patients], self.by_deviation[patients], self.log_sd)


def of_population(lines: Lines, structure: Structure, omega: Floats) -> Floats:
    """Information of each patient's records on the population, its deviations integrated out.

    Parameters
    ----------
    lines
        Of n patients.
    structure
        Of the same.
    omega
        (q,) or (n, q) sds of the deviations.

    Returns
    -------
    ndarray (n, d, d)
        On population values, ln omega and ln sigma, in the order of the population vector.
    """
    n = lines.n
    sds = np.broadcast_to(omega, (n, structure.log_sd.size))
    parts = []
    for low in range(0, n, CHUNK):
        here = slice(low, min(n, low + CHUNK))
        some = Lines(lines.slope[here], lines.weight[here], lines.scale[here], lines.sigma[here])
        made = Structure(structure.by_hyper[here], structure.by_deviation[here], structure.log_sd)
        parts.append(_of_some(some, made, sds[here]))
    return np.concatenate(parts) if parts else np.zeros((0, structure.by_hyper.shape[2], structure.by_hyper.shape[2]))


def _of_some(lines: Lines, structure: Structure, omega: Floats) -> Floats:
    root = np.sqrt(lines.weight)[:, :, None]
    shared = root * (lines.slope @ structure.by_hyper)
    own = root * (lines.slope @ structure.by_deviation)
    inner = _deviations(own, omega)
    left = own.transpose(0, 2, 1) @ shared
    information = shared.transpose(0, 2, 1) @ shared - left.transpose(0, 2, 1) @ inner @ left
    cross = own.transpose(0, 2, 1) @ own
    seen = cross - cross @ inner @ cross  # H' V^-1 H
    square = np.square(omega)
    spreads = np.unique(structure.log_sd)
    for a in spreads:
        for b in spreads:
            mine, theirs = np.flatnonzero(structure.log_sd == a), np.flatnonzero(structure.log_sd == b)
            block = seen[:, mine[:, None], theirs] ** 2
            information[:, a, b] += 2.0 * (square[:, mine[:, None]] * square[:, None, theirs] * block).sum(axis=(1, 2))
    _add_sigmas(information, lines, structure, own, inner, square)
    return information


def _deviations(own: Floats, omega: Floats) -> Floats:
    """Posterior covariance (n, q, q) of deviations given records ``own`` (n, R, q), scaled to information 1."""
    q = omega.shape[1]
    cross = own.transpose(0, 2, 1) @ own
    scaled = omega[:, :, None] * cross * omega[:, None, :] + np.eye(q)
    return np.asarray(omega[:, :, None] * np.linalg.inv(scaled) * omega[:, None, :])


def _add_sigmas(
    information: Floats, lines: Lines, structure: Structure, own: Floats, inner: Floats, square: Floats
) -> None:
    """Information on ln sigma, and what it shares with ln omega, in place."""
    places = np.unique(lines.sigma[(lines.sigma >= 0) & (lines.weight > 0)])
    if not places.size:
        return
    left = np.eye(own.shape[1]) - own @ inner @ own.transpose(0, 2, 1)  # of what deviations do not explain
    seen = np.square(left @ own)
    share = np.sqrt(lines.scale / GAUSSIAN_SCALE)
    squared = np.square(left)
    for a in places:
        mine = np.where(lines.sigma == a, share, 0.0)
        for b in places:
            theirs = np.where(lines.sigma == b, share, 0.0)
            information[:, a, b] += GAUSSIAN_SCALE * np.einsum("nr,nrs,ns->n", mine, squared, theirs)
        both = np.einsum("nr,nrq->nq", mine, seen) * GAUSSIAN_SCALE * square
        for k, place in enumerate(structure.log_sd):
            information[:, a, place] += both[:, k]
            information[:, place, a] += both[:, k]


def of_deviations(lines: Lines, structure: Structure, omega: Floats) -> Floats:
    """Expected posterior covariance of each patient's deviations given the population, (n, q, q)."""
    own = np.sqrt(lines.weight)[:, :, None] * (lines.slope @ structure.by_deviation)
    return _deviations(own, np.broadcast_to(omega, (lines.n, structure.log_sd.size)))


def posterior_covariance(information: Floats, prior: Floats) -> Floats:
    """Covariance (..., d, d) of the population when information is added to a prior of covariance (d, d).

    Exact for Gaussian posteriors; never larger than the prior's, whatever the information.
    """
    root = np.linalg.cholesky(prior)
    scaled = root.T @ information @ root + np.eye(prior.shape[0])
    return np.asarray(root @ np.linalg.inv(scaled) @ root.T)


def shrinkage(covariance: Floats, omega: Floats) -> Floats:
    """Expected eta-shrinkage (q,): 1 - sd(posterior means) / omega, from covariances (n, q, q) of the deviations.

    A mean's variance between patients is omega^2 less the mean posterior variance (Savic and Karlsson, AAPS J 11:558,
    2009, define shrinkage by sds).
    """
    share = np.einsum("nqq->nq", covariance) / np.square(omega)
    return np.asarray(1.0 - np.sqrt(np.maximum(1.0 - share.mean(axis=0), 0.0)))

"""Scores of predictions against observations, censored ones included.

One observation is (`value`, `cens`): quantified (`cens` 0), at or below its limit (1, the value is the limit; with a
finite `lower` it lies between the two) or above an upper limit (-1). Everything here is on the scale of the residual
error, the natural logarithm for concentrations, and treats a censored value as what it is: an interval, never a number
(M3; Beal 2001).
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Array = npt.NDArray[np.float64]

LEVELS: Final = (0.50, 0.80, 0.95)
"""Central predictive intervals that coverage is reported for."""

QUANTILES: Final = 16  # of the residual, in `ranked_probability`


def log_pdf(z: Array, nu: float) -> Array:
    """Return the log density of the standard Student-t, or of the standard normal where `nu` is infinite."""
    if np.isinf(nu):
        return np.asarray(-0.5 * z**2 - 0.5 * np.log(2 * np.pi))
    constant = special.gammaln((nu + 1) / 2) - special.gammaln(nu / 2) - 0.5 * np.log(nu * np.pi)
    return np.asarray(constant - 0.5 * (nu + 1) * np.log1p(z**2 / nu))


def log_cdf(z: Array, nu: float) -> Array:
    """Return the log distribution function that goes with `log_pdf`; the upper tail is `log_cdf(-z, nu)`."""
    if np.isinf(nu):
        return np.asarray(special.log_ndtr(z))
    with np.errstate(divide="ignore"):  # beyond z = -1e76 the tail is 0 and its logarithm -inf, rightly
        return np.asarray(np.log(special.stdtr(nu, z)))


def log_density(
    value: Array,
    cens: npt.ArrayLike,
    *,
    centre: Array,
    sigma: npt.ArrayLike,
    nu: float,
    lower: Array | None = None,
) -> Array:
    """Return ln p(value | draw) of Student-t residuals, with M3 for censored values.

    Parameters
    ----------
    value
        (n,) observed value or limit, on the scale of the residual error.
    cens
        (n,) 0 quantified, 1 at or below the limit, -1 above it.
    centre
        (s, n) predictions without residual error.
    sigma
        Residual scale, broadcast against `centre`.
    nu
        Degrees of freedom; `inf` is the normal distribution.
    lower
        (n,) lower ends of intervals, NaN elsewhere; none when None.

    Returns
    -------
    array
        (s, n).
    """
    scale = np.broadcast_to(np.asarray(sigma, dtype=float), centre.shape)
    z = (np.asarray(value, dtype=float) - centre) / scale
    flag = np.broadcast_to(np.asarray(cens), z.shape)
    density = log_pdf(z, nu) - np.log(scale)
    limited = flag != 0
    density[limited] = log_cdf(np.where(flag > 0, z, -z)[limited], nu)
    if lower is not None and np.isfinite(lower).any():
        between = np.isfinite(lower)
        bottom = (lower[between] - centre[:, between]) / scale[:, between]
        density[:, between] = _log_between(z[:, between], bottom, nu)
    return density


def _log_between(top: Array, bottom: Array, nu: float) -> Array:
    """Log probability between two standardised values, from the tail in which it does not cancel."""
    upper = bottom > 0
    far, near = np.where(upper, -bottom, top), np.where(upper, -top, bottom)
    large = log_cdf(far, nu)
    return np.asarray(large + np.log(-np.expm1(log_cdf(near, nu) - large)))


def expected_log_density(densities: Array, log_weights: Array | None = None) -> Array:
    """Return ln of the mean density over draws, per observation.

    Parameters
    ----------
    densities
        (s, n) from `log_density`.
    log_weights
        (s, n) or (s,) unnormalised logarithms of weights; equal weights when None.
    """
    if log_weights is None:
        return np.asarray(special.logsumexp(densities, axis=0) - np.log(densities.shape[0]))
    weights = log_weights[:, None] if log_weights.ndim == 1 else log_weights
    return np.asarray(special.logsumexp(densities + weights, axis=0) - special.logsumexp(weights, axis=0))


def ranked_probability(
    value: Array,
    cens: npt.ArrayLike,
    *,
    centre: Array,
    sigma: npt.ArrayLike,
    nu: float,
    log_weights: Array | None = None,
) -> Array:
    """Return the continuous ranked probability score, per observation: an error in units of the scale; less is better.

    E|Y - y| - E|Y - Y'| / 2 for predictive draws Y, Y' (Gneiting and Raftery 2007). Where a value is censored at its
    limit, so are the draws: the score is then that of the part of the distribution that the assay can tell, and it
    stays proper. The residual enters by its quantiles, so nothing here is random.

    Parameters
    ----------
    value, cens, centre, sigma, nu, log_weights
        As for `log_density` and `expected_log_density`.
    """
    shares = (np.arange(QUANTILES) + 0.5) / QUANTILES
    noise = special.ndtri(shares) if np.isinf(nu) else special.stdtrit(nu, shares)
    observed, flag = np.asarray(value, dtype=float), np.broadcast_to(np.asarray(cens), np.shape(value))
    scale = np.broadcast_to(np.asarray(sigma, dtype=float), centre.shape)
    weights = np.ones_like(centre) if log_weights is None else np.exp(log_weights - log_weights.max(axis=0))
    weights = np.broadcast_to(weights[:, None] if weights.ndim == 1 else weights, centre.shape)
    found = np.empty(observed.size)
    for row in range(observed.size):
        draws = (centre[:, row, None] + scale[:, row, None] * noise).ravel()
        if flag[row] != 0:
            draws = np.maximum(draws, observed[row]) if flag[row] > 0 else np.minimum(draws, observed[row])
        share = np.repeat(weights[:, row] / weights[:, row].sum(), QUANTILES) / QUANTILES
        order = np.argsort(draws)
        draws, share = draws[order], share[order]
        spread = 2.0 * np.sum(share * draws * (2.0 * np.cumsum(share) - share - 1.0))  # E|Y - Y'|
        found[row] = np.sum(share * np.abs(draws - observed[row])) - 0.5 * spread
    return found


def rank_bounds(draws: Array, value: Array, cens: npt.ArrayLike, lower: Array | None = None) -> tuple[Array, Array]:
    """Return the lowest and the highest rank that an observation may have among its predictive draws.

    A quantified value has one rank F(value) (ties count half); a value below its limit has any rank in
    [0, F(limit)]; a value above an upper limit any in [F(limit), 1].

    Parameters
    ----------
    draws
        (s, n) draws of new observations.
    value, cens
        (n,) observations.
    lower
        (n,) lower ends of intervals, NaN elsewhere; none when None.
    """
    observed = np.asarray(value, dtype=float)
    share = (draws < observed).mean(axis=0) + 0.5 * (draws == observed).mean(axis=0)
    low, high = _bounds(share, np.asarray(cens))
    if lower is not None:
        low = np.where(np.isfinite(lower), (draws < lower).mean(axis=0), low)
    return low, high


def mixture_rank_bounds(
    value: Array,
    cens: npt.ArrayLike,
    *,
    centre: Array,
    sigma: npt.ArrayLike,
    nu: float,
    log_weights: Array | None = None,
    lower: Array | None = None,
) -> tuple[Array, Array]:
    """Return `rank_bounds` from predictions and a residual law, with no random draws of the residual."""
    scale = np.broadcast_to(np.asarray(sigma, dtype=float), centre.shape)

    def share(at: Array) -> Array:
        below = np.exp(log_cdf((at - centre) / scale, nu))
        if log_weights is None:
            return np.asarray(below.mean(axis=0))
        weights = special.softmax(log_weights, axis=0)
        return np.asarray((below * (weights[:, None] if weights.ndim == 1 else weights)).sum(axis=0))

    low, high = _bounds(share(np.asarray(value, dtype=float)), np.asarray(cens))
    if lower is not None:
        low = np.where(np.isfinite(lower), share(np.where(np.isfinite(lower), lower, 0.0)), low)
    return low, high


def coverage(low: Array, high: Array, level: float) -> Array:
    """Return, per observation, the chance that its rank lies in the central interval of this level.

    For a quantified value it is 0 or 1. A censored value counts by the part of its possible ranks that lies
    inside, which makes the mean over observations of a calibrated model equal to `level` at any censoring.

    Parameters
    ----------
    low, high
        (n,) from `rank_bounds`.
    level
        0.5, 0.8, 0.95, ...
    """
    left, right = 0.5 - level / 2, 0.5 + level / 2
    inside = np.clip(np.minimum(high, right) - np.maximum(low, left), 0.0, None)
    width = high - low
    point = (low >= left) & (low <= right)
    return np.where(width > 0, inside / np.where(width > 0, width, 1.0), point.astype(float))


def normal_rank(low: Array, high: Array) -> Array:
    """Return the middle of the possible ranks as a standard normal deviate (a quantile residual)."""
    return np.asarray(special.ndtri(np.clip(0.5 * (low + high), 1e-4, 1 - 1e-4)))


def error_in_log(value: Array, cens: npt.ArrayLike, predicted: Array) -> Array:
    """Return |ln observed - ln predicted|, zero where a censored value and its prediction agree.

    A value below its limit is missed by how far the prediction lies above the limit, one above an upper
    limit by how far the prediction lies below it.
    """
    difference = np.asarray(predicted - value, dtype=float)
    flag = np.asarray(cens)
    return np.where(
        flag == 0, np.abs(difference), np.where(flag > 0, difference.clip(min=0), (-difference).clip(min=0))
    )


def area_under_curve(score: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """Return the chance that a positive has the higher score than a negative, ties counting half.

    This is the area under the receiver operating characteristic (Mann-Whitney); NaN when one class is empty.

    Parameters
    ----------
    score
        (n,) higher means rather positive; NaN rows are left out.
    positive
        (n,) truth values.
    """
    values, truth = np.asarray(score, dtype=float), np.asarray(positive, dtype=bool)
    seen = np.isfinite(values)
    values, truth = values[seen], truth[seen]
    count, rest = int(truth.sum()), int((~truth).sum())
    if count == 0 or rest == 0:
        return float("nan")
    ranks = stats.rankdata(values)
    return float((ranks[truth].sum() - count * (count + 1) / 2) / (count * rest))


def two_sided(simulated: Array, observed: float) -> float:
    """Return the two-sided Monte Carlo p-value of a number among S simulated ones: never below 2 / (S + 1)."""
    fewer = min(np.count_nonzero(simulated >= observed), np.count_nonzero(simulated <= observed))
    return float(min(1.0, 2 * (fewer + 1) / (simulated.size + 1)))


def bootstrap_interval(
    statistic: Callable[..., float],
    *arrays: npt.NDArray[Any],
    rng: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile interval of a statistic over resampled rows.

    Parameters
    ----------
    statistic
        Called with the resampled arrays; a resample it answers with NaN is left out.
    arrays
        Arrays of one length n, resampled together (rows are patients).
    rng
        Source of the resamples.
    resamples, level
        How many, and the central mass of the interval.

    Returns
    -------
    tuple
        Lower and upper end; NaN when fewer than a tenth of the resamples give an answer.
    """
    n = len(arrays[0])
    if n == 0:
        return float("nan"), float("nan")
    rows = rng.integers(0, n, size=(resamples, n))
    found = np.array([statistic(*(array[row] for array in arrays)) for row in rows])
    found = found[np.isfinite(found)]
    if len(found) < resamples / 10:
        return float("nan"), float("nan")
    low, high = np.quantile(found, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def _bounds(share: Array, cens: npt.NDArray[Any]) -> tuple[Array, Array]:
    low = np.where(cens > 0, 0.0, share)
    high = np.where(cens < 0, 1.0, share)
    return low, high

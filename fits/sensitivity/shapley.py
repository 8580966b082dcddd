"""Shapley effects: shares of the variance that add up to one, whether inputs are independent or not.

The worth of a set u of inputs is the variance of what they tell, ``Var(E[Y | X_u])``; an effect is what an input adds,
averaged over all orders (Owen 2014; Song, Nelson & Staum 2016). Three ways to it:

- `from_walks`: random orders with points along them (`designs.Design`). With a Gaussian copula the j-th point of a walk
  shares with its end exactly what the first j inputs tell, so ``Cov(Y_end, Y_j)`` is their worth: pick-freeze along a
  Rosenblatt transform. An input that changes nothing adds exactly nothing.
- `from_neighbours`: from rows alone, nearest neighbours in the place of conditional draws (Broto, Bachoc & Depecker
  2020); no copula, but few inputs.
- `linear_gaussian`: the closed form for a linear function of normal inputs (Owen & Prieur 2017).
"""

from itertools import combinations
from math import comb
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from reinfuse.model.errors import ReinfuseError

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]

#: Inputs of the nearest-neighbour estimator at most: it looks at every set of them.
MOST_NEIGHBOURLY: Final = 8
#: Neighbours that stand for a conditional distribution.
NEIGHBOURS: Final = 6


def from_walks(y: Floats, orders: Integers) -> tuple[Floats, Floats]:
    """Contributions of walks.

    Parameters
    ----------
    y
        (u, k + 1) outcomes along each walk, its end last.
    orders
        (u, k) inputs in the order of the walk.

    Returns
    -------
    worth : ndarray (u, k)
        What each input adds in each walk, unscaled; its mean is the effect.
    total : ndarray (u,)
        Their sum; its mean is the variance.
    """
    centred = y[:, -1] - y[:, [0, -1]].mean()
    steps = np.diff(y, axis=1) * centred[:, None]
    worth = np.zeros(orders.shape)
    np.put_along_axis(worth, orders, steps, axis=1)
    return worth, steps.sum(axis=1)


def from_neighbours(scores: Floats, y: Floats, *, neighbours: int = NEIGHBOURS) -> Floats:
    """Effects from rows, as shares of the variance.

    Parameters
    ----------
    scores
        (n, k) inputs on a common scale, k at most `MOST_NEIGHBOURLY`.
    y
        (n,).
    neighbours
        Rows, itself among them, whose variance stands for the conditional one.

    Returns
    -------
    ndarray (k,)
        Adding up to what all of these inputs tell: one, less what other inputs and the neighbours' distance leave.

    Raises
    ------
    ReinfuseError
        If there are more inputs, or too few rows.
    """
    n, k = scores.shape
    if k > MOST_NEIGHBOURLY:
        raise ReinfuseError(f"nearest neighbours look at {k} inputs; name at most {MOST_NEIGHBOURLY} by --input")
    if n < 4 * neighbours:
        raise ReinfuseError(f"{n} rows are too few for nearest neighbours; give at least {4 * neighbours}")
    worth: dict[tuple[int, ...], float] = {(): 0.0}
    for size in range(1, k + 1):
        for chosen in combinations(range(k), size):
            near = cKDTree(scores[:, chosen]).query(scores[:, chosen], k=neighbours)[1]
            worth[chosen] = 1.0 - float(y[near].var(axis=1, ddof=1).mean() / y.var(ddof=1))
    return shares(worth, k)


def shares(worth: dict[tuple[int, ...], float], k: int) -> Floats:
    """Shapley values (k,) from the worth of every set, named by its sorted members."""
    effects = np.zeros(k)
    for i in range(k):
        others = [j for j in range(k) if j != i]
        for size in range(k):
            for chosen in combinations(others, size):
                gain = worth[tuple(sorted((*chosen, i)))] - worth[chosen]
                effects[i] += gain / (k * comb(k - 1, size))
    return effects


def linear_gaussian(slopes: ArrayLike, covariance: ArrayLike) -> Floats:
    """Effects of ``Y = slopes @ X`` with ``X ~ N(0, covariance)``, as shares: the closed form.

    Source: Owen & Prieur 2017, "On Shapley value for measuring importance of dependent inputs", SIAM/ASA JUQ.
    """
    beta, cov = np.asarray(slopes, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
    k = beta.size
    worth: dict[tuple[int, ...], float] = {(): 0.0}
    for size in range(1, k + 1):
        for chosen in combinations(range(k), size):
            u = list(chosen)
            told = cov[:, u] @ np.linalg.solve(cov[np.ix_(u, u)], cov[u, :])
            worth[chosen] = float(beta @ told @ beta)
    return shares(worth, k) / float(beta @ cov @ beta)

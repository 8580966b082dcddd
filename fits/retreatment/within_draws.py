"""Correlations within a draw of the population, averaged over draws.

Over all draws together, what we do not know about the population correlates too: under a draw of slow tumours
everybody does well twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .statistics import Estimate, rank_correlation

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]

#: Draws with fewer patients than this are left out: they say little about a correlation.
FEWEST: Final = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class ByDraw:
    """A figure of each of D draws, and the same from the two halves of its patients.

    Two halves share the draw but not the chance: their covariance over draws is what truly differs between draws.

    Attributes
    ----------
    all, odd, even : ndarray (D,)
        NaN where a draw has too few patients.
    """

    all: Floats
    odd: Floats
    even: Floats

    def __sub__(self, other: "ByDraw") -> "ByDraw":
        return ByDraw(all=self.all - other.all, odd=self.odd - other.odd, even=self.even - other.even)

    def __add__(self, other: "ByDraw") -> "ByDraw":
        return ByDraw(all=self.all + other.all, odd=self.odd + other.odd, even=self.even + other.even)

    def __truediv__(self, number: float) -> "ByDraw":
        return ByDraw(all=self.all / number, odd=self.odd / number, even=self.even / number)


def within_draws(first: Floats, second: Floats, draw: Integers, n_draws: int) -> ByDraw:
    """Spearman correlation among the patients of each draw; NaN with fewer than `FEWEST` patients."""
    out = ByDraw(all=np.full(n_draws, np.nan), odd=np.full(n_draws, np.nan), even=np.full(n_draws, np.nan))
    for members in members_by_draw(draw):
        if members.size >= FEWEST:
            which = draw[members[0]]
            for figures, some in ((out.all, members), (out.odd, members[1::2]), (out.even, members[::2])):
                figures[which] = rank_correlation(first[some], second[some])
    return out


def averaged(figures: ByDraw, *, n: int = 0, level: float = 0.95) -> Estimate:
    """Average a figure of each draw.

    Parameters
    ----------
    figures
        One per draw.
    n
        Patients it rests on, for the record.
    level
        Of the interval, which holds what differs between draws, chance taken out, and the Monte Carlo error. It is
        symmetric.

    Returns
    -------
    Estimate
        The Monte Carlo error treats draws as clusters.
    """
    there = np.isfinite(figures.all) & np.isfinite(figures.odd) & np.isfinite(figures.even)
    known = figures.all[there]
    nothing = float("nan")
    if known.size < 2:
        value = float(known[0]) if known.size else nothing
        return Estimate(value=value, low=nothing, high=nothing, mc_error=nothing, n=n)
    value, error = float(known.mean()), float(np.sqrt(known.var(ddof=1) / known.size))
    between = max(float(np.cov(figures.odd[there], figures.even[there])[0, 1]), 0.0)
    half = float(stats.norm.ppf((1 + level) / 2)) * float(np.sqrt(between + error**2))
    return Estimate(value=value, low=max(value - half, -1.0), high=min(value + half, 1.0), mc_error=error, n=n)


def members_by_draw(draw: Integers) -> Iterator[Integers]:
    """Places of the members of each draw, by rising draw."""
    order = np.argsort(draw, kind="stable")
    _, begin = np.unique(draw[order], return_index=True)
    yield from np.split(order, begin[1:])

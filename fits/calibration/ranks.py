"""Whether ranks of the truth are uniform, and intervals hold it as often as they say.

If the truth is drawn from the prior and the data given the truth, the rank of the truth among independent draws of the
posterior is uniform, for any quantity (Talts et al. 2018; Modrák et al. 2023). Ranks are spread evenly within their
classes, which makes them exactly uniform on (0, 1) and leaves no question of ties or of the number of draws. Bands are
simultaneous for the whole empirical distribution function (Säilynoja, Bürkner & Vehtari 2022, by arviz-stats).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import pandas as pd
from arviz_stats.ecdf_utils import compute_ecdf, get_pointwise_confidence_band, simulate_confidence_bands
from numpy.typing import NDArray
from scipy.stats import binomtest, chisquare

from reinfuse.model.errors import ReinfuseError

type Floats = NDArray[np.float64]

LEVELS: Final = (0.5, 0.8, 0.95)
BAND: Final = 0.95
BINS: Final = 10
FEWEST: Final = 5 * BINS  # truths for a chi-square with five to a bin
SIMULATIONS: Final = 10_000
SEED: Final = 20220


@dataclass(frozen=True)
class Placed:
    """Where the truth lies in some fits.

    Attributes
    ----------
    names
        Quantities.
    numbers
        (r,) of the replicates.
    rank
        (r, q) how many draws lie below the truth.
    count
        Draws that the truth is compared with.
    truth, median
        (r, q).
    """

    names: tuple[str, ...]
    numbers: NDArray[np.int64]
    rank: NDArray[np.int64]
    count: int
    truth: Floats
    median: Floats

    def __post_init__(self) -> None:
        if self.rank.shape != (self.numbers.size, len(self.names)):
            raise ReinfuseError(f"ranks of shape {self.rank.shape} for {self.numbers.size} fits of {len(self.names)}")

    @property
    def uniform(self) -> Floats:
        """(r, q) ranks on (0, 1), each anywhere in its class; the same for the same replicates."""
        spread = [np.random.default_rng([SEED, int(number)]).uniform(size=len(self.names)) for number in self.numbers]
        return (self.rank + np.array(spread).reshape(self.rank.shape)) / (self.count + 1)

    def table(self) -> pd.DataFrame:
        """One row for each replicate and quantity: rank, number of draws, truth and posterior median."""
        r, q = self.rank.shape
        return pd.DataFrame(
            {
                "replicate": np.repeat(self.numbers, q),
                "quantity": np.tile(np.array(self.names, dtype=object), r),
                "rank": self.rank.ravel(),
                "draws": self.count,
                "truth": self.truth.ravel(),
                "median": self.median.ravel(),
            }
        )


def placed(results: Mapping[int, Mapping[str, NDArray[Any]]]) -> Placed:
    """Ranks of the truth in replicates (`replicates.replicate`) by number; fits that broke down are left out.

    Raises
    ------
    ReinfuseError
        If no fit is left, or replicates hold different quantities.
    """
    good = {number: result for number, result in results.items() if "failure" not in result}
    if not good:
        raise ReinfuseError(f"none of {len(results)} fits came to an end; look at `failure` in their files")
    names = {tuple(result["names"].tolist()) for result in good.values()}
    counts = {result["draws"].shape[0] for result in good.values()}
    if len(names) > 1 or len(counts) > 1:
        raise ReinfuseError("replicates hold different quantities; they are of different studies")
    truth = np.stack([result["truth"] for result in good.values()])
    rank = [(result["draws"] < result["truth"]).sum(axis=0) for result in good.values()]
    median = [np.median(result["draws"], axis=0) for result in good.values()]
    numbers = np.array(list(good), dtype=np.int64)
    return Placed(names.pop(), numbers, np.array(rank, dtype=np.int64), counts.pop(), truth, np.array(median))


@dataclass(frozen=True)
class Band:
    """An empirical distribution function minus that of the uniform, and where it may lie; arrays (T,)."""

    at: Floats
    difference: Floats
    lower: Floats
    upper: Floats

    @property
    def inside(self) -> bool:
        """Whether it stays in the band."""
        return bool(np.all((self.difference >= self.lower) & (self.difference <= self.upper)))


def band(values: Floats, level: float = BAND) -> Band:
    """The difference of values on (0, 1) from uniformity, with a simultaneous band of a level."""
    if values.size < 2:
        raise ReinfuseError(f"{values.size} replicates make no distribution; run more")
    at, lower, upper = _limits(values.size, level)
    return Band(at, np.asarray(compute_ecdf(values, at)) - at, lower, upper)


@cache
def _limits(n: int, level: float) -> tuple[Floats, Floats, Floats]:
    """Places between 0 and 1, and lower and upper limit of the difference there, for ``n`` values."""
    rng = np.random.default_rng(SEED)
    at = np.arange(1, n) / n
    pointwise = simulate_confidence_bands(n, 1, at, level, SIMULATIONS, rng)
    lower, upper = get_pointwise_confidence_band(pointwise, n, at)
    return at, np.asarray(lower) - at, np.asarray(upper) - at


def uniformity(found: Placed) -> pd.DataFrame:
    """By quantity: replicates, chi-square p-value, largest difference of the ECDF, and whether it leaves two bands.

    ``outside_95`` is of a band for each quantity alone, so one in twenty leaves it by chance; ``outside_joint`` of one
    that all quantities together keep with 95 % (Bonferroni). The p-value is NaN below `FEWEST` replicates.
    """
    rows = []
    values = found.uniform
    joint = 1.0 - (1.0 - BAND) / len(found.names)
    n = values.shape[0]
    for k, name in enumerate(found.names):
        observed = np.bincount((values[:, k] * BINS).astype(int), minlength=BINS)
        wide, usual = band(values[:, k], joint), band(values[:, k])
        rows.append(
            {
                "quantity": name,
                "n": n,
                "chi2_p": float(chisquare(observed).pvalue) if n >= FEWEST else float("nan"),
                "ecdf_difference": float(np.abs(usual.difference).max()),
                "outside_95": not usual.inside,
                "outside_joint": not wide.inside,
            }
        )
    return pd.DataFrame(rows)


def coverage(found: Placed, levels: Sequence[float] = LEVELS) -> pd.DataFrame:
    """By quantity and level: how often the central interval holds the truth.

    Columns quantity, level, n, inside, share, mc_error (of a share that is nominal), p (exact binomial, two-sided).
    """
    from_middle = 2.0 * np.abs(found.uniform - 0.5)
    n = found.numbers.size
    rows = []
    for level in levels:
        for name, inside in zip(found.names, (from_middle <= level).sum(axis=0).tolist(), strict=True):
            rows.append(
                {
                    "quantity": name,
                    "level": level,
                    "n": n,
                    "inside": inside,
                    "share": inside / n,
                    "mc_error": float(np.sqrt(level * (1.0 - level) / n)),
                    "p": float(binomtest(inside, n, level).pvalue),
                }
            )
    return pd.DataFrame(rows)


def coverage_of_all(found: Placed, quantities: Sequence[str], levels: Sequence[float]) -> pd.DataFrame:
    """By level: share of all truths inside, over quantities and replicates; its error is that between replicates."""
    columns = [found.names.index(name) for name in quantities]
    from_middle = 2.0 * np.abs(found.uniform[:, columns] - 0.5)
    rows = []
    for level in levels:
        by_fit = (from_middle <= level).mean(axis=1)
        error = float(by_fit.std(ddof=1) / np.sqrt(by_fit.size)) if by_fit.size > 1 else float("nan")
        rows.append({"level": level, "fits": by_fit.size, "share": float(by_fit.mean()), "mc_error": error})
    return pd.DataFrame(rows)


def recovery(found: Placed, level: float = 0.9) -> pd.DataFrame:
    """By quantity: mean truth, bias and rmse of the posterior median, and how often the interval holds the truth."""
    error = found.median - found.truth
    n = found.numbers.size
    inside = (2.0 * np.abs(found.uniform - 0.5) <= level).mean(axis=0)
    spread = error.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.full(len(found.names), np.nan)
    return pd.DataFrame(
        {
            "quantity": found.names,
            "n": n,
            "truth": found.truth.mean(axis=0),
            "bias": error.mean(axis=0),
            "bias_mc_error": spread,
            "rmse": np.sqrt((error**2).mean(axis=0)),
            f"inside_{level * 100:.0f}": inside,
        }
    )

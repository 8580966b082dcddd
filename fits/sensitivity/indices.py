"""From outcomes at the points of a design to indices, each with an interval.

SALib's estimators throughout, except for Shapley effects (`shapley`) and the means of squared derivatives, which are
three lines. Intervals come from drawing units again: with replacement where a unit stands by itself (blocks,
trajectories, replicates, walks); for estimators that sort or look for neighbours, which equal rows would mislead, from
halves of the rows without replacement, whose scatter is that of the whole (delete-half jackknife: Shao & Wu 1989).
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from SALib.analyze import fast as fast_analysis
from SALib.analyze import morris as morris_analysis
from SALib.analyze import pawn as pawn_analysis
from SALib.analyze import rbd_fast as rbd_analysis
from SALib.analyze.delta import calc_delta
from SALib.analyze.sobol import first_order, second_order, total_order
from scipy.special import ndtri
from threadpoolctl import threadpool_limits

from reinfuse.model.errors import ReinfuseError

from .designs import FAST_HARMONICS, GIVEN_DATA, MORRIS_LEVELS, Design, unit_problem
from .inputs import normal_scores
from .shapley import MOST_NEIGHBOURLY, from_neighbours, from_walks

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]

#: Level of the intervals, unless said otherwise: that of the project's tables.
LEVEL: Final = 0.89
RESAMPLES: Final = 100
#: Halves of slow estimators.
HALVES: Final = 20
#: Index that ranks the inputs, by method.
MAIN: Final[Mapping[str, str]] = {
    "sobol": "total",
    "fast": "total",
    "rbd-fast": "first",
    "morris": "mu_star",
    "pawn": "median",
    "delta": "delta",
    "dgsm": "bound",
    "shapley": "shapley",
    "shapley-knn": "shapley",
}
#: What an index says, in a few words.
ABOUT: Final[Mapping[str, str]] = {
    "first": "share of the variance that goes when this input is known",
    "total": "share of the variance that stays when all others are known",
    "second": "share of the variance that two inputs make together, beyond each alone",
    "mu_star": "mean absolute change over half or more of the input's range, in the outcome's unit",
    "sigma": "scatter of that change: curvature and interaction",
    "median": "median distance of distributions with the input in a tenth of its range",
    "delta": "half the mean area between the density and that with the input known",
    "bound": "upper bound of the total share, from the mean squared derivative",
    "shapley": "share of the variance, correlated parts split evenly",
}
#: Relative size below which an outcome's spread is rounding.
CONSTANT: Final = 1e-7


@dataclass(frozen=True, eq=False)
class Index:
    """An index of every input, or of every pair.

    Attributes
    ----------
    value, lower, upper : ndarray (k,) or (k, k)
        Pairs above the diagonal, NaN elsewhere.
    """

    value: Floats
    lower: Floats
    upper: Floats


def check_varies(name: str, y: Floats) -> None:
    """Refuse an outcome that is the same for everybody.

    Raises
    ------
    ReinfuseError
        With the value.
    """
    if y.size == 0:
        raise ReinfuseError(f"{name}: no run is left to look at; see failures.csv")
    if np.ptp(y) <= CONSTANT * max(float(np.abs(y).max()), 1e-12):
        raise ReinfuseError(
            f"{name} is {y.flat[0]:g} in all {y.size} runs: what does not vary answers to nothing; "
            "name another outcome, or let more inputs vary"
        )


def estimate(
    design: Design,
    y: Floats,
    *,
    units: Integers,
    rng: np.random.Generator,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    second_order: bool = False,
) -> dict[str, Index]:
    """Indices of one outcome.

    Parameters
    ----------
    design
        The points.
    y
        (u, rows) outcomes of the units that are there, no NaN; for ``dgsm`` (u, 1 + k): value, then derivatives.
    units
        (u,) their numbers in the design.
    rng
        Draws units again.
    level, resamples
        Of the intervals.
    second_order
        Whether pairs too (a Sobol design with them).

    Returns
    -------
    dict
        By name of the index.

    Raises
    ------
    ReinfuseError
        If the outcome is constant, or there are fewer than 8 units (2 of FAST, 64 rows).
    """
    least = {"fast": 2, **dict.fromkeys(GIVEN_DATA, 64)}.get(design.method, 8)
    if len(y) < least:
        raise ReinfuseError(f"{len(y)} complete units are too few for an index; give a larger --samples")
    work: Callable[[Integers], dict[str, Floats]]
    y = np.asarray(y, dtype=np.float64)
    if design.method in ("sobol", "morris", "shapley", "fast", "dgsm"):
        work = _by_units(design, y, units, second_order)
        return _bootstrapped(work, len(y), rng, level, resamples)
    values = design.values(0, int(units.max()) + 1)[units, 0]
    work = _by_rows(design.method, normal_scores(values), y[:, 0])
    return _from_halves(work, len(y), rng, level, min(resamples, HALVES))


# ------------------------------------------------------------------------------------------- estimators


def _by_units(
    design: Design, y: Floats, units: Integers, second_order_too: bool
) -> Callable[[Integers], dict[str, Floats]]:
    k = design.inputs.k
    if design.method == "sobol":
        centred = (y - y.mean()) / y.std()
        return lambda rows: _sobol(centred[rows], k, second_order_too)
    if design.method == "shapley":
        orders = np.stack([design.permutation(int(unit)) for unit in units])
        worth, total = from_walks(y, orders)
        return lambda rows: {"shapley": worth[rows].mean(axis=0) / total[rows].mean()}
    if design.method == "dgsm":
        squares = y[:, 1:] ** 2
        # Poincaré's constant of a standard normal is 1: the mean squared derivative bounds the total share
        return lambda rows: {"bound": squares[rows].mean(axis=0) / y[rows, 0].var(ddof=1)}
    if design.method == "morris":
        points = np.concatenate([design.trajectories(int(unit), 1) for unit in units])
        return lambda rows: _morris(points[rows].reshape(-1, k), y[rows].ravel(), k)
    found = [_fast(one, k) for one in y]
    first, total = (np.stack([one[name] for one in found]) for name in ("S1", "ST"))
    return lambda rows: {"first": first[rows].mean(axis=0), "total": total[rows].mean(axis=0)}


def _fast(y: Floats, k: int) -> dict[str, Floats]:
    """One replicate; SALib warns of its bootstrap within a curve, and intervals here are from replicates instead."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="FAST confidence intervals", category=UserWarning)
        found = fast_analysis.analyze(unit_problem(k), y, M=FAST_HARMONICS, num_resamples=2, seed=1)
    return {name: np.asarray(found[name], dtype=np.float64) for name in ("S1", "ST")}


def _sobol(y: Floats, k: int, pairs: bool) -> dict[str, Floats]:
    a, b, ab = y[:, 0], y[:, -1], y[:, 1 : k + 1]
    columns = [(a[:, None].repeat(k, 1), ab, b[:, None].repeat(k, 1))]
    found = {"first": first_order(*columns[0]), "total": total_order(*columns[0])}
    if pairs:
        ba = y[:, k + 1 : 2 * k + 1]
        matrix = np.full((k, k), np.nan)
        for i in range(k - 1):
            rest = k - 1 - i
            wide = [np.repeat(x[:, None], rest, 1) for x in (a, ab[:, i], ba[:, i], b)]
            matrix[i, i + 1 :] = second_order(wide[0], wide[1], ab[:, i + 1 :], wide[2], wide[3])
        found["second"] = matrix
    return found


def _morris(points: Floats, y: Floats, k: int) -> dict[str, Floats]:
    found = morris_analysis.analyze(unit_problem(k), points, y, num_resamples=2, num_levels=MORRIS_LEVELS, seed=1)
    return {name: np.asarray(found[name], dtype=np.float64) for name in ("mu_star", "sigma")}


def _by_rows(method: str, scores: Floats, y: Floats) -> Callable[[Integers], dict[str, Floats]]:
    k = scores.shape[1]
    varies = np.ptp(scores, axis=0) > 0
    if not varies.all():  # one value is left of an input, so it tells nothing of what is left
        rest = _by_rows(method, scores[:, varies], y)
        return lambda rows: {name: _zeros_beside(found, varies) for name, found in rest(rows).items()}
    problem = unit_problem(k)
    if method == "pawn":
        return lambda rows: {"median": np.asarray(pawn_analysis.analyze(problem, scores[rows], y[rows])["median"])}
    if method == "rbd-fast":
        return lambda rows: {
            "first": np.asarray(rbd_analysis.analyze(problem, scores[rows], y[rows], num_resamples=2, seed=1)["S1"])
        }
    if method == "delta":
        return lambda rows: _delta(scores[rows], y[rows])
    chosen = np.sort(_foremost(scores, y))

    def effects(rows: Integers) -> dict[str, Floats]:
        out = np.zeros(k)
        out[chosen] = from_neighbours(scores[np.ix_(rows, chosen)], y[rows])
        return {"shapley": out}

    return effects


def _zeros_beside(found: Floats, there: NDArray[np.bool_]) -> Floats:
    out = np.zeros(there.size)
    out[there] = found
    return out


def _delta(scores: Floats, y: Floats) -> dict[str, Floats]:
    """SALib's estimator itself: its `analyze` draws again many times, and the halves do that here."""
    n = y.size
    power = 2.0 / (7.0 + np.tanh((1500.0 - n) / 500.0))  # classes as SALib has them
    edges = np.linspace(0, n, min(int(np.ceil(n**power)), 48) + 1)
    grid = np.linspace(y.min(), y.max(), 100)
    columns = [np.ascontiguousarray(x) for x in scores.T]
    with threadpool_limits(1):  # thousands of small solves: threads wait for each other longer than they work
        return {"delta": np.array([calc_delta(y, grid, x, edges) for x in columns])}


def _foremost(scores: Floats, y: Floats) -> Integers:
    """The inputs that alone tell most, as many as nearest neighbours can take."""
    k = scores.shape[1]
    if k <= MOST_NEIGHBOURLY:
        return np.arange(k)
    alone = np.asarray(rbd_analysis.analyze(unit_problem(k), scores, y, num_resamples=2, seed=1)["S1"])
    return np.argsort(-alone, kind="stable")[:MOST_NEIGHBOURLY]


# -------------------------------------------------------------------------------------------- intervals


def _bootstrapped(
    work: Callable[[Integers], dict[str, Floats]], n: int, rng: np.random.Generator, level: float, resamples: int
) -> dict[str, Index]:
    """Intervals from units drawn again with replacement: the scatter of the resamples around the estimate."""
    again = [work(rng.integers(n, size=n)) for _ in range(resamples)]
    return _around(work(np.arange(n)), again, level)


def _from_halves(
    work: Callable[[Integers], dict[str, Floats]], n: int, rng: np.random.Generator, level: float, resamples: int
) -> dict[str, Index]:
    """Intervals from halves of the rows, drawn without replacement."""
    again = [work(np.sort(rng.permutation(n)[: n // 2])) for _ in range(resamples)]
    return _around(work(np.arange(n)), again, level)


def _around(value: dict[str, Floats], again: list[dict[str, Floats]], level: float) -> dict[str, Index]:
    reach = float(ndtri(0.5 + level / 2))
    out = {}
    for name, middle in value.items():
        error = reach * np.stack([one[name] for one in again]).std(axis=0, ddof=1)
        out[name] = Index(middle, middle - error, middle + error)
    return out

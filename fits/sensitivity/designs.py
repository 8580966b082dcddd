"""Which points a method looks at: units of so many rows, made one by one, so that more of them never change the first.

A unit is what can be drawn again by itself: a block of Saltelli's, a trajectory of Morris's, a replicate of FAST, a
walk along a permutation, a row. Points are standard normal scores of the inputs.
"""

import warnings
from typing import Final

import numpy as np
from numpy.typing import NDArray
from SALib.sample import fast_sampler
from SALib.sample import morris as morris_sampler
from scipy.special import ndtri
from scipy.stats import qmc

from reinfuse.model.errors import ReinfuseError

from .inputs import Dependence, Inputs

type Floats = NDArray[np.float64]

#: Methods that need inputs to be independent.
INDEPENDENT_ONLY: Final = ("sobol", "morris", "fast", "rbd-fast", "dgsm")
#: Methods that look at rows as they are drawn.
GIVEN_DATA: Final = ("pawn", "delta", "rbd-fast", "shapley-knn")
METHODS: Final = ("sobol", "morris", "pawn", "shapley", "shapley-knn", "fast", "rbd-fast", "delta", "dgsm")
#: Share of each end of an input that Morris's grid leaves out: its levels include both ends.
TAIL: Final = 0.05
MORRIS_LEVELS: Final = 4
FAST_HARMONICS: Final = 4
#: Points of one curve of FAST, odd.
FAST_POINTS: Final = 257
#: Bits of Sobol's sequence that are kept from 0 and 1.
EDGE: Final = 1e-12


class Design:
    """The points of a method for some inputs.

    Parameters
    ----------
    method
        One of `METHODS`.
    inputs
        What is varied.
    seed
        Fixes all points.
    second_order
        For ``sobol``: whether pairs are asked for too.
    dependence
        What the methods of `INDEPENDENT_ONLY` do with dependent inputs: ``refuse``; ``independent``: cut every
        correlation; ``rosenblatt``: vary what each input adds to those before it.

    Raises
    ------
    ReinfuseError
        If the method needs independent inputs and they are not.
    """

    def __init__(
        self, method: str, inputs: Inputs, *, seed: int, second_order: bool = False, dependence: Dependence = "refuse"
    ) -> None:
        if method not in METHODS:
            raise ReinfuseError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
        if method in INDEPENDENT_ONLY and inputs.dependent and dependence == "refuse":
            shown = ", ".join(f"{a} and {b} {r:+.2f}" for a, b, r in inputs.dependent[:3])
            raise ReinfuseError(
                f"{method} needs independent inputs, and {len(inputs.dependent)} pairs of these are correlated "
                f"({shown}); take shapley, shapley-knn, delta or pawn, or say --dependence independent (another "
                "population: same marginals, no correlation) or rosenblatt (what each input adds to those before it)"
            )
        cut = dependence == "independent" and method in INDEPENDENT_ONLY
        self.method, self.seed, self.second_order = method, seed, second_order
        self.inputs = inputs.uncorrelated() if cut else inputs
        self.dependence = dependence if inputs.dependent and method in INDEPENDENT_ONLY else "none"
        self._factor = np.linalg.cholesky(self.inputs.correlation)

    @property
    def rows(self) -> int:
        """Model runs of a unit."""
        k = self.inputs.k
        return {
            "sobol": 2 * k + 2 if self.second_order else k + 2,
            "morris": k + 1,
            "shapley": k + 1,
            "fast": k * FAST_POINTS,
            "dgsm": 1,
        }.get(self.method, 1)

    @property
    def most(self) -> int | None:
        """Units that there are; None: as many as wanted."""
        draws = self.inputs.draws
        return None if self.method not in GIVEN_DATA or draws is None or self.dependence != "none" else len(draws)

    def values(self, first: int, count: int) -> Floats:
        """Values of the inputs, (count, rows, k), of so many units from one on."""
        if self.most is not None and self.inputs.draws is not None:
            return np.asarray(self.inputs.draws[first : first + count, None, :])
        scores = self.scores(first, count)
        return self.inputs.at(scores.reshape(-1, self.inputs.k)).reshape(scores.shape)

    def scores(self, first: int, count: int) -> Floats:
        """Standard normal scores, (count, rows, k)."""
        k = self.inputs.k
        if self.method == "shapley":
            return np.stack([self._walk(first + i) for i in range(count)])
        if self.method == "sobol":
            scores = self._saltelli(first, count)
        elif self.method == "morris":
            scores = ndtri(TAIL + (1 - 2 * TAIL) * self.trajectories(first, count))
        elif self.method == "fast":
            scores = np.stack([self._replicate(first + i) for i in range(count)])
        else:
            scores = self._sequence(k, first, count)[:, None, :]
        return np.asarray(scores @ self._factor.T)

    def trajectories(self, first: int, count: int) -> Floats:
        """Morris's trajectories in the unit cube, (count, k + 1, k)."""
        problem = unit_problem(self.inputs.k)
        return np.stack(
            [morris_sampler.sample(problem, 1, MORRIS_LEVELS, seed=self._seed(first + i)) for i in range(count)]
        )

    def permutation(self, unit: int) -> NDArray[np.int64]:
        """Order of the inputs in which a walk changes them."""
        return self._rng(unit).permutation(self.inputs.k)

    def _rng(self, unit: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(7, unit)))

    def _seed(self, unit: int) -> int:
        return int(np.random.SeedSequence(self.seed, spawn_key=(7, unit)).generate_state(1)[0] % 2**31)

    def _sequence(self, dims: int, first: int, count: int) -> Floats:
        """Scores of a scrambled Sobol sequence."""
        engine = qmc.Sobol(
            dims, scramble=True, rng=np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(8,)))
        )
        if first:
            engine.fast_forward(first)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The balance properties", category=UserWarning)
            uniform = engine.random(count)
        return np.asarray(ndtri(np.clip(uniform, EDGE, 1 - EDGE)))

    def _saltelli(self, first: int, count: int) -> Floats:
        """Blocks in the order of SALib: A, A with one column of B for each input (, B with one of A), B."""
        k = self.inputs.k
        both = self._sequence(2 * k, first, count)
        a, b = both[:, :k], both[:, k:]
        out = np.empty((count, self.rows, k))
        out[:] = a[:, None, :]
        columns = np.arange(k)
        out[:, 1 + columns, columns] = b
        if self.second_order:
            out[:, k + 1 : 2 * k + 1] = b[:, None, :]
            out[:, k + 1 + columns, columns] = a
        out[:, -1] = b
        return out

    def _replicate(self, unit: int) -> Floats:
        problem = unit_problem(self.inputs.k)
        points = fast_sampler.sample(problem, FAST_POINTS, M=FAST_HARMONICS, seed=self._seed(unit))
        return np.asarray(ndtri(np.clip(points, EDGE, 1 - EDGE)))

    def _walk(self, unit: int) -> Floats:
        """From one point to another, an input at a time in the order of a permutation, each given those before it.

        With a correlation, the scores in this order are ``L e``, L its Cholesky factor: the j-th point has the first j
        of ``e`` from the end and the others from the start, so it shares with the end just what those inputs tell.
        """
        k, rng = self.inputs.k, self._rng(unit)
        order = rng.permutation(k)
        end, start = rng.standard_normal((2, k))
        steps = np.where(np.arange(k) < np.arange(k + 1)[:, None], end, start)
        factor = np.linalg.cholesky(self.inputs.correlation[np.ix_(order, order)])
        out = np.empty((k + 1, k))
        out[:, order] = steps @ factor.T
        return out


def unit_problem(k: int) -> dict[str, object]:
    """SALib's description of k inputs between 0 and 1."""
    return {"num_vars": k, "names": [f"x{i}" for i in range(k)], "bounds": [[0.0, 1.0]] * k}

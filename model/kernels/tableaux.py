"""Explicit Runge-Kutta methods as data.

``TSIT5`` serves tolerances that fits and populations use, ``VERN7`` tight ones; `method_for` chooses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import vern7

TIGHT = 1e-6  # below this tolerance Vern7 takes fewer evaluations for the same error (docs/numerics.md)


@dataclass(frozen=True)
class Tableau:
    """A method whose last stage is the first of the next step.

    Attributes
    ----------
    name, order
        Of the solution.
    stages
        Number of stages, S: stage 0 is the start of the step, row S-1 is the solution.
    nodes
        (S + X,) times of the stages; the last X serve the interpolant only.
    matrix
        (S + X, S + X): row s holds the weights of earlier stages in the point of stage s.
    error
        (S,) the solution minus the embedded one.
    error_order
        The power of the step length in the error estimate.
    dense
        (S + X, degree): the weight of stage s at fraction x of the step is ``sum_k dense[s, k] x^(k+1)``.
    """

    name: str
    order: int
    stages: int
    nodes: Any
    matrix: Any
    error: Any
    error_order: int
    dense: Any

    @property
    def slots(self) -> int:
        """Stages of a step, those of the interpolant included."""
        return len(self.nodes)


def _rows(rows: list[dict[int, float]], width: int) -> Any:
    matrix = np.zeros((len(rows), width))
    for s, row in enumerate(rows):
        for stage, weight in row.items():
            matrix[s, stage] = weight
    return matrix


def _vern7() -> Tableau:
    stages, slots = 11, 16
    matrix = _rows(vern7.MATRIX, slots)
    dense = np.zeros((slots, 7))
    for stage, weights in vern7.INTERPOLANT.items():
        dense[stage] = weights
    return Tableau("vern7", 7, stages, matrix.sum(axis=1), matrix, _rows([vern7.ERROR], stages)[0], 7, dense)


#: Ch. Tsitouras, Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying assumption, Computers &
#: Mathematics with Applications 62 (2011) 770-775; the interpolant is of order 4.
TSIT5 = Tableau(
    name="tsit5",
    order=5,
    stages=7,
    nodes=np.array([0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0]),
    matrix=np.array(
        [
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [0.161, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [-0.008480655492356989, 0.335480655492357, 0.0, 0.0, 0.0, 0.0, 0.0],
            [2.8971530571054935, -6.359448489975075, 4.3622954328695815, 0.0, 0.0, 0.0, 0.0],
            [5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525, 0.0, 0.0, 0.0],
            [
                *(5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401),
                *(-0.028269050394068383, 0.0, 0.0),
            ],
            [
                *(0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742),
                *(-3.290069515436081, 2.324710524099774, 0.0),
            ],
        ]
    ),
    error=np.array(
        [
            *(-0.00178001105222577714, -0.0008164344596567469, 0.007880878010261995, -0.1447110071732629),
            *(0.5823571654525552, -0.45808210592918697, 0.015151515151515152),
        ]
    ),
    error_order=5,
    dense=np.array(
        [
            [1.0, -2.763706197274826, 2.9132554618219126, -1.0530884977290216],
            [0.0, 0.13169999999999998, -0.2234, 0.1017],
            [0.0, 3.9302962368947516, -5.941033872131505, 2.490627285651253],
            [0.0, -12.411077166933676, 30.33818863028232, -16.548102889244902],
            [0.0, 37.50931341651104, -88.1789048947664, 47.37952196281928],
            [0.0, -27.896526289197286, 65.09189467479366, -34.87065786149661],
            [0.0, 1.5, -4.0, 2.5],
        ]
    ),
)
VERN7 = _vern7()
METHODS = {method.name: method for method in (TSIT5, VERN7)}


def method_for(tolerance: float) -> str:
    """The name of the method that needs least time at this tolerance."""
    return VERN7.name if tolerance < TIGHT else TSIT5.name

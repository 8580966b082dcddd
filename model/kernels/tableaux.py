"""Runge-Kutta methods as data.

Tsit5: Ch. Tsitouras, Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying assumption,
Computers & Mathematics with Applications 62 (2011) 770-775; the interpolant is of order 4.
"""

from __future__ import annotations

import numpy as np

STAGES = 7  # the seventh is the first of the next step (FSAL)

NODES = np.array([0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0])

# row s: weights of stages 0..s-1 in the point of stage s; row 6 is the solution
MATRIX = np.zeros((STAGES, STAGES))
MATRIX[1, :1] = [0.161]
MATRIX[2, :2] = [-0.008480655492356989, 0.335480655492357]
MATRIX[3, :3] = [2.8971530571054935, -6.359448489975075, 4.3622954328695815]
MATRIX[4, :4] = [5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525]
MATRIX[5, :5] = [
    5.86145544294642,
    -12.92096931784711,
    8.159367898576159,
    -0.071584973281401,
    -0.028269050394068383,
]
MATRIX[6, :6] = [
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
]

# the solution minus the embedded one of order 4
ERROR = np.array(
    [
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        0.015151515151515152,
    ]
)

# interpolant: weight of stage s at fraction x is sum_k DENSE[s, k] x^(k+1)
DENSE = np.array(
    [
        [1.0, -2.763706197274826, 2.9132554618219126, -1.0530884977290216],
        [0.0, 0.13169999999999998, -0.2234, 0.1017],
        [0.0, 3.9302962368947516, -5.941033872131505, 2.490627285651253],
        [0.0, -12.411077166933676, 30.33818863028232, -16.548102889244902],
        [0.0, 37.50931341651104, -88.1789048947664, 47.37952196281928],
        [0.0, -27.896526289197286, 65.09189467479366, -34.87065786149661],
        [0.0, 1.5, -4.0, 2.5],
    ]
)

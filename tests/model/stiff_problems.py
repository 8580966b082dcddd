"""The classic stiff problems, with their reference solutions.

Equations, parameters and end values as in the Test Set for Initial Value Problem Solvers (F. Mazzia, C. Magherini,
University of Bari, release 2.4, 2008); van der Pol is the scaled form with mu^2 = 1e6. Scales are the sizes below which
a state's accuracy is meant to be absolute.
"""

from dataclasses import dataclass

import numpy as np

from reinfuse.model.derive.build import Kernel, build
from reinfuse.model.equations.definition import OdeModel, State


@dataclass(frozen=True)
class Stiff:
    """A problem: start, right-hand side on plain numbers or symbols, end, solution there, scales of the states."""

    name: str
    start: tuple[float, ...]
    rates: object
    end: float
    solution: tuple[float, ...]
    scales: tuple[float, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"y{i}" for i in range(len(self.start)))

    def model(self) -> OdeModel:
        """The same as a model whose only parameter multiplies the rate of the first state."""

        def rates(t, y, h, p):
            values = self.rates(*(getattr(y, name) for name in self.names))
            return dict(zip(self.names, values, strict=True)) | {"y0": p.factor * values[0]}

        states = tuple(State(n, "-", log=False, scale=s) for n, s in zip(self.names, self.scales, strict=True))
        observed = self.names[-1]
        return OdeModel(
            self.name,
            states,
            (),
            lambda p: (dict(zip(self.names, self.start, strict=True)), {}),
            rates,
            lambda t, y, h, p: {name: getattr(y, name) for name in self.names},
            {},
            lambda t, y, h, p: {"last": (getattr(y, observed), p.sd)},
        )

    def kernel(self) -> Kernel:
        return build(self.model(), kinds=("last",))


def robertson(a, b, c):
    forward, back, pair = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return -forward + back, forward - back - pair, pair


def van_der_pol(x, v):
    return v, ((1.0 - x * x) * v - x) * 1e6


def hires(a, b, c, d, e, f, g, h):
    return (
        -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
        1.71 * a - 8.75 * b,
        -10.03 * c + 0.43 * d + 0.035 * e,
        8.32 * b + 1.71 * c - 1.12 * d,
        -1.745 * e + 0.43 * f + 0.43 * g,
        -280.0 * f * h + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g,
        280.0 * f * h - 1.81 * g,
        -280.0 * f * h + 1.81 * g,
    )


def oregonator(a, b, c):
    return 77.27 * (b + a * (1.0 - 8.375e-6 * a - b)), (c - (1.0 + a) * b) / 77.27, 0.161 * (a - c)


PROBLEMS = (
    Stiff(
        "robertson",
        (1.0, 0.0, 0.0),
        robertson,
        1e11,
        (0.2083340149701255e-07, 0.8333360770334713e-13, 0.9999999791665050),
        (1e-7, 1e-12, 1.0),
    ),
    Stiff("vanderpol", (2.0, 0.0), van_der_pol, 2.0, (1.706167732170483, -0.8928097010247975), (1.0, 1.0)),
    Stiff(
        "hires",
        (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057),
        hires,
        321.8122,
        (
            *(0.7371312573325668e-3, 0.1442485726316185e-3, 0.5888729740967575e-4, 0.1175651343283149e-2),
            *(0.2386356198831331e-2, 0.6238968252742796e-2, 0.2849998395185769e-2, 0.2850001604814231e-2),
        ),
        (1e-3,) * 8,
    ),
    Stiff(
        "oregonator",
        (1.0, 2.0, 3.0),
        oregonator,
        360.0,
        (0.1000814870318523e1, 0.1228178521549917e4, 0.1320554942846706e3),
        (1.0, 1.0, 1.0),
    ),
)


def solve(kernel: Kernel, times, *, tolerance: float, max_steps: int, factor: float = 1.0):
    """Read-outs (T, states) and status."""
    values = {"factor": factor, "sd": 1.0}
    theta = np.array([[values[name] for name in kernel.parameters]])
    out, status = np.full((1, len(times), len(kernel.readouts)), np.nan), np.zeros(1, dtype=np.int64)
    none = (np.zeros((1, 1)), np.zeros((1, 1), dtype=np.int64), np.zeros(1, dtype=np.int64))
    kernel.simulate(theta, *none, np.asarray(times, dtype=float), tolerance, max_steps, out, status)
    return out[0], int(status[0])

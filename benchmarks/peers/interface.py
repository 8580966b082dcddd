"""What a peer offers, whether it solves trajectories or gradients.

A `Method` is one way of solving: ``prepare(problem, tolerance, threads)`` compiles and gives a function without
arguments that solves all patients anew, and what is timed. What it answers is read by ``read(problem, answer)``, which
is not timed: (n, T, states) for a simulation, not finite where unsolved; (n, parameters) for a gradient.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float64]
type Solve = Callable[[], Any]


def as_it_is(problem: Any, answer: Any) -> Floats:
    """The answer is what is wanted."""
    return np.asarray(answer)


@dataclass(frozen=True)
class Method:
    """One way of solving.

    Attributes
    ----------
    peer, label
        The package, and the method's name in tables.
    prepare
        ``prepare(problem, tolerance, threads)``.
    read
        ``read(problem, answer)``.
    tolerances
        Nominal ones to run at.
    patients
        How many are solved; None: all. Slow methods solve fewer.
    threads
        Numbers of threads that the method can use.
    note
        What a reader of the table must know.
    quick
        Whether it also runs with ``--quick``.
    """

    peer: str
    label: str
    prepare: Callable[[Any, float, int], Solve]
    tolerances: tuple[float, ...]
    read: Callable[[Any, Any], Floats] = as_it_is
    patients: int | None = None
    threads: tuple[int, ...] = (1, 2)
    note: str = ""
    quick: bool = True

    def at(self, quick: bool) -> tuple[float, ...]:
        """Tolerances of a run."""
        if not quick:
            return self.tolerances
        return self.tolerances[::2] if self.quick else ()


def started(method: Method, posed: Any, tolerance: float, threads: int) -> tuple[Solve, Floats, float]:
    """A method ready to be timed, what its first call found, and the seconds until then, compilation included."""
    start = time.perf_counter()
    solve = method.prepare(posed, tolerance, threads)
    answer = solve()
    taken = time.perf_counter() - start
    return solve, method.read(posed, answer), taken

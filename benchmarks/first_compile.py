"""How long a model takes to compile: run by `compiling`, in a process of its own with empty caches.

With the argument ``warm``, another model is compiled before, so that only what is the unified model's own is left.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from likelihood import gradient_problem, recorded
from peers import ours
from scaling import observed_row, reported_row
from system import Problem, simulation_problem
from timing import seconds


def first_simulation(problem: Problem) -> Callable[[], Any]:
    """Build and call, for trajectories."""
    return lambda: ours.prepare(problem, 1e-6, 1)()


def first_gradient(problem: Problem, **options: Any) -> Callable[[], Any]:
    """Build and call, for gradients; the records are of no interest."""
    task = recorded(problem, problem.start[:, None, :].repeat(problem.days.size, axis=1), **options)
    return lambda: ours.prepare_adjoint(task, 1e-6, 1)()


def main(warm: bool) -> None:
    """Print seconds until the first trajectories and until the first gradients."""
    if warm:
        first_simulation(reported_row(2, 8))()
        problem, schedule = observed_row(2, 8)
        first_gradient(problem, schedule=schedule)()
    print(
        json.dumps(
            {
                "simulation_s": seconds(first_simulation(simulation_problem(8))),
                "gradient_s": seconds(first_gradient(gradient_problem(8))),
            }
        )
    )


if __name__ == "__main__":
    main("warm" in sys.argv[1:])

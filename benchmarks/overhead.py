"""What the Op adds to a call of the kernel: a compiled PyTensor graph beside the C function itself, in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from timing import SHORTEST, seconds, spread


def pair() -> tuple[Callable[[], Any], Callable[[], Any], int]:
    """The graph's value and gradient, the C function's, and the number of patients: the synthetic cohort."""
    import pytensor
    import pytensor.tensor as pt
    from pytensor.compile.mode import Mode
    from pytensor.graph.rewriting.db import RewriteDatabaseQuery

    from reinfuse.fits.cohort import read_cohort
    from reinfuse.fits.likelihood_op import UnlockedLinker, cohort_loglik, entry_of, kernel_data
    from reinfuse.fits.problem import pose
    from reinfuse.fits.synthetic import BUNDLED
    from reinfuse.model.simulate import Status

    problem = pose(read_cohort(BUNDLED))
    theta, counter = pt.dmatrix("theta"), pt.lvector("counter")
    total = cohort_loglik(theta, counter, problem).sum()
    mode = Mode(UnlockedLinker(), RewriteDatabaseQuery(include=["fast_run", "numba"]))
    compiled = pytensor.function([theta, counter], [total, pt.grad(total, theta)], mode=mode).vm.jit_fn

    values, outcomes = np.ascontiguousarray(problem.base), np.zeros(len(Status), dtype=np.int64)
    data = kernel_data(problem)
    loglik, gradient = np.empty(problem.n), np.empty(values.shape)
    entry = entry_of(problem).ctypes
    order, *rest = (a.ctypes.data for a in data)
    pointers = (order, values.ctypes.data, *rest, loglik.ctypes.data, gradient.ctypes.data, outcomes.ctypes.data)
    sizes = (problem.n, problem.n, problem.ev_time.shape[1], problem.ob_time.shape[1])

    alive = (data, values, loglik, gradient, outcomes)  # the C function knows addresses only

    def raw(_: Any = alive) -> None:
        entry(*pointers, *sizes, problem.tolerance, problem.max_steps, True)

    def graph() -> tuple[Any, ...]:
        return compiled(values, outcomes)

    raw()
    value, slopes = graph()
    np.testing.assert_array_equal(slopes, gradient)
    assert float(value) == float(loglik.sum()) or abs(float(value) / loglik.sum() - 1.0) < 1e-12
    return graph, raw, problem.n


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """The section of the results: each graph call beside the kernel call just before it."""
    graph, raw, patients = pair()
    calls = max(1, round(SHORTEST / 10 / seconds(raw)))
    kernel, whole = [], []
    for _ in range(10 if quick else 100):
        kernel.append(seconds(lambda: [raw() for _ in range(calls)]) / calls)
        whole.append(seconds(lambda: [graph() for _ in range(calls)]) / calls)
    ratio = spread([g / r - 1.0 for g, r in zip(whole, kernel, strict=True)], 100.0)
    say(f"the Op adds {ratio['median']:.1f} % to a call of {1e6 * np.median(kernel):.0f} µs")
    return {
        "patients": patients,
        "kernel_us": spread(kernel, 1e6),
        "graph_us": spread(whole, 1e6),
        "overhead_percent": ratio,
    }

"""Our kernels beside SciPy on the same equations, in one run: trajectories per second and gradients at equal error.

Run by `make bench`; prints a table and writes benchmarks/results.json. Every timing is the median of several repeats,
ours and SciPy's in turn. Errors are the largest differences of log burden from a solution at a tolerance of 1e-12.
"""

import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from reinfuse.model.course import Infusion, resolve
from reinfuse.model.derive.build import build
from reinfuse.model.equations import bcma
from reinfuse.model.parameters import REAL_COHORT
from reinfuse.model.schedule import slot_parameters
from reinfuse.model.simulate import simulate_population

PATIENTS, REPEATS, PEER_PATIENTS = 2048, 5, 8
TIMES = np.array([0.0, 7.0, 14.0, 30.0, 60.0, 100.0, 180.0, 270.0, 360.0, 540.0, 720.0])
COURSE = [Infusion(product="ide-cel")]

type Floats = NDArray[np.float64]


def median_seconds(action: Callable[[], object]) -> float:
    """Median wall time of several repeats, after one that compiles."""
    action()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def population(rng: np.random.Generator, n: int) -> dict[str, Floats]:
    """Virtual patients around the medians."""
    names = ("rho", "tg", "dM", "KE", "B0")
    return {k: REAL_COHORT[k].median * np.exp(0.3 * rng.standard_normal(n)) for k in names}


def ours(values: dict[str, Floats], tolerance: float) -> Floats:
    """Log burden (n, T) by the lanes."""
    result = simulate_population(course=COURSE, times=TIMES, parameters=values, options="real", tolerance=tolerance)
    return np.asarray(np.log(result["Ts"].to_numpy()))


def scipy_one(values: dict[str, float], method: str, tolerance: float) -> Floats:
    """Log burden (T,) by SciPy, on the same text of equations."""
    model = bcma.build(1, bcma.OPTIONS["real"])
    table = {k: row.median for k, row in REAL_COHORT.items()}
    p = SimpleNamespace(**(table | slot_parameters(resolve(COURSE), "real") | values))
    logs = np.array([s.log for s in model.states])
    names = [s.name for s in model.states]
    y, h = (dict(x) for x in model.start(p))
    changed, held = model.events["infusion_1"](SimpleNamespace(**y), SimpleNamespace(**h), p)
    y, h = y | dict(changed), h | dict(held)
    holder = SimpleNamespace(**h)

    def slope(t: float, x: Floats) -> Floats:
        state = SimpleNamespace(**dict(zip(names, np.where(logs, np.exp(np.where(logs, x, 0.0)), x), strict=True)))
        rates = model.rates(t, state, holder, p)
        return np.array([float(rates[name]) for name in names])

    start = np.array([np.log(y[n]) if log else float(y[n]) for n, log in zip(names, logs, strict=True)])
    found = solve_ivp(slope, (0.0, TIMES[-1]), start, method=method, t_eval=TIMES, rtol=tolerance, atol=tolerance)
    return np.asarray(found.y[names.index("Ts")])


def gradient_seconds(n: int) -> tuple[float, float]:
    """Seconds per patient of value and adjoint gradient, and of the value alone times two per parameter."""
    kinds = ("transgene", "cart", "sbcma", "progression")
    kernel = build(bcma.build(1, bcma.OPTIONS["real"]), kinds=kinds, readouts=())
    table = {k: row.median for k, row in REAL_COHORT.items()} | slot_parameters(resolve(COURSE), "real")
    theta = np.tile(np.array([float(table[name]) for name in kernel.parameters]), (n, 1))
    days = np.tile(np.array([7.0, 14.0, 30.0, 100.0, 180.0]), (n, 1))
    kind = np.tile(np.array([0, 1, 2, 0, 3]), (n, 1))
    family = np.tile(np.array([0, 0, 0, 1, 4]), (n, 1))
    events = np.tile(np.array([0.0, 10.0]), (n, 1))
    codes = np.tile(np.array([kernel.events.index("infusion_1"), kernel.events.index("assessment_1")]), (n, 1))
    count, observed = np.full(n, 2), np.full(n, 5)
    loglik, grad, status = np.empty(n), np.empty(theta.shape), np.zeros(n, dtype=np.int64)
    out = np.empty((n, 1, 1))

    def adjoint() -> None:
        kernel.module.loglik_grad(
            np.arange(n), theta, events, codes, count, days, kind, family, np.full((n, 5), 3.0), observed,
            1e-6, 2000, True, loglik, grad, status,
        )  # fmt: skip

    def value() -> None:
        kernel.module.simulate(theta, events, codes, count, np.array([180.0]), 1e-6, 2000, out, status)

    return median_seconds(adjoint) / n, median_seconds(value) / n * 2 * theta.shape[1]


def main() -> None:
    """Run, print, write."""
    rng = np.random.default_rng(1)
    values = population(rng, PATIENTS)
    few = {k: v[:PEER_PATIENTS] for k, v in values.items()}
    truth = ours(few, 1e-12)
    rows: list[dict[str, object]] = []
    for tolerance in (1e-4, 1e-6, 1e-8):
        seconds = median_seconds(lambda tolerance=tolerance: ours(values, tolerance))  # type: ignore[misc]
        error = float(np.abs(ours(few, tolerance) - truth).max())
        rows.append(
            {"solver": "reinfuse lanes", "tolerance": tolerance, "per_second": PATIENTS / seconds, "error": error}
        )
    for method in ("LSODA", "DOP853"):
        for tolerance in (1e-6, 1e-8):
            start = time.perf_counter()
            found = [
                scipy_one({k: float(v[i]) for k, v in few.items()}, method, tolerance) for i in range(PEER_PATIENTS)
            ]
            seconds = time.perf_counter() - start
            error = float(np.abs(np.array(found) - truth).max())
            rows.append(
                {
                    "solver": f"scipy {method}",
                    "tolerance": tolerance,
                    "per_second": PEER_PATIENTS / seconds,
                    "error": error,
                }
            )
    adjoint, differences = gradient_seconds(512)
    print(f"{'solver':16s} {'tolerance':>10s} {'patients/s':>12s} {'error':>10s}")
    for row in rows:
        print(f"{row['solver']:16s} {row['tolerance']:10.0e} {row['per_second']:12,.0f} {row['error']:10.1e}")
    print(f"gradient by adjoint: {1e6 * adjoint:.0f} µs a patient, one thread")
    print(f"central differences with the same solver, all threads: {1e6 * differences:.0f} µs a patient")
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("numpy", "numba", "scipy", "reinfuse")},
        "trajectories": rows,
        "gradient_us": {"adjoint": 1e6 * adjoint, "central_differences": 1e6 * differences},
    }
    Path(__file__).with_name("results.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

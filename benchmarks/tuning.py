"""What serves diffrax best: the tolerance that delivers our accuracy, and its quickest gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import agreement
import numpy as np
from cases import Case
from numpy.typing import NDArray
from timing import in_turn, spread

type Floats = NDArray[np.float64]

SPREAD = ((0.2, 6),)  # points around the prior's centre
TRUTH = 1e-10
TOLERANCES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
OURS = "reinfuse"
KEPT = 256  # checkpoints that spare most trajectories a second pass

#: (adjoint, patients solved in step, checkpoints) to choose from.
WAYS = (
    ("checkpointed", 1, KEPT),
    ("checkpointed", 4, None),
    ("checkpointed", 4, KEPT),
    ("checkpointed", 8, KEPT),
    ("direct", 4, None),
    ("forward", 1, None),
)


def tune(case: Case, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Errors by tolerance, and times of gradients, all in one process and in turn."""
    from peers.numpyro import Peer, Solver, evaluated

    at = agreement.points(case, SPREAD[:1] if not quick else ((0.2, 2),))
    truth = agreement.ours(case, at, TRUTH)
    mine = errors(agreement.ours(case, at), truth)
    say(f"our errors at the tolerance of fits: {mine}")
    found: dict[str, Any] = {"points": len(at), "ours": mine, "by_tolerance": []}
    for tolerance in TOLERANCES[2:4] if quick else TOLERANCES:
        theirs = errors(evaluated(Peer(case.problem(), Solver(tolerance=tolerance)), "non-centred", at), truth)
        found["by_tolerance"].append({"tolerance": tolerance, **theirs})
        say(f"diffrax at {tolerance:g}: {theirs}")
    found["tolerance"] = as_good(found["by_tolerance"], mine)
    found["ways"] = times(case, at, found["tolerance"], quick, say)
    return found


def errors(found: tuple[Floats, Floats], truth: tuple[Floats, Floats]) -> dict[str, float]:
    """Root mean square errors: of the log density, and of its slopes relative to 1 + the slope."""
    slopes = (found[1] - truth[1]) / (1.0 + np.abs(truth[1]))
    return {
        "value": float(np.sqrt(np.mean((found[0] - truth[0]) ** 2))),
        "gradient": float(np.sqrt(np.mean(slopes**2))),
    }


def as_good(rows: list[dict[str, float]], mine: Mapping[str, float]) -> float:
    """The loosest tolerance whose error of the gradient is not above ours; the tightest where none is."""
    good = [row["tolerance"] for row in rows if row["gradient"] <= mine["gradient"]]
    return max(good) if good else min(row["tolerance"] for row in rows)


def times(case: Case, at: Floats, tolerance: float, quick: bool, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Microseconds of a value and gradient of the whole posterior, one thread: ours, and diffrax in every way."""
    import jax
    import jax.numpy as jnp
    from peers.numpyro import Peer, Solver

    from reinfuse.fits.likelihood_op import LogDensity
    from reinfuse.fits.population import population_model

    problem = case.problem()
    density = LogDensity(population_model(problem))
    rows: list[dict[str, Any]] = [{"way": OURS}]
    actions: dict[str, Callable[[], Any]] = {OURS: lambda: [density(x) for x in at]}
    inputs = [jnp.asarray(x) for x in at]
    for adjoint, width, checkpoints in WAYS[2:3] if quick else WAYS:
        solver = {"adjoint": adjoint, "width": width, "checkpoints": checkpoints, "tolerance": tolerance}
        label = f"{adjoint}, {width} in step" + (f", {checkpoints} checkpoints" if checkpoints else "")
        function = jax.jit(jax.value_and_grad(Peer(problem, Solver(**solver)).log_density("non-centred")))

        def call(function: Any = function) -> None:
            for x in inputs:
                jax.block_until_ready(function(x))

        try:
            call()
        except Exception as error:  # a way that does not work is a result
            say(f"{label} failed: {type(error).__name__}: {error}"[:200])
            continue
        rows.append({"way": label, "solver": solver})
        actions[label] = call
    samples = in_turn(actions, 2 if quick else 5)
    for row in rows:
        row["us"] = spread(samples[row["way"]], 1e6 / len(at))
        row["times_ours"] = row["us"]["median"] / spread(samples[OURS], 1e6 / len(at))["median"]
        say(f"{row['way']}: {row['us']['median']:.0f} µs, {row['times_ours']:.1f} times ours")
    return rows


def quickest(found: Mapping[str, Any]) -> Any:
    """The solver of the quickest way."""
    from peers.numpyro import Solver

    rows = [row for row in found["ways"] if "solver" in row]
    return Solver(**min(rows, key=lambda row: row["us"]["median"])["solver"])

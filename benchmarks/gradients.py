"""Gradients of one patient's log-likelihood at equal error, on one thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
from likelihood import Task, gradient_error, gradient_problem, recorded
from peers.interface import Floats, Method, started
from timing import in_turn, spread

PANEL = 32


def reference(task: Task, peers: Mapping[str, ModuleType]) -> tuple[Floats, dict[str, Any]]:
    """Gradients of the first patients by the most exact of the peers, and what the others say of them."""
    panel = task.first(PANEL)
    sources = [
        (name, peers[name].GRADIENTS[0])
        for name in ("heyoka", "diffrax", "ours")
        if name in peers and hasattr(peers[name], "GRADIENTS")
    ]
    found = {method.label: method.prepare(panel, 1e-12, 1)() for _, method in sources}
    label, truth = next(iter(found.items()))
    others = {k: float(gradient_error(g, truth).max()) for k, g in found.items() if k != label}
    return truth, {"by": f"{label} at 1e-12", "patients": panel.n, "others_differ_by": others}


def run(peers: Mapping[str, ModuleType], quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """The section of the results."""
    if "heyoka" not in peers and "ours" not in peers:
        raise RuntimeError("gradients need trajectories to observe: run with heyoka or with reinfuse")
    problem = gradient_problem(64 if quick else 512)
    if "heyoka" in peers:
        states = peers["heyoka"].exact(problem)
    else:
        ours = peers["ours"].METHODS[0]
        states = ours.read(problem, ours.prepare(problem, 1e-10, 1)())
    task = recorded(problem, states)
    truth, checked = reference(task, peers)
    say(f"reference: {checked}")
    rows: list[dict[str, Any]] = []
    solves: dict[str, Any] = {}
    failed: dict[str, str] = {}
    sizes: dict[int | None, Task] = {}
    for module in peers.values():
        for method in getattr(module, "GRADIENTS", ()):
            few = sizes.setdefault(method.patients, task.first(method.patients))
            try:
                for tolerance in method.at(quick):
                    solve, found, first = started(method, few, tolerance, 1)
                    rows.append(_row(method, tolerance, found, truth) | {"first_call_s": first})
                    solves[str(len(rows) - 1)] = solve
                    say(_sentence(rows[-1]))
            except Exception as error:  # a peer's failure is a result
                failed[method.label] = f"{type(error).__name__}: {error}"[:300]
                say(f"{method.label} failed: {failed[method.label]}")
    samples = in_turn(solves, 2 if quick else 5, say)
    for i, row in enumerate(rows):
        row["us"] = spread(samples[str(i)], 1e6 / row["patients"])
    return {
        "parameters": problem.theta.shape[1],
        "states": problem.size,
        "observations": problem.days.size,
        "panel": PANEL,
        "reference": checked,
        "rows": rows,
        "failed": failed,
        "pymc_ode": pymc_ode(quick, say),
    }


def _row(method: Method, tolerance: float, found: Floats, truth: Floats) -> dict[str, Any]:
    errors = gradient_error(found[:PANEL], truth)
    good = errors[np.isfinite(errors)]
    return {
        "peer": method.peer,
        "method": method.label,
        "note": method.note,
        "tolerance": tolerance,
        "patients": len(found),
        "unsolved": int((~np.isfinite(found).all(axis=1)).sum()),
        "error": float(good.max()) if good.size else None,
        "error_median": float(np.median(good)) if good.size else None,
    }


def _sentence(row: Mapping[str, Any]) -> str:
    error = "no error" if row["error"] is None else f"error {row['error']:.1e}"
    return f"{row['method']} at {row['tolerance']:g}: {error}, first call {row['first_call_s']:.1f} s"


def pymc_ode(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """What `pm.ode` takes for a gradient of the Lotka-Volterra equations: 2 states, 4 parameters, 20 records."""
    try:
        from peers import pymc_ode as peer

        result: dict[str, Any] = peer.lotka_volterra(2 if quick else 5)
        say(f"pm.ode, Lotka-Volterra only: {result}")
    except Exception as error:  # an anecdote: its failure is one too
        result = {"failed": f"{type(error).__name__}: {error}"[:300]}
        say(f"pm.ode failed: {result['failed']}")
    return result

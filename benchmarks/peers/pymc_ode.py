"""PyMC's own `pm.ode`: SciPy's odeint on sensitivity equations. Too slow for our model, so Lotka-Volterra only."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pymc as pm
from timing import in_turn, spread


def lotka_volterra(repeats: int) -> dict[str, Any]:
    """Milliseconds of one log density with its gradient."""
    times = np.linspace(0.5, 10.0, 20)

    def rates(y: Any, t: Any, p: Any) -> list[Any]:
        return [p[0] * y[0] - p[1] * y[0] * y[1], p[2] * y[0] * y[1] - p[3] * y[1]]

    def model() -> Any:
        with pm.Model() as lotka:
            theta = pm.LogNormal("theta", np.log([0.6, 0.03, 0.02, 0.8]), 0.1, shape=4)
            ode = pm.ode.DifferentialEquation(func=rates, times=times, n_states=2, n_theta=4, t0=0.0)
            pm.Normal("seen", ode(y0=[30.0, 5.0], theta=theta), 1.0, observed=np.full((20, 2), 20.0))
        return lotka

    made: list[Any] = []

    def first() -> None:
        warnings.simplefilter("ignore")  # of PyTensor, about what pm.ode has not yet adopted
        lotka = model()
        function = lotka.logp_dlogp_function(ravel_inputs=True)
        function.set_extra_values({})
        point = np.log([0.6, 0.03, 0.02, 0.8])
        made.append(lambda: function(point))
        made[0]()

    with warnings.catch_warnings():
        first()
    return {"ms": spread(in_turn({"ode": made[0]}, repeats)["ode"], 1e3)}

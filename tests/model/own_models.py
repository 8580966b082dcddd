"""The examples of the documentation, and a model with an absolute error, for tests."""

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np

from reinfuse.model.define import Model, absolute_error, parameter

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@cache
def example(name: str) -> Model:
    """The one model of a file of the documentation."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (model,) = (value for value in vars(module).values() if isinstance(value, Model))
    return model


def pk() -> Model:
    return example("oral_pk")


def lv() -> Model:
    return example("lotka_volterra")


@cache
def decay() -> Model:
    """One state that fades towards a level; measured with absolute error, which may be negative."""
    return Model(
        name="decay",
        time_unit="d",
        states={"x": "u"},
        parameters=[
            parameter("k", "rate", unit="1/d", median=0.5, log_sd=0.5, iiv=0.2),
            parameter("level", "level", unit="u", median=-1.0, log_sd=1.0, transform="identity"),
            parameter("share", "share that a dose adds", median=0.5, log_sd=0.5, transform="logit"),
            parameter("sigma", "residual sd", unit="u", median=0.3, log_sd=0.5),
        ],
        start=lambda p: {"x": 2.0},
        rates=lambda t, y, p: {"x": p.k * (p.level - y.x)},
        dose=lambda y, p, amount: {"x": y.x + p.share * amount},
        observables=lambda t, y, p: {"reading": absolute_error(y.x, p.sigma, unit="u")},
    )


def bateman(t, dose, *, ka, CL, V):
    """Concentration after one oral dose at time 0."""
    k, t = CL / V, np.asarray(t, dtype=float)
    since = np.maximum(t, 0.0)
    curve = dose * ka / (V * (ka - k)) * (np.exp(-k * since) - np.exp(-ka * since))
    return np.where(t >= 0, curve, 0.0)

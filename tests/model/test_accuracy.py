"""Every model of the library against an independent solution, at tolerances from 1e-4 to 1e-10."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from reinfuse.model.course import Infusion
from reinfuse.model.simulate import simulate

from . import twin
from .own_models import example

TOLERANCES = [1e-4, 1e-6, 1e-8, 1e-10]
TIGHT = 1e-13
DAYS = np.array([0.0, 1.0, 4.0, 9.0, 14.0, 30.0, 75.0, 150.0, 230.0, 300.0, 309.0, 330.0, 420.0])
CELLS = ("E1", "M1", "X1", "Ts", "Tr")
#: How much larger than the tolerance of a step the error of a trajectory may be.
GROWTH = 100.0


def course(infusions: int) -> list[Infusion]:
    given = [Infusion(product="ide-cel"), Infusion(product="cilta-cel", day=300.0, bridging=0.4)]
    return given[:infusions]


@cache
def reference(options: str, infusions: int) -> dict[str, np.ndarray]:
    return twin.simulate(course=course(infusions), times=DAYS, options=options, tolerance=TIGHT)


@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize("infusions", [1, 2])
@pytest.mark.parametrize("options", ["reference", "real"])
def test_the_unified_model(options, infusions, tolerance):
    found = simulate(course=course(infusions), until=DAYS[-1], times=DAYS, options=options, tolerance=tolerance)
    wanted = reference(options, infusions)
    worst = 0.0
    for name in CELLS:
        worst = max(worst, np.abs(np.log(found[name].to_numpy() / wanted[name])).max())
    for name in ("Q", "A", "P", "S"):
        worst = max(worst, (np.abs(found[name].to_numpy() - wanted[name]) / (1.0 + np.abs(wanted[name]))).max())
    assert worst < GROWTH * tolerance


@pytest.mark.parametrize("tolerance", TOLERANCES)
def test_the_oral_drug(tolerance):
    times, (ka, k, volume) = np.linspace(0.0, 48.0, 49), (1.0, 4.0 / 30.0, 30.0)

    def bateman(t):
        t = np.maximum(t, 0.0)
        return 100.0 / volume * ka / (ka - k) * (np.exp(-k * t) - np.exp(-ka * t))

    found = example("oral_pk").simulate(times=times, doses=[(0, 100.0), (24, 100.0)], tolerance=tolerance)
    assert np.abs(found["conc"] - bateman(times) - bateman(times - 24.0)).max() < GROWTH * tolerance


@pytest.mark.parametrize("tolerance", TOLERANCES)
def test_the_predator_and_its_prey(tolerance):
    model, times = example("lotka_volterra"), np.linspace(0.0, 20.0, 41)
    p = SimpleNamespace(**{name: row.median for name, row in model.table.items()})
    names = list(model.start(p))

    def slope(t, y):
        rates = model.rates(t, SimpleNamespace(**dict(zip(names, y, strict=True))), p)
        return [rates[name] for name in names]

    begin = [model.start(p)[name] for name in names]
    wanted = solve_ivp(slope, (0.0, 20.0), begin, method="DOP853", t_eval=times, rtol=TIGHT, atol=TIGHT).y
    found = model.simulate(times=times, tolerance=tolerance)
    for name, curve in zip(names, wanted, strict=True):
        assert np.abs(np.log(found[name] / curve)).max() < GROWTH * tolerance, name

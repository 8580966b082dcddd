"""Parameters from priors twice as wide as the shipped ones: solved, or rejected with a reason that is counted."""

import numpy as np
import pytest

from reinfuse.model.course import Infusion
from reinfuse.model.equations.bcma import OPTIONS
from reinfuse.model.parameters import from_transformed, table, to_transformed
from reinfuse.model.simulate import Status, simulate_population, solved

PATIENTS = 10_000
COURSE = [Infusion(product="ide-cel"), Infusion(product="cilta-cel", day=260.0, bridging=0.3)]
TIMES = np.array([0.0, 7.0, 14.0, 28.0, 100.0, 260.0, 270.0, 300.0, 400.0, 720.0])


def wide(options: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Every parameter with a spread, population's and patients' together, doubled."""
    drawn = {}
    for symbol, row in table(options).items():
        sd = 2.0 * np.hypot(row.log_sd, row.iiv)
        if sd > 0 and row.median != 0:
            centre = to_transformed(row.median, transform=row.transform)
            drawn[symbol] = from_transformed(centre + sd * rng.standard_normal(PATIENTS), transform=row.transform)
    return drawn


@pytest.mark.parametrize("options", OPTIONS)
def test_each_patient_is_solved_or_counted(options):
    parameters = wide(options, np.random.default_rng(1))
    assert len(parameters) > 20
    found = simulate_population(course=COURSE, times=TIMES, parameters=parameters, options=options, tolerance=1e-5)
    status = found["status"].to_numpy()
    assert set(status.tolist()) <= set(Status)
    failed = ~solved(status)
    impossible = parameters["fr"] >= 1.0  # a share of resistant cells above 1
    assert failed[~impossible].mean() < 5e-4
    assert (found.attrs["failures"], found.attrs["implicit"]) == (failed.sum(), (status == Status.IMPLICIT).sum())
    for reason in np.unique(status[failed]):
        assert Status(reason).sentence in found.attrs["failure_reasons"]
    for name in ("Ts", "Tr", "Q", "transgene", "cart", "sbcma"):
        values = found[name].transpose("patient", "time").to_numpy()
        assert np.isfinite(values[~failed]).all(), name
        assert np.isnan(values[failed]).all(), name
        assert (values[~failed] >= 0).all(), name

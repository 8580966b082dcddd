"""Agreement with the trajectories of an independent solver, in every state, to 1e-4 (logarithms: natural)."""

import json

import numpy as np
import pandas as pd
import pytest

from reinfuse.model.course import Infusion
from reinfuse.model.simulate import simulate

CASES = (
    "median_ide_cel",
    "median_cilta_cel",
    "primary_non_responder",
    "early_relapse_then_cilta",
    "late_relapse_then_cilta",
    "same_product_twice",
)
PRODUCTS = {"ide": "ide-cel", "cilta": "cilta-cel"}
CELLS = ("E1", "M1", "X1", "E2", "M2", "X2")
AGREEMENT = 1e-4
#: A CAR-T state is compared while its logarithm is above this.
COMPARED = -15.0

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def reference(shared):
    folder = shared / "data" / "reference"
    cases = json.loads((folder / "reference_cases.json").read_text(encoding="utf-8"))
    return cases, pd.read_csv(folder / "reference_trajectories.csv")


def course_of(case) -> list[Infusion]:
    course = [Infusion(product=PRODUCTS[case["product_1"]])]
    if "t2" in case:
        chi = case.get("chi")
        same = None if chi is None else chi[1] == 1.0
        course.append(
            Infusion(product=PRODUCTS[case["prod2"]], day=case["t2"], bridging=case["bridge"], same_scfv=same)
        )
    return course


def test_there_are_these_cases(reference):
    cases, rows = reference
    assert tuple(cases) == CASES
    assert set(rows["case"]) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_case_agrees_in_every_state(reference, name):
    cases, rows = reference
    case, rows = cases[name], rows[rows["case"] == name]
    found = simulate(
        course=course_of(case),
        until=float(rows["t"].iloc[-1]),
        times=rows["t"].to_numpy(),
        parameters=case["changed"],
        options="reference",
        tolerance=1e-9,
    )
    compared = []
    for state in (*CELLS, "Ts", "Tr", "Q", "A", "P", "S"):
        logged = state in CELLS or state in ("Ts", "Tr")
        wanted = rows[f"ln{state}" if logged else state].to_numpy()
        if state not in found:  # no second product
            assert np.isnan(wanted).all()
            continue
        values = found[state].to_numpy()
        np.testing.assert_array_equal(np.isnan(values), np.isnan(wanted), err_msg=state)
        use = ~np.isnan(wanted) & ((wanted > COMPARED) | (state not in CELLS))
        assert use.any()
        with np.errstate(invalid="ignore"):
            difference = np.abs((np.log(values) if logged else values) - wanted)[use]
        assert difference.max() <= AGREEMENT, f"{state}: off by {difference.max():.1e}"
        compared.append(state)
    assert len(compared) == (12 if "t2" in case else 9)

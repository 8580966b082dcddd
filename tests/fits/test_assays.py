"""Observation records of a cohort: kinds, censoring, times, products, and their rectangles."""

import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reinfuse.fits.assays import ASSAYS, records
from reinfuse.fits.cohort import cohort_from_frame
from reinfuse.model.densities import Family
from reinfuse.model.errors import ReinfuseError

COHORT = """ID,TIME,EVID,AMT,PRODUCT,DVID,DV,CENS,LLOQ
A,-30,0,,,sbcma,300,,1.1
A,-30,0,,,cart,0.2,1,0.2
A,0,1,,ide-cel,,,,
A,0,0,,,transgene,50,1,50
A,7,0,,,cart,80,0,
A,7,0,,,transgene,90000,0,50
A,28,0,,,mprotein,14,-1,
A,28,0,,,pd1,55,,
A,28,0,,,flc,120,,
A,100,0,,,cart,0.3,1,0.3
A,150,0,,,progression,1,,
A,160,0,,,sbcma,800,0,
A,200,1,,cilta-cel,,,,
A,207,0,,,cart,12,0,
A,260,0,,,progression,0,,
A,400,0,,,death,1,,
B,0,1,,cilta-cel,,,,
B,28,0,,,pd1,10,,
C,0,1,,cilta-cel,,,,
C,90,0,,,death,0,,
"""


@pytest.fixture(scope="module")
def cohort():
    return cohort_from_frame(pd.read_csv(io.StringIO(COHORT)))


def listed(taken):
    return [
        (int(p), float(t), str(d), Family(int(f)).name, float(v), str(product))
        for p, t, d, f, v, product in zip(
            taken.patient, taken.time, taken.dvid, taken.family, taken.value, taken.product, strict=True
        )
    ]


def test_the_codes_are_those_of_the_kernel():
    assert ASSAYS == ("transgene", "cart", "sbcma", "mprotein", "progression", "death")
    assert [int(code) for code in Family] == [0, 1, 2, 3, 4, 5]


def test_records(cohort):
    taken = records(cohort)
    quantified, below, above, event, no_event, _ = (code.name for code in Family)
    assert listed(taken) == [
        (0, 0.0, "sbcma", quantified, 300.0, "ide-cel"),
        (0, 7.0, "transgene", quantified, 90000.0, "ide-cel"),
        (0, 7.0, "cart", quantified, 80.0, "ide-cel"),
        (0, 28.0, "mprotein", above, 14.0, "ide-cel"),
        (0, 100.0, "cart", below, 0.3, "ide-cel"),
        (0, 150.0, "progression", event, 1.0, "ide-cel"),
        (0, 207.0, "cart", quantified, 12.0, "cilta-cel"),
        (0, 260.0, "progression", no_event, 1.0, "cilta-cel"),
        (0, 400.0, "death", event, 1.0, "cilta-cel"),
        (2, 90.0, "death", no_event, 1.0, "cilta-cel"),
    ]
    assert [ASSAYS[k] for k in taken.kind] == taken.dvid.tolist()
    assert taken.patients == ("A", "B", "C")
    assert len(taken) == 10


def test_samples_after_progression_on_request(cohort):
    more = [entry for entry in listed(records(cohort, include_after_progression=True))]
    assert set(more) - set(listed(records(cohort))) == {(0, 160.0, "sbcma", "QUANTIFIED", 800.0, "ide-cel")}


def test_a_choice_of_assays(cohort):
    taken = records(cohort, assays=("cart", "death"))
    assert set(taken.dvid.tolist()) == {"cart", "death"}
    assert set(taken.kind.tolist()) == {1, 5}
    with pytest.raises(ReinfuseError, match="no observation model for assay 'pd1'; choose from transgene"):
        records(cohort, assays=("cart", "pd1"))


def test_padded(cohort):
    rectangles = records(cohort).padded()
    assert rectangles.n_obs.tolist() == [9, 0, 1]
    for name in ("time", "kind", "family", "value"):
        assert getattr(rectangles, name).shape == (3, 9)
    assert {f.name: str(getattr(rectangles, f.name).dtype) for f in dataclasses.fields(rectangles)} == {
        "time": "float64",
        "kind": "int64",
        "family": "int64",
        "value": "float64",
        "n_obs": "int64",
    }
    assert rectangles.time[2].tolist() == [90.0] + [0.0] * 8
    assert rectangles.value[1].tolist() == [1.0] * 9
    assert rectangles.kind[2, 0] == ASSAYS.index("death")


def test_no_records_at_all(cohort):
    none = records(cohort, assays=())
    assert len(none) == 0
    assert none.padded().n_obs.tolist() == [0, 0, 0]
    assert none.padded().time.shape == (3, 0)


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_rectangles_hold_each_record_once(counts, seed):
    rng = np.random.default_rng(seed)
    rows = []
    for i, count in enumerate(counts):
        rows.append((f"P{i}", 0.0, 1, "ide-cel", "", np.nan))
        days = np.sort(rng.choice(np.arange(1, 400), size=count, replace=False))
        rows += [(f"P{i}", float(day), 0, "", "cart", float(rng.lognormal())) for day in days]
        rows.append((f"P{i}", 500.0, 0, "", "death", 0.0))
    table = pd.DataFrame(rows, columns=["ID", "TIME", "EVID", "PRODUCT", "DVID", "DV"]).assign(AMT=np.nan)
    taken = records(cohort_from_frame(table))
    rectangles = taken.padded()
    assert rectangles.n_obs.tolist() == [count + 1 for count in counts]
    inside = np.arange(rectangles.time.shape[1]) < rectangles.n_obs[:, None]
    np.testing.assert_array_equal(rectangles.time[inside], taken.time)
    np.testing.assert_array_equal(rectangles.value[inside], taken.value)
    np.testing.assert_array_equal(rectangles.kind[inside], taken.kind)
    assert np.all(np.diff(rectangles.time, axis=1)[inside[:, 1:]] > 0)

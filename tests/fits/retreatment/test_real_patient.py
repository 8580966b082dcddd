"""A real patient continued: what was seen stays, what was fitted is its own."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from reinfuse.fits.cohort import cohort_from_frame
from reinfuse.fits.retreatment import engine, real_patient, scenarios, survival
from reinfuse.fits.retreatment.real_patient import Observed, PatientPopulation, of_patient
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.products import product

from .conftest import toy, toy_population
from .test_virtual_patients import write_run

TEXT = """
[[world]]
name = "as assumed"
[[scenario]]
name = "again"
first.product = "cilta-cel"
first.response = ["durable"]
second.product = "cilta-cel"
second.bridging = 0.5
"""


def cohort(*, progression=None, free=None, death=False, infusions=1):
    rows = [
        {"ID": "P1", "TIME": 300.0 * k, "EVID": 1, "PRODUCT": "ide-cel", "AMT": 3e8, "LD": 0.9}
        for k in range(infusions)
    ]
    rows += [{"ID": "P1", "TIME": 10.0, "EVID": 0, "DVID": "transgene", "DV": 1e4}]
    if progression is not None:
        rows.append({"ID": "P1", "TIME": progression, "EVID": 0, "DVID": "progression", "DV": 1})
    if free is not None:
        rows.append({"ID": "P1", "TIME": free, "EVID": 0, "DVID": "progression", "DV": 0})
    if death:
        rows.append({"ID": "P1", "TIME": 400.0, "EVID": 0, "DVID": "death", "DV": 1})
    return cohort_from_frame(pd.DataFrame(sorted(rows, key=lambda row: row["TIME"])), name="made up")


def continued(observed, **more):
    population = toy_population(**more)
    own = {"r": np.linspace(0.015, 0.02, population.n_draws)}
    return PatientPopulation(**{**vars(population), "own": own, "observed": observed})


def run(observed, tmp_path, **more):
    file = scenarios.parse(TEXT)
    return engine.run(file, continued(observed, **more), patients=50, seed=1, path=tmp_path / "o.parquet", simulate=toy)


def test_what_was_seen_is_read():
    seen = Observed.of(cohort(progression=200.0), "P1")
    assert (seen.product, seen.dose, seen.lymphodepletion, seen.progression_day) == ("ide-cel", 3e8, 0.9, 200.0)
    assert "progression seen on day 200" in seen.sentence
    waiting = Observed.of(cohort(free=90.0), "P1")
    assert (waiting.progression_day, waiting.free_until) == (np.inf, 90.0)
    assert "until day 90" in waiting.sentence


@pytest.mark.parametrize(
    ("made", "patient", "told"),
    [
        ({"progression": 200.0}, "P9", "'P9'; the run's cohort has P1"),
        ({"infusions": 2}, "P1", "had 2 infusions"),
        ({"death": True}, "P1", "died"),
    ],
)
def test_who_cannot_be_continued_is_told(made, patient, told):
    with pytest.raises(ReinfuseError, match=told):
        Observed.of(cohort(**made), patient)


def test_progression_that_was_seen_is_kept_and_groups_do_not_select(tmp_path):
    experiment = run(Observed.of(cohort(progression=200.0), "P1"), tmp_path)
    rows = experiment.outcomes.frame()
    assert len(rows) == 50
    assert (rows["pfs_days_1"] == 200).all()
    assert set(rows["first_product"]) == {"ide-cel"}, "what the patient had, not what the scenario says"
    assert (rows["infusion_day"] == 260).all()
    assert set(rows["group"]) <= {"non-responder", "intermediate", "antigen-loss"}
    assert experiment.acceptance["again", "as assumed"].share > 0.9


def test_without_measurable_protein_at_the_second_infusion_nothing_is_said_of_its_response(tmp_path):
    """Relapse was seen otherwise, on a day on which the draws still have hardly any M-protein."""
    rows = run(Observed.of(cohort(progression=60.0), "P1"), tmp_path, P0=(2.0, 0.8)).outcomes.frame()
    low = rows["best_2"] == "UNMEASURABLE"
    assert 0 < low.sum() < len(rows)
    assert not rows.loc[low, "evaluable_2"].any()
    assert rows.loc[low, "pfs_days_2"].isna().all()
    assert (rows.loc[low, "pfs_event_2"] == "none").all()
    assert rows.loc[~low, "pfs_days_2"].notna().all()
    assert survival.pairs_of(rows).days.size == (~low & rows["infused"]).sum()


def test_draws_that_contradict_what_was_seen_are_not_continued(tmp_path):
    experiment = run(Observed.of(cohort(free=400.0), "P1"), tmp_path)
    rows = experiment.outcomes.frame()
    assert (rows["pfs_days_1"] > 400).all()
    seen = experiment.acceptance["again", "as assumed"]
    assert seen.not_progressed > 0
    assert seen.share < 0.95


def test_by_the_hazard_days_free_of_progression_count_once(tmp_path):
    """The posterior has them already: nobody is dropped for them, and the rest is exponential from that day on."""
    file = scenarios.parse('[settings]\nprogression = "hazard"\nfirst_horizon_months = 120\n' + TEXT)
    population = replace(continued(Observed.of(cohort(free=400.0), "P1"), hD=(1e-12, 0.0)), options="real")
    path = tmp_path / "o.parquet"
    experiment = engine.run(file, population, patients=2000, seed=1, path=path, simulate=toy)
    assert experiment.acceptance["again", "as assumed"].share > 0.9  # the horizon ends the others
    days = experiment.outcomes.frame()["pfs_days_1"].to_numpy()
    assert days.min() > 400
    after = (days - 400.0) * 0.001  # the hazard of `toy`
    end = 1.0 - np.exp(-np.array([0.25, 0.5, 1.0]))
    ends = np.array([(after < x).mean() for x in (0.25, 0.5, 1.0)])
    np.testing.assert_allclose(ends, end, atol=0.05)


def test_fitted_numbers_are_the_patients_own():
    population = continued(None)
    virtual = population.sample(60, np.random.default_rng(0), first=7)
    np.testing.assert_array_equal(virtual.parameters["r"], population.own["r"][virtual.draw])
    assert np.unique(virtual.parameters["rho"]).size == 60, "what was not fitted differs as in anybody"


def test_a_run_gives_the_patients_draws(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", variant="full")
    tree = run.posterior()
    posterior = tree["posterior"].to_dataset().assign_coords(patient=["P1", "P2"])
    value = np.arange(20.0).reshape(2, 5, 2, 1)
    posterior["individual"] = (posterior["individual"].dims, value)
    rows = real_patient.posterior_rows
    monkeypatch.setattr(
        real_patient,
        "posterior_rows",
        lambda run, n: (posterior.stack(sample=("chain", "draw"), create_index=False), rows(run, n)[1]),
    )
    monkeypatch.setattr(real_patient, "read_cohort", lambda _: cohort(progression=200.0))
    products = [product("ide-cel"), product("cilta-cel")]
    made = of_patient(run, "P1", rng=np.random.default_rng(0), products=products)
    np.testing.assert_array_equal(made.own["rho"], value[:, :, 0, 0].ravel())
    assert "patient P1's own posterior for rho" in made.source
    assert made.observed == replace(Observed.of(cohort(progression=200.0), "P1"))

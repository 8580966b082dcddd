"""Patients forecast by the others: nothing of what came later is seen, and it is scored."""

import numpy as np
import pandas as pd
import pytest

from reinfuse.fits.cohort import read_cohort
from reinfuse.fits.forecasting import heldout
from reinfuse.fits.forecasting.posterior import Integral
from reinfuse.fits.reopened import Reopened

from .. import drawn_run

CUTOFF = 30.0


@pytest.fixture(scope="module")
def held(one_infusion, tmp_path_factory):
    """What was found on a run whose draws are made, and the problems whose integrals were asked for."""
    run = Reopened.of(drawn_run.write(tmp_path_factory.mktemp("heldout") / "run", one_infusion))
    asked = []

    def cheap(problem, hyper, rng, *, cores):
        """What the integrals are, other tests say; here it counts whose they are."""
        asked.append(problem)
        deviation = 0.3 * rng.standard_normal((len(hyper), run.draws.deviation.shape[-1]))
        return Integral(deviation, 0.1 * rng.standard_normal(len(hyper)), np.zeros(len(hyper)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heldout, "integral_of", cheap)
        ticks = []
        found = heldout.hold_out(run, np.random.default_rng(1), cutoffs=(CUTOFF,), tick=ticks.append)
    return run, found, asked, sum(ticks)


def test_forecasts_see_nothing_later(held):
    run, _, asked, _ = held
    assert len(asked) == 2 * run.problem.n, "with all rows, and with those until the day"
    for place in range(run.problem.n):
        full, early = asked[2 * place : 2 * place + 2]
        assert full.n_ob[0] == run.problem.n_ob[place]
        assert early.ob_time[0, : early.n_ob[0]].max() <= CUTOFF
        assert early.n_ob[0] < full.n_ob[0]


def test_what_came_later_is_scored(held):
    run, found, _, ticks = held
    assert ticks == 2 * run.problem.n
    later = heldout.late_rows(run.problem, CUTOFF, heldout.UNTIL)
    assert found.measurements["n"].sum() == later.sizes["row"]
    assert (found.measurements["cutoff"] == CUTOFF).all()
    assert found.measurements[["inside_50", "inside_80", "inside_95"]].apply(lambda x: x.between(0, 1)).all().all()
    assert (found.measurements["inside_50"] <= found.measurements["inside_95"]).all()
    assert np.isfinite(found.measurements["elpd"]).all()


def test_every_forecast_says_what_it_rests_on(held):
    run, found, _, _ = held
    assert list(found.draws["patient"]) == list(run.problem.patients)
    assert found.draws["effective"].between(1, 240).all()
    assert set(found.own["deviation"]) == set(run.problem.random)


def test_few_patients_have_no_scores_of_progression(held):
    _, found, _, _ = held
    assert found.progression.empty
    assert found.reliability.empty


def test_chances_of_many_are_scored(held, monkeypatch):
    """Of those at risk alone, by their own horizon, beside the rivals."""
    run, _, _, _ = held
    monkeypatch.setattr(heldout.landmark, "FEWEST", 3)
    monkeypatch.setattr(heldout.landmark, "FOLDS", 3)
    cohort = read_cohort(run.run.cohort_path)
    chances = pd.DataFrame(
        [{"patient": name, "cutoff": CUTOFF, "90": 0.9, "180": 0.7, "365": 0.4} for name in cohort.patients]
    )
    table, thirds = heldout._progression(cohort, chances, np.random.default_rng(2))
    mine = table[table["model"] == "this model"].set_index("day")
    assert mine.index.tolist() == [90.0, 180.0, 365.0]
    np.testing.assert_allclose(mine["predicted"], [0.1, 0.3, 0.6])
    assert thirds["n"].sum() == mine["n"].iloc[0]
    np.testing.assert_allclose(thirds["predicted"], 0.3)

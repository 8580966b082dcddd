"""A cohort as known on a day: nothing of what came later is left, and nothing of what came before is lost."""

import numpy as np
import pandas as pd
import pytest

from reinfuse.fits.cohort import read_cohort
from reinfuse.fits.cohort_terms import EVENTS
from reinfuse.fits.diagnosis.progression import first_course
from reinfuse.fits.problem import pose
from reinfuse.fits.results import Draws, posterior_draws, restored, simulate_draws
from reinfuse.fits.synthetic import BUNDLED
from reinfuse.fits.temporal import forecast_from, known_on
from reinfuse.model.errors import ReinfuseError


@pytest.fixture(scope="module")
def cohort():
    return read_cohort(BUNDLED)


class TestKnownOn:
    @pytest.mark.parametrize("day", [14.0, 30.0, 100.0])
    def test_nothing_later_is_left_and_nothing_earlier_lost(self, cohort, day):
        found = known_on(cohort, day)
        assert found.patients == cohort.patients
        assert found.table["TIME"].max() <= day
        assays = [table[~table["DVID"].isin(EVENTS) & (table["TIME"] <= day)] for table in (cohort.table, found.table)]
        pd.testing.assert_frame_equal(*(part.reset_index(drop=True) for part in assays))

    @pytest.mark.parametrize("day", [14.0, 100.0])
    def test_later_events_become_free_of_it_on_the_day(self, cohort, day):
        before, after = (first_course(one).set_index("patient") for one in (cohort, known_on(cohort, day)))
        early = before["time"] <= day
        pd.testing.assert_frame_equal(after.loc[before[early].index], before[early])
        late = after.loc[before[~early].index]
        assert len(late) > 3
        assert (late["event"] == 0).all()
        assert (late["time"] == day).all()

    def test_a_day_before_anybody_is_assessed_is_refused(self, cohort):
        with pytest.raises(ReinfuseError, match="from 10 on"):
            known_on(cohort, 5.0)


@pytest.mark.parametrize("name", ["one_infusion", "two_infusions"])
def test_draws_come_back_from_a_posterior(name, request):
    posed, rng = request.getfixturevalue(name), np.random.default_rng(1)
    points = [posed.flat(*posed.point(rng)) for _ in range(6)]
    draws = Draws(posed.problem, np.array(points).reshape(2, 3, -1))
    back = restored(posed.problem, posterior_draws(posed.problem, draws))
    for part in ("population", "log_omega", "effect", "deviation"):
        np.testing.assert_allclose(getattr(back, part), getattr(draws, part), rtol=1e-9, atol=1e-9)


def test_a_forecast_counts_progression_from_the_day_on(one_infusion):
    """The fit has seen who was free on the day: what a sample is conditioned on is the time since."""
    day, full = 30.0, one_infusion.problem
    problem = pose(known_on(one_infusion.cohort, day))
    x = one_infusion.flat(*one_infusion.point(np.random.default_rng(2)))
    found = forecast_from(full, Draws(problem, np.tile(x, (1, 4, 1))), day=day, after=40.0, until=130.0)
    times = np.unique([day, 180.0, *found["time"].values])
    hazard = simulate_draws(full, Draws(full, x[None, None]).theta(0, 0)[None], times)["H"][0]
    for row in range(found.sizes["row"]):
        patient = full.patients.index(str(found["patient"].values[row]))
        at = np.searchsorted(times, [day, found["time"].values[row]])
        wanted = hazard[patient, at[0]] - hazard[patient, at[1]]
        np.testing.assert_allclose(found["log_weight"].values[:, row], wanted, rtol=1e-4, atol=1e-6)
    wanted = np.exp(hazard[:, np.searchsorted(times, day)] - hazard[:, np.searchsorted(times, 180.0)])
    np.testing.assert_allclose(found["free"].sel(cutoff=day, horizon=180.0), wanted, rtol=1e-4)

"""What options would gain: by hand on made-up outcomes, and that a day free of progression counts once."""

import numpy as np
import pandas as pd
import pytest

from reinfuse.fits.forecasting import benefit
from reinfuse.fits.forecasting.benefit import gains, options, patients_population, reason_against
from reinfuse.fits.forecasting.patient import one_patient, pose_patient
from reinfuse.fits.forecasting.posterior import PatientPosterior
from reinfuse.fits.reopened import Reopened
from reinfuse.fits.temporal import known_on
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH

from .. import drawn_run

#: Days from relapse to the next progression of four patients, by arm and world.
DAYS = {
    ("a", "on"): [100.0, 300.0, 400.0, 900.0],
    ("a", "off"): [200.0, 200.0, 200.0, 200.0],
    ("none", "on"): [100.0, 100.0, 500.0, 800.0],
    ("none", "off"): [100.0, 100.0, 100.0, 100.0],
}


class Table:
    """Outcomes as `OutcomeTable` reads them."""

    def read(self, scenario, world, columns):
        days = DAYS[scenario, world]
        return pd.DataFrame(
            {
                "patient": np.arange(4),
                "draw": np.arange(4),
                "group": "early-relapse",
                "failed": False,
                "infused": True,
                "pfs_from_relapse_days": days,
                "pfs_days_2": np.array(days) - 60.0,
                "pfs_event_2": "progression",
            }
        )


class TestGains:
    @pytest.fixture(scope="class")
    @classmethod
    def table(cls):
        found = gains(Table(), ["a"], "none", {"on": 0.75, "off": 0.25})
        return found.set_index("world")

    def test_of_one_world(self, table):
        row = table.loc["on"]
        two_years = 24 * DAYS_PER_MONTH
        assert two_years < 800, "the last patient is beyond the horizon in both: no difference"
        assert (row["n"], row["better"], row["worse"]) == (4, 0.25, 0.25)
        assert row["gain_days"] == pytest.approx((200.0 - 100.0) / 4)
        assert row["better_mc_error"] == pytest.approx(np.sqrt(0.25 * 0.75 / 4))

    def test_worlds_are_mixed_by_their_weights(self, table):
        row = table.loc["stacked"]
        assert row["better"] == pytest.approx(0.75 * 0.25 + 0.25)
        assert row["gain_days"] == pytest.approx(0.75 * 25.0 + 0.25 * 100.0)
        assert row["n"] == 4

    def test_a_patient_is_no_four_patients_because_there_are_worlds(self):
        """Equal worlds: the error is that of one of them."""

        class Same(Table):
            def read(self, scenario, world, columns):
                return super().read(scenario, "on", columns)

        found = gains(Same(), ["a"], "none", {"on": 0.5, "off": 0.5}).set_index("world")
        assert found.loc["stacked", "better_mc_error"] == pytest.approx(found.loc["on", "better_mc_error"])
        assert found.loc["stacked", "gain_mc_error"] == pytest.approx(found.loc["on", "gain_mc_error"])

    def test_virtual_patients_of_one_draw_are_one_piece_of_evidence(self):
        """The four patients twice over: nothing more is known."""

        class Twice(Table):
            def read(self, scenario, world, columns):
                rows = super().read(scenario, world, columns)
                return pd.concat([rows, rows.assign(patient=rows["patient"] + 4)], ignore_index=True)

        once, twice = (gains(table, ["a"], "none", {"on": 1.0}).set_index("world") for table in (Table(), Twice()))
        pd.testing.assert_frame_equal(once, twice)


class TestOptions:
    def test_the_bundled_ones_have_a_comparator(self):
        file, none = options(None)
        assert none == "no treatment"
        assert {"cilta-cel", "ide-cel", "bispecific antibody"} <= {scenario.name for scenario in file.scenarios}

    def test_a_file_without_a_comparator_is_refused(self, tmp_path):
        path = tmp_path / "mine.toml"
        path.write_text('[[scenario]]\nname = "x"\nfirst.product = "ide-cel"\nsecond.product = "ide-cel"\n')
        with pytest.raises(ReinfuseError, match="has 0 scenarios with no_second = true and 1 others"):
            options(path)


@pytest.fixture(scope="module")
def run(one_infusion, tmp_path_factory):
    return Reopened.of(drawn_run.write(tmp_path_factory.mktemp("benefit") / "run", one_infusion))


def weighed(run, cohort) -> PatientPosterior:
    """A patient's draws as the run has them, none weighed."""
    posed = pose_patient(run, one_patient(cohort, cohort.patients[0]))
    h = run.draws.hypers()
    return PatientPosterior(
        patient=posed,
        hyper=h,
        place=np.arange(len(h)),
        deviation=run.draws.deviation[:, :, 0].reshape(len(h), -1),
        log_weight=np.full(len(h), -np.log(len(h))),
        pareto_k=float("nan"),
        error=0.0,
    )


class TestPopulation:
    @pytest.fixture(scope="class")
    @classmethod
    def posterior(cls, run, one_infusion):
        return weighed(run, known_on(one_infusion.cohort, 120.0))

    def test_draws_are_the_patients_own(self, run, posterior):
        file, _ = options(None)
        made = patients_population(posterior, run.run, file, rng=np.random.default_rng(1))
        assert made.n_draws == benefit.DRAWS
        assert made.observed.patient == posterior.patient.name
        rho = run.problem.random.index("rho")
        table = run.run.posterior()["posterior"]["individual"].sel(effect="rho").transpose("chain", "draw", "patient")
        assert rho == 0
        known = table.values[:, :, 0].ravel()
        assert np.isin(np.round(made.own["rho"], 9), np.round(known, 9)).all()


def test_who_had_two_infusions_is_not_tried(two_infusions):
    infusions = two_infusions.cohort.infusions
    twice = infusions.loc[infusions["SLOT"] == 2, "ID"].iloc[0]
    rows = two_infusions.cohort.table
    alive = rows[~((rows["DVID"] == "death") & (rows["DV"] == 1))]
    cohort = two_infusions.cohort.__class__(table=alive[alive["ID"] == twice], name="two", sha256="")
    assert "had 2 infusions already" in reason_against(cohort)

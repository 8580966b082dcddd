"""Which patient is forecast: what is refused, and that a patient is posed as the fit posed it."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from reinfuse.fits.cohort import Cohort, cohort_from_frame
from reinfuse.fits.forecasting.patient import one_patient, pose_patient
from reinfuse.fits.geometry import Posterior
from reinfuse.fits.reopened import Reopened
from reinfuse.fits.temporal import known_on
from reinfuse.model import products
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.products import product

from .. import drawn_run


@pytest.fixture(scope="module")
def run(one_infusion, tmp_path_factory):
    return Reopened.of(drawn_run.write(tmp_path_factory.mktemp("patient") / "run", one_infusion))


def rows(*, product="ide-cel", assay="transgene", infusions=1, **more) -> pd.DataFrame:
    lines = [
        {"ID": "N1", "TIME": 200.0 * k, "EVID": 1, "PRODUCT": product, "AMT": 3e8, "LD": 1.0} for k in range(infusions)
    ]
    lines.append({"ID": "N1", "TIME": 10.0, "EVID": 0, "DVID": assay, "DV": 50.0, "LLOQ": 2.0})
    lines += [{"ID": "N1", "TIME": day, "EVID": 0, "DVID": name, "DV": 0.0} for name, day in more.items()]
    return pd.DataFrame(sorted(lines, key=lambda row: row["TIME"]))


def newcomer(**changes):
    return one_patient(cohort_from_frame(rows(**changes), name="new.csv"))


class TestOne:
    def test_a_file_of_one_needs_no_name(self):
        assert newcomer().patients == ["N1"]

    def test_several_need_one(self, one_infusion):
        with pytest.raises(ReinfuseError, match=r"has 8 patients .*Name it with --patient ID"):
            one_patient(one_infusion.cohort)
        name = one_infusion.cohort.patients[3]
        assert one_patient(one_infusion.cohort, name).patients == [name]

    def test_an_unknown_name_is_refused(self, one_infusion):
        with pytest.raises(ReinfuseError, match=r"--patient is 'nobody'; small.csv has SYN-"):
            one_patient(one_infusion.cohort, "nobody")

    def test_the_dead_are_not_forecast(self):
        table = rows()
        table.loc[len(table)] = {"ID": "N1", "TIME": 90.0, "EVID": 0, "DVID": "death", "DV": 1.0}
        with pytest.raises(ReinfuseError, match="patient N1 died"):
            one_patient(cohort_from_frame(table, name="new.csv"))


class TestPosed:
    def test_a_patient_of_the_run_has_the_likelihood_of_the_fit(self, run, one_infusion):
        for place, name in enumerate(one_infusion.cohort.patients):
            posed = pose_patient(run, one_patient(one_infusion.cohort, name))
            assert posed.alike, "these very rows"
            h = run.draws.hyper(0, 7)
            b = run.draws.deviation[0, 7]
            whole = Posterior(run.problem).conditional(h).loglik(b)[place]
            alone = Posterior(posed.problem).conditional(h).loglik(b[place : place + 1])[0]
            assert alone == pytest.approx(whole, rel=1e-9)
            assert posed.rows == run.problem.n_ob[place]

    def test_rows_of_the_file_count_and_those_of_the_run_are_kept_apart(self, run, one_infusion):
        name = one_infusion.cohort.patients[0]
        posed = pose_patient(run, one_patient(known_on(one_infusion.cohort, 20.0), name))
        assert not posed.alike
        assert posed.known is not None
        assert posed.rows < posed.known.n_ob[0] == run.problem.n_ob[0]
        assert posed.last_day == posed.free_until == 20.0
        assert "with other rows" in posed.summary

    def test_the_same_id_alone_is_not_the_same_person(self, run, one_infusion):
        table = rows()
        table["ID"] = one_infusion.cohort.patients[0]
        posed = pose_patient(run, one_patient(cohort_from_frame(table, name="new.csv")))
        assert posed.known is None
        assert posed.summary.startswith("The run has not seen")
        forced = pose_patient(run, one_patient(cohort_from_frame(table, name="new.csv")), same=True)
        assert forced.known is not None

    def test_assays_without_a_model_are_left_out_and_named(self, run):
        posed = pose_patient(run, newcomer(pd1=20.0))
        assert posed.left_out == ("pd1",)
        assert posed.rows == 1
        assert posed.limits["transgene"] == 2.0, "the patient's own"
        assert set(posed.limits) >= {"cart", "sbcma"}, "the others are the run's"

    def test_progression_is_read(self, run):
        posed = pose_patient(run, newcomer(progression=60.0))
        assert (posed.free_until, posed.progressed_on) == (60.0, None)
        assert posed.rows == 2
        assert pose_patient(run, newcomer()).free_until is None

    def test_the_compiled_model_is_that_of_the_run(self, run):
        assert pose_patient(run, newcomer()).problem.kernel.module is run.problem.kernel.module


class TestRefused:
    def test_a_product_that_the_run_does_not_know(self, run, monkeypatch):
        monkeypatch.setitem(products._registry, "third-cel", dataclasses.replace(product("ide-cel"), name="third-cel"))
        with pytest.raises(ReinfuseError, match=r"got third-cel; the run .* knows cilta-cel, ide-cel"):
            pose_patient(run, newcomer(product="third-cel"))

    def test_more_infusions_than_anybody_had(self, run):
        with pytest.raises(ReinfuseError, match=r"had 2 infusions, and nobody in the run .* had more than 1"):
            pose_patient(run, newcomer(infusions=2))

    def test_no_assay_in_common(self, run):
        with pytest.raises(ReinfuseError, match=r"patient N1 has flc, and the run was fitted to .*: no assay"):
            pose_patient(run, newcomer(assay="flc"))

    def test_a_model_of_ones_own(self, run):
        own = dataclasses.replace(run, problem=dataclasses.replace(run.problem, own=True))
        with pytest.raises(ReinfuseError, match="a model of one's own"):
            pose_patient(own, newcomer())


def test_two_infusions_are_posed_with_their_occasions(two_infusions, tmp_path):
    run = Reopened.of(drawn_run.write(tmp_path / "run", two_infusions, one=2, two=3))
    known = known_on(two_infusions.cohort, 1e4)
    for place, name in enumerate(known.patients):
        rows = known.table[known.table["ID"] == name]
        posed = pose_patient(run, Cohort(table=rows, name="one", sha256=""))
        infusions = rows[rows["EVID"] == 1]["TIME"]
        assert posed.last_infusion == infusions.max()
        before = rows[(rows["DVID"] == "progression") & (rows["DV"] == 1) & (rows["TIME"] < posed.last_infusion)]
        if len(before):
            assert posed.progressed_on != before["TIME"].iloc[0], "what came before the latest infusion is over"
        h, b = run.draws.hyper(0, 3), run.draws.deviation[0, 3]
        whole = Posterior(run.problem).conditional(h).loglik(b)[place]
        alone = Posterior(posed.problem).conditional(h).loglik(b[place : place + 1])[0]
        assert alone == pytest.approx(whole, rel=1e-9)
        assert np.isfinite(alone)

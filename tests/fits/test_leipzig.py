"""The converter of the Leipzig cohort: its rules on made-up visits, its counts on the real files."""

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from reinfuse.fits.assays import records
from reinfuse.fits.cohort import cohort_from_frame, read_cohort, summarise, write_cohort
from reinfuse.fits.converters.leipzig import convert_leipzig
from reinfuse.model.densities import Family
from reinfuse.model.errors import ReinfuseError
from reinfuse.scripts.main import build

KINETICS = """patient_id,day_nominal,day_actual,observable,value,unit
X1,,-50,car_t_flow,0,cells/uL
X1,0,0,car_t_flow,0,cells/uL
X1,7,8,car_t_flow,25,cells/uL
X1,30,29,car_t_flow,0,cells/uL
X1,100,98,car_t_flow,0,cells/uL
X1,7,8,cd3,500,cells/uL
X1,30,29,cd3,800,cells/uL
X1,7,,car_transgene,90000,copies/ug DNA
X1,100,98,car_transgene,0,copies/ug DNA
X1,,-50,sbcma,300,ng/mL
X1,0,0,sbcma,200,ng/mL
X1,30,29,sbcma,1.1,ng/mL
X1,100,98,sbcma,1.2,ng/mL
X1,7,8,pd1_pct_cd8_car,40,%
X1,7,8,pd1_pct_cd4_car,20,%
X1,30,29,pd1_pct_cd8_car,100,%
X1,7,8,car_copies_per_1000,5,copies/1000 cells
X2,,-60,sbcma,80,ng/mL
X2,,-20,sbcma,70,ng/mL
X2,,,sbcma,90,ng/mL
X2,,,sbcma_preBT,95,ng/mL
X2,7,14,sbcma,60,ng/mL
X2,14,14,sbcma,50,ng/mL
X2,14,14,pd1_pct_cd8_car,0,%
X2,30,30,pd1_pct_cd8_car,33,%
X9,7,7,sbcma,5,ng/mL
"""
PATIENTS = """\
patient_id,product,riss,emd,bridging,resp_30d,resp_3m,mrd_30d,progression,pfs_event,pfs_days,death,os_days
X1,Ide-cel,2.0,1.0,CD38,PR,PD,0,1,1,90,0,120
X2,Cilta-cel,,0.0,Chemotherapy,CR,,1,0,1,200,1,200
X3,Ide-cel,1.0,,CD38,CR,CR,0,0,0,300,0,310
"""


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "kinetics_long.csv").write_text(KINETICS)
    (folder / "patients.csv").write_text(PATIENTS)
    return folder


def rows_of(table, patient, dvid):
    rows = table[(table["ID"] == patient) & (table["DVID"] == dvid)]
    return rows[["TIME", "DV", "CENS"]].to_numpy().tolist()


class TestRules:
    def test_transgene(self, source):
        table, report = convert_leipzig(source)
        assert rows_of(table, "X1", "transgene") == [[7.0, 90000.0, 0.0], [98.0, 50.0, 1.0]]
        assert report.counts["transgene_censored"] == 1
        assert report.counts["nominal_day"] == 1
        assert rows_of(convert_leipzig(source, transgene_lloq=20.0)[0], "X1", "transgene")[1] == [
            98.0,
            20.0,
            1.0,
        ]

    def test_flow_zeros_are_censored_at_a_thousandth_of_cd3(self, source):
        table, report = convert_leipzig(source)
        # day 98 has no CD3 count: the median of 0.5 and 0.8
        expected = [[8.0, 25.0, 0.0], [29.0, 0.8, 1.0], [98.0, 0.65, 1.0]]
        np.testing.assert_allclose(rows_of(table, "X1", "cart"), expected)
        assert report.counts["car_t_flow_before"] == 2
        assert report.counts["cart_limit_guessed"] == 1
        flow = table[table["DVID"] == "cart"]
        np.testing.assert_allclose(flow["LLOQ"], [0.5, 0.8, 0.65])

    def test_sbcma(self, source):
        table, report = convert_leipzig(source)
        assert rows_of(table, "X1", "sbcma") == [[0.0, 200.0, 0.0], [29.0, 1.1, 1.0], [98.0, 1.2, 0.0]]
        # the latest dated baseline; of two samples on day 14 that of the earlier nominal visit
        assert rows_of(table, "X2", "sbcma") == [[-20.0, 70.0, 0.0], [14.0, 60.0, 0.0]]
        names = ("sbcma_superseded", "sbcma_early_baseline", "undated", "same_day", "sbcma_pre_bridging")
        assert [report.counts[name] for name in names] == [2, 1, 1, 1, 1]

    def test_pd1(self, source):
        table, report = convert_leipzig(source)
        # X1 day 29: no CAR+ cell counted; X2 day 14: zero without a count
        assert rows_of(table, "X1", "pd1") == [[8.0, 40.0, 0.0]]
        assert rows_of(table, "X2", "pd1") == [[30.0, 33.0, 0.0]]
        assert report.counts["pd1_void"] == 2
        assert rows_of(convert_leipzig(source, pd1="cd4")[0], "X1", "pd1") == [[8.0, 20.0, 0.0]]
        assert "pd1" not in set(convert_leipzig(source, pd1=None)[0]["DVID"])

    def test_outcomes(self, source):
        table, report = convert_leipzig(source)
        outcomes = {p: rows_of(table, p, "progression") + rows_of(table, p, "death") for p in ("X1", "X2", "X3")}
        assert outcomes == {
            "X1": [[90.0, 1.0, 0.0], [120.0, 0.0, 0.0]],
            "X2": [[200.0, 0.0, 0.0], [200.0, 1.0, 0.0]],
            "X3": [[300.0, 0.0, 0.0], [310.0, 0.0, 0.0]],
        }
        assert report.counts["competing_deaths"] == 1

    def test_infusions_and_covariates(self, source):
        cohort = cohort_from_frame(convert_leipzig(source)[0])
        assert cohort.infusions["PRODUCT"].tolist() == ["ide-cel", "cilta-cel", "ide-cel"]
        assert cohort.infusions["TIME"].tolist() == [0.0, 0.0, 0.0]
        assert cohort.covariates.columns.tolist() == [
            "riss",
            "emd",
            "bridging",
            "resp_30d",
            "resp_3m",
            "mrd_30d",
        ]
        assert cohort.covariates["resp_30d"].tolist() == ["PR", "CR", "CR"]
        assert cohort.covariates["mrd_30d"].tolist() == [0.0, 1.0, 0.0]

    def test_every_decision_is_a_sentence_with_its_count(self, source):
        _, report = convert_leipzig(source)
        assert len(report.notes) == len(report.counts)
        for note, count in zip(report.notes, report.counts.values(), strict=True):
            assert f": {count}; " in note
        assert report.counts["unknown_patient"] == 1
        assert report.counts["no_samples"] == 1


class TestFaults:
    def test_missing_file(self, source):
        (source / "patients.csv").unlink()
        with pytest.raises(ReinfuseError, match=r"patients\.csv: no such file; name the folder that holds"):
            convert_leipzig(source)

    def test_missing_column(self, source):
        (source / "kinetics_long.csv").write_text(KINETICS.replace("observable", "assay"))
        with pytest.raises(ReinfuseError, match="no column 'observable', saw patient_id, day_nominal"):
            convert_leipzig(source)

    def test_text_where_a_number_belongs(self, source):
        (source / "kinetics_long.csv").write_text(KINETICS.replace(",25,", ",<25,"))
        with pytest.raises(ReinfuseError, match=r"kinetics_long\.csv:4:value: not a number, saw '<25'"):
            convert_leipzig(source)

    def test_contradicting_outcome(self, source):
        (source / "patients.csv").write_text(PATIENTS.replace("0,1,200,1,200", "0,1,200,1,250"))
        with pytest.raises(ReinfuseError, match="X2 has a PFS event on day 200 that is neither"):
            convert_leipzig(source)

    def test_missing_outcome(self, source):
        (source / "patients.csv").write_text(PATIENTS.replace("0,0,300,0,310", "0,0,300,0,"))
        with pytest.raises(ReinfuseError, match="X3 has no pfs_days or no os_days"):
            convert_leipzig(source)

    def test_unknown_product(self, source):
        (source / "patients.csv").write_text(PATIENTS.replace("Cilta-cel", "Ciltacel"))
        with pytest.raises(ReinfuseError, match=r"the converted table:.*unknown product.*did you mean 'cilta-cel'"):
            convert_leipzig(source)

    def test_zeros_without_any_cd3(self, source):
        (source / "kinetics_long.csv").write_text(KINETICS.replace(",cd3,", ",cd2,"))
        with pytest.raises(ReinfuseError, match="no CD3 count at any visit"):
            convert_leipzig(source)

    @pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
    def test_limit(self, source, limit):
        with pytest.raises(ReinfuseError, match=r"transgene_lloq is .*; give a limit > 0"):
            convert_leipzig(source, transgene_lloq=limit)


class TestCommand:
    def run(self, *arguments):
        return CliRunner().invoke(build(), ["convert", "leipzig", *map(str, arguments)])

    def test_writes_a_cohort(self, source, tmp_path):
        out = tmp_path / "cohort.csv"
        done = self.run(source, "--out", out)
        assert done.exit_code == 0
        assert "- transgene zeros: 1; left-censored at 50 copies/µg DNA" in done.stdout
        assert f"Wrote {out}: 3 patients, 3 infusions, 18 observations." in done.stdout
        assert read_cohort(out).n_patients == 3

    def test_does_not_overwrite_unless_told(self, source, tmp_path):
        out = tmp_path / "cohort.csv"
        out.write_text("precious")
        refused = self.run(source, "--out", out)
        assert isinstance(refused.exception, ReinfuseError)
        assert "exists already" in str(refused.exception)
        assert out.read_text() == "precious"
        assert self.run(source, "--out", out, "--force").exit_code == 0
        assert out.read_text().startswith("ID,TIME,EVID")

    def test_writes_nothing_on_a_fault(self, source, tmp_path):
        (source / "patients.csv").write_text(PATIENTS.replace("Cilta-cel", "Ciltacel"))
        out = tmp_path / "cohort.csv"
        assert isinstance(self.run(source, "--out", out).exception, ReinfuseError)
        assert not out.exists()
        absent = tmp_path / "absent" / "cohort.csv"
        assert "there is no folder" in str(self.run(source, "--out", absent).exception)
        assert "is a folder" in str(self.run(source, "--out", tmp_path, "--force").exception)


@pytest.fixture(scope="module")
def converted(shared):
    return convert_leipzig(shared / "data" / "leipzig_bcma")


@pytest.fixture(scope="module")
def cohort(converted, tmp_path_factory):
    path = tmp_path_factory.mktemp("leipzig") / "cohort.csv"
    write_cohort(converted[0], path)
    return read_cohort(path)


@pytest.mark.shared
class TestRealCohort:
    def test_patients(self, cohort):
        summary = summarise(cohort)
        assert summary.patients[["product", "patients"]].to_numpy().tolist() == [
            ["cilta-cel", 18],
            ["ide-cel", 34],
        ]
        assert cohort.n_patients == 52
        assert cohort.max_infusions == 1

    @pytest.mark.parametrize(
        ("assay", "samples", "patients", "censored"),
        [("transgene", 147, 50, 1), ("cart", 166, 48, 15), ("sbcma", 159, 50, 18), ("pd1", 156, 48, 0)],
    )
    def test_samples(self, cohort, assay, samples, patients, censored):
        rows = cohort.observations[cohort.observations["DVID"] == assay]
        assert (len(rows), rows["ID"].nunique(), int((rows["CENS"] == 1).sum())) == (
            samples,
            patients,
            censored,
        )

    def test_every_sample_is_kept_or_noted(self, shared, converted):
        raw = pd.read_csv(shared / "data" / "leipzig_bcma" / "kinetics_long.csv")["observable"].value_counts()
        table, report = converted
        kept, counts = table["DVID"].value_counts(), report.counts
        assert (raw["car_transgene"], raw["car_t_flow"], raw["sbcma"]) == (147, 252, 201)
        assert kept["transgene"] == raw["car_transgene"]
        assert kept["cart"] == raw["car_t_flow"] - counts["car_t_flow_before"]
        # the undated values are all sBCMA at leukapheresis
        assert kept["sbcma"] == raw["sbcma"] - counts["sbcma_superseded"] - counts["undated"]
        assert kept["pd1"] == raw["pd1_pct_cd8_car"] - counts["pd1_void"]

    def test_flow_limits(self, cohort):
        rows = cohort.observations
        limits = rows.loc[(rows["DVID"] == "cart") & (rows["CENS"] == 1), "DV"]
        assert 0.3 <= limits.min()
        assert limits.max() <= 3.2

    def test_outcomes(self, cohort, converted):
        follow_up = summarise(cohort).follow_up.set_index("product")
        assert follow_up["pfs_events"].to_dict() == {"cilta-cel": 2, "ide-cel": 19}
        assert follow_up["progressions"].sum() == 19
        assert converted[1].counts["competing_deaths"] == 2
        assert follow_up.loc["ide-cel", "pfs_median"] == 181
        assert np.isinf(follow_up.loc["cilta-cel", "pfs_median"])
        taken = records(cohort)
        progressions = taken.family[taken.dvid == "progression"]
        assert int((progressions == Family.EVENT).sum()) == 19
        assert int((progressions == Family.NO_EVENT).sum()) == 33

    def test_samples_after_progression_stay_out_of_the_records(self, cohort):
        flagged = cohort.observations[cohort.after_progression]["DVID"].value_counts().to_dict()
        assert flagged == {"cart": 12, "sbcma": 11, "transgene": 6, "pd1": 6}
        taken, every = records(cohort), records(cohort, include_after_progression=True)
        assert len(every) - len(taken) == 12 + 11 + 6
        assert len(every) == 147 + 166 + 159 + 2 * 52

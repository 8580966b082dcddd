"""`reinfuse forecast`: what it writes, says and refuses."""

import json
from contextlib import contextmanager

import pandas as pd
import pytest

from reinfuse.fits.cohort import cohort_from_frame, read_cohort, write_cohort
from reinfuse.fits.forecasting import answer as answers
from reinfuse.fits.forecasting import posterior as sampler
from reinfuse.fits.forecasting.answer import forecast
from reinfuse.fits.synthetic import BUNDLED
from reinfuse.fits.temporal import known_on
from reinfuse.model.errors import ReinfuseError
from reinfuse.scripts._shell import ExitCode, guarded
from reinfuse.scripts.forecast import command

from ..fits import drawn_run, small_cohorts

#: Fewer options and worlds than the bundled file has.
OPTIONS = """
[settings]
progression = "hazard"
second_horizon_months = 24

[[world]]
name = "as assumed"

[[world]]
name = "none of these"
host_dysfunction = false
antigen_loss_fraction = false
anti_car_immunity = false
microenvironment = false

[[scenario]]
name = "wait"
first.product = "ide-cel"
no_second = true

[[scenario]]
name = "cilta-cel"
about = "60 days after progression."
first.product = "ide-cel"
second.product = "cilta-cel"
second.bridging = 0.3

[[scenario]]
name = "bispecific antibody"
first.product = "ide-cel"
bispecific = true
"""


@contextmanager
def silent(title, total):
    yield lambda amount=1.0: None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return drawn_run.write(tmp_path_factory.mktemp("forecast") / "run", small_cohorts.posed(one=4, two=0))


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory, run):
    """Files of a patient whom the run has not seen, as known on two days."""
    whole = read_cohort(BUNDLED)
    seen = set(read_cohort(run.cohort_path).patients)
    infusions = whole.infusions
    once = infusions.groupby("ID")["SLOT"].max()
    name = next(
        patient
        for patient in whole.patients
        if patient not in seen and once[patient] == 1 and "ide-cel" in set(infusions[infusions.ID == patient].PRODUCT)
    )
    folder = tmp_path_factory.mktemp("files")
    paths = {}
    for day in (14, 60):
        known = known_on(whole, float(day)).table
        paths[day] = folder / f"day_{day}.csv"
        write_cohort(known[known["ID"] == name], paths[day])
    return name, paths


@pytest.fixture(scope="module", autouse=True)
def enough():
    """The drawn run has 240 draws; here that is enough, and so are cheap integrals."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "ENOUGH", 30.0)
        patch.setattr(sampler, "DEVIATION_DRAWS", 16)
        patch.setattr(sampler, "TAUGHT_BY", 100)
        patch.setattr(sampler, "FURTHER", 1)
        yield


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    path = tmp_path_factory.mktemp("options") / "options.toml"
    path.write_text(OPTIONS)
    return path


@pytest.fixture(scope="module")
def made(run, newcomer, options, tmp_path_factory):
    """The first forecast: its folder and what it says."""
    out = tmp_path_factory.mktemp("out") / "first"
    found = forecast(run.path, newcomer[1][14], until=365.0, out=out, progress=silent, draws=30, scenarios=options)
    return out, found


class TestFolder:
    def test_it_holds_what_is_promised_and_nothing_else(self, made):
        out, _ = made
        assert {entry.name for entry in out.iterdir()} == {
            "forecast.csv", "progression.csv", "benefit.csv", "summary.md", "run.json", "figures",
        }  # fmt: skip
        assert {entry.name for entry in (out / "figures").iterdir()} == {
            "assays.png", "progression.png", "benefit.png",
        }  # fmt: skip

    def test_forecast_goes_to_the_day(self, made):
        table = pd.read_csv(made[0] / "forecast.csv")
        assert table["time"].max() == 365.0
        assert table["time"].min() == 0.0
        assert set(table["of"]) == {"curve", "measurement"}

    def test_progression_begins_after_the_day_known_to_be_free(self, made):
        table = pd.read_csv(made[0] / "progression.csv")
        assert table["month"].tolist() == list(range(1, 13))
        assert table["probability"].between(0, 1).all()
        assert table["probability"].is_monotonic_increasing

    def test_benefit_has_every_option_in_every_world(self, made):
        table = pd.read_csv(made[0] / "benefit.csv")
        options, worlds = set(table["option"]), set(table["world"])
        assert options == {"cilta-cel", "bispecific antibody"}
        assert worlds == {"stacked", "as assumed", "none of these"}
        assert len(table) == len(options) * len(worlds)
        assert table["better"].between(0, 1).all()
        assert (table["gain_low"] <= table["gain_high"]).all()

    def test_it_says_how_it_was_made(self, made, newcomer):
        told = json.loads((made[0] / "run.json").read_text())
        assert told["kind"] == "forecast"
        assert told["patient"] == newcomer[0]
        assert told["last_day"] == told["free_until"] == 14.0
        assert not told["seen_by_the_run"]
        assert told["effective_draws"] > 30
        assert set(told["seconds"]) == {"opening", "posterior", "predictions", "benefit", "figures"}
        assert all(part["processor"] >= 0 for part in told["seconds"].values())

    def test_the_summary_is_in_plain_words(self, made, newcomer):
        text = (made[0] / "summary.md").read_text()
        assert "never a dosing recommendation" in text
        assert f"The run has not seen patient {newcomer[0]}." in text
        assert "Known to be free of progression until day 14." in text
        assert "By the end of month 12: progression with a chance of" in text
        assert "cilta-cel (60 days after progression" in text
        assert "Do not trust" not in text


def test_the_same_seed_gives_the_same_bytes_whatever_the_cores(run, newcomer, options, made, tmp_path):
    forecast(
        run.path,
        newcomer[1][14],
        until=365.0,
        out=tmp_path / "again",
        progress=silent,
        draws=30,
        scenarios=options,
        cores=2,
    )
    for name in ("forecast.csv", "progression.csv", "benefit.csv", "summary.md", "figures/assays.png"):
        assert (tmp_path / "again" / name).read_bytes() == (made[0] / name).read_bytes(), name


class TestLater:
    @pytest.fixture(scope="class")
    @classmethod
    def later(cls, run, newcomer, options, made, tmp_path_factory):
        out = tmp_path_factory.mktemp("later") / "second"
        return forecast(
            run.path,
            newcomer[1][60],
            until=365.0,
            out=out,
            progress=silent,
            previous=made[0],
            draws=30,
            scenarios=options,
            seed=2,
        )

    def test_it_says_what_has_changed(self, later):
        assert "## What has changed" in later.summary
        assert "The earlier forecast had seen" in later.summary
        assert "until day 14; this one has seen" in later.summary
        assert "The chance of progression by the end of month 12 is" in later.summary
        assert "sbcma on day 365" in later.summary
        assert "cilta-cel: chance of being better than none" in later.summary

    def test_measurements_since_narrow_the_forecast(self, made, later):
        widths = []
        for found in (made[1], later):
            table = found.tables["forecast"]
            row = table[(table["assay"] == "sbcma") & (table["of"] == "curve") & (table["time"] == 60.0)].iloc[0]
            widths.append(row["high_80"] / row["low_80"])
        assert widths[1] < widths[0]

    def test_another_patients_is_refused(self, run, newcomer, made, tmp_path):
        table = pd.read_csv(newcomer[1][14], dtype=str, keep_default_na=False)
        write_cohort(cohort_from_frame(table.assign(ID="SOMEBODY"), name="x").table, tmp_path / "other.csv")
        with pytest.raises(ReinfuseError, match="and this is SOMEBODY"):
            forecast(run.path, tmp_path / "other.csv", until=90, out=tmp_path / "o", progress=silent, previous=made[0])
        assert not (tmp_path / "o").exists()

    def test_no_forecast_is_refused(self, run, newcomer, tmp_path):
        with pytest.raises(ReinfuseError, match="is no finished folder of `reinfuse forecast`"):
            forecast(run.path, newcomer[1][14], until=90, out=tmp_path / "o", progress=silent, previous=tmp_path)


def test_a_patient_of_the_run_is_told_so(run, tmp_path):
    last = read_cohort(run.cohort_path).observations.groupby("ID")["TIME"].max()
    name = str(last.idxmin())
    found = forecast(
        run.path,
        run.cohort_path,
        until=last.min() + 30.0,
        out=tmp_path / "o",
        progress=silent,
        patient=name,
        with_benefit=False,
    )
    assert f"The run has already seen patient {name}, with these very rows" in found.summary
    assert found.posterior.effective == pytest.approx(240)
    assert "benefit" not in found.tables
    assert "Not computed: it was not asked for." in found.summary


def test_who_has_progressed_is_told_so(run, tmp_path):
    """Of a patient of the bundled cohort whom the run has not seen."""
    whole = read_cohort(BUNDLED)
    rows = whole.observations
    new = ~rows["ID"].isin(read_cohort(run.cohort_path).patients)
    seen = rows[(rows["DVID"] == "progression") & (rows["DV"] == 1) & new]
    first = seen.iloc[seen["TIME"].argmin()]
    day = float(first["TIME"])
    found = forecast(
        run.path,
        BUNDLED,
        patient=str(first["ID"]),
        seen_until=day,
        until=day + 60.0,
        out=tmp_path / "o",
        progress=silent,
        with_benefit=False,
    )
    assert f"Progression was seen on day {day:g}" in found.summary
    assert "of a patient without other therapy until then" in found.summary
    assert (found.tables["progression"]["probability"] == 1.0).all()


def test_nobody_who_progresses_needs_an_option(run, newcomer, tmp_path, monkeypatch):
    def nobody(*args, **kwargs):
        raise answers.NobodyProgressed("none of 100 virtual patients progressed")

    monkeypatch.setattr(answers, "benefit_of", nobody)
    found = forecast(run.path, newcomer[1][14], until=90.0, out=tmp_path / "o", progress=silent)
    assert "none of the patient's draws progresses within the laboratory's follow-up" in found.summary


def test_in_hindsight_is_as_it_would_have_been(run, newcomer, made, tmp_path):
    """The rows after the day are as good as not written yet."""
    found = forecast(
        run.path, newcomer[1][60], seen_until=14.0, until=365.0, out=tmp_path / "o", progress=silent, with_benefit=False
    )
    pd.testing.assert_frame_equal(found.tables["forecast"], made[1].tables["forecast"])


class TestRefused:
    def test_a_day_that_is_over(self, run, newcomer, tmp_path):
        with pytest.raises(ReinfuseError, match=r"--until is 20, and patient .* was seen until day 60 already"):
            forecast(run.path, newcomer[1][60], until=20.0, out=tmp_path / "o", progress=silent)
        assert not (tmp_path / "o").exists()

    @pytest.mark.parametrize("until", [0.0, float("inf"), 1e9, float("nan")])
    def test_a_day_that_is_none(self, run, newcomer, tmp_path, until):
        with pytest.raises(ReinfuseError, match=r"--until is .*; give a day after the infusion, up to 36525"):
            forecast(run.path, newcomer[1][14], until=until, out=tmp_path / "o", progress=silent)
        assert not (tmp_path / "o").exists()

    def test_a_folder_of_something_else(self, run, newcomer, tmp_path):
        (tmp_path / "letter.txt").write_text("dear")
        with pytest.raises(ReinfuseError, match="holds other files"):
            forecast(run.path, newcomer[1][14], until=90.0, out=tmp_path, progress=silent)

    def test_exit_code_of_bad_input(self, run, tmp_path, capsys):
        code = guarded(lambda: command(run.path, run.cohort_path, until=90.0, out=tmp_path / "o"))
        assert code == ExitCode.BAD_INPUT
        assert "a forecast is of one. Name it with --patient ID" in capsys.readouterr().err
        assert not (tmp_path / "o").exists()


def test_too_few_draws_are_saved_but_not_trusted(run, newcomer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sampler, "ENOUGH", 400.0)
    out = tmp_path / "o"
    code = guarded(lambda: command(run.path, newcomer[1][14], until=90.0, out=out, benefit=False))
    assert code == ExitCode.NOT_TRUSTED
    assert "effective draws of 240, fewer than 400" in capsys.readouterr().err
    assert "Do not trust this forecast yet" in (out / "summary.md").read_text()
    assert not json.loads((out / "run.json").read_text())["trusted"]


def test_a_run_that_has_not_converged_is_not_trusted(run, newcomer, tmp_path):
    told = run.path / "diagnostics.json"
    told.write_text(json.dumps({"converged": False}))
    try:
        found = forecast(run.path, newcomer[1][14], until=90.0, out=tmp_path / "o", progress=silent, with_benefit=False)
    finally:
        told.write_text(json.dumps({"converged": True}))
    assert any("has not converged" in doubt for doubt in found.doubts)

"""Models of one's own, from a table to a run folder: faults, the posed problem, fits that find the truth."""

import gc
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from reinfuse.fits.cohort import CohortError
from reinfuse.fits.diagnosis.convergence import diagnose
from reinfuse.fits.diagnosis.findings import examine, record
from reinfuse.fits.figures.plates import draw_all
from reinfuse.fits.likelihood_op import LogDensity, loglik_and_gradient
from reinfuse.fits.own_model import data_from_frame, describe, described, load_model, pose_model, read_data
from reinfuse.fits.population import design, estimated, population_model, prior_location
from reinfuse.fits.report.build import render
from reinfuse.fits.results import layout
from reinfuse.fits.run import RunFolder, sha256_of
from reinfuse.fits.sampling import Settings
from reinfuse.model.densities import Family
from reinfuse.model.errors import ReinfuseError

from ..model import own_models
from . import small_cohorts  # noqa: F401  (imports PyMC without its warnings)

VISITS = np.array([0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 23.9, 25.0, 28.0, 36.0])
DOSES = [(0, 100.0), (24, 60.0)]
SHORT = Settings(draws=20, tune=50, chains=2, thin=1, seed=3)


def pk_rows(n: int = 4, seed: int = 1) -> pd.DataFrame:
    """Patients of the oral example; below 0.25 mg/L is censored."""
    rng = np.random.default_rng(seed)
    truth = own_models.pk().patients(n=n, rng=rng)
    conc = own_models.pk().simulate(times=VISITS, doses=DOSES, parameters=truth)["conc"].to_numpy()
    seen = conc * np.exp(0.2 * rng.standard_t(4, size=conc.shape))
    rows = [{"ID": f"P{i}", "TIME": t, "EVID": 1, "AMT": a} for i in range(n) for t, a in DOSES]
    rows += [
        {"ID": f"P{i}", "TIME": t, "EVID": 0, "DV": max(v, 0.25), "CENS": int(v < 0.25)}
        for i in range(n)
        for t, v in zip(VISITS, seen[i], strict=True)
    ]
    return pd.DataFrame(rows).sort_values(["ID", "TIME"], ignore_index=True)


def decay_rows(n: int = 1, seed: int = 2) -> pd.DataFrame:
    """Readings with absolute error, some of them negative."""
    rng, times = np.random.default_rng(seed), np.linspace(0.25, 8.0, 25)
    clean = own_models.decay().simulate(times=times, doses=[(3.0, 4.0)], parameters={"k": np.full(n, 0.5)})["reading"]
    rows = [{"ID": i, "TIME": 3.0, "EVID": 1, "AMT": 4.0, "DV": None} for i in range(n)]
    rows += [
        {"ID": i, "TIME": t, "EVID": 0, "AMT": None, "DV": v + 0.3 * rng.standard_t(4)}
        for i in range(n)
        for t, v in zip(times, clean.to_numpy()[i], strict=True)
    ]
    return pd.DataFrame(rows).sort_values(["ID", "TIME"], ignore_index=True)


class TestTable:
    def test_a_sound_table_is_read(self, tmp_path):
        path = tmp_path / "pk.csv"
        pk_rows().to_csv(path, index=False)
        data = read_data(path, model=own_models.pk())
        assert data.patients == ["P0", "P1", "P2", "P3"]
        assert set(data.observations["DVID"]) == {"conc"}
        assert data.sha256 == sha256_of(path)
        assert len(data.infusions) == 8

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda t: t.drop(columns="AMT"), "AMT: required column is missing"),
            (lambda t: t.drop(columns="DV"), "DV: required column is missing"),
            (lambda t: t.assign(DVID="konz"), "unknown observable, saw 'konz'; known are conc"),
            (lambda t: t.assign(DVID="con"), "did you mean 'conc'"),
            (lambda t: t.assign(TIME=t["TIME"] - 1), "a time before 0, saw '-1'; count time"),
            (lambda t: t.assign(AMT=np.nan), "AMT: a dose without its amount; give the amount"),
            (lambda t: t.assign(DV=np.where(t["EVID"] == 0, 0.0, np.nan)), "conc is zero and not marked censored"),
            (lambda t: t.iloc[::-1], "rows are not sorted"),
            (lambda t: t.assign(EVID=2), "EVID is not 0 or 1"),
            (lambda t: t[t["EVID"] == 1], "patient P0 has no observations"),
        ],
    )
    def test_faults_are_named_with_the_remedy(self, change, said):
        with pytest.raises(CohortError, match=said):
            data_from_frame(change(pk_rows()), model=own_models.pk())

    def test_the_observable_is_named_where_there_are_two(self):
        rows = pd.DataFrame({"ID": [1], "TIME": [1.0], "EVID": [0], "AMT": [None], "DV": [3.0]})
        with pytest.raises(CohortError, match="DVID: required column is missing"):
            data_from_frame(rows, model=own_models.lv())

    def test_doses_for_a_model_that_takes_none_are_refused(self):
        model = replace(
            own_models.decay(), dose=None, parameters=[r for r in own_models.decay().parameters if r.symbol != "share"]
        )
        with pytest.raises(CohortError, match="a dose, but the model takes none"):
            data_from_frame(decay_rows(), model=model)

    def test_values_with_absolute_error_may_be_negative_and_repeated(self):
        rows = decay_rows()
        again = rows[rows["EVID"] == 0].iloc[[-1]].assign(DV=-3.0)
        data = data_from_frame(pd.concat([rows, again]), model=own_models.decay())
        assert data.observations["DV"].min() == -3.0
        assert len(data.observations) == 26


@pytest.fixture(scope="module")
def problem():
    """The oral example, posed."""
    return pose_model(data_from_frame(pk_rows(), model=own_models.pk()), own_models.pk(), tolerance=1e-9)


class TestProblem:
    def test_it_holds_what_the_table_and_the_model_say(self, problem):
        assert problem.own
        assert problem.patients == ("P0", "P1", "P2", "P3")
        assert estimated(problem) == list(problem.population)
        assert set(problem.population) == {"ka", "CL", "V", "sigma"}
        assert set(problem.random) == {"ka", "CL", "V"}
        assert problem.residual == ("sigma",)
        assert (problem.n_ev == 2).all()
        assert set(problem.ob_family[problem.ob_value == np.log(0.25)]) == {Family.BELOW}

    def test_its_likelihood_is_that_of_the_model(self, problem):
        made = design(problem)
        at = np.array([prior_location(problem, label) for label in estimated(problem)])
        theta = made.theta(at, np.empty(0), np.zeros((4, 3)))
        found, gradient, _ = loglik_and_gradient(theta, problem)
        wanted = own_models.pk().log_likelihood(data=pk_rows().fillna({"CENS": 0}), tolerance=1e-9)
        np.testing.assert_allclose(found, wanted["log_likelihood"], atol=1e-6)
        for name in problem.population:
            mine = gradient[:, problem.column(name)]
            np.testing.assert_allclose(mine, wanted["gradient"].sel(parameter=name), rtol=1e-5, atol=1e-5)

    def test_a_model_may_be_posed_again_when_the_first_problem_is_gone(self):
        """Compiled graphs keep the address of the first kernel of a model: it has to live on."""

        def value():
            problem = pose_model(data_from_frame(pk_rows(), model=own_models.pk()), own_models.pk())
            return LogDensity(population_model(problem))(np.zeros(layout(problem).size))[0]

        first = value()
        gc.collect()
        assert value() == first

    def test_parameters_without_a_spread_are_fixed(self):
        pk = own_models.pk()
        rows = [replace(row, log_sd=0.0, iiv=0.0) if row.symbol == "ka" else row for row in pk.parameters]
        model = replace(pk, parameters=rows)
        problem = pose_model(data_from_frame(pk_rows(), model=model), model)
        assert problem.fixed == {"ka": 1.0}
        assert "ka" not in problem.kernel.parameters

    def test_nothing_to_estimate_is_refused(self):
        model = replace(
            own_models.pk(), parameters=[replace(r, log_sd=0.0, iiv=0.0) for r in own_models.pk().parameters]
        )
        with pytest.raises(ReinfuseError, match="no parameter to estimate"):
            pose_model(data_from_frame(pk_rows(), model=model), model)

    def test_the_description_survives_json(self):
        for model in (own_models.pk(), own_models.lv(), own_models.decay()):
            said = describe(model)
            assert described(json.loads(json.dumps(said.to_json()))) == said


class TestFile:
    def test_a_file_with_one_model_is_loaded(self):
        assert load_model(own_models.EXAMPLES / "oral_pk.py").name == "oral-pk"

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("x = 1", "must define one Model; it defines none"),
            ("import absent_module", "could not be run: ModuleNotFoundError"),
            ("def broken(:", "could not be run: SyntaxError"),
        ],
    )
    def test_other_files_are_told(self, tmp_path, text, said):
        path = tmp_path / "mine.py"
        path.write_text(text)
        with pytest.raises(ReinfuseError, match=said):
            load_model(path)

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(ReinfuseError, match="there is no file"):
            load_model(tmp_path / "absent.py")


@pytest.fixture(scope="module")
def pk_run(tmp_path_factory):
    """A fit of the oral example that is far too short."""
    from reinfuse.fits.fitting import fit

    file = own_models.EXAMPLES / "oral_pk.py"
    data = data_from_frame(pk_rows(), model=own_models.pk())
    return fit(data, model=own_models.pk(), model_file=file, out=tmp_path_factory.mktemp("own") / "run", settings=SHORT)


class TestRun:
    def test_the_folder_says_where_it_came_from(self, pk_run):
        written = pk_run.provenance
        assert written["status"] == "done"
        assert written["model"] == "oral-pk"
        assert written["files"]["model.py"] == sha256_of(own_models.EXAMPLES / "oral_pk.py")
        assert written["random_effects"] == ["ka", "CL", "V"]
        assert not (pk_run.path / "forecast.nc").exists()

    def test_it_is_judged_without_the_model(self, pk_run):
        found = examine(RunFolder.open(pk_run.path))
        record(pk_run, found)
        summary = pk_run.summary().set_index("parameter")
        assert summary.loc["CL", "unit"] == "L/h"
        assert summary.loc["CL", "tag"] == "ASSUMED"
        assert found.coverage["dvid"].tolist() == ["conc"]
        assert found.coverage["n"].tolist() == [40]
        assert "CAR-T" in found.yardsticks.missing[0]

    def test_figures_and_report(self, pk_run):
        found = examine(pk_run)
        plates = list(draw_all(found))
        names = {plate.name for plate in plates}
        assert {"individual_conc_1", "observed_against_predicted", "chains_1", "prior_posterior_1"} <= names
        page = render(found, name="run", plates=plates)
        assert "Model oral-pk: 4 patients, 8 doses" in page
        assert "exhaustion" not in page
        assert "model, its priors and their sources are the user" in page

    def test_predictions_are_on_the_scale_of_the_residuals(self, pk_run):
        tree = pk_run.posterior()
        seen = tree["observed_data"].to_dataset()
        middle = tree["posterior_predictive"]["prediction"].median(("chain", "draw"))
        off = np.log(seen["value"]) - middle.to_numpy()
        assert np.abs(off[seen["cens"] == 0]).median() < 0.5
        assert (tree["posterior_predictive"]["sigma"] > 0).all()

    def test_the_run_is_no_population_for_scenarios(self, pk_run):
        from reinfuse.fits.retreatment.virtual_patients import from_run

        with pytest.raises(ReinfuseError, match="compare_arms"):
            from_run(pk_run, rng=np.random.default_rng(1), products=())


def test_a_single_series_without_random_effects_and_with_absolute_error(tmp_path, monkeypatch):
    """One patient, nothing that varies, negative values: the population alone is sampled, and its state saved."""
    from reinfuse.fits.fitting import fit

    monkeypatch.setattr("reinfuse.fits.fitting.SAVE_SECONDS", 0.0)
    model = replace(own_models.decay(), parameters=[replace(row, iiv=0.0) for row in own_models.decay().parameters])
    data = data_from_frame(decay_rows(), model=model)
    settings = Settings(draws=200, tune=200, chains=2, seed=1)
    run = fit(data, model=model, out=tmp_path / "run", settings=settings)
    tree = run.posterior()
    found = diagnose(tree, rows=model.table)
    assert found.max_rhat < 1.05
    assert found.divergences == 0
    draws = tree["posterior"]["population"].stack(sample=("chain", "draw"))
    for name, row in model.table.items():
        low, high = np.quantile(draws.sel(parameter=name), [0.005, 0.995])
        assert low < row.median < high, name
    names = {plate.name for plate in draw_all(examine(run))}
    assert "individual_reading_1" in names
    assert "individual_effects_1" not in names

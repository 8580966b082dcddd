"""Calibration: ranks are uniform where the sampler is right and not where it is wrong; cohorts are the model's."""

import json
import os
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reinfuse.fits.calibration import campaign as campaigns
from reinfuse.fits.calibration.campaign import Campaign, judge, publish, run_campaign
from reinfuse.fits.calibration.cohorts import Study, crossing, draw_cohort, labels, prior_centre, reference_truth
from reinfuse.fits.calibration.ranks import Placed, band, coverage, coverage_of_all, placed, recovery, uniformity
from reinfuse.fits.calibration.replicates import Effort, Task, quantities, replicate
from reinfuse.fits.calibration.stein import DAYS, LIMIT, PUBLISHED, RESIDUAL, SteinStudy, draw_stein, stein_model
from reinfuse.fits.diagnosis.stein import log_curve
from reinfuse.fits.geometry import Posterior
from reinfuse.fits.likelihood_op import loglik_and_gradient
from reinfuse.fits.synthetic import MULTIPLIERS
from reinfuse.fits.tasks import run_tasks
from reinfuse.model.densities import Family
from reinfuse.model.equations.bcma import EARLY
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import REAL_COHORT

from .gaussian_replicates import NAMES, blind, chain, exact, narrow

ROOT = Path(__file__).parents[2]


def found_by(function, count: int) -> Placed:
    return placed({k: function(k) for k in range(count)})


def suspicious(table: pd.DataFrame) -> set[str]:
    """Quantities that leave the joint band, or whose chi-square is too small for so many."""
    return set(table.loc[table["outside_joint"] | (table["chi2_p"] * len(table) < 0.05), "quantity"])


# ---------------------------------------------------------------------------------------------- a known posterior


def test_exact_draws_have_uniform_ranks_and_nominal_intervals():
    found = found_by(exact, 150)
    assert suspicious(uniformity(found)) == set()
    held = coverage(found)
    assert (np.abs(held["share"] - held["level"]) <= 3.5 * held["mc_error"]).all()
    overall = coverage_of_all(found, NAMES, (0.5, 0.9))
    assert (np.abs(overall["share"] - overall["level"]) <= 3.0 * overall["mc_error"]).all()


def test_too_narrow_a_posterior_is_detected():
    found = found_by(narrow, 150)
    assert suspicious(uniformity(found)) >= {"p1", "s1", "effect"}
    held = coverage(found).set_index(["quantity", "level"])["share"]
    assert held["p1", 0.8] < 0.65


def test_a_sampler_that_ignores_the_data_is_detected_by_the_likelihood_alone():
    """Ranks of parameters are uniform for it: that is why there are test quantities (Modrák et al. 2023)."""
    table = uniformity(found_by(blind, 150))
    assert suspicious(table) == {"log-likelihood"}


@pytest.mark.minutes
def test_the_block_sampler_is_calibrated(monkeypatch):
    """The runner and the sampler together: fifty fits on two processes."""
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    found = placed(dict(sorted(run_tasks(chain, {k: k for k in range(50)}, cores=2))))
    assert found.numbers.tolist() == list(range(50))
    assert suspicious(uniformity(found)) == set()
    overall = coverage_of_all(found, NAMES, (0.5, 0.8, 0.95))
    assert (np.abs(overall["share"] - overall["level"]) <= 3.0 * overall["mc_error"]).all()


# ---------------------------------------------------------------------------------------------- ranks


def made(rank: list[list[int]], count: int = 9) -> Placed:
    ranks = np.array(rank)
    truth = np.zeros(ranks.shape)
    return Placed(("a", "b"), np.arange(len(rank)), ranks, count, truth, truth + np.array([1.0, -2.0]))


def test_ranks_count_the_draws_below_the_truth():
    draws = np.array([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]])
    found = placed({4: {"names": np.array(["a", "b"]), "truth": np.array([2.5, 4.0]), "draws": draws}})
    assert found.rank.tolist() == [[2, 0]]
    assert found.count == 3
    assert found.median.tolist() == [[2.0, 6.0]]
    assert found.table()["replicate"].tolist() == [4, 4]


def test_a_uniform_value_lies_in_its_rank_and_does_not_depend_on_who_else_is_there():
    found = made([[0, 9], [3, 5]])
    values = found.uniform
    assert (np.floor(values * 10) == found.rank).all()
    alone = replace(
        found, numbers=found.numbers[1:], rank=found.rank[1:], truth=found.truth[1:], median=found.median[1:]
    )
    np.testing.assert_array_equal(alone.uniform, values[1:])


def test_fits_that_broke_down_are_left_to_the_table_of_fits():
    good = exact(0)
    assert placed({0: good, 1: {"failure": np.array("LinAlgError: singular")}}).numbers.tolist() == [0]
    with pytest.raises(ReinfuseError, match="none of 1 fits came to an end"):
        placed({1: {"failure": np.array("LinAlgError: singular")}})


def test_the_band_holds_a_uniform_sample_as_often_as_it_says():
    rng = np.random.default_rng(5)
    inside = [band(rng.uniform(size=40)).inside for _ in range(60)]
    assert stats.binomtest(sum(inside), 60, 0.95).pvalue > 0.01
    assert not band(np.linspace(0.3, 0.7, 40)).inside


def test_coverage_counts_the_middle_ranks():
    found = made([[k, 0] for k in range(10)])
    table = coverage(found, levels=(0.8,)).set_index("quantity")
    assert table.loc["a", "inside"] == 8
    assert table.loc["b", "inside"] == 0
    assert table.loc["a", "mc_error"] == pytest.approx(np.sqrt(0.8 * 0.2 / 10))
    overall = coverage_of_all(found, ["a", "b"], (0.8,))
    assert overall["share"].item() == pytest.approx(0.4)


def test_recovery_is_bias_and_error_of_the_medians():
    table = recovery(made([[4, 0], [5, 9], [4, 0]])).set_index("quantity")
    assert table.loc["a", ["bias", "rmse"]].tolist() == [1.0, 1.0]
    assert table.loc["b", ["bias", "rmse"]].tolist() == [-2.0, 2.0]
    assert table.loc["a", "inside_90"] == 1.0


# ---------------------------------------------------------------------------------------------- cohorts


@pytest.fixture(scope="module", params=[0.0, 0.5])
def study(request) -> Study:
    return Study(patients=6, again_share=request.param)


@pytest.fixture(scope="module")
def cohorts(study):
    """Twenty cohorts of the prior, one generator each."""
    return [draw_cohort(study, np.random.default_rng([8, k])) for k in range(20)]


def test_the_truth_is_in_the_terms_of_the_fit(study, cohorts):
    for drawn in cohorts:
        posterior = Posterior(drawn.problem)
        assert drawn.h.shape == posterior.prior_mean.shape == (len(labels(study)),)
        assert drawn.b.shape == (study.patients, posterior.q)
        assert drawn.problem.slots == (2 if study.again_share else 1)
        names, values = quantities(drawn.problem, drawn.h, drawn.b)
        assert len(names) == len(set(names)) == values.size
        np.testing.assert_array_equal(values[: drawn.h.size], drawn.h)
        assert np.isfinite(values).all()


def test_a_cohort_depends_on_its_generator_alone(study, cohorts):
    again = draw_cohort(study, np.random.default_rng([8, 3]))
    pd.testing.assert_frame_equal(again.cohort.table, cohorts[3].cohort.table)
    np.testing.assert_array_equal(again.h, cohorts[3].h)


def seen_by(drawn) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Individual parameters' read-outs at the times of all records: the times, and arrays (n, T)."""
    from reinfuse.fits.results import simulate_draws

    posterior, times = Posterior(drawn.problem), np.unique(drawn.problem.observed.time)
    theta = posterior.design.theta(drawn.h[: posterior.d], drawn.h[posterior.d + posterior.spreads :], drawn.b)
    return times, {k: v[0] for k, v in simulate_draws(drawn.problem, theta[None], times, 1e-7).items()}


def test_residuals_and_censoring_are_those_of_the_likelihood(study, cohorts):
    """Probability transforms of every record, by its own density, are uniform: M3 where it is censored."""
    rng = np.random.default_rng(1)
    for assay in ("transgene", "cart", "sbcma", "mprotein"):
        values = []
        for drawn in cohorts:
            rec, offset = drawn.problem.observed, drawn.problem.observables[assay].offset
            sigma = np.exp(drawn.h[labels(study).index(f"sigma_{assay}")])
            times, simulated = seen_by(drawn)
            rows = rec.dvid == assay
            place = np.searchsorted(times, rec.time[rows])
            location = np.log(simulated[assay][rec.patient[rows], place] + offset)
            u = stats.t.cdf((np.log(rec.value[rows] + offset) - location) / sigma, 4)
            family, spread = rec.family[rows], rng.uniform(size=u.size)
            values.append(
                np.select([family == Family.BELOW, family == Family.ABOVE], [u * spread, u + (1 - u) * spread], u)
            )
        assert stats.kstest(np.concatenate(values), "uniform").pvalue > 0.001, assay


def test_progression_and_death_compete_as_in_the_likelihood(cohorts):
    for drawn in cohorts:
        rows = drawn.cohort.observations
        for patient in drawn.cohort.patients:
            mine = rows[rows["ID"] == patient]
            events = mine[mine["DVID"] == "progression"].sort_values("TIME")
            death = mine[mine["DVID"] == "death"]
            assert len(death) == 1
            last = events.iloc[-1]
            assert death["TIME"].item() == last["TIME"] == mine["TIME"].max()
            assert last["DV"] + death["DV"].item() <= 1
            infused = drawn.cohort.infusions.query("ID == @patient")["TIME"].to_numpy()
            assert len(events) == infused.size
            for start, (_, event) in zip(infused, events.iterrows(), strict=True):
                assert event["DV"] == 0 or event["TIME"] > start + EARLY


def test_the_hazard_is_that_of_the_likelihood():
    """Twenty cohorts at one truth: cumulative hazards at the end of observation have the mean of their events."""
    study = Study(patients=6)
    h = reference_truth(study)
    events: list[bool] = []
    hazard: list[float] = []
    for k in range(20):
        drawn = draw_cohort(study, np.random.default_rng([9, k]), h=h)
        rec = drawn.problem.observed
        progression = rec.dvid == "progression"
        times, simulated = seen_by(drawn)
        hazard += simulated["H"][rec.patient[progression], np.searchsorted(times, rec.time[progression])].tolist()
        events += (rec.family[progression] == Family.EVENT).tolist()
    assert 30 < sum(events) < 110
    assert abs(sum(events) - sum(hazard)) < 3.5 * np.sqrt(sum(hazard))  # a martingale of that variance


def standardised_scores(study, *, wrong: str = "", by: float = 0.0) -> dict[str, float]:
    """Mean slope of the log-likelihood by each population value, in its standard errors, at the truth or beside it."""
    rng, found, step = np.random.default_rng(78), [], 1e-4
    for _ in range(60):
        drawn = draw_cohort(study, rng)
        made = Posterior(drawn.problem)
        at = drawn.h + by * (np.array(labels(study)) == wrong)
        theta = partial(_theta, made, drawn.b)
        slope = loglik_and_gradient(theta(at), drawn.problem)[1]
        shifts = step * np.eye(at.size)[: made.d]
        found.append([float((slope * (theta(at + s) - theta(at - s))).sum()) / (2 * step) for s in shifts])
    scores = np.array(found)
    z = scores.mean(axis=0) / (scores.std(axis=0, ddof=1) / np.sqrt(len(scores)))
    return dict(zip(labels(study), z.tolist(), strict=False))


def _theta(made: Posterior, b, h):
    return made.design.theta(h[: made.d], h[made.d + made.spreads :], b)


def test_the_likelihood_is_flat_at_the_truth_on_average(study):
    """The expected score is zero where the data come from the very density."""
    z = standardised_scores(study)
    assert len(z) > 20
    assert max(map(abs, z.values())) < 4.5, z


@pytest.mark.parametrize("wrong", ["dlt", "sigma_cart", "Sbg"])
def test_it_is_not_beside_the_truth(wrong):
    assert standardised_scores(Study(patients=6), wrong=wrong, by=0.3)[wrong] < -5.0


def test_a_crossing_is_found_between_the_days():
    days = np.arange(0.0, 6.0)
    assert crossing(days, days**2, 2 * days, 7.3) == pytest.approx(np.sqrt(7.3), abs=1e-9)
    assert crossing(days, days**2, 2 * days, 25.1) == np.inf
    assert crossing(days[:1], days[:1], days[:1], 0.0) == np.inf


def test_no_record_before_the_first_assessment_counts_a_hazard(cohorts):
    """A death within ten days of an infusion says nothing of progression, and nothing of the course before."""
    from reinfuse.fits.assays import records
    from reinfuse.fits.problem import assessed

    drawn = cohorts[0]
    rec = records(drawn.cohort)
    days = np.full((drawn.problem.n, drawn.problem.slots), np.inf)
    days[:, 0] = 0.0
    early = np.where(rec.dvid == "progression", np.minimum(rec.time, EARLY - 1.0), rec.time)
    free = replace(rec, time=early, family=np.where(rec.dvid == "progression", int(Family.NO_EVENT), rec.family))
    kept = assessed(free, days)
    assert "progression" not in set(kept.dvid.tolist())
    assert len(kept) == int((rec.dvid != "progression").sum())
    late = replace(free, time=np.where(rec.dvid == "progression", EARLY, rec.time))
    assert len(assessed(late, days)) == len(rec)
    again = days.copy()
    again[:, -1] = EARLY - 2.0 if drawn.problem.slots > 1 else 0.0
    assert len(assessed(late, again)) == len(rec) - (
        0 if drawn.problem.slots == 1 else int((rec.dvid == "progression").sum())
    )


def test_the_reference_truth_is_that_of_the_bundled_cohort(study):
    h, names = reference_truth(study), labels(study)
    assert h[names.index("tg:cilta-cel")] == pytest.approx(np.log(MULTIPLIERS["tg:cilta-cel"]))
    assert h[names.index("KE")] == pytest.approx(np.log(REAL_COHORT["KE"].median))
    assert h[names.index("omega B0")] == pytest.approx(np.log(REAL_COHORT["B0"].iiv))
    differing = {names[k] for k in np.flatnonzero(h != prior_centre(study))}
    assert differing <= set(MULTIPLIERS)


def test_nonsense_is_refused():
    with pytest.raises(ReinfuseError, match="patients is 2"):
        Study(patients=2)
    with pytest.raises(ReinfuseError, match="again_share is 2"):
        Study(again_share=2)
    with pytest.raises(ReinfuseError, match="3 population values for"):
        draw_cohort(Study(patients=6), np.random.default_rng(1), h=np.zeros(3))
    with pytest.raises(ReinfuseError, match="ranks is 2000"):
        Effort(ranks=2000)
    with pytest.raises(ReinfuseError, match="cohorts is 1"):
        Campaign(kind="sbc", cohorts=1, patients=12)


# ---------------------------------------------------------------------------------------------- Stein's curve


def test_the_model_of_ones_own_is_the_closed_form():
    days = np.linspace(0.0, 120.0, 481)
    values = {name: value for name, (value, _) in PUBLISHED.items()}
    curve = stein_model().simulate(times=days, parameters=values)["transgene"].to_numpy().ravel()
    natural = [values[name] for name in ("FOLDX", "TPEAK", "CPEAK", "KALPHA", "FPERS", "KBETA")]
    theta = np.log(natural)
    theta[4] = np.log(values["FPERS"] / (1 - values["FPERS"]))
    assert np.abs(np.log(curve) - log_curve(days, theta)).max() < 0.03


def test_steins_patients_have_the_published_population():
    drawn = draw_stein(SteinStudy(patients=400), np.random.default_rng(3))
    np.testing.assert_allclose(drawn.b.std(axis=0), [sd for _, sd in PUBLISHED.values()], rtol=0.12)
    assert drawn.problem.random == tuple(PUBLISHED)
    assert np.exp(drawn.h[list(drawn.problem.population).index("sigma")]) == pytest.approx(RESIDUAL)
    table = drawn.cohort.observations
    assert len(table) == 400 * len(DAYS)
    assert (table.loc[table["CENS"] == 1, "DV"] == LIMIT).all()
    posterior = Posterior(drawn.problem)
    theta = posterior.design.theta(drawn.h[: posterior.d], drawn.h[posterior.d + posterior.spreads :], drawn.b)
    assert np.isfinite(loglik_and_gradient(theta, drawn.problem)[0]).all()


# ---------------------------------------------------------------------------------------------- a campaign


def pretended(task: Task) -> dict[str, np.ndarray]:
    """A replicate in no time: the Gaussian model's, with what a fit says of itself."""
    if task.number == 5:
        return {
            "failure": np.array("LinAlgError: singular"),
            "reasons": np.array(["not solved"]),
            "rejected": np.array([2]),
        }
    settled = task.number % 3 > 0
    own = {"rhat": np.full(7, 1.0 if settled else 1.2), "ess_bulk": np.full(7, 300.0), "ess_tail": np.full(7, 200.0)}
    more = {
        "length": np.array(500),
        "seconds": np.array(1.5),
        "solver_failures": np.array(0),
        "observations": np.array(9),
    }
    return (
        exact(task.number) | own | more | {"reasons": np.array([], dtype=np.str_), "rejected": np.array([], dtype=int)}
    )


def test_a_campaign_judges_all_fits_and_hides_none(tmp_path):
    campaign = Campaign(kind="sbc", cohorts=60, patients=12)
    outcome = judge(campaign, {k: pretended(task) for k, task in campaign.tasks().items()})
    assert outcome.fits["state"].value_counts().to_dict() == {"settled": 39, "not settled": 20, "broke down": 1}
    assert outcome.found.numbers.size == 59  # settled or not
    assert outcome.rejected == {"not solved": 2}
    assert outcome.doubts == ["1 of 60 fits broke down"]
    assert outcome.population == NAMES[:7]

    campaigns._record(outcome, tmp_path, "reinfuse calibrate sbc", 3.0)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["states"] == {"settled": 39, "not settled": 20, "broke down": 1}
    assert record["drawn_anew"] == {"not solved": 2}
    assert {"numpy", "reinfuse"} <= record["versions"].keys()
    assert pd.read_csv(tmp_path / "ranks.csv").shape[0] == 59 * len(NAMES)
    assert pd.read_csv(tmp_path / "coverage.csv")["mc_error"].between(0, 0.1).all()
    for name in ("ecdf", "coverage"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 10_000

    (tmp_path / "docs").mkdir()
    publish(outcome, tmp_path, tmp_path / "docs")
    page = (tmp_path / "docs" / "generated" / "calibration_sbc.md").read_text()
    for picture in re.findall(r"\]\((.+?\.png)\)", page):
        assert (tmp_path / "docs" / picture).is_file()
    assert "39 settled, 20 not settled, 1 broke down" in page


def test_more_cohorts_are_the_same_and_some_more():
    few, many = (Campaign(kind="sbc", cohorts=n, patients=12) for n in (3, 5))
    assert few.recipe() == many.recipe()
    assert {k: many.tasks()[k] for k in range(3)} == few.tasks()
    assert Campaign(kind="recovery", cohorts=3, patients=12).recipe() != few.recipe()


@pytest.mark.slow
def test_a_small_calibration_of_the_whole_model(tmp_path):
    """Two cohorts, few draws: the machinery. One is killed away and done again, alone, to the same bits."""
    effort = Effort(draws=40, tune=50, thin=1, ranks=39, longest=2)
    campaign = Campaign(kind="sbc", cohorts=2, patients=4, effort=effort, seed=4)
    outcome = run_campaign(campaign, tmp_path, cores=2)
    files = sorted((tmp_path / "tasks").glob("*.npz"))
    assert len(files) == 2
    assert outcome.found.rank.shape == (2, len(outcome.found.names))
    assert outcome.fits["draws"].isin([40, 80]).all()
    kept = {name: values for name, values in np.load(files[1]).items() if name != "seconds"}
    files[1].unlink()
    run_campaign(campaign, tmp_path, cores=1, resume=True)
    for name, values in kept.items():
        np.testing.assert_array_equal(np.load(files[1])[name], values, err_msg=name)


@pytest.mark.minutes
def test_the_published_population_is_recovered():
    """Ninety patients of Stein 2019: the truth is inside the 98 % interval of every population value and spread."""
    task = Task(seed=1, number=0, study=SteinStudy(), effort=Effort(draws=400, tune=300, longest=1))
    result = replicate(task)
    assert "failure" not in result
    q = result["rhat"].size
    assert result["rhat"].max() < 1.1
    rank = (result["draws"] < result["truth"]).sum(axis=0)[:q]
    named = dict(zip(result["names"].tolist(), rank.tolist(), strict=False))
    assert all(1 <= k <= 98 for k in named.values()), named

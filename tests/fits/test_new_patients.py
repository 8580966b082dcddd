"""Checks with new patients (studies, VPC, npde, trials, the prior): closed forms and closed loops."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from reinfuse.model.densities import Family

from . import fake_run, small_cohorts  # noqa: F401  (imports PyMC without its warnings)

from reinfuse.fits import new_patients, simulated_studies, study_plan  # isort: skip
from reinfuse.fits.diagnosis import npde, physiology, published, sampled, simulation_checks, vpc  # isort: skip


def prior(posed, draws=50):
    from reinfuse.fits.results import prior_draws

    return prior_draws(posed.problem, np.random.default_rng(3), draws)


@pytest.fixture(scope="module")
def source(one_infusion):
    draws = new_patients.population_draws(one_infusion.problem, prior(one_infusion))
    new = new_patients.NewPatients(one_infusion.problem, draws)
    return new, study_plan.plan(one_infusion.cohort, one_infusion.problem)


def hand_plan(since, end, left, starts=None):
    """A plan of one assay: each patient's days since the infusion, follow-up, and whether it ended in progression."""
    patient = np.repeat(np.arange(len(since)), [len(days) for days in since])
    n = len(since)
    return study_plan.Plan(
        patient=patient,
        slot=np.ones(patient.size, dtype=np.int64),
        dvid=np.array(["cart"] * patient.size),
        product=np.array(["ide-cel"] * patient.size),
        since=np.concatenate([np.asarray(days, dtype=float) for days in since]),
        starts=np.zeros((n, 1)) if starts is None else starts,
        end=np.array(end, dtype=float)[:, None],
        left=np.array(left)[:, None],
    )


class TestSchedules:
    def test_who_left_goes_on_by_the_plan_of_who_stayed(self):
        made = hand_plan([[7, 14], [7, 30, 100]], [20, 120], [True, False])
        schedules = study_plan.Schedules(made, np.array([["ide-cel"], ["ide-cel"]]), goes_on=True)
        place, row = schedules.draw(np.random.default_rng(1))
        assert made.time(place, row)[place == 0].tolist() == [7, 14, 30, 100]
        assert made.time(place, row)[place == 1].tolist() == [7, 30, 100]

    def test_a_donor_who_left_hands_on(self):
        made = hand_plan([[7], [7, 30], [90, 200]], [10, 60, 210], [True, True, False])
        schedules = study_plan.Schedules(made, np.array([["ide-cel"]] * 3), goes_on=True)
        seen = set()
        for seed in range(20):
            place, row = schedules.draw(np.random.default_rng(seed))
            seen.add(tuple(made.time(place, row)[place == 0].tolist()))
        assert seen == {(7, 30, 90, 200), (7, 90, 200)}

    def test_other_products_lend_nothing_and_nothing_is_lent_without_dropout(self):
        made = hand_plan([[7], [30]], [10, 60], [True, False])
        other = study_plan.Schedules(made, np.array([["ide-cel"], ["cilta-cel"]]), goes_on=True)
        still = study_plan.Schedules(made, np.array([["ide-cel"], ["ide-cel"]]), goes_on=False)
        for schedules in (other, still):
            assert schedules.draw(np.random.default_rng(1))[1].tolist() == [0, 1]


class TestStudies:
    def test_the_plan_is_that_of_the_records(self, one_infusion, source):
        made, rec = source[1], one_infusion.problem.observed
        assays = ~np.isin(rec.dvid, ["progression", "death"])
        np.testing.assert_array_equal(made.time(made.patient, np.arange(made.patient.size)), rec.time[assays])
        assert made.left.any()
        assert not made.left.all()

    def test_no_deviations_and_no_dropout_give_the_typical_patient(self, one_infusion, source):
        draws = source[0].draws.typical()
        new = new_patients.NewPatients(one_infusion.problem, draws)
        studies = simulated_studies.replicate_studies(
            new, source[1], count=2, rng=np.random.default_rng(1), dropout=False
        )
        assert studies.dropped == studies.failed == 0
        np.testing.assert_array_equal(np.bincount(studies.row), 2)
        wanted = simulated_studies.typical_predictions(new, source[1], studies.place, studies.row)
        np.testing.assert_allclose(studies.centre, wanted, atol=1e-9)

    def test_dropout_follows_the_hazard(self, one_infusion):
        """One patient's plan, thousands of studies: the share still there is exp(-hazard) from day 10 on."""
        draws = new_patients.population_draws(one_infusion.problem, prior(one_infusion)).typical()
        new = new_patients.NewPatients(one_infusion.problem, draws)
        made = study_plan.plan(one_infusion.cohort, one_infusion.problem)
        made = dataclasses.replace(made, left=np.zeros_like(made.left))
        count = 3000
        studies = simulated_studies.replicate_studies(new, made, count=count, rng=np.random.default_rng(4))
        n = one_infusion.problem.n
        places = np.arange(n)
        thetas = new.thetas(places, np.zeros(n, dtype=np.int64), np.random.default_rng(0))
        times = np.unique(made.since)
        hazard = new.simulate(thetas, places, times)["H"]
        share = np.bincount(studies.row, minlength=made.since.size) / count
        at = hazard[made.patient, np.searchsorted(times, made.since)]
        rate = one_infusion.problem.column("hD")
        alive = np.exp(-made.since * thetas[made.patient, rate]) if rate is not None else 1.0
        wanted = np.where(made.since < 10, 1.0, np.exp(-at)) * alive
        assert wanted.min() < 0.9
        assert (np.abs(share - wanted) < 4.5 * np.sqrt(wanted * (1 - wanted) / count) + 1e-9).all()

    def test_whoever_is_infused_again_had_progressed(self, two_infusions):
        """Simulated progression comes before the second infusion: no plan of the first course goes past it."""
        draws = new_patients.population_draws(two_infusions.problem, prior(two_infusions))
        new = new_patients.NewPatients(two_infusions.problem, draws)
        made = study_plan.plan(two_infusions.cohort, two_infusions.problem)
        studies = simulated_studies.replicate_studies(new, made, count=40, rng=np.random.default_rng(5))
        assert np.isfinite(studies.y).all()
        second = made.slot[studies.row] == 2
        assert second.any()
        time = made.time(studies.place, studies.row)
        day = np.where(np.isfinite(made.starts[:, 1]), made.starts[:, 1], np.inf)
        assert (time[second] >= day[studies.place[second]]).all()
        assert (time[~second] <= day[studies.place[~second]]).all()
        assert set(vpc.measurements(two_infusions.problem, made)["stratum"]) >= {
            "ide-cel, infusion 1",
            "cilta-cel, infusion 2",
        }

    def test_a_run_of_another_specification_is_refused(self, one_infusion):
        group = prior(one_infusion).drop_sel(parameter="tg")
        with pytest.raises(ValueError, match="tg in population"):
            new_patients.population_draws(one_infusion.problem, group)


finite = st.floats(-50, 50)


class TestQuantiles:
    @given(arrays(float, st.tuples(st.integers(1, 12), st.just(2)), elements=finite))
    def test_finite_ones_are_numpys(self, values):
        levels = (0.1, 0.5, 0.9)
        np.testing.assert_allclose(vpc.quantiles(values, levels), np.quantile(values, levels, axis=0), atol=1e-9)

    def test_a_quantile_among_censored_values_is_not_a_number(self):
        values = np.array([-np.inf, -np.inf, 1.0, 2.0, 3.0])[:, None]
        assert vpc.quantiles(values, (0.25, 0.4, 0.5, 1.0))[:, 0].tolist() == [-np.inf, -np.inf, 1.0, 3.0]
        assert vpc.quantiles(np.array([[1.0], [np.inf]]), (0.0, 0.5))[:, 0].tolist() == [1.0, np.inf]

    @given(
        arrays(float, 30, elements=st.one_of(finite, st.just(-np.inf))),
        arrays(np.int64, 30, elements=st.integers(0, 4)),
    )
    def test_by_study_is_study_by_study(self, values, study):
        found = vpc.by_study(values, study, (0.1, 0.5, 0.9))
        for line, number in zip(found, np.unique(study), strict=True):
            wanted = vpc.quantiles(values[study == number][:, None], (0.1, 0.5, 0.9))[:, 0]
            np.testing.assert_allclose(line, wanted, atol=1e-9)


def test_bins_are_visit_windows_and_small_ones_in_a_row_are_joined():
    def bins(days):
        return vpc.bins_of(pd.DataFrame({"since": days, "dvid": "cart", "stratum": "ide-cel"})).tolist()

    assert bins([0] * 5 + [7] * 5 + [100] * 2) == [0] * 5 + [1] * 5 + [-1] * 2
    assert bins([0] * 2 + [7] * 3 + [14] * 3 + [30] * 6) == [-1] * 2 + [0] * 6 + [1] * 6
    assert bins([7] * 3 + [14] * 6 + [30] * 3) == [-1] * 3 + [0] * 6 + [-1] * 3


def loop(one_infusion, source, *, louder=1.0, seed=6):
    """A study simulated from the population, as if it had been observed: half of the sBCMA below the limit."""
    from reinfuse.fits.holdout import early

    new, made = source
    problem = early(one_infusion.problem, np.inf)  # no events: nobody's record is conditioned on
    studies = simulated_studies.replicate_studies(new, made, count=1, rng=np.random.default_rng(seed), dropout=False)
    rec, order = problem.observed, np.argsort(studies.row)
    rows = np.flatnonzero(np.isin(rec.dvid, list(problem.observables)))
    offset = np.array([problem.observables[str(name)].offset for name in rec.dvid[rows]])
    y = studies.centre + louder * (studies.y - studies.centre)
    values = np.maximum(np.exp(y[order]) - offset, 1e-9)
    limit = np.where(rec.dvid[rows] == "sbcma", np.median(values[rec.dvid[rows] == "sbcma"]), 1e-12)
    value, family, lloq = rec.value.copy(), rec.family.copy(), rec.lloq.copy()
    value[rows], lloq[rows] = np.maximum(values, limit), limit
    family[rows] = np.where(values < limit, Family.BELOW, Family.QUANTIFIED)
    seen = dataclasses.replace(rec, value=value, family=family, lloq=lloq)
    return new_patients.NewPatients(dataclasses.replace(problem, observed=seen), new.draws), made


class TestNpde:
    def test_decorrelated_ranks_of_a_normal_law_are_standard_normal(self):
        rng = np.random.default_rng(7)
        root = np.linalg.cholesky(np.array([[1.0, 0.9, 0.5], [0.9, 2.0, 0.3], [0.5, 0.3, 0.5]]))
        found, ranks = [], []
        none = np.full(3, np.nan)
        for _ in range(300):
            simulated = rng.standard_normal((400, 3)) @ root.T + 5.0
            share, errors = npde.decorrelated(5.0 + root @ rng.standard_normal(3), none, none, simulated, rng)
            found.append(errors)
            ranks.append(share)
        errors = np.array(found)
        np.testing.assert_allclose(np.corrcoef(errors.T), np.eye(3), atol=0.2)
        assert stats.kstest(errors.ravel(), "norm").pvalue > 0.001
        assert stats.kstest(np.array(ranks)[:, 0], "uniform").pvalue > 0.001

    def test_a_shifted_law_is_found(self):
        rng = np.random.default_rng(8)
        simulated = rng.standard_normal((2000, 1))
        value = np.array([1.5])
        _, error = npde.decorrelated(value, np.array([np.nan]), np.array([np.nan]), simulated, rng)
        assert error[0] == pytest.approx(1.5, abs=0.15)

    @pytest.mark.parametrize(("low", "high"), [(-np.inf, -0.5), (0.7, np.inf), (-0.5, 0.7)])
    def test_a_censored_value_is_drawn_from_its_interval(self, low, high):
        rng = np.random.default_rng(9)
        simulated = rng.standard_normal((4000, 1))
        draws = np.array(
            [
                npde.decorrelated(np.zeros(1), np.array([low]), np.array([high]), simulated, rng)[1][0]
                for _ in range(300)
            ]
        )
        assert ((draws > low - 0.1) & (draws < high + 0.1)).all()
        law = stats.truncnorm(low, high)
        assert stats.kstest(draws, law.cdf).pvalue > 0.001

    def test_a_study_of_the_model_itself_passes(self, one_infusion, source):
        new, made = loop(one_infusion, source)
        table = npde.compute(new, made, rng=np.random.default_rng(10), candidates=400, simulations=400)
        assert len(table) == made.patient.size
        assert (table["cens"] == 1).sum() >= 0.4 * (table["dvid"] == "sbcma").sum()
        tests = npde.tests(table).set_index("dvid")
        assert (tests["global_p"] > 0.01).all()
        again = npde.compute(new, made, rng=np.random.default_rng(10), candidates=400, simulations=400)
        pd.testing.assert_frame_equal(table, again)

    def test_a_study_with_more_noise_does_not(self, one_infusion, source):
        new, made = loop(one_infusion, source, louder=6.0)
        table = npde.compute(new, made, rng=np.random.default_rng(11), candidates=300, simulations=300)
        row = npde.tests(table).set_index("dvid").loc["transgene"]
        assert row["variance"] > 1.3
        assert row["global_p"] < 0.01

    def test_the_tests_are_scipys(self):
        values = np.random.default_rng(12).standard_normal(40) * 1.3 + 0.2
        table = pd.DataFrame({"dvid": "cart", "npde": values, "cens": 0})
        row = npde.tests(table).iloc[0]
        assert row["mean_p"] == stats.wilcoxon(values).pvalue
        assert row["normality_p"] == stats.shapiro(values).pvalue
        z = 39 * values.var(ddof=1)
        assert row["variance_p"] == pytest.approx(2 * min(stats.chi2.cdf(z, 39), stats.chi2.sf(z, 39)))
        smallest = min(row["mean_p"], row["variance_p"], row["normality_p"])
        assert row["global_p"] == pytest.approx(min(1, 3 * smallest))


class TestVpc:
    def test_a_study_of_the_model_itself_lies_in_its_bands(self, one_infusion, source):
        new, made = loop(one_infusion, source)
        studies = simulated_studies.replicate_studies(
            new, made, count=100, rng=np.random.default_rng(13), dropout=False
        )
        found = vpc.check(new, made, studies)
        outside, of = found.outside
        assert of > 10
        assert outside <= 0.2 * of
        assert (found.blq["observed"].between(found.blq["lower"] - 1e-9, found.blq["upper"] + 1e-9)).mean() > 0.8
        sbcma = found.percentiles[(found.percentiles["dvid"] == "sbcma")]
        limit = sbcma["limit"].to_numpy()
        for column in ("observed", "lower", "predicted", "upper"):  # never a percentile below the limit
            plain = sbcma[~sbcma["corrected"].astype(bool)][column]
            assert (plain.dropna() >= limit[0] * (1 - 1e-9)).all()
        assert sbcma["observed"].isna().any()

    def test_correction_takes_the_typical_prediction_out(self, one_infusion, source):
        """Data that are the typical prediction itself become one number per bin."""
        new, made = source
        rec = one_infusion.problem.observed
        rows = np.flatnonzero(np.isin(rec.dvid, list(one_infusion.problem.observables)))
        value = rec.value.copy()
        offset = np.array([new.problem.observables[str(name)].offset for name in rec.dvid[rows]])
        centre = simulated_studies.typical_predictions(new, made, made.patient, np.arange(rows.size))
        value[rows] = np.exp(centre) - offset
        family = np.where(rec.family == Family.BELOW, Family.QUANTIFIED, rec.family)
        seen = dataclasses.replace(rec, value=value, family=family)
        same = new_patients.NewPatients(dataclasses.replace(new.problem, observed=seen), new.draws)
        studies = simulated_studies.replicate_studies(same, made, count=3, rng=np.random.default_rng(1), dropout=False)
        found = vpc.check(same, made, studies).percentiles
        for _, rows_ in found[found["corrected"].astype(bool)].groupby(["dvid", "stratum", "bin"]):
            assert np.ptp(np.log(rows_["observed"] + 0.05)) < 1e-9


class TestPublished:
    def test_every_figure_has_its_origin(self):
        for figure in published.PUBLISHED:
            assert figure.statistic in published.STATISTICS
            assert figure.tag in ("READ", "READ-abs")
            assert figure.source
            assert figure.n > 0

    def test_statistics_of_a_hand_made_study(self):
        one = {name: np.array([[1.0, 2.0, 3.0, 6.0]]) for name in published.Courses.__dataclass_fields__}
        one["pfs"] = np.array([[100.0, 731.0, 800.0, np.inf]])
        one["tlast"] = np.array([[5.0, np.nan, 7.0, 9.0]])
        courses = published.Courses(**one)
        found = {key: float(statistic.of(courses)[0]) for key, statistic in published.STATISTICS.items()}
        assert found["cmax_mean"] == 3.0
        assert found["cmax_cv"] == pytest.approx(np.std([1, 2, 3, 6], ddof=1) / 3)
        assert found["tmax_median"] == 2.5
        assert found["tlast_median"] == 7.0
        assert found["pfs_24"] == 75.0
        assert found["pfs_median"] == pytest.approx(765.5 / 30.4375, rel=1e-3)
        assert courses.first(2).cmax.tolist() == [[1.0, 2.0]]

    def test_a_constant_hazard_is_crossed_exponentially(self):
        hazard = np.tile(published.DAYS / 200, (3, 1))
        hazard[2] = np.nan
        found = published._crossing(hazard, np.array([0.37, 1e3, 1.0]))
        assert found[0] == pytest.approx(74.0)
        assert np.isposinf(found[1])
        assert np.isnan(found[2])

    def test_trials_of_the_cohorts_products(self, one_infusion, source):
        table = published.compare(one_infusion.problem, source[0].draws, rng=np.random.default_rng(14), studies=9)
        assert set(table["study"]) == {"CARTITUDE-1", "KarMMa"}
        assert table["p_value"].between(0.2, 1.0).all()
        assert (table["lower"] <= table["upper"]).all()
        rows = table[table["comparable"]].set_index(["product", "statistic"])
        assert 5 < rows["simulated"]["cilta-cel", "Tmax, median"] < 30

    def test_the_reference_dose_is_given(self, one_infusion, source):
        """Doses of the cohort do not matter, and those of registered products are the products' own."""
        problem = one_infusion.problem
        column = problem.column("dose_1")
        base = problem.base.copy()
        base[:, column] *= 7
        other = dataclasses.replace(problem, base=base)
        args = {"product": "ide-cel", "n": 3, "studies": 2}
        first = published.first_courses(problem, source[0].draws, **args, rng=np.random.default_rng(15))
        second = published.first_courses(other, source[0].draws, **args, rng=np.random.default_rng(15))
        np.testing.assert_array_equal(first.cmax, second.cmax)


class TestPhysiology:
    def test_a_sane_prior_and_an_absurd_one(self, one_infusion, source):
        draws, rng = source[0].draws, np.random.default_rng(16)
        table = physiology.check(one_infusion.problem, draws, rng=rng, patients=200)
        assert set(table["product"]) == {"ide-cel", "cilta-cel"}
        assert (table.loc[table["quantity"] == "any of these", "outside"] < 0.3).all()
        assert table.loc[table["limit"] != "", "tag"].isin(["READ", "READ-abs", "RECALLED", "ASSUMED"]).all()
        from reinfuse.fits.population import estimated

        labels = estimated(one_infusion.problem)
        huge = draws.population.copy()
        huge[:, labels.index("B0")] = np.log(1e15)
        absurd = dataclasses.replace(draws, population=huge)
        table = physiology.check(one_infusion.problem, absurd, rng=rng, patients=100).set_index(["product", "quantity"])
        assert table["outside"]["ide-cel", "myeloma cells on day 0"] > 0.95
        assert table["outside"]["ide-cel", "any of these"] > 0.95


class TestSampled:
    def test_peaks_and_nadirs_by_hand(self):
        values = np.array([1.0, 5.0, 2.0, -np.inf, 7.0, 3.0])
        since = np.array([7.0, 14.0, 30.0, 7.0, 14.0, 30.0])
        course, study = np.array([0, 0, 0, 1, 1, 1]), np.zeros(6, dtype=np.int64)
        middle, day = sampled._extremes(values, since, course, study, True)
        assert (middle[0], day[0]) == (6.0, 14.0)
        middle, _ = sampled._extremes(values, since, course, np.array([0, 0, 0, 1, 1, 1]), False)
        assert middle.tolist() == [1.0, -np.inf]

    def test_observed_figures_are_those_of_the_table(self, one_infusion, source):
        new, made = source
        studies = simulated_studies.replicate_studies(new, made, count=20, rng=np.random.default_rng(17))
        table = sampled.compare(one_infusion.problem, made, studies)
        rows = one_infusion.cohort.observations
        rows = rows[(rows["DVID"] == "transgene") & (rows["TIME"] > 0) & (rows["CENS"] == 0)]
        assert (table["p_value"].between(0, 1)).all()
        assert set(table["statistic"]) <= {"highest, median", "day of the highest, median", "lowest, median"}
        if len(mine := table[(table["dvid"] == "transgene") & (table["statistic"] == "highest, median")]):
            assert mine["observed"].max() <= rows["DV"].max()


@pytest.fixture(scope="module")
def found(one_infusion):
    """All checks of a run whose posterior is its prior."""
    group = prior(one_infusion)
    tree = xr.DataTree.from_dict({"/posterior": group, "/prior": group})
    written = {"variant": "no-exhaustion", "random_effects": list(one_infusion.problem.random)}
    return simulation_checks.examine(tree, one_infusion.cohort, written, rng=np.random.default_rng(18))


class TestTogether:
    def test_all_checks_are_made(self, found):
        assert found.missing == ()
        assert found.vpc.studies == simulation_checks.STUDIES
        for table in (found.npde, found.npde_tests, found.published, found.prior, found.vpc.percentiles):
            assert len(table)

    def test_a_run_that_does_not_fit_says_so(self, one_infusion):
        tree = fake_run.make(n_patients=4, chains=2, draws=10).tree
        found = simulation_checks.examine(tree, one_infusion.cohort, {}, rng=np.random.default_rng(1))
        assert found.vpc is None
        assert "New patients are not simulated" in found.missing[0]

    def test_they_reach_figures_report_and_terminal(self, found, tmp_path):
        from io import StringIO

        from rich.console import Console

        from reinfuse.fits.diagnosis import findings
        from reinfuse.fits.figures import plates as every
        from reinfuse.fits.report.build import render
        from reinfuse.scripts.diagnose import _new_patients

        run = fake_run.write(tmp_path / "run", fake=fake_run.make(n_patients=9, chains=2, draws=100))
        everything = dataclasses.replace(findings.examine(run), new_patients=found)
        plates = {plate.name: plate for plate in every._new_patients(everything)}
        assert {"vpc_transgene", "vpc_cart", "vpc_sbcma", "npde"} <= set(plates)
        assert len(plates["vpc_cart"].figure.axes) == 6
        page = render(everything, name="run", plates=[plates["vpc_cart"]])
        for words in ("CARTITUDE-1", "p (Shapiro-Wilk)", "limits of physiology", "Visual predictive check:"):
            assert words in page
        stream = StringIO()
        _new_patients(everything, Console(file=stream, width=80))
        assert "Published figures among simulated studies" in stream.getvalue()
        findings.record(run, everything)
        written = run.diagnostics()["new_patients"]
        assert written["vpc"]["studies"] == simulation_checks.STUDIES
        assert len(written["npde"]) == len(found.npde_tests)

    def test_the_typical_patient_stands_beside_the_individual_one(self, one_infusion, source):
        from reinfuse.fits.figures.individual import individual_fits

        new, made = source
        times = np.array([0.5, 7.0, 14.0, 30.0, 100.0])
        curves = simulated_studies.typical_curves(new, times)
        at = np.flatnonzero((made.dvid == "cart") & np.isin(made.since, times))
        wanted = np.exp(simulated_studies.typical_predictions(new, made, made.patient[at], at))
        column = np.searchsorted(times, made.since[at])
        np.testing.assert_allclose(curves["cart"][made.patient[at], column], wanted, rtol=1e-4)
        (figure,) = individual_fits(
            times=times,
            curves=np.stack([curves["cart"]] * 3),
            patients=list(one_infusion.problem.patients),
            observations=vpc.measurements(new.problem, made).assign(time=made.since),
            dvid="cart",
            population=curves["cart"],
        )
        assert "typical patient" in [text.get_text() for text in figure.legends[0].get_texts()]

"""From flat draws to a posterior file: names, scales, predictions."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from reinfuse.fits.assays import ASSAYS
from reinfuse.fits.fitting import assemble
from reinfuse.fits.likelihood_op import loglik_and_gradient
from reinfuse.fits.population import estimated, population_model
from reinfuse.fits.results import (
    Draws,
    curves,
    log_likelihood,
    observed,
    posterior_draws,
    predictions,
    prior_draws,
    simulate_draws,
)
from reinfuse.fits.run import check_layout
from reinfuse.model.densities import LOG_T4, Family
from reinfuse.model.equations.bcma import EARLY
from reinfuse.model.parameters import REAL_COHORT, from_transformed

CHAINS, DRAWS = 2, 3


def flat_draws(posed) -> np.ndarray:
    """Draws (chain, draw, coordinate) scattered around the prior medians."""
    rng = np.random.default_rng(11)
    points = [posed.flat(*posed.point(rng)) for _ in range(CHAINS * DRAWS)]
    return np.array(points).reshape(CHAINS, DRAWS, -1)


@pytest.fixture(scope="module")
def draws(either) -> Draws:
    return Draws(either.problem, flat_draws(either))


class TestTree:
    @pytest.fixture(scope="class")
    @classmethod
    def tree(cls, either) -> xr.DataTree:
        x = flat_draws(either)
        sampled = xr.Dataset({"x": (("chain", "draw", "coordinate"), x), "diverging": (("chain", "draw"), x[..., 0])})
        return assemble(either.problem, sampled, np.random.default_rng(0))

    def test_it_has_the_layout_of_a_run(self, tree):
        check_layout(tree, where="a test")
        assert {"prior", "posterior_predictive", "log_likelihood", "curves"} <= set(tree.children)

    def test_draws_of_the_sampler_are_not_in_the_statistics(self, tree):
        assert set(tree["sample_stats"].data_vars) == {"diverging"}

    def test_labels_are_the_problems(self, tree, either):
        posterior = tree["posterior"].to_dataset()
        assert posterior["parameter"].values.tolist() == estimated(either.problem)
        assert posterior["effect"].values.tolist() == list(either.problem.random)
        assert posterior["patient"].values.tolist() == list(either.problem.patients)
        assert posterior["contrast"].values.tolist() == [e.label for e in either.problem.effects]


class TestPosterior:
    def test_individual_parameters_are_those_of_the_likelihood(self, either, draws):
        problem, found = either.problem, posterior_draws(either.problem, draws)
        for c in range(CHAINS):
            for k in range(DRAWS):
                theta = draws.theta(c, k)
                for name in problem.random:
                    mine = found["individual"].sel(effect=name).values[c, k]
                    np.testing.assert_allclose(mine, theta[:, problem.column(name)], rtol=1e-10)

    def test_the_population_is_on_its_natural_scale(self, either, draws):
        found = posterior_draws(either.problem, draws)["population"]
        for k, label in enumerate(estimated(either.problem)):
            transform = either.problem.population[label].transform
            wanted = from_transformed(draws.population[..., k], transform=transform)
            np.testing.assert_allclose(found.sel(parameter=label), wanted)
            assert transform == "identity" or (found.sel(parameter=label) > 0).all()

    def test_spreads_effects_and_occasions_are_where_pymc_has_them(self, either, draws):
        """The same flat vector, read by PyMC's model and by us."""
        problem, found = either.problem, posterior_draws(either.problem, draws)
        model = population_model(problem)
        start = model.initial_point()
        sizes = {name: np.shape(value) for name, value in start.items()}
        x, position = flat_draws(either)[1, 2], 0
        read = {}
        for name in (variable.name for variable in model.continuous_value_vars):
            count = int(np.prod(sizes[name], dtype=int))
            read[name] = x[position : position + count].reshape(sizes[name])
            position += count
        assert position == x.size
        here = {"chain": 1, "draw": 2}
        np.testing.assert_allclose(found["omega"].isel(here), np.exp(read["omega_log__"]))
        np.testing.assert_allclose(found["product_effect"].isel(here), read["product_effect"])
        if problem.occasions:
            np.testing.assert_allclose(found["omega_occasion"].isel(here), np.exp(read["omega_occasion_log__"]))
            np.testing.assert_allclose(found["occasion"].isel(here), read["occasion"])


class TestPrior:
    def test_draws_have_the_tables_medians_and_widths(self, either):
        problem, count = either.problem, 4000
        found = prior_draws(problem, np.random.default_rng(1), count)
        labels = estimated(problem)
        rows = {label: (problem.population[label].median, problem.population[label].log_sd) for label in labels}
        for label, (median, sd) in rows.items():
            drawn = found["population"].sel(parameter=label).values.ravel()
            if problem.population[label].transform == "log":
                drawn, median = np.log(drawn), np.log(median)
            self.close(drawn, median, sd)
        for name in problem.random:
            row = REAL_COHORT[name]
            self.close(np.log(found["omega"].sel(effect=name).values.ravel()), np.log(row.iiv), row.iiv_log_sd)
        for effect in problem.effects:
            self.close(found["product_effect"].sel(contrast=effect.label).values.ravel(), effect.mean, effect.sd)

    @staticmethod
    def close(drawn, median, sd):
        error = sd / np.sqrt(drawn.size)
        assert np.median(drawn) == pytest.approx(median, abs=4.0 * 1.2533 * error)
        assert drawn.std() == pytest.approx(sd, rel=0.06)

    def test_patients_scatter_around_their_own_population(self, one_infusion):
        found = prior_draws(one_infusion.problem, np.random.default_rng(2), 4000)
        spread = np.log(found["individual"].sel(effect="rho") / found["population"].sel(parameter="rho"))
        first = one_infusion.problem.slot_products[:, 0] == "ide-cel"
        scaled = (spread / found["omega"].sel(effect="rho")).values[0][:, first]
        assert scaled.mean() == pytest.approx(0.0, abs=4.0 / np.sqrt(scaled.size))
        assert scaled.std() == pytest.approx(1.0, rel=0.05)

    def test_it_has_the_posteriors_variables(self, either, draws):
        prior = prior_draws(either.problem, np.random.default_rng(3), 5)
        posterior = posterior_draws(either.problem, draws)
        assert {n: v.dims for n, v in prior.items()} == {n: v.dims for n, v in posterior.items()}


class TestPredictions:
    def test_they_are_the_kernels_locations(self, either, draws):
        """A quantified value that lies on its prediction has the log density of Student's t at 0."""
        problem = either.problem
        found, rows = predictions(problem, draws, np.random.default_rng(4)), observed(problem)
        draw = 4  # of the second chain
        theta = draws.theta(*divmod(draw, DRAWS))
        for name in ("transgene", "cart", "sbcma", "mprotein"):
            some = np.flatnonzero(rows["dvid"].values == name)
            for row in (some[0], some[-1]):
                patient = problem.patients.index(str(rows["patient"].values[row]))
                one = problem.ob_time.copy(), problem.ob_kind.copy(), problem.ob_family.copy(), problem.ob_value.copy()
                one[0][patient, 0] = rows["time"].values[row]
                one[1][patient, 0] = problem.kernel.kinds.index(name)
                one[2][patient, 0] = Family.QUANTIFIED
                one[3][patient, 0] = found["prediction"].values[0, draw, row]
                n_ob = problem.n_ob.copy()
                n_ob[patient] = 1
                alone = replace(problem, ob_time=one[0], ob_kind=one[1], ob_family=one[2], ob_value=one[3], n_ob=n_ob)
                loglik = loglik_and_gradient(theta, alone)[0][patient]
                sigma = float(found["sigma"].values[0, draw, row])
                # 1e-4 off the top: a location that is off by 0.9 % of sigma
                assert loglik == pytest.approx(LOG_T4 - np.log(sigma), abs=1e-4), name

    def test_new_draws_scatter_by_student_t_with_the_draws_own_sigma(self, one_infusion):
        x = np.repeat(flat_draws(one_infusion)[:1, :1], 400, axis=1)
        made = predictions(one_infusion.problem, Draws(one_infusion.problem, x), np.random.default_rng(5))
        z = ((made["y"] - made["prediction"]) / made["sigma"]).values.ravel()
        assert np.median(z) == pytest.approx(0.0, abs=4.0 * np.sqrt(np.pi / 2) / np.sqrt(z.size))
        # quartiles of Student's t with 4 degrees of freedom
        np.testing.assert_allclose(np.quantile(z, [0.25, 0.75]), [-0.7407, 0.7407], atol=0.02)

    def test_only_assays_are_predicted_each_with_its_scale(self, either, draws):
        problem, rec = either.problem, either.problem.observed
        found, rows = predictions(problem, draws, np.random.default_rng(6)), observed(problem)
        assays = rec.kind < ASSAYS.index("progression")
        assert found.sizes["observation"] == rows.sizes["observation"] == int(assays.sum())
        np.testing.assert_array_equal(rows["dvid"].values.astype(str), rec.dvid[assays])
        np.testing.assert_array_equal(rows["value"].values, rec.value[assays])
        labels = estimated(problem)
        for name in np.unique(rec.dvid[assays]):
            mine = found["sigma"].values[0][:, rows["dvid"].values == name]
            wanted = np.exp(draws.population[..., labels.index(f"sigma_{name}")]).ravel()
            np.testing.assert_allclose(mine, np.repeat(wanted[:, None], mine.shape[1], axis=1))

    def test_censoring_is_that_of_the_cohort(self, one_infusion):
        rows, table = observed(one_infusion.problem), one_infusion.cohort.observations
        assert (rows["cens"] == 1).sum() > 0
        for name in ("transgene", "cart", "sbcma"):
            mine = rows["cens"].values[rows["dvid"].values == name]
            kept = table[(table["DVID"] == name) & ~one_infusion.cohort.after_progression]
            assert int((mine == 1).sum()) == int((kept["CENS"] == 1).sum())


class TestCurves:
    def test_they_pass_through_the_predictions(self, either, draws):
        problem = either.problem
        made, rows = predictions(problem, draws, np.random.default_rng(7)), observed(problem)
        found = curves(problem, draws, 200.0)
        day = 14.0
        times = found["time"].values
        here = np.flatnonzero((rows["time"].values == day) & (rows["dvid"].values == "cart"))
        assert day in times
        assert here.size > 0
        for row in here:
            mine = found["cart"].sel(patient=str(rows["patient"].values[row]), time=day)
            np.testing.assert_allclose(np.log(mine), made["prediction"].values[0, :, row], atol=1e-3)

    def test_hazard_counts_from_the_first_assessment_and_only_grows(self, one_infusion):
        found = curves(one_infusion.problem, Draws(one_infusion.problem, flat_draws(one_infusion)), 400.0)["cumhaz"]
        assert (found.sel(time=slice(0.0, EARLY - 0.5)) == 0).all()
        late = found.sel(time=slice(EARLY + 0.5, None))
        assert (late.diff("time") >= 0).all()
        assert (late.isel(time=-1) > 0).all()

    def test_an_unsolved_patient_is_nan_not_a_number(self, one_infusion):
        problem = one_infusion.problem
        thetas = Draws(problem, flat_draws(one_infusion)).theta(0, 0)[None].copy()
        thetas[0, 1, problem.column("rho")] = np.nan
        found = simulate_draws(problem, thetas, np.array([5.0, 50.0]))
        assert np.isnan(found["cart"][0, 1]).all()
        assert np.isfinite(found["cart"][0, [0, 2]]).all()

    def test_mprotein_starts_at_its_baseline_without_the_offset_of_the_likelihood(self, one_infusion):
        problem = one_infusion.problem
        theta = Draws(problem, flat_draws(one_infusion)).theta(0, 0)
        found = simulate_draws(problem, theta[None], np.array([0.0, 1.0]))["mprotein"][0, :, 0]
        np.testing.assert_allclose(found, theta[:, problem.column("P0")], rtol=1e-6)


def test_log_likelihood_is_the_kernels(either, draws):
    found = log_likelihood(either.problem, draws)["patient"]
    assert found.dims == ("chain", "draw", "subject")
    wanted, _, _ = loglik_and_gradient(draws.theta(1, 0), either.problem)
    np.testing.assert_array_equal(found.values[1, 0], wanted)

"""The statistical model, coded twice: PyMC's density and the patient-by-patient one have to agree."""

import numpy as np
import pytest

from reinfuse.fits.population import OCCASION_SD, Design, estimated, population_model, prior_location
from reinfuse.model.parameters import REAL_COHORT, from_transformed, to_transformed
from reinfuse.model.products import PRODUCTS

POINTS = 6


def prior(posterior, h):
    """Log density of the priors, up to a constant, and its gradient."""
    score = (h - posterior.prior_mean) / posterior.prior_sd
    return -0.5 * float(score @ score), -score / posterior.prior_sd


class TestTwoCodings:
    """`population_model` (PyMC) against `geometry.Posterior` (NumPy)."""

    def test_densities_differ_by_a_constant(self, either):
        rng = np.random.default_rng(1)
        differences = []
        for _ in range(POINTS):
            h, b = either.point(rng, spread=0.5)
            mine = either.posterior.patients(h, b)[0].sum() + prior(either.posterior, h)[0]
            differences.append(either.density(either.flat(h, b))[0] - mine)
        assert np.isfinite(differences).all()
        np.testing.assert_allclose(differences, differences[0], atol=1e-7)

    def test_gradients_agree(self, either):
        rng = np.random.default_rng(2)
        for _ in range(POINTS):
            h, b = either.point(rng, spread=0.5)
            _, by_b, by_h = either.posterior.patients(h, b)
            _, gradient = either.density(either.flat(h, b))
            scale = np.abs(gradient).max()
            np.testing.assert_allclose(gradient[either.layout.block], by_b, rtol=1e-7, atol=1e-9 * scale)
            wanted = by_h.sum(axis=0) + prior(either.posterior, h)[1]
            np.testing.assert_allclose(gradient[either.layout.hyper], wanted, rtol=1e-7, atol=1e-9 * scale)

    def test_the_conditional_density_is_the_patients(self, either):
        h, b = either.point(np.random.default_rng(3))
        value, by_b, _ = either.posterior.patients(h, b)
        conditional = either.posterior.conditional(h)
        loglik, slope = conditional.likelihood(b)
        np.testing.assert_allclose(conditional.value(b, loglik), value, rtol=1e-10)
        np.testing.assert_allclose(slope - b * conditional.precision, by_b, rtol=1e-8, atol=1e-10)

    def test_gradient_by_the_population_is_that_of_differences(self, either):
        """Spreads included: the normalising constant of the deviations is where a factor gets lost."""
        h, b = either.point(np.random.default_rng(4), spread=0.2)
        _, _, by_h = either.posterior.patients(h, b)
        for place in (*np.unique(either.posterior.log_sd), 0, h.size - 1):
            e = np.zeros(h.size)
            e[place] = 1e-4
            up, down = either.posterior.patients(h + e, b)[0], either.posterior.patients(h - e, b)[0]
            np.testing.assert_allclose(by_h[:, place], (up - down) / 2e-4, rtol=2e-3, atol=2e-3)


class TestDesign:
    def individual(self, posed, rng):
        """Individual parameters by name, with the population and deviations they were made from."""
        posterior = posed.posterior
        h, b = posed.point(rng, spread=0.5)
        effect = h[posterior.d + posterior.spreads :]
        theta = posterior.design.theta(h[: posterior.d], effect, b)
        problem = posed.problem
        columns = dict(zip(problem.kernel.parameters, theta.T, strict=True))
        population = dict(zip(estimated(problem), h[: posterior.d], strict=True))
        effects = {e.label: value for e, value in zip(problem.effects, effect, strict=True)}
        deviations = dict(zip(problem.random, b.T, strict=False))
        occasions = b[:, len(problem.random) :]
        return columns, population, effects, deviations, occasions

    def test_an_individual_parameter_is_population_times_effect_times_deviation(self, either):
        columns, population, effects, deviations, _ = self.individual(either, np.random.default_rng(5))
        first = either.problem.slot_products[:, 0] == "cilta-cel"
        for name in ("rho", "tg", "KE"):  # their product effects are multipliers of the infusion
            np.testing.assert_allclose(columns[name], np.exp(population[name] + deviations[name]), rtol=1e-12)
        np.testing.assert_allclose(
            columns["B0"], np.exp(population["B0"] + deviations["B0"] + first * effects["B0:cilta-cel"]), rtol=1e-12
        )
        np.testing.assert_allclose(columns["gT"], np.exp(deviations["gT"]), rtol=1e-12)  # its median is 1
        np.testing.assert_allclose(columns["hg"], np.exp(population["hg"]), rtol=1e-12)  # no deviation

    def test_effects_on_an_infusion_reach_the_infusions_of_their_product(self, either):
        columns, _, effects, _, _ = self.individual(either, np.random.default_rng(6))
        products = either.problem.slot_products
        for slot in range(1, either.problem.slots + 1):
            mine, given = products[:, slot - 1] == "cilta-cel", products[:, slot - 1] != ""
            for name, label in (("f0", "rho"), ("gp", "tg"), ("h", "KE")):
                found = columns[f"{name}_{slot}"]
                np.testing.assert_allclose(found[mine], np.exp(effects[f"{label}:cilta-cel"]), rtol=1e-12)
                own = [getattr(PRODUCTS[str(p)], name) for p in products[given & ~mine, slot - 1]]
                np.testing.assert_allclose(found[given & ~mine], own, rtol=1e-12)

    def test_assay_parameters_are_those_of_the_product(self, either):
        columns, population, *_ = self.individual(either, np.random.default_rng(7))
        products = either.problem.slot_products
        for slot in range(1, either.problem.slots + 1):
            for name in ("aT", "bT"):
                for i in np.flatnonzero(products[:, slot - 1] != ""):
                    wanted = population[f"{name}:{products[i, slot - 1]}"]
                    assert columns[f"{name}_{slot}"][i] == pytest.approx(wanted, rel=1e-12)

    def test_occasions_are_deviations_of_one_infusion_each(self, two_infusions):
        columns, _, _, _, occasions = self.individual(two_infusions, np.random.default_rng(8))
        assert occasions.shape == (two_infusions.problem.n, 2)
        np.testing.assert_allclose(columns["occ_1"], occasions[:, 0], rtol=1e-12)
        np.testing.assert_allclose(columns["occ_2"], occasions[:, 1], rtol=1e-12)

    def test_the_course_is_left_alone(self, two_infusions):
        problem = two_infusions.problem
        columns, *_ = self.individual(two_infusions, np.random.default_rng(9))
        for name in ("dose_1", "dose_2", "day_2"):
            np.testing.assert_array_equal(columns[name], problem.base[:, problem.column(name)])

    def test_at_prior_medians_theta_is_the_table(self, one_infusion):
        posterior, problem = one_infusion.posterior, one_infusion.problem
        effect = np.zeros(posterior.e)
        b = np.zeros((problem.n, posterior.q))
        theta = posterior.design.theta(posterior.prior_mean[: posterior.d], effect, b)
        for name in estimated(problem):
            if name in problem.kernel.parameters:
                np.testing.assert_allclose(theta[:, problem.column(name)], REAL_COHORT[name].median, rtol=1e-12)

    def test_slopes_are_those_of_differences_on_every_scale(self):
        empty = np.zeros((2, 3, 0))
        made = Design(
            np.array([True, False, False]), np.array([False, True, False]), np.zeros((2, 3)), empty, empty, empty
        )
        x = np.random.default_rng(10).standard_normal((2, 3))
        theta = made.back(x)
        transforms = ("log", "logit", "identity")
        np.testing.assert_allclose(theta, from_transformed(x, transform=transforms), rtol=1e-12)
        numerical = (made.back(x + 1e-6) - made.back(x - 1e-6)) / 2e-6
        np.testing.assert_allclose(made.slope(theta), numerical, rtol=1e-8)


class TestPriors:
    def test_the_model_has_the_variables_it_says(self, two_infusions):
        problem = two_infusions.problem
        model = population_model(problem)
        names = {variable.name for variable in model.free_RVs}
        assert names == {"population", "omega", "product_effect", "eta", "omega_occasion", "occasion"}
        assert list(model.coords["parameter"]) == estimated(problem)
        assert list(model.coords["patient"]) == list(problem.patients)

    def test_priors_lie_around_the_table(self, either):
        problem, posterior = either.problem, either.posterior
        for k, label in enumerate(estimated(problem)):
            row = problem.population[label]
            assert posterior.prior_mean[k] == pytest.approx(to_transformed(row.median, transform=row.transform))
            assert posterior.prior_mean[k] == prior_location(problem, label)
            assert posterior.prior_sd[k] == row.log_sd
        spreads = np.exp(posterior.prior_mean[posterior.d : posterior.d + len(problem.random)])
        np.testing.assert_allclose(spreads, [REAL_COHORT[name].iiv for name in problem.random])
        if problem.occasions:
            assert np.exp(posterior.prior_mean[posterior.d + len(problem.random)]) == pytest.approx(OCCASION_SD)

    def test_a_definition_is_not_estimated(self, one_infusion):
        """gT is 1 by definition: the level of the assay is aT; only patients deviate from it."""
        assert "gT" in one_infusion.problem.random
        assert "gT" not in estimated(one_infusion.problem)

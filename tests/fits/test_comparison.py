"""Leave-one-patient-out: integrals that are known, and what is made of them."""

from types import SimpleNamespace

import numpy as np
import pytest

from reinfuse.fits import comparison
from reinfuse.fits.comparison import compare, integrated_loglik, leave_one_out
from reinfuse.fits.results import Draws

from .gaussian_model import SPREADS, D, GaussianModel


def taken_apart(h: np.ndarray, b: np.ndarray) -> SimpleNamespace:
    """What `results.Draws` offers, of one chain: population (draw, H) and deviations (draw, n, q)."""
    h = h[None]
    return SimpleNamespace(
        population=h[..., :D],
        log_omega=h[..., D : D + SPREADS],
        effect=h[..., D + SPREADS :],
        deviation=b[None],
        hyper=lambda chain, draw: h[chain, draw],
    )


class TestIntegratedLikelihood:
    """Against the closed form of a Gaussian model, with sites that are off."""

    def test_it_integrates_the_patients_deviations_out(self):
        model = GaussianModel()
        h, b = model.draw(150, np.random.default_rng(1))
        ticks = []
        found = integrated_loglik(
            model, model.coordinates(wrong=0.3), taken_apart(h, b), np.random.default_rng(2), ticks.append
        )
        exact = np.array([model.marginal_loglik(one) for one in h])
        assert found.shape == exact.shape == (150, model.n)
        assert sum(ticks) == 150
        error = found - exact
        assert np.abs(error.mean(axis=0)).max() < 0.06
        assert error.std() < 0.3
        # errors of single draws average out: what stays is below a hundredth of a nat
        assert abs(error.mean()) < 0.02

    def test_more_draws_come_closer(self, monkeypatch):
        model = GaussianModel()
        h, b = model.draw(20, np.random.default_rng(3))
        exact = np.array([model.marginal_loglik(one) for one in h])
        errors = []
        for count in (32, 2048):
            monkeypatch.setattr(comparison, "DEVIATION_DRAWS", count)
            found = integrated_loglik(model, model.coordinates(wrong=0.3), taken_apart(h, b), np.random.default_rng(4))
            errors.append((found - exact).std())
        assert errors[1] < 0.05
        assert errors[1] < errors[0] / 4.0

    def test_draws_are_spread_over_the_chain(self, monkeypatch):
        monkeypatch.setattr(comparison, "POPULATION_DRAWS", 5)
        monkeypatch.setattr(comparison, "DEVIATION_DRAWS", 2048)
        model = GaussianModel()
        h, b = model.draw(9, np.random.default_rng(5))
        found = integrated_loglik(model, model.coordinates(wrong=0.1), taken_apart(h, b), np.random.default_rng(6))
        exact = np.array([model.marginal_loglik(one) for one in h[::2]])
        np.testing.assert_allclose(found, exact, atol=0.2)

    def test_on_a_real_problem_few_draws_agree_with_many(self, one_infusion, explored, monkeypatch):
        h = explored.centre
        draws = Draws(one_infusion.problem, one_infusion.flat(h, np.zeros(explored.layout.block.shape))[None, None])
        found = []
        for count, seed in ((2048, 8), (8192, 9)):
            monkeypatch.setattr(comparison, "DEVIATION_DRAWS", count)
            found.append(integrated_loglik(one_infusion.posterior, explored, draws, np.random.default_rng(seed))[0])
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found[0], found[1], atol=0.5)


class TestLeaveOneOut:
    def test_a_likelihood_that_does_not_vary_is_its_own_forecast(self):
        loglik = np.tile([-3.0, -1.0, -20.0], (400, 1)) + 1e-6 * np.random.default_rng(1).standard_normal((400, 3))
        elpd, _ = leave_one_out(loglik, ["a", "b", "c"])
        np.testing.assert_allclose(elpd, [-3.0, -1.0, -20.0], atol=1e-4)

    def test_it_is_the_harmonic_mean_where_that_is_safe(self):
        """elpd_i = -ln mean exp(-loglik): for normal loglik of sd s that is the mean less s^2 / 2."""
        sd = np.array([0.05, 0.2, 0.4])
        loglik = -5.0 + sd * np.random.default_rng(2).standard_normal((4000, 3))
        elpd, pareto = leave_one_out(loglik, ["a", "b", "c"])
        np.testing.assert_allclose(elpd, -5.0 - 0.5 * sd**2, atol=0.03)
        assert (pareto < 0.5).all()

    def test_few_draws_have_no_shape_but_an_answer(self):
        loglik = -2.0 + 0.1 * np.random.default_rng(6).standard_normal((20, 2))
        elpd, pareto = leave_one_out(loglik, ["a", "b"])
        np.testing.assert_allclose(elpd, -np.log(np.exp(-loglik).mean(axis=0)))
        assert np.isnan(pareto).all()

    def test_a_patient_whose_integrals_failed_is_flagged_and_the_others_are_not(self):
        loglik = -2.0 + 0.1 * np.random.default_rng(7).standard_normal((200, 3))
        whole, shapes = leave_one_out(loglik, ["a", "b", "c"])
        spoilt = loglik.copy()
        spoilt[::4, 1], spoilt[:, 2] = -np.inf, -np.inf
        elpd, pareto = leave_one_out(spoilt, ["a", "b", "c"])
        assert elpd[0] == whole[0]
        assert pareto[0] == shapes[0]
        assert np.isinf(pareto[1:]).all()
        # the failed ones count as the worst of the others
        worst = np.where(np.isfinite(spoilt[:, 1]), spoilt[:, 1], spoilt[np.isfinite(spoilt[:, 1]), 1].min())
        assert elpd[1] == pytest.approx(-np.log(np.exp(-worst).mean()))
        assert np.isfinite(elpd).all()
        assert elpd[2] < -100.0

    def test_a_patient_who_rules_the_fit_is_flagged(self):
        rng = np.random.default_rng(3)
        weights = 1.0 + rng.pareto(0.8, 2000)
        loglik = np.stack([0.1 * rng.standard_normal(2000), -np.log(weights)], axis=1)
        _, pareto = leave_one_out(loglik, ["calm", "odd"])
        assert pareto[0] < 0.5
        # its weights exp(-loglik) have no finite mean
        assert pareto[1] > 0.7

    def test_it_predicts_a_patient_that_a_gaussian_fit_did_not_see(self):
        """Leaving a patient out by weights agrees with a fit without that patient."""
        model = GaussianModel()
        h, _ = model.draw(4000, np.random.default_rng(4))
        loglik = np.array([model.marginal_loglik(one) for one in h])
        elpd, pareto = leave_one_out(loglik, [str(i) for i in range(model.n)])
        assert (pareto < 0.7).all()
        for i in (0, 5):
            without = GaussianModel()
            without.tau[i] = 1e6  # measurements that say nothing
            others, _ = without.draw(20000, np.random.default_rng(5))
            seen = np.array([model.marginal_loglik(one)[i] for one in others])
            assert elpd[i] == pytest.approx(np.log(np.exp(seen).mean()), abs=0.1)


class TestCompare:
    def test_the_best_comes_first_and_differences_are_from_it(self):
        first, second = np.array([-1.0, -2.0, -3.0, -4.0]), np.array([-2.0, -2.5, -3.0, -5.5])
        table = compare(["second", "first"], [second, first], [np.array([0.1, 0.8, 0.9, 0.2]), np.zeros(4)])
        assert table["variant"].tolist() == ["first", "second"]
        assert table["elpd"].tolist() == [-10.0, -13.0]
        assert table["difference"].tolist() == [0.0, -3.0]
        paired = second - first
        assert table["se_difference"].tolist() == pytest.approx([0.0, np.sqrt(4) * paired.std(ddof=1)])
        assert table["patients_k_above_0.7"].tolist() == [0, 2]

    def test_a_shape_that_could_not_be_told_counts_as_too_large(self):
        table = compare(["a"], [np.array([-1.0, -2.0])], [np.array([np.nan, 0.3])])
        assert table["patients_k_above_0.7"].tolist() == [1]

    def test_one_patient_has_no_standard_error(self):
        table = compare(["a", "b"], [np.array([-1.0]), np.array([-2.0])], [np.zeros(1), np.zeros(1)])
        assert table["se_difference"].tolist() == [0.0, 0.0]

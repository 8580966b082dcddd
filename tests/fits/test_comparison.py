"""Leave-one-patient-out: integrals that are known, and what is made of them."""

import numpy as np
import pytest

from reinfuse.fits import comparison
from reinfuse.fits.comparison import integrals, integrated_loglik, leave_one_out
from reinfuse.fits.results import Draws

from .gaussian_model import SPREADS, D, GaussianModel


class TakenApart(Draws):
    """Draws of one chain of a model without a `Problem`: population (draw, H) and deviations (draw, n, q)."""

    def __init__(self, h: np.ndarray, b: np.ndarray) -> None:
        self.population, self.log_omega, self.effect = np.split(h[None], [D, D + SPREADS], axis=-1)
        self.deviation = b[None]


class TestIntegratedLikelihood:
    """Against the closed form of a Gaussian model, with sites that are off."""

    def test_it_integrates_the_patients_deviations_out(self):
        model = GaussianModel()
        h, b = model.draw(150, np.random.default_rng(1))
        ticks = []
        found = integrated_loglik(
            model, model.coordinates(wrong=0.3), TakenApart(h, b), np.random.default_rng(2), ticks.append
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
            found = integrated_loglik(model, model.coordinates(wrong=0.3), TakenApart(h, b), np.random.default_rng(4))
            errors.append((found - exact).std())
        assert errors[1] < 0.05
        assert errors[1] < errors[0] / 4.0

    def test_draws_are_spread_over_the_chain(self, monkeypatch):
        monkeypatch.setattr(comparison, "POPULATION_DRAWS", 5)
        monkeypatch.setattr(comparison, "DEVIATION_DRAWS", 2048)
        model = GaussianModel()
        h, b = model.draw(9, np.random.default_rng(5))
        found = integrated_loglik(model, model.coordinates(wrong=0.1), TakenApart(h, b), np.random.default_rng(6))
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


class TestError:
    """The integrals say how wrong they are."""

    @pytest.mark.parametrize("wrong", [0.1, 0.6])
    def test_it_is_the_error(self, monkeypatch, wrong):
        monkeypatch.setattr(comparison, "NOISY", 10.0)  # nobody gets further draws
        model = GaussianModel()
        h, b = model.draw(60, np.random.default_rng(7))  # too few to learn a mixture from
        found = integrals(model, model.coordinates(wrong=wrong), TakenApart(h, b), np.random.default_rng(8))
        exact = np.array([model.marginal_loglik(one) for one in h])
        true = np.sqrt(((found.loglik - exact) ** 2).mean(axis=0))
        np.testing.assert_allclose(found.error, true, rtol=0.6)
        assert np.sqrt((found.error**2).mean()) == pytest.approx(np.sqrt((true**2).mean()), rel=0.25)

    def test_draws_teach_better_proposals(self):
        """Sites that are far off cost little once the mixture has seen the patient's draws."""
        model = GaussianModel()
        h, b = model.draw(600, np.random.default_rng(9))
        errors = []
        for count in (60, 600):  # below and above what a mixture is learnt from
            some = TakenApart(h[:count], b[:count])
            found = integrals(model, model.coordinates(wrong=1.0), some, np.random.default_rng(10))
            errors.append(float(np.sqrt((found.error**2).mean())))
        assert errors[1] < 0.6 * errors[0]

    def test_the_noisy_get_further_draws(self, monkeypatch):
        model = GaussianModel()
        h, b = model.draw(60, np.random.default_rng(11))
        errors = []
        for limit in (10.0, 0.0):
            monkeypatch.setattr(comparison, "NOISY", limit)
            found = integrals(model, model.coordinates(wrong=0.8), TakenApart(h, b), np.random.default_rng(12))
            errors.append(float(np.sqrt((found.error**2).mean())))
        assert errors[1] < 0.7 * errors[0]

    def test_noise_does_not_pass_for_worse_prediction(self):
        """An unbiased but noisy likelihood makes the mean of its inverse too large: that is taken back."""
        rng = np.random.default_rng(13)
        exact, sd = -5.0 + 0.3 * rng.standard_normal((20000, 2)), np.array([0.15, 0.3])
        variance = np.expm1(sd**2)
        halves = [np.exp(sd * np.sqrt(2.0) * rng.standard_normal(exact.shape) - sd**2) for _ in range(2)]
        noisy = exact + np.log(0.5 * (halves[0] + halves[1]))
        measured = ((halves[0] - halves[1]) / (halves[0] + halves[1])) ** 2
        np.testing.assert_allclose(measured.mean(axis=0), variance, rtol=0.2)
        true = leave_one_out(exact).elpd
        assert (leave_one_out(noisy).elpd < true - 0.7 * sd**2).all()
        np.testing.assert_allclose(leave_one_out(noisy, measured).elpd, true, atol=0.02)


class TestLeaveOneOut:
    def test_a_likelihood_that_does_not_vary_is_its_own_forecast(self):
        loglik = np.tile([-3.0, -1.0, -20.0], (400, 1)) + 1e-6 * np.random.default_rng(1).standard_normal((400, 3))
        elpd = leave_one_out(loglik).elpd
        np.testing.assert_allclose(elpd, [-3.0, -1.0, -20.0], atol=1e-4)

    def test_it_is_the_harmonic_mean_where_that_is_safe(self):
        """elpd_i = -ln mean exp(-loglik): for normal loglik of sd s that is the mean less s^2 / 2."""
        sd = np.array([0.05, 0.2, 0.4])
        loglik = -5.0 + sd * np.random.default_rng(2).standard_normal((4000, 3))
        left = leave_one_out(loglik)
        np.testing.assert_allclose(left.elpd, -5.0 - 0.5 * sd**2, atol=0.03)
        np.testing.assert_allclose(left.lpd, -5.0 + 0.5 * sd**2, atol=0.03)  # the patient's own data included
        assert (left.pareto_k < 0.5).all()

    def test_its_standard_error_is_that_of_repetitions(self):
        rng = np.random.default_rng(8)
        many = [leave_one_out(-4.0 + 0.5 * rng.standard_normal((400, 1))) for _ in range(200)]
        spread = np.std([left.elpd[0] for left in many])
        assert np.mean([left.mcse[0] for left in many]) == pytest.approx(spread, rel=0.2)

    def test_few_draws_have_no_shape_but_an_answer(self):
        loglik = -2.0 + 0.1 * np.random.default_rng(6).standard_normal((20, 2))
        left = leave_one_out(loglik)
        np.testing.assert_allclose(left.elpd, -np.log(np.exp(-loglik).mean(axis=0)))
        assert np.isnan(left.pareto_k).all()

    def test_a_patient_whose_integrals_failed_is_flagged_and_the_others_are_not(self):
        loglik = -2.0 + 0.1 * np.random.default_rng(7).standard_normal((200, 3))
        whole = leave_one_out(loglik)
        spoilt = loglik.copy()
        spoilt[::4, 1], spoilt[:, 2] = -np.inf, -np.inf
        left = leave_one_out(spoilt)
        elpd = left.elpd
        assert elpd[0] == whole.elpd[0]
        assert left.pareto_k[0] == whole.pareto_k[0]
        assert np.isinf(left.pareto_k[1:]).all()
        # the failed ones count as the worst of the others
        worst = np.where(np.isfinite(spoilt[:, 1]), spoilt[:, 1], spoilt[np.isfinite(spoilt[:, 1]), 1].min())
        assert elpd[1] == pytest.approx(-np.log(np.exp(-worst).mean()))
        assert np.isfinite(elpd).all()
        assert elpd[2] < -100.0

    def test_a_patient_who_rules_the_fit_is_flagged(self):
        rng = np.random.default_rng(3)
        weights = 1.0 + rng.pareto(0.8, 2000)
        loglik = np.stack([0.1 * rng.standard_normal(2000), -np.log(weights)], axis=1)
        pareto = leave_one_out(loglik).pareto_k
        assert pareto[0] < 0.5
        # its weights exp(-loglik) have no finite mean
        assert pareto[1] > 0.7

    def test_it_predicts_a_patient_that_a_gaussian_fit_did_not_see(self):
        """Leaving a patient out by weights agrees with a fit without that patient."""
        model = GaussianModel()
        h, _ = model.draw(4000, np.random.default_rng(4))
        loglik = np.array([model.marginal_loglik(one) for one in h])
        left = leave_one_out(loglik)
        elpd = left.elpd
        assert (left.pareto_k < 0.7).all()
        for i in (0, 5):
            without = GaussianModel()
            without.tau[i] = 1e6  # measurements that say nothing
            others, _ = without.draw(20000, np.random.default_rng(5))
            seen = np.array([model.marginal_loglik(one)[i] for one in others])
            assert elpd[i] == pytest.approx(np.log(np.exp(seen).mean()), abs=0.1)

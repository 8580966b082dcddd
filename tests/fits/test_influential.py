"""Patients whom weights cannot leave out: against the closed form of a Gaussian model, and a fit without them."""

import numpy as np
import pytest
from scipy.special import logsumexp

from reinfuse.fits import influential
from reinfuse.fits.comparison import good_shape, leave_one_out
from reinfuse.fits.influential import OnePatient, Outcome, blind, match_moments, pulls, without
from reinfuse.fits.problem import several
from reinfuse.fits.proposals import Mixture, coordinates_of, learnt

from .gaussian_model import GRID, LOG_1, LOG_2, GaussianModel
from .test_comparison import TakenApart

ODD, CALM = 1, 2


def odd_model() -> GaussianModel:
    """A patient away from all others, measured well: the population leans towards it."""
    model = GaussianModel(narrow=0.3)
    model.y[ODD] += 2.5
    return model


def evidence(model: GaussianModel) -> float:
    """Log density of all measurements, up to a factor 2 pi for each patient's pair."""
    axes = [model.prior_mean[p] + model.prior_sd[p] * np.linspace(-5.0, 5.0, GRID) for p in (LOG_1, LOG_2)]
    first, second = (a.ravel() for a in np.meshgrid(*axes, indexing="ij"))
    return float(logsumexp(model._given_spreads(first, second)[0]))


@pytest.fixture(scope="module")
def odd():
    model = odd_model()
    h, b = model.draw(4000, np.random.default_rng(1))
    return model, h, b, learnt(model.layout, h, b)


@pytest.fixture(scope="module")
def exact(odd):
    """Log predictive density of the odd patient given the others, in closed form."""
    others = odd_model()
    others.tau[ODD] = 1e6  # two measurements that say nothing, of density 1 / (2 pi tau^2)
    return evidence(odd[0]) - (evidence(others) + np.log(1e12)) - np.log(2.0 * np.pi)


class TestMomentMatching:
    def test_it_reaches_what_weights_alone_do_not(self, odd, exact):
        model, h, b, coordinates = odd
        weights = leave_one_out(np.array([model.marginal_loglik(one) for one in h[:400]]))
        assert weights.pareto_k[ODD] > good_shape(400)
        assert weights.elpd[ODD] > exact + 1.0  # too kind
        found = match_moments(
            model,
            coordinates,
            TakenApart(h, b),
            ODD,
            lambda one: (float(model.marginal_loglik(one)[ODD]), 0.0),
        )
        assert found.how == "moment matching"
        assert found.good
        assert found.elpd == pytest.approx(exact, abs=0.3)

    def test_too_few_draws_are_not_moved(self, odd):
        model, h, b, coordinates = odd
        found = match_moments(model, coordinates, TakenApart(h[:20], b[:20]), ODD, lambda _: (-3.0, 0.0))
        assert not found.good

    def test_a_patient_like_the_others_needs_only_draws(self, odd):
        model, h, b, coordinates = odd
        found = match_moments(
            model,
            coordinates,
            TakenApart(h, b),
            CALM,
            lambda one: (float(model.marginal_loglik(one)[CALM]), 0.0),
        )
        whole = leave_one_out(np.array([model.marginal_loglik(one) for one in h]))
        assert found.how == "more draws"
        assert found.elpd == pytest.approx(whole.elpd[CALM], abs=3.0 * found.mcse)

    def test_the_pull_of_a_log_linear_likelihood_is_its_slope(self):
        rng = np.random.default_rng(3)
        u = rng.standard_normal((2000, 6))
        slope = np.array([0.5, 0.0, 0.0, -0.5, 0.0, 0.0])
        basis = pulls(u, u @ slope)
        np.testing.assert_allclose(np.abs(basis[:, 0] @ slope) / np.linalg.norm(slope), 1.0, atol=1e-3)
        np.testing.assert_allclose(basis.T @ basis, np.eye(2), atol=1e-12)


class TestOutcome:
    @pytest.mark.parametrize(
        ("how", "k", "rhat", "good"),
        [
            ("refit", np.nan, 1.02, True),
            ("refit", np.nan, 1.2, False),
            ("moment matching", 0.5, np.nan, True),
            ("moment matching", 0.8, np.nan, False),
            ("moment matching", np.nan, np.nan, False),
        ],
    )
    def test_what_is_to_be_trusted(self, how, k, rhat, good):
        assert Outcome(-3.0, 0.1, k, how, rhat).good is good


class TestProblems:
    """On a real cohort, posed."""

    def test_copies_of_a_patient_are_that_patient(self, one_infusion):
        problem, posterior = one_infusion.problem, one_infusion.posterior
        h, b = one_infusion.point(np.random.default_rng(4))
        alone = posterior.conditional(h).loglik(b)
        twice = type(posterior)(several(problem, np.array([3, 0, 3])))
        np.testing.assert_allclose(twice.conditional(h).loglik(b[[3, 0, 3]]), alone[[3, 0, 3]], rtol=1e-10)

    def test_a_patient_without_data_says_nothing_and_the_others_all(self, one_infusion):
        problem = one_infusion.problem
        fewer = type(one_infusion.posterior)(without(problem, 2))
        h, b = one_infusion.point(np.random.default_rng(5))
        whole = one_infusion.posterior.conditional(h).loglik(b)
        left = fewer.conditional(h).loglik(b)
        assert left[2] == 0.0
        np.testing.assert_allclose(np.delete(left, 2), np.delete(whole, 2), rtol=1e-10)
        assert problem.n_ob[2] > 0  # the cohort itself is as it was

    def test_the_integral_of_one_patient_is_that_of_all(self, one_infusion, explored):
        n, q = explored.layout.block.shape
        mixture = Mixture.of_sites(n, q)
        one = OnePatient(one_infusion.problem, explored, mixture, 1, np.random.default_rng(6), copies=4096)
        found, variance = one(explored.centre)
        from reinfuse.fits.comparison import integrate

        density = one_infusion.posterior.conditional(explored.centre)
        every, _ = integrate(density, explored, mixture, explored.centre, np.random.default_rng(7), 4096)
        assert found == pytest.approx(every[1], abs=0.3)
        assert variance < 0.1

    def test_blind_coordinates_leave_the_prior(self, explored):
        from reinfuse.fits.proposals import centres

        mean, root = centres(blind(explored, 2), explored.centre)
        sd = np.exp(explored.centre[explored.layout.log_sd])
        np.testing.assert_allclose(mean[2], 0.0)
        np.testing.assert_allclose(np.sqrt(np.diag(root[2] @ root[2].T)), sd, rtol=0.01)
        same, _ = centres(explored, explored.centre)
        np.testing.assert_allclose(np.delete(mean, 2, axis=0), np.delete(same, 2, axis=0))


@pytest.mark.slow
def test_a_refit_samples_without_the_patient_and_agrees_with_the_weights(one_infusion, explored):
    from reinfuse.fits.comparison import integrals
    from reinfuse.fits.results import Draws
    from reinfuse.fits.sampling import Settings, sample

    settings = Settings(draws=200, tune=150, thin=2, chains=2, seed=3)
    sampled = sample(one_infusion.problem, one_infusion.density, explored, settings, cores=1)
    draws = Draws(one_infusion.problem, np.asarray(sampled["x"].transpose("chain", "draw", "coordinate")))
    coordinates = coordinates_of(one_infusion.posterior, draws)
    found = integrals(one_infusion.posterior, coordinates, draws, np.random.default_rng(8))
    left = leave_one_out(found.loglik, found.variance)
    calm = int(np.argmin(left.pareto_k))
    ticks = []
    again = influential.refit(one_infusion.problem, draws, calm, settings=settings, cores=1, tick=ticks.append)
    assert again.how == "refit"
    assert again.rhat < 1.1
    assert sum(ticks) == settings.chains * settings.steps
    assert abs(again.elpd - left.elpd[calm]) < 4.0 * np.hypot(again.mcse, left.mcse[calm]) + 0.1


def test_a_group_of_another_model_is_refused(one_infusion):
    from reinfuse.fits.results import Draws, flat_draws, posterior_draws
    from reinfuse.model.errors import ReinfuseError

    h, b = one_infusion.point(np.random.default_rng(9))
    flat = one_infusion.flat(h, b)[None, None]
    group = posterior_draws(one_infusion.problem, Draws(one_infusion.problem, flat))
    np.testing.assert_allclose(flat_draws(one_infusion.problem, group), flat, atol=1e-10)
    with pytest.raises(ReinfuseError, match="the posterior is of another model: its patients are"):
        flat_draws(one_infusion.problem, group.assign_coords(patient=[f"X{i}" for i in range(group.sizes["patient"])]))

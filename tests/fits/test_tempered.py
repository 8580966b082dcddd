"""Particles reach every mode of a patient's posterior, in proportion to its mass, and say what closed forms say."""

import numpy as np
import pytest
from scipy.special import logsumexp

from reinfuse.fits.calibration.cohorts import Study, draw_cohort, reference_truth
from reinfuse.fits.conditional import Conditional
from reinfuse.fits.geometry import Explorer, Posterior, _search
from reinfuse.fits.tempered import particles

SD = np.array([1.0, 2.0])


class Vectorised(Conditional):
    """Patients whose log-likelihood at one's deviations is a function of these alone."""

    def __init__(self, each, n):
        super().__init__(lambda b: (np.array([each(row[None])[0] for row in b]), np.zeros_like(b)), np.log(SD), n)
        self.each = each

    def logliks(self, b, who):
        return self.each(b)


def gaussian(b):
    """Seen with sd 0.1 at (1, -3) along a line, nearly not at all across it."""
    return -0.5 * ((b[:, 0] + b[:, 1] + 2.0) / 0.1) ** 2


def test_a_narrow_ridge_has_the_moments_of_the_closed_form():
    precision = np.diag(SD**-2) + np.full((2, 2), 100.0)
    covariance = np.linalg.inv(precision)
    mean = covariance @ np.full(2, -200.0)
    found = particles(Vectorised(gaussian, 20), SD, np.random.default_rng(1), count=200).reshape(-1, 2)
    np.testing.assert_allclose(found.mean(axis=0), mean, atol=0.1)
    np.testing.assert_allclose(np.cov(found.T), covariance, rtol=0.1, atol=0.02)


def test_two_narrow_modes_get_the_mass_that_they_have():
    """A search from 0 climbs the nearer, which has a fifth of the mass."""
    centres, log_mass, width = np.array([[0.3, 0.0], [2.0, 3.0]]), np.log([0.2, 0.8]), 0.3

    def each(b):
        distance = ((b[:, None, :] - centres) ** 2).sum(axis=2) / width**2
        prior = -0.5 * ((centres / SD) ** 2).sum(axis=1)
        return logsumexp(-0.5 * distance + log_mass - prior, axis=1)

    found = particles(Vectorised(each, 60), SD, np.random.default_rng(23))
    near = (np.abs(found - centres[0]) < 4.5 * width).all(axis=2)
    far = (np.abs(found - centres[1]) < 4.5 * width).all(axis=2)
    assert (near | far).all()
    assert near.mean() == pytest.approx(0.2, abs=0.05)
    assert (far.mean(axis=0) > 0.5).mean() > 0.9


def test_who_has_no_likelihood_anywhere_keeps_the_prior():
    with np.errstate(all="raise"):
        found = particles(Vectorised(lambda b: np.full(len(b), -np.inf), 3), SD, np.random.default_rng(3), count=2000)
    np.testing.assert_allclose(found.std(axis=(0, 1)), SD, rtol=0.05)


def test_a_likelihood_that_is_nowhere_but_in_a_corner_is_found():
    def each(b):
        return np.where((b > 0.5 * SD).all(axis=1), 0.0, np.nan)

    found = particles(Vectorised(each, 10), SD, np.random.default_rng(4))
    assert (found > 0.5 * SD).all()


def test_exploration_leaves_the_mode_that_the_search_climbed():
    """Cohort 3 of 10 of `make convergence`: the search explains one patient by little tumour, badly."""
    study = Study(patients=10)
    problem = draw_cohort(study, np.random.default_rng([3, 10]), h=reference_truth(study)).problem
    posterior = Posterior(problem)
    h, b = _search(posterior, posterior.prior_mean.copy(), np.zeros((problem.n, posterior.q)))
    sd = np.exp(h[posterior.log_sd])
    density = posterior.conditional(h)
    climbed = density.value(b, density.loglik(b))
    explorer = Explorer(posterior, b, np.tile(np.diag(sd), (problem.n, 1, 1)), np.full(problem.n, 0.3))
    explorer.scatter(h, np.random.default_rng(5))
    found = density.value(explorer.b, density.loglik(explorer.b))
    patient = int(np.argmax(found - climbed))
    assert found[patient] > climbed[patient] + 30.0
    assert explorer.b[patient, problem.random.index("B0")] > b[patient, problem.random.index("B0")] + 3.0
    assert (found > climbed - 20.0).all()  # draws lie below the mode they belong to, by half their number each


def test_nobody_leaves_a_place_that_is_far_better_than_all_particles():
    study = Study(patients=10)
    problem = draw_cohort(study, np.random.default_rng([3, 10]), h=reference_truth(study)).problem
    posterior = Posterior(problem)
    h = posterior.prior_mean.copy()
    at = np.full((problem.n, posterior.q), 0.25)

    class Sharp(Conditional):
        def __init__(self, n, log_sd):
            super().__init__(lambda b: (-1e6 * ((b - at) ** 2).sum(axis=1), np.zeros_like(b)), log_sd, n)

        def logliks(self, b, who):
            return np.full(who.size, -np.inf)

    posterior.conditional = lambda h: Sharp(problem.n, h[posterior.log_sd])  # type: ignore[method-assign]
    explorer = Explorer(posterior, at.copy(), np.tile(np.eye(posterior.q), (problem.n, 1, 1)), np.ones(problem.n))
    explorer.scatter(h, np.random.default_rng(6))
    np.testing.assert_array_equal(explorer.b, at)

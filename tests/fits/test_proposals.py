"""Proposals learnt from draws: sites by regression, mixtures that see what a Gaussian does not."""

import numpy as np
import pytest
from scipy import stats

from reinfuse.fits import proposals
from reinfuse.fits.proposals import Mixture, centres, learnt

from .gaussian_model import GaussianModel


@pytest.fixture(scope="module")
def gaussian():
    model = GaussianModel()
    h, b = model.draw(2000, np.random.default_rng(1))
    return model, h, b, learnt(model.layout, h, b)


def standardised(coordinates, h, b) -> np.ndarray:
    """Deviations in the units of their sites, (draws, n, q)."""
    z = np.empty_like(b)
    for s in range(len(h)):
        mean, root = centres(coordinates, h[s])
        z[s] = np.linalg.solve(root, (b[s] - mean)[..., None])[..., 0]
    return z


class TestSites:
    def test_they_make_the_deviations_of_a_gaussian_model_standard_normal(self, gaussian):
        model, _, _, coordinates = gaussian
        new_h, new_b = model.draw(2000, np.random.default_rng(2))  # not those it was learnt from
        z = standardised(coordinates, new_h, new_b)
        np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=0.2)
        np.testing.assert_allclose(z.std(axis=0), 1.0, atol=0.12)

    def test_they_follow_the_population(self, gaussian):
        """Given the population, nothing of a patient's centre is left to its values."""
        model, h, b, coordinates = gaussian
        z = standardised(coordinates, h, b)
        for place in range(4):  # population values; the spreads act through the prior
            for i in range(model.n):
                for k in range(2):
                    assert abs(np.corrcoef(h[:, place], z[:, i, k])[0, 1]) < 0.12

    def test_there_and_back(self, gaussian):
        model, h, b, coordinates = gaussian
        flat = np.empty(model.layout.size)
        flat[model.layout.hyper], flat[model.layout.block] = h[3], b[3]
        np.testing.assert_allclose(coordinates.expand(coordinates.contract(flat))[0], flat, atol=1e-10)

    def test_one_draw_is_enough_to_be_defined(self):
        model = GaussianModel()
        h, b = model.draw(1, np.random.default_rng(3))
        coordinates = learnt(model.layout, h, b)
        mean, root = centres(coordinates, h[0])
        assert np.isfinite(mean).all()
        assert np.isfinite(root).all()


@pytest.fixture(scope="module")
def two_modes():
    """One patient with two modes, one with a single one, in identity coordinates."""
    model = GaussianModel(n=2)
    rng = np.random.default_rng(4)
    z = rng.standard_normal((1500, 2, 2))
    z[:, 0, 0] = np.where(rng.uniform(size=1500) < 0.3, -4.0, 3.0) + 0.4 * z[:, 0, 0]
    h = np.tile(model.prior_mean, (1500, 1))
    coordinates = model.coordinates(wrong=0.0)
    mean, root = centres(coordinates, h[0])
    return Mixture.learn(coordinates, h, mean + np.einsum("nqr,snr->snq", root, z), rng), z


class TestMixture:
    def test_its_density_integrates_to_one(self, two_modes):
        mixture, _ = two_modes
        axis = np.linspace(-30.0, 30.0, 601)
        x, y = np.meshgrid(axis, axis)
        z = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
        density = np.exp(mixture.log_density(np.tile(z, (1, 2, 1))))
        np.testing.assert_allclose(density.sum(axis=0) * (axis[1] - axis[0]) ** 2, 1.0, atol=0.01)

    def test_it_covers_both_modes(self, two_modes):
        mixture, z = two_modes
        rng = np.random.default_rng(5)
        drawn = np.stack([mixture.draw(rng.uniform(size=(2, mixture.inputs))) for _ in range(4000)])
        assert np.mean(drawn[:, 0, 0] < -0.5) == pytest.approx(0.3, abs=0.04)
        # better than a Gaussian with the moments of the draws
        gauss = stats.multivariate_normal(z[:, 0].mean(axis=0), np.cov(z[:, 0].T))
        assert mixture.log_density(z)[:, 0].mean() > gauss.logpdf(z[:, 0]).mean() + 0.4

    def test_draws_follow_the_density(self, two_modes):
        """Importance weights of a known density have mean one."""
        mixture, _ = two_modes
        rng = np.random.default_rng(6)
        drawn = np.stack([mixture.draw(rng.uniform(size=(2, mixture.inputs))) for _ in range(20000)])
        target = stats.multivariate_normal([0.0, 0.0], 0.5 * np.eye(2))
        weights = np.exp(target.logpdf(drawn[:, 1]) - mixture.log_density(drawn)[:, 1])
        assert weights.mean() == pytest.approx(1.0, abs=0.03)

    def test_few_draws_leave_the_sites(self, gaussian):
        _, h, b, coordinates = gaussian
        few = proposals.FEWEST - 1
        mixture = Mixture.learn(coordinates, h[:few], b[:few], np.random.default_rng(7))
        assert mixture.mean.shape[1] == 2
        assert (mixture.mean == 0).all()

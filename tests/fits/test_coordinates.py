"""The map between sampling coordinates and the statistical model: invertible, differentiated, with its Jacobian."""

import numpy as np
import pytest

from reinfuse.fits.coordinates import Coordinates, Layout, Sites

N, Q, D = 3, 2, 5  # patients, deviations, population values: the last two are log-spreads
SIZE = D + N * Q


def spd(rng: np.random.Generator, size: int) -> np.ndarray:
    root = rng.standard_normal((size, size))
    return root @ root.T + 0.3 * np.eye(size)


@pytest.fixture(scope="module")
def layout() -> Layout:
    # positions are shuffled, so that nothing may rely on the population coming first
    places = np.random.default_rng(0).permutation(SIZE).astype(np.int64)
    return Layout(places[:D], places[D:].reshape(N, Q), np.array([3, 4]))


@pytest.fixture(scope="module")
def coordinates(layout) -> Coordinates:
    rng = np.random.default_rng(1)
    sites = Sites(
        np.stack([spd(rng, Q) for _ in range(N)]),
        rng.standard_normal((N, Q)),
        rng.standard_normal((N, Q, D)),
    )
    return Coordinates(layout, 0.3 * rng.standard_normal(D), np.linalg.cholesky(0.2 * spd(rng, D)), sites)


def some_density(x):
    """Smooth, neither Gaussian nor separable; with its gradient."""
    shifted = np.roll(x, 1)
    value = -0.5 * x @ x - 0.1 * np.sum(x**4) + np.sum(np.sin(x * shifted))
    inner = np.cos(x * shifted)
    return float(value), -x - 0.4 * x**3 + inner * shifted + np.roll(inner * x, -1)


def central(function, at, step=1e-6):
    """Central differences, one row per coordinate of ``at``."""
    rows = []
    for k in range(at.size):
        e = np.zeros(at.size)
        e[k] = step
        rows.append((np.asarray(function(at + e)) - np.asarray(function(at - e))) / (2.0 * step))
    return np.array(rows)


@pytest.mark.parametrize("seed", range(3))
class TestMap:
    def test_contract_is_the_inverse_of_expand(self, coordinates, seed):
        w = np.random.default_rng(seed).standard_normal(SIZE)
        x, _ = coordinates.expand(w)
        np.testing.assert_allclose(coordinates.contract(x), w, rtol=0, atol=1e-10)

    def test_log_jacobian_is_the_determinant_up_to_a_constant(self, coordinates, seed):
        rng = np.random.default_rng(seed)
        found = []
        for w in (rng.standard_normal(SIZE), rng.standard_normal(SIZE)):
            numerical = np.linalg.slogdet(central(lambda at: coordinates.expand(at)[0], w))[1]
            found.append(coordinates.expand(w)[1] - numerical)
        assert found[0] == pytest.approx(found[1], abs=1e-7)
        # the constant is that of the population's own scale
        assert -found[0] == pytest.approx(np.linalg.slogdet(coordinates.scale)[1], abs=1e-7)

    def test_gradient_of_the_density_is_that_of_differences(self, coordinates, seed):
        target = coordinates.density(some_density)
        w = 0.5 * np.random.default_rng(seed).standard_normal(SIZE)
        value, gradient = target(w)
        x, logdet = coordinates.expand(w)
        assert value == pytest.approx(some_density(x)[0] + logdet, abs=1e-12)
        np.testing.assert_allclose(gradient, central(lambda at: target(at)[0], w), rtol=1e-6, atol=1e-6)


class TestSites:
    def test_exact_sites_make_the_patients_standard_normal_whatever_the_population(self, layout, coordinates):
        """Where each patient's likelihood is its site, the target in ``z`` is N(0, I) for every ``u``."""
        sites, centre = coordinates.sites, coordinates.centre

        def model(x):
            h, b = x[layout.hyper], x[layout.block]
            precision = sites.precision + np.diag(np.exp(-2.0 * h[layout.log_sd]))
            linear = sites.linear - sites.cross @ (h - centre)
            value, by_h = 0.0, np.zeros(D)
            gradient = np.zeros(SIZE)
            for i in range(N):
                value += -0.5 * b[i] @ precision[i] @ b[i] + linear[i] @ b[i]
                gradient[layout.block[i]] = -precision[i] @ b[i] + linear[i]
                by_h -= sites.cross[i].T @ b[i]
                by_h[layout.log_sd] += np.exp(-2.0 * h[layout.log_sd]) * b[i] ** 2
            gradient[layout.hyper] = by_h
            return value, gradient

        target = coordinates.density(model)
        rng = np.random.default_rng(5)
        for _ in range(4):
            w = np.concatenate([2.0 * rng.standard_normal(D), rng.standard_normal(N * Q)])
            np.testing.assert_allclose(target(w)[1][D:], -w[D:], atol=1e-9)

    def test_roots_are_the_scale_of_the_deviations(self, layout, coordinates):
        h = coordinates.centre + 0.1
        roots = coordinates.roots(h)
        for i in range(N):
            precision = coordinates.sites.precision[i] + np.diag(np.exp(-2.0 * h[layout.log_sd]))
            np.testing.assert_allclose(roots[i] @ roots[i].T, np.linalg.inv(precision), rtol=1e-10)

"""Fisher information of samples, against closed forms: censored values, linear mixed models, what more samples do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reinfuse.fits.identification import information
from reinfuse.fits.identification.information import (
    LOCATION,
    SCALE,
    Lines,
    Structure,
    censored,
    of_deviations,
    of_population,
    posterior_covariance,
    shrinkage,
)
from reinfuse.model import densities


def scores(limit: float, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes of the log density of values z, censored below a limit, by location and ln sigma at 0 and 1: by steps."""
    step = 1e-5

    def log_density(location: float, log_sigma: float) -> np.ndarray:
        seen = densities.quantified(location, np.exp(log_sigma), z)
        return np.where(z < limit, densities.below(location, np.exp(log_sigma), limit), seen)

    by_location = (log_density(step, 0.0) - log_density(-step, 0.0)) / (2 * step)
    return by_location, (log_density(0.0, step) - log_density(0.0, -step)) / (2 * step)


class TestCensored:
    def test_without_a_limit_it_is_that_of_students_t(self):
        assert np.allclose(censored(np.array([-np.inf, -1e3])), [[LOCATION] * 2, [SCALE] * 2])
        assert (LOCATION, SCALE) == (5 / 7, 8 / 7)

    @pytest.mark.parametrize("limit", [-2.0, -0.5, 0.0, 0.7, 2.5])
    def test_it_is_the_mean_square_of_the_scores_of_the_likelihood(self, limit):
        """By quantiles of the model's own residuals: the censored ones, one value, weigh as much as their share."""
        z = stats.t(4).ppf((np.arange(400_000) + 0.5) / 400_000)
        by_location, by_scale = scores(limit, z)
        location, scale = censored(np.array(limit))
        assert location == pytest.approx(np.mean(by_location**2), rel=2e-3)
        assert scale == pytest.approx(np.mean(by_scale**2), rel=2e-3)

    def test_a_higher_limit_never_tells_more_of_the_location(self):
        location, _ = censored(np.linspace(-50.0, 50.0, 400))
        assert np.all(np.diff(location) <= 1e-9)
        assert location[-1] < 1e-3

    def test_the_tabulated_distribution_is_the_models(self):
        z = np.linspace(-8.0, 8.0, 33)
        assert np.allclose(information.distribution(z), stats.t(4).cdf(z))
        assert np.allclose(information.density(z), stats.t(4).pdf(z))


D, Q = 5, 2  # two means, one slope shared; then ln omega of two deviations: names below
MEAN_1, MEAN_2, COVARIATE, LOG_1, LOG_2, SIGMA = range(6)


def mixed_model(rng: np.random.Generator, n: int, records: int) -> tuple[Lines, Structure, np.ndarray, float]:
    """Patients with own intercept and slope in time, and a covariate on the intercept; residual sd in the vector."""
    time = rng.uniform(0.0, 2.0, (n, records))
    slope = np.stack([np.ones((n, records)), time], axis=2)  # two columns: intercept and slope
    by_hyper, by_deviation = np.zeros((n, 2, 6)), np.zeros((n, 2, Q))
    by_hyper[:, 0, MEAN_1] = by_hyper[:, 1, MEAN_2] = 1.0
    by_hyper[:, 0, COVARIATE] = rng.standard_normal(n)
    by_deviation[:, 0, 0] = by_deviation[:, 1, 1] = 1.0
    sigma = 0.4
    # Gaussian residuals: information 1 / sigma^2 on the location, 2 on ln sigma
    lines = Lines(slope, np.full((n, records), sigma**-2), np.full((n, records), 2.0), np.full((n, records), SIGMA))
    return lines, Structure(by_hyper, by_deviation, np.array([LOG_1, LOG_2])), np.array([0.5, 0.8]), sigma


def closed_form(lines: Lines, structure: Structure, omega: np.ndarray, sigma: float) -> np.ndarray:
    """Information of linear mixed models, patient by patient, from V and its derivatives written out."""
    found = []
    for a, x, z in zip(lines.slope, structure.by_hyper, structure.by_deviation, strict=True):
        h = a @ z
        v = h @ np.diag(omega**2) @ h.T + sigma**2 * np.eye(len(a))
        inverse = np.linalg.inv(v)
        one = (a @ x).T @ inverse @ (a @ x)
        by = {
            LOG_1: 2 * omega[0] ** 2 * np.outer(h[:, 0], h[:, 0]),
            LOG_2: 2 * omega[1] ** 2 * np.outer(h[:, 1], h[:, 1]),
        }
        by[SIGMA] = 2 * sigma**2 * np.eye(len(a))
        for i, first in by.items():
            for j, second in by.items():
                one[i, j] += 0.5 * np.trace(inverse @ first @ inverse @ second)
        found.append(one)
    return np.stack(found)


class TestMixedModels:
    def test_the_information_is_that_of_the_closed_form(self):
        lines, structure, omega, sigma = mixed_model(np.random.default_rng(1), 7, 4)
        assert np.allclose(of_population(lines, structure, omega), closed_form(lines, structure, omega, sigma))

    def test_it_is_minus_the_mean_curvature_of_the_marginal_likelihood(self):
        """Not the formula again: scores of simulated patients, by steps of the marginal normal density."""
        rng = np.random.default_rng(2)
        lines, structure, omega, sigma = mixed_model(rng, 1, 5)
        truth = np.array([0.3, -0.2, 0.1, *np.log(omega), np.log(sigma)])
        a, x, z = lines.slope[0], structure.by_hyper[0], structure.by_deviation[0]

        def log_density(h: np.ndarray, y: np.ndarray) -> np.ndarray:
            own = a @ z
            v = own @ np.diag(np.exp(2 * h[[LOG_1, LOG_2]])) @ own.T + np.exp(2 * h[SIGMA]) * np.eye(len(a))
            return stats.multivariate_normal(a @ x @ h, v).logpdf(y)

        own = a @ z
        v = own @ np.diag(omega**2) @ own.T + sigma**2 * np.eye(len(a))
        y = rng.multivariate_normal(a @ x @ truth, v, size=40_000)
        steps = 1e-4 * np.eye(6)
        score = np.stack([(log_density(truth + e, y) - log_density(truth - e, y)) / 2e-4 for e in steps], axis=1)
        found = of_population(lines, structure, omega)[0]
        error = np.sqrt((np.einsum("si,sj->sij", score, score)).var(axis=0) / len(y))
        assert np.all(np.abs(score.T @ score / len(y) - found) < 5.0 * error + 1e-6)

    def test_the_deviations_posterior_is_the_conjugate_one(self):
        lines, structure, omega, sigma = mixed_model(np.random.default_rng(3), 3, 4)
        for i, found in enumerate(of_deviations(lines, structure, omega)):
            h = lines.slope[i] @ structure.by_deviation[i]
            assert np.allclose(found, np.linalg.inv(np.diag(omega**-2.0) + h.T @ h / sigma**2))

    def test_deviations_of_spread_nought_leave_fixed_effects_alone(self):
        lines, structure, _, sigma = mixed_model(np.random.default_rng(4), 3, 4)
        found = of_population(lines, structure, np.zeros(2))
        x = lines.slope @ structure.by_hyper
        assert np.allclose(found[:, :3, :3], (x.transpose(0, 2, 1) @ x / sigma**2)[:, :3, :3])
        assert np.allclose(found[:, [LOG_1, LOG_2]], 0.0)

    def test_no_records_tell_nothing(self):
        lines, structure, omega, _ = mixed_model(np.random.default_rng(5), 2, 3)
        nothing = Lines(lines.slope, 0.0 * lines.weight, 0.0 * lines.scale, lines.sigma)
        assert np.all(of_population(nothing, structure, omega) == 0.0)
        assert np.allclose(shrinkage(of_deviations(nothing, structure, omega), omega), 1.0)


class TestInvariances:
    @given(seed=st.integers(0, 10_000))
    def test_the_order_of_records_and_patients_changes_nothing(self, seed):
        rng = np.random.default_rng(seed)
        lines, structure, omega, _ = mixed_model(rng, 5, 4)
        order, people = rng.permutation(4), rng.permutation(5)
        moved = Lines(*(part[people][:, order] for part in (lines.slope, lines.weight, lines.scale, lines.sigma)))
        whole = of_population(lines, structure, omega)
        assert np.allclose(of_population(moved, structure.of(people), omega), whole[people])

    @given(seed=st.integers(0, 10_000))
    def test_a_record_more_never_widens_anything(self, seed):
        rng = np.random.default_rng(seed)
        lines, structure, omega, _ = mixed_model(rng, 4, 5)
        prior = np.diag(rng.uniform(0.2, 2.0, 6) ** 2)
        fewer = lines.only(np.array([True, True, True, True, False]))
        more = of_population(lines, structure, omega)
        gained = more - of_population(fewer, structure, omega)
        assert np.linalg.eigvalsh(gained).min() > -1e-9
        wide = posterior_covariance(of_population(fewer, structure, omega).sum(axis=0), prior)
        narrow = posterior_covariance(more.sum(axis=0), prior)
        assert np.linalg.eigvalsh(wide - narrow).min() > -1e-9
        assert np.linalg.eigvalsh(prior - wide).min() > -1e-9

    def test_padding_and_chunks_change_nothing(self, monkeypatch):
        lines, structure, omega, _ = mixed_model(np.random.default_rng(6), 9, 3)
        whole = of_population(lines, structure, omega)
        padded = Lines(
            np.concatenate([lines.slope, np.ones((9, 2, 2))], axis=1),
            np.pad(lines.weight, ((0, 0), (0, 2))),
            np.pad(lines.scale, ((0, 0), (0, 2))),
            np.pad(lines.sigma, ((0, 0), (0, 2)), constant_values=-1),
        )
        monkeypatch.setattr(information, "CHUNK", 2)
        assert np.allclose(of_population(padded, structure, omega), whole)


def test_the_posterior_of_a_gaussian_is_the_conjugate_one():
    rng = np.random.default_rng(7)
    root = rng.standard_normal((4, 4))
    prior, told = root @ root.T + np.eye(4), np.diag([2.0, 0.0, 1.0, 5.0])
    assert np.allclose(posterior_covariance(told, prior), np.linalg.inv(np.linalg.inv(prior) + told))
    assert np.allclose(posterior_covariance(np.zeros((4, 4)), prior), prior)

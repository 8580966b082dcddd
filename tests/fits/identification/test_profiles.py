"""Profile likelihoods of a linear mixed model, where they are parabolas with limits that can be written down."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from reinfuse.fits.coordinates import Layout
from reinfuse.fits.identification.profiles import WIDEST, Marginal, Profiler

D, Q = 4, 2
INTERCEPT, SLOPE, LOG_1, LOG_2 = range(D)
TAU = 0.3


class Linear:
    """Patients with own intercept and slope in time and Gaussian residuals of known sd."""

    def __init__(self, n: int = 12, seed: int = 3, *, sees_slope: bool = True) -> None:
        rng = np.random.default_rng(seed)
        self.log_sd, self.residual = np.array([LOG_1, LOG_2]), np.array([], dtype=np.int64)
        self.prior_mean = np.array([0.5, -0.4, np.log(0.4), np.log(0.6)])
        self.prior_sd = np.array([0.8, 0.7, 0.3, 0.3])
        time = rng.uniform(0.0, 1.5, (n, 4)) if sees_slope else np.zeros((n, 4))
        self.a = np.stack([np.ones_like(time), time], axis=2)
        own = self.prior_mean[:2] + rng.standard_normal((n, Q)) * np.exp(self.prior_mean[self.log_sd])
        self.y = np.einsum("nrq,nq->nr", self.a, own) + TAU * rng.standard_normal((n, 4))

    def patients(self, h, b):
        away = (self.y - np.einsum("nrq,nq->nr", self.a, h[:2] + b)) / TAU
        precision = np.exp(-2.0 * h[self.log_sd])
        value = -0.5 * (away**2).sum(axis=1) - 0.5 * (b * b) @ precision - h[self.log_sd].sum()
        pull = np.einsum("nr,nrq->nq", away / TAU, self.a)
        by_h = np.zeros((len(b), D))
        by_h[:, :2] = pull
        by_h[:, 2:] = b * b * precision - 1.0
        return value, pull - b * precision, by_h

    def covariances(self, h: np.ndarray) -> list[np.ndarray]:
        """Of each patient's measurements, deviations integrated out."""
        spread = np.diag(np.exp(2.0 * h[self.log_sd]))
        return [a @ spread @ a.T + TAU**2 * np.eye(len(a)) for a in self.a]

    def marginal(self, h: np.ndarray) -> tuple[float, np.ndarray]:
        """Exact marginal log-likelihood and its gradient."""
        value, gradient = 0.0, np.zeros(D)
        for a, y, v in zip(self.a, self.y, self.covariances(h), strict=True):
            inverse = np.linalg.inv(v)
            away = y - a @ h[:2]
            value += multivariate_normal(a @ h[:2], v).logpdf(y)
            gradient[:2] += a.T @ inverse @ away
            for k, place in enumerate(self.log_sd):
                by = 2.0 * np.exp(2.0 * h[place]) * np.outer(a[:, k], a[:, k])
                gradient[place] += 0.5 * (away @ inverse @ by @ inverse @ away - np.trace(inverse @ by))
        return float(value), gradient

    def draws(self, rng: np.random.Generator, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
        """Populations around the prior's means, and deviations from their posterior given each."""
        h = self.prior_mean + 0.3 * self.prior_sd * rng.standard_normal((count, D))
        b = np.empty((count, len(self.y), Q))
        for s, one in enumerate(h):
            for i, (a, y) in enumerate(zip(self.a, self.y, strict=True)):
                covariance = np.linalg.inv(np.diag(np.exp(-2.0 * one[self.log_sd])) + a.T @ a / TAU**2)
                mean = covariance @ a.T @ (y - a @ one[:2]) / TAU**2
                b[s, i] = rng.multivariate_normal(mean, covariance)
        return h, b

    def profiler(self, *, penalised: bool = True, loglik=None) -> Profiler:
        return Profiler(
            self.marginal if loglik is None else loglik,
            prior_mean=self.prior_mean,
            prior_sd=self.prior_sd,
            centre=self.prior_mean + 0.1,  # off the best: a search must not depend on where it begins
            covariance=np.diag((0.3 * self.prior_sd) ** 2),
            penalised=penalised,
        )


@pytest.fixture(scope="module")
def pair() -> tuple[Linear, Marginal]:
    """The model, and its likelihood with deviations integrated out by points."""
    model, rng = Linear(), np.random.default_rng(1)
    n = len(model.y)
    lay = Layout(np.arange(D), D + np.arange(n * Q).reshape(n, Q), model.log_sd)
    return model, Marginal(model, lay, *model.draws(rng), rng)


class TestMarginal:
    def test_its_gradient_is_that_of_differences(self, pair):
        model, marginal = pair
        h = model.prior_mean + 0.2
        _, gradient = marginal(h)
        for k, e in enumerate(1e-5 * np.eye(D)):
            assert gradient[k] == pytest.approx((marginal(h + e)[0] - marginal(h - e)[0]) / 2e-5, rel=1e-5, abs=1e-5)

    def test_it_rises_and_falls_as_the_closed_form_does(self, pair):
        """Differences between populations, which is all that a profile takes, to a few per cent of a unit."""
        model, marginal = pair
        rng = np.random.default_rng(2)
        for _ in range(10):
            one, other = model.prior_mean + 0.4 * model.prior_sd * rng.standard_normal((2, D))
            wanted = model.marginal(one)[0] - model.marginal(other)[0]
            assert marginal(one)[0] - marginal(other)[0] == pytest.approx(wanted, abs=0.15 + 0.02 * abs(wanted))

    def test_the_error_of_a_profile_is_that_of_its_integrals(self, pair):
        """None where both ways are the same; and as large as another set of points says."""
        model, marginal = pair
        rng = np.random.default_rng(3)
        lay = Layout(np.arange(D), D + np.arange(len(model.y) * Q).reshape(-1, Q), model.log_sd)
        few = Marginal(model, lay, *model.draws(rng), rng, 4)
        errors = []
        for again in (marginal, few):
            profiler = model.profiler(loglik=marginal)
            profiler.independent = again
            errors.append(profiler.profile("x", SLOPE).error)
        assert "not to be read" in replace(profiler.profile("x", SLOPE), error=1.5).words
        assert errors[0] == 0.0
        assert 0.001 < errors[1] < 3.0
        assert np.isnan(model.profiler().profile("x", SLOPE).error)

    def test_a_profile_by_it_has_the_limits_of_the_exact_one(self, pair):
        model, marginal = pair
        exact, found = (model.profiler(loglik=f).profile("x", SLOPE) for f in (None, marginal))
        sd = (exact.high - exact.low) / 4.0
        assert (found.low, found.best, found.high) == pytest.approx((exact.low, exact.best, exact.high), abs=0.15 * sd)


@pytest.mark.parametrize("penalised", [True, False])
@pytest.mark.parametrize("place", [INTERCEPT, SLOPE])
def test_given_the_spreads_it_is_a_parabola_with_limits_that_can_be_written_down(place, penalised):
    """The profiled value's own prior does not count, the other's where asked for."""
    model = Linear()
    h = model.prior_mean.copy()
    h[[LOG_1, LOG_2]] += 0.1

    def held(x: np.ndarray) -> tuple[float, np.ndarray]:
        at = x.copy()
        at[[LOG_1, LOG_2]] = h[[LOG_1, LOG_2]]
        value, gradient = model.marginal(at)
        gradient[[LOG_1, LOG_2]] = 0.0
        return value, gradient

    curvature = np.diag(np.where(penalised & (np.arange(2) != place), model.prior_sd[:2] ** -2.0, 0.0))
    linear = curvature @ model.prior_mean[:2]
    for a, y, v in zip(model.a, model.y, model.covariances(h), strict=True):
        curvature = curvature + a.T @ np.linalg.inv(v) @ a
        linear = linear + a.T @ np.linalg.inv(v) @ y
    best, sd = np.linalg.solve(curvature, linear)[place], np.sqrt(np.linalg.inv(curvature)[place, place])
    found = model.profiler(penalised=penalised, loglik=held).profile("x", place)
    assert found.best == pytest.approx(best, abs=0.01 * sd)
    assert found.drop == pytest.approx(((found.value - best) / sd) ** 2, abs=0.02)
    width = norm.ppf(0.975) * sd
    assert (found.low, found.high) == pytest.approx((best - width, best + width), abs=0.03 * sd)
    assert found.words == "limited on both sides"


def test_where_it_bends_sharply_the_best_is_a_point_and_nothing_lies_above_it():
    """A parabola through three points would promise more there than the likelihood has."""

    def bent(h: np.ndarray) -> tuple[float, np.ndarray]:
        beyond = max(h[0] - 0.5, 0.0)
        value = 0.1 * h[0] - 40.0 * beyond**2 - 0.5 * h[1] ** 2
        return value, np.array([0.1 - 80.0 * beyond, -h[1]])

    wide = {"prior_mean": np.zeros(2), "prior_sd": np.ones(2), "centre": np.zeros(2), "covariance": np.eye(2)}
    found = Profiler(bent, **wide).profile("x", 0)
    assert found.drop.min() == 0.0
    assert found.best == found.value[np.argmin(found.drop)]
    assert 2.0 * (bent(np.array([0.5, 0.0]))[0] - bent(np.array([found.best, 0.0]))[0]) < 0.2


def test_spreads_have_profiles_too():
    """Highest where the gradient by the spread vanishes with everything else at its best."""
    model = Linear(n=40)
    found = model.profiler().profile("omega", LOG_1)
    assert np.isfinite([found.low, found.high]).all()
    assert np.exp(found.low) < np.exp(model.prior_mean[LOG_1]) < np.exp(found.high)


def test_what_the_data_do_not_see_is_open_on_both_sides():
    model = Linear(sees_slope=False)
    found = model.profiler().profile("slope", SLOPE)
    assert (found.low, found.high) == (-np.inf, np.inf)
    assert "open on both sides" in found.words
    assert np.ptp(found.value) == pytest.approx(2.0 * WIDEST * model.prior_sd[SLOPE], rel=1e-6)
    assert found.drop.max() < 0.01


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_what_the_data_limit_on_one_side_is_open_on_the_other(side):
    """A plateau and a cliff, as of a growth rate of patients who have not relapsed."""
    model = Linear(sees_slope=False)

    def cliff(h: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = model.marginal(h)
        away = max(side * (h[SLOPE] - model.prior_mean[SLOPE]), 0.0)
        gradient[SLOPE] -= side * 40.0 * away
        return value - 20.0 * away**2, gradient

    found = model.profiler(loglik=cliff).profile("slope", SLOPE)
    assert np.isfinite([found.low, found.high]).tolist() == [side < 0, side > 0]
    assert found.words.startswith("open below" if side > 0 else "open above")
    limit = found.high if side > 0 else found.low
    assert side * (limit - model.prior_mean[SLOPE]) == pytest.approx(np.sqrt(found.threshold / 40.0), rel=0.05)

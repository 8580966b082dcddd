"""The posterior of a new patient: against brute force, against the truth, and against itself."""

import dataclasses

import numpy as np
import pytest
from scipy.special import logsumexp, ndtri
from scipy.stats import chi2, kstest

from reinfuse.fits.forecasting import posterior as sampler
from reinfuse.fits.forecasting.posterior import PatientPosterior, at_populations, posterior_of

from .patients import drawn, patient, populations, simulated, without_data

PATIENTS = 20  # simulated


@pytest.fixture(scope="module")
def few(one_infusion):
    """A patient with assays of the first ten days, and the draws of a run."""
    rng = np.random.default_rng(5)
    h = populations(one_infusion, 250, rng)
    sd = np.exp(h[0][one_infusion.posterior.log_sd])
    problem = simulated(one_infusion, 1, h[0], 0.5 * sd * rng.standard_normal(sd.size), rng, until=10.0)
    return problem, drawn(one_infusion, h), h


@pytest.fixture(scope="module")
def found(few):
    return posterior_of(patient(few[0]), few[1], np.random.default_rng(6))


@pytest.fixture(scope="module")
def brute(few):
    problem, _, h = few
    rng, count = np.random.default_rng(7), 2000
    some = h[::20]
    weights, draws = [], []
    for _ in range(3):
        score = rng.standard_normal((count, len(some), at_populations(problem, some).precision.size))
        density = at_populations(problem, np.repeat(some[None], count, axis=0).reshape(-1, h.shape[1]))
        weights.append(density.loglik(score.reshape(-1, score.shape[-1])).reshape(count, -1))
        draws.append(score)
    return np.concatenate(weights), np.concatenate(draws)


@pytest.fixture(scope="module")
def cases(one_infusion):
    rng = np.random.default_rng(11)
    h = populations(one_infusion, 80, rng)
    draws, log_sd = drawn(one_infusion, h), one_infusion.posterior.log_sd
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "TAUGHT_BY", 80)
        patch.setattr(sampler, "FURTHER", 2)
        out = []
        for k in range(PATIENTS):
            truth = populations(one_infusion, 1, rng)[0]
            b = np.exp(truth[log_sd]) * rng.standard_normal(log_sd.size)
            problem = simulated(one_infusion, k % one_infusion.problem.n, truth, b, rng, until=30.0)
            found = posterior_of(patient(problem), draws, rng)
            out.append((found, b / np.exp(truth[log_sd]), found.deviation / np.exp(h[:, log_sd])))
    return out


class TestNoData:
    def test_a_patient_of_whom_nothing_is_known_is_anybody(self, one_infusion):
        h = populations(one_infusion, 400, np.random.default_rng(1))
        found = posterior_of(patient(without_data(one_infusion)), drawn(one_infusion, h), np.random.default_rng(2))
        assert found.effective > 0.97 * len(h), "the population is as it was"
        score = found.deviation / np.exp(h[:, one_infusion.posterior.log_sd])
        places = found.equal(400, np.random.default_rng(3))
        for k in range(score.shape[1]):
            assert kstest(score[places, k], "norm").pvalue > 1e-3


class TestBruteForce:
    """Importance sampling from the prior, with six thousand draws a population: slow and simple."""

    def test_weights_are_the_integrated_likelihood(self, few, found, brute):
        exact = logsumexp(brute[0], axis=0) - np.log(len(brute[0]))
        ours = np.log(found.weight[::20])
        difference = (ours - ours.mean()) - (exact - exact.mean())
        assert np.std(exact) > 0.3, "or there would be nothing to compare"
        assert np.std(difference) < 0.15

    def test_deviations_are_those_of_the_posterior(self, few, found, brute, one_infusion):
        log_weights, score = brute
        share = np.exp(log_weights - logsumexp(log_weights))
        exact = np.einsum("ks,ksq->q", share, score)
        spread = np.sqrt(np.einsum("ks,ksq->q", share, score**2) - exact**2)
        ours = found.deviation / np.exp(few[2][:, one_infusion.posterior.log_sd])
        mean = found.weight @ ours
        sd = np.sqrt(found.weight @ ours**2 - mean**2)
        error = spread / np.sqrt(found.effective)
        # the brute force has few of the populations: its own error is added
        assert (np.abs(mean - exact) < 4.0 * np.hypot(error, spread / np.sqrt(13))).all()
        assert spread.min() < 0.7, "the data say something"
        np.testing.assert_allclose(sd, spread, rtol=0.3)


class TestSimulatedPatients:
    """Truths drawn from what the run believes: their ranks among the draws are uniform, and would not be otherwise."""

    @staticmethod
    def statistic(cases, width=1.0):
        """Sum of squared normal scores of the ranks, and how many; ``width`` widens the posteriors."""
        total, count, rng = 0.0, 0, np.random.default_rng(12)
        for found, truth, draws in cases:
            centre = found.weight @ draws
            below = (found.weight[:, None] * (centre + width * (draws - centre) < truth)).sum(axis=0)
            # among n draws, a truth like them has n + 1 places, all as likely
            rank = (found.effective * below + rng.uniform(size=below.size)) / (found.effective + 1.0)
            total += float((ndtri(rank) ** 2).sum())
            count += truth.size
        return total, count

    def test_ranks_of_the_truth_are_uniform(self, cases):
        total, count = self.statistic(cases)
        low, high = chi2.ppf([1e-3, 1 - 1e-3], count)
        assert low < total < high

    @pytest.mark.parametrize("width", [0.6, 1.7])
    def test_those_among_draws_too_narrow_or_too_wide_are_not(self, cases, width):
        total, count = self.statistic(cases, width)
        low, high = chi2.ppf([1e-3, 1 - 1e-3], count)
        assert not low < total < high

    def test_integrals_are_known(self, cases):
        assert np.median([found.error for found, _, _ in cases]) < 0.25


class TestSeen:
    """A patient whom the run has seen: its data count once."""

    def test_with_the_same_rows_nothing_is_left_to_weigh(self, few):
        problem, draws, _ = few
        again = posterior_of(patient(problem, known=problem, alike=True), draws, np.random.default_rng(6))
        np.testing.assert_allclose(again.weight, 1.0 / len(again.weight))
        assert np.isnan(again.pareto_k)

    def test_without_its_rows_the_population_forgets_it(self, few, found, one_infusion):
        """Tilted by the data and then freed of them, the draws are what they were."""
        problem, _, h = few
        places = found.equal(250, np.random.default_rng(8))
        tilted = drawn(one_infusion, h[places])
        blank = dataclasses.replace(problem, n_ob=np.zeros(1, dtype=np.int64))
        freed = posterior_of(patient(blank, known=problem), tilted, np.random.default_rng(9))
        label = int(np.argmax(np.abs(found.weight @ h - h.mean(axis=0)) / h.std(axis=0)))
        sd = h[:, label].std()
        moved, back = (h[places].mean(axis=0), freed.weight @ freed.hyper)
        assert abs(moved[label] - h[:, label].mean()) > 0.1 * sd, "the data had moved it"
        assert abs(back[label] - h[:, label].mean()) < 0.5 * abs(moved[label] - h[:, label].mean())


class TestReproducible:
    def test_seed_and_cores(self, few):
        problem, draws, _ = few
        one, two, other = (
            posterior_of(patient(problem), draws, np.random.default_rng(seed), populations=60, cores=cores)
            for seed, cores in ((1, 1), (1, 2), (2, 1))
        )
        for name in ("deviation", "log_weight", "hyper", "place"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
        assert not np.array_equal(one.deviation, other.deviation)


class TestDoubts:
    def made(self, few, log_weight, pareto_k=0.2):
        size = log_weight.size
        return PatientPosterior(
            patient=patient(few[0]),
            hyper=np.zeros((size, few[2].shape[1])),
            place=np.arange(size),
            deviation=np.zeros((size, 3)),
            log_weight=log_weight - logsumexp(log_weight),
            pareto_k=pareto_k,
            error=0.1,
        )

    def test_many_even_draws_are_trusted(self, few):
        assert self.made(few, np.zeros(500)).doubts == []

    def test_few_effective_draws_are_not(self, few):
        log_weight = np.zeros(500)
        log_weight[0] = 5.0
        found = self.made(few, log_weight)
        assert found.effective < 20
        assert f"{found.effective:.0f} effective draws of 500, fewer than 400" in found.doubts[0]

    def test_a_heavy_tail_is_not(self, few):
        assert "Pareto k 0.90" in self.made(few, np.zeros(500), pareto_k=0.9).doubts[0]

    def test_equal_draws_follow_the_weights(self, few):
        log_weight = np.log(np.arange(1.0, 11.0))
        places = self.made(few, log_weight).equal(5500, np.random.default_rng(0))
        np.testing.assert_allclose(np.bincount(places, minlength=10), 100 * np.arange(1, 11), atol=1)

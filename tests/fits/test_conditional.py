"""Patients given the population: compiled code against its readable twin."""

from dataclasses import replace

import numpy as np

from reinfuse.fits.conditional import Conditional
from reinfuse.fits.geometry import Posterior
from reinfuse.model.simulate import Status

LEAPFROGS = 4


def start(case, seed):
    rng = np.random.default_rng(seed)
    h, b = case.point(rng)
    momentum = rng.standard_normal(b.shape)
    root = np.tile(0.1 * np.eye(b.shape[1]), (len(b), 1, 1)) + 0.01 * rng.standard_normal((len(b), *2 * b.shape[1:]))
    return h, b, momentum, rng.uniform(0.05, 0.2, len(b)), root


class TestTrajectory:
    def test_it_is_that_of_the_twin(self, either):
        h, b, momentum, step, root = start(either, 1)
        compiled = either.posterior.conditional(h)
        twin = Conditional(compiled.likelihood, h[either.posterior.log_sd], len(b))
        _, slope = compiled.likelihood(b)
        ours = compiled.trajectory(b, slope, momentum, step, root, LEAPFROGS)
        wanted = twin.trajectory(b, slope, momentum, step, root, LEAPFROGS)
        for found, value in zip(ours, wanted, strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-6, atol=1e-6)
        assert (ours[0] != b).all()

    def test_who_runs_away_has_no_likelihood_and_the_others_are_as_they_were(self, either):
        """One patient starts so fast that it is far beyond anything after a step, and is solved no more."""
        h, b, momentum, step, root = start(either, 1)
        compiled = either.posterior.conditional(h)
        twin = Conditional(compiled.likelihood, h[either.posterior.log_sd], len(b))
        _, slope = compiled.likelihood(b)
        calm = compiled.trajectory(b, slope, momentum, step, root, LEAPFROGS)
        wild = momentum.copy()
        wild[1] = 1e6
        for density in (compiled, twin):
            _, _, loglik, _ = density.trajectory(b, slope, wild, step, root, LEAPFROGS)
            assert loglik[1] == -np.inf
            others = np.arange(len(b)) != 1
            np.testing.assert_allclose(loglik[others], calm[2][others], rtol=1e-6)

    def test_it_leaves_its_arguments_alone(self, either):
        h, b, momentum, step, root = start(either, 2)
        compiled = either.posterior.conditional(h)
        _, slope = compiled.likelihood(b)
        before = [x.copy() for x in (b, slope, momentum, step, root)]
        compiled.trajectory(b, slope, momentum, step, root, LEAPFROGS)
        for now, then in zip((b, slope, momentum, step, root), before, strict=True):
            np.testing.assert_array_equal(now, then)

    def test_backwards_it_returns(self, either):
        h, b, momentum, step, root = start(either, 3)
        compiled = either.posterior.conditional(h)
        _, slope = compiled.likelihood(b)
        there, p, _, slope_there = compiled.trajectory(b, slope, momentum, 0.2 * step, root, LEAPFROGS)
        back, p, _, _ = compiled.trajectory(there, slope_there, -p, 0.2 * step, root, LEAPFROGS)
        np.testing.assert_allclose(back, b, atol=1e-6)
        np.testing.assert_allclose(-p, momentum, atol=1e-5)


class TestLikelihood:
    def test_alone_it_is_the_same_without_its_slope(self, either):
        h, b, *_ = start(either, 4)
        compiled = either.posterior.conditional(h)
        np.testing.assert_array_equal(compiled.loglik(b), compiled.likelihood(b)[0])

    def test_only_the_patients_asked_for_are_counted(self, either):
        h, b, *_ = start(either, 5)
        before = either.posterior.outcomes.copy()
        loglik = either.posterior.conditional(h, np.array([3, 0], dtype=np.int64)).loglik(b)
        counted = either.posterior.outcomes - before
        assert counted.sum() == counted[Status.SOLVED] == 2
        assert (np.flatnonzero(loglik) == [0, 3]).all()

    def test_an_absurd_patient_has_none_and_the_others_do_not_mind(self, either):
        h, b, *_ = start(either, 6)
        compiled = either.posterior.conditional(h)
        wanted = compiled.loglik(b)
        b[2] = 200.0
        loglik, slope = compiled.likelihood(b)
        assert loglik[2] == -np.inf
        others = np.arange(len(b)) != 2
        np.testing.assert_allclose(loglik[others], wanted[others], rtol=1e-6)
        assert np.isfinite(slope[others]).all()

    def test_of_some_patients_at_many_deviations_at_once(self, either):
        h, b, *_ = start(either, 7)
        compiled = either.posterior.conditional(h)
        twin = Conditional(compiled.likelihood, h[either.posterior.log_sd], len(b))
        who = np.array([2, 2, 0, 4, 2])
        at = b[who] + 0.1 * np.random.default_rng(8).standard_normal((5, b.shape[1]))
        np.testing.assert_allclose(compiled.logliks(at, who), twin.logliks(at, who), rtol=1e-5, atol=1e-5)

    def test_who_runs_out_of_steps_near_an_event_does_not_write_beyond_the_tape(self, two_infusions):
        """It may take one more to the event, and so may the next in its lane: the process died of it."""
        rng = np.random.default_rng(9)
        for steps in range(3, 40):
            posterior = Posterior(replace(two_infusions.problem, max_steps=steps))
            who = np.tile(np.arange(two_infusions.problem.n), 8)
            h, _ = two_infusions.point(rng)
            b = 0.5 * rng.standard_normal((who.size, posterior.q))
            posterior.conditional(h).logliks(b, who)
            assert posterior.outcomes[[Status.STEP_LIMIT, Status.IMPLICIT]].sum() > 0 or steps > 20

"""Trajectories of everything at once: compiled code against its readable twin, and the twin against the density."""

import numpy as np
import pytest

from reinfuse.fits.joint import LIGHT, Joint

COUNT = 3


def moving(case, seed):
    """A compiled move with some patients slower, where it starts, and a momentum."""
    rng = np.random.default_rng(seed)
    joint = case.posterior.joint(case.coordinates)
    joint.weigh(LIGHT * rng.uniform(0.3, 1.2, joint.speed.size))
    h, b = case.point(rng)
    w = case.coordinates.joined(h, b)
    return joint, w, rng.standard_normal(w.size)


def twin_of(joint):
    twin = Joint(joint.posterior, joint.coordinates)
    twin.speed = joint.speed
    return twin


class TestTrajectory:
    def test_it_is_that_of_the_twin(self, either):
        joint, w, momentum = moving(either, 1)
        ours, wanted = (one.trajectory(w, momentum, 0.02, COUNT) for one in (joint, twin_of(joint)))
        for found, value in zip(ours, wanted, strict=True):
            np.testing.assert_allclose(found.w, value.w, rtol=1e-7, atol=1e-7)
            np.testing.assert_allclose(found.loglik, value.loglik, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(found.slope, value.slope, rtol=1e-4, atol=1e-4)
            assert found.error == pytest.approx(value.error, abs=1e-5)
        assert (ours[1].w != w).all()

    def test_it_leaves_its_arguments_alone(self, either):
        joint, w, momentum = moving(either, 2)
        before = w.copy(), momentum.copy()
        joint.trajectory(w, momentum, 0.02, COUNT)
        np.testing.assert_array_equal(w, before[0])
        np.testing.assert_array_equal(momentum, before[1])

    def test_ends_know_their_likelihood(self, either):
        joint, w, momentum = moving(either, 3)
        for end in joint.trajectory(w, momentum, 0.02, COUNT):
            h, b = either.coordinates.parted(end.w)
            loglik, slope, _ = either.posterior.likelihood(h, b)
            np.testing.assert_allclose(end.loglik, loglik, rtol=1e-5, atol=1e-4)
            np.testing.assert_allclose(end.slope, slope, rtol=1e-3, atol=1e-3)

    def test_short_steps_keep_the_energy(self, either):
        """The error of a trajectory of a given length falls with the square of the step."""
        joint, w, momentum = moving(either, 4)
        coarse, fine = (abs(joint.trajectory(w, momentum, 0.04 / k, 2 * k)[1].error) for k in (1, 4))
        assert fine < coarse / 6.0 or fine < 1e-3

    def test_who_runs_away_is_told_by_the_energy(self, either):
        joint, w, momentum = moving(either, 5)
        assert joint.trajectory(w, 1e3 * momentum, 5.0, COUNT)[1].error == np.inf


class TestForce:
    def test_it_is_the_density_of_the_whole(self, either):
        """Value (but for a constant) and gradient are those of the PyMC model in the same coordinates."""
        joint, w, momentum = moving(either, 6)
        twin, target = twin_of(joint), either.coordinates.density(either.density)
        values = []
        for at in (w, w + 0.1 * momentum):
            ours, force, *_ = twin._force(at)
            value, gradient = target(at)
            np.testing.assert_allclose(force, gradient, rtol=1e-4, atol=1e-3)
            values.append(ours - value)
        assert values[0] == pytest.approx(values[1], abs=1e-3)


class TestSpeed:
    def test_who_takes_short_steps_is_slow(self, either):
        joint = either.posterior.joint(either.coordinates)
        assert (joint.speed == 1.0).all()
        steps = np.full(joint.speed.size, 2 * LIGHT)
        steps[[1, 3]] = 0.5 * LIGHT
        joint.weigh(steps)
        np.testing.assert_allclose(joint.speed, np.where(steps < LIGHT, 0.5, 1.0))

"""The block sampler: every move leaves a known posterior as it is, and a chain finds it."""

import numpy as np
import pytest
from scipy import stats

from reinfuse.fits import blocks
from reinfuse.fits.archive import Archive
from reinfuse.fits.blocks import LONG_LEAPFROGS, PATIENT_LONGEST, DualAveraging, Sampler, regressions
from reinfuse.fits.chain import joint_steps
from reinfuse.fits.conditional import Conditional
from reinfuse.fits.joint import Joint
from reinfuse.model.kernels.lanes import WIDTH

from .gaussian_model import EFFECT, LOG_1, LOG_2, P1, P2, S1, S2, D, GaussianModel, Q

REPLICATES = 4000
LARGEST_Z = 4.5  # of some seventy statistics, with fixed seeds


@pytest.fixture(scope="module")
def model() -> GaussianModel:
    return GaussianModel()


def sampler_of(model: GaussianModel, seed: int, step: float = 0.5) -> Sampler:
    rng = np.random.default_rng(seed)
    (h,), (b,) = model.draw(1, rng)
    return Sampler(
        model,
        model.joint(model.coordinates()),
        rng,
        h,
        b,
        DualAveraging(np.full(model.n, step), PATIENT_LONGEST),
        joint_steps(0.7),
    )


class TestStandIn:
    """The model that the tests below compare with is itself right."""

    def test_its_gradient_is_that_of_differences(self, model):
        x = np.random.default_rng(0).standard_normal(model.layout.size)
        _, gradient = model.log_density(x)
        for k in range(x.size):
            e = np.zeros(x.size)
            e[k] = 1e-6
            slope = (model.log_density(x + e)[0] - model.log_density(x - e)[0]) / 2e-6
            assert gradient[k] == pytest.approx(slope, rel=1e-5, abs=1e-5)

    def test_its_draws_have_no_expected_score(self, model):
        """Under the posterior every component of the score has mean 0."""
        h, b = model.draw(4000, np.random.default_rng(1))
        scores = np.array([model.log_density(np.concatenate([a, c.ravel()]))[1] for a, c in zip(h, b, strict=True)])
        z = scores.mean(axis=0) / (scores.std(axis=0) / np.sqrt(len(scores)))
        assert np.abs(z).max() < LARGEST_Z


def statistics(h: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What a move may not change on average: values, squares and products, (draws, statistics)."""
    spread = h[:, [LOG_1, LOG_2]]
    columns = [h, h**2, h[:, [S1]] * h[:, [P1, P2, EFFECT]], h[:, [S2]] * spread]
    columns += [b[:, :, k] for k in range(Q)] + [b[:, :, k] ** 2 for k in range(Q)]
    columns += [(b * spread[:, None, :]).sum(axis=1), (b**2).sum(axis=1) * spread, b.sum(axis=1) * h[:, [P1, P2]]]
    columns += [b[:, :, 0] * b[:, :, 1], b[:, :, 0] * h[:, [S1]]]
    return np.concatenate(columns, axis=1)


def slower(sampler: Sampler) -> float:
    """With some patients heavier."""
    sampler.joint.speed = np.linspace(0.3, 1.0, len(sampler.b))
    return sampler.move_jointly(False)[0]


def far(sampler: Sampler) -> float:
    """Long trajectories of every third patient, whose steps are short."""
    sampler.steps.step[:] = 3.0
    sampler.steps.step[::3] = 1.9
    return float(sampler.long_trajectories()[0][sampler.slow].mean())


def trying_again(sampler: Sampler) -> float:
    """With steps so long that many a trajectory is rejected."""
    sampler.steps.step[:] = 1.6
    return float(sampler.patients(False, finer=10)[0].mean())


MOVES = {
    "patients": lambda s: float(s.patients(False)[0].mean()),
    "patients, trying again": trying_again,
    "long trajectories": far,
    "jumps": lambda s: s.jumps(False),
    "spread": lambda s: s.spread(),
    "joint": lambda s: s.move_jointly(False)[0],
    "joint, some slower": slower,
}


@pytest.mark.parametrize("move", MOVES)
def test_a_move_leaves_the_posterior_as_it_is(model, move):
    """Start in exact draws, move once: means, squares and products stay, within Monte Carlo error."""
    sampler = sampler_of(model, seed=2, step=0.7)
    rng = np.random.default_rng(3)
    sampler.archive = Archive(
        np.array([sampler.coordinates.standardised(*s) for s in zip(*model.draw(40, rng), strict=True)])
    )
    sampler.copies[::2] = 2
    h, b = model.draw(REPLICATES, rng)
    after_h, after_b, chances = h.copy(), b.copy(), []
    for r in range(REPLICATES):
        sampler.place(h[r].copy(), b[r].copy())
        chances.append(MOVES[move](sampler))
        after_h[r], after_b[r] = sampler.h, sampler.b
    change = statistics(after_h, after_b) - statistics(h, b)
    moved = change.std(axis=0) > 0
    z = change[:, moved].mean(axis=0) / (change[:, moved].std(axis=0) / np.sqrt(REPLICATES))
    assert np.abs(z).max() < LARGEST_Z
    # it does move, and it does reject: the test would be blind otherwise
    assert moved.sum() >= 10
    if chances[0] is not None:
        assert 0.3 < np.mean(chances) < 0.999


def test_a_sweep_counts_what_it_did(model, monkeypatch):
    """Trajectories and leapfrog steps but for second tries, for the share that diverged is one of them."""
    monkeypatch.setattr(blocks, "FINER_LEAPFROGS", 0)
    sampler = sampler_of(model, seed=4)
    sampler.steps.step[[0, 2]] *= 0.5
    steps = []
    for owner, everyone in ((Joint, 1), (Conditional, model.n)):
        real = owner.trajectory

        def counting(*arguments, real=real, everyone=everyone):
            long = arguments[-1] == LONG_LEAPFROGS
            steps.append((sampler.slow.size if long else everyone, arguments[-1]))
            return real(*arguments)

        monkeypatch.setattr(owner, "trajectory", counting)
    said = sampler.sweep(tune=False)
    assert said["trajectories"] == sum(patients for patients, _ in steps)
    assert said["n_steps"] == sum(count for _, count in steps)


class TestSlow:
    """Who takes long trajectories."""

    SHORT = np.arange(3 * WIDTH) < WIDTH

    @pytest.fixture
    def sampler(self, model):
        """Of three times as many patients as lanes; the first have short steps, the shorter the earlier."""
        sampler = sampler_of(model, seed=6)
        sampler.steps.step = np.where(self.SHORT, 0.1 + 0.01 * np.arange(3 * WIDTH), 0.5)
        sampler.copies = np.full(3 * WIDTH, 2)
        return sampler

    def test_nobody_where_all_steps_are_alike(self, sampler):
        sampler.steps.step[:] = 0.5
        assert not sampler.slow.size
        assert sampler.long_trajectories()[1] == 0

    def test_those_with_the_shortest_steps(self, sampler):
        sampler.steps.step[2 * WIDTH :] = 0.39  # short too, but less so
        np.testing.assert_array_equal(sampler.slow, np.flatnonzero(self.SHORT))
        sampler.steps.step[2:] = 0.5
        np.testing.assert_array_equal(sampler.slow, [0, 1])

    def test_a_quarter_is_for_who_rarely_jumps(self, sampler):
        sampler.copies[[3, WIDTH + 1, 2 * WIDTH, 2 * WIDTH + 1]] = 9, 7, 6, 8
        np.testing.assert_array_equal(sampler.slow, [0, 1, 2, 3, 4, 5, WIDTH + 1, 2 * WIDTH + 1])

    def test_they_are_moved(self, sampler, monkeypatch):
        moved = []
        sampler.b = np.zeros((3 * WIDTH, sampler.b.shape[1]))
        monkeypatch.setattr(sampler, "_move_patients", lambda who, *_: moved.append(who) or (np.zeros(3 * WIDTH), 0))
        sampler.long_trajectories()
        np.testing.assert_array_equal(moved[0], sampler.slow)

    def test_more_of_them_in_large_cohorts(self, sampler):
        sampler.steps.step = np.linspace(0.1, 0.5, 300)
        sampler.copies = np.full(300, 2)
        assert sampler.slow.size == 6 * WIDTH


def test_spread_leaves_every_patients_own_values(model):
    sampler = sampler_of(model, seed=5)

    def own():
        return model.location(sampler.h, sampler.b)

    before, h = own(), sampler.h.copy()
    sampler.spread()
    np.testing.assert_allclose(own(), before, atol=1e-12)
    changed = sampler.h != h
    assert changed[[P1, P2, LOG_1, LOG_2, EFFECT]].all()
    assert not changed[[S1, S2]].any()


def test_spread_of_a_real_problem_leaves_the_likelihood(one_infusion):
    """With one infusion each, product effects on an infusion's multiplier go with the patients' own values."""
    posterior = one_infusion.posterior
    rng = np.random.default_rng(6)
    h, b = one_infusion.point(rng)
    steps = DualAveraging(np.full(posterior.problem.n, 0.2), PATIENT_LONGEST)
    sampler = Sampler(posterior, posterior.joint(one_infusion.coordinates), rng, h, b, steps, joint_steps(0.1))

    def loglik() -> np.ndarray:
        return posterior.conditional(sampler.h).loglik(sampler.b)

    before, start = loglik(), sampler.h.copy()
    sampler.spread()
    np.testing.assert_allclose(loglik(), before, rtol=1e-6, atol=1e-6)
    effects = sampler.h[posterior.d + posterior.spreads :] != start[posterior.d + posterior.spreads :]
    assert effects.all()
    # what is left to the joint move shifts no patient's own value
    labels = {name for model in regressions(posterior) for name in [posterior.problem.random[model.effect]]}
    assert labels == set(posterior.problem.random)


class TestSpreadOf:
    @pytest.mark.parametrize(
        ("total", "count", "mean", "sd"),
        [(4.0, 8, np.log(0.3), 0.5), (30.0, 60, 0.0, 0.4), (1e-9, 20, np.log(0.3), 0.3), (900.0, 4, -1.0, 0.2)],
    )
    def test_samples_the_density_of_quadrature(self, total, count, mean, sd):
        sampler = sampler_of(GaussianModel(), seed=7)

        def log_target(s):
            return -count * s - 0.5 * total * np.exp(-2.0 * s) - 0.5 * ((s - mean) / sd) ** 2

        grid = np.linspace(mean - 12.0, mean + 12.0, 200001)
        weight = np.exp(log_target(grid) - log_target(grid).max())
        cumulative = np.cumsum(weight) / weight.sum()
        draws = np.empty(6000)
        now = float(grid[np.argmax(weight)])
        for i in range(draws.size):
            now = draws[i] = sampler._spread_of(now, total, count, mean, sd)
        # three steps each: thinned by 3 the draws are all but independent
        share = np.interp(draws[::3], grid, cumulative)
        assert stats.kstest(share, "uniform").pvalue > 1e-3
        for level in (0.05, 0.5, 0.95):
            assert (share < level).mean() == pytest.approx(level, abs=4.5 * np.sqrt(level * (1 - level) / share.size))


class TestDualAveraging:
    def test_entries_settle_at_the_target_each_with_its_own_step(self):
        rng = np.random.default_rng(8)
        stiff = np.array([0.3, 1.0, 4.0, 30.0])

        def chance(step):
            return np.exp(-(step**2) * stiff)

        adapt = DualAveraging(np.full(4, 0.1), longest=5.0)
        for _ in range(3000):
            adapt.update(np.clip(chance(adapt.step) + 0.05 * rng.standard_normal(4), 0.0, 1.0))
        adapt.settle()
        np.testing.assert_allclose(chance(adapt.step), adapt.target, atol=0.03)
        assert (np.diff(adapt.step) < 0).all()

    def test_steps_stay_below_the_longest_and_above_nothing(self):
        adapt = DualAveraging(np.full(2, 0.1), longest=0.45)
        for _ in range(300):
            adapt.update(np.array([1.0, 0.0]))
        adapt.settle()
        assert adapt.step[0] == pytest.approx(0.45, rel=1e-3)
        assert 0.0 < adapt.step[1] < 0.01


def test_regressions_hold_what_shifts_each_effect(model):
    first, second = regressions(model)
    assert first.columns.tolist() == [P1, EFFECT]
    assert second.columns.tolist() == [P2]
    np.testing.assert_array_equal(first.matrix, np.stack([np.ones(model.n), model.group], axis=1))
    np.testing.assert_array_equal(second.matrix, np.ones((model.n, 1)))
    assert model.d == D

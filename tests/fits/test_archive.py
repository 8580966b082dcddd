"""Proposals from earlier states and within the prior: each leaves the posterior as it is, and finds other modes."""

import numpy as np
import pytest
from scipy import stats

from reinfuse.fits.archive import Archive, independent, within_prior

SD = np.array([1.5, 0.8])
MODES = np.array([[-2.0, 0.5], [2.0, -0.5]])
SHARE, NARROW = 0.7, 0.25  # of the first mode; width of both


def loglik(b):
    """Two narrow modes; the prior moves weight between them."""
    square = ((b[:, None, :] - MODES) ** 2).sum(axis=2) / NARROW**2
    return np.logaddexp(np.log(SHARE) - 0.5 * square[:, 0], np.log(1 - SHARE) - 0.5 * square[:, 1])


def posterior_draws(count, rng):
    """Exact draws: product of normal prior and normal modes."""
    variance = 1.0 / (1.0 / NARROW**2 + SD**-2)
    centre = MODES * variance / NARROW**2
    weight = np.array([SHARE, 1 - SHARE]) * np.exp(-0.5 * (MODES**2 / (NARROW**2 + SD**2)).sum(axis=1))
    which = rng.choice(2, size=count, p=weight / weight.sum())
    return centre[which] + np.sqrt(variance) * rng.standard_normal((count, 2)), weight[0] / weight.sum()


def within(b, rng):
    return metropolis(b, within_prior(b, SD, rng), 0.0, rng)


def along(archive, b, rng):
    """No sites: the standardised deviations are the deviations themselves."""
    proposal = archive.difference(b, rng)
    return metropolis(b, proposal, log_prior(proposal) - log_prior(b), rng)


def log_prior(b):
    return -0.5 * ((b / SD) ** 2).sum(axis=1)


def metropolis(b, proposal, prior, rng):
    accepted = np.log(rng.uniform(size=len(b))) < loglik(proposal) - loglik(b) + prior
    return np.where(accepted[:, None], proposal, b), accepted


def jumps(archive, b, rng, copies=3):
    everyone, count = np.arange(len(b)), np.full(len(b), copies)
    count[::2] = 1
    who = np.repeat(everyone, count)
    proposal = archive.draw(who, rng)
    weights = loglik(proposal) + log_prior(proposal) - archive.log_density(proposal, who)
    now = loglik(b) + log_prior(b) - archive.log_density(b, everyone)
    taken = independent(now, weights, count, np.log(rng.uniform(size=who.size)))
    assert (who[taken[taken >= 0]] == everyone[taken >= 0]).all()
    return np.where(taken[:, None] >= 0, proposal[taken], b), taken >= 0


PATIENTS = 20_000  # alike and independent, so that one step of all is a sample


def archive_of(states):
    """The same states for every patient."""
    return Archive(np.repeat(states[:, None, :], PATIENTS, axis=1))


@pytest.fixture(scope="module")
def archive():
    return archive_of(posterior_draws(40, np.random.default_rng(1))[0])


@pytest.mark.parametrize("kind", ["jump", "difference", "within prior"])
def test_a_proposal_leaves_the_posterior_as_it_is(kind, archive):
    rng = np.random.default_rng(2)
    before, share = posterior_draws(PATIENTS, rng)
    if kind == "within prior":
        after, accepted = within(before, rng)
    else:
        after, accepted = {"jump": jumps, "difference": along}[kind](archive, before, rng)
    assert 0.02 < accepted.mean() < 0.98
    change = np.concatenate([after - before, after**2 - before**2], axis=1)
    z = change.mean(axis=0) / (change.std(axis=0) / np.sqrt(PATIENTS))
    assert np.abs(z).max() < 4.5
    assert (after[:, 0] < 0).mean() == pytest.approx(share, abs=0.02)


def test_jumps_find_the_weight_of_a_mode_that_no_path_leads_to(archive):
    rng = np.random.default_rng(3)
    b = posterior_draws(PATIENTS, rng)[0]
    share = posterior_draws(1, rng)[1]
    b = np.where(b[:, :1] < 0, b, MODES[0] + (b - MODES[1]))  # everyone in the first mode
    for _ in range(30):
        b, _ = jumps(archive, b, rng)
    assert (b[:, 0] < 0).mean() == pytest.approx(share, abs=0.02)


def test_a_patient_who_never_moved_does_no_harm():
    states = np.zeros((12, 3, 2))
    states[:, 1:] = np.random.default_rng(4).standard_normal((12, 2, 2))
    still = Archive(states)
    proposal = still.draw(np.arange(3), np.random.default_rng(5))
    assert np.isfinite(proposal).all()
    assert np.isfinite(still.log_density(proposal, np.arange(3))).all()


def test_the_density_is_that_of_its_draws():
    """Student's t around every state, by SciPy; up to each patient's own constant."""
    rng = np.random.default_rng(6)
    states = rng.standard_normal((9, 2, 2)) * np.array([[1.0, 0.2], [3.0, 0.5]])[None]
    archive = Archive(states)
    for patient in range(2):
        at = rng.standard_normal((20, 2))
        root = archive.root[patient]
        kernels = [
            stats.multivariate_t.pdf(at, loc=state[patient], shape=root @ root.T, df=archive.degrees)
            for state in states
        ]
        difference = np.log(np.mean(kernels, axis=0)) - archive.log_density(at, np.full(20, patient))
        np.testing.assert_allclose(difference, difference[0], atol=1e-12)

"""One chain: it finds the posterior, and goes on from a saved state as if nothing had happened."""

import numpy as np
import pytest

from reinfuse.fits.chain import sample_chain
from reinfuse.fits.run import RunFolder

from .gaussian_model import GaussianModel

LARGEST_Z = 4.5  # of some seventy statistics, with fixed seeds


def test_a_chain_finds_the_posterior():
    """Means and sds of everything, omega too, within Monte Carlo error; one patient's posterior is narrow."""
    from arviz_stats.base import array_stats

    model = GaussianModel(narrow=0.03)
    ticks = []
    draws, tune = 2000, 250
    chain = sample_chain(
        model,
        model.coordinates(),
        draws=draws,
        tune=tune,
        seed=12,
        tick=ticks.append,
    )
    assert sum(ticks) == draws + tune
    assert float(chain["divergent_trajectories"].sum() / chain["trajectories"].sum()) < 0.001
    found = chain["x"].to_numpy()
    h, b = model.draw(40000, np.random.default_rng(13))
    exact = np.concatenate([h, b.reshape(len(b), -1)], axis=1)
    for k in range(found.shape[1]):
        centre = exact[:, k].mean()
        for name, power in (("mean", 1), ("square", 2)):
            mine, theirs = (found[:, k] - centre) ** power, (exact[:, k] - centre) ** power
            size = float(array_stats.ess(mine[None], method="mean"))
            assert size > 100, f"{name} of coordinate {k}"
            error = np.sqrt(mine.var() / size + theirs.var() / theirs.size)
            assert abs(mine.mean() - theirs.mean()) < LARGEST_Z * error, f"{name} of coordinate {k}"


class Killed(Exception):
    """Where a chain is to end."""


DRAWS, TUNE, THIN = 12, 48, 2


def chain_of(model, ticks, thin=THIN, draws=DRAWS, **settings):
    return sample_chain(
        model,
        model.coordinates(),
        draws=draws,
        tune=TUNE,
        thin=thin,
        seed=3,
        tick=ticks.append,
        **settings,
    )


@pytest.fixture(scope="module")
def whole():
    return chain_of(GaussianModel(), [])


@pytest.mark.parametrize("end", [1, 7, 8, 16, 24, 37, 48, 49, 55])  # around every change of the warm-up, and after it
def test_it_goes_on_from_a_saved_state_bit_for_bit(whole, end, tmp_path):
    run, offers = RunFolder(tmp_path), []

    def save(state):
        offers.append(1)
        if len(offers) == end:
            run.save_state(0, state(), settings="s")
            raise Killed

    with pytest.raises(Killed):
        chain_of(GaussianModel(), [], save=save)
    ticks = []
    again = chain_of(GaussianModel(), ticks, saved=run.load_state(0, settings="s"))
    assert sum(ticks) == TUNE + DRAWS * THIN
    assert ticks[0] == (end if end <= TUNE else TUNE + (end - TUNE) * THIN)
    for name in whole.data_vars:
        np.testing.assert_array_equal(again[name], whole[name], err_msg=str(name))


@pytest.mark.parametrize("times", [2, 4])
def test_a_chain_that_goes_on_is_one_with_more_sweeps_per_draw(times):
    states, ticks = [], []
    chain_of(GaussianModel(), [], end=states.append)
    longer = chain_of(GaussianModel(), ticks, thin=times * THIN, saved=states[0])
    assert sum(ticks) == TUNE + DRAWS * times * THIN
    assert ticks[0] == TUNE + DRAWS * THIN
    from_the_start = chain_of(GaussianModel(), [], thin=times * THIN)
    np.testing.assert_array_equal(longer["x"], from_the_start["x"])
    for name in from_the_start.data_vars:  # their means are means of means
        np.testing.assert_allclose(longer[name], from_the_start[name], rtol=1e-12, err_msg=str(name))


def test_of_an_odd_number_of_draws_the_last_stays():
    states = []
    short = chain_of(GaussianModel(), [], draws=5, end=states.append)
    longer = chain_of(GaussianModel(), [], draws=5, thin=2 * THIN, saved=states[0])
    np.testing.assert_array_equal(longer["x"][:3], short["x"][::2])
    assert longer.sizes["draw"] == 5
    assert longer["trajectories"][1] == 2 * short["trajectories"][1]

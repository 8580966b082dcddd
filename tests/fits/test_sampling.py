"""Chains: the same whatever runs beside them, kept when they finish, used again."""

import numpy as np
import pytest
import xarray as xr

from reinfuse.fits import chain
from reinfuse.fits.geometry import prepare
from reinfuse.fits.sampling import SAMPLERS, Settings, chain_seeds, sample, sampler_name
from reinfuse.model.errors import ReinfuseError

SHORT = Settings(draws=10, tune=50, chains=2, thin=1, seed=3)


@pytest.fixture(scope="module")
def both(one_infusion, explored) -> xr.Dataset:
    """Two chains, at the same time."""
    return sample(one_infusion.problem, one_infusion.density, explored, SHORT, cores=2)


class TestExploration:
    def test_it_is_reproducible(self, one_infusion, explored):
        again = prepare(one_infusion.problem, one_infusion.density, one_infusion.layout, np.random.default_rng(1))
        np.testing.assert_array_equal(again.centre, explored.centre)
        np.testing.assert_array_equal(again.scale, explored.scale)
        np.testing.assert_array_equal(again.sites.linear, explored.sites.linear)

    def test_it_ends_where_the_density_is_high_and_close_to_white(self, one_infusion, explored):
        """Far above the prior medians, and the curvature of the population about 1 in every direction."""
        posterior, problem = one_infusion.posterior, one_infusion.problem
        target = explored.density(one_infusion.density)
        size, d = explored.layout.size, explored.centre.size
        start = one_infusion.flat(posterior.prior_mean, np.zeros((problem.n, posterior.q)))
        assert one_infusion.density(explored.expand(np.zeros(size))[0])[0] > one_infusion.density(start)[0] + 10.0
        rng = np.random.default_rng(2)
        rises = []
        for _ in range(40):
            w = np.concatenate([np.zeros(d), rng.standard_normal(size - d)])
            u = np.zeros(size)
            u[:d] = rng.standard_normal(d)
            rises.append(-(target(w + 1e-2 * u)[1] - target(w - 1e-2 * u)[1]) @ u / 2e-2 / (u @ u))
        assert 0.5 < np.median(rises) < 2.0


class TestReproducibility:
    def test_the_number_of_cores_does_not_change_a_bit(self, one_infusion, explored, both):
        alone = sample(one_infusion.problem, one_infusion.density, explored, SHORT, cores=1)
        for name in both.data_vars:
            np.testing.assert_array_equal(alone[name], both[name], err_msg=str(name))

    def test_another_seed_gives_other_draws(self, one_infusion, explored, both):
        other = Settings(draws=10, tune=50, chains=1, thin=1, seed=4)
        found = sample(one_infusion.problem, one_infusion.density, explored, other, cores=1)
        assert not np.isin(found["x"].values, both["x"].values).any()

    def test_chains_differ(self, both):
        assert not np.isin(both["x"].values[0], both["x"].values[1]).any()

    def test_a_chain_does_not_depend_on_how_many_there_are(self):
        assert chain_seeds(7, 2) == chain_seeds(7, 5)[:2]
        assert len(set(chain_seeds(7, 100))) == 100

    def test_draws_are_of_the_posterior_not_the_warm_up(self, one_infusion, both):
        assert dict(both.sizes) == {"chain": 2, "draw": 10, "coordinate": one_infusion.layout.size}
        for x in both["x"].values.reshape(-1, one_infusion.layout.size):
            assert np.isfinite(one_infusion.density(x)[0])
        assert both.attrs["solver_failures"] >= 0
        assert set(np.unique(both["diverging"])) <= {0.0, 1.0}


class TestFinishedChains:
    def test_they_are_kept_and_used_again(self, one_infusion, explored, both, monkeypatch):
        sampled, kept, real = [], {}, chain.sample_chain

        def counting(*args, **kwargs):
            sampled.append(kwargs["seed"])
            return real(*args, **kwargs)

        monkeypatch.setattr(chain, "sample_chain", counting)
        ticks = []
        result = sample(
            one_infusion.problem,
            one_infusion.density,
            explored,
            SHORT,
            cores=1,
            tick=ticks.append,
            finished={0: both.isel(chain=0)},
            keep=lambda chain, draws: kept.update({chain: draws}),
        )
        assert sampled == [chain_seeds(SHORT.seed, 2)[1]]
        assert sum(ticks) == SHORT.draws + SHORT.tune
        assert list(kept) == [1]
        np.testing.assert_array_equal(kept[1]["x"], both["x"].isel(chain=1))
        np.testing.assert_array_equal(result["x"], both["x"])

    def test_a_fault_in_a_chain_is_not_swallowed(self, one_infusion, explored, monkeypatch):
        def broken(*args, **kwargs):
            raise FloatingPointError("chain broke")

        monkeypatch.setattr(chain, "sample_chain", broken)
        with pytest.raises(FloatingPointError, match="chain broke"):
            sample(one_infusion.problem, one_infusion.density, explored, SHORT, cores=2)


class TestSettings:
    def test_an_unknown_sampler_is_refused_with_the_known_ones(self):
        with pytest.raises(ReinfuseError, match="unknown sampler 'gibbs'; use one of blocks, nutpie"):
            Settings(sampler="gibbs")

    @pytest.mark.parametrize(
        ("name", "value", "least"), [("draws", 9, 10), ("tune", 0, 50), ("chains", 0, 1), ("thin", 0, 1)]
    )
    def test_numbers_have_a_least(self, name, value, least):
        with pytest.raises(ReinfuseError, match=f"{name} is {value}; give at least {least}"):
            Settings(**{name: value})

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_the_sampler_is_named_with_its_version(self, sampler):
        assert any(part[0].isdigit() for part in sampler_name(Settings(sampler=sampler)).split())
        assert sampler in sampler_name(Settings(sampler=sampler))


def test_nutpie_samples_the_same_model(one_infusion, explored):
    settings = Settings(draws=10, tune=50, chains=1, seed=3, sampler="nutpie")
    ticks = []
    found = sample(one_infusion.problem, one_infusion.density, explored, settings, cores=1, tick=ticks.append)
    assert found["x"].dims == ("chain", "draw", "coordinate")
    assert found["x"].shape == (1, 10, one_infusion.layout.size)
    for k, x in enumerate(found["x"].values[0]):
        # nutpie's own log density is that of the sampling coordinates
        _, logdet = explored.expand(explored.contract(x))
        assert float(found["logp"][0, k]) == pytest.approx(one_infusion.density(x)[0] + logdet, abs=1e-6)
    assert {"diverging", "n_steps", "step_size", "energy"} <= set(found.data_vars)
    assert sum(ticks) >= settings.draws


@pytest.mark.minutes
def test_two_samplers_find_the_same_posterior(one_infusion, explored):
    """Blocks and NUTS share neither moves nor adaptation: where they agree, both are probably right."""
    from arviz_stats.base import array_stats

    posed, found = one_infusion, []
    for sampler, draws, tune in (("blocks", 2000, 300), ("nutpie", 1500, 400)):
        settings = Settings(draws=draws, tune=tune, chains=2, thin=2, seed=6, sampler=sampler)
        x = sample(posed.problem, posed.density, explored, settings, cores=2)["x"].values
        found.append(np.concatenate([x[..., posed.layout.hyper], x[..., posed.layout.block.ravel()]], axis=-1))
    compared = 0
    for k in range(found[0].shape[-1]):
        mine, theirs = found[0][..., k], found[1][..., k]
        sizes = [float(array_stats.ess(v, method="mean", chain_axis=0, draw_axis=1)) for v in (mine, theirs)]
        if min(sizes) < 50:
            continue
        error = np.sqrt(mine.var() / sizes[0] + theirs.var() / sizes[1])
        assert abs(mine.mean() - theirs.mean()) < 4.5 * error, k
        assert 0.7 < mine.std() / theirs.std() < 1.4, k
        compared += 1
    assert compared > 0.9 * found[0].shape[-1]

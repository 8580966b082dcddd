"""Replicates of a calibration for the model whose posterior is known; light enough for every worker to import."""

from functools import cache

import numpy as np

from .gaussian_model import GaussianModel

NAMES = ("p1", "p2", "s1", "s2", "log omega 1", "log omega 2", "effect", "own 1", "log-likelihood")
DRAWS = 49
GRID = 40  # of the log-spreads, a quarter of a prior sd apart and smooth between


def simulated(seed: int) -> tuple[GaussianModel, np.ndarray, np.ndarray]:
    """A model with data of its prior, and their truth."""
    model, rng = GaussianModel(n=6, seed=3), np.random.default_rng([seed, 1])
    h = model.prior_mean + model.prior_sd * rng.standard_normal(model.prior_mean.size)
    b = np.exp(h[model.log_sd]) * rng.standard_normal((model.n, model.q))
    model.y = model.location(h, b) + model.tau * rng.standard_normal(b.shape)
    return model, h, b


def measured(model: GaussianModel, h: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.concatenate([h, [b[0, 0], model.loglik(h, b)[0].sum()]])


def result(model, h, b, draws_h, draws_b) -> dict[str, np.ndarray]:
    draws = [measured(model, *one) for one in zip(draws_h, draws_b, strict=True)]
    return {"names": np.array(NAMES), "truth": measured(model, h, b), "draws": np.array(draws)}


@cache
def exact(seed: int) -> dict[str, np.ndarray]:
    """Independent draws of the posterior."""
    model, h, b = simulated(seed)
    return result(model, h, b, *model.draw(DRAWS, np.random.default_rng([seed, 2]), GRID))


def narrow(seed: int) -> dict[str, np.ndarray]:
    """A sampler that is wrong: its population values have three fifths of the posterior's sd."""
    model, h, b = simulated(seed)
    draws_h, draws_b = model.draw(1000, np.random.default_rng([seed, 2]), GRID)
    centre = draws_h.mean(axis=0)
    return result(model, h, b, centre + 0.6 * (draws_h[:DRAWS] - centre), draws_b[:DRAWS])


def blind(seed: int) -> dict[str, np.ndarray]:
    """A sampler that is wrong: it returns the prior, whatever the data."""
    model, h, b = simulated(seed)
    rng = np.random.default_rng([seed, 2])
    draws_h = model.prior_mean + model.prior_sd * rng.standard_normal((DRAWS, h.size))
    draws_b = np.exp(draws_h[:, None, model.log_sd]) * rng.standard_normal((DRAWS, *b.shape))
    return result(model, h, b, draws_h, draws_b)


def chain(seed: int) -> dict[str, np.ndarray]:
    """The block sampler."""
    from reinfuse.fits.chain import sample_chain

    model, h, b = simulated(seed)
    kept = 6 * DRAWS
    found = sample_chain(
        model,
        model.coordinates(wrong=0.3),
        draws=kept,
        tune=80,
        thin=1,
        seed=seed,
        tick=lambda _: None,
    )
    x = found["x"].to_numpy()[:: kept // DRAWS]
    return result(model, h, b, x[:, model.layout.hyper], x[:, model.layout.block])

"""Which of two models predicts a patient better: leave-one-patient-out, with the patient's own effects integrated out.

The likelihood of a whole patient given the population, integrated over the patient's deviations, is what a new patient
would be judged by. It is estimated by importance sampling from the patient's Gaussian site, widened to Student's t.
Leaving a patient out is then Pareto-smoothed importance sampling over the draws of the population (arviz-stats).
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

from .coordinates import Coordinates
from .geometry import Posterior
from .results import Draws

type Floats = NDArray[np.float64]

POPULATION_DRAWS: Final = 200
DEVIATION_DRAWS: Final = 64
DEGREES: Final = 5.0
WIDER: Final = 1.2
FEWEST_TO_SMOOTH: Final = 25  # draws: the tail that is smoothed is then five


def integrated_loglik(
    posterior: Posterior,
    coordinates: Coordinates,
    draws: Draws,
    rng: np.random.Generator,
    tick: Callable[[int], None] = lambda _: None,
) -> Floats:
    """Log-likelihood of each patient given the population, deviations integrated out, (draws, n)."""
    chains, length = draws.population.shape[:2]
    places = np.linspace(0, chains * length - 1, min(POPULATION_DRAWS, chains * length)).astype(int)
    n, q = posterior.problem.n, posterior.q
    result = np.empty((places.size, n))
    sites = coordinates.sites
    for row, place in enumerate(places):
        c, k = int(place) // length, int(place) % length
        h = np.concatenate([draws.population[c, k], draws.log_omega[c, k], draws.effect[c, k]])
        root = WIDER * coordinates.roots(h)
        total = sites.precision + np.diag(np.exp(-2.0 * h[posterior.log_sd]))
        shifted = sites.linear - sites.cross @ (h - coordinates.centre)
        mean = np.linalg.solve(total, shifted[..., None])[..., 0]
        logdet = np.linalg.slogdet(root)[1]
        density = posterior.conditional(h)
        weights = np.empty((DEVIATION_DRAWS, n))
        for s in range(DEVIATION_DRAWS):
            z = rng.standard_normal((n, q)) / np.sqrt(rng.chisquare(DEGREES, n) / DEGREES)[:, None]
            value, _ = density(mean + np.einsum("nqr,nr->nq", root, z))
            proposal = (
                gammaln(0.5 * (DEGREES + q))
                - gammaln(0.5 * DEGREES)
                - 0.5 * q * np.log(DEGREES * np.pi)
                - logdet
                - 0.5 * (DEGREES + q) * np.log1p((z * z).sum(axis=1) / DEGREES)
            )
            # `conditional` leaves out the constant of the normal prior
            weights[s] = value - 0.5 * q * np.log(2.0 * np.pi) - proposal
        result[row] = logsumexp(weights, axis=0) - np.log(DEVIATION_DRAWS)
        tick(1)
    return result


def leave_one_out(loglik: Floats, patients: Sequence[str]) -> tuple[Floats, Floats]:
    """Expected log predictive density of each patient left out, (n,), and its Pareto k, (n,): NaN for few draws."""
    from arviz_stats import loo

    if loglik.shape[0] < FEWEST_TO_SMOOTH:  # inverse-likelihood weights as they are; their tail cannot be judged
        count = loglik.shape[0]
        return np.log(count) - logsumexp(-loglik, axis=0), np.full(loglik.shape[1], np.nan)
    tree = xr.DataTree.from_dict(
        {
            "/posterior": xr.Dataset({"population": (("chain", "draw"), np.zeros((1, loglik.shape[0])))}),
            "/log_likelihood": xr.Dataset(
                {"y": (("chain", "draw", "subject"), loglik[None])}, coords={"subject": list(patients)}
            ),
        }
    )
    with warnings.catch_warnings():  # the shapes are returned, and counted in `compare`
        warnings.filterwarnings("ignore", message="Estimated shape parameter of Pareto", category=UserWarning)
        result: Any = loo(tree, pointwise=True)
    return np.asarray(result.elpd_i).ravel(), np.asarray(result.pareto_k).ravel()


def compare(names: Sequence[str], elpd: Sequence[Floats], pareto: Sequence[Floats]) -> pd.DataFrame:
    """Models beside the best one: elpd, difference and its standard error over patients, patients with k above 0.7."""
    best = int(np.argmax([e.sum() for e in elpd]))
    rows = []
    for name, values, k in zip(names, elpd, pareto, strict=True):
        difference = values - elpd[best]
        rows.append(
            {
                "variant": name,
                "elpd": float(values.sum()),
                "difference": float(difference.sum()),
                "se_difference": float(np.sqrt(values.size * difference.var(ddof=1))) if values.size > 1 else 0.0,
                "patients_k_above_0.7": int((~(k <= 0.7)).sum()),
            }
        )
    return pd.DataFrame(rows).sort_values("elpd", ascending=False, ignore_index=True)

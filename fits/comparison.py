"""Which of two models predicts a patient better: leave-one-patient-out, with the patient's own effects integrated out.

The likelihood of a whole patient given the population, integrated over the patient's deviations, is what a new patient
would be judged by. It is estimated by importance sampling from the patient's Gaussian site, widened to Student's t.
Leaving a patient out is then Pareto-smoothed importance sampling over the draws of the population (arviz-stats).
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

from .conditional import Conditional
from .coordinates import Coordinates
from .geometry import Posterior
from .results import Draws, thinned

type Floats = NDArray[np.float64]

POPULATION_DRAWS: Final = 200
DEVIATION_DRAWS: Final = 64
DEGREES: Final = 5.0
WIDER: Final = 1.2
LEAST: Final = -1e3  # log-likelihood of a patient for whom every integral failed
FEWEST_TO_SMOOTH: Final = 25  # draws: the tail that is smoothed is then five


def integrated_loglik(
    posterior: Posterior,
    coordinates: Coordinates,
    draws: Draws,
    rng: np.random.Generator,
    tick: Callable[[int], None] = lambda _: None,
    *,
    cores: int = 1,
) -> Floats:
    """Log-likelihood of each patient given the population, deviations integrated out, (draws, n)."""
    populations = [draws.hyper(c, k) for c, k in thinned(draws, POPULATION_DRAWS)]

    def one(h: Floats, rng: np.random.Generator) -> Floats:
        return _integrated(posterior.conditional(h), coordinates, h, rng)

    return np.stack(in_threads(one, populations, rng.spawn(len(populations)), cores=cores, tick=tick))


def in_threads[T](
    task: Callable[..., T], *arguments: Iterable[Any], cores: int, tick: Callable[[int], None]
) -> list[T]:
    """``task`` of each tuple of arguments, in order."""
    results = []
    with ThreadPoolExecutor(max_workers=max(1, cores)) as pool:
        for result in pool.map(task, *arguments):
            results.append(result)
            tick(1)
    return results


def _integrated(density: Conditional, coordinates: Coordinates, h: Floats, rng: np.random.Generator) -> Floats:
    """Importance sampling from Student's t around the sites, at one population: (n,)."""
    sites = coordinates.sites
    n, q = sites.linear.shape
    root = WIDER * coordinates.roots(h)
    total = sites.precision + np.diag(np.exp(-2.0 * h[coordinates.layout.log_sd]))
    shifted = sites.linear - sites.cross @ (h - coordinates.centre)
    mean = np.linalg.solve(total, shifted[..., None])[..., 0]
    logdet = np.linalg.slogdet(root)[1]
    weights = np.empty((DEVIATION_DRAWS, n))
    for s in range(DEVIATION_DRAWS):
        z = rng.standard_normal((n, q)) / np.sqrt(rng.chisquare(DEGREES, n) / DEGREES)[:, None]
        b = mean + np.einsum("nqr,nr->nq", root, z)
        proposal = (
            gammaln(0.5 * (DEGREES + q))
            - gammaln(0.5 * DEGREES)
            - 0.5 * q * np.log(DEGREES * np.pi)
            - logdet
            - 0.5 * (DEGREES + q) * np.log1p((z * z).sum(axis=1) / DEGREES)
        )
        # `value` leaves out the constant of the normal prior
        weights[s] = density.value(b, density.loglik(b)) - 0.5 * q * np.log(2.0 * np.pi) - proposal
    return np.asarray(logsumexp(weights, axis=0) - np.log(DEVIATION_DRAWS))


def floored(loglik: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Integrals (draws, n) with those that failed (minus infinity) at the patient's worst, and who has such, (n,)."""
    failed = ~np.isfinite(loglik)
    worst = np.where(failed, np.inf, loglik).min(axis=0)
    return np.where(failed, np.where(np.isfinite(worst), worst, LEAST), loglik), failed.any(axis=0)


def leave_one_out(loglik: Floats, patients: Sequence[str]) -> tuple[Floats, Floats]:
    """Expected log predictive density of each patient left out, (n,), and its Pareto k, (n,).

    k is NaN where draws are too few to judge it, infinite where an integral failed (see `floored`).
    """
    from arviz_stats import loo

    loglik, failed = floored(loglik)
    elpd = np.log(loglik.shape[0]) - logsumexp(-loglik, axis=0)  # inverse-likelihood weights as they are
    pareto = np.where(failed, np.inf, np.nan)
    good = ~failed
    if loglik.shape[0] < FEWEST_TO_SMOOTH or failed.all():
        return elpd, pareto
    tree = xr.DataTree.from_dict(
        {
            "/posterior": xr.Dataset({"population": (("chain", "draw"), np.zeros((1, loglik.shape[0])))}),
            "/log_likelihood": xr.Dataset(
                {"y": (("chain", "draw", "subject"), loglik[None, :, good])},
                coords={"subject": np.array(patients)[good]},
            ),
        }
    )
    with warnings.catch_warnings():  # the shapes are returned, and counted in `compare`
        warnings.filterwarnings("ignore", message="Estimated shape parameter of Pareto", category=UserWarning)
        warnings.filterwarnings("ignore", message="The point-wise LOO is the same", category=UserWarning)  # one patient
        result: Any = loo(tree, pointwise=True)
    elpd[good], pareto[good] = np.asarray(result.elpd_i).ravel(), np.asarray(result.pareto_k).ravel()
    return elpd, pareto


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

"""Small cohorts for the tests of a fit: a few patients of the bundled synthetic one, and what a fit makes of them."""

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import pymc  # noqa: F401  (PyMC 6.0 imports names that PyTensor 3.2 has moved)

from reinfuse.fits.cohort import Cohort, cohort_from_frame
from reinfuse.fits.coordinates import Coordinates, Layout, Sites
from reinfuse.fits.geometry import Posterior
from reinfuse.fits.likelihood_op import LogDensity
from reinfuse.fits.population import population_model
from reinfuse.fits.problem import Problem, pose
from reinfuse.fits.results import layout
from reinfuse.fits.synthetic import BUNDLED


def rows_of(*, one: int, two: int) -> pd.DataFrame:
    """Rows of the cohort file: ``one`` patients of each product with one infusion, ``two`` with two infusions."""
    table = pd.read_csv(BUNDLED, dtype=str, keep_default_na=False)
    infusions = table[table["EVID"] == "1"].groupby("ID", sort=True)["PRODUCT"].agg(list)
    chosen: list[str] = []
    for products, count in ((["ide-cel"], one), (["cilta-cel"], one), (["ide-cel", "cilta-cel"], two)):
        found = [name for name, mine in infusions.items() if mine == products][:count]
        assert len(found) == count, f"the bundled cohort has {len(found)} patients with {products}, not {count}"
        chosen += found
    return table[table["ID"].isin(chosen)].reset_index(drop=True)


@dataclass(frozen=True, eq=False)
class Posed:
    """A cohort, posed; what costs a compilation is made when first asked for."""

    cohort: Cohort
    problem: Problem

    @cached_property
    def layout(self) -> Layout:
        return layout(self.problem)

    @cached_property
    def density(self) -> LogDensity:
        return LogDensity(population_model(self.problem))

    @cached_property
    def posterior(self) -> Posterior:
        return Posterior(self.problem)

    def point(self, rng: np.random.Generator, spread: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
        """Population ``h`` and deviations ``b``, scattered around the prior medians."""
        posterior = self.posterior
        h = posterior.prior_mean + spread * posterior.prior_sd * rng.standard_normal(posterior.prior_mean.size)
        sd = np.exp(h[posterior.log_sd])
        return h, spread * sd * rng.standard_normal((self.problem.n, posterior.q))

    def flat(self, h: np.ndarray, b: np.ndarray) -> np.ndarray:
        x = np.empty(self.layout.size)
        x[self.layout.hyper], x[self.layout.block] = h, b
        return x

    @cached_property
    def coordinates(self) -> Coordinates:
        """Coordinates without exploration: the prior as centre and scale, sites that say as much as the prior."""
        posterior = self.posterior
        n, q, d = self.problem.n, posterior.q, posterior.prior_mean.size
        prior = np.exp(-2.0 * posterior.prior_mean[posterior.log_sd])
        sites = Sites(np.tile(np.diag(prior), (n, 1, 1)), np.zeros((n, q)), np.zeros((n, q, d)))
        return Coordinates(self.layout, posterior.prior_mean, np.diag(0.2 * posterior.prior_sd), sites)


def posed(*, one: int, two: int) -> Posed:
    cohort = cohort_from_frame(rows_of(one=one, two=two), name="small.csv")
    return Posed(cohort, pose(cohort))

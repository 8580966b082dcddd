"""What a run's data can know of its parameters: information, directions, profiles, elasticities, as tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reinfuse.model.course import Infusion
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import VARIANTS, from_transformed
from reinfuse.model.products import product as known_product

from ..diagnosis import identifiability
from ..diagnosis.scalars import list_scalars
from ..reopened import Reopened
from ..results import thinned
from ..retreatment.virtual_patients import SampledPopulation, from_run
from .directions import Direction, directions
from .elasticities import OUTCOMES, Elasticities, elasticities, of_patients, tornado
from .information import of_deviations, of_population, posterior_covariance, shrinkage
from .profiles import Profile
from .records import Instrument, hyper_logs, hyper_names

type Floats = NDArray[np.float64]

INFORMATION_DRAWS: Final = 40
ELASTICITY_DRAWS: Final = 100
PROFILED: Final = 4  # parameters, unless some are named


@dataclass(frozen=True, eq=False)
class Information:
    """What the records of a run may be expected to tell of its population.

    Attributes
    ----------
    names, logs, prior_sd
        Of the population vector.
    matrix
        (d, d) Fisher information, averaged over draws of the posterior.
    covariance
        (d, d) expected posterior covariance: of prior and information, averaged over the same draws.
    found
        (d, d) posterior covariance as it was found.
    centre
        (d,) posterior mean.
    shrinkage
        Expected eta-shrinkage by random effect.
    """

    names: tuple[str, ...]
    logs: tuple[bool, ...]
    prior_sd: Floats
    matrix: Floats
    covariance: Floats
    found: Floats
    centre: Floats
    prior_mean: Floats
    shrinkage: dict[str, float]

    @property
    def directions(self) -> list[Direction]:
        """Eigen-directions, weakest first."""
        return directions(self.matrix, self.prior_sd, self.names, self.logs)


def information(
    run: Reopened, *, draws: int = INFORMATION_DRAWS, tick: Callable[[float], None] = lambda _: None
) -> Information:
    """Expected information of a run's own records, at individual parameters drawn from its posterior.

    Parameters
    ----------
    run
        A finished run.
    draws
        Of the posterior, evenly spaced.
    tick
        Told of each draw.

    Raises
    ------
    ReinfuseError
        If the run is of a model of one's own.
    """
    instrument = Instrument(run.problem)
    posterior = instrument.posterior
    prior = np.diag(posterior.prior_sd**2)
    total, covariance, own = [], [], []
    for chain, draw in thinned(run.draws, draws):
        omega = np.exp(run.draws.hyper(chain, draw)[posterior.log_sd])
        lines = instrument.measured(run.draws.theta(chain, draw))
        total.append(of_population(lines, instrument.structure, omega).sum(axis=0))
        covariance.append(posterior_covariance(total[-1], prior))
        own.append(shrinkage(of_deviations(lines, instrument.structure, omega), omega))
        tick(1.0)
    every = run.draws.hypers()
    mean_shrinkage = np.mean(own, axis=0)
    return Information(
        names=tuple(instrument.names),
        logs=tuple(hyper_logs(run.problem)),
        prior_sd=posterior.prior_sd,
        matrix=np.mean(total, axis=0),
        covariance=np.mean(covariance, axis=0),
        found=np.cov(every, rowvar=False),
        centre=every.mean(axis=0),
        prior_mean=posterior.prior_mean,
        shrinkage={name: float(mean_shrinkage[k]) for k, name in enumerate(run.problem.random)},
    )


def table(run: Reopened, found: Information) -> pd.DataFrame:
    """`identifiability.csv`: for each parameter, whether data, prior or an alias gave its value, and what was expected.

    Columns of `diagnosis.identifiability.sources`, then ``expected_sd`` and ``expected_contraction`` (of the Fisher
    information of the same records), and ``expected_shrinkage``.
    """
    judged = identifiability.sources(run.run.posterior())
    sd = dict(zip(found.names, np.sqrt(np.diag(found.covariance)), strict=True))
    prior = dict(zip(found.names, found.prior_sd, strict=True))
    names = judged["parameter"].tolist()
    judged["expected_sd"] = [float(sd.get(name, np.nan)) for name in names]
    judged["expected_contraction"] = [
        1.0 - float(sd[name] / prior[name]) ** 2 if name in sd else float("nan") for name in names
    ]
    judged["expected_shrinkage"] = [
        found.shrinkage.get(str(row.symbol), float("nan")) if row.family == "omega" else float("nan")
        for row in judged.itertuples()
    ]
    return judged


def direction_table(found: Information) -> pd.DataFrame:
    """`directions.csv`: eigen-directions of the information in prior units, weakest first, in words."""
    rows = []
    for rank, one in enumerate(found.directions, start=1):
        order = np.argsort(-np.abs(one.components), kind="stable")[:5]
        made = ", ".join(f"{found.names[i]} {one.components[i]:+.2f}" for i in order)
        rows.append((rank, one.value, one.contraction, one.words, made))
    return pd.DataFrame(rows, columns=["rank", "information_over_prior", "contraction", "words", "components"])


def weakest(judged: pd.DataFrame, run: Reopened, count: int = PROFILED) -> list[str]:
    """Parameters that profiles should be drawn of: the least contracted ones."""
    rows = judged[judged["parameter"].isin(hyper_names(run.problem)) & (judged["value_from"] != "fixed")]
    return [str(name) for name in rows.sort_values("contraction", kind="stable")["parameter"].head(count)]


def profile_tables(found: Sequence[Profile], run: Reopened) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`profiles.csv`, every point, and `profile_limits.csv`: best value and limits on the natural scale, and words."""
    scalars = {s.name: s for s in list_scalars(run.run.posterior()["posterior"].to_dataset())}
    points, limits = [], []
    for one in found:
        transform = scalars[one.name].transform if one.name in scalars else "identity"
        for value, drop in zip(one.value, one.drop, strict=True):
            points.append((one.name, value, float(from_transformed(value, transform=transform)), drop))
        ends = [float(from_transformed(x, transform=transform)) for x in (one.low, one.high)]  # open: the scale's end
        best = float(from_transformed(one.best, transform=transform))
        closed = bool(np.isfinite(one.low)), bool(np.isfinite(one.high))
        limits.append((one.name, transform, best, *ends, *closed, one.threshold, one.error, one.words))
    return (
        pd.DataFrame(points, columns=["parameter", "value_transformed", "value", "drop"]),
        pd.DataFrame(
            limits,
            columns=[
                "parameter",
                "transform",
                "best",
                "low",
                "high",
                *("closed_low", "closed_high", "threshold", "mc_error", "words"),
            ],
        ),
    )


# -------------------------------------------------------------------------------------------------- elasticities


def first_product(run: Reopened) -> str:
    """The product that most patients of a run had first."""
    names, counts = np.unique(run.problem.slot_products[:, 0], return_counts=True)
    return str(names[np.argmax(counts)])


def local_sensitivity(
    run: Reopened,
    *,
    product: str,
    outcomes: Sequence[str] = tuple(OUTCOMES),
    draws: int = ELASTICITY_DRAWS,
    rng: np.random.Generator,
    tick: Callable[[float], None] = lambda _: None,
) -> tuple[list[Elasticities], pd.DataFrame]:
    """Exact elasticities for the typical patient of each draw, and what one sd between patients does.

    Parameters
    ----------
    run
        A finished run.
    product
        Of the infusion.
    outcomes
        Names of `OUTCOMES`.
    draws
        Of the posterior.
    rng
        Draws what the run did not estimate.
    tick
        Told of each outcome.

    Returns
    -------
    list of Elasticities, DataFrame
        By outcome, and `elasticities.tornado` of them; its sds are those of individual values: between patients, and
        of the population median where the run's draws differ in it.
    """
    variant = str(run.run.provenance.get("variant", "full"))
    if variant not in VARIANTS:
        raise ReinfuseError(f"the run's variant {variant!r} is unknown to this version; fit again")
    infusion = Infusion(product=known_product(product))
    population = from_run(run.run, rng=rng, products=[known_product(product)], n_draws=draws)
    posed = of_patients(population.typical.sample(population.n_draws, rng), infusion, variant=variant)
    found = []
    for outcome in outcomes:
        found.append(elasticities(posed, outcome))
        tick(1.0)
    return found, tornado(found, sds_of(population))


def sds_of(population: SampledPopulation) -> dict[str, float]:
    """Sd of individual values of each parameter on its transformed scale; those that never differ are left out."""
    variance = (population.spread**2).mean(axis=0) + population.centre.var(axis=0)
    return {name: float(np.sqrt(v)) for name, v in zip(population.rows, variance, strict=True) if v > 1e-12}

"""One replicate: a cohort of known truth, its fit, and where the truth lies among the draws.

A replicate is a task of `fits.tasks`: all that it does follows from its seed and number. The fit is the one that
`reinfuse fit` runs: exploration, coordinates, sampler. It goes on until its worst population value has draws enough, or
until it has had its share; what did not get there is kept and counted, for a calibration without its failures is none.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from arviz_stats.base import array_stats
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError

from ..blocks import State
from ..geometry import Posterior, prepare
from ..likelihood_op import LogDensity, loglik_and_gradient
from ..population import population_model
from ..problem import Problem
from ..results import Draws, layout, thinned
from ..sampling import Settings, sample
from .cohorts import Drawn, Study, draw_cohort, names_of, prior_centre, reference_truth
from .stein import SteinStudy, draw_stein

type Floats = NDArray[np.float64]
type Truth = Literal["prior", "reference", "median"]

TRUTHS: Final = ("prior", "reference", "median")
ENOUGH_ESS: Final = 100.0
HIGHEST_RHAT: Final = 1.05


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How hard a replicate is fitted.

    Attributes
    ----------
    draws, tune, chains, thin
        As for `sampling.Settings`, to begin with.
    ranks
        Draws that the truth is compared with, evenly spaced over all chains: it has ``ranks + 1`` possible ranks.
    longest
        A fit whose smallest bulk effective sample size is below `ENOUGH_ESS`, or largest R-hat above `HIGHEST_RHAT`,
        goes on with twice the draws, up to so many times those that it began with.
    """

    draws: int = 500
    tune: int = 300
    chains: int = 2
    thin: int = 2
    ranks: int = 99
    longest: int = 4

    def __post_init__(self) -> None:
        if self.ranks < 9 or self.ranks > self.draws * self.chains:
            raise ReinfuseError(f"ranks is {self.ranks}; give from 9 up to all draws ({self.draws * self.chains})")
        if self.longest < 1:
            raise ReinfuseError(f"longest is {self.longest}; give at least 1")

    def settings(self, seed: int, factor: int) -> Settings:
        """For the sampler."""
        return Settings(
            draws=self.draws * factor, tune=self.tune, chains=self.chains, thin=self.thin, seed=seed, sampler="blocks"
        )


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a replicate is made from.

    Attributes
    ----------
    seed, number
        Of the whole calibration, and of this replicate; together they seed it.
    study
        What is simulated and fitted: the whole model, or Stein's curve.
    effort
        How hard.
    truth
        Where the population comes from: drawn from the ``prior``, that of the ``reference`` cohort, or the prior
        ``median`` throughout. Stein's patients have what was published.
    """

    seed: int
    number: int
    study: Study | SteinStudy
    effort: Effort
    truth: Truth = "prior"


def replicate(task: Task) -> dict[str, NDArray[Any]]:
    """Draw a cohort, fit it, and place the truth.

    Parameters
    ----------
    task
        Its seed, number and settings.

    Returns
    -------
    dict
        Arrays for a `fits.tasks.TaskFolder`: ``names`` (q,) of quantities, ``truth`` (q,) and ``draws`` (ranks, q) of
        them, the first ones being population values on their transformed scales with ``rhat``, ``ess_bulk``,
        ``ess_tail``; ``length`` of the chains, ``seconds``, ``solver_failures``, ``rejected`` and ``reasons`` of
        cohorts drawn anew. A fit that broke down has ``failure`` instead.
    """
    cohort_seed, geometry_seed, chain_seed = np.random.SeedSequence([task.seed, task.number]).spawn(3)
    drawn = _drawn(task, np.random.default_rng(cohort_seed))
    counted = {
        "reasons": np.array(sorted(drawn.rejected), dtype=np.str_),
        "rejected": np.array([drawn.rejected[name] for name in sorted(drawn.rejected)], dtype=np.int64),
        "observations": np.array(int(drawn.problem.n_ob.sum())),
    }
    return counted | place(
        drawn, task.effort, np.random.default_rng(geometry_seed), int(chain_seed.generate_state(1)[0]), quantities
    )


def _drawn(task: Task, rng: np.random.Generator) -> Drawn:
    if isinstance(task.study, SteinStudy):
        return draw_stein(task.study, rng)
    truths: Mapping[Truth, Callable[[Study], Floats | None]] = {
        "prior": lambda _: None,
        "reference": reference_truth,
        "median": prior_centre,
    }
    return draw_cohort(task.study, rng, h=truths[task.truth](task.study))


def place(
    drawn: Drawn,
    effort: Effort,
    rng: np.random.Generator,
    seed: int,
    measure: Callable[[Problem, Floats, Floats], tuple[tuple[str, ...], Floats]],
) -> dict[str, NDArray[Any]]:
    """Fit a cohort of known truth and measure truth and draws; see `replicate` for what it returns."""
    start = time.perf_counter()
    try:
        x, fitted = fit_draws(drawn.problem, effort, rng, seed)
    except (np.linalg.LinAlgError, FloatingPointError, ReinfuseError) as fault:  # counted, never dropped
        return {"failure": np.array(f"{type(fault).__name__}: {fault}")}
    draws = Draws(drawn.problem, x)
    names, truth = measure(drawn.problem, drawn.h, drawn.b)
    places = thinned(draws, effort.ranks)
    measured = [measure(drawn.problem, draws.hyper(c, k), draws.deviation[c, k])[1] for c, k in places]
    seconds = np.array(time.perf_counter() - start)
    return {"names": np.array(names), "truth": truth, "draws": np.stack(measured), "seconds": seconds} | dict(fitted)


def fit_draws(
    problem: Problem, effort: Effort, rng: np.random.Generator, seed: int
) -> tuple[Floats, Mapping[str, NDArray[Any]]]:
    """Draws (chain, draw, coordinate) of a fit that goes on until it has enough, and its diagnostics."""
    lay = layout(problem)
    log_density = LogDensity(population_model(problem))
    coordinates = prepare(problem, log_density, lay, rng)
    states: dict[int, Callable[[], State]] = {}
    begun: dict[int, State] = {}
    factor, failures = 1, 0
    while True:
        settings = effort.settings(seed, factor)
        sampled = sample(problem, log_density, coordinates, settings, cores=1, begun=begun, save=states.__setitem__)
        failures = max(failures, int(sampled.attrs.get("solver_failures", 0)))
        x = np.asarray(sampled["x"].transpose("chain", "draw", "coordinate").to_numpy(), dtype=np.float64)
        found = diagnostics(x[..., lay.hyper])
        enough = found["ess_bulk"].min() >= ENOUGH_ESS and found["rhat"].max() <= HIGHEST_RHAT
        if enough or 2 * factor > effort.longest:
            break
        begun = {chain: state() for chain, state in states.items()}
        factor *= 2
    return x, found | {"length": np.array(settings.draws), "solver_failures": np.array(failures)}


def diagnostics(h: Floats) -> dict[str, Floats]:
    """R-hat and effective sample sizes, (d,), of population values (chain, draw, d)."""
    array = np.moveaxis(h, -1, 0)
    return {
        "rhat": np.asarray(array_stats.rhat(array, method="rank")),
        "ess_bulk": np.asarray(array_stats.ess(array, method="bulk")),
        "ess_tail": np.asarray(array_stats.ess(array, method="tail", prob=(0.05, 0.95))),
    }


def quantities(problem: Problem, h: Floats, b: Floats) -> tuple[tuple[str, ...], Floats]:
    """Names and values of what is ranked: population values and test quantities.

    Ranks of parameters alone cannot see a posterior that ignores the data (Modrák et al. 2023): for that there are the
    log-likelihood and the joint log density. The deviations, of all patients together and of the first one, are what
    the sampler's own moves are about.
    """
    posterior = Posterior(problem)
    sd = np.exp(h[posterior.log_sd])
    theta = posterior.design.theta(h[: posterior.d], h[posterior.d + posterior.spreads :], b)
    loglik = float(loglik_and_gradient(theta, problem)[0].sum())
    score = (h - posterior.prior_mean) / posterior.prior_sd
    square = float(((b / sd) ** 2).sum())
    joint = loglik - 0.5 * square - problem.n * float(np.log(sd).sum()) - 0.5 * float(score @ score)
    first = [f"{problem.patients[0]} {name}" for name in problem.random]
    names = (*names_of(problem), "log-likelihood", "joint log density", "squared deviations", *first)
    return names, np.concatenate([h, [loglik, joint, square], b[0, : len(first)]])

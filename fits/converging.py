"""Sampling that goes on while it has not converged.

One patient on a ridge can be many times slower than all others, and nobody knows beforehand. So a fit whose R-hat or
effective sample sizes miss their limits goes on for as long again, and keeps every second draw of all: it becomes the
fit that twice the sweeps per draw would have been, to the last bit if the number of draws is even.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Final

import xarray as xr

from .blocks import State
from .chain import Tick, sweeps_per_draw
from .coordinates import Coordinates
from .diagnosis.convergence import MAX_RHAT, MIN_ESS, scalar_table
from .likelihood_op import LogDensity
from .problem import Problem
from .results import Draws, posterior_draws
from .sampling import Settings, sample

#: Kept draws of all chains below which nobody expects convergence: a quick look is not extended.
FEWEST_DRAWS: Final = 4 * MIN_ESS

#: Opens a progress display: title and number of steps in, a function that advances it out.
type Progress = Callable[[str, int], AbstractContextManager[Tick]]


def sample_until_converged(
    problem: Problem,
    log_density: LogDensity,
    coordinates: Coordinates,
    settings: Settings,
    *,
    cores: int = 2,
    progress: Progress,
    finished: Mapping[int, xr.Dataset] | None = None,
    keep: Callable[[int, xr.Dataset], None] = lambda chain, draws: None,
    begun: Mapping[int, State] | None = None,
    save: Callable[[int, Callable[[], State]], None] = lambda chain, state: None,
    end: Callable[[int, State], None] = lambda chain, state: None,
) -> xr.Dataset:
    """All chains, at first by the settings and then, at most ``settings.extensions`` times, for as long again.

    Parameters
    ----------
    progress
        Given a title and a number of steps: a context whose value is told of steps done.
    finished, keep
        Chains as they were before any extension, as in `sample`.
    begun, save, end
        Latest states, as in `sample`.

    Returns
    -------
    xarray.Dataset
        As of `sample`; attribute ``sweeps_per_draw``.
    """
    states = dict(begun or {})
    latest = max([settings.thin, *(sweeps_per_draw(state) for state in states.values())])

    def ended(chain: int, state: State) -> None:
        states[chain] = state
        end(chain, state)

    for extension in range(1 + (settings.extensions if _may_go_on(settings) else 0)):
        now = replace(settings, thin=settings.thin * 2**extension)
        if now.thin < latest:  # a fit that was interrupted knew already that this is not enough
            continue
        first = extension == 0
        done = dict(finished or {}) if first else {}
        title = "Sampling" if first else "Sampling on, for it has not converged"
        with progress(title, max(1, (now.chains - len(done)) * now.steps)) as tick:
            sampled = sample(
                problem, log_density, coordinates, now, cores=cores, tick=tick, finished=done,
                keep=keep if first else _drop, begun=dict(states), save=save, end=ended,
            )  # fmt: skip
        if converged(problem, sampled):
            break
    return sampled.assign_attrs(sweeps_per_draw=now.thin)


def _drop(chain: int, draws: xr.Dataset) -> None:
    """Keep nothing: the chain's state has all its draws."""


def _may_go_on(settings: Settings) -> bool:
    return settings.sampler == "blocks" and settings.draws * settings.chains >= FEWEST_DRAWS


def converged(problem: Problem, sampled: xr.Dataset) -> bool:
    """Whether R-hat and effective sample sizes of every number meet their limits.

    Divergent trajectories are not asked about: more of the same does not make them fewer.
    """
    draws = Draws(problem, sampled["x"].transpose("chain", "draw", ...).to_numpy())
    table = scalar_table(posterior_draws(problem, draws))
    return bool((table["rhat"] < MAX_RHAT).all() and (table[["ess_bulk", "ess_tail"]] > MIN_ESS).to_numpy().all())

"""Draws from the posterior, chain by chain, so that finished chains can be kept and re-used.

Two samplers: ``blocks`` (joint Hamiltonian trajectories of population and patients, then each patient with a step size
of its own and jumps, see `blocks`), the default, for one odd patient cannot break it; and ``nutpie`` (NUTS on the whole
vector), a cross-check. A run records which one ran.
"""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.simulate import Status, solved

from . import chain as block_chain
from .blocks import State
from .chain import Tick
from .coordinates import Coordinates
from .geometry import Posterior
from .likelihood_op import LogDensity
from .problem import Problem

type Floats = NDArray[np.float64]

SAMPLERS: Final = ("blocks", "nutpie")
BLOCKS: Final = "joint HMC of population and patients, HMC and jumps of each patient"
STATISTICS: Final = ("diverging", "n_steps", "step_size", "energy", "logp", "mean_tree_accept")
START_SPREAD: Final = 0.5  # sd of the starting points, in units of the whitened posterior


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to sample.

    Attributes
    ----------
    draws, tune, chains
        Kept and warm-up draws of a chain, and how many chains.
    seed
        Of everything; chain ``k`` has its own stream, whatever ran beside it.
    thin
        Sweeps per kept draw (blocks only); each is repeated in small cohorts, see `chain`.
    sampler
        ``blocks`` or ``nutpie``.
    extensions
        How often sampling goes on for as long again where it has not converged, see `converging` (blocks only).
    """

    draws: int = 400
    tune: int = 400
    chains: int = 4
    seed: int = 1
    thin: int = 3
    sampler: str = "blocks"
    extensions: int = 2

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ReinfuseError(f"unknown sampler {self.sampler!r}; use one of {', '.join(SAMPLERS)}")
        for name, least in (("draws", 10), ("tune", 50), ("chains", 1), ("thin", 1), ("extensions", 0)):
            if getattr(self, name) < least:
                raise ReinfuseError(f"{name} is {getattr(self, name)}; give at least {least}")

    @property
    def steps(self) -> int:
        """Of a chain, as progress counts them: sweeps, or draws of nutpie."""
        return self.tune + self.draws * (self.thin if self.sampler == "blocks" else 1)

    def as_dict(self) -> dict[str, Any]:
        """For records and for the hash that says which chains belong to which fit."""
        return asdict(self)


class _Rejected(ValueError):
    """A point without a density: nutpie counts it as a divergence and goes on."""

    is_recoverable = True


class _Stopped(RuntimeError):
    """Ends a chain whose draws nobody waits for any more."""


def sampler_name(settings: Settings) -> str:
    """The sampler that `sample` runs, with its version."""
    if settings.sampler == "nutpie":
        return f"nutpie {version('nutpie')} NUTS"
    return f"reinfuse {version('reinfuse')} blocks: {BLOCKS}"


def chain_seeds(seed: int, chains: int) -> list[int]:
    """Independent seeds of the chains."""
    return [int(s.generate_state(1)[0]) for s in np.random.SeedSequence(seed).spawn(chains)]


def nutpie_chain(
    log_density: LogDensity, coordinates: Coordinates, settings: Settings, seed: int, tick: Tick
) -> xr.Dataset:
    """One chain of NUTS on the whole vector.

    Returns
    -------
    xarray.Dataset
        ``x`` (draw, coordinate): flat vectors of the statistical model; and the statistics of every draw.
    """
    import nutpie
    from nutpie.compiled_pyfunc import from_pyfunc

    target = coordinates.density(log_density)
    size = coordinates.layout.size

    def make_log_density() -> Callable[[Floats], tuple[float, Floats]]:
        def evaluate(w: Floats) -> tuple[float, Floats]:
            value, gradient = target(np.ascontiguousarray(w))
            if not np.isfinite(value):
                raise _Rejected("no density here")
            return value, gradient

        return evaluate

    def make_expand(*_: Any) -> Callable[[Floats], dict[str, Floats]]:
        def expand(w: Floats) -> dict[str, Floats]:
            tick(1)
            return {"x": coordinates.expand(np.ascontiguousarray(w))[0]}

        return expand

    def start(state: int) -> Floats:
        return np.random.default_rng(state).normal(scale=START_SPREAD, size=size)

    compiled = from_pyfunc(
        size,
        make_log_density,
        make_expand,
        [np.dtype(np.float64)],
        [(size,)],
        ["x"],
        make_initial_point_fn=start,
    )
    tree = nutpie.sample(
        compiled,
        draws=settings.draws,
        tune=settings.tune,
        chains=1,
        cores=1,
        seed=seed,
        progress_bar=False,
        save_warmup=False,
        target_accept=0.9,
    )
    statistics = tree["sample_stats"].to_dataset()
    kept = {name: statistics[name].isel(chain=0, drop=True) for name in STATISTICS if name in statistics}
    x = tree["posterior"]["x"].isel(chain=0).to_numpy()
    return xr.Dataset({"x": (("draw", "coordinate"), x)} | {k: (("draw",), v.to_numpy()) for k, v in kept.items()})


def sample(
    problem: Problem,
    log_density: LogDensity,
    coordinates: Coordinates,
    settings: Settings,
    *,
    cores: int = 2,
    tick: Tick = lambda _: None,
    finished: Mapping[int, xr.Dataset] | None = None,
    keep: Callable[[int, xr.Dataset], None] = lambda chain, draws: None,
    begun: Mapping[int, State] | None = None,
    save: Callable[[int, Callable[[], State]], None] = lambda chain, state: None,
    end: Callable[[int, State], None] = lambda chain, state: None,
) -> xr.Dataset:
    """All chains, ``cores`` at a time.

    Parameters
    ----------
    problem
        The posed cohort.
    log_density
        The statistical model; must be callable from several threads.
    coordinates
        From `geometry.prepare`.
    settings
        How to sample.
    cores
        Chains at a time; does not change the result.
    tick
        Told of steps done (`Settings.steps` of each chain).
    finished
        Chains that need not be sampled again, by number.
    keep
        Given each chain as it finishes.
    begun
        States of chains to go on from, by number (blocks only).
    save
        Offered the state of each chain as it goes on, to be called for when it is wanted (blocks only).
    end
        Given the last state of each chain (blocks only).

    Returns
    -------
    xarray.Dataset
        ``x`` (chain, draw, coordinate) and statistics; attribute ``solver_failures``.
    """
    done: dict[int, xr.Dataset] = dict(finished or {})
    lock, stopping = threading.Lock(), threading.Event()

    def locked(n: int) -> None:
        if stopping.is_set():
            raise _Stopped("another chain failed, or the user interrupted")
        with lock:
            tick(n)

    seeds = chain_seeds(settings.seed, settings.chains)

    def run(chain: int) -> xr.Dataset:
        if settings.sampler == "nutpie":
            return nutpie_chain(log_density, coordinates, settings, seeds[chain], locked)
        return block_chain.sample_chain(
            Posterior(problem),
            coordinates,
            draws=settings.draws,
            tune=settings.tune,
            thin=settings.thin,
            seed=seeds[chain],
            tick=locked,
            saved=(begun or {}).get(chain),
            save=partial(save, chain),
            end=partial(end, chain),
        )

    missing = [k for k in range(settings.chains) if k not in done]
    pool = ThreadPoolExecutor(max_workers=max(1, cores))
    try:
        running = {pool.submit(run, k): k for k in missing}
        for future in as_completed(running):
            chain = running[future]
            done[chain] = future.result()
            keep(chain, done[chain])
    finally:  # whatever happened: chains that still run end with their next draw
        stopping.set()
        pool.shutdown(cancel_futures=True)
    chains = [done[k] for k in range(settings.chains)]
    result = xr.concat([one.drop_vars("outcomes", errors="ignore") for one in chains], dim="chain")
    outcomes = log_density.outcomes + sum(one["outcomes"].to_numpy() for one in chains if "outcomes" in one)
    result.attrs["solver_failures"] = int(outcomes[~solved(np.arange(len(outcomes)))].sum())
    result.attrs["solved_implicitly"] = int(outcomes[Status.IMPLICIT])
    return result

"""Chains of numpyro's NUTS on one core, draw by draw until they are done or their time is up: a process of its own.

Reads what to do from a JSON file (a `Job`), writes draws, statistics and times beside it (``.npz``). Draws are taken
with the kernel's own ``init`` and ``sample``, as `numpyro.infer.MCMC` does; the chains of a process take turns, so that
all of them are equally far when the time is up.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"  # one device, one thread

import jax
import numpy as np
from numpyro.infer import NUTS
from numpyro.infer.util import potential_energy

from reinfuse.fits.cohort import read_cohort
from reinfuse.fits.problem import Specification, pose

from .numpyro import Peer, Solver

START = 0.1  # sd of the starting points around the prior's centre, in units of the prior's sds
POPULATION = ("omega", "population_decentered", "product_effect_decentered")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a process samples.

    Attributes
    ----------
    cohort, random_effects
        The posterior, as `cases.Case` poses it.
    solver
        Fields of `peers.numpyro.Solver`.
    parametrisation
        Of `peers.numpyro.PARAMETRISATIONS`.
    mass
        ``diagonal``; ``dense``; or ``population``: dense for the population, diagonal for the patients.
    accept
        Target acceptance.
    chains
        Numbers of the chains, which seed them.
    warmup, draws
        Of each chain.
    seconds
        Of wall time, compilation not counted.
    """

    cohort: str
    random_effects: tuple[str, ...]
    solver: dict[str, Any]
    parametrisation: str
    mass: str
    accept: float
    chains: tuple[int, ...]
    warmup: int
    draws: int
    seconds: float

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Job:
        """From JSON."""
        found = json.loads(path.read_text(encoding="utf-8"))
        return cls(**found | {"random_effects": tuple(found["random_effects"]), "chains": tuple(found["chains"])})


def nuts(peer: Peer, job: Job, sites: Iterable[str]) -> NUTS:
    """The sampler, of the model's potential: given the model itself, it would compile anew for every chain."""
    model = peer.model(job.parametrisation)
    dense = {"diagonal": (), "dense": tuple(sorted(sites)), "population": tuple(s for s in POPULATION if s in sites)}
    return NUTS(
        potential_fn=jax.jit(lambda z: potential_energy(model, (), {}, z)),
        dense_mass=[dense[job.mass]] if dense[job.mass] else [],
        target_accept_prob=job.accept,
    )


def start(peer: Peer, job: Job, rng: np.random.Generator) -> dict[str, Any]:
    """A starting point near the prior's centre."""
    problem = peer.problem
    q, n = len(problem.random), problem.n
    rows = [problem.population[name] for name in problem.random]
    log_omega = np.log([r.iiv for r in rows]) + START * np.array([r.iiv_log_sd for r in rows]) * rng.standard_normal(q)
    parts = [mean + START * sd * rng.standard_normal(mean.size) for mean, sd in peer.scales.values()]
    eta = START * np.exp(log_omega) * rng.standard_normal((n, q))
    x = np.concatenate([parts[0], log_omega, parts[1], eta.ravel()])
    return peer.sites(x, job.parametrisation)[0]


def run(job: Job, tick: Callable[[str], None]) -> dict[str, Any]:
    """Sample."""
    problem = pose(read_cohort(job.cohort), Specification(random_effects=job.random_effects))
    peer = Peer(problem, Solver(**job.solver))
    since = time.perf_counter()
    begin = {chain: start(peer, job, np.random.default_rng([1, chain])) for chain in job.chains}
    sampler, states = nuts(peer, job, begin[job.chains[0]]), {}
    for chain in job.chains:
        states[chain] = sampler.init(jax.random.key(chain), job.warmup, begin[chain], (), {})
    advance = jax.jit(lambda state: sampler.sample(state, (), {})).lower(states[job.chains[0]]).compile()
    compiling = time.perf_counter() - since
    kept: dict[int, list[Any]] = {chain: [] for chain in job.chains}
    since = time.perf_counter()
    warm = 0.0
    for draw in range(job.warmup + job.draws):
        for chain in job.chains:
            states[chain] = jax.block_until_ready(advance(states[chain]))
            kept[chain].append(_row(states[chain]))
        now = time.perf_counter() - since
        warm = now if draw < job.warmup else warm
        tick(f"{draw + 1} {now:.1f}")
        if now > job.seconds:
            break
    taken = time.perf_counter() - since
    each = [_stacked(peer, kept[chain]) for chain in job.chains]
    found = {name: np.stack([one[name] for one in each]) for name in each[0]}
    return found | {"compile_s": compiling, "warmup_s": warm, "seconds": taken, "warmup": job.warmup}


def _row(state: Any) -> dict[str, Any]:
    adapted = state.adapt_state
    return {
        "z": {name: np.asarray(value) for name, value in state.z.items()},
        "n_steps": int(state.num_steps),
        "diverging": bool(state.diverging),
        "step_size": float(adapted.step_size),
        "accept": float(state.accept_prob),
    }


def _stacked(peer: Peer, rows: list[dict[str, Any]]) -> dict[str, Any]:
    sites = {name: np.stack([row["z"][name] for row in rows]) for name in rows[0]["z"]}
    statistics = {name: np.array([row[name] for row in rows]) for name in rows[0] if name != "z"}
    return {"x": peer.flat(sites)} | statistics


def main(path: Path) -> None:
    """Do the job of a file."""
    progress = path.with_suffix(".progress")
    found = run(Job.read(path), lambda text: progress.write_text(text, encoding="utf-8") and None)
    np.savez(path.with_suffix(".npz"), **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

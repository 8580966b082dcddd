"""Posterior draws of one case by every program: what they cost, and what they are worth."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from cases import Case
from numpy.typing import NDArray

from reinfuse.fits.diagnosis.convergence import MAX_RHAT, scalar_table
from reinfuse.fits.diagnosis.scalars import list_scalars, stack

type Floats = NDArray[np.float64]
type Say = Callable[[str], None]

CORES = 2
STATISTICS = ("x", "n_steps", "diverging")
FEWEST = 20  # kept draws of each chain below which effective sample sizes are not computed
PATIENTS = "individual"  # variable of the patients' parameters; all others are the population's
HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Draws and their cost.

    Attributes
    ----------
    posterior
        As `fits.results.posterior_draws` names them.
    row
        For the table: seconds, effective sample sizes, R-hat.
    """

    posterior: xr.Dataset
    row: dict[str, Any]

    def scalars(self) -> dict[str, Floats]:
        """(chain, draw) of each population scalar, on the scale where its prior is normal."""
        values = stack(self.posterior, list_scalars(self.posterior))
        return {str(name): values.sel(scalar=name).to_numpy() for name in values["scalar"].values}


def worth(posterior: xr.Dataset, seconds: float) -> dict[str, Any]:
    """R-hat and effective sample sizes, per second of wall time: of the population, and of everything."""
    table = scalar_table(posterior)
    groups = {"population": table[table["family"] != PATIENTS], "all": table}
    row: dict[str, Any] = {"chains": posterior.sizes["chain"], "draws": posterior.sizes["draw"]}
    for name, rows in groups.items():
        ess = float(np.nan_to_num(rows[["ess_bulk", "ess_tail"]].to_numpy()).min())
        rhat = float(rows["rhat"].max())
        row |= {
            f"ess_{name}": ess,
            f"ess_per_s_{name}": ess / seconds,
            f"rhat_{name}": rhat,
            f"scalars_{name}": len(rows),
        }
    return row | {"converged": bool(row["rhat_all"] <= MAX_RHAT)}


# ------------------------------------------------------------------------------------------------ ours


def reinfuse_fit(case: Case, sampler: str, folder: Path, settings: Mapping[str, int], say: Say) -> Sampled:
    """A fit as a user gets it: `fits.fitting.fit` into a run folder.

    Counted are exploration and sampling; compilation, and the predictions after sampling, are given beside.
    """
    from reinfuse.fits.fitting import fit
    from reinfuse.fits.sampling import Settings

    run = fit(
        case.cohort, out=folder / f"run_{sampler}", specification=case.specification, cores=CORES, overwrite=True,
        settings=Settings(sampler=sampler, **settings),
    )  # fmt: skip
    tree, wall = run.posterior(), run.provenance["wall_seconds"]
    posterior = tree["posterior"].to_dataset()
    seconds = wall["setup"] + wall["sampling"]
    statistics = tree["sample_stats"].to_dataset()
    row = {
        "peer": "reinfuse",
        "method": "reinfuse" if sampler == "blocks" else f"{sampler}, on our density and in our coordinates",
        "compile_s": wall["compile"],
        "warm_s": wall["setup"],
        "seconds": seconds,
        "after_s": wall["post"],
        "diverging": int(statistics["diverging"].sum()) if "diverging" in statistics else None,
        "finished": True,
        **worth(posterior, seconds),
    }
    say(sentence(row))
    return Sampled(posterior=posterior, row=row)


# --------------------------------------------------------------------------------------------- numpyro


def numpyro_nuts(case: Case, solver: Any, how: Any, folder: Path, say: Say) -> Sampled:
    """NUTS of numpyro: one process for each core, chains shared out, until done or the budget is spent.

    Parameters
    ----------
    case
        The posterior.
    solver
        A `peers.numpyro.Solver`.
    how
        A `Settings` of this file.
    folder
        For what the processes read and write.
    say
        Told of progress.

    Returns
    -------
    Sampled
        With an empty posterior where the budget ended in the warm-up.
    """
    from peers.numpyro_chains import Job

    job = Job(
        cohort=str(case.path), random_effects=case.random_effects, solver=asdict(solver),
        parametrisation=how.parametrisation, mass=how.mass, accept=how.accept, chains=(), warmup=how.warmup,
        draws=how.draws, seconds=60.0 * how.minutes,
    )  # fmt: skip
    paths = []
    for core in range(CORES):
        paths.append(folder / f"numpyro_{core}.json")
        paths[-1].with_suffix(".npz").unlink(missing_ok=True)
        replace(job, chains=tuple(range(core, how.chains, CORES))).write(paths[-1])
    together([[sys.executable, "-m", "peers.numpyro_chains", str(path)] for path in paths], say)
    return gathered(case, how, [np.load(path.with_suffix(".npz")) for path in paths], say)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How numpyro samples."""

    parametrisation: str = "non-centred"
    mass: str = "diagonal"
    accept: float = 0.8
    chains: int = 4
    warmup: int = 500
    draws: int = 1000
    minutes: float = 30.0

    @property
    def label(self) -> str:
        """In tables."""
        masses = {"diagonal": "diagonal mass", "dense": "dense mass", "population": "mass dense in the population"}
        return f"numpyro NUTS, {self.parametrisation}, {masses[self.mass]}"


def together(commands: list[list[str]], say: Say) -> None:
    """Run processes at the same time; an error of one ends the others.

    Raises
    ------
    RuntimeError
        With the end of what the failed process printed.
    """
    running = [
        subprocess.Popen(c, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for c in commands
    ]
    told = time.perf_counter()
    try:
        while any(process.poll() is None for process in running):
            time.sleep(0.5)
            if any(process.poll() not in (None, 0) for process in running):
                break
            if time.perf_counter() - told > 60.0:
                told = time.perf_counter()
                say("numpyro: " + "; ".join(_progress(Path(c[-1])) for c in commands))
        for process in running:
            if process.poll() not in (None, 0):
                raise RuntimeError(f"a process of numpyro failed: {(process.communicate()[0] or '')[-2000:]}")
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.communicate()


def _progress(path: Path) -> str:
    try:
        done, seconds = path.with_suffix(".progress").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return "compiling"
    return f"{done} draws of each chain in {float(seconds):.0f} s"


def gathered(case: Case, how: Settings, found: list[Any], say: Say) -> Sampled:
    """The chains of all processes, warm-up cut off."""
    from reinfuse.fits.results import Draws, posterior_draws

    problem = case.problem()
    length = min(one["x"].shape[1] for one in found)
    kept = {name: np.concatenate([one[name][:, :length] for one in found]) for name in STATISTICS}
    seconds = max(float(one["seconds"]) for one in found)
    steps = float(sum(one["n_steps"].sum() for one in found))
    row: dict[str, Any] = {
        "peer": "numpyro",
        "method": how.label,
        "settings": asdict(how),
        "compile_s": max(float(one["compile_s"]) for one in found),
        "warm_s": max(float(one["warmup_s"]) for one in found),
        "seconds": seconds,
        "gradients": steps,
        "us_per_gradient": 1e6 * sum(float(one["seconds"]) for one in found) / steps,
        "mean_leapfrogs": float(kept["n_steps"].mean()),
        "finished": length == how.warmup + how.draws,
        "warmup_done": min(length, how.warmup),
    }
    if length < how.warmup + FEWEST:
        row |= {"converged": False, "draws": max(0, length - how.warmup), "chains": how.chains}
        say(sentence(row))
        return Sampled(posterior=xr.Dataset(), row=row)
    posterior = posterior_draws(problem, Draws(problem, kept["x"][:, how.warmup :]))
    row |= {"diverging": int(kept["diverging"][:, how.warmup :].sum()), **worth(posterior, seconds)}
    say(sentence(row))
    return Sampled(posterior=posterior, row=row)


def sentence(row: Mapping[str, Any]) -> str:
    """A line of progress."""
    if "ess_population" not in row:
        return f"{row['method']}: still warming up after {row['seconds']:.0f} s ({row['warmup_done']} draws)"
    return (
        f"{row['method']}: R-hat {row['rhat_all']:.3f}, ESS {row['ess_population']:.0f} (population), "
        f"{row['ess_all']:.0f} (all) in {row['seconds']:.0f} s, {row['ess_per_s_population']:.3g} a second; "
        f"compiled in {row['compile_s']:.0f} s"
    )


def best(record: Mapping[str, Any], names: Iterable[str]) -> Settings | None:
    """How numpyro did best in the last of some cases that has been run (see `rank`)."""
    for name in reversed(list(names)):
        rows = [row for row in record.get(name, {}).get("rows", []) if row.get("peer") == "numpyro"]
        if rows:
            return Settings(**max(rows, key=rank)["settings"])
    return None


def rank(row: Mapping[str, Any]) -> tuple[bool, float]:
    """Larger is better; without convergence effective samples say little, and a smaller R-hat counts."""
    if row.get("converged"):
        return True, row["ess_per_s_population"]
    return False, -row.get("rhat_population", np.inf)

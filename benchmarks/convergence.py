"""Do fits converge, and what do they cost? Simulated cohorts of 10 to 300 patients, several seeds: `make convergence`.

Every fit is what `reinfuse fit` samples by default: pose, compile, explore, sample, and go on if need be. The script
goes on where it was: a fit that is in benchmarks/convergence.json is not made again, until the default settings or the
sampler's own files are others. Writes docs/generated/convergence.md and docs/images/convergence.png. ``--cohort FILE``
adds a cohort of one's own (only its figures of merit are kept).
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from rich.console import Console

from reinfuse.fits.calibration.cohorts import Study, draw_cohort, reference_truth
from reinfuse.fits.cohort import read_cohort
from reinfuse.fits.converging import sample_until_converged
from reinfuse.fits.diagnosis.convergence import MAX_DIVERGENCE_SHARE, MAX_RHAT, MIN_ESS, diagnose
from reinfuse.fits.figures import style
from reinfuse.fits.geometry import prepare
from reinfuse.fits.likelihood_op import LogDensity
from reinfuse.fits.population import population_model
from reinfuse.fits.problem import Problem, pose
from reinfuse.fits.results import Draws, layout, posterior_draws
from reinfuse.fits.sampling import Settings

HERE = Path(__file__).parent
RECORD = HERE / "convergence.json"
PAGE = HERE.parent / "docs" / "generated" / "convergence.md"
PICTURE = HERE.parent / "docs" / "images" / "convergence.png"
SIZES = (10, 30, 100, 300)
SEEDS = (1, 2, 3, 4, 5)
SLOWEST = 3  # numbers that a record names
SAMPLER = ("archive", "blocks", "chain", "conditional", "converging", "coordinates", "geometry", "joint", "tempered")
PACKAGES = ("reinfuse", "numpy", "numba", "pymc", "arviz-stats")
console = Console(highlight=False, soft_wrap=True)

type Record = dict[str, Any]


def cohort_of(size: int, seed: int) -> Problem:
    """A simulated cohort, one infusion each, whose population is at the prior medians; a third gets cilta-cel."""
    study = Study(patients=size)
    return draw_cohort(study, np.random.default_rng([seed, size]), h=reference_truth(study)).problem


def fit(problem: Problem, settings: Settings, cores: int) -> Record:
    """Sample as `reinfuse fit` does, and judge all numbers."""
    marks, cpu = [time.perf_counter()], time.process_time()
    density = LogDensity(population_model(problem))
    marks.append(time.perf_counter())
    coordinates = prepare(problem, density, layout(problem), np.random.default_rng([settings.seed, 0]))
    marks.append(time.perf_counter())
    sampled = sample_until_converged(problem, density, coordinates, settings, cores=cores, progress=_silent)
    marks.append(time.perf_counter())
    compile_, explore, sampling = np.diff(marks).round(2).tolist()
    draws = Draws(problem, sampled["x"].transpose("chain", "draw", ...).values)
    groups = {"/posterior": posterior_draws(problem, draws), "/sample_stats": sampled.drop_vars("x")}
    found = diagnose(xr.DataTree.from_dict(groups))
    return {
        "patients": problem.n,
        "numbers": found.n_scalars,
        "max_rhat": found.max_rhat,
        "min_ess_bulk": found.min_ess_bulk,
        "min_ess_tail": found.min_ess_tail,
        "divergence_share": found.divergence_share,
        "converged": found.converged,
        "sweeps_per_draw": int(sampled.attrs["sweeps_per_draw"]),
        "slowest": [_unnamed(str(number["parameter"])) for number in found.worst[:SLOWEST]],
        "compile": compile_,
        "explore": explore,
        "sampling": sampling,
        "cpu": round(time.process_time() - cpu, 1),
        "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


@contextmanager
def _silent(title: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda done: None


def _unnamed(number: str) -> str:
    """What a number is, without the patient it belongs to: the record may be of real ones."""
    name, _, owner = number.partition("[")
    return f"{name} of a patient" if owner else name


def table(records: list[Record]) -> str:
    """The page's fragment."""
    header = (
        "cohort",
        "fits",
        "converged",
        "largest R-hat",
        "smallest ESS, bulk",
        "tail",
        "divergent",
        "sweeps a draw",
        "sampling, s",
        "slowest numbers",
    )
    lines = [
        f"`make convergence`, {max(r['date'] for r in records)}; "
        + ", ".join(f"{name} {v}" for name, v in records[-1]["versions"].items())
        + f". Wanted: R-hat below {MAX_RHAT}, effective sample sizes above {MIN_ESS:.0f}, "
        f"divergent trajectories below {100 * MAX_DIVERGENCE_SHARE:.1f} %. A fit that misses "
        "the first two goes on, with twice the sweeps a draw, and once more.",
        "",
        f"| {' | '.join(header)} |",
        "|---" * len(header) + "|",
    ]
    for name in dict.fromkeys(r["cohort"] for r in records):
        mine = [r for r in records if r["cohort"] == name]
        rhat, bulk, tail, seconds = (
            np.array([r[k] for r in mine]) for k in ("max_rhat", "min_ess_bulk", "min_ess_tail", "sampling")
        )
        share = max(r["divergence_share"] or 0.0 for r in mine)
        slowest = dict.fromkeys(name for r in mine for name in r["slowest"])
        lines.append(
            f"| {name} | {len(mine)} | {sum(r['converged'] for r in mine)} "
            f"| {rhat.max():.4f} (median {np.median(rhat):.4f}) | {bulk.min():.0f} | {tail.min():.0f} "
            f"| {100 * share:.3f} % | {', '.join(str(k) for k in sorted({r['sweeps_per_draw'] for r in mine}))} "
            f"| {np.median(seconds):.0f} ({seconds.min():.0f} to {seconds.max():.0f}) "
            f"| {', '.join(slowest)} |"
        )
    return "\n".join(lines) + "\n"


@style.styled
def picture(records: list[Record]) -> Figure:
    """Seconds and smallest effective sample size against the number of patients."""
    figure = style.new_figure(3.0)
    cost, size = figure.subplots(1, 2)
    simulated = [r for r in records if r["simulated"]]
    n = np.array([r["patients"] for r in simulated])
    for axes, values, label in (
        (cost, [r["cpu"] for r in simulated], "processor seconds of a fit"),
        (size, [min(r["min_ess_bulk"], r["min_ess_tail"]) for r in simulated], "smallest effective sample size"),
    ):
        axes.loglog(n, values, "o", color=style.BLUE, alpha=0.7)
        axes.set_xlabel("patients")
        axes.set_ylabel(label)
    reach = np.array([n.min(), n.max()], dtype=float)
    middle = np.median([r["cpu"] / r["patients"] for r in simulated if r["patients"] == n.max()])
    cost.loglog(reach, middle * reach, "--", color=style.GREY, label="linear")
    cost.legend(frameon=False)
    size.axhline(MIN_ESS, ls="--", color=style.GREY)
    for axes in (cost, size):  # after the lines, which set them anew
        axes.set_xticks(np.unique(n), [str(patients) for patients in np.unique(n)])
        axes.xaxis.set_minor_locator(NullLocator())
    return figure


def sampler_digest() -> str:
    """Of the sampler's text: a fit by another one says nothing of this."""
    texts = (HERE.parent / "fits" / f"{name}.py" for name in SAMPLER)
    return sha256(b"".join(text.read_bytes() for text in texts)).hexdigest()[:12]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--cohort", type=Path, metavar="FILE", help="a cohort of your own, too")
    parser.add_argument("--name", default="own cohort", help="how the tables call it")
    parser.add_argument("--cores", type=int, default=2)
    chosen = parser.parse_args()
    records: list[Record] = json.loads(RECORD.read_text()) if RECORD.exists() else []
    made_by = sampler_digest()
    records = [  # what was made otherwise is gone
        r for r in records if r["settings"] == Settings(seed=r["seed"]).as_dict() and r.get("sampler") == made_by
    ]
    tasks = [(f"{size} simulated patients", size, seed) for size in chosen.sizes for seed in chosen.seeds]
    if chosen.cohort is not None:
        tasks += [(chosen.name, 0, seed) for seed in chosen.seeds]
    for name, size, seed in tasks:
        settings = Settings(seed=seed)
        key = {"cohort": name, "seed": seed, "settings": settings.as_dict(), "sampler": made_by}
        if any(all(r.get(k) == v for k, v in key.items()) for r in records):
            continue
        problem = cohort_of(size, seed) if size else pose(read_cohort(chosen.cohort))
        found = fit(problem, settings, chosen.cores)
        made = {"date": date.today().isoformat(), "versions": {p: version(p) for p in PACKAGES}}
        records.append(key | {"simulated": size > 0} | found | made)
        records.sort(key=lambda r: (not r["simulated"], r["patients"], r["seed"]))
        RECORD.write_text(json.dumps(records, indent=1) + "\n")
        console.print(
            f"{name}, seed {seed}: R-hat {found['max_rhat']:.4f}, ESS {found['min_ess_bulk']:.0f} and "
            f"{found['min_ess_tail']:.0f}, {found['sampling']:.0f} s of sampling"
        )
        PAGE.write_text(table(records))
        if len({r["patients"] for r in records if r["simulated"]}) > 1:
            picture(records).savefig(PICTURE, dpi=150)


if __name__ == "__main__":
    main()

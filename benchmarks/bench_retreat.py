"""Time a large retreatment experiment: a million virtual patients in ten arms, streamed to Parquet.

``python benchmarks/bench_retreat.py [PATIENTS] [--worlds]`` simulates so many patients (default 1,000,000) in ten arms
from the priors and summarises them, in one world or, with ``--worlds``, in all that an experiment has by default;
prints seconds, seconds of processors (which other work on the machine changes less), and the largest memory of this
process and of its workers.
"""

import argparse
import resource
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from reinfuse.fits.retreatment import engine, scenarios
from reinfuse.fits.retreatment.analysis import parts
from reinfuse.fits.retreatment.statistics import summarise
from reinfuse.fits.retreatment.virtual_patients import from_prior

HEAD = """
[settings]
first_horizon_months = 36
second_horizon_months = 24
"""
ONE_WORLD = """
[[world]]
name = "as assumed"
"""
ARM = """
[[scenario]]
name = "{days} d, {dose}"
first.product = "ide-cel"
second.product = "cilta-cel"
second.bridging = 0.3
second.dose = {dose}
second.days_after_progression = {days}
"""
NONE = """
[[scenario]]
name = "no second infusion"
first.product = "ide-cel"
no_second = true
"""


def _user_seconds() -> list[float]:
    return [resource.getrusage(who).ru_utime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patients", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--worlds", action="store_true", help="all default worlds, not one")
    chosen = parser.parse_args()
    patients: int = chosen.patients
    arms = [ARM.format(days=days, dose=dose) for days in (30, 60, 120) for dose in ("2.8e7", "5.5e7", "1.1e8")]
    file = scenarios.parse(HEAD + ("" if chosen.worlds else ONE_WORLD) + "".join(arms) + NONE)
    products = [file.product(name) for name in file.product_names]
    population = from_prior(rng=np.random.default_rng(0), products=products, n_draws=100, options="real")
    with tempfile.TemporaryDirectory() as place:
        begun = time.perf_counter()
        path = Path(place) / "outcomes.parquet"
        experiment = engine.run(file, population, patients=patients, seed=1, path=path)
        simulated, user = time.perf_counter(), _user_seconds()
        rng = np.random.default_rng(1)
        summarise(parts(experiment.outcomes, file), groups=scenarios.GROUPS, weights=file.weights, rng=rng)
        done = time.perf_counter()
        size = path.stat().st_size / 2**30
    memory = [resource.getrusage(who).ru_maxrss / 2**20 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    what = f"{patients:,} patients, {len(file.scenarios)} arms, worlds: {len(file.worlds)}"
    print(f"reinfuse {version('reinfuse')}, {what}")
    print(f"simulated and streamed in {simulated - begun:.0f} s, summarised in {done - simulated:.0f} s")
    print(f"processors: {user[0]:.0f} s here up to the end of writing, {user[1]:.0f} s in workers")
    print(f"Parquet {size:.2f} GiB; largest memory {memory[0]:.2f} GiB here, {memory[1]:.2f} GiB in a worker")


if __name__ == "__main__":
    main()

"""Time a large global sensitivity analysis: a million model runs for Sobol's indices of the priors.

``python benchmarks/bench_sensitivity.py [RUNS]`` prints, for outcomes that need more and more of a patient's course,
seconds, processor time of this process and its workers per run, and the largest memory of a worker.
"""

import resource
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from reinfuse.fits.retreatment.scenarios import load
from reinfuse.fits.retreatment.virtual_patients import from_prior
from reinfuse.fits.sensitivity.designs import Design
from reinfuse.fits.sensitivity.inputs import TABULATED, from_population
from reinfuse.fits.sensitivity.outcomes import expanded
from reinfuse.fits.sensitivity.reader import Reader
from reinfuse.fits.sensitivity.study import analyse

CASES = (("cmax", "auc28"), ("cmax", "nadir", "best", "pfs1"), ("benefit",))


def cpu() -> float:
    """Processor seconds of this process and of its workers that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both)


def main() -> None:
    """Run it."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    file = load(None)
    products = [file.product(name) for name in file.product_names]
    population = from_prior(rng=np.random.default_rng(0), products=products, n_draws=TABULATED, options="real")
    inputs = from_population(population, rng=np.random.default_rng(1))
    print(f"reinfuse {version('reinfuse')}, SALib {version('SALib')}, {inputs.k} inputs")
    for names in CASES:
        design = Design("sobol", inputs, seed=1)
        reader = Reader(
            inputs=inputs, asked=expanded(names), file=file, scenario=file.scenarios[0], worlds=(file.worlds[0],),
            options="real",
        )  # fmt: skip
        reader.read(inputs.at(np.zeros((8, inputs.k))))  # compiles once, if it was not yet
        units = -(-runs // design.rows)
        begun, used = time.perf_counter(), cpu()
        with tempfile.TemporaryDirectory() as place:
            found = analyse(design, reader, units=units, seed=1, folder=Path(place), recipe={})
        wall, used = time.perf_counter() - begun, cpu() - used
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        print(
            f"{', '.join(names)}: {found.runs:,} runs in {wall:.0f} s, {1e6 * used / found.runs:.0f} µs of processor "
            f"time a run, {found.left_out} of {found.units} blocks left out, {memory:.2f} GiB in a worker"
        )


if __name__ == "__main__":
    main()

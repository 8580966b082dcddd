"""What a fit costs by the number of patients: `make fit-cost`.

Processor seconds of the exploration and of a sweep of the sampler, for simulated cohorts of 10 to 1,000 patients. A
sweep is what a draw is made of; how many a posterior needs is another question, which `make convergence` asks.
Processor seconds, so that other work on the machine counts for little; each size is timed several times in turn,
medians are kept. Writes docs/generated/fit_cost.md and docs/images/fit_cost.png.
"""

from __future__ import annotations

import argparse
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from convergence import PACKAGES, cohort_of
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from rich.console import Console

from reinfuse.fits.chain import started
from reinfuse.fits.figures import style
from reinfuse.fits.geometry import Posterior, prepare
from reinfuse.fits.likelihood_op import LogDensity
from reinfuse.fits.population import population_model
from reinfuse.fits.results import layout

DOCS = Path(__file__).parents[1] / "docs"
SIZES = (10, 30, 100, 300, 1000)
WARM = 60  # sweeps that teach the sampler its step sizes, not timed
TIMED = 20
console = Console(highlight=False, soft_wrap=True)


def costs(size: int, seed: int) -> tuple[float, float]:
    """Processor seconds of one exploration and of one sweep after a short warm-up."""
    problem = cohort_of(size, seed)
    density = LogDensity(population_model(problem))
    start = time.process_time()
    coordinates = prepare(problem, density, layout(problem), np.random.default_rng([seed, 0]))
    explored = time.process_time() - start
    chain = started(Posterior(problem), coordinates, draws=10, tune=WARM, seed=seed)
    while chain.warmed < WARM:
        chain.warm()
    start = time.process_time()
    for _ in range(TIMED):
        chain.sampler.sweep(tune=False)
    return explored, (time.process_time() - start) / TIMED


def table(sizes: list[int], found: np.ndarray, repeats: int) -> str:
    """Medians and what a patient costs; ``found`` is (repeats, sizes, 2)."""
    middle = np.median(found, axis=0)
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    slope = [float(np.polyfit(np.log(sizes), np.log(middle[:, k]), 1)[0]) for k in (0, 1)]
    rows = [
        f"| {n} | {a:.1f} | {1000 * a / n:.0f} | {1000 * b:.1f} | {1000 * b / n:.2f} |"
        for n, (a, b) in zip(sizes, middle, strict=True)
    ]
    return "\n".join(
        [
            f"`make fit-cost`, {date.today()}; {versions}; medians of {repeats} cohorts of each size.",
            "",
            "| patients | exploration, s | per patient, ms | a sweep, ms | per patient, ms |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"Slopes of ln cost by ln patients: exploration {slope[0]:.2f}, a sweep {slope[1]:.2f}; 1 is linear.",
            "",
        ]
    )


@style.styled
def picture(sizes: list[int], found: np.ndarray) -> Figure:
    """Both costs against the number of patients, with a line of slope 1 through the largest."""
    figure = style.new_figure(3.0)
    for axes, k, label in zip(figure.subplots(1, 2), (0, 1), ("exploration", "one sweep"), strict=True):
        middle = np.median(found[:, :, k], axis=0)
        for line in found[:, :, k]:
            axes.loglog(sizes, line, "o", color=style.BLUE, alpha=0.5)
        axes.loglog(sizes, middle[-1] * np.array(sizes) / sizes[-1], "--", color=style.GREY, label="linear")
        axes.set_xlabel("patients")
        axes.set_ylabel(f"{label}, processor seconds")
        axes.set_xticks(sizes, [str(n) for n in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.legend(frameon=False)
    return figure


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=3, help="cohorts of each size")
    chosen = parser.parse_args()
    found = np.empty((chosen.repeats, len(chosen.sizes), 2))
    costs(min(chosen.sizes), 0)  # compiles, or loads what was compiled
    for repeat in range(chosen.repeats):
        for place, size in enumerate(chosen.sizes):
            found[repeat, place] = costs(size, repeat + 1)
            console.print(
                f"{size} patients, cohort {repeat + 1}: exploration {found[repeat, place, 0]:.1f} s, "
                f"a sweep {1000 * found[repeat, place, 1]:.1f} ms"
            )
    (DOCS / "generated" / "fit_cost.md").write_text(table(chosen.sizes, found, chosen.repeats), encoding="utf-8")
    picture(chosen.sizes, found).savefig(DOCS / "images" / "fit_cost.png", dpi=150)


if __name__ == "__main__":
    main()

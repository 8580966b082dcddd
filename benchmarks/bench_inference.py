"""Effective samples a second beside numpyro + diffrax, on the same posteriors: `make bench-inference`.

For every case: (1) both programs' log densities and gradients at random points, which must agree, or the run ends with
exit code 1; (2) the tolerance at which diffrax delivers our accuracy, and its quickest way to gradients; (3) draws by
reinfuse, by nutpie on our density and by numpyro, each on two cores; (4) whether means and sds agree. Writes
benchmarks/inference.json, and from it the tables and the picture of docs/inference.md. ``--quick`` does everything at
small sizes, into benchmarks/quick, to see that it works; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("NUMBA_NUM_THREADS", str(os.cpu_count() or 1))

import agreement
import cases
import inference_page
import sampling
import tuning
from bench import machine
from rich.console import Console

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
PAGE = DOCS / "inference.md"
PACKAGES = ("reinfuse", "numpyro", "diffrax", "jax", "equinox", "nutpie", "pymc", "numba", "numpy", "arviz-stats")
NAMES = ("small", "12", "30")
console = Console(highlight=False, soft_wrap=True)

#: How numpyro is run: the small case in these ways, that of 12 in `STRUCTURED` ones, later cases in the best of those.
WAYS = (
    sampling.Settings(parametrisation="non-centred", mass="dense"),
    sampling.Settings(parametrisation="centred", mass="dense"),
    sampling.Settings(parametrisation="non-centred", mass="diagonal"),
)
STRUCTURED = tuple(
    sampling.Settings(parametrisation=p, mass=m, chains=2, warmup=300)
    for p, m in (("non-centred", "diagonal"), ("non-centred", "population"), ("centred", "population"))
)
MINUTES = {"small": 40.0, "12": 40.0, "30": 60.0, "file": 60.0}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, into benchmarks/quick")
    parser.add_argument("--case", action="append", choices=NAMES, help="this case, and keep the others' results")
    parser.add_argument(
        "--cohort", type=Path, metavar="FILE", help="a cohort file of your own instead (first infusions)"
    )
    parser.add_argument("--minutes", type=float, help="wall budget of each run of numpyro (default: by case)")
    parser.add_argument("--densities", action="store_true", help="compare densities and gradients, and stop")
    parser.add_argument("--report", action="store_true", help="run nothing: page and picture from the results")
    return parser.parse_args()


def made(name: str, folder: Path, cohort: Path | None, quick: bool) -> cases.Case:
    """A case by its name."""
    if name == "file":
        assert cohort is not None
        return cases.own(cohort, folder)
    if name == "small":
        return cases.synthetic(4 if quick else 8, folder, cases.FEW)
    return cases.synthetic(int(name), folder)


def ways(name: str, best: sampling.Settings | None, chosen: argparse.Namespace) -> list[sampling.Settings]:
    """Settings of numpyro for a case."""
    if chosen.quick:
        return [replace(WAYS[0], warmup=15, draws=25, minutes=1.0)]
    minutes = chosen.minutes or MINUTES[name]
    if name == "small":
        return [replace(way, minutes=minutes) for way in WAYS]
    if name == "12" or best is None:
        return [replace(way, minutes=minutes) for way in STRUCTURED]
    return [replace(best, minutes=minutes)]


def run_case(name: str, record: dict[str, Any], chosen: argparse.Namespace, folder: Path, save: Any) -> None:
    """All of one case; results are saved as they come."""

    def say(text: str) -> None:
        console.print(f"[bold]{name}[/] {text}")

    case = made(name, folder, chosen.cohort, chosen.quick)
    problem = case.problem()
    found: dict[str, Any] = {"title": case.name, "patients": problem.n, "records": int(problem.n_ob.sum())}
    found |= {"date": time.strftime("%Y-%m-%d %H:%M"), "random_effects": list(case.random_effects)}
    record[name] = found
    found["densities"] = agreement.densities(case, say)
    save()
    if chosen.densities:
        return
    found["tuning"] = tuning.tune(case, chosen.quick, say)
    save()
    solver = tuning.quickest(found["tuning"])
    settings = {"draws": 100, "tune": 100, "chains": 2} if chosen.quick else {}
    reference = sampling.reinfuse_fit(case, "blocks", folder, settings, say)
    found["rows"] = [reference.row]
    save()
    others = [lambda: sampling.reinfuse_fit(case, "nutpie", folder, settings, say)]
    best = sampling.best(record, NAMES[1:2]) if name == "30" else None
    for how in ways(name, best, chosen):
        others.append(lambda how=how: sampling.numpyro_nuts(case, solver, how, folder, say))
    for other in others:
        try:
            theirs = other()
        except Exception as error:  # a program's failure is a result
            traceback.print_exc()
            found["rows"].append({"failed": f"{type(error).__name__}: {error}"[:300]})
            continue
        if theirs.posterior.sizes:
            theirs.row["agreement"] = agreement.draws_agree(reference.scalars(), theirs.scalars())
        found["rows"].append(theirs.row)
        save()


def main() -> int:
    """Run, write, report."""
    chosen = arguments()
    results = HERE / "quick" if chosen.quick or chosen.densities or chosen.cohort else HERE
    results.mkdir(exist_ok=True)
    path = results / "inference.json"
    if not chosen.report:
        record = json.loads(path.read_text(encoding="utf-8")) if chosen.case and path.exists() else {}
        record |= {"machine": machine(), "versions": {p: version(p) for p in PACKAGES}, "quick": chosen.quick}

        def save() -> None:
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

        names = ["file"] if chosen.cohort else chosen.case or (["small"] if chosen.quick else list(NAMES))
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                try:
                    run_case(name, record, chosen, Path(folder), save)
                except agreement.Disagreement as error:
                    console.print(f"[bold red]{name}[/] {error}")
                    return 1
    pages = results if results != HERE else DOCS
    if not chosen.densities:
        inference_page.write(json.loads(path.read_text(encoding="utf-8")), pages, PAGE)
        console.print(f"results in {path.relative_to(HERE.parent)}, page in {pages.relative_to(HERE.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""One million patients, two infusions each, through the public interface: seconds and memory.

``python million.py N`` simulates N of them and prints one line of JSON; `run` does that in a fresh process, so that the
peak of memory is this job's own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from timing import spread

SECOND = 400.0  # d
DAYS = np.array([0.0, 14, 28, 90, 180, 400, 414, 428, 490, 580, 800])
READOUTS = ("cart", "Ts", "Tr")


def simulate(n: int) -> dict[str, float]:
    """CAR-T cells and burden of patients of the prior over two infusions, summarised as they stream."""
    from reinfuse.model.course import Infusion
    from reinfuse.model.ensemble import summarise_population

    course = [Infusion(product="ide-cel"), Infusion(product="cilta-cel", day=SECOND)]
    found = summarise_population(size=n, course=course, times=DAYS, readouts=READOUTS)
    late = float(found["Ts"].sel(quantile=0.5, time=DAYS[-1]))
    return {"failures": found.attrs["failures"], "implicit": found.attrs["implicit"], "median_burden_at_end": late}


def main(n: int) -> None:
    """Compile (or load), then simulate ``n`` patients; print the outcome."""
    simulate(64)
    start = time.perf_counter()
    outcome = simulate(n)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2  # Linux counts in KiB
    print(json.dumps({"patients": n, "seconds": seconds, "peak_gib": peak} | outcome))


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """The section of the results."""
    found: list[dict[str, Any]] = []
    for _ in range(1 if quick else 3):
        done = subprocess.run(
            [sys.executable, __file__, str(20_000 if quick else 1_000_000)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        found.append(json.loads(done.stdout.splitlines()[-1]))
        say(f"{found[-1]['patients']} patients: {found[-1]['seconds']:.1f} s, {found[-1]['peak_gib']:.2f} GiB")
    seconds = spread([f["seconds"] for f in found])
    return found[0] | {"seconds": seconds, "peak_gib": max(f["peak_gib"] for f in found), "observations": DAYS.size}


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""One million patients, two infusions each, through the public interface: seconds and memory.

``python million.py N`` simulates N of them and prints one line of JSON; `run` does that in a fresh process, so that the
peak of memory is this job's own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
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


def peak_gib() -> float:
    """Most memory that this program held at once; `getrusage` would count what its parent held when it started us."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    kib = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(kib) / 1024**2


def main(n: int) -> None:
    """Compile (or load), then simulate ``n`` patients; print the outcome."""
    simulate(64)
    start = time.perf_counter()
    outcome = simulate(n)
    seconds = time.perf_counter() - start
    print(json.dumps({"patients": n, "seconds": seconds, "peak_gib": peak_gib()} | outcome))


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

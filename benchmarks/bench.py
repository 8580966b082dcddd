"""reinfuse beside its peers, in one run: `make bench`.

Writes the results (benchmarks/results.json), and from them the tables and pictures of docs/performance.md. ``--quick``
does everything at small sizes, into benchmarks/quick, to see that it works; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("NUMBA_NUM_THREADS", str(os.cpu_count() or 1))

import compiling
import gradients
import million
import overhead
import peers
import report
import scaling
import simulation
from rich.console import Console

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
SECTIONS = ("simulation", "gradients", "scaling", "overhead", "compiling", "million")
console = Console(highlight=False, soft_wrap=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, into benchmarks/quick")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="this section, and keep the others' results")
    parser.add_argument(
        "--without", action="append", default=[], choices=sorted(peers.PEERS), help="leave this peer out"
    )
    parser.add_argument("--report", action="store_true", help="run nothing: tables and pictures from the results")
    return parser.parse_args()


def machine() -> dict[str, Any]:
    """Processor and cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    return {"processor": processor, "cores": os.cpu_count(), "system": platform.system()}


def section(name: str, found: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Run one section; a failure is a result, not the end."""

    def say(text: str) -> None:
        console.print(f"[bold]{name}[/] {text}")

    runners: dict[str, Callable[[], dict[str, Any]]] = {
        "simulation": lambda: simulation.run(found, quick, say),
        "gradients": lambda: gradients.run(found, quick, say),
        "scaling": lambda: scaling.run(found, quick, say),
        "overhead": lambda: overhead.run(quick, say),
        "compiling": lambda: compiling.run(quick, say),
        "million": lambda: million.run(quick, say),
    }
    start = time.perf_counter()
    try:
        result = runners[name]()
    except Exception as error:  # the other sections are worth having
        traceback.print_exc()
        result = {"failed": f"{type(error).__name__}: {error}"[:300]}
    say(f"took {time.perf_counter() - start:.0f} s")
    return result | {"date": time.strftime("%Y-%m-%d %H:%M")}


def main() -> None:
    """Run, write, report."""
    chosen = arguments()
    folder = HERE / "quick" if chosen.quick else HERE
    folder.mkdir(exist_ok=True)
    path = folder / "results.json"
    if not chosen.report:
        record = json.loads(path.read_text(encoding="utf-8")) if chosen.only and path.exists() else {}
        found, missing = peers.load(chosen.without)
        for package, reason in missing.items():
            console.print(f"[bold]{package}[/] {reason}")
        record |= {"machine": machine(), "versions": peers.versions(), "missing": missing, "quick": chosen.quick}
        for name in chosen.only or SECTIONS:
            record[name] = section(name, found, chosen.quick)
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    pages = folder if chosen.quick else DOCS
    report.write(json.loads(path.read_text(encoding="utf-8")), pages, DOCS / "performance.md")
    console.print(f"results in {path.relative_to(HERE.parent)}, page in {pages.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()

"""Two pictures: work against precision, and how the cost grows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from equal_error import by_method
from matplotlib.axes import Axes
from matplotlib.figure import Figure

type Record = Mapping[str, Any]

OURS_COLOUR = "#b5301f"
FAMILY = {  # colour and marker of a peer; its methods differ by dashes
    "reinfuse": (OURS_COLOUR, "o"),
    "heyoka": ("#1f4e79", "s"),
    "diffrax": ("#2e7d32", "^"),
    "numbalsoda": ("#7b4b94", "D"),
    "CyRK": ("#b8860b", "v"),
    "scikit-sundae": ("#00838f", "P"),
    "scipy": ("#757575", "X"),
}
DASHES = ("-", "--", ":")
mpl.rcParams |= {"svg.hashsalt": "reinfuse", "svg.fonttype": "path", "font.size": 9}


def draw(record: Record, folder: Path) -> list[tuple[str, str]]:
    """Draw what there are results for; names of files with what they show."""
    drawn = []
    if record.get("simulation", {}).get("rows") or record.get("gradients", {}).get("rows"):
        save(work_precision(record), folder / "work_precision.svg")
        drawn.append(("work_precision.svg", "Time against error: trajectories and gradients"))
    if record.get("scaling", {}).get("rows"):
        save(growth(record), folder / "scaling.svg")
        drawn.append(("scaling.svg", "Time against states, parameters, observations and tolerance"))
    return drawn


def save(figure: Figure, path: Path) -> None:
    """An SVG that is the same when its numbers are."""
    figure.savefig(path, metadata={"Date": None})


def work_precision(record: Record) -> Figure:
    """Microseconds against error, one thread, for trajectories and for gradients."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _curves(left, by_method(record.get("simulation", {}).get("rows", []), 1), "a trajectory")
    _curves(right, by_method(record.get("gradients", {}).get("rows", [])), "a gradient")
    return figure


def _curves(axes: Axes, methods: Mapping[str, list[Record]], what: str) -> None:
    count: dict[str, int] = {}
    for name, rows in methods.items():
        peer = rows[0]["peer"]
        colour, marker = FAMILY[peer]
        dash = DASHES[count.setdefault(peer, 0) % len(DASHES)]
        count[peer] += 1
        points = sorted((r for r in rows if r["error"]), key=lambda r: r["tolerance"])
        errors = [r["error"] for r in points]
        middle = [r["us"]["median"] for r in points]
        bars = [
            [m - r["us"]["q1"] for m, r in zip(middle, points, strict=True)],
            [r["us"]["q3"] - m for m, r in zip(middle, points, strict=True)],
        ]
        width = 2.4 if peer == "reinfuse" else 1.2
        axes.errorbar(errors, middle, bars, color=colour, marker=marker, ms=4, ls=dash, lw=width, capsize=2, label=name)
    axes.set(xscale="log", yscale="log", xlabel="largest error", ylabel=f"µs for {what}, one thread")
    axes.invert_xaxis()
    axes.grid(which="major", alpha=0.3)
    if axes.has_data():
        axes.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)


def _finish(axes: Axes) -> None:
    axes.grid(which="major", alpha=0.3)
    if axes.has_data():
        axes.legend(fontsize=7, frameon=False)


def growth(record: Record) -> Figure:
    """Microseconds against the size of the problem."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    rows = record["scaling"]["rows"]
    panels = figure.subplots(2, 2)
    for axes, along in zip(panels.flat, ("states", "parameters", "observations"), strict=False):
        lines: dict[tuple[str, str], list[Record]] = {}
        for row in rows:
            if row["along"] == along:
                lines.setdefault((row["what"], row["method"]), []).append(row)
        for (what, method), points in lines.items():
            peer = "reinfuse" if method.startswith("reinfuse") else "heyoka"
            colour, marker = FAMILY[peer]
            label = f"{what}, {method} at {points[0]['tolerance']:g}"
            style = "-" if what == "trajectory" else "--"
            axes.plot(
                [p["x"] for p in points], [p["us"]["median"] for p in points],
                color=colour, marker=marker, ms=4, ls=style, label=label,
            )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel=f"number of {along}", ylabel="µs for each patient, one thread")
        numbers = sorted({row["x"] for row in rows if row["along"] == along})
        axes.set_xticks(numbers, labels=[str(x) for x in numbers])
        axes.set_xticks([], minor=True)
    _tolerances(panels[1, 1], by_method(record.get("simulation", {}).get("rows", []), 1))
    for axes in panels.flat:
        _finish(axes)
    return figure


def _tolerances(axes: Axes, methods: Mapping[str, list[Record]]) -> None:
    for name, rows in methods.items():
        if rows[0]["peer"] in ("reinfuse", "heyoka"):
            colour, marker = FAMILY[rows[0]["peer"]]
            points = sorted(rows, key=lambda r: r["tolerance"])
            axes.plot(
                [p["tolerance"] for p in points], [p["us"]["median"] for p in points],
                color=colour, marker=marker, ms=4, label=f"trajectory, {name}",
            )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="tolerance", ylabel="µs for each patient, one thread")
    axes.invert_xaxis()

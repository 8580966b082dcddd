"""Work at equal error: what a method would take to be exactly as wrong as another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import exp, log
from typing import Any

type Rows = Sequence[Mapping[str, Any]]


def at_error(rows: Rows, error: float, which: str = "median") -> float | None:
    """Microseconds of one method at an error; None where it is never as good as that.

    Between two tolerances of which one is too loose, log-log interpolation. A method that is better than asked at its
    loosest tolerance takes what it takes there. A run that leaves a patient unsolved does not count.
    """
    points = sorted((r for r in rows if r["error"] and not r["unsolved"]), key=lambda r: -r["tolerance"])
    costs = [r["us"][which] for r in points if r["error"] <= error]
    for loose, tight in pairwise(points):
        if loose["error"] > error > tight["error"]:
            share = log(loose["error"] / error) / log(loose["error"] / tight["error"])
            costs.append(exp(log(loose["us"][which]) * (1.0 - share) + log(tight["us"][which]) * share))
    return min(costs, default=None)


def by_method(rows: Rows, threads: int | None = None) -> dict[str, list[Mapping[str, Any]]]:
    """Rows by method, of runs on so many threads."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if threads is None or row["threads"] == threads:
            found.setdefault(row["method"], []).append(row)
    return found


def best_of(methods: Mapping[str, Rows], names: Iterable[str], error: float) -> float | None:
    """Microseconds of the quickest of some methods at an error."""
    costs = [cost for name in names if name in methods and (cost := at_error(methods[name], error)) is not None]
    return min(costs, default=None)


def ratio(rows: Rows, ours: str, theirs: str, error: float, threads: int | None = None) -> float | None:
    """How many times the quickest method whose name begins with ``theirs`` takes what ``ours`` takes."""
    methods = by_method(rows, threads)
    peer = best_of(methods, [name for name in methods if name.startswith(theirs)], error)
    mine = best_of(methods, [ours], error)
    return None if peer is None or mine is None else peer / mine

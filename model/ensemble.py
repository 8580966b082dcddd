"""Populations too large for memory: simulated in chunks, kept as counts.

A summary of ten million patients holds one chunk of trajectories at a time. What it keeps is a histogram of the
logarithm of every read-out at every time, from which quantiles come within half a bin (`RESOLUTION`), and running sums.
Random numbers belong to chunks: the same seed and chunk size give the same summary, bit for bit.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from .course import Infusion, patients, resolve
from .errors import ReinfuseError
from .parameters import from_transformed, table, to_transformed
from .simulate import UNITS, simulate_population, solved

type Floats = NDArray[np.float64]
#: From a random generator and a number of patients to parameters by symbol, numbers or arrays (n,).
type Draw = Callable[[np.random.Generator, int], Mapping[str, ArrayLike]]

RESOLUTION: Final = 0.01  # width of a histogram's bin, in natural logarithms
LOWEST: Final = -120.0  # logarithm of the smallest value told apart
BINS: Final = 17_000  # up to exp(50)
CHUNK: Final = 20_000


def prior_draw(options: str = "real") -> Draw:
    """Virtual patients around the prior medians, with the table's spread between patients.

    Parameters
    ----------
    options
        ``"reference"`` or ``"real"``: the table of `reinfuse.model.parameters`.

    Returns
    -------
    callable
        ``draw(rng, n)``, the parameters of ``n`` patients by symbol.
    """
    rows = {symbol: row for symbol, row in table(options).items() if row.iiv > 0}

    def draw(rng: np.random.Generator, n: int) -> Mapping[str, ArrayLike]:
        centre = {symbol: to_transformed(row.median, transform=row.transform) for symbol, row in rows.items()}
        return {
            symbol: from_transformed(centre[symbol] + row.iiv * rng.standard_normal(n), transform=row.transform)
            for symbol, row in rows.items()
        }

    return draw


class Histogram:
    """Counts of the logarithms of values, by time; all times share the bins.

    Attributes
    ----------
    counts
        (T, BINS) patients; values below and above the range count in the outermost bins.
    number, total, square
        (T,) of the logarithms: how many, their sum, the sum of their squares.
    """

    def __init__(self, times: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((times, BINS), dtype=np.int64)
        self.number, self.total, self.square = np.zeros(times), np.zeros(times), np.zeros(times)

    def add(self, values: Floats) -> None:
        """Count values (n, T) >= 0; NaN counts nowhere."""
        with np.errstate(divide="ignore"):
            logs = np.maximum(np.log(values), LOWEST)
        here = np.isfinite(logs)
        bins = np.clip(np.where(here, (logs - LOWEST) / RESOLUTION, 0.0).astype(np.int64), 0, BINS - 1)
        flat = bins + BINS * np.arange(values.shape[1])
        self.counts += np.bincount(flat[here], minlength=self.counts.size).reshape(self.counts.shape)
        self.number += here.sum(axis=0)
        self.total += np.where(here, logs, 0.0).sum(axis=0)
        self.square += np.where(here, logs * logs, 0.0).sum(axis=0)

    def quantiles(self, probabilities: Sequence[float]) -> Floats:
        """Quantiles of the values, (Q, T); NaN where nothing was counted."""
        cumulative = self.counts.cumsum(axis=1)
        found = np.full((len(probabilities), len(self.counts)), np.nan)
        for t, (row, n) in enumerate(zip(cumulative, cumulative[:, -1], strict=True)):
            if n > 0:
                place = np.searchsorted(row, np.asarray(probabilities) * n, side="left")
                found[:, t] = np.exp(LOWEST + RESOLUTION * (place + 0.5))
        return found


def summarise_population(
    *,
    size: int,
    course: Sequence[Infusion],
    times: ArrayLike,
    readouts: Sequence[str],
    draw: Draw | None = None,
    seed: int = 1,
    quantiles: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95),
    options: str = "real",
    tolerance: float = 1e-4,
    chunk: int = CHUNK,
    tick: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """Simulate a population of any size and keep its distribution over time.

    Parameters
    ----------
    size
        Number of patients.
    course
        Infusions, the same for all: their numbers may not be arrays (give them as parameters, ``dose_2``).
    times
        Days at which to report, rising, from 0 (shape ``(T,)``).
    readouts
        What to summarise, by name; values >= 0.
    draw
        ``draw(rng, n)`` gives the parameters of ``n`` patients; None: `prior_draw`.
    seed
        Of the random numbers; chunk ``k`` has a stream of its own.
    quantiles
        Probabilities.
    options, tolerance
        As in `reinfuse.model.simulate.simulate_population`.
    chunk
        Patients in memory at a time.
    tick
        Called with the number of patients after each chunk.

    Returns
    -------
    xarray.Dataset
        By read-out, quantiles (``quantile, time``), and by ``NAME_mean_log`` and ``NAME_sd_log`` (``time``) the mean
        and sd of its natural logarithm; attributes count ``patients``, ``failures`` (left out) and ``implicit``.

    Raises
    ------
    ReinfuseError
        If a number makes no sense, the course holds arrays, or as `simulate_population`.
    """
    for name, value in (("size", size), ("chunk", chunk)):
        if value < 1:
            raise ReinfuseError(f"{name} is {value}; give at least one patient")
    if not readouts:
        raise ReinfuseError("no read-outs are given; name at least one, such as 'cart'")
    if patients(resolve(course)) is not None:
        raise ReinfuseError("the course holds one number per patient; draw them as parameters instead, such as dose_2")
    if not all(0 < q < 1 for q in quantiles):
        raise ReinfuseError(f"quantiles are {tuple(quantiles)}; give probabilities between 0 and 1")
    draw = draw or prior_draw(options)
    grid = np.array(times, dtype=np.float64, ndmin=1)
    histograms = {name: Histogram(grid.size) for name in readouts}
    failures = implicit = 0
    for k, low in enumerate(range(0, size, chunk)):
        n = min(chunk, size - low)
        found = simulate_population(
            course=course,
            times=grid,
            parameters={name: np.broadcast_to(v, n) for name, v in draw(np.random.default_rng([seed, k]), n).items()},
            options=options,
            readouts=readouts,
            tolerance=tolerance,
        )
        good = solved(found["status"].to_numpy())
        for name, histogram in histograms.items():
            histogram.add(found[name].to_numpy()[good])
        failures += found.attrs["failures"]
        implicit += found.attrs["implicit"]
        if tick:
            tick(n)
    return _dataset(histograms, grid, quantiles, {"patients": size, "failures": failures, "implicit": implicit})


def _dataset(
    histograms: Mapping[str, Histogram], times: Floats, quantiles: Sequence[float], attrs: Mapping[str, int]
) -> xr.Dataset:
    data: dict[str, tuple[tuple[str, ...], Floats, dict[str, str]]] = {}
    for name, histogram in histograms.items():
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = histogram.total / histogram.number
            variance = histogram.square / histogram.number - mean**2
        unit = UNITS.get(name, "cells/µL")
        data[name] = (("quantile", "time"), histogram.quantiles(quantiles), {"units": unit})
        data[f"{name}_mean_log"] = (("time",), mean, {"units": f"ln({unit})"})
        data[f"{name}_sd_log"] = (("time",), np.sqrt(np.maximum(variance, 0.0)), {"units": "1"})
    coords = {"quantile": list(quantiles), "time": ("time", times, {"units": "d"})}
    return xr.Dataset(data, coords=coords, attrs=dict(attrs))

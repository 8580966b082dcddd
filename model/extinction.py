"""Is the last myeloma cell gone? A chance, where the equations only know ever smaller numbers.

Near one cell a differential equation is wrong: cells are whole, and the last one divides or dies by chance (Kimmel
2021 puts the cure of lymphoma there). The hybrid tail: each clone, BCMA+ (``Ts``) and BCMA-low (``Tr``), follows the
equations down to a threshold; from there it is a linear birth-death process with the model's own rates, whose chance
of extinction Kendall (1948, Annals of Mathematical Statistics 19:1) gives exactly for rates that change with time.
A clone that the equations let grow back is extinct with that chance.

Rates per cell and day, for BCMA+ and BCMA-low cells::

    birth   r room / (1 - turnover)                  crt r room / (1 - turnover)
    death   K + turnover birth                       by K + turnover birth
    seeds   u r, a BCMA-low cell each                -

``room = 1 - (Ts + Tr) / KB``. How net growth is split into birth and death is ASSUMED: the data see the difference
alone. By default all of it is birth. A ``turnover`` of 0.5 (half as many deaths as births without treatment) doubles
the births around the lowest point, and nearly halves the number of lineages that are expected to survive.

The killing rate K is not read but solved for. With G(x) = x^3 / (1 + x^3) and H(x) = x / (x + c), c = 0.001, the
equations say d ln x / dt = r room G - K H below a few cells, too. Divided by H, both sides have an integral:
ln x - c / x on the left; on the right, along ln x linear in time, ln(1 + x^3) / 3 for the growth. What is left over
is the integral of K, exact to the interpolation of ln x, on any grid, and the smooth extinction G, H is undone.
K comes from ``Ts`` for both clones, for in ``Tr`` it could not be told from seeding.

Seeding: while BCMA+ cells follow the equations, the lineages they seed that survive are Poisson. From their switch on
the two clones are one branching process: a BCMA+ lineage may die out and leave a BCMA-low one behind, or seed only
because it did not die out. So the chance that all is gone is not the product of the two. K follows the equations for
both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numba import prange
from numpy.typing import ArrayLike, NDArray

from .errors import ReinfuseError
from .kernels.policy import leaf, parallel_kernel

type Floats = NDArray[np.float64]

#: Cells at which a clone becomes a birth-death process (ASSUMED; between 100 and 1000 it does not matter).
THRESHOLD: Final = 1000.0
#: Deaths per birth of an untreated clone (ASSUMED).
TURNOVER: Final = 0.0
#: Parameters of the model that the chances depend on besides the trajectories.
NEEDED: Final = ("r", "crt", "by", "u", "KB")

_FADE = 1e-3  # cells: c of H(x) = x / (x + c) in `equations.bcma`
_MANY = 1e4  # cells above which G = H = 1
_FAR, _HOPELESS = 700.0, 1e300  # largest logarithm and odds: no lineage survives them, and nothing overflows


@dataclass(frozen=True, kw_only=True, eq=False)
class Extinction:
    """Chances that clones of n patients are extinct by a day; arrays (n,), NaN where a trajectory is not finite.

    Attributes
    ----------
    sensitive, low : ndarray
        Chance for BCMA+ and BCMA-low myeloma; 0 for a clone that never fell to the threshold.
    both : ndarray
        That no myeloma cell is left.
    switch_sensitive, switch_low : ndarray
        Day on which the clone became a birth-death process; NaN if it did not by that day.
    """

    sensitive: Floats
    low: Floats
    both: Floats
    switch_sensitive: Floats
    switch_low: Floats


def extinction_chance(
    *,
    times: ArrayLike,
    log_sensitive: ArrayLike,
    log_low: ArrayLike,
    parameters: Mapping[str, ArrayLike],
    until: ArrayLike | None = None,
    bridging_day: ArrayLike | None = None,
    bridging: ArrayLike | None = None,
    threshold: float = THRESHOLD,
    turnover: float = TURNOVER,
) -> Extinction:
    """Chance that BCMA+, BCMA-low and all myeloma is extinct by a day, for every patient.

    Parameters
    ----------
    times
        Days of the report, rising, (T,) with T > 1. A row on the day of an infusion is after it.
    log_sensitive, log_low
        ln ``Ts`` and ln ``Tr`` (cells) as simulated, (n, T). A clone that begins below the threshold begins with a
        Poisson number of cells with this mean: the model's start is a share of the burden, not a count.
    parameters
        The values that were simulated, by symbol, numbers or (n,): `NEEDED`; others are ignored.
    until
        Day, a number or (n,); the last of `times` when None.
    bridging_day, bridging
        Days on which a share of every clone was left by bridging therapy, and that share in (0, 1]: numbers, (n,)
        or (n, events). NaN or infinity: never. Infusions with bridging must be listed here.
    threshold
        Cells at which a clone becomes a birth-death process, from 10 to 1e6.
    turnover
        Deaths per birth of an untreated clone, in [0, 1).

    Returns
    -------
    Extinction

    Raises
    ------
    ReinfuseError
        If shapes disagree, days do not rise or lie outside the report, a parameter is missing or outside its domain,
        or a setting is out of range.

    Notes
    -----
    Rates are constant between rows, which gives Kendall's integral in closed form; daily to monthly rows serve.
    """
    days = _days(times)
    sensitive, low = _trajectories(log_sensitive, log_low, days.size)
    n = sensitive.shape[0]
    _within("threshold", threshold, 10 <= threshold <= 1e6, "choose a number of cells from 10 to 1e6")
    _within("turnover", turnover, 0 <= turnover < 1, "give deaths per birth, from 0 to below 1")
    rates = _rates(parameters, n)
    end = _per_patient("until", days[-1] if until is None else until, n)
    outside = ~((end >= days[0]) & (end <= days[-1]))
    if outside.any():
        raise ReinfuseError(
            f"until is {end[outside][0]:g}, the trajectories go from day {days[0]:g} to {days[-1]:g}; stay within"
        )
    bridged, left = _bridging(bridging_day, bridging, n)
    out = np.empty((n, 5))
    _chances(days, sensitive, low, rates, end, bridged, left, threshold, turnover, out)
    return Extinction(
        sensitive=out[:, 0],
        low=out[:, 1],
        both=out[:, 2],
        switch_sensitive=out[:, 3],
        switch_low=out[:, 4],
    )


def kendall(*, cells: ArrayLike, days: ArrayLike, birth: ArrayLike, death: ArrayLike) -> Floats:
    """Exact chance that a birth-death process is extinct at the end, for rates constant within each of some spans.

    Parameters
    ----------
    cells
        Cells at the start, a number or (n,); every one is the start of an independent lineage.
    days
        Lengths of the spans, (S,).
    birth, death
        Rates per cell and day, (S,) or (n, S).

    Returns
    -------
    ndarray
        () or (n,).

    Notes
    -----
    One lineage survives with chance 1 / (1 + A), A = ∫ death(t) exp(∫ (death - birth)) dt (Kendall 1948). Backwards
    through a span of length h: A becomes A E + death (E - 1) / (death - birth), E = exp((death - birth) h).
    """
    lengths = np.asarray(days, dtype=np.float64)
    b, d = (np.asarray(rate, dtype=np.float64) for rate in (birth, death))
    odds = np.zeros(np.broadcast_shapes(b.shape, d.shape, lengths.shape)[:-1])
    for span in reversed(range(lengths.size)):
        loss = np.minimum((d - b)[..., span] * lengths[span], _FAR)
        mean = np.divide(np.expm1(loss), loss, out=np.ones_like(loss), where=loss != 0) * lengths[span]
        with np.errstate(over="ignore"):
            odds = np.minimum(odds * np.exp(loss) + d[..., span] * mean, _HOPELESS)
    with np.errstate(divide="ignore", over="ignore"):
        log_one = -np.log1p(1.0 / odds)
    number = np.asarray(cells, dtype=np.float64)
    return np.asarray(np.where(number == 0, 1.0, np.exp(np.where(number == 0, 1.0, number) * log_one)))


# ------------------------------------------------------------------------------------------------ kernel


@leaf
def _killed(x0: float, x1: float, log0: float, log1: float, growth: float) -> float:
    """Integral of the killing rate over a span in which ln cells went from ``log0`` to ``log1``.

    ``growth`` is the integral of the growth rate; ``x0``, ``x1`` are the cells.
    """
    drop = log0 - log1
    if x0 > _MANY and x1 > _MANY:
        return max(drop + growth, 0.0)
    if abs(drop) > 1e-9:
        share = (np.log1p(x1 * x1 * x1) - np.log1p(x0 * x0 * x0)) / (-3.0 * drop)
    else:
        share = x0 * x0 * (x0 + _FADE) / (1.0 + x0 * x0 * x0)
    return float(max(drop - _FADE / x0 + _FADE / x1 + growth * share, 0.0))


@leaf
def _back(odds: float, births: float, deaths: float) -> float:
    """Kendall's A at a span's start from that at its end; ``births``, ``deaths`` are rates times length."""
    loss = min(deaths - births, _FAR)
    more = np.expm1(loss)
    return float(min(odds * (1.0 + more) + deaths * (more / loss if loss != 0.0 else 1.0), _HOPELESS))


@leaf
def _back_seeding(some: float, low: float, births: float, deaths: float, seeds: float) -> tuple[float, float]:
    """Chances that a BCMA+ lineage leaves any cell, and a BCMA-low one, at a span's start from those at its end.

    With seeds that survive at a rate s both obey dq / dt = s + (b - d - s) q - b q^2 backwards in time, which a linear
    fraction solves; ``births``, ``deaths``, ``seeds`` are rates times length. No difference of like numbers is taken.
    """
    net = births - deaths - seeds
    root = np.sqrt(net * net + 4.0 * births * seeds)
    if root < 1e-8:
        return (some + seeds) / (1.0 + births * some), (low + seeds) / (1.0 + births * low)
    large = root + abs(net)
    small = 4.0 * births * seeds / large
    plus, minus = (large, small) if net > 0.0 else (small, large)  # root + net, root - net
    gone = -np.expm1(-root)
    left = 1.0 - gone
    share, seeded = plus + left * minus, 2.0 * seeds * gone
    base, brake = minus + left * plus, 2.0 * births * gone
    return (some * share + seeded) / (base + some * brake), (low * share + seeded) / (base + low * brake)


@leaf
def _gone(cells: float, odds: float, poisson: bool) -> float:
    """Chance that all lineages of a clone are extinct."""
    if cells <= 0.0:
        return 1.0
    if poisson:
        return float(np.exp(-cells / (1.0 + odds)))
    return float(np.exp(-cells * np.log1p(1.0 / odds))) if odds > 0.0 else 0.0


@leaf
def _none(cells: float, chance: float, poisson: bool) -> float:
    """Chance that none of a clone's lineages leaves something behind."""
    if poisson:
        return float(np.exp(-cells * chance))
    return float(np.exp(cells * np.log1p(-chance))) if chance < 1.0 else 0.0


@leaf
def _log_left(low: float, high: float, bridged: Floats, left: Floats) -> float:
    """Logarithm of the share of a clone left by bridging in ``(low, high]``."""
    total = 0.0
    for event in range(bridged.size):
        if low < bridged[event] <= high:
            total += np.log(left[event])
    return total


@leaf
def _switch(
    days: Floats, logs: Floats, level: float, end: float, bridged: Floats, left: Floats
) -> tuple[int, float, float]:
    """Row that ends the span in which a clone falls to the threshold, the day, and its cells; row -1: it does not."""
    if logs[0] <= level:
        return 0, days[0], float(np.exp(logs[0]))
    for row in range(1, days.size):
        if days[row - 1] >= end:
            break
        if logs[row] <= level:
            before = logs[row] - _log_left(days[row - 1], days[row], bridged, left)
            if before > level:  # only bridging brings it below
                return row, days[row], float(np.exp(logs[row]))
            way = (logs[row - 1] - level) / (logs[row - 1] - before)
            return row, days[row - 1] + way * (days[row] - days[row - 1]), float(np.exp(level))
    return -1, np.nan, 0.0


@leaf
def _one(
    days: Floats,
    sensitive: Floats,
    low: Floats,
    rates: Floats,
    end: float,
    bridged: Floats,
    left: Floats,
    threshold: float,
    turnover: float,
    out: Floats,
) -> None:
    """Chances of one patient, backwards in time from ``end``; ``out`` as `_chances`."""
    r, crt, by, u, capacity = rates[0], rates[1], rates[2], rates[3], rates[4]
    level = np.log(threshold)
    row_s, day_s, cells_s = _switch(days, sensitive, level, end, bridged, left)
    row_r, day_r, cells_r = _switch(days, low, level, end, bridged, left)
    out[0], out[1], out[2], out[3], out[4] = 0.0, 0.0, 0.0, np.nan, np.nan
    begin = np.inf
    if row_s >= 0 and day_s <= end:
        begin, out[3] = day_s, day_s
    if row_r >= 0 and day_r <= end:
        begin, out[4] = min(begin, day_r), day_r
    odds_s, odds_r, seeds = 0.0, 0.0, 0.0
    any_left, low_left = 1.0, 0.0  # chances that a BCMA+ lineage leaves any cell, or a BCMA-low one, behind
    row = days.size - 1
    while row > 0 and days[row - 1] >= end:
        row -= 1
    after_s, after_r = np.exp(sensitive[row]), np.exp(low[row])
    while row > 0 and days[row] > begin:
        start, stop = days[row - 1], min(days[row], end)
        jump = _log_left(start, days[row], bridged, left)
        before_s, before_r = np.exp(sensitive[row - 1]), np.exp(low[row - 1])
        share = np.exp(-jump) if jump < 0.0 else 1.0
        ending_s, ending_r = after_s * share, after_r * share  # just before bridging
        length = days[row] - start
        room = 1.0 - 0.5 * (before_s + before_r + ending_s + ending_r) / capacity
        growth = r * max(room, 0.0)
        kill = _killed(before_s, ending_s, sensitive[row - 1], sensitive[row] - jump, growth * length) / length
        birth = growth / (1.0 - turnover)
        bridging_counts = jump < 0.0 and days[row] <= end
        seeding = 0.0
        if out[4] < stop:
            if bridging_counts:
                odds_r = (odds_r + 1.0) * share - 1.0
            part = stop - max(start, day_r)
            later = 1.0 / (1.0 + odds_r)
            odds_r = _back(odds_r, crt * birth * part, (by * kill + turnover * crt * birth) * part)
            seeding = 0.5 * u * r * (1.0 / (1.0 + odds_r) + later)
            until_switch = min(stop, day_s) - max(start, day_r) if out[3] <= end else part
            if until_switch > 0.0:
                seeds += 0.5 * until_switch * u * r * (before_s / (1.0 + odds_r) + ending_s * later)
        if out[3] < stop:
            if bridging_counts:
                odds_s = (odds_s + 1.0) * share - 1.0
                any_left, low_left = any_left / share, low_left / share
            part = stop - max(start, day_s)
            births, deaths = birth * part, (kill + turnover * birth) * part
            odds_s = _back(odds_s, births, deaths)
            any_left, low_left = _back_seeding(any_left, low_left, births, deaths, seeding * part)
        after_s, after_r = before_s, before_r
        row -= 1
    if out[3] <= end:
        out[0] = _gone(cells_s, odds_s, row_s == 0)
    if out[4] <= end:
        out[1] = _gone(cells_r, odds_r, row_r == 0) * np.exp(-seeds)
        if out[3] <= end:
            out[2] = out[1] * _none(cells_s, any_left, row_s == 0)
            out[1] *= _none(cells_s, low_left, row_s == 0)


@parallel_kernel
def _chances(
    days: Floats,
    sensitive: Floats,
    low: Floats,
    rates: Floats,
    end: Floats,
    bridged: Floats,
    left: Floats,
    threshold: float,
    turnover: float,
    out: Floats,
) -> None:
    """Chances of n patients into ``out`` (n, 5): BCMA+, BCMA-low, all myeloma, and the days of both switches."""
    for i in prange(sensitive.shape[0]):
        if np.all(np.isfinite(sensitive[i])) and np.all(np.isfinite(low[i])):
            _one(
                days, sensitive[i], low[i], rates[i], end[i], bridged[i], left[i], threshold, turnover, out[i],
            )  # fmt: skip
        else:
            out[i] = np.nan


# ------------------------------------------------------------------------------------------------ checks


def _within(name: str, value: float, ok: bool, remedy: str) -> None:
    if not ok:
        raise ReinfuseError(f"{name} is {value!r}; {remedy}")


def _days(times: ArrayLike) -> Floats:
    days = np.array(times, dtype=np.float64, ndmin=1)
    if days.ndim != 1 or days.size < 2 or not np.all(np.isfinite(days)) or not np.all(np.diff(days) > 0):
        raise ReinfuseError(f"times are {np.asarray(times)!r}; give two or more finite days, rising")
    return days


def _trajectories(log_sensitive: ArrayLike, log_low: ArrayLike, rows: int) -> tuple[Floats, Floats]:
    sensitive, low = (np.ascontiguousarray(logs, dtype=np.float64) for logs in (log_sensitive, log_low))
    for name, logs in (("log_sensitive", sensitive), ("log_low", low)):
        if logs.ndim != 2 or logs.shape[1] != rows or logs.shape != sensitive.shape:
            raise ReinfuseError(
                f"{name} has shape {logs.shape}, for {rows} times and {sensitive.shape[0] if sensitive.ndim else 0} "
                "patients; give ln cells as (patients, times)"
            )
    return sensitive, low


def _per_patient(name: str, value: ArrayLike, n: int) -> Floats:
    numbers = np.asarray(value, dtype=np.float64)
    if numbers.shape not in ((), (n,)):
        raise ReinfuseError(f"{name} has shape {numbers.shape}; give a number, or one for each of {n} patients")
    return np.broadcast_to(numbers, (n,))


def _rates(parameters: Mapping[str, ArrayLike], n: int) -> Floats:
    """What the kernel takes of the parameters, (n, 5), in the order of `NEEDED`."""
    missing = [name for name in NEEDED if name not in parameters]
    if missing:
        raise ReinfuseError(f"parameters lack {', '.join(missing)}; give the values that were simulated")
    rates = np.stack([_per_patient(f"parameter {name!r}", parameters[name], n) for name in NEEDED], axis=1)
    for name, column in zip(NEEDED, rates.T, strict=True):
        bad = ~(np.isfinite(column) & (column > 0 if name == "KB" else column >= 0))
        if bad.any():
            raise ReinfuseError(f"parameter {name!r} is {column[bad][0]:g}; give a finite number, at least 0")
    return rates


def _bridging(day: ArrayLike | None, share: ArrayLike | None, n: int) -> tuple[Floats, Floats]:
    """Days and shares left, (n, events); the share is 1 where there is no such day."""
    if (day is None) != (share is None):
        raise ReinfuseError("bridging_day and bridging belong together; give both or neither")
    if day is None or share is None:
        return np.empty((n, 0)), np.empty((n, 0))
    when, left = (np.asarray(values, dtype=np.float64) for values in (day, share))
    when, left = (values[:, None] if values.ndim == 1 else values for values in (when, left))
    try:
        when, left = np.broadcast_arrays(when, left)
        when, left = (np.broadcast_to(values, (n, values.shape[1] if values.ndim else 1)) for values in (when, left))
    except ValueError:
        raise ReinfuseError(
            f"bridging_day has shape {np.shape(day)}, bridging {np.shape(share)}; give numbers, one per patient, or "
            f"({n}, events)"
        ) from None
    given = np.isfinite(when)
    bad = given & ~((left > 0) & (left <= 1))
    if bad.any():
        raise ReinfuseError(f"bridging is {left[bad][0]:g}; give the share of tumour left, above 0 and at most 1")
    return np.where(given, when, np.inf), np.where(given, left, 1.0)

"""Shares, means and medians of virtual patients from counts per draw, and their mixtures over worlds.

A *draw* is one possible population; its patients share it. Three uncertainties are kept apart: what the data left open
about the population (scatter between draws beyond what chance within a draw gives), the finite number of virtual
patients (Monte Carlo error, draws as clusters), and, in a mixture, which world is ours. Nothing here looks at a patient
more than once, so that a million of them are no matter.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

type Floats = NDArray[np.float64]
type Ints = NDArray[np.int64]
type Flags = NDArray[np.bool_]

#: Resamples of draws for the Monte Carlo error of a median.
BOOTSTRAPS: Final = 200
#: Draws are folded into at most so many clusters where worlds are mixed or draws resampled: unions are clusters too.
CLUSTERS: Final = 256


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A simulated figure with its uncertainties.

    Attributes
    ----------
    value : float
        Over all virtual patients; NaN if it cannot be given.
    low, high : float
        Posterior interval, widened by the Monte Carlo error; NaN if it cannot be given. +inf: not reached
        within follow-up.
    mc_error : float
        Monte Carlo standard error, the part that more patients remove; NaN if it cannot be given.
    n : int
        Virtual patients it rests on.
    """

    value: float
    low: float
    high: float
    mc_error: float
    n: int


NOTHING: Final = Estimate(value=float("nan"), low=float("nan"), high=float("nan"), mc_error=float("nan"), n=0)


# -------------------------------------------------------------------------------------------- who is where


class Layout:
    """Where each virtual patient stands: its group and its draw.

    Parameters
    ----------
    draw
        (n,) whole numbers; the same number is the same draw in every world.
    group
        (n,) places 0 … groups - 1; all patients are in group 0 when None.
    groups
        How many groups; every table has one more line, the first: all of them together.
    """

    def __init__(self, draw: ArrayLike, group: Ints | None = None, groups: int = 1) -> None:
        labels = np.asarray(draw)
        self.n = int(labels.size)
        self.groups = groups
        if self.n and labels.dtype.kind in "iu" and labels.min() >= 0 and labels.max() < 2**16:
            code = labels.astype(np.int64)
        else:
            code = np.asarray(np.unique(labels, return_inverse=True)[1], dtype=np.int64)
        self.draws = int(code.max()) + 1 if self.n else 0
        self.group = np.zeros(self.n, dtype=np.int64) if group is None else np.asarray(group, dtype=np.int64)
        self.cell = code if group is None else self.group * self.draws + code

    def only(self, who: Flags) -> "Layout":
        """The same of some patients, (m,); groups and draws keep their places."""
        if who.all():
            return self
        some = object.__new__(Layout)
        some.n, some.groups, some.draws = int(who.sum()), self.groups, self.draws
        some.group, some.cell = self.group[who], self.cell[who]
        return some

    def count(self, who: Flags | None = None) -> Floats:
        """Patients by group and draw, (1 + groups, draws); of all, or of those who."""
        found = np.bincount(self.cell if who is None else self.cell[who], minlength=self.groups * self.draws)
        return self._with_all(found.reshape(self.groups, self.draws))

    def add(self, value: Floats) -> Floats:
        """Sums of a value (n,) by group and draw, (1 + groups, draws)."""
        found = np.bincount(self.cell, weights=value, minlength=self.groups * self.draws)
        return self._with_all(found.reshape(self.groups, self.draws))

    def by_group(self, place: Ints, places: int) -> Floats:
        """Patients by group and place, (1 + groups, places)."""
        found = np.bincount(self.group * places + place, minlength=self.groups * places)
        return self._with_all(found.reshape(self.groups, places))

    def by_draw(self, place: Ints, places: int) -> Floats:
        """Patients by group, draw and place, (1 + groups, draws, places)."""
        found = np.bincount(self.cell * places + place, minlength=self.groups * self.draws * places)
        return self._with_all(found.reshape(self.groups, self.draws, places))

    @staticmethod
    def _with_all(found: NDArray[np.generic]) -> Floats:
        counts = found.astype(np.float64)
        return np.concatenate([counts.sum(axis=0, keepdims=True), counts])


# -------------------------------------------------------------------------------------------------- shares


@dataclass(frozen=True, kw_only=True)
class BetaBinomial:
    """How the chance of an outcome is spread over draws: mean and intra-class correlation in [0, 1)."""

    mean: float
    correlation: float

    @property
    def degenerate(self) -> bool:
        """Whether draws do not differ beyond chance (or the outcome is certain)."""
        return self.correlation <= 1e-9 or not 0 < self.mean < 1

    @property
    def shapes(self) -> tuple[float, float]:
        """Shapes of the beta distribution; only where not degenerate."""
        size = (1 - self.correlation) / self.correlation
        return self.mean * size, (1 - self.mean) * size

    def counts(self, size: int) -> Floats:
        """Distribution of the number of outcomes in a trial whose patients share a draw, (size + 1,)."""
        k = np.arange(size + 1)
        if self.degenerate:
            return np.asarray(stats.binom.pmf(k, size, self.mean), dtype=np.float64)
        return np.asarray(stats.betabinom.pmf(k, size, *self.shapes), dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Shares with an outcome: over all, and how they are spread over draws; every field of one shape.

    Attributes
    ----------
    value
        Share over all patients.
    correlation
        Intra-class correlation, in [0, 1).
    error
        Monte Carlo error: draws as clusters, never below that of independent patients (Jeffreys).
    a, b
        Shapes of a beta distribution with the variance between draws plus the squared Monte Carlo error.
    """

    value: Floats
    correlation: Floats
    error: Floats
    a: Floats
    b: Floats


def spread(hits: Floats, size: Floats) -> Spread:
    """How shares are spread over draws.

    Parameters
    ----------
    hits
        (draws, …) patients with the outcome.
    size
        (draws,) patients; draws without any do not count, but one must have some.

    Notes
    -----
    Analysis-of-variance estimator of the intra-class correlation of binary data, never below 0 (Ridout,
    Demétrio and Firth 1999, Biometrics 55:137, "AOV").
    """
    there = size > 0
    hits, size = hits[there], size[there]
    total, groups = float(size.sum()), size.size
    summed = hits.sum(axis=0)
    mean = summed / total
    squares = np.einsum("d...,d...->...", hits, hits)
    correlation = np.zeros_like(mean)
    if 2 <= groups < total:
        shares = np.einsum("d...,d...,d->...", hits, hits, 1 / size)
        among = (shares - total * mean**2) / (groups - 1)
        within = (summed - shares) / (total - groups)
        typical = (total - float((size**2).sum()) / total) / (groups - 1)
        bottom = among + (typical - 1) * within
        ratio = np.divide(among - within, bottom, out=np.zeros_like(mean), where=bottom > 0)
        correlation = np.clip(ratio, 0.0, 1 - 1e-6)
    error = _floor(summed, total)
    if groups >= 2:
        crossed = np.einsum("d...,d->...", hits, size)
        excess = squares - 2 * mean * crossed + mean**2 * float((size**2).sum())
        error = np.maximum(error, np.sqrt(groups / (groups - 1) * np.maximum(excess, 0.0)) / total)
    middle = (summed + 0.5) / (total + 1)
    chance = middle * (1 - middle)
    variance = np.minimum(chance * correlation + error**2, 0.999 * chance)
    weight = chance / variance - 1
    return Spread(value=mean, correlation=correlation, error=error, a=middle * weight, b=(1 - middle) * weight)


def between(hits: Floats, size: Floats) -> BetaBinomial:
    """How the chance of one outcome is spread over draws; hits and sizes are (draws,)."""
    if size.sum() == 0:
        return BetaBinomial(mean=float("nan"), correlation=0.0)
    found = spread(hits, size)
    return BetaBinomial(mean=float(found.value), correlation=float(found.correlation))


class _Mixture(ABC):
    """What a share and a mean over worlds have in common."""

    value: float
    error: float
    n: int

    @abstractmethod
    def _quantile(self, p: float) -> float: ...

    def estimate(self, level: float) -> Estimate:
        """The value with the interval of the mixture, within its bounds."""
        low, high = (self._quantile(p) for p in ((1 - level) / 2, (1 + level) / 2))
        return Estimate(
            value=self.value, low=min(low, self.value), high=max(high, self.value), mc_error=self.error, n=self.n
        )


@dataclass(frozen=True, kw_only=True)
class Share(_Mixture):
    """A share of patients in one world, or in a mixture of worlds.

    Attributes
    ----------
    value : float
        The share.
    parts : tuple
        Weight and shapes a, b of each world's beta distribution.
    lean : ndarray
        (CLUSTERS,) what each cluster of draws adds to the value's error.
    error : float
        Monte Carlo error.
    n : int
        Patients.
    """

    value: float
    parts: tuple[tuple[float, float, float], ...]
    lean: Floats
    error: float
    n: int

    @classmethod
    def of(cls, hits: Floats, size: Floats) -> Self | None:
        """From patients with the outcome and patients, (draws,) each; None without patients."""
        total = float(size.sum())
        if total == 0:
            return None
        found = spread(hits, size)
        value = float(found.value)
        shapes = (1.0, float(found.a), float(found.b))
        lean = _folded((hits - value * size) / total)
        return cls(value=value, parts=(shapes,), lean=lean, error=float(found.error), n=round(total))

    @classmethod
    def mixed(cls, worlds: Sequence[Self], weights: Sequence[float]) -> Self:
        """Mixture of worlds with weights that sum to 1; patients are the same in all worlds, n is the largest."""
        if len(worlds) == 1:
            return worlds[0]
        value = _blend([world.value for world in worlds], weights)
        parts = tuple((w * p, a, b) for world, w in zip(worlds, weights, strict=True) for p, a, b in world.parts)
        lean = np.asarray(sum(w * world.lean for world, w in zip(worlds, weights, strict=True)))
        n = max(world.n for world in worlds)
        error = max(_clustered(lean), float(_floor(np.asarray(value * n), n)))
        return cls(value=value, parts=parts, lean=lean, error=error, n=n)

    def _quantile(self, p: float) -> float:
        weight, a, b = (np.array(column) for column in zip(*self.parts, strict=True))
        if weight.size == 1:
            return float(special.betaincinv(a[0], b[0], p))
        return _bisected(lambda x: float(weight @ special.betainc(a, b, x)), p, 0.0, 1.0)


# --------------------------------------------------------------------------------------------------- means


@dataclass(frozen=True, kw_only=True)
class Mean(_Mixture):
    """A mean in one world, or in a mixture of worlds.

    Attributes
    ----------
    value : float
        The mean.
    parts : tuple
        Weight, mean and sd of each world's normal distribution.
    lean : ndarray
        (CLUSTERS,) what each cluster of draws adds to the value's error.
    error : float
        Monte Carlo error, draws as clusters.
    bounds : tuple
        Between which the mean must lie.
    n : int
        Patients.
    """

    value: float
    parts: tuple[tuple[float, float, float], ...]
    lean: Floats
    error: float
    bounds: tuple[float, float]
    n: int

    @classmethod
    def of(cls, total: Floats, squares: Floats, size: Floats, bounds: tuple[float, float]) -> Self | None:
        """From sums, sums of squares and patients, (draws,) each; None without patients.

        The variance between draws is the analysis-of-variance estimator, never below 0.
        """
        patients = float(size.sum())
        if patients == 0:
            return None
        value = float(total.sum()) / patients
        lean = (total - value * size) / patients
        there = size > 0
        groups = int(there.sum())
        own = total[there] ** 2 / size[there]
        inside = max(float(squares.sum()) - float(own.sum()), 0.0)
        around = max(float(own.sum()) - patients * value**2, 0.0)
        variance, error = 0.0, float(np.sqrt((inside + around) / max(patients - 1, 1) / patients))
        if groups >= 2:
            error = float(np.sqrt(groups / (groups - 1) * (lean**2).sum()))
        if 2 <= groups < patients:
            typical = (patients - float((size**2).sum()) / patients) / (groups - 1)
            variance = max(0.0, (around / (groups - 1) - inside / (patients - groups)) / typical)
        sd = float(np.sqrt(variance + error**2))
        return cls(
            value=value,
            parts=((1.0, value, sd),),
            lean=_folded(lean),
            error=error,
            bounds=bounds,
            n=round(patients),
        )

    @classmethod
    def mixed(cls, worlds: Sequence[Self], weights: Sequence[float]) -> Self:
        """Mixture of worlds with weights that sum to 1; patients are the same in all worlds, n is the largest."""
        if len(worlds) == 1:
            return worlds[0]
        value = _blend([world.value for world in worlds], weights)
        parts = tuple((w * p, m, sd) for world, w in zip(worlds, weights, strict=True) for p, m, sd in world.parts)
        lean = np.asarray(sum(w * world.lean for world, w in zip(worlds, weights, strict=True)))
        n = max(world.n for world in worlds)
        return cls(value=value, parts=parts, lean=lean, error=_clustered(lean), bounds=worlds[0].bounds, n=n)

    def _quantile(self, p: float) -> float:
        weight, mean, sd = (np.array(column) for column in zip(*self.parts, strict=True))
        width = np.maximum(sd, 1e-12 * (1 + np.abs(mean)))
        if np.all(sd == 0) and np.all(mean == mean[0]):
            return float(mean[0])
        low, high = float((mean - 9 * width).min()), float((mean + 9 * width).max())
        found = _bisected(lambda x: float(weight @ special.ndtr((x - mean) / width)), p, low, high)
        return float(np.clip(found, *self.bounds))


# ------------------------------------------------------------------------------------------------- medians


@dataclass(frozen=True, eq=False)
class Scale:
    """Classes of a positive quantity: fine ones for values, coarse ones for what differs between draws.

    Attributes
    ----------
    fine, coarse : ndarray
        Upper edges of the classes, increasing; each coarse edge is a fine one. What lies above the last, and what is
        never reached, is one class more.
    step : float
        Width of the fine classes, of the quantity or of its logarithm.
    logarithmic : bool
        Whether classes are even in the logarithm.
    """

    fine: Floats
    coarse: Floats
    step: float
    logarithmic: bool

    def place(self, value: Floats) -> Ints:
        """Fine class of each value, (n,); an edge belongs to the class below it, NaN to the one beyond all."""
        with np.errstate(divide="ignore", invalid="ignore"):
            along = np.log(value / self.fine[0]) if self.logarithmic else value - self.fine[0]
        classes = np.ceil(np.where(np.isnan(along), np.inf, along) / self.step - 1e-6)
        return np.asarray(np.clip(classes, 0, self.fine.size), dtype=np.int64)

    @cached_property
    def coarse_of_fine(self) -> Ints:
        """Coarse class of each fine class, the class beyond included."""
        inside = np.searchsorted(self.coarse, self.fine * (1 - 1e-9), side="left")
        return np.append(inside, self.coarse.size).astype(np.int64)


def _days() -> Scale:
    step = 0.25
    coarse = np.concatenate([np.arange(0, 70, 1), np.arange(70, 400, 5), np.arange(400, 2000, 15)])
    coarse = np.concatenate([coarse, np.arange(2000, 7301, 60)]).astype(np.float64)
    return Scale(np.arange(0.0, coarse[-1] + step, step), coarse, step, False)


def _magnitudes() -> Scale:
    step, per = 0.002, 50
    many = 690 * per // 2
    fine = np.log(1e-6) + step * np.arange(many + 1)
    return Scale(np.exp(fine), np.exp(fine[::per]), step, True)


#: Days: fine to a quarter, coarse to 1 (first ten weeks), 5, 15 and 60; to day 7280.
DAYS: Final = _days()
#: Cells and areas: fine to 0.2 %, coarse to 10 %; from 1e-6 to 9e8.
MAGNITUDES: Final = _magnitudes()


@dataclass(frozen=True, kw_only=True, eq=False)
class Steps:
    """Curves over the classes of a scale, kept only where they change: between patients nothing does.

    Attributes
    ----------
    places : ndarray
        (k,) classes at which a curve may change, increasing; the first is 0.
    values : ndarray
        (…, k) of each curve from that class up to the next.
    """

    places: Ints
    values: Floats

    @classmethod
    def blend(cls, curves: Sequence[Self], weights: Sequence[float]) -> Self:
        """Weighted sum of curves over the same classes."""
        places = np.unique(np.concatenate([curve.places for curve in curves]))
        spread_out = [curve.values[..., np.searchsorted(curve.places, places, side="right") - 1] for curve in curves]
        return cls(places=places, values=np.asarray(sum(w * one for w, one in zip(weights, spread_out, strict=True))))


@dataclass(frozen=True, kw_only=True, eq=False)
class Median:
    """A median in one world, or in a mixture of worlds; everything that is kept of it mixes linearly.

    Attributes
    ----------
    scale : Scale
        Its classes.
    reached : Steps
        Share that has reached each fine edge.
    below : Steps
        Posterior chance that the median lies at or below each coarse edge.
    resampled : Steps
        Share that has reached each coarse edge, draws resampled, BOOTSTRAPS curves.
    n : int
        Patients.
    """

    scale: Scale
    reached: Steps
    below: Steps
    resampled: Steps
    n: int

    @classmethod
    def by_group(cls, layout: Layout, value: Floats, scale: Scale, resamples: Floats) -> list[Self | None]:
        """Of everyone and of each group; a value (n,) of +inf is never reached. None without patients.

        A median lies at or below t where half the patients have reached it by t, so its posterior distribution is
        the chance, over draws, of a share above one half.
        """
        place = scale.place(value)
        fine_at, fine_rank = _occupied(place, scale.fine.size)
        coarse_at, coarse_rank = _occupied(scale.coarse_of_fine[place], scale.coarse.size)
        fine = layout.by_group(fine_rank, fine_at.size + 1)
        coarse = layout.by_draw(coarse_rank, coarse_at.size + 1)
        found: list[Self | None] = []
        for of_class, of_draw in zip(fine, coarse, strict=True):
            total = float(of_class.sum())
            if total == 0:
                found.append(None)
                continue
            size, hits = of_draw.sum(axis=1), np.cumsum(of_draw[:, :-1], axis=1)
            shares = spread(hits, size)
            chance = np.maximum.accumulate(special.betaincc(shares.a, shares.b, 0.5))
            median = cls(
                scale=scale,
                reached=Steps(places=fine_at, values=np.cumsum(of_class[:-1]) / total),
                below=Steps(places=coarse_at, values=chance),
                resampled=Steps(places=coarse_at, values=_resampled(hits, size, resamples)),
                n=round(total),
            )
            found.append(median)
        return found

    @classmethod
    def mixed(cls, worlds: Sequence[Self], weights: Sequence[float]) -> Self:
        """Mixture of worlds with weights that sum to 1; patients are the same in all worlds, n is the largest."""
        if len(worlds) == 1:
            return worlds[0]
        return cls(
            scale=worlds[0].scale,
            reached=Steps.blend([world.reached for world in worlds], weights),
            below=Steps.blend([world.below for world in worlds], weights),
            resampled=Steps.blend([world.resampled for world in worlds], weights),
            n=max(world.n for world in worlds),
        )

    def estimate(self, level: float, unit: float = 1.0) -> Estimate:
        """The median in units of `unit`; +inf where one half is not reached, the error NaN if in some resample."""
        at = int(np.searchsorted(self.reached.values, 0.5 - 1e-9))
        places = self.reached.places
        value = float(self.scale.fine[places[at]]) if at < places.size else np.inf
        low, high = (self._crossing(self.below, p)[0] for p in ((1 - level) / 2, (1 + level) / 2))
        medians = self._crossing(self.resampled, 0.5 - 1e-9)
        finite = np.isfinite(medians).all()
        return Estimate(
            value=value / unit,
            low=min(float(low), value) / unit,
            high=max(float(high), value) / unit,
            mc_error=float(np.std(medians, ddof=1)) / unit if finite else float("nan"),
            n=self.n,
        )

    def _crossing(self, curves: Steps, p: float) -> Floats:
        """Where each curve first reaches p, straight between coarse edges; +inf if it does not."""
        edges = np.log(self.scale.coarse) if self.scale.logarithmic else self.scale.coarse
        values = np.atleast_2d(curves.values)
        above = values >= p
        step = np.argmax(above, axis=1)
        rows = np.arange(len(values))
        at = curves.places[step]
        before = np.maximum(at - 1, 0)
        height = values[rows, np.maximum(step - 1, 0)]
        rise = values[rows, step] - height
        part = np.divide(p - height, rise, out=np.ones(len(values)), where=rise > 0)
        found = edges[before] + np.clip(part, 0.0, 1.0) * (edges[at] - edges[before])
        found = np.where(above.any(axis=1), found, np.inf)
        return np.exp(found) if self.scale.logarithmic else found


def _occupied(place: Ints, edges: int) -> tuple[Ints, Ints]:
    """Classes below the last edge that have patients, and class 0, (k,); each patient's among them, k beyond all."""
    there = np.bincount(place, minlength=edges + 1) > 0
    there[[0, edges]] = True
    return np.flatnonzero(there[:edges]), (np.cumsum(there) - 1)[place]


def resamples_of(rng: np.random.Generator) -> Floats:
    """How often each cluster of draws is in each resample, (BOOTSTRAPS, CLUSTERS): Poisson of mean 1.

    The Poisson bootstrap needs no number of clusters, so the same resamples serve every group and world (Chamandy,
    Muralidharan, Najmi and Naidu 2012, "Estimating uncertainty for massive data streams", Google).
    """
    return rng.poisson(1.0, size=(BOOTSTRAPS, CLUSTERS)).astype(np.float64)


def _resampled(reached: Floats, size: Floats, resamples: Floats) -> Floats:
    """Shares that have reached each class in every resample, (BOOTSTRAPS, k), from patients who have, (draws, k)."""
    if (size > 0).sum() < 2:  # one draw: its patients are resampled, as they would be from a normal curve
        share = reached.sum(axis=0) / size.sum()
        noise = special.ndtri((np.arange(BOOTSTRAPS) + 0.5) / BOOTSTRAPS)[:, None]
        return np.asarray(np.clip(share + noise * np.sqrt(share * (1 - share) / size.sum()), 0.0, 1.0))
    clusters = _folded(size)
    there = clusters > 0
    many = resamples[:, there] @ clusters[there]
    hits = resamples[:, there] @ _folded(reached)[there]
    # a resample without patients says nothing: it stands for all of them
    everyone = reached.sum(axis=0) / size.sum()
    return np.asarray(np.where(many[:, None] > 0, hits / np.maximum(many, 1)[:, None], everyone))


# ------------------------------------------------------------------------------------------------- private


def _folded(by_draw: Floats) -> Floats:
    """(draws, …) summed into (CLUSTERS, …): draw d belongs to cluster d modulo CLUSTERS."""
    short = -len(by_draw) % CLUSTERS
    padded = np.concatenate([by_draw, np.zeros((short, *by_draw.shape[1:]))])
    return np.asarray(padded.reshape(-1, CLUSTERS, *by_draw.shape[1:]).sum(axis=0))


def _clustered(lean: Floats) -> float:
    there = int((lean != 0).sum())
    return float(np.sqrt(there / (there - 1) * (lean**2).sum())) if there > 1 else 0.0


def _floor(hits: Floats, total: float) -> Floats:
    """Sd of a share that n independent patients leave (Jeffreys), so that 100 of 100 is not error-free."""
    a, b = hits + 0.5, total - hits + 0.5
    return np.asarray(np.sqrt(a * b / ((a + b) ** 2 * (a + b + 1))))


def _blend(values: Sequence[float], weights: Sequence[float]) -> float:
    return float(np.dot(values, weights))


def _bisected(cumulative: Callable[[float], float], p: float, low: float, high: float) -> float:
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if cumulative(middle) < p else (low, middle)
    return 0.5 * (low + high)

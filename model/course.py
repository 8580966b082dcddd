"""The infusions a patient gets: when, which product, after what; checked and filled in.

An `Infusion` says what a user knows. `resolve` turns a course of them into arrays for the simulator: doses
filled in, apheresis days set, cross-immunity decided. Everything may differ between the patients of a
population: a numeric field is a number or an array with one value per patient, and a day of +inf (or NaN)
means that this patient does not get this infusion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import ReinfuseError
from .products import Product, product

type Floats = NDArray[np.float64]

#: Days from apheresis to infusion when none is given (ASSUMED).
VEIN_TO_VEIN: Final = 35.0
#: Share of older CAR-T that survives a full lymphodepletion (ASSUMED).
SURVIVORS: Final = 0.1
#: How far immunity against one product acts on another: same binder, different binder (ASSUMED).
CHI_SAME: Final = 1.0
CHI_OTHER: Final = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class Infusion:
    """One infusion of a CAR-T product. Numbers may be arrays, one value per patient.

    Attributes
    ----------
    product : Product or str
        The product or its registered name.
    day : float
        Days since the first infusion, so 0 for the first. +inf or NaN: not given.
    dose : float, optional
        CAR+ cells; the product's reference dose if left out.
    lymphodepletion : float
        Intensity in [0, 1]; 1 is the usual regimen.
    bridging : float
        Share of the tumour left by bridging therapy just before the infusion, in (0, 1]; 1 = no effect.
    apheresis_day : float, optional
        Day on which the cells were taken, 35 days before the infusion if left out. Day 0 or earlier: before
        therapy, from T cells with the dysfunction Q0; this is what banking cells means.
    same_scfv : bool, optional
        Whether an earlier product had the same binder; decided from the products if left out. Not for the
        first infusion.
    """

    product: Product | str
    day: ArrayLike = 0.0
    dose: ArrayLike | None = None
    lymphodepletion: ArrayLike = 1.0
    bridging: ArrayLike = 1.0
    apheresis_day: ArrayLike | None = None
    same_scfv: bool | NDArray[np.bool_] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Engager:
    """A bispecific antibody given from a day on; it kills by the patient's own T cells.

    Attributes
    ----------
    day : float
        Days since the first infusion, or an array, one value per patient; +inf or NaN: not given.
    killing : float
        Highest rate of killing, 1/d, or an array, one value per patient.
    power : float
        Killing is ``killing * (1 - Q) ** power``, with the host's dysfunction ``Q``.
    wear : float
        Rate at which lasting engagement wears the host's T cells, 1/d: ``Q`` rises by ``wear * (1 - Q)``.
    """

    day: ArrayLike
    killing: ArrayLike
    power: ArrayLike = 1.0
    wear: ArrayLike = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedInfusion:
    """One infusion slot, ready for the simulator: no gaps, no NaN, arrays of shape () or (n,).

    Attributes
    ----------
    slot : int
        1 for the first infusion.
    product : Product
    day : ndarray
        Days; +inf where the patient does not get it (the other fields then hold harmless defaults).
    dose, lymphodepletion, bridging : ndarray
        CAR+ cells; [0, 1]; (0, 1].
    apheresis_day : ndarray
        Days; <= 0 means before therapy (Q = Q0).
    chi : ndarray
        How far anti-CAR immunity acts on this product: 1, or 0.1 if no earlier product had its binder.
    survivors : ndarray
        Share of the older products' cells that survives this lymphodepletion: 0.1 ** lymphodepletion.
    """

    slot: int
    product: Product
    day: Floats
    dose: Floats
    lymphodepletion: Floats
    bridging: Floats
    apheresis_day: Floats
    chi: Floats
    survivors: Floats

    @property
    def given(self) -> NDArray[np.bool_]:
        """Whether the patient gets this infusion, shape of `day`."""
        return np.asarray(np.isfinite(self.day))


def resolve(course: Sequence[Infusion]) -> list[ResolvedInfusion]:
    """Check a course and fill its gaps.

    Parameters
    ----------
    course : sequence of Infusion
        In the order in which they are given.

    Returns
    -------
    list of ResolvedInfusion
        One per infusion, in order.

    Raises
    ------
    ReinfuseError
        If the course is empty, a product is unknown, arrays disagree in length, the first infusion is not
        on day 0, days do not rise, a dose is negative, bridging is outside (0, 1], lymphodepletion outside
        [0, 1], apheresis comes after its infusion, or a given infusion has a missing number.
    """
    if isinstance(course, Infusion) or not all(isinstance(item, Infusion) for item in course):
        raise ReinfuseError(f"a course is a sequence of Infusion, got {course!r}; write [Infusion(...)]")
    if not course:
        raise ReinfuseError("the course has no infusion; give at least one")
    resolved: list[ResolvedInfusion] = []
    for slot, item in enumerate(course, start=1):
        resolved.append(_resolve_one(slot, item, resolved))
    patients(resolved)
    return resolved


def patients(course: Sequence[ResolvedInfusion]) -> int | None:
    """Count the patients that the arrays of a course speak of; None if all are plain numbers.

    Raises
    ------
    ReinfuseError
        If two arrays differ in length.
    """
    seen: dict[int, str] = {}
    for item in course:
        for name in ("day", "dose", "lymphodepletion", "bridging", "apheresis_day", "chi"):
            shape = getattr(item, name).shape
            if shape:
                seen.setdefault(shape[0], f"{name} of infusion {item.slot}")
    if len(seen) > 1:
        listed = ", ".join(f"{where} has {n}" for n, where in seen.items())
        raise ReinfuseError(f"lengths differ between patients' arrays: {listed}; give one value per patient")
    return next(iter(seen), None)


def _resolve_one(slot: int, item: Infusion, before: Sequence[ResolvedInfusion]) -> ResolvedInfusion:
    what = product(item.product) if isinstance(item.product, str) else item.product
    if not isinstance(what, Product):
        raise ReinfuseError(f"infusion {slot}: product is {what!r}; give a Product or a name")
    day = _numbers(slot, "day", item.day)
    day = np.where(np.isnan(day), np.inf, day)
    given = np.isfinite(day)
    _require(slot, "day", day, day > -np.inf, "give a day, or +inf for a patient who does not get it")
    if before:
        _require_later(slot, day, before[-1].day)
    else:
        _require(slot, "day", day, day == 0, "the first infusion is day 0 of the clock, in every patient")

    def filled(name: str, value: ArrayLike, absent: ArrayLike) -> Floats:
        numbers = _numbers(slot, name, value)
        there, numbers, default = _together(slot, name, given, numbers, np.asarray(absent, dtype=np.float64))
        out = np.where(there.astype(bool), numbers, default)
        _require(slot, name, out, ~np.isnan(out), "give a number for every patient who gets the infusion")
        return out

    dose = filled("dose", what.dose if item.dose is None else item.dose, what.dose)
    _require(slot, "dose", dose, (dose >= 0) & np.isfinite(dose), "give CAR+ cells, >= 0")
    lymphodepletion = filled("lymphodepletion", item.lymphodepletion, 1.0)
    _require(
        slot,
        "lymphodepletion",
        lymphodepletion,
        (lymphodepletion >= 0) & (lymphodepletion <= 1),
        "give an intensity from 0 to 1",
    )
    bridging = filled("bridging", item.bridging, 1.0)
    _require(
        slot,
        "bridging",
        bridging,
        (bridging > 0) & (bridging <= 1),
        "give the share of tumour left, above 0 and at most 1",
    )
    usual = day - VEIN_TO_VEIN
    apheresis = filled("apheresis_day", usual if item.apheresis_day is None else item.apheresis_day, usual)
    _require(slot, "apheresis_day", apheresis, apheresis <= day, "cells are taken before they are infused")
    return ResolvedInfusion(
        slot=slot,
        product=what,
        day=day,
        dose=dose,
        lymphodepletion=lymphodepletion,
        bridging=bridging,
        apheresis_day=apheresis,
        chi=_chi(slot, item, what, before),
        survivors=np.asarray(SURVIVORS**lymphodepletion),
    )


def _chi(slot: int, item: Infusion, what: Product, before: Sequence[ResolvedInfusion]) -> Floats:
    if not before:
        if item.same_scfv is not None:
            raise ReinfuseError(
                f"infusion 1: same_scfv is {item.same_scfv!r}, but no product came before; leave it out"
            )
        return np.asarray(CHI_SAME)
    same = item.same_scfv
    if same is None:
        same = any(what.scfv == earlier.product.scfv for earlier in before)
    flag = np.asarray(same)
    if flag.dtype != np.bool_ or flag.ndim > 1:
        raise ReinfuseError(f"infusion {slot}: same_scfv is {same!r}; give True or False")
    return np.asarray(np.where(flag, CHI_SAME, CHI_OTHER))


def _numbers(slot: int, name: str, value: ArrayLike) -> Floats:
    try:
        numbers = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ReinfuseError(f"infusion {slot}: {name} is {value!r}; give a number or one per patient") from None
    if numbers.ndim > 1:
        raise ReinfuseError(f"infusion {slot}: {name} has shape {numbers.shape}; give a number or one per patient")
    return numbers


def _together(slot: int, name: str, *arrays: NDArray[np.generic]) -> tuple[Floats, ...]:
    try:
        return cast("tuple[Floats, ...]", np.broadcast_arrays(*arrays))
    except ValueError:
        lengths = " and ".join(str(a.shape[0]) for a in arrays if a.ndim)
        raise ReinfuseError(
            f"infusion {slot}: {name} and day speak of {lengths} patients; give one value per patient"
        ) from None


def _require(slot: int, name: str, value: Floats, ok: NDArray[np.bool_], remedy: str) -> None:
    if np.all(ok):
        return
    bad, flags = np.broadcast_arrays(value, ~ok)
    where = f" in patient {int(np.argmax(flags)) + 1}" if flags.ndim else ""
    raise ReinfuseError(f"infusion {slot}: {name} is {bad[flags].flat[0]:g}{where}; {remedy}")


def _require_later(slot: int, day: Floats, previous: Floats) -> None:
    now, then = _together(slot, "day", day, previous)
    early = np.isfinite(now) & ~(now > then)
    if np.any(early):
        where = f" in patient {int(np.argmax(early)) + 1}" if early.ndim else ""
        raise ReinfuseError(
            f"infusion {slot}: day is {now[early].flat[0]:g}{where}, infusion {slot - 1} is on day "
            f"{then[early].flat[0]:g}; list infusions in order, each later than the last (inf = not given)"
        )

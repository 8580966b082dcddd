"""Where a course is decided, so that the rest of it need not be simulated.

What is judged of a course (`judgement`) ends with progression or death, but for one thing: how long CAR-T cells are
seen. So a simulation may stop at the first time at which the patient is dead, or progression has been found and cells
that grew as fast as the model lets them could not be seen again before the follow-up ends. The bound is strict: what is
left out cannot change the judgement. At times left out stands what was found at the last one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .errors import ReinfuseError
from .judgement import PEAK_DAYS
from .kernels import interface as places
from .response import ROUNDING, ResponseRules

type Floats = NDArray[np.float64]
type Places = NDArray[np.int64]

MOST_EXPONENT: Final = 700.0
_PROTEIN: Final = "mprotein"
_CELLS: Final = "cart"


@dataclass(frozen=True, kw_only=True, eq=False)
class Stopping:
    """What makes a course of n patients decided; days count as the times of the simulation do.

    Attributes
    ----------
    death_days : ndarray (n,)
        Days of death; +inf: never.
    follow_up : float
        Days of follow-up.
    rules : ResponseRules, optional
        Of progression by M-protein. None (progression follows something else): death alone ends a course.
    whole_until : float
        Days up to which nothing is left out, for who looks at more than the judgement; not before `PEAK_DAYS`.
    """

    death_days: Floats
    follow_up: float
    rules: ResponseRules | None = None
    whole_until: float = PEAK_DAYS

    def watch(self, times: Floats, readouts: Sequence[str], growth: Floats) -> tuple[Floats, Places, Places, Floats]:
        """Make what the kernel needs (`kernels.records.decided`).

        Parameters
        ----------
        times : ndarray (T,)
            Of the simulation.
        readouts
            Of the kernel, in its order.
        growth : ndarray (n,)
            `fastest_growth` from the day `PEAK_DAYS` on.

        Returns
        -------
        tuple of ndarray
            Rules; whether each time is a visit, (T,); the place of the last time that counts, (n,); growth, (n,).

        Raises
        ------
        ReinfuseError
            If there is not one death per patient, M-protein or cells are not among the read-outs, or a visit is not
            among the times.
        """
        if np.shape(self.death_days) != growth.shape or np.any(np.isnan(self.death_days)):
            raise ReinfuseError(
                f"stopping: death_days is {self.death_days!r}; give one day for each of {growth.size} patients"
            )
        whole = max(self.whole_until, PEAK_DAYS)
        latest = np.searchsorted(times, np.maximum(self.death_days, whole)).astype(np.int64)
        flat, visits = np.full(places.WATCH_SIZE, -1.0), np.zeros(times.size, dtype=np.int64)
        if self.rules is not None:
            visits = _visits(self.rules, self.follow_up, times)
            _fill(flat, self.rules, self.follow_up, readouts)
            flat[places.WATCH_FIRST] = min(whole, times[-1])
        return flat, visits, latest, growth


def fastest_growth(
    values: Mapping[str, Floats],
    *,
    infusions: int,
    since_infusion: Floats,
    apheresis: Mapping[int, Floats],
    dysfunction: tuple[Floats, Floats],
) -> Floats:
    """Bound the growth of all CAR-T cells together, from a day on.

    Cells that change from one kind into another are not lost, clearance and lack of antigen only slow them, and the
    niche closes from the infusion on: no total grows faster than the fastest of its kinds without all that.

    Parameters
    ----------
    values
        Parameters of the model (`equations.bcma`), natural scale, () or (n,).
    infusions
        Slots.
    since_infusion : ndarray (n,)
        Days from the last infusion to the day from which the bound holds; where it is not above 0, there is none.
    apheresis : mapping of int to ndarray (n,)
        Day of each later infusion's apheresis, by slot; <= 0: before therapy.
    dysfunction : tuple of ndarray (n,)
        A day, and the host's dysfunction on it: it falls no faster than ``kQoff`` from there on, and was not below 0
        before.

    Returns
    -------
    ndarray (n,)
        Growth rate, 1/d, at least 0; +inf where nothing is known.
    """
    day, q = dysfunction
    after = since_infusion > 0
    log_since = np.log(np.where(after, since_infusion, 1.0))
    slots = range(1, infusions + 1)
    lasting = np.max([np.broadcast_to(values[f"gp_{j}"], log_since.shape) for j in slots], axis=0)
    gate = 1.0 / (1.0 + np.exp(np.minimum(values["hg"] * (log_since - np.log(values["tg"] * lasting)), MOST_EXPONENT)))
    niche = values["psi"] + (1.0 - values["psi"]) * gate
    fastest = np.maximum(values["rM"] - values["dM"], 0.0)
    for j in slots:
        taken = apheresis.get(j, np.zeros(1))
        least = np.where(taken >= day, q * np.exp(-values["kQoff"] * np.maximum(taken - day, 0.0)), 0.0)
        worst = np.where(values["bR"] >= 0, least, 1.0)
        at = np.where(taken > 0, worst, values["Q0"])
        f = values[f"f0_{j}"] * np.exp(
            values[f"occ_{j}"] - values["bR"] * (at - values["qref"]) - values["sline"] * (j - 1)
        )
        fastest = np.maximum(fastest, values["rho"] * f * niche - values["dE"])
    return np.where(after, fastest, np.inf)


def _visits(rules: ResponseRules, follow_up: float, times: Floats) -> Places:
    """Whether each time is a visit."""
    days = rules.schedule(follow_up)
    visits = np.isin(times, days)
    if times[0] != 0 or np.count_nonzero(visits) != days.size:
        raise ReinfuseError("stopping: day 0 or a visit is not among the times; take `judgement.judgement_days`")
    return visits.astype(np.int64)


def _fill(flat: Floats, rules: ResponseRules, follow_up: float, readouts: Sequence[str]) -> None:
    """Put the rules of progression in the kernel's order."""
    lacking = [name for name in (_PROTEIN, _CELLS) if name not in readouts]
    if lacking:
        raise ReinfuseError(f"stopping: {', '.join(lacking)} is not among the read-outs; ask for it")
    flat[places.WATCH_PROTEIN], flat[places.WATCH_CELLS] = readouts.index(_PROTEIN), readouts.index(_CELLS)
    flat[places.WATCH_RATIO] = rules.pd_ratio
    flat[places.WATCH_RISE] = rules.pd_rise
    flat[places.WATCH_RISE_HIGH] = rules.pd_rise_high
    flat[places.WATCH_HIGH_NADIR] = rules.pd_high_nadir
    flat[places.WATCH_CONFIRM] = rules.confirm_progression
    flat[places.WATCH_MEASURABLE] = rules.measurable * (1 - ROUNDING)
    flat[places.WATCH_ROUNDING] = ROUNDING
    flat[places.WATCH_END] = follow_up
    flat[places.WATCH_LIMIT] = rules.flow_limit

"""Patients with parts of other patients: which parts a second course has, whose they are, and what each carries.

A coalition says which parts stay the patient's own; with all of them it is the patient's own second course, with none
the donor's. A quantity that depends on the coalition is shared out among the parts by Shapley's value.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from itertools import combinations
from math import comb
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError

from .virtual_patients import VirtualPatients
from .within_draws import ByDraw, members_by_draw

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]
type Coalition = frozenset[str]

GROWTH: Final = "tumour growth"
T_CELLS: Final = "T-cell quality"
KILLING: Final = "killing"
BURDEN: Final = "burden"
ANTIGEN: Final = "BCMA-low share"
DYSFUNCTION: Final = "dysfunction"
#: The parts of a second course that may stay or be another's, and what is meant. States are those at the last visit
#: before cells are taken for the second infusion.
FACTORS: Final[Mapping[str, str]] = MappingProxyType(
    {
        GROWTH: "how fast the tumour grows",
        T_CELLS: "expansion, memory, exhaustion rates and persistence of CAR-T cells; first cells and immunity left",
        KILLING: "how well CAR-T cells kill this tumour",
        BURDEN: "size of the tumour, and its M-protein",
        ANTIGEN: "BCMA-low share of the tumour",
        DYSFUNCTION: "the host's T-cell dysfunction, and how fast it comes and goes",
    }
)
#: Parameters that go with a part.
PARAMETERS_OF: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        GROWTH: ("r", "KB", "crt", "u"),
        T_CELLS: (
            *("rho", "KA", "KC", "tg", "hg", "psi", "lag", "hlag"),
            *("dE", "eps", "eta", "rM", "dM", "kX", "rX", "dX", "bX", "feng", "fXQ"),
            *("kA", "KAC", "dA", "alA"),
        ),
        KILLING: ("k", "KE", "w", "xi", "by", "bK", "KQ"),
        BURDEN: ("kP", "P0", "B0"),  # the last two are read together: M-protein per cell
        ANTIGEN: (),
        DYSFUNCTION: ("Q0", "kQon", "kQoff"),
    }
)
#: States that go with a part as they are; the tumour's size goes with `BURDEN`, its composition with `ANTIGEN`.
STATES_OF: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {T_CELLS: ("E1", "M1", "X1", "A"), BURDEN: ("P",), DYSFUNCTION: ("Q",)}
)
EVERYTHING: Final[Coalition] = frozenset(FACTORS)


def coalitions() -> list[Coalition]:
    """All sets of factors, the empty one first and the full one last."""
    return [frozenset(some) for size in range(len(FACTORS) + 1) for some in combinations(FACTORS, size)]


def donors(draw: Integers, rng: np.random.Generator) -> Integers:
    """Another patient of the same draw for each, every one used once, (n,); who is alone is his own donor."""
    out = np.arange(draw.size)
    for members in members_by_draw(draw):
        order = rng.permutation(members)
        out[order] = np.roll(order, 1)
    return out


def recombined(
    patients: VirtualPatients, state: Mapping[str, Floats], other: Integers, own: Coalition
) -> tuple[VirtualPatients, dict[str, Floats]]:
    """Give each patient the parameters and the state of another, but for the parts that stay.

    Parameters
    ----------
    patients, state
        n patients, and read-outs by name, (n,) each (`reinfuse.model.branch.states`).
    other
        Whose parts are taken, places in 0..n-1.
    own
        Factors that stay the patient's own.

    Raises
    ------
    ReinfuseError
        If a factor is unknown.
    """
    unknown = own - EVERYTHING
    if unknown:
        raise ReinfuseError(f"unknown factor {sorted(unknown)[0]!r}; there are {', '.join(FACTORS)}")
    here = np.arange(patients.n)
    whose = {factor: here if factor in own else other for factor in FACTORS}
    parameters, states = dict(patients.parameters), dict(state)
    for factor, members in whose.items():
        parameters |= {name: parameters[name][members] for name in PARAMETERS_OF[factor] if name in parameters}
        states |= {name: states[name][members] for name in STATES_OF.get(factor, ())}
    burden = (state["Ts"] + state["Tr"])[whose[BURDEN]]
    low = (state["Tr"] / (state["Ts"] + state["Tr"]))[whose[ANTIGEN]]
    if not {BURDEN, ANTIGEN} <= own:
        states |= {"Ts": burden * (1 - low), "Tr": burden * low}
    return replace(patients, parameters=parameters), states


def shapley(worth: Mapping[Coalition, ByDraw]) -> dict[str, ByDraw]:
    """Shapley's value of each factor (Shapley 1953), the mean of what it adds over all orders of adding.

    Parameters
    ----------
    worth
        Value of every coalition.

    Returns
    -------
    dict of str to ByDraw
        They sum to the worth of everything less the worth of nothing.
    """
    out: dict[str, ByDraw] = {}
    count = len(FACTORS)
    for factor in FACTORS:
        gains = [
            (worth[some | {factor}] - worth[some]) / (count * comb(count - 1, len(some)))
            for some in worth
            if factor not in some
        ]
        out[factor] = reduce(ByDraw.__add__, gains)
    return out

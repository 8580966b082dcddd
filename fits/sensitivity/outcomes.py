"""What is read out of a virtual patient: the read-outs of the retreatment laboratory, one number each, and curves.

The same as in `reinfuse.fits.retreatment`, without its selection of patients. What is spread over decades is taken as
its logarithm, so that variance means something.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.simulate import Status

#: Days of the curves.
CURVE_DAYS: Final = (
    2.0,
    4.0,
    6.0,
    8.0,
    10.0,
    12.0,
    14.0,
    18.0,
    21.0,
    28.0,
    42.0,
    60.0,
    90.0,
    120.0,
    180.0,
    270.0,
    365.0,
)
#: What is smaller counts as so small: transgene copies/µg DNA far below any assay, cells.
FLOORS: Final = {"transgene": 1e-3, "burden": 1.0}
#: Status of a row that was solved but has no such read-out; `Status` has no such number.
UNDEFINED: Final = -1
UNDEFINED_SENTENCE: Final = "the read-out is not defined: M-protein at the infusion is below what can be measured"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A read-out.

    Attributes
    ----------
    about, unit : str
    needs : {"cart", "first", "second", "benefit"}
        How much has to be simulated.
    smooth : bool
        Whether it has a derivative: what is seen at visits or by whole days has none.
    relapsed_only : bool
        Whether only patients with a relapse have it.
    column : str
        Field of the judged course; empty: made here.
    log : bool
        Whether its logarithm (base 10) is taken.
    """

    about: str
    unit: str
    needs: str
    smooth: bool = False
    relapsed_only: bool = False
    column: str = ""
    log: bool = False


OUTCOMES: Final[dict[str, Outcome]] = {
    "cmax": Outcome(about="peak of CAR-T cells", unit="log10 cells/µL",
        needs="cart", smooth=True, column="cmax", log=True),
    "tmax": Outcome(about="day of the peak", unit="d", needs="cart", column="tmax"),
    "auc28": Outcome(
        about="area to day 28", unit="log10 cells/µL·d", needs="cart", smooth=True, column="auc28", log=True
    ),
    "persistence": Outcome(about="last day seen by flow", unit="d", needs="first", column="persistence_days"),
    "nadir": Outcome(about="lowest myeloma burden within a year", unit="log10 cells", needs="first", smooth=True),
    "best": Outcome(about="best response, PD = 0 upwards", unit="class", needs="first", column="best"),
    "deepest": Outcome(about="lowest M-protein over baseline",
        unit="log10 ratio", needs="first", column="deepest", log=True),
    "pfs1": Outcome(about="PFS of the first infusion, within the horizon", unit="months", needs="first"),
    "cmax2": Outcome(
        about="peak after the second infusion", unit="log10 cells/µL", needs="second", relapsed_only=True,
        column="cmax", log=True, smooth=True,
    ),
    "auc28_2": Outcome(
        about="area to day 28 after the second infusion", unit="log10 cells/µL·d", needs="second",
        relapsed_only=True, column="auc28", log=True, smooth=True,
    ),
    "best2": Outcome(
        about="best response to the second infusion", unit="class", needs="second", relapsed_only=True, column="best"
    ),
    "pfs2": Outcome(about="PFS of the second infusion", unit="months", needs="second", relapsed_only=True),
    "benefit": Outcome(
        about="PFS gained by the second infusion, counted from the relapse; 0 for who has none",
        unit="months", needs="benefit",
    ),
}  # fmt: skip
CURVES: Final = {
    "transgene": Outcome(
        about="transgene after the first infusion", unit="log10 copies/µg", needs="first", smooth=True
    ),
    "burden": Outcome(about="myeloma cells, first infusion", unit="log10 cells", needs="first", smooth=True),
}


def describe(name: str) -> Outcome:
    """An outcome or a curve, or one day of a curve (``transgene@14``), by name.

    Raises
    ------
    ReinfuseError
        For another name.
    """
    found = OUTCOMES.get(name) or CURVES.get(name.partition("@")[0])
    if found is None:
        raise ReinfuseError(f"unknown outcome {name!r}; choose from {', '.join([*OUTCOMES, *CURVES])}")
    return found


def expanded(names: Sequence[str]) -> tuple[str, ...]:
    """Outcomes with every curve as its days, in order, each once.

    Raises
    ------
    ReinfuseError
        If there are none, one is unknown, or a curve is not read on a day.
    """
    if not names:
        raise ReinfuseError(f"no outcome given; choose from {', '.join([*OUTCOMES, *CURVES])}")
    found: list[str] = []
    for name in names:
        describe(name)
        days = [f"{name.partition('@')[0]}@{day:g}" for day in CURVE_DAYS]
        if "@" in name and name not in days:
            raise ReinfuseError(f"{name} is read on no such day; choose from {', '.join(days)}")
        found += days if name in CURVES else [name]
    return tuple(dict.fromkeys(found))


def in_world(name: str, world: str) -> str:
    """An outcome's name where several worlds are looked at: ``pfs1 (no antigen loss)``; days stay at the end."""
    kind, at, day = name.partition("@")
    return f"{kind} ({world.replace('@', ' at ')}){at}{day}"


def without_world(name: str) -> str:
    """The outcome's own name, from that of `in_world`."""
    kind, at, day = name.partition("@")
    return kind.partition(" (")[0] + at + day


def failure_sentence(status: int) -> str:
    """What a status of `Reader.read` means."""
    return UNDEFINED_SENTENCE if status == UNDEFINED else Status(status).sentence

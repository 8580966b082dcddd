"""The words of a cohort file: its columns, its assays with their units, and the names people use for them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

#: Columns a file must have, in any case; AMT may be empty throughout.
REQUIRED_COLUMNS: Final = ("ID", "TIME", "EVID", "AMT", "PRODUCT", "DVID", "DV")

#: The canonical columns in their order; covariates follow.
COLUMNS: Final = ("ID", "TIME", "EVID", "AMT", "PRODUCT", "LD", "DVID", "DV", "CENS", "LLOQ", "LIMIT")

#: The columns of tables that this package writes itself: their censored values have one limit.
WRITTEN_COLUMNS: Final = COLUMNS[:-1]

#: Assays (values of DVID) that are events and no concentrations.
EVENTS: Final = ("progression", "death")

#: CAR+ cells in one infusion; outside these the unit must be another one.
LOWEST_DOSE: Final = 1e4
HIGHEST_DOSE: Final = 1e11

#: Days (a century); beyond it TIME is in another unit, or a calendar date.
LONGEST_TIME: Final = 36525.0


@dataclass(frozen=True)
class Assay:
    """An assay that a cohort may hold.

    Attributes
    ----------
    unit
        The unit of DV.
    highest
        A DV above it is in another unit.
    suspect
        What that other unit is likely to be, and the cure.
    zero_is_a_result
        True for a percentage; elsewhere a zero is a value below the limit, to be marked as censored.
    signed
        True where a value may be negative.
    """

    unit: str
    highest: float = float("inf")
    suspect: str = ""
    zero_is_a_result: bool = False
    signed: bool = False


#: The values of DVID, in the order in which tables list them.
ASSAY_TABLE: Final[Mapping[str, Assay]] = {
    "transgene": Assay("copies/µg DNA", 1e9, "copies per millilitre or per million cells? Convert to copies/µg DNA"),
    "cart": Assay("cells/µL", 1e6, "cells/mL? Divide by 1000"),
    "sbcma": Assay("ng/mL", 1e6, "pg/mL? Divide by 1000"),
    "mprotein": Assay("g/dL", 15.0, "g/L? Divide by 10"),
    "flc": Assay("mg/L", 1e6, "µg/L? Divide by 1000"),
    "pd1": Assay("% of CAR+", 100.0, "a percentage lies in 0..100", zero_is_a_result=True),
    "progression": Assay("0 or 1", 1.0, ""),
    "death": Assay("0 or 1", 1.0, ""),
}

#: Other names of assays, for "did you mean".
ASSAY_ALIASES: Final[Mapping[str, str]] = {
    "qpcr": "transgene",
    "ddpcr": "transgene",
    "car_transgene": "transgene",
    "vcn": "transgene",
    "copies": "transgene",
    "flow": "cart",
    "car_t": "cart",
    "car-t": "cart",
    "cells": "cart",
    "car_t_flow": "cart",
    "bcma": "sbcma",
    "soluble bcma": "sbcma",
    "mspike": "mprotein",
    "m-spike": "mprotein",
    "paraprotein": "mprotein",
    "free light chains": "flc",
    "sflc": "flc",
    "pfs": "progression",
    "pd": "progression",
    "relapse": "progression",
    "os": "death",
    "survival": "death",
}

#: Other names of products, for "did you mean".
PRODUCT_ALIASES: Final[Mapping[str, str]] = {
    "abecma": "ide-cel",
    "bb2121": "ide-cel",
    "idecabtagene vicleucel": "ide-cel",
    "carvykti": "cilta-cel",
    "ciltacabtagene autoleucel": "cilta-cel",
    "jnj-4528": "cilta-cel",
    "lcar-b38m": "cilta-cel",
}

#: Other names of columns, for "rename".
COLUMN_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "ID": ("PATIENT", "PATIENT_ID", "SUBJECT", "SUBJID", "USUBJID", "PID", "CID"),
    "TIME": ("DAY", "DAYS", "TIM", "T", "TAD", "DAY_ACTUAL"),
    "EVID": ("EVENT", "MDV"),
    "AMT": ("DOSE", "AMOUNT", "ADM"),
    "PRODUCT": ("DRUG", "TREATMENT", "CAR"),
    "DVID": ("ASSAY", "YTYPE", "DVNAME", "CMT", "OBSERVABLE", "OBSID"),
    "DV": ("Y", "VALUE", "CONC", "OBS", "LIDV"),
}


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What a table may hold.

    Attributes
    ----------
    assays
        The values of DVID, in the order in which tables list them.
    aliases
        Other names of them, for "did you mean".
    required
        Columns a file must have.
    time
        What TIME counts.
    longest
        A TIME beyond it is in another unit.
    courses
        Whether doses are infusions of CAR-T products: they have names and doses of reference, the first is at time 0,
        and progression and death belong to them. Else doses are any amounts at any times.
    doses
        Whether there may be doses at all.
    """

    assays: Mapping[str, Assay]
    aliases: Mapping[str, str] = field(default_factory=dict)
    required: tuple[str, ...]
    time: str
    longest: float = float("inf")
    courses: bool = False
    doses: bool = True


#: The cohort file of CAR-T cells.
CART: Final = Vocabulary(
    assays=ASSAY_TABLE,
    aliases=ASSAY_ALIASES,
    required=REQUIRED_COLUMNS,
    time="days since the first infusion",
    longest=LONGEST_TIME,
    courses=True,
)

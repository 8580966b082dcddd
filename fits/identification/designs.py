"""Sampling schedules: a TOML file of named designs, checked key by key, and the problem that they pose together."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reinfuse.model.equations.bcma import EARLY
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import RANDOM_EFFECTS, VARIANTS
from reinfuse.model.products import product as known_product

from ..cohort import cohort_from_frame
from ..problem import Problem, Specification, pose

BUNDLED: Final = Path(__file__).parent / "data" / "sampling_designs.toml"
#: Assays that a design may sample.
SAMPLED: Final = ("transgene", "cart", "sbcma", "mprotein")
#: Assays of CAR-T cells: none before there are any.
_BLOOD_CAR: Final = ("transgene", "cart")
LONGEST: Final = 3650.0
#: What differs between patients once M-protein is followed, beside the usual: else all would begin at one value.
MPROTEIN_EFFECTS: Final = ("P0", "kP", "r")
#: Name of the design without any sample, with which every comparison begins.
NONE: Final = "no further samples"


class _Table(BaseModel):
    """A TOML table: no unknown keys, no change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Table):
    """Lower limits of quantification, in each assay's unit; None: none."""

    transgene: float | None = Field(default=None, gt=0)
    cart: float | None = Field(default=None, gt=0)
    sbcma: float | None = Field(default=None, gt=0)
    mprotein: float | None = Field(default=None, gt=0)

    @property
    def named(self) -> dict[str, float]:
        """By assay, those that there are."""
        return {name: float(value) for name, value in self.model_dump().items() if value is not None}


class Design(_Table):
    """One schedule.

    Attributes
    ----------
    name, about
        What it is called; a sentence for the reader.
    transgene, cart, sbcma, mprotein
        Days after the infusion.
    progression, death
        Whether these are recorded.
    patients, follow_up_days, lloq
        The study's own when None.
    """

    name: str = Field(min_length=1, max_length=60)
    about: str = ""
    transgene: list[float] = Field(default_factory=list)
    cart: list[float] = Field(default_factory=list)
    sbcma: list[float] = Field(default_factory=list)
    mprotein: list[float] = Field(default_factory=list)
    progression: bool = True
    death: bool = True
    patients: int | None = Field(default=None, ge=1, le=100_000)
    follow_up_days: float | None = Field(default=None, gt=EARLY, le=LONGEST)
    lloq: Limits | None = None

    @model_validator(mode="after")
    def _days_make_sense(self) -> Self:
        for assay in SAMPLED:
            days = getattr(self, assay)
            if any(not 0 <= day <= LONGEST for day in days):
                raise ValueError(f"{assay} has a day outside 0 to {LONGEST:g}: {days}; give days after the infusion")
            if len(set(days)) < len(days):
                raise ValueError(f"{assay} has a day twice: {days}; name each day once")
            if assay in _BLOOD_CAR and any(day <= 0 for day in days):
                raise ValueError(f"{assay} is sampled on day 0, when there are no CAR+ cells yet; begin later")
        return self

    @property
    def samples(self) -> tuple[tuple[str, float], ...]:
        """Assay and day of each sample, in a fixed order."""
        return tuple((assay, float(day)) for assay in SAMPLED for day in sorted(getattr(self, assay)))


class Study(_Table):
    """What holds for all designs unless one says otherwise."""

    patients: int = Field(default=50, ge=1, le=100_000)
    follow_up_days: float = Field(default=365.0, gt=EARLY, le=LONGEST)
    products: dict[str, float] = Field(default_factory=lambda: {"ide-cel": 1.0}, min_length=1)
    lloq: Limits = Field(default_factory=Limits)

    @model_validator(mode="after")
    def _products_are_known(self) -> Self:
        for name, share in self.products.items():
            known_product(name)
            if not share > 0:
                raise ValueError(f"products: the share of {name} is {share:g}; give numbers above 0")
        return self


class DesignFile(_Table):
    """A file of designs."""

    study: Study = Field(default_factory=Study)
    design: list[Design] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [design.name for design in self.design]
        if twice := sorted({name for name in names if names.count(name) > 1} | ({NONE} & set(names))):
            raise ValueError(f"design: the name {twice[0]!r} is taken; give each design a name of its own")
        return self

    def patients(self, design: Design) -> int:
        """How many patients a design has."""
        return self.study.patients if design.patients is None else design.patients

    def follow_up(self, design: Design) -> float:
        """Days for which progression and death are followed."""
        return self.study.follow_up_days if design.follow_up_days is None else design.follow_up_days

    def lloq(self, design: Design) -> dict[str, float]:
        """Limits of quantification by assay."""
        return (self.study.lloq if design.lloq is None else design.lloq).named

    @property
    def samples(self) -> tuple[tuple[str, float], ...]:
        """Every sample that some design takes, once."""
        return tuple(sorted({sample for design in self.design for sample in design.samples}))

    @property
    def allocation(self) -> tuple[list[str], list[float]]:
        """Products and their shares."""
        total = sum(self.study.products.values())
        return list(self.study.products), [share / total for share in self.study.products.values()]


def load(path: str | Path | None = None) -> DesignFile:
    """Read a file of designs; the bundled one when None.

    Raises
    ------
    ReinfuseError
        If it is not readable, not TOML, or a key is at fault: file, key, what was wrong, value seen, what to do.
    """
    file = BUNDLED if path is None else Path(path)
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as fault:
        raise ReinfuseError(f"{file} is not TOML ({fault}); see the bundled {BUNDLED.name} for an example") from None
    return parse(content, name=str(file))


def parse(content: Mapping[str, object], *, name: str = "designs") -> DesignFile:
    """Check what a file of designs holds; errors as `load`."""
    try:
        return DesignFile.model_validate(content)
    except ValidationError as fault:
        lines = []
        for error in fault.errors():
            key = ".".join(str(part) for part in error["loc"]) or "file"
            message = error["msg"].removeprefix("Value error, ")
            seen = error.get("input")
            shown = "" if isinstance(seen, Mapping) else f", not {seen!r}"
            lines.append(f"{name}: {key}: {message}{shown if 'give' not in message else ''}")
        raise ReinfuseError("\n".join(lines)) from None


def pose_designs(
    file: DesignFile, *, variant: str = "no-exhaustion", random_effects: Sequence[str] | None = None
) -> Problem:
    """The problem that all designs of a file pose together: one patient for each product, every assay of some design.

    Parameters of the problem are those that some design informs, so that designs are compared on the same ones.

    Parameters
    ----------
    file
        The designs.
    variant
        A name of `VARIANTS`.
    random_effects
        Parameters that differ between patients; when None those of `Specification` and, if M-protein is sampled,
        `MPROTEIN_EFFECTS`.
    """
    if variant not in VARIANTS:
        raise ReinfuseError(f"unknown variant {variant!r}; use one of {', '.join(VARIANTS)}")
    products, _ = file.allocation
    assays = sorted({assay for assay, _ in file.samples})
    last = max(file.follow_up(design) for design in file.design)
    rows: list[dict[str, object]] = []
    for product in products:
        rows.append({"ID": product, "TIME": 0.0, "EVID": 1, "PRODUCT": product})
        rows += [{"ID": product, "TIME": 30.0, "EVID": 0, "DVID": assay, "DV": 1.0} for assay in assays]
        rows += [
            {"ID": product, "TIME": last, "EVID": 0, "DVID": event, "DV": 0.0} for event in ("progression", "death")
        ]
    table = pd.DataFrame(rows, columns=["ID", "TIME", "EVID", "AMT", "PRODUCT", "LD", "DVID", "DV", "CENS", "LLOQ"])
    cohort = cohort_from_frame(table.astype(object).where(table.notna(), ""), name="designs")
    usual = (*RANDOM_EFFECTS, *(MPROTEIN_EFFECTS if "mprotein" in assays else ()))
    chosen = usual if random_effects is None else tuple(random_effects)
    return pose(cohort, Specification(variant=variant, random_effects=chosen))


def allocate(shares: Sequence[float], patients: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Which product each of so many patients has, spread evenly: any first ones have about the shares."""
    given = np.zeros(len(shares))
    out = np.empty(patients, dtype=np.int64)
    for i in range(patients):
        out[i] = int(np.argmax(np.asarray(shares) * (i + 1) - given))
        given[out[i]] += 1.0
    return out

"""A table becomes a cohort, or a list of what is wrong with it.

`read_cohort` turns a CSV or Parquet file into a `Cohort`: a checked table in one canonical form, from which
the fit takes its observation records (`fits.assays`) and `reinfuse check` its description (`summarise`). The
layout is the long table of NONMEM and Monolix; `cohort_terms.COLUMNS` lists its columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pa

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.products import PRODUCTS

from .cohort_checks import HasDose, canonical_table, event_course
from .cohort_files import CohortError, Fault, frame_cells, read_cells
from .cohort_summary import CohortSummary, summarise
from .cohort_terms import ASSAY_TABLE, CART, COLUMNS, EVENTS, Vocabulary
from .whole_file import write_whole

__all__ = [
    "ASSAY_TABLE",
    "COLUMNS",
    "Cohort",
    "CohortError",
    "CohortSummary",
    "Fault",
    "cohort_from_frame",
    "read_cohort",
    "summarise",
    "write_cohort",
]


def contract(terms: Vocabulary) -> pa.DataFrameSchema:
    """The canonical table's own contract; every `Cohort` is held to it, however it was made."""
    at_least = [pa.Check.ge(0)] if terms.courses else []
    return pa.DataFrameSchema(
        {
            "ID": pa.Column("str", pa.Check.str_length(min_value=1)),
            "TIME": pa.Column("float64"),
            "EVID": pa.Column("int64", pa.Check.isin([0, 1])),
            "AMT": pa.Column("float64", [pa.Check.gt(0)] if terms.courses else [], nullable=True),
            "PRODUCT": pa.Column("str"),
            "LD": pa.Column("float64", pa.Check.in_range(0, 1), nullable=True),
            "DVID": pa.Column("str", pa.Check.isin(["", *terms.assays])),
            "DV": pa.Column("float64", at_least, nullable=True),
            "CENS": pa.Column("int64", pa.Check.isin([-1, 0, 1])),
            "LLOQ": pa.Column("float64", pa.Check.gt(0), nullable=True),
            "LIMIT": pa.Column("float64", at_least, nullable=True),
        },
        name="cohort",
    )


@dataclass(frozen=True)
class Cohort:
    """Patients, their infusions, their observations. Made by `read_cohort` or `cohort_from_frame`.

    Parameters
    ----------
    table
        The canonical table (`cohort_checks.canonical_table`): columns ID, TIME (days), EVID, AMT (cells),
        PRODUCT, LD, DVID, DV (the assay's unit), CENS, LLOQ, LIMIT, then covariates in lower case; sorted. Not to
        be changed.
    name
        The file or data set it came from.
    sha256
        Digest of the bytes it was read from.
    terms
        What the table may hold; that of CAR-T cells as a rule.

    Raises
    ------
    ReinfuseError
        The table is not in canonical form.
    """

    table: pd.DataFrame
    name: str
    sha256: str
    terms: Vocabulary = CART

    def __post_init__(self) -> None:
        try:
            contract(self.terms).validate(self.table)
        except pa.errors.SchemaError as error:
            raise ReinfuseError(
                f"not a canonical cohort table: {error}; make cohorts with read_cohort or cohort_from_frame"
            ) from error

    @cached_property
    def patients(self) -> list[str]:
        """IDs in the order of the table, numbers within an ID counting as numbers."""
        return list(dict.fromkeys(self.table["ID"].tolist()))

    @property
    def n_patients(self) -> int:
        """Number of patients."""
        return len(self.patients)

    @cached_property
    def infusions(self) -> pd.DataFrame:
        """One row per infusion: ID, SLOT (from 1), TIME (days), AMT (cells), PRODUCT, LD."""
        rows = self.table.loc[self.table["EVID"] == 1, ["ID", "TIME", "AMT", "PRODUCT", "LD"]].reset_index(drop=True)
        rows.insert(1, "SLOT", rows.groupby("ID", sort=False).cumcount() + 1)
        return rows

    @cached_property
    def observations(self) -> pd.DataFrame:
        """One row per observation: ID, TIME (days), DVID, DV, CENS, LLOQ, LIMIT."""
        columns = ["ID", "TIME", "DVID", "DV", "CENS", "LLOQ", "LIMIT"]
        return self.table.loc[self.table["EVID"] == 0, columns].reset_index(drop=True)

    @cached_property
    def covariates(self) -> pd.DataFrame:
        """One row per patient, indexed by ID; a column per covariate (float64 or text, "" where missing)."""
        names = [name for name in self.table.columns if name not in COLUMNS]
        return (
            self.table.groupby("ID", sort=False)[names].first()
            if names
            else pd.DataFrame(index=pd.Index(self.patients, name="ID"))
        )

    @cached_property
    def products(self) -> list[str]:
        """Products infused, sorted."""
        return sorted(set(self.infusions["PRODUCT"].tolist()))

    @cached_property
    def max_infusions(self) -> int:
        """The largest number of infusions any patient got."""
        return int(self.infusions["SLOT"].max()) if len(self.infusions) else 0

    @cached_property
    def observation_slots(self) -> npt.NDArray[np.int64]:
        """(n_observations,) the infusion slot, from 1, under which each observation was made.

        That is the latest infusion at or before its time (slot 1 before the first). A progression row belongs
        to the latest infusion strictly before it (`cohort_checks.event_course`).
        """
        starts = {patient: group["TIME"].to_numpy() for patient, group in self.infusions.groupby("ID", sort=False)}
        rows = self.observations
        slots = [
            event_course(time, starts[patient].tolist()) + 1
            if dvid == "progression"
            else max(int(np.searchsorted(starts[patient], time, side="right")), 1)
            for patient, time, dvid in zip(rows["ID"], rows["TIME"], rows["DVID"], strict=True)
        ]
        return np.asarray(slots, dtype=np.int64)

    @cached_property
    def after_progression(self) -> npt.NDArray[np.bool_]:
        """(n_observations,) True where an assay was taken after the progression of its infusion course.

        Such rows follow salvage therapy that the table does not know of; they are flagged until the next
        infusion. The day of progression itself is not flagged, and rows of progression and death never are.
        """
        rows = self.observations
        slots = self.observation_slots
        progressed = {
            (patient, slot): time
            for patient, slot, time, dvid, value in zip(
                rows["ID"], slots.tolist(), rows["TIME"], rows["DVID"], rows["DV"], strict=True
            )
            if dvid == "progression" and value == 1
        }
        flags = [
            dvid not in EVENTS and time > progressed.get((patient, slot), np.inf)
            for patient, slot, time, dvid in zip(rows["ID"], slots.tolist(), rows["TIME"], rows["DVID"], strict=True)
        ]
        return np.asarray(flags, dtype=np.bool_)


def read_cohort(path: str | Path, *, products: Mapping[str, HasDose] | None = None) -> Cohort:
    """Read and check a cohort file.

    Parameters
    ----------
    path
        CSV (UTF-8, commas, decimal points) or Parquet; told apart by content. Column names in any case.
    products
        What PRODUCT may name, by name; None: the registered products. An empty AMT takes the product's dose.

    Returns
    -------
    Cohort
        The checked cohort.

    Raises
    ------
    CohortError
        With every fault found, each with its row, column, the value seen and what to do.
    """
    cells = read_cells(path)
    table = canonical_table(cells, products=PRODUCTS if products is None else products)
    return Cohort(table=table, name=Path(path).name, sha256=cells.sha256)


def cohort_from_frame(
    frame: pd.DataFrame, *, name: str = "table", products: Mapping[str, HasDose] | None = None
) -> Cohort:
    """Check a DataFrame laid out like a cohort file.

    Parameters
    ----------
    frame
        The columns of a cohort file; its index is ignored.
    name
        What the cohort, and the faults, are called.
    products
        As in `read_cohort`.

    Returns
    -------
    Cohort
        The checked cohort.

    Raises
    ------
    CohortError
        With every fault found; row i of the frame (from 0) is called row i + 2.
    """
    cells = frame_cells(_as_written(frame), name=name)
    table = canonical_table(cells, products=PRODUCTS if products is None else products)
    return Cohort(table=table, name=name, sha256=cells.sha256)


def write_cohort(table: pd.DataFrame, path: str | Path) -> None:
    """Write a cohort table as CSV that `read_cohort` reads back to the same values.

    Parameters
    ----------
    table
        A canonical table, or any table laid out like a cohort file. An empty column LIMIT is not written.
    path
        File to write; replaced in one step, so that an interruption leaves no half a file.

    Raises
    ------
    OSError
        The folder does not exist or cannot be written.
    """
    written = _as_written(table)
    write_whole(Path(path), lambda file: written.to_csv(file, index=False, encoding="utf-8", lineterminator="\n"))


def _as_written(table: pd.DataFrame) -> pd.DataFrame:
    """The table without an empty column LIMIT, so that files and digests are those of a table that has none."""
    empty = "LIMIT" in table and table["LIMIT"].isna().all()
    return table.drop(columns="LIMIT") if empty else table

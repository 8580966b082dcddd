"""The table of outcomes: one row per scenario, world and virtual patient, on disk as it is made.

Rows of an arm (a scenario in a world) are written together, in row groups of their own: a table of any size is written
with the memory of a few groups, and read one arm at a time. Text is kept as codes and numbers in single precision.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.judgement import Event
from reinfuse.model.response import Response

from .outcomes import ABSENT
from .scenarios import GROUPS, Scenario, ScenarioFile, World

#: Rows of an arm that are written together.
GROUP_ROWS: Final = 32_768
#: Codes that labels begin with, where it is not 0.
FIRST_CODE: Final[Mapping[str, int]] = {"best": min(Response), "pfs_event": min(Event)}

#: Columns that every table has, with their meaning.
COLUMNS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "scenario": "name of the scenario",
        "world": "name of the world: which hypotheses of relapse are on",
        "patient": "number of the virtual patient; equal numbers are the same patient",
        "draw": "number of the draw of the population",
        "group": "first-response group",
        "antigen_loss": "whether most of the tumour was BCMA-low at the first relapse",
        "first_product": "name",
        "second_product": "name, bispecific, or none",
        "infused": "whether the patient lived to the second infusion (or its day, in a comparator)",
        "failed": "whether a later course could not be simulated",
        "courses": "infusions that the patient lived to (in a comparator, its start counts)",
        "infusion_day": "day of the second infusion since the first",
        "q_apheresis": "host dysfunction when the second product's cells were taken; NaN without one",
        "pfs_from_relapse_days": "days from the first progression to the next, death or end of follow-up",
    }
)
#: Columns of each course, with their meaning; the number of the course is appended, as in ``best_2``.
OF_COURSE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "best": "best response",
        "evaluable": "whether a response class could be given",
        "response_days": "days to the first response, inf without",
        "mrd5": "MRD-negative at 1e-5",
        "mrd6": "MRD-negative at 1e-6",
        "mrd5_days": "days to the first visit at which it was so, inf without",
        "mrd6_days": "days to the first visit at which it was so, inf without",
        "pfs_days": "days to progression, death or end of follow-up; NaN where progression cannot be told",
        "pfs_event": "progression, death or none",
        "dor_days": "days from response to progression, death or end of follow-up; NaN without",
        "cmax": "peak of all CAR-T, cells/µL",
        "tmax": "days to the peak",
        "auc28": "area to day 28, cells/µL times days",
        "persistence_days": "days to the last day with CAR-T cells that flow cytometry would see",
        "crs_proxy": "proxy of cytokine release from peak expansion; no prediction of toxicity",
        "antigen_low": "share of BCMA-low cells at progression; NaN without",
        "deepest": "lowest M-protein over its value at infusion",
        "cure_chance": "chance that the last myeloma cell is gone; NaN where extinction by chance is off",
    }
)
_FLAGS: Final = ("antigen_loss", "infused", "failed", "evaluable", "mrd5", "mrd6")


def infusion_day(course: int) -> str:
    """Column of the day, since the first infusion, of a later course's own; NaN where it was not given."""
    return "infusion_day" if course == 2 else f"infusion_day_{course}"


def column_names(file: ScenarioFile) -> tuple[str, ...]:
    """Columns of a file's table, in order."""
    most = max(1 + max(1, len(scenario.later)) for scenario in file.scenarios)
    days = map(infusion_day, range(3, most + 1))
    return (*COLUMNS, *days, *(f"{name}_{k}" for k in range(1, most + 1) for name in OF_COURSE))


def _categories(file: ScenarioFile, first_product: str | None) -> dict[str, tuple[str, ...]]:
    """Labels of the columns that hold text."""
    second = [scenario.second_label for scenario in file.scenarios]
    return {
        "scenario": tuple(scenario.name for scenario in file.scenarios),
        "world": tuple(world.name for world in file.worlds),
        "group": GROUPS,
        "first_product": tuple(dict.fromkeys([*file.product_names, *([first_product] if first_product else [])])),
        "second_product": tuple(dict.fromkeys(second)),
        "best": tuple(response.name for response in Response),
        "pfs_event": tuple(event.name.lower() for event in Event),
    }


class OutcomeWriter:
    """Writes a table row group by row group; a context manager.

    Parameters
    ----------
    path
        The Parquet file.
    file
        The scenarios.
    first_product
        What a real patient had, whatever the scenarios say; None: as they say.
    """

    def __init__(self, path: Path, file: ScenarioFile, *, first_product: str | None = None) -> None:
        self.path, self.file, self.first_product = path, file, first_product
        self.names, self.labels = column_names(file), _categories(file, first_product)
        self.schema = pa.schema([pa.field(name, self._type(name)) for name in self.names])
        self._waiting: dict[tuple[str, str], list[pa.Table]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._writer = self._stack.enter_context(pq.ParquetWriter(self.path, self.schema, compression="zstd"))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                for arm in list(self._waiting):
                    self._flush(arm)
        finally:
            self._stack.close()

    def _stem(self, name: str) -> str:
        return name if name in COLUMNS else name.rpartition("_")[0]

    def _type(self, name: str) -> pa.DataType:
        stem = self._stem(name)
        if stem in self.labels:
            return pa.dictionary(pa.int16(), pa.string())
        if stem in _FLAGS:
            return pa.bool_()
        return {"patient": pa.int64(), "draw": pa.int32(), "courses": pa.int8()}.get(stem, pa.float32())

    def add(self, scenario: Scenario, world: World, columns: Mapping[str, NDArray[Any]], rows: int) -> None:
        """Add the first rows of an arm's columns, labels as codes; what is missing is absent (NaN, not evaluable)."""
        if rows == 0:
            return
        given = {name: values[:rows] for name, values in columns.items()}
        same = {
            "scenario": scenario.name,
            "world": world.name,
            "first_product": self.first_product or scenario.first.product,
            "second_product": scenario.second_label,
        }
        given |= {name: np.full(rows, self.labels[name].index(label)) for name, label in same.items()}
        arrays = [self._array(name, given.get(name), rows) for name in self.names]
        waiting = self._waiting.setdefault((scenario.name, world.name), [])
        waiting.append(pa.Table.from_arrays(arrays, schema=self.schema))
        if sum(table.num_rows for table in waiting) >= GROUP_ROWS:
            self._flush((scenario.name, world.name))

    def _array(self, name: str, values: NDArray[Any] | None, rows: int) -> pa.Array:
        stem, kind = self._stem(name), self._type(name)
        if stem in self.labels:
            codes = np.full(rows, ABSENT.get(stem, 0)) if values is None else values
            places = pa.array((codes - FIRST_CODE.get(stem, 0)).astype(np.int16))
            return pa.DictionaryArray.from_arrays(places, pa.array(self.labels[stem], type=pa.string()))
        if values is None:
            values = np.zeros(rows, dtype=np.bool_) if stem in _FLAGS else np.full(rows, np.nan)
        # pyarrow's own cast would refuse what single precision rounds
        return pa.array(np.asarray(values).astype(kind.to_pandas_dtype()), type=kind)

    def _flush(self, arm: tuple[str, str]) -> None:
        waiting = self._waiting.pop(arm, [])
        if waiting:
            table = pa.concat_tables(waiting)
            self._writer.write_table(table, row_group_size=table.num_rows)
        self._waiting[arm] = []


class OutcomeTable:
    """A table that was written, read arm by arm.

    Parameters
    ----------
    path
        The Parquet file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise ReinfuseError(f"no outcomes in {path.parent}: {path.name} is missing; run `reinfuse retreat` again")
        self._file = pq.ParquetFile(path)
        self._groups: dict[tuple[str, str], list[int]] = {}
        at = [self._file.schema_arrow.get_field_index(name) for name in ("scenario", "world")]
        for i in range(self._file.num_row_groups):
            row = self._file.metadata.row_group(i)
            scenario, world = (row.column(j).statistics.min for j in at)
            self._groups.setdefault((str(scenario), str(world)), []).append(i)

    @property
    def arms(self) -> tuple[tuple[str, str], ...]:
        """Scenario and world of each arm that has patients."""
        return tuple(self._groups)

    @property
    def names(self) -> tuple[str, ...]:
        """Columns."""
        return tuple(self._file.schema_arrow.names)

    def read(self, scenario: str, world: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Rows of one arm, in order of the patients; empty if it has none."""
        wanted = None if columns is None else list(columns)
        groups = self._groups.get((scenario, world), [])
        found: pd.DataFrame = self._file.read_row_groups(groups, columns=wanted).to_pandas()
        return found

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[tuple[str, str, pd.DataFrame]]:
        """Every arm: scenario, world, rows."""
        for scenario, world in self.arms:
            yield scenario, world, self.read(scenario, world, columns)

    def frame(self) -> pd.DataFrame:
        """Everything at once; for tables that fit into memory."""
        found: pd.DataFrame = self._file.read().to_pandas()
        return found

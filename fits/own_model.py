"""From a table and a model of one's own to a problem that can be fitted.

The table has the columns of NONMEM, ``ID, TIME, EVID, AMT, DVID, DV, CENS, LLOQ, LIMIT``: TIME in the model's unit,
from 0 up, the same for all patients; EVID 1 is a dose of AMT; DVID is one of the model's observables (it may be left
out if there is one); CENS 1 says that the value lay below the limit that stands in DV, and above LIMIT where there is
one. Any other column is a covariate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reinfuse.model.define import Model, sd_of
from reinfuse.model.derive.algebra import leaves
from reinfuse.model.derive.build import build
from reinfuse.model.derive.trace import Trace
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.experiment import columns, read_rows
from reinfuse.model.parameters import Parameter

from .assays import Records
from .cohort import Cohort
from .cohort_checks import canonical_table
from .cohort_files import Cells, frame_cells, read_cells
from .cohort_terms import Assay, Vocabulary
from .problem import TOLERANCE, Observable, Problem


@dataclass(frozen=True)
class Description:
    """What the record of a fit (`run.json`) says of a user's model, so that the fit can be judged without the model.

    Attributes
    ----------
    name, time_unit
        Of the model.
    doses
        Whether it takes any.
    rows
        Parameter table.
    observables
        Unit, and whether residuals are those of the logarithm, by name.
    """

    name: str
    time_unit: str
    doses: bool
    rows: Mapping[str, Parameter]
    observables: Mapping[str, tuple[str, bool]]

    @property
    def terms(self) -> Vocabulary:
        """What a table for this model may hold."""
        needed = ["EVID", "AMT"] if self.doses else []
        return Vocabulary(
            assays={name: Assay(unit, signed=not log) for name, (unit, log) in self.observables.items()},
            required=("ID", "TIME", *needed, *(["DVID"] if len(self.observables) > 1 else []), "DV"),
            time=f"time ({self.time_unit})",
            doses=self.doses,
        )

    def to_json(self) -> dict[str, Any]:
        """For `run.json`."""
        return {
            "name": self.name,
            "time_unit": self.time_unit,
            "doses": self.doses,
            "parameters": [vars(row) for row in self.rows.values()],
            "observables": {name: {"unit": unit, "log": log} for name, (unit, log) in self.observables.items()},
        }


def describe(model: Model) -> Description:
    """What a fit's record says of a model."""
    return Description(
        name=model.name,
        time_unit=model.time_unit,
        doses=model.dose is not None,
        rows=model.table,
        observables={name: (x.unit, x.log) for name, x in model.observed.items()},
    )


def described(content: Mapping[str, Any]) -> Description:
    """The description that `Description.to_json` wrote."""
    return Description(
        name=content["name"],
        time_unit=content["time_unit"],
        doses=content["doses"],
        rows={row["symbol"]: Parameter(**row) for row in content["parameters"]},
        observables={name: (x["unit"], bool(x["log"])) for name, x in content["observables"].items()},
    )


def load_model(path: str | Path) -> Model:
    """The one `Model` that a Python file defines. The file is run.

    Raises
    ------
    ReinfuseError
        If there is no such file, it cannot be run, or it does not hold exactly one model.
    """
    file = Path(path)
    if not file.is_file():
        raise ReinfuseError(f"there is no file {file}; give a Python file that defines a Model")
    spec = spec_from_file_location(f"reinfuse_model_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ReinfuseError(f"{file} is no Python file; its name must end in .py")
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ReinfuseError:
        raise
    except Exception as error:
        raise ReinfuseError(f"{file} could not be run: {type(error).__name__}: {error}; mend the file") from error
    found = {id(value): name for name, value in vars(module).items() if isinstance(value, Model)}
    if len(found) != 1:
        names = ", ".join(found.values()) or "none"
        raise ReinfuseError(f"{file} must define one Model; it defines {names}")
    model: Model = getattr(module, next(iter(found.values())))
    return model


def read_data(path: str | Path, *, model: Model) -> Cohort:
    """Read and check a table of doses and measurements.

    Parameters
    ----------
    path
        CSV or Parquet, told apart by content.
    model
        Whose observables and doses it holds.

    Returns
    -------
    Cohort

    Raises
    ------
    CohortError
        With every fault found, each with its row, column, the value seen and what to do.
    """
    return cohort_of(read_cells(path), describe(model), name=Path(path).name)


def data_from_frame(frame: pd.DataFrame, *, model: Model, name: str = "table") -> Cohort:
    """Check a DataFrame laid out like the table of `read_data`; row i (from 0) is called row i + 2."""
    return cohort_of(frame_cells(frame, name=name), describe(model), name=name)


def cohort_of(cells: Cells, description: Description, *, name: str) -> Cohort:
    """Cells of a table, checked in a model's terms."""
    table = canonical_table(cells, terms=description.terms)
    return Cohort(table=table, name=name, sha256=cells.sha256, terms=description.terms)


def pose_model(data: Cohort, model: Model, *, tolerance: float = TOLERANCE) -> Problem:
    """Turn a table and a model into a problem.

    Parameters
    ----------
    data
        From `read_data`.
    model
        What to fit: parameters with ``log_sd`` above 0 are estimated, those with ``iiv`` above 0 vary between patients;
        the others stay at their medians.
    tolerance
        Of the solver.

    Returns
    -------
    Problem

    Raises
    ------
    ReinfuseError
        If there is nothing to fit.
    """
    rows = read_rows(model, data)
    present = tuple(name for name in model.observed if name in set(rows.dvid.tolist()))
    if not present:
        raise ReinfuseError(f"{data.name} holds no measurement of {', '.join(model.observed)}; nothing can be fitted")
    fixed = {symbol: row.median for symbol, row in model.table.items() if row.log_sd == 0 and row.iiv == 0}
    ode = model.ode(rows.dosing.slots)
    readouts = (*present, *(sd_of(name) for name in present))
    compiled = build(ode, fixed=fixed, kinds=present, readouts=readouts)
    population = {s: row for s, row in model.table.items() if s in compiled.parameters}
    if not any(row.log_sd > 0 for row in population.values()):
        raise ReinfuseError(f"model {model.name!r} has no parameter to estimate; give log_sd above 0 to one at least")
    trace = Trace(ode, fixed)
    scales = leaves([trace.observations[name][1] for name in present])
    records = rows.records(model, compiled.kinds)
    n = len(rows.patients)
    last = np.where(records.count > 0, records.time[np.arange(n), np.maximum(records.count - 1, 0)], 0.0)
    return Problem(
        kernel=compiled,
        patients=rows.patients,
        population=population,
        random=tuple(s for s, row in population.items() if row.iiv > 0),
        residual=tuple(s for s in population if f"p.{s}" in scales),
        observables={name: Observable(sd_of(name), log=model.observed[name].log) for name in present},
        effects=(),
        base=columns(compiled, {s: row.median for s, row in model.table.items()}, rows.dosing),
        slot_products=np.full((n, 1), "", dtype="<U1"),
        order=np.argsort(-last, kind="stable").astype(np.int64),
        ev_time=rows.dosing.time,
        ev_code=rows.dosing.code,
        n_ev=rows.dosing.count,
        ob_time=records.time,
        ob_kind=records.kind,
        ob_family=records.family,
        ob_value=records.value,
        n_ob=records.count,
        observed=Records(
            patients=rows.patients,
            patient=rows.patient,
            time=rows.time,
            kind=np.array([present.index(str(name)) for name in rows.dvid], dtype=np.int64),
            dvid=rows.dvid,
            family=rows.family,
            value=rows.value,
            product=np.full(rows.dvid.size, "", dtype="<U1"),
            lower=rows.lower,
            lloq=np.full(rows.dvid.size, np.nan),
        ),
        fixed=fixed,
        tolerance=tolerance,
        own=True,
    )

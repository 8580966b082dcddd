"""From text cells to the canonical cohort table, or the full list of what is wrong with them.

`canonical_table` reads every cell, then looks at every patient. It never stops at the first fault: a user
mends a file once. Only a fault of the header stops it, because without its columns a row has no meaning.
"""

import difflib
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

import numpy as np
import pandas as pd

from .cohort_files import WHOLE_FILE, Cells, CohortError, Fault
from .cohort_terms import (
    CART,
    COLUMN_ALIASES,
    COLUMNS,
    EVENTS,
    HIGHEST_DOSE,
    LOWEST_DOSE,
    PRODUCT_ALIASES,
    Vocabulary,
)

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
_BEYOND = re.compile(r"([<≤>≥])\s*=?\s*(.+)")
_NOT_FOUND = re.compile(
    r"[<≤]?\s*(b?ll?o[qd]|blq|bql|n\.?\s?d\.?|neg\.?|negative?|not detected|undetectable)", re.IGNORECASE
)
_UNIT = re.compile(r"\s*[(\[/_].*")  # as in TIME (days), DV [ng/mL]
_TITLE_ROWS = 10  # in which the header is looked for
_MISSING = frozenset({"", "."})
_MISSING_COVARIATE = frozenset({"", ".", "na", "n/a", "nan"})
#: Columns of NONMEM that make further or longer doses of a row; none of them is known here.
DOSING = ("ADDL", "II", "SS", "RATE", "DUR")
_NO_MORE = ("0", "0.0")

_CENS_REMEDY = "write 1 (below LLOQ), -1 (above the upper limit), 0 or nothing"
_EVID_REMEDY = "write 0 for an observation, 1 for an infusion"
_ID_REMEDY = "give every row the ID of its patient (merged cells of a spreadsheet fill the first row alone)"
_DV_REMEDY = "give the measured value, or leave the row out if nothing was measured"
_EVENT_REMEDY = "write 1 if it happened on that day, 0 if the patient was free of it until then"
_OWN_ROW = "leave it empty here; give the observation a row of its own with EVID = 0"


class HasDose(Protocol):
    """What the checks need of a product."""

    @property
    def dose(self) -> float:
        """Reference dose, CAR+ cells."""


def _censored(text: str) -> str:
    """How to write a measurement that says on which side of a limit it lies; empty if the text does not."""
    if _NOT_FOUND.fullmatch(text):
        return "for a value below the limit write the limit in DV and 1 in CENS"
    if (found := _BEYOND.fullmatch(text)) is None:
        return ""
    below, limit = found[1] in "<≤", found[2].strip().replace(",", ".")
    written = limit if _NUMBER.fullmatch(limit) else "the limit"
    return (
        f"for a value {'below' if below else 'above'} the limit write {written} in DV and {1 if below else -1} in CENS"
    )


@dataclass
class _Row:
    """One row, read: a number is NaN where its cell is empty or faulty; `bad` names the faulty columns."""

    line: int
    cells: tuple[str, ...]
    patient: str
    time: float = math.nan
    evid: int | None = None
    amt: float = math.nan
    product: str = ""
    ld: float = math.nan
    dvid: str = ""
    dv: float = math.nan
    cens: int = 0
    lloq: float = math.nan
    limit: float = math.nan
    bad: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Infusion:
    row: _Row
    time: float
    amt: float
    product: str
    ld: float


class _Checker:
    """What every check needs: the cells, where each column is, and the faults so far."""

    def __init__(self, cells: Cells, products: Mapping[str, HasDose], terms: Vocabulary) -> None:
        self.cells, self.terms = cells, terms
        self.faults: list[Fault] = list(cells.faults)
        self.products = {name.lower(): (name, product) for name, product in products.items()}
        self.place = {name.upper(): i for i, name in enumerate(cells.header)}
        self.decimal_commas: list[tuple[_Row, str]] = []

    def fault(self, row: _Row, column: str, what: str, remedy: str, value: str | None = None) -> None:
        """Note a fault of a row; the value seen is the cell's text unless another is given."""
        seen = self.text(row, column) if value is None else value
        self.faults.append(Fault(self.cells.file, row.line, column, what, seen, remedy))

    def header_fault(self, column: str, what: str, value: str, remedy: str) -> None:
        """Note a fault of the header."""
        self.faults.append(Fault(self.cells.file, 1, column, what, value, remedy))

    def text(self, row: _Row, column: str) -> str:
        """Text of a cell; empty for a column that the file has not."""
        place = self.place.get(column.upper())
        return "" if place is None else row.cells[place]

    def number(self, row: _Row, column: str, remedy: str) -> float:
        """Read a number; NaN where the cell is empty, or faulty (then noted)."""
        text = self.text(row, column)
        if text in _MISSING:
            return math.nan
        if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
            return float(text)
        row.bad.add(column)
        if _NOT_FINITE.fullmatch(text) or _NUMBER.fullmatch(text):
            self.fault(row, column, "not a finite number", remedy)
        elif _DECIMAL_COMMA.fullmatch(text):
            self.decimal_commas.append((row, column))
        else:
            self.fault(row, column, "not a number", _censored(text) or remedy if column == "DV" else remedy)
        return math.nan

    def report_decimal_commas(self) -> None:
        """Note one fault for a file written with decimal commas, not one per cell."""
        if self.decimal_commas:
            row, column = self.decimal_commas[0]
            more = len(self.decimal_commas) - 1
            what = f"decimal comma (and {more} more cells like it)" if more else "decimal comma"
            self.fault(row, column, what, "write decimals with a point and thousands without a separator")


def canonical_table(
    cells: Cells, *, products: Mapping[str, HasDose] = MappingProxyType({}), terms: Vocabulary = CART
) -> pd.DataFrame:
    """Check every row and turn the cells into the canonical table.

    Parameters
    ----------
    cells
        A table as text, from `read_cells` or `frame_cells`.
    products
        The products that PRODUCT may name (in any case), with their reference doses in cells.
    terms
        What the table may hold.

    Returns
    -------
    pandas.DataFrame
        Columns ID (str), TIME (days), EVID (int), AMT (cells), PRODUCT (str), LD, DVID (str), DV, CENS (int),
        LLOQ, LIMIT, then the covariates in lower case. Text that does not apply is "", a number that does not apply
        NaN. Sorted by patient (digits within an ID count as numbers), time, infusions first, then assay.

    Raises
    ------
    CohortError
        Holding every fault found.
    """
    checker = _Checker(cells, products, terms)
    _check_header(checker)
    if not cells.rows and not checker.faults:
        remedy = "add one row per infusion or observation"
        checker.header_fault(WHOLE_FILE, "there is a header and no rows", "", remedy)
    if checker.faults and not cells.rows:
        raise CohortError(checker.faults)
    patients: dict[str, list[_Row]] = defaultdict(list)
    for line, texts in cells.rows:
        row = _read_row(checker, line, texts)
        if row.patient:
            patients[row.patient].append(row)
    checker.report_decimal_commas()
    infusions = {patient: _check_patient(checker, rows) for patient, rows in patients.items()}
    covariates = _covariates(checker, patients)
    if checker.faults:
        order = {name: i for i, name in enumerate(COLUMNS)}
        raise CohortError(sorted(checker.faults, key=lambda f: (f.row, order.get(f.column, len(order)))))
    return _assemble(patients, infusions, covariates, list(terms.assays))


def natural_order(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which P2 comes before P10.

    Parameters
    ----------
    name
        A patient's ID.

    Returns
    -------
    tuple
        Comparable with the key of any other name.
    """
    parts = [part for part in re.split(r"([0-9]+)", name) if part]
    return tuple((0, int(part), part) if part[0] in "0123456789" else (1, 0, part) for part in parts)


def event_course(time: float, starts: Sequence[float]) -> int:
    """Which infusion course a progression belongs to, from 0.

    Parameters
    ----------
    time
        Day of the progression, or the last day free of it.
    starts
        Days of the patient's infusions, ascending.

    Returns
    -------
    int
        The latest infusion strictly before that day: whoever is infused again on the day of progression, or
        whose course is closed on the day of the next infusion, progressed (or not) under the earlier one. Day
        0 belongs to course 0.
    """
    return max(sum(start < time for start in starts) - 1, 0)


def _shown(number: float) -> str:
    return f"{number:.12g}"


# ---- the header


def _check_header(checker: _Checker) -> None:
    """Raise if columns are missing, doubled or without a name, or the header is not in the first row."""
    written = checker.cells.header
    _check_for_title(checker)
    first: dict[str, str] = {}
    for place, name in enumerate(written):
        key = name.upper()
        if not name:
            checker.header_fault(WHOLE_FILE, f"column {place + 1} has no name", "", "name it or remove it")
        elif key in first:
            remedy = "keep one (upper and lower case are the same)"
            shown = f"{first[key]}, {name}"
            checker.header_fault(key if key in COLUMNS else name, "duplicate column", shown, remedy)
        first.setdefault(key, name)
    spare = [key for key in first if key and key not in COLUMNS]
    for name in checker.terms.required:
        if name not in first:
            near = [key for key in spare if key in COLUMN_ALIASES[name] or _UNIT.sub("", key) == name]
            near = near or difflib.get_close_matches(name, spare, n=1, cutoff=0.6)
            optional = name == "AMT" and checker.terms.courses
            empty = " (it may be empty: the product's reference dose)" if optional else ""
            remedy = f"rename column {first[near[0]]!r} to {name}" if near else f"add a column {name}{empty}"
            checker.header_fault(name, "required column is missing", ", ".join(written), remedy)
    if any(fault.row == 1 for fault in checker.faults):
        raise CohortError(checker.faults)


def _check_for_title(checker: _Checker) -> None:
    """Raise if a later row is the header, for a title stands above it."""
    required = set(checker.terms.required)
    if required & {name.upper() for name in checker.cells.header}:
        return
    for line, cells in checker.cells.rows[:_TITLE_ROWS]:
        if len(required & {cell.upper() for cell in cells}) >= min(3, len(required)):
            title = " ".join(name for name in checker.cells.header if name)
            remedy = f"remove what stands above row {line}, the row with the names of the columns"
            checker.header_fault(WHOLE_FILE, "a title stands above the header", title, remedy)
            raise CohortError(checker.faults)


# ---- one row


def _read_row(checker: _Checker, line: int, cells: tuple[str, ...]) -> _Row:
    row = _Row(line, cells, patient=cells[checker.place["ID"]])
    if row.patient in _MISSING:
        row.patient = ""
        checker.fault(row, "ID", "no patient", _ID_REMEDY)
    _read_time(checker, row)
    courses = checker.terms.courses
    row.evid = _read_code(checker, row, "EVID", (0, 1), _EVID_REMEDY, None if courses else 0)
    row.cens = _read_code(checker, row, "CENS", (-1, 0, 1), _CENS_REMEDY, 0) or 0
    _read_assay(checker, row)
    dose_remedy = "give CAR+ cells infused, or leave empty for the reference dose" if courses else "give the amount"
    row.amt = checker.number(row, "AMT", dose_remedy)
    if courses:
        _read_product(checker, row)
        row.ld = checker.number(row, "LD", "give an intensity from 0 to 1, or leave empty for 1")
    row.dv = checker.number(row, "DV", _EVENT_REMEDY if row.dvid in EVENTS else _DV_REMEDY)
    row.lloq = checker.number(row, "LLOQ", "give the lower limit of quantification, or leave empty")
    row.limit = checker.number(row, "LIMIT", "give the lower end of the interval, or leave empty")
    if row.evid == 1:
        (_check_infusion if courses else _check_dose)(checker, row)
    elif row.evid == 0:
        _check_observation(checker, row)
    return row


def _read_time(checker: _Checker, row: _Row) -> None:
    terms = checker.terms
    remedy = f"give {terms.time}"
    row.time = checker.number(row, "TIME", remedy)
    if math.isnan(row.time) and "TIME" not in row.bad:
        row.bad.add("TIME")
        checker.fault(row, "TIME", "no time", remedy)
    if not terms.courses and row.time < 0:
        checker.fault(row, "TIME", "a time before 0", f"count {terms.time} from the start of the simulation")
    if abs(row.time) > terms.longest:
        what = "absurd scale: more than a century in days"
        checker.fault(row, "TIME", what, f"hours, seconds or a date number? {remedy.capitalize()}")


def _read_code(
    checker: _Checker, row: _Row, column: str, allowed: tuple[int, ...], remedy: str, empty: int | None
) -> int | None:
    """Read a whole number out of a few; an empty cell is faulty unless `empty` says what it stands for."""
    number = checker.number(row, column, remedy)
    if column in row.bad:
        return None
    if math.isnan(number) and empty is not None:
        return empty
    if number in allowed:
        return int(number)
    row.bad.add(column)
    choice = ", ".join(map(str, allowed[:-1])) + f" or {allowed[-1]}"
    checker.fault(row, column, f"{column} is not {choice}", remedy)
    return None


def _read_product(checker: _Checker, row: _Row) -> None:
    written = checker.text(row, "PRODUCT")
    if written in _MISSING:
        return
    if written.lower() in checker.products:
        row.product = checker.products[written.lower()][0]
        return
    row.bad.add("PRODUCT")
    known = {key: name for key, (name, _) in checker.products.items()}
    aliases = {alias: name for alias, name in PRODUCT_ALIASES.items() if name in known.values()}
    otherwise = f"known are {', '.join(sorted(known.values()))}; or define your own"
    checker.fault(row, "PRODUCT", "unknown product", _did_you_mean(written, aliases | known, otherwise))


def _read_assay(checker: _Checker, row: _Row) -> None:
    written, terms = checker.text(row, "DVID"), checker.terms
    names = {name.lower(): name for name in terms.assays}
    if written in _MISSING:
        if row.evid == 0 and len(names) == 1:
            (row.dvid,) = terms.assays
        return
    if written.lower() in names:
        row.dvid = names[written.lower()]
        return
    row.bad.add("DVID")
    remedy = _did_you_mean(written, {**terms.aliases, **names}, f"known are {', '.join(terms.assays)}")
    checker.fault(row, "DVID", "unknown assay" if terms.courses else "unknown observable", remedy)


def _did_you_mean(written: str, names: Mapping[str, str], otherwise: str) -> str:
    """Word a remedy that names the entry nearest to what was written."""
    key = written.lower()
    near = [key] if key in names else difflib.get_close_matches(key, list(names), n=1, cutoff=0.6)
    return f"did you mean {names[near[0]]!r}?" if near else otherwise


def _check_dose(checker: _Checker, row: _Row) -> None:
    """Check a dose of a model that knows no products."""
    if not checker.terms.doses:
        checker.fault(
            row, "EVID", "a dose, but the model takes none", "remove the row, or give the model a dose effect"
        )
    elif math.isnan(row.amt) and "AMT" not in row.bad:
        checker.fault(row, "AMT", "a dose without its amount", "give the amount")
    if not math.isnan(row.dv) and row.dv != 0:
        checker.fault(row, "DV", "dose row with a value", _OWN_ROW)


def _check_infusion(checker: _Checker, row: _Row) -> None:
    if not row.product and "PRODUCT" not in row.bad:
        known = ", ".join(sorted(name for name, _ in checker.products.values()))
        checker.fault(row, "PRODUCT", "infusion without a product", f"name it: {known}")
    if row.dvid or "DVID" in row.bad:
        checker.fault(row, "DVID", "infusion row with an assay", _OWN_ROW)
    if not math.isnan(row.dv) or "DV" in row.bad:
        checker.fault(row, "DV", "infusion row with a value", _OWN_ROW)
    if row.amt <= 0:
        remedy = "give CAR+ cells infused, or leave empty for the reference dose"
        checker.fault(row, "AMT", "the dose is not positive", remedy)
    elif row.amt < LOWEST_DOSE:
        remedy = "given in 10^6 cells? Give the number of CAR+ cells, as 4.5e8"
        checker.fault(row, "AMT", "absurd scale: too few cells for a dose", remedy)
    elif row.amt > HIGHEST_DOSE:
        remedy = "multiplied by 10^6 twice? Give the number of CAR+ cells, as 4.5e8"
        checker.fault(row, "AMT", "absurd scale: too many cells for a dose", remedy)
    if not math.isnan(row.ld) and not 0 <= row.ld <= 1:
        remedy = "give a fraction: 1 = standard fludarabine and cyclophosphamide, 0 = none"
        checker.fault(row, "LD", "lymphodepletion intensity outside 0..1", remedy)


def _check_observation(checker: _Checker, row: _Row) -> None:
    if row.amt != 0 and not math.isnan(row.amt):
        checker.fault(row, "AMT", "observation row with a dose", "leave AMT empty, or set EVID to 1")
    if row.lloq <= 0:
        remedy = "give the limit in the unit of the assay, or leave empty"
        checker.fault(row, "LLOQ", "the limit is not positive", remedy)
    if not row.dvid:
        if "DVID" not in row.bad:
            what = f"observation without an {'assay' if checker.terms.courses else 'observable'}"
            checker.fault(row, "DVID", what, f"name it: {', '.join(checker.terms.assays)}")
    elif math.isnan(row.dv):
        if "DV" not in row.bad:
            remedy = "give the value; remove the row if nothing was measured"
            checker.fault(row, "DV", "observation without a value", remedy)
    elif checker.terms.courses and row.dvid in EVENTS:
        if row.dv not in (0.0, 1.0):
            remedy = "write 1 if it happened on this day, 0 for the last day known to be free of it"
            checker.fault(row, "DV", f"{row.dvid} is neither 0 nor 1", remedy)
        if row.cens:
            remedy = "leave CENS empty; DV = 0 says that the event had not happened by this day"
            checker.fault(row, "CENS", f"{row.dvid} cannot be below or above a limit", remedy)
        if not math.isnan(row.limit):
            checker.fault(row, "LIMIT", f"{row.dvid} has no interval", "leave LIMIT empty here")
    else:
        _check_concentration(checker, row)


def _check_interval(checker: _Checker, row: _Row) -> None:
    """Check the lower end of an interval whose upper end stands in DV."""
    if math.isnan(row.limit):
        return
    if row.cens != 1:
        what = f"LIMIT with CENS = {row.cens}"
        checker.fault(
            row, "LIMIT", what, "LIMIT is the lower end of a value below the limit in DV: CENS 1; or leave it empty"
        )
    elif row.limit >= row.dv:
        what = f"LIMIT is not below DV, {_shown(row.dv)}"
        checker.fault(row, "LIMIT", what, "write the interval's lower end in LIMIT, its upper end in DV")
    elif row.limit < 0 and not checker.terms.assays[row.dvid].signed:
        checker.fault(row, "LIMIT", "the lower end is negative", "leave it empty: the value lay anywhere below DV")


def _check_concentration(checker: _Checker, row: _Row) -> None:
    assay = checker.terms.assays[row.dvid]
    _check_interval(checker, row)
    if assay.signed:
        return
    if row.cens and row.dv <= 0:
        what = f"CENS = {row.cens} without a positive limit in DV"
        checker.fault(row, "DV", what, f"write the limit itself in DV ({assay.unit})")
    elif row.cens == 1 and row.lloq > 0 and abs(row.dv - row.lloq) > 0.01 * row.lloq:
        what = f"CENS = 1, but DV is not the limit {_shown(row.lloq)} given in LLOQ"
        checker.fault(row, "DV", what, "write the limit itself in DV, not half of it or the raw reading")
    elif not row.cens and "CENS" not in row.bad and row.dv <= 0:
        if row.dv < 0 or not assay.zero_is_a_result:
            what = f"{row.dvid} is {'zero' if row.dv == 0 else 'negative'} and not marked censored"
            checker.fault(row, "DV", what, "if it was below the limit, write the limit in DV and 1 in CENS")
    if row.dv > assay.highest:
        what = f"absurd scale: {row.dvid} above {assay.highest:g} {assay.unit}"
        checker.fault(row, "DV", what, assay.suspect)


# ---- one patient


def _check_patient(checker: _Checker, rows: Sequence[_Row]) -> list[_Infusion]:
    """Check the rows of one patient against each other; return the infusions, split doses joined."""
    _check_order(checker, rows)
    doses = [row for row in rows if row.evid == 1]
    observations = [row for row in rows if row.evid == 0]
    # rows that could not be read may be the ones that seem to be missing
    complete = not any("EVID" in row.bad for row in rows) and not checker.cells.faults
    courses = checker.terms.courses
    if complete and courses and not doses:
        what = f"patient {rows[0].patient} has observations and no infusion"
        remedy = "add a row with EVID = 1, TIME = 0 and the PRODUCT"
        checker.fault(rows[0], "EVID", what, remedy)
    if complete and not observations:
        what = f"patient {rows[0].patient} has no observations"
        checker.fault(rows[0], "EVID", what, "add observations, or remove the patient")
    _check_repeated(checker, observations)
    if not courses:
        return [_Infusion(row, row.time, row.amt, "", math.nan) for row in doses if not math.isnan(row.time)]
    infusions = _join_split_doses(checker, doses)
    if any({"TIME", "EVID", "PRODUCT"} & row.bad for row in rows) or not infusions:
        return infusions
    start = infusions[0].time
    if start != 0:
        by = _shown(-start)
        remedy = f"shift the patient's times by {by}: TIME counts days since the first infusion"
        checker.fault(infusions[0].row, "TIME", "the first infusion is not at TIME 0", remedy)
    _check_products(checker, observations, {infusion.product for infusion in infusions})
    _check_events(checker, observations, [infusion.time for infusion in infusions])
    return infusions


def _check_order(checker: _Checker, rows: Sequence[_Row]) -> None:
    latest: _Row | None = None
    for row in rows:
        if math.isnan(row.time):
            continue
        if latest is not None and row.time < latest.time:
            what = f"rows are not sorted: TIME {_shown(latest.time)} stands above it in row {latest.line}"
            checker.fault(row, "TIME", what, f"sort the rows of patient {row.patient} by TIME")
        else:
            latest = row


def _check_repeated(checker: _Checker, observations: Iterable[_Row]) -> None:
    seen: dict[tuple[float, str], _Row] = {}
    for row in observations:
        if math.isnan(row.time) or not row.dvid:
            continue
        first = seen.setdefault((row.time, row.dvid), row)
        if first is row:
            continue
        row.bad.add("repeated")
        if first.cells == row.cells:
            checker.fault(row, "TIME", f"duplicated row: the same as row {first.line}", "remove one")
        elif checker.terms.courses:
            what = f"second {row.dvid} at TIME {_shown(row.time)}; the first is in row {first.line}"
            checker.fault(row, "DV", what, "keep one, or average the replicates")


def _join_split_doses(checker: _Checker, doses: Sequence[_Row]) -> list[_Infusion]:
    """Make infusions of one product on one day a single one, at the time of the first, doses summed."""
    days: dict[tuple[float, str], list[_Row]] = defaultdict(list)
    for row in doses:
        if not math.isnan(row.time) and row.product:
            days[(math.floor(row.time), row.product)].append(row)
    infusions: list[_Infusion] = []
    by_day: dict[float, _Row] = {}
    for (day, name), parts in days.items():
        first = parts[0]
        other = by_day.setdefault(day, first)
        if other is not first:
            what = f"a second product on the day of {other.product} in row {other.line}"
            checker.fault(first, "PRODUCT", what, "give it the day it was infused")
        _check_parts(checker, parts)
        amt = sum(part.amt for part in parts)
        infusions.append(
            _Infusion(
                row=first,
                time=min(part.time for part in parts),
                amt=float(checker.products[name.lower()][1].dose) if math.isnan(amt) else amt,
                product=name,
                ld=next((part.ld for part in parts if not math.isnan(part.ld)), 1.0),
            )
        )
    return sorted(infusions, key=lambda infusion: infusion.time)


def _check_parts(checker: _Checker, parts: Sequence[_Row]) -> None:
    """Check the rows of a split dose: two equal rows are more likely one row pasted twice."""
    for i, part in enumerate(parts[1:], start=1):
        twin = next((earlier for earlier in parts[:i] if earlier.cells == part.cells), None)
        if twin is not None:
            remedy = "remove one; for a dose split into equal parts write one row with the whole AMT"
            checker.fault(part, "TIME", f"duplicated row: the same as row {twin.line}", remedy)
    if len(parts) > 1:
        with_ld = [part for part in parts if not math.isnan(part.ld)]
        for part in parts:
            if math.isnan(part.amt) and "AMT" not in part.bad and len({p.cells for p in parts}) > 1:
                remedy = "give the cells of each part, or one row with the whole dose"
                checker.fault(part, "AMT", "part of a split dose without AMT", remedy)
        for part in with_ld[1:]:
            if part.ld != with_ld[0].ld:
                what = f"split dose with two lymphodepletions (LD in row {with_ld[0].line} differs)"
                checker.fault(part, "LD", what, "give both parts the same LD")


def _check_products(checker: _Checker, observations: Iterable[_Row], infused: set[str]) -> None:
    for row in observations:
        if row.product and row.product not in infused:
            remedy = f"leave PRODUCT empty on observation rows (infused: {', '.join(sorted(infused))})"
            checker.fault(row, "PRODUCT", "observation names a product that the patient did not get", remedy)


def _check_events(checker: _Checker, observations: Iterable[_Row], starts: Sequence[float]) -> None:
    """Check that events stand after the first infusion, once each, and nothing after a death."""
    rows = [row for row in observations if "repeated" not in row.bad]
    courses: dict[int, _Row] = {}
    death: _Row | None = None
    for row in rows:
        if row.dvid in EVENTS and row.time < starts[0]:
            remedy = f"count days since the first infusion (TIME {_shown(starts[0])})"
            checker.fault(row, "TIME", f"{row.dvid} before the first infusion", remedy)
        elif row.dvid == "progression":
            first = courses.setdefault(event_course(row.time, starts), row)
            if first is not row:
                what = f"second progression row of one infusion course; the first is in row {first.line}"
                remedy = "keep one: the progression (DV = 1), or the last day free of it (DV = 0)"
                checker.fault(row, "DVID", what, remedy)
        elif row.dvid == "death":
            if death is None:
                death = row
            else:
                what = f"second death row of the patient; the first is in row {death.line}"
                remedy = "keep one: the death (DV = 1), or the last day known alive (DV = 0)"
                checker.fault(row, "DVID", what, remedy)
    if death is not None and death.dv == 1:
        for row in rows:
            if row.time > death.time:
                what = f"after the patient's death (TIME {_shown(death.time)}, row {death.line})"
                checker.fault(row, "TIME", what, "correct the day of this row or of the death")


# ---- covariates and the table


def _covariates(checker: _Checker, patients: Mapping[str, Sequence[_Row]]) -> dict[str, dict[str, str]]:
    """Gather covariate -> patient -> text; an empty cell takes the patient's value from another row."""
    found: dict[str, dict[str, str]] = {}
    for name in checker.cells.header:
        if name.upper() in COLUMNS:
            continue
        values: dict[str, str] = {}
        for patient, rows in patients.items():
            given = [row for row in rows if checker.text(row, name).lower() not in _MISSING_COVARIATE]
            values[patient] = checker.text(given[0], name) if given else ""
            other = next((row for row in given if not _same(checker.text(row, name), values[patient])), None)
            if other is not None:
                what = f"covariate varies within patient {patient}: {values[patient]!r} in row {given[0].line}"
                checker.fault(other, name, what, "keep one value per patient, or remove the column")
            if given and not _is_finite(values[patient]):
                checker.fault(given[0], name, "not a finite number", "correct it or leave it empty")
            if name.upper() in DOSING and (more := [row for row in given if checker.text(row, name) not in _NO_MORE]):
                remedy = f"write every dose in a row of its own and remove {name}; rename it if it is a covariate"
                checker.fault(more[0], name, "a dose that only NONMEM would give", remedy)
        found[name.lower()] = values
    return found


def _is_finite(text: str) -> bool:
    """Whether a covariate is not an infinite number; text is none."""
    if _NUMBER.fullmatch(text):
        return math.isfinite(float(text))
    return not _NOT_FINITE.fullmatch(text)


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    return bool(_NUMBER.fullmatch(one) and _NUMBER.fullmatch(other)) and float(one) == float(other)


def _typed(values: Mapping[str, str]) -> Callable[[str], float | str]:
    """Read a covariate as numbers if every value given is one, as text otherwise."""
    given = [text for text in values.values() if text]
    if given and all(_NUMBER.fullmatch(text) for text in given):
        return lambda patient: float(values[patient]) if values[patient] else math.nan
    return lambda patient: values[patient]


def _assemble(
    patients: Mapping[str, Sequence[_Row]],
    infusions: Mapping[str, Sequence[_Infusion]],
    covariates: Mapping[str, Mapping[str, str]],
    assays: Sequence[str],
) -> pd.DataFrame:
    rank = {name: i for i, name in enumerate(assays)}
    none = math.nan
    records: list[tuple[object, ...]] = []
    for patient in sorted(patients, key=natural_order):
        entries: list[tuple[float, int, tuple[object, ...]]] = []
        for dose in infusions[patient]:
            record = (patient, dose.time, 1, dose.amt, dose.product, dose.ld, "", none, 0, none, none)
            entries.append((dose.time, -1, record))
        for row in patients[patient]:
            if row.evid == 0:
                record = (patient, row.time, 0, none, "", none, row.dvid, row.dv, row.cens, row.lloq, row.limit)
                entries.append((row.time, rank[row.dvid], record))
        records += [record for _, _, record in sorted(entries, key=lambda entry: entry[:2])]
    table = pd.DataFrame.from_records(records, columns=list(COLUMNS))
    for name in COLUMNS:
        if name in ("ID", "PRODUCT", "DVID"):
            table[name] = table[name].astype("str")
        else:
            table[name] = table[name].astype(np.int64 if name in ("EVID", "CENS") else np.float64)
    for name, values in covariates.items():
        value_of = _typed(values)
        column = [value_of(patient) for patient in table["ID"]]
        numeric = all(isinstance(value, float) for value in column)
        table[name] = pd.Series(column, dtype=np.float64 if numeric else "str", index=table.index)
    return table

"""From a file on disk to a table of text cells with line numbers, or to a sentence on why it is not a table.

Nothing here knows what a cohort is. `read_cells` tells CSV from Parquet by content, refuses files of other
formats, wrong encodings and other separators with one fault each, and gives every data row its line number in
the file. The header is row 1; rows of Parquet and of a DataFrame are counted as if written below a header.
"""

import csv
import hashlib
import io
import math
import numbers
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet

from reinfuse.model.errors import ReinfuseError

#: The column of a fault that concerns the file and not one of its columns.
WHOLE_FILE = "-"

MOST_FAULTS_SHOWN = 50

_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")

_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"%PDF", "a PDF document", "export the table behind it as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Office file (.xls)", "open it and save the sheet as 'CSV UTF-8'"),
    (b"\x89HDF", "an HDF5 or NetCDF file", "export the cohort table as CSV or Parquet"),
    (b"CDF\x01", "a NetCDF file", "export the cohort table as CSV or Parquet"),
    (b"\x1f\x8b", "a gzip archive (.gz, .rds)", "unpack it, or write the table as CSV"),
    (b"BZh", "a bzip2 archive", "unpack it"),
    (b"\xfd7zXZ", "an xz archive", "unpack it"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "unpack it"),
    (b"\x89PNG", "a PNG image", "give the table and not its picture"),
    (b"\xff\xd8\xff", "a JPEG image", "give the table and not its picture"),
    (b"HEADER RECORD*******LIB", "a SAS transport file (.xpt)", "export the data set as CSV"),
    (b"$FL2", "an SPSS file (.sav)", "export the data set as CSV"),
    (b"SQLite format 3", "an SQLite database", "export the table as CSV"),
    (b"{\\rtf", "a rich-text document", "save the table as CSV"),
    (b"RDX", "an R data file", "write the table with write.csv(…, row.names = FALSE)"),
)

_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a file, told so that the user can mend it.

    Parameters
    ----------
    file
        The file as the user named it.
    row
        Line number in the file; the header is row 1.
    column
        Name of the column; `WHOLE_FILE` where the fault is not in one column.
    what
        What is wrong.
    value
        The value seen; empty where there is none to show.
    remedy
        What to do.
    """

    file: str
    row: int
    column: str
    what: str
    value: str
    remedy: str

    def __str__(self) -> str:
        seen = f", saw {_shortened(self.value)}" if self.value else ""
        return f"{self.file}:{self.row}:{self.column}: {self.what}{seen}; {self.remedy}"


class CohortError(ReinfuseError):
    """A table is not a cohort. `faults` holds all that is wrong; the text shows the first fifty.

    Parameters
    ----------
    faults
        At least one `Fault`, in the order of the file.
    """

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults: tuple[Fault, ...] = tuple(faults)
        lines = [str(fault) for fault in self.faults[:MOST_FAULTS_SHOWN]]
        hidden = len(self.faults) - len(lines)
        if hidden:
            lines.append(f"… and {hidden} more")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> "tuple[type[CohortError], tuple[tuple[Fault, ...]]]":
        return type(self), (self.faults,)


@dataclass(frozen=True)
class Cells:
    """A table as text, before anything is known of its meaning.

    Parameters
    ----------
    file
        The file as the user named it.
    header
        The column names as written.
    rows
        (line number, cells) for every data row; as many cells as the header has names. A missing value is "".
    sha256
        Digest of the bytes read.
    faults
        Faults of single rows met while reading (too many or too few cells).
    """

    file: str
    header: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    sha256: str
    faults: tuple[Fault, ...] = ()


def read_cells(path: str | Path) -> Cells:
    """Read a CSV or Parquet file as text cells.

    Parameters
    ----------
    path
        The file. Its content decides what it is; the suffix decides nothing.

    Returns
    -------
    Cells
        Header and rows with their line numbers.

    Raises
    ------
    CohortError
        The file is missing, empty, of another format, not UTF-8, or not separated by commas.
    """
    name = str(path)
    data = _bytes_of(Path(path), name)
    digest = hashlib.sha256(data).hexdigest()
    if data.startswith(b"PAR1"):
        return _parquet_cells(data, name, digest)
    text = _text_of(data, name)
    return _csv_cells(text, name, digest)


def frame_cells(frame: pd.DataFrame, *, name: str) -> Cells:
    """Take the cells of a DataFrame, as if it had been written as CSV.

    Parameters
    ----------
    frame
        A table; missing values of any kind become empty cells. The index is ignored.
    name
        What messages call it.

    Returns
    -------
    Cells
        Row i of the frame (from 0) is row i + 2. The digest is that of the frame written as CSV.
    """
    digest = hashlib.sha256(frame.to_csv(index=False, lineterminator="\n").encode()).hexdigest()
    columns = [[_cell(None if _is_missing(v) else v) for v in frame.iloc[:, i].tolist()] for i in range(frame.shape[1])]
    return _from_columns([str(c) for c in frame.columns], columns, name, digest)


def _shortened(value: str, most: int = 60) -> str:
    shown = value if len(value) <= most else value[: most - 1] + "…"
    return repr(shown)


def _refuse(
    file: str, what: str, remedy: str, *, row: int = 1, column: str = WHOLE_FILE, value: str = ""
) -> CohortError:
    return CohortError([Fault(file, row, column, what, value, remedy)])


def _bytes_of(path: Path, name: str) -> bytes:
    if path.is_dir():
        raise _refuse(name, "this is a folder", "name the CSV or Parquet file in it")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise _refuse(name, "no such file", "check the path") from None
    except OSError as error:
        raise _refuse(name, f"cannot be read ({error.strerror})", "check its permissions") from None


def _text_of(data: bytes, name: str) -> str:
    """Decode UTF-8 (with or without byte-order mark), after telling files of other formats apart."""
    if not data.strip():
        raise _refuse(name, "the file is empty", "give a CSV with a header and one row per infusion or observation")
    if data.startswith(b"PK\x03\x04"):
        kind = "an Excel workbook (.xlsx)" if b"xl/" in data else "a zip archive"
        remedy = "open it and save the sheet as 'CSV UTF-8'" if b"xl/" in data else "unpack it and name the CSV in it"
        raise _refuse(name, f"this is {kind} and not a CSV", remedy)
    for magic, kind, remedy in _MAGIC:
        if data.startswith(magic):
            raise _refuse(name, f"this is {kind} and not a CSV", remedy)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in data[:4096]:
        looks_utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff")) or data[:4096].count(b"\x00") * 3 >= len(data[:4096])
        what = "the text is encoded as UTF-16" if looks_utf16 else "this is a binary file and not a CSV"
        raise _refuse(name, what, "save it as UTF-8 (Excel: 'CSV UTF-8'; Notepad: Save as, Encoding UTF-8)")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad_byte(data, name, error) from None
    head = text.lstrip()[:200].lower()
    if head.startswith(("<!doctype", "<html", "<?xml", "<table")):
        raise _refuse(
            name,
            "this is a web page or XML and not a CSV",
            "download the file itself (on GitHub: the 'Raw' button) or export the table as CSV",
        )
    if head.startswith(("{", "[{", "[[")):
        raise _refuse(name, "this is JSON and not a CSV", "export the table as CSV")
    return text


def _bad_byte(data: bytes, name: str, error: UnicodeDecodeError) -> CohortError:
    before = data[: error.start]
    row = before.count(b"\n") + 1
    line = before.rpartition(b"\n")[2]
    byte = data[error.start : error.start + 1]
    meant = byte.decode("cp1252", errors="replace")
    header = data.partition(b"\n")[0].decode("cp1252", errors="replace").rstrip("\r").split(",")
    place = line.count(b",")
    column = header[place].strip() if row > 1 and place < len(header) and header[place].strip() else WHOLE_FILE
    return _refuse(
        name,
        "the text is not UTF-8 (it looks like Latin-1 or Windows-1252)",
        "save it as UTF-8 (Excel: 'CSV UTF-8'; R: write.csv(…, fileEncoding = \"UTF-8\"))",
        row=row,
        column=column,
        value=f"byte 0x{byte.hex()} ({meant})",
    )


def _csv_cells(text: str, name: str, digest: str) -> Cells:
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.strip())
    _refuse_other_separator(lines[first], lines[first + 1 :], name)

    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    records: list[tuple[int, list[str]]] = []
    start = 1
    try:
        for record in reader:
            if any(cell.strip() for cell in record):
                records.append((start, [cell.strip() for cell in record]))
            start = reader.line_num + 1
    except csv.Error as error:
        raise _refuse(
            name,
            f"broken CSV ({error})",
            "look for a quote that is not closed in or above this row",
            row=start,
        ) from None
    header = records[0][1]
    while header and not header[-1] and all(not cell for _, r in records[1:] for cell in r[len(header) - 1 :]):
        header = header[:-1]  # columns left empty by a spreadsheet
    rows, faults = _even_rows(records[1:], header, name)
    return Cells(name, tuple(header), tuple(rows), digest, tuple(faults))


def _refuse_other_separator(header: str, body: Sequence[str], name: str) -> None:
    for separator, word in _SEPARATORS.items():
        if header.count(separator) > header.count(","):
            sample = [cell for line in body[:200] for cell in line.split(separator)]
            commas = any(_DECIMAL_COMMA.fullmatch(cell.strip().strip('"')) for cell in sample)
            decimal = " and decimals are written with a comma" if commas else ""
            remedy = "save it as CSV with commas between columns and a point as the decimal sign"
            raise _refuse(name, f"columns are separated by {word}{decimal}", remedy, value=header)


def _even_rows(
    records: Iterable[tuple[int, list[str]]], header: Sequence[str], name: str
) -> tuple[list[tuple[int, tuple[str, ...]]], list[Fault]]:
    """Rows with as many cells as the header; one fault for the rest of them together."""
    width = len(header)
    rows: list[tuple[int, tuple[str, ...]]] = []
    uneven: list[tuple[int, int]] = []
    for line, record in records:
        cells = record[:width] if not any(record[width:]) else record
        if len(cells) == width:
            rows.append((line, tuple(cells)))
        else:
            uneven.append((line, len(cells)))
    if not uneven:
        return rows, []
    line, seen = uneven[0]
    more = f" (and {len(uneven) - 1} more rows like it)" if len(uneven) > 1 else ""
    cause = (
        "write a comma for every column"
        if seen < width
        else ("quote cells that hold a comma, and write decimals with a point, not a comma")
    )
    fault = Fault(
        name,
        line,
        WHOLE_FILE,
        f"the row has {seen} cells and the header {width}{more}",
        f"{seen} cells",
        cause,
    )
    return rows, [fault]


def _parquet_cells(data: bytes, name: str, digest: str) -> Cells:
    try:
        table = pyarrow.parquet.read_table(io.BytesIO(data))
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise _refuse(name, f"the Parquet file cannot be read ({reason})", "write it again, or give a CSV") from None
    keep = [i for i, column in enumerate(table.column_names) if not column.startswith("__index_level_")]
    columns = [[_cell(value) for value in table.column(i).to_pylist()] for i in keep]
    return _from_columns([table.column_names[i] for i in keep], columns, name, digest)


def _from_columns(header: Sequence[str], columns: Sequence[Sequence[str]], name: str, digest: str) -> Cells:
    rows = tuple((i + 2, tuple(cells)) for i, cells in enumerate(zip(*columns, strict=True)))
    return Cells(name, tuple(h.strip() for h in header), rows, digest)


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def _cell(value: Any) -> str:
    """Write a value as CSV would hold it; a float keeps all its digits."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        number = float(value)
        return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
    return str(value).strip()

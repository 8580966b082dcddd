"""The Leipzig BCMA CAR-T cohort (Fandrei et al., Blood Cancer Discovery 2024) as a cohort table.

52 people with relapsed or refractory myeloma and one infusion of ide-cel or cilta-cel each, published in the
repository fraunhofer-izi/Fandrei_et_al_2024 without a licence: users convert the files they hold. Expected
are `kinetics_long.csv` (patient_id, day_nominal, day_actual, observable, value) and `patients.csv`.

What becomes of them:

- A visit is dated by `day_actual`; where that is missing, by `day_nominal`.
- `transgene` from `car_transgene`: a zero is left-censored at a limit that the source does not state.
- `cart` from `car_t_flow`: a zero is left-censored at 0.1 % of the visit's CD3+ count.
- Both only after day 0: until then their zeros are structural.
- `sbcma`: at or below 1.1 ng/mL, the assay's floor, left-censored there. Of the values up to day 0 the latest
  is kept, which is that of day 0 in all but a few patients.
- `pd1` from CD8+ CAR+ cells unless told otherwise: there it follows the model's exhausted fraction better
  than in CD4+ cells (rho 0.28 against 0.07). A percentage of cells of which none were counted is no value.
- `progression` and `death`: a PFS event without progression is a competing death, so that progression ends as
  not observed on that day. The source gives no infused dose: AMT stays empty.

Not used: `car_copies_per_1000`, which has tenfold errors and a shifted row, and `sbcma_preBT`, which precedes
bridging therapy.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd

from reinfuse.model.errors import ReinfuseError

from ..cohort import cohort_from_frame
from ..cohort_checks import natural_order
from ..cohort_files import read_cells
from ..cohort_terms import ASSAY_TABLE, WRITTEN_COLUMNS

KINETICS_FILE: Final = "kinetics_long.csv"
PATIENTS_FILE: Final = "patients.csv"

#: Lowest value that the sBCMA assay reports, ng/mL.
SBCMA_FLOOR: Final = 1.1

#: CAR+ cells as a share of CD3+ cells that flow cytometry can just see.
FLOW_LIMIT_OF_CD3: Final = 0.001

#: Columns of `patients.csv` kept as covariates.
COVARIATES: Final = ("riss", "emd", "bridging", "resp_30d", "resp_3m", "mrd_30d")

_KINETICS_COLUMNS: Final = ("patient_id", "day_nominal", "day_actual", "observable", "value")
_PATIENT_NUMBERS: Final = ("progression", "pfs_event", "pfs_days", "death", "os_days")
_PATIENT_COLUMNS: Final = ("patient_id", "product", *_PATIENT_NUMBERS, *COVARIATES)


@dataclass
class ConversionReport:
    """What a conversion dropped, censored or guessed, and why.

    Attributes
    ----------
    notes
        Sentences, one per decision that touched at least one value.
    counts
        The number of values behind each note, by a short key.
    """

    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, key: str, count: int, what: str, decision: str) -> None:
        """Note a decision that touched `count` values; nothing if it touched none."""
        if count:
            self.counts[key] = count
            self.notes.append(f"{what}: {count}; {decision}")


def convert_leipzig(
    source: str | Path, *, transgene_lloq: float = 50.0, pd1: Literal["cd8", "cd4"] | None = "cd8"
) -> tuple[pd.DataFrame, ConversionReport]:
    """Convert the published files to a cohort table.

    Parameters
    ----------
    source
        Folder with `kinetics_long.csv` and `patients.csv`.
    transgene_lloq
        Limit at which transgene zeros are censored, copies/µg DNA, > 0. The source does not state it.
    pd1
        Which CAR+ cells `pd1` is taken from; None leaves it out.

    Returns
    -------
    table : pandas.DataFrame
        The columns of a cohort file with covariates; passes `read_cohort` without faults.
    report : ConversionReport
        What was dropped, censored or guessed.

    Raises
    ------
    ReinfuseError
        A file or column is missing, a cell is no number, an outcome contradicts itself, the limit is not
        positive; as `CohortError` where the converted table is no cohort (an unknown product, say).
    """
    if not (np.isfinite(transgene_lloq) and transgene_lloq > 0):
        raise ReinfuseError(f"transgene_lloq is {transgene_lloq}; give a limit > 0 in copies/µg DNA")
    if pd1 not in ("cd8", "cd4", None):
        raise ReinfuseError(f"pd1 is {pd1!r}; choose 'cd8', 'cd4' or None")
    report = ConversionReport()
    folder = Path(source)
    kinetics = _read(folder, KINETICS_FILE, _KINETICS_COLUMNS, ("day_nominal", "day_actual", "value"))
    patients = _read(folder, PATIENTS_FILE, _PATIENT_COLUMNS, _PATIENT_NUMBERS)
    used = ["car_transgene", "car_t_flow", "sbcma", "cd3", *([f"pd1_pct_{pd1}_car"] if pd1 else [])]
    samples = _dated(kinetics, set(patients["patient_id"]), used, report)
    rows: list[_Row] = [
        *_infusion_rows(patients),
        *_transgene_rows(samples, transgene_lloq, report),
        *_cart_rows(samples, report),
        *_sbcma_rows(samples, report),
        *(_pd1_rows(samples, pd1, report) if pd1 else ()),
        *_outcome_rows(patients, report),
    ]
    _note_follow_up(samples, patients, report)
    table = _table(rows, patients)
    cohort_from_frame(table, name="the converted table")
    return table, report


# ---- reading


def _read(folder: Path, name: str, columns: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    """Read a file of the source as text, the named columns as numbers."""
    path = folder / name
    if not path.is_file():
        raise ReinfuseError(
            f"{path}: no such file; name the folder that holds {KINETICS_FILE} and {PATIENTS_FILE} "
            "of the Leipzig BCMA CAR-T cohort (Fandrei et al. 2024)"
        )
    cells = read_cells(path)
    missing = [column for column in columns if column not in cells.header]
    if missing:
        raise ReinfuseError(
            f"{path}: no column {missing[0]!r}, saw {', '.join(cells.header)}; the converter needs {', '.join(columns)}"
        )
    frame = pd.DataFrame([row for _, row in cells.rows], columns=list(cells.header), dtype="str")[list(columns)]
    for column in numbers:
        values = pd.to_numeric(frame[column].replace("", np.nan), errors="coerce").astype(np.float64)
        for i in np.flatnonzero((frame[column] != "") & ~np.isfinite(values)):
            line = cells.rows[int(i)][0]
            raise ReinfuseError(
                f"{path}:{line}:{column}: not a number, saw {frame[column].iloc[int(i)]!r}; correct the cell "
                "or leave it empty"
            )
        frame[column] = values
    return frame


def _dated(kinetics: pd.DataFrame, known: set[str], used: Sequence[str], report: ConversionReport) -> pd.DataFrame:
    """Samples with the day they count for: `patient_id`, `observable`, `day`, `value`."""
    stranger = ~kinetics["patient_id"].isin(known)
    report.add(
        "unknown_patient",
        int(stranger.sum()),
        f"values of patients that {PATIENTS_FILE} does not list",
        "dropped",
    )
    samples = kinetics[~stranger & kinetics["observable"].isin(used)].copy()
    ignored = int((kinetics["observable"] == "sbcma_preBT").sum())
    report.add("sbcma_pre_bridging", ignored, "sBCMA values from before bridging", "not used")
    no_value = samples["value"].isna()
    report.add("no_value", int(no_value.sum()), "samples without a value", "dropped")
    samples = samples[~no_value]
    samples["day"] = samples["day_actual"].fillna(samples["day_nominal"])
    by_plan = samples["day_actual"].isna() & samples["day_nominal"].notna()
    report.add("nominal_day", int(by_plan.sum()), "samples without an actual day", "dated by the nominal visit")
    undated = samples["day"].isna()
    report.add("undated", int(undated.sum()), "samples before infusion without any day", "dropped")
    samples = samples[~undated].sort_values(["patient_id", "observable", "day", "day_nominal"], kind="stable")
    twice = samples.duplicated(["patient_id", "observable", "day"])
    report.add(
        "same_day",
        int(twice.sum()),
        "second samples of an assay on one day",
        "dropped; the earlier nominal visit is kept",
    )
    return samples.loc[~twice, ["patient_id", "observable", "day", "value"]]


# ---- rows


@dataclass(frozen=True)
class _Row:
    patient: str
    day: float
    dvid: str = ""
    value: float = np.nan
    cens: int = 0
    lloq: float = np.nan
    product: str = ""


def _of(samples: pd.DataFrame, observable: str) -> pd.DataFrame:
    return samples[samples["observable"] == observable]


def _after_infusion(samples: pd.DataFrame, observable: str, report: ConversionReport) -> pd.DataFrame:
    of_assay = _of(samples, observable)
    early = of_assay["day"] <= 0
    report.add(
        f"{observable}_before",
        int(early.sum()),
        f"{observable} values up to day 0",
        "dropped; there are no CAR+ cells before infusion",
    )
    return of_assay[~early]


def _rows(samples: pd.DataFrame, dvid: str, limits: Sequence[float], censored: Sequence[bool]) -> Iterable[_Row]:
    days = zip(samples["patient_id"], samples["day"], samples["value"], limits, censored, strict=True)
    for patient, day, value, limit, below in days:
        yield _Row(patient, day, dvid, limit if below else value, int(below), limit)


def _infusion_rows(patients: pd.DataFrame) -> Iterable[_Row]:
    for patient, product in zip(patients["patient_id"], patients["product"], strict=True):
        yield _Row(patient, 0.0, product=product.lower())


def _transgene_rows(samples: pd.DataFrame, lloq: float, report: ConversionReport) -> Iterable[_Row]:
    taken = _after_infusion(samples, "car_transgene", report)
    zero = (taken["value"] <= 0).tolist()
    report.add("transgene_censored", sum(zero), "transgene zeros", f"left-censored at {lloq:g} copies/µg DNA")
    return _rows(taken, "transgene", [lloq] * len(taken), zero)


def _cart_rows(samples: pd.DataFrame, report: ConversionReport) -> Iterable[_Row]:
    taken = _after_infusion(samples, "car_t_flow", report)
    cd3 = _of(samples, "cd3").set_index(["patient_id", "day"])["value"]
    visits = pd.MultiIndex.from_arrays([taken["patient_id"], taken["day"]])
    limits = FLOW_LIMIT_OF_CD3 * cd3.reindex(visits).to_numpy(dtype=np.float64)
    usable = limits > 0
    if len(taken) and not usable.any():
        raise ReinfuseError(
            f"{KINETICS_FILE}: no CD3 count at any visit with car_t_flow, so zeros have no limit; "
            "give the rows of observable cd3"
        )
    zero = (taken["value"] <= 0).to_numpy()
    report.add(
        "cart_limit_guessed",
        int((zero & ~usable).sum()),
        "flow zeros at visits without a CD3 count",
        "limit taken from the cohort's median",
    )
    limits = np.where(usable, limits, np.median(limits[usable]) if usable.any() else np.nan)
    report.add("cart_censored", int(zero.sum()), "flow zeros", "left-censored at 0.1 % of the visit's CD3+ cells")
    return _rows(taken, "cart", limits.tolist(), zero.tolist())


def _sbcma_rows(samples: pd.DataFrame, report: ConversionReport) -> Iterable[_Row]:
    taken = _of(samples, "sbcma")
    baseline = taken[taken["day"] <= 0].groupby("patient_id")["day"].max()
    first = taken["patient_id"].map(baseline)
    superseded = (taken["day"] <= 0) & (taken["day"] < first)
    report.add(
        "sbcma_superseded",
        int(superseded.sum()),
        "sBCMA values before day 0",
        "dropped; a later one is the baseline",
    )
    report.add(
        "sbcma_early_baseline",
        int((baseline < 0).sum()),
        "patients without sBCMA on day 0",
        "the latest value before it is the baseline",
    )
    taken = taken[~superseded]
    floor = (taken["value"] <= SBCMA_FLOOR).tolist()
    report.add(
        "sbcma_censored",
        sum(floor),
        f"sBCMA values of {SBCMA_FLOOR} ng/mL or less",
        "left-censored there, the assay's floor",
    )
    return _rows(taken, "sbcma", [SBCMA_FLOOR] * len(taken), floor)


def _pd1_rows(samples: pd.DataFrame, subset: str, report: ConversionReport) -> Iterable[_Row]:
    """Keep PD-1+ shares of counted cells: not where flow saw none, or saw nothing and the share is 0."""
    observable = f"pd1_pct_{subset}_car"
    taken = _after_infusion(samples, observable, report)
    flow = _of(samples, "car_t_flow").set_index(["patient_id", "day"])["value"]
    visits = pd.MultiIndex.from_arrays([taken["patient_id"], taken["day"]])
    counted = flow.reindex(visits).to_numpy(dtype=np.float64)
    value = taken["value"].to_numpy()
    void = (counted == 0) | (np.isnan(counted) & (value == 0))
    report.add("pd1_void", int(void.sum()), f"{observable} values at visits without counted CAR+ cells", "dropped")
    for patient, day, share in zip(*(taken.loc[~void, c] for c in ("patient_id", "day", "value")), strict=True):
        yield _Row(patient, day, "pd1", share)


def _outcome_rows(patients: pd.DataFrame, report: ConversionReport) -> Iterable[_Row]:
    """Progression and death rows; a PFS event that is no progression must be a death on that day."""
    competing = 0
    rows: list[_Row] = []
    for record in patients.itertuples(index=False):
        patient = str(record.patient_id)
        outcome = {name: getattr(record, name) for name in _PATIENT_NUMBERS}
        days = {name: float(outcome[name]) for name in ("pfs_days", "os_days")}
        flags = {name: outcome[name] == 1 for name in ("progression", "pfs_event", "death")}
        if any(np.isnan(day) for day in days.values()):
            raise ReinfuseError(f"{PATIENTS_FILE}: {patient} has no pfs_days or no os_days; give both")
        death_ends_pfs = flags["pfs_event"] and not flags["progression"]
        if death_ends_pfs and not (flags["death"] and days["pfs_days"] == days["os_days"]):
            raise ReinfuseError(
                f"{PATIENTS_FILE}: {patient} has a PFS event on day {days['pfs_days']:g} that is neither a "
                f"progression nor a death on that day (os_days {days['os_days']:g}); correct the outcome"
            )
        competing += death_ends_pfs
        progressed = float(flags["pfs_event"] and flags["progression"])
        rows.append(_Row(patient, days["pfs_days"], "progression", progressed))
        rows.append(_Row(patient, days["os_days"], "death", float(flags["death"])))
    report.add(
        "competing_deaths",
        competing,
        "PFS events that are deaths without progression",
        "no progression by that day, death on it",
    )
    return rows


def _note_follow_up(samples: pd.DataFrame, patients: pd.DataFrame, report: ConversionReport) -> None:
    end = samples["patient_id"].map(patients.set_index("patient_id")["os_days"])
    late = (samples["day"] > end) & samples["observable"].isin(["car_transgene", "car_t_flow", "sbcma"])
    report.add("after_follow_up", int(late.sum()), "samples later than the last day known alive (os_days)", "kept")
    without = ~patients["patient_id"].isin(samples["patient_id"])
    report.add("no_samples", int(without.sum()), "patients without samples", "kept for their outcome")


def _table(rows: Iterable[_Row], patients: pd.DataFrame) -> pd.DataFrame:
    rank = {name: i for i, name in enumerate(("", *ASSAY_TABLE))}
    ordered = sorted(rows, key=lambda row: (natural_order(row.patient), row.day, rank[row.dvid]))
    records = [
        (
            row.patient,
            row.day,
            0 if row.dvid else 1,
            np.nan,
            row.product,
            np.nan,
            row.dvid,
            row.value,
            row.cens,
            row.lloq,
        )
        for row in ordered
    ]
    table = pd.DataFrame.from_records(records, columns=list(WRITTEN_COLUMNS))
    covariates = patients.set_index("patient_id")[list(COVARIATES)]
    for name in COVARIATES:
        table[name] = table["ID"].map(covariates[name])
    return table

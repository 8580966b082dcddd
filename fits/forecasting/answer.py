"""Everything that `reinfuse forecast` leaves behind: tables, figures, words, and how it was made."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reinfuse.model.errors import ReinfuseError

from .. import result_folder
from ..cohort_terms import LONGEST_TIME
from ..figures import patient_forecast as pictures
from ..reopened import Reopened
from ..results import observed
from ..retreatment.engine import NobodyProgressed
from ..run import RunFolder
from ..streams import Stream, generators
from . import words
from .benefit import DRAWS, Benefit, benefit_of, options, reason_against
from .earlier import KIND, Earlier
from .patient import pose_patient, read_patient
from .posterior import PatientPosterior, posterior_of
from .predictions import Predictions, days

#: Shows a piece of work with its share done: title, total.
type Progress = Callable[[str, float], AbstractContextManager[Callable[[float], None]]]

TABLES = ("forecast.csv", "progression.csv", "benefit.csv", "summary.md")
UNFINISHED = ".outcomes.parquet.part"


@dataclass
class Clock:
    """Seconds of each part, by the wall and of the processor."""

    parts: dict[str, dict[str, float]] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part."""
        wall, processor = time.monotonic(), time.process_time()
        yield
        self.parts[name] = {
            "wall": round(time.monotonic() - wall, 2),
            "processor": round(time.process_time() - processor, 2),
        }


@dataclass(frozen=True, eq=False)
class Answer:
    """A finished forecast.

    Attributes
    ----------
    posterior : PatientPosterior
    tables : dict of str to DataFrame
        `forecast`, and `progression` and `benefit` as far as they could be made.
    summary : str
        `summary.md`.
    doubts : list of str
        Why it should not be trusted; empty if it may be.
    """

    posterior: PatientPosterior
    tables: dict[str, pd.DataFrame]
    summary: str
    doubts: list[str]


def forecast(
    run_folder: Path,
    patient_file: Path,
    *,
    until: float,
    out: Path,
    progress: Progress,
    patient: str | None = None,
    seen_until: float | None = None,
    scenarios: Path | None = None,
    with_benefit: bool = True,
    previous: Path | None = None,
    draws: int = DRAWS,
    seed: int = 1,
    cores: int = 1,
    force: bool = False,
    clock: Clock | None = None,
) -> Answer:
    """Forecast one patient and write the folder.

    Parameters
    ----------
    run_folder, patient_file
        A finished fit, and a cohort file.
    until
        Day to which is forecast.
    out
        Folder for the results.
    progress
        Shows the work.
    patient
        ID, where the file has several.
    seen_until
        Forget what came after that day.
    scenarios
        Scenario file of the options; the bundled one when None.
    with_benefit
        Whether to ask the laboratory.
    previous
        Folder of an earlier forecast of the same patient.
    draws
        Draws of the patient that the laboratory follows in each arm.
    seed, cores
        The seed fixes everything; cores change nothing but the time.
    force
        Write into a folder that holds other files.
    clock
        Its parts so far are written, too.

    Raises
    ------
    ReinfuseError
        If run, patient, scenarios or folders are at fault. Nothing is written then.
    """
    clock = clock or Clock()
    folder = result_folder.check(out, kind=KIND, force=force, passed_over=(UNFINISHED,))
    if not 0 < until <= LONGEST_TIME:
        raise ReinfuseError(f"--until is {until:g}; give a day after the infusion, up to {LONGEST_TIME:g}")
    for_patient, for_population = generators(seed, Stream.FORECAST, 2)
    with clock.part("opening"), progress("Opening the run", 1.0) as tick:
        opened_run = RunFolder.open(run_folder)
        opened_run.register_products()
        one = read_patient(patient_file, patient, seen_until=seen_until)
        earlier = None if previous is None else Earlier.read(previous, one.patients[0])
        file, none = options(scenarios)
        opened = Reopened.of(opened_run)
        posed = pose_patient(opened, one)
        tick(1.0)
    if until <= posed.last_day:
        raise ReinfuseError(
            f"--until is {until:g}, and patient {posed.name} was seen until day {posed.last_day:g} already; give a "
            "later day"
        )
    with clock.part("posterior"), progress("The patient's posterior", 1.0) as tick:
        posterior = posterior_of(posed, opened.draws, for_patient, cores=cores, tick=tick)
    with clock.part("predictions"), progress("Predictions", 1.0) as tick:
        known = [day for day in (posed.free_until,) if day is not None]
        predictions = Predictions(posterior, days(until, *known))
        tables = {"forecast": predictions.forecast()}
        tables["forecast"] = tables["forecast"][tables["forecast"]["time"] <= until].reset_index(drop=True)
        if predictions.hazard is not None:
            tables["progression"] = predictions.progression(until)
        tick(1.0)
    found, why_not = None, "it was not asked for"
    if with_benefit:
        why_not = reason_against(one) or ""
    if not why_not:
        folder.mkdir(parents=True, exist_ok=True)
        with clock.part("benefit"), progress("Options after progression", 1.0) as tick:
            found = _laboratory(posterior, opened_run, file, none, for_population, seed, folder, draws, tick)
    if found is not None:
        tables["benefit"] = found.table
    elif not why_not:
        why_not = "none of the patient's draws progresses within the laboratory's follow-up"
    doubts = [*posterior.doubts, *doubts_of_run(opened_run)]
    changes = [] if earlier is None else earlier.changes(tables, patient=posed)
    name = opened_run.path.resolve().name
    text = words.summary(
        posterior, tables, until=until, run=name, doubts=doubts, changes=changes, benefit=found, why_not=why_not
    )
    with clock.part("figures"), progress("Figures", 1.0) as tick:
        figures = _figures(posterior, tables, earlier)
        tick(1.0)
    result_folder.write(
        folder,
        kind=KIND,
        tables=tables,
        figures=figures,
        texts={"summary.md": text},
        earlier=TABLES,
        provenance={
            **result_folder.origin(opened_run, seed),
            **_facts(posterior, doubts),
            "run": name,
            "until": until,
            "scenarios": None if found is None else "bundled" if scenarios is None else scenarios.name,
            "laboratory_draws": None if found is None else draws,
            "relapsing": None if found is None else found.relapsing,
            "changes": changes,
            "seconds": clock.parts,
        },
    )
    return Answer(posterior, tables, text, doubts)


def _laboratory(
    posterior: PatientPosterior,
    run: RunFolder,
    file: Any,
    none: str,
    rng: np.random.Generator,
    seed: int,
    folder: Path,
    draws: int,
    tick: Callable[[float], None],
) -> Benefit | None:
    """What options would gain; None where no draw progresses."""
    path = folder / UNFINISHED
    try:
        return benefit_of(posterior, run, file, none, rng=rng, seed=seed, path=path, patients=draws, tick=tick)
    except NobodyProgressed:
        return None


def doubts_of_run(run: RunFolder) -> list[str]:
    """Whether the run itself is to be trusted."""
    found = run.diagnostics()
    if found.get("converged", False):
        return []
    name = run.path.resolve().name
    return [f"the run {name} has not converged by its own diagnostics. Let it go on, or fit with more draws"]


def _facts(posterior: PatientPosterior, doubts: list[str]) -> dict[str, Any]:
    patient = posterior.patient
    return {
        "patient": patient.name,
        "rows": patient.rows,
        "last_day": patient.last_day,
        "free_until": patient.free_until,
        "progressed_on": patient.progressed_on,
        "seen_by_the_run": patient.known is not None,
        "same_rows_as_in_the_run": patient.alike,
        "assays_left_out": list(patient.left_out),
        "effective_draws": posterior.effective,
        "draws": posterior.weight.size,
        "pareto_k": posterior.pareto_k,
        "error_of_a_weight": posterior.error,
        "trusted": not doubts,
        "doubts": doubts,
    }


def _figures(
    posterior: PatientPosterior, tables: Mapping[str, pd.DataFrame], earlier: Earlier | None
) -> dict[str, Figure]:
    patient = posterior.patient
    seen = observed(patient.problem).to_dataframe().reset_index(drop=True)
    before = {} if earlier is None else earlier.tables
    made = {
        "assays": pictures.assays(
            tables["forecast"],
            seen,
            now=patient.last_day,
            limits=patient.limits,
            patient=patient.name,
            previous=before.get("forecast"),
            previous_day=None if earlier is None else earlier.last_day,
        )
    }
    if "progression" in tables and len(tables["progression"]) and patient.progressed_on is None:
        made["progression"] = pictures.progression(
            tables["progression"],
            now=patient.free_until or 0.0,
            patient=patient.name,
            previous=before.get("progression"),
        )
    if "benefit" in tables:
        made["benefit"] = pictures.benefit(tables["benefit"], patient=patient.name)
    return made

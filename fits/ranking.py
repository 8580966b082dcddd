"""Which of several runs predicts patients better, by how much, because of whom, and whether it is chance."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import xarray as xr
from arviz_stats import compare as arviz_compare
from arviz_stats.utils import ELPDDataLOO
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError

from .comparison import GOOD_SHAPE, POPULATION_DRAWS, LeftOut, good_shape, integrals, leave_one_out
from .diagnosis.convergence import Diagnostics, diagnose
from .geometry import Posterior
from .influential import INTEGRAL_DRAWS, OnePatient, Outcome, match_moments, refit
from .proposals import Mixture, coordinates_of, pairs
from .reopened import Reopened
from .run import POSTERIOR_FILE, RunFolder, settings_hash
from .sampling import Settings
from .whole_file import write_whole

type Floats = NDArray[np.float64]
#: Told of what goes on with a patient of a run: "run, patient: what".
type Say = Callable[[str], None]
#: How far to go for patients whom weights cannot leave out: no further, moved draws, or a fit without them.
type Effort = Literal["weights", "matching", "refit"]

VARIANTS_FOLDER: Final = "variants"
#: What a comparison leaves behind (`reinfuse compare`): its table, and the rest of it.
TABLE_FILE: Final = "compare.csv"
WORDS_FILE: Final = "compare.json"
FEW_ERRORS: Final = 2.0  # standard errors below which a difference is a tie
SMALL: Final = 4.0  # difference of elpd below which it is one, whatever its standard error (Sivula et al. 2020)
TOP: Final = 5
MOST_REFITS: Final = 10
REFIT: Final = Settings(draws=300, tune=200, thin=2, chains=2)


@dataclass(frozen=True)
class Entry:
    """One run of a comparison.

    Attributes
    ----------
    name, variant, model
        Of the run.
    patients
        IDs, (n,).
    left
        Every patient left out.
    how
        By what, (n,): ``weights``, ``more draws``, ``moment matching`` or ``refit``.
    doubtful
        Whose number is not to be trusted, (n,): the tail of the weights is too heavy, or a refit's chains disagree.
    diagnostics
        Of its convergence.
    """

    name: str
    variant: str
    model: str
    patients: tuple[str, ...]
    left: LeftOut
    how: tuple[str, ...]
    doubtful: NDArray[np.bool_]
    diagnostics: Diagnostics


@dataclass(frozen=True)
class Ranking:
    """Runs beside one another.

    Attributes
    ----------
    table
        One row per run, best first: ``run``, ``variant``, ``elpd``, ``se``, ``mcse``, ``difference``,
        ``se_difference``, ``mcse_difference``, ``p_loo``, ``weight_stacking``, ``weight_pseudo_bma``,
        ``patients_doubtful``, ``moment_matched``, ``refitted``, ``max_rhat``, ``min_ess``, ``converged``, ``tie``.
    patients
        One row per patient: ``patient``, and per run ``elpd:RUN``, ``mcse:RUN``, ``pareto_k:RUN``, ``how:RUN``.
    words
        What it means.
    drivers
        Of every run but the best: the patients who make most of the difference, with it.
    """

    table: pd.DataFrame
    patients: pd.DataFrame
    words: list[str]
    drivers: dict[str, list[tuple[str, float]]] = field(default_factory=dict)


def gather(paths: Sequence[Path]) -> list[RunFolder]:
    """The runs to compare; one run alone brings the variants that were fitted beside it.

    Raises
    ------
    ReinfuseError
        If a folder is no finished run, there are fewer than two, one stands twice, or the cohorts differ.
    """
    runs = [RunFolder.open(path) for path in paths]
    if len(runs) == 1:
        below = runs[0].path / VARIANTS_FOLDER
        found = sorted(p for p in below.iterdir() if (p / POSTERIOR_FILE).is_file()) if below.is_dir() else []
        if not found:
            raise ReinfuseError(
                f"{paths[0]} is one run, and no variants were fitted beside it ({below} is empty). Name a second run, "
                "or fit one with `reinfuse fit COHORT.csv --variant NAME --out RUN2`."
            )
        runs += [RunFolder.open(path) for path in found]
    places = [run.path.resolve() for run in runs]
    if len(set(places)) < len(places):
        raise ReinfuseError("the same run is named twice; name different runs")
    first, *others = ((run, str(run.provenance["cohort_sha256"])) for run in runs)
    for run, digest in others:
        if digest != first[1]:
            raise ReinfuseError(
                f"{first[0].path} and {run.path} are fits of different cohorts (SHA-256 {first[1][:12]}… and "
                f"{digest[:12]}…); their predictions are of different patients or values and cannot be compared. Fit "
                "both models to the same file."
            )
    return runs


def names_of(runs: Sequence[RunFolder]) -> list[str]:
    """A short name for each run: its folder, or as much of its path as tells the runs apart."""
    parts = [run.path.resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-depth:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return ["/".join(one) for one in parts]


def enter(
    run: RunFolder,
    name: str,
    *,
    seed: int = 1,
    effort: Effort = "refit",
    kept: Path | None = None,
    cores: int = 2,
    most_refits: int = MOST_REFITS,
    say: Say = lambda _: None,
    tick: Callable[[int], None] = lambda _: None,
) -> Entry:
    """Leave every patient of a run out.

    Weights first; moment matching where their tail is too heavy; a fit without the patient where that does not help.

    Parameters
    ----------
    run, name
        A finished run, and what it is called.
    seed
        Of what is drawn here.
    effort
        How far to go for patients whom weights cannot leave out.
    kept
        Folder in which what was found of such patients is kept, so that it is not done twice; None: nowhere.
    cores
        Of the integrals and of the chains of a refit.
    most_refits
        Patients at most to fit without; the others stay marked.
    say
        Told what is being done.
    tick
        Told of each population draw, where the run holds no integrals of known error and they are made here.
    """
    tree, written = run.posterior(), run.provenance
    patients = tuple(str(x) for x in tree["posterior"].to_dataset()["patient"].values)
    held = tree["integrated"].to_dataset() if "integrated" in tree.children else xr.Dataset()
    opened: Reopened | None = None
    if {"elpd", "pareto_k", "mcse", "lpd"} <= set(held.data_vars):
        left = LeftOut(*(held[x].to_numpy().copy() for x in ("elpd", "pareto_k", "mcse", "lpd")))
        count = held.sizes.get("population_draw", POPULATION_DRAWS)
    else:
        say(f"{name}: its file holds no integrals of known error; making them")
        opened = Reopened.of(run)
        posterior = Posterior(opened.problem)
        rng = np.random.default_rng([seed, 2])
        found = integrals(posterior, coordinates_of(posterior, opened.draws), opened.draws, rng, tick, cores=cores)
        left, count = leave_one_out(found.loglik, found.variance), len(found.loglik)
    how = ["weights"] * len(patients)
    doubtful = ~(left.pareto_k <= good_shape(count))
    hard = np.flatnonzero(doubtful).tolist()
    if hard and effort != "weights":
        opened = Reopened.of(run) if opened is None else opened
        left, how, doubtful = _exactly(opened, name, left, hard, seed, effort, kept, cores, most_refits, say)
    return Entry(
        name=name,
        variant=str(written["variant"]),
        model=str(written["model"]),
        patients=patients,
        left=left,
        how=tuple(how),
        doubtful=doubtful,
        diagnostics=diagnose(tree),
    )


def _exactly(
    opened: Reopened,
    name: str,
    left: LeftOut,
    hard: Sequence[int],
    seed: int,
    effort: Effort,
    kept: Path | None,
    cores: int,
    most_refits: int,
    say: Say,
) -> tuple[LeftOut, list[str], NDArray[np.bool_]]:
    """The patients whom weights cannot leave out, one by one."""
    problem, draws = opened.problem, opened.draws
    posterior = Posterior(problem)
    coordinates = coordinates_of(posterior, draws)
    mixture = Mixture.learn(coordinates, *pairs(draws), np.random.default_rng([seed, 4]))
    settings = replace(REFIT, seed=seed)
    digest = opened.run.provenance.get("files", {}).get(POSTERIOR_FILE, "")
    store = _Store(kept, settings_hash({"posterior": digest, "refit": settings.as_dict(), "draws": INTEGRAL_DRAWS}))
    elpd, pareto, mcse = left.elpd.copy(), left.pareto_k.copy(), left.mcse.copy()
    how, doubtful = ["weights"] * elpd.size, np.zeros(elpd.size, dtype=bool)
    refits = 0
    for i in hard:
        patient = problem.patients[i]
        found = store.load(patient)
        if found is None or not (found.good or found.how == "refit"):
            say(f"{name}, {patient}: k is {pareto[i]:.2f}; moment matching")
            integral = OnePatient(problem, coordinates, mixture, i, np.random.default_rng([seed, 6, i]))
            found = match_moments(posterior, coordinates, draws, i, integral) if found is None else found
            store.save(patient, found)
            if not found.good and effort == "refit" and refits < most_refits:
                say(f"{name}, {patient}: k is {found.pareto_k:.2f} still; fitting without this patient")
                found = refit(problem, draws, i, settings=settings, cores=cores)
                store.save(patient, found)
                refits += 1
        doubtful[i] = not found.good
        if found.how == "refit" or (np.isfinite(found.elpd) and not found.pareto_k >= pareto[i]):
            elpd[i], pareto[i], mcse[i], how[i] = found.elpd, found.pareto_k, found.mcse, found.how
    return LeftOut(elpd, pareto, mcse, left.lpd), how, doubtful


class _Store:
    """Keeps what was found of single patients, one small file each."""

    def __init__(self, folder: Path | None, key: str) -> None:
        self.folder = None if folder is None else folder / key

    def _file(self, patient: str) -> Path | None:
        if self.folder is None:
            return None
        return self.folder / f"{settings_hash({'patient': patient})}.json"

    def load(self, patient: str) -> Outcome | None:
        file = self._file(patient)
        try:
            content = None if file is None else json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if content is None:
            return None
        filled: dict[str, Any] = {key: np.nan if value is None else value for key, value in content.items()}
        return Outcome(**filled)

    def save(self, patient: str, found: Outcome) -> None:
        file = self._file(patient)
        if file is None:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in found.to_json().items()}
        write_whole(file, lambda part: part.write_text(json.dumps(content), encoding="utf-8"))


def rank(entries: Sequence[Entry]) -> Ranking:
    """Put runs of the same patients beside one another.

    Raises
    ------
    ReinfuseError
        If their patients differ.
    """
    for entry in entries[1:]:
        if entry.patients != entries[0].patients:
            raise ReinfuseError(
                f"{entries[0].name} and {entry.name} have different patients, or in a different order "
                f"({len(entries[0].patients)} and {len(entry.patients)}). Fit both models to the same file."
            )
    best = max(entries, key=lambda entry: entry.left.elpd.sum())
    ordered = sorted(entries, key=lambda entry: -entry.left.elpd.sum())
    weights = {method: _weights(ordered, method) for method in ("stacking", "BB-pseudo-BMA")}
    rows = []
    for entry in ordered:
        left, away = entry.left, entry.left.elpd - best.left.elpd
        se, own = _se(away), float((left.mcse**2).sum())
        both = 0.0 if entry is best else float(np.sqrt(own + (best.left.mcse**2).sum()))
        rows.append(
            {
                "run": entry.name,
                "variant": entry.variant,
                "elpd": float(left.elpd.sum()),
                "se": _se(left.elpd),
                "mcse": float(np.sqrt(own)),
                "difference": float(away.sum()),
                "se_difference": se,
                "mcse_difference": both,
                "p_loo": float((left.lpd - left.elpd).sum()),
                "weight_stacking": weights["stacking"][entry.name],
                "weight_pseudo_bma": weights["BB-pseudo-BMA"][entry.name],
                "patients_doubtful": int(entry.doubtful.sum()),
                "moment_matched": entry.how.count("moment matching"),
                "refitted": entry.how.count("refit"),
                "max_rhat": entry.diagnostics.max_rhat,
                "min_ess": min(entry.diagnostics.min_ess_bulk, entry.diagnostics.min_ess_tail),
                "converged": entry.diagnostics.converged,
                "tie": entry is not best and is_tie(float(away.sum()), se),
            }
        )
    table = pd.DataFrame(rows)
    drivers = {entry.name: _drivers(entry, best) for entry in ordered if entry is not best}
    return Ranking(table, _by_patient(ordered), _words(table, drivers), drivers)


def is_tie(difference: float, se: float) -> bool:
    """Whether a difference of elpd says nothing: within `FEW_ERRORS` standard errors, or below `SMALL`."""
    return bool(abs(difference) < SMALL or abs(difference) < FEW_ERRORS * se)


def _se(values: Floats) -> float:
    """Standard error, over patients, of a sum."""
    return float(np.sqrt(values.size * values.var(ddof=1))) if values.size > 1 else 0.0


def _weights(entries: Sequence[Entry], method: str) -> dict[str, float]:
    """Weights of the models by arviz-stats."""
    if len(entries) == 1:
        return {entries[0].name: 1.0}
    table = arviz_compare({entry.name: _for_arviz(entry) for entry in entries}, method=method, round_to="none")
    return {str(name): float(np.clip(value, 0.0, 1.0)) for name, value in table["weight"].items()}


def _for_arviz(entry: Entry) -> ELPDDataLOO:
    dims, left = ("patient",), entry.left
    n = left.elpd.size
    return ELPDDataLOO(
        elpd=float(left.elpd.sum()),
        se=_se(left.elpd),
        p=float((left.lpd - left.elpd).sum()),
        n_samples=1,
        n_data_points=n,
        scale="log",
        warning=False,
        good_k=GOOD_SHAPE,
        elpd_i=xr.DataArray(left.elpd, dims=dims),
        pareto_k=xr.DataArray(np.nan_to_num(left.pareto_k, nan=0.0), dims=dims),
    )


def _drivers(entry: Entry, best: Entry) -> list[tuple[str, float]]:
    """Patients who make most of a difference, largest first."""
    away = entry.left.elpd - best.left.elpd
    return [(entry.patients[i], float(away[i])) for i in np.argsort(-np.abs(away), kind="stable")[:TOP]]


def _by_patient(entries: Sequence[Entry]) -> pd.DataFrame:
    columns: dict[str, Any] = {"patient": list(entries[0].patients)}
    for entry in entries:
        columns |= {
            f"elpd:{entry.name}": entry.left.elpd,
            f"mcse:{entry.name}": entry.left.mcse,
            f"pareto_k:{entry.name}": entry.left.pareto_k,
            f"how:{entry.name}": list(entry.how),
        }
    return pd.DataFrame(columns)


def _words(table: pd.DataFrame, drivers: dict[str, list[tuple[str, float]]]) -> list[str]:
    """What a table means, in sentences."""
    best: Any = table.iloc[0]
    said = []
    for row in table.iloc[1:].to_dict("records"):
        gap = f"{-row['difference']:.1f} (standard error {row['se_difference']:.1f})"
        if row["tie"]:
            said.append(
                f"{best['run']} and {row['run']} tie: the difference of elpd is {gap}, less than {SMALL:.0f} or than "
                f"{FEW_ERRORS:.0f} standard errors. These data do not choose between them; carry both."
            )
        else:
            said.append(f"{best['run']} predicts patients better than {row['run']}: by {gap} in elpd.")
        if np.isnan(row["mcse_difference"]):
            said.append("The Monte Carlo error of that difference is not known, since that of some patient is not.")
        elif row["mcse_difference"] > max(0.5 * abs(row["difference"]), 0.25 * SMALL):
            said.append(
                f"The Monte Carlo error of that difference, {row['mcse_difference']:.1f}, is not small against it; "
                "more draws would tell."
            )
        names = ", ".join(f"{patient} ({value:+.1f})" for patient, value in drivers[row["run"]])
        said.append(f"Most of the difference of {row['run']} comes from {names}.")
    for row in table.to_dict("records"):
        if row["patients_doubtful"]:
            said.append(
                f"{row['run']}: {row['patients_doubtful']} patients could not be left out reliably (a heavy tail of "
                "weights, by Pareto's k); their share is optimistic as a rule. --refit fits without them."
            )
        if not row["converged"]:
            said.append(
                f"{row['run']} did not converge (R-hat up to {row['max_rhat']:.3f}, effective sample size down to "
                f"{row['min_ess']:.0f}): do not rely on its rank."
            )
    return said

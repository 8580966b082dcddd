"""A whole calibration: its replicates in a folder, resumable, and the tables, figures and words made of them."""

import json
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError

from ..figures import calibration as figures
from ..figures.style import save
from ..run import git_revision, versions
from ..tasks import TaskFolder
from .cohorts import Study, draw_cohort
from .ranks import BAND, Placed, band, coverage, coverage_of_all, placed, recovery, uniformity
from .replicates import ENOUGH_ESS, HIGHEST_RHAT, TRUTHS, Effort, Task, Truth, replicate
from .stein import SteinStudy, draw_stein

type Kind = Literal["sbc", "recovery", "stein"]
type Results = Mapping[int, Mapping[str, NDArray[Any]]]

KINDS: Final = ("sbc", "recovery", "stein")
TASKS_FOLDER: Final = "tasks"
LEVELS: Final = (0.5, 0.8, 0.9, 0.95)
INTERVAL: Final = 0.9  # of recovery
FAR: Final = 3.0  # Monte Carlo errors


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """What is simulated and fitted.

    Attributes
    ----------
    kind
        ``sbc``: the truth is drawn from the prior, ranks are judged. ``recovery``: the truth is the same throughout,
        bias and intervals are judged. ``stein``: the same for Stein's curve at its published values.
    cohorts, patients
        How many, and of how many patients each.
    seed
        Of everything; a cohort's own seed is made of it and the cohort's number.
    effort
        How hard each is fitted.
    again
        Share of those who progressed after ide-cel that are infused again; see `cohorts.Study`.
    truth
        Of ``recovery``: ``reference`` or ``median``; see `replicates.Task`.
    """

    kind: Kind
    cohorts: int
    patients: int
    seed: int = 1
    effort: Effort = field(default_factory=Effort)
    again: float = 0.0
    truth: Truth = "reference"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ReinfuseError(f"unknown calibration {self.kind!r}; use one of {', '.join(KINDS)}")
        if self.truth not in TRUTHS:
            raise ReinfuseError(f"unknown truth {self.truth!r}; use one of {', '.join(TRUTHS)}")
        if self.cohorts < 2:
            raise ReinfuseError(f"cohorts is {self.cohorts}; give at least 2, for one says nothing of a distribution")
        if self.seed < 0:
            raise ReinfuseError(f"seed is {self.seed}; give a whole number of at least 0")

    @property
    def study(self) -> Study | SteinStudy:
        """The plan of each cohort."""
        if self.kind == "stein":
            return SteinStudy(patients=self.patients)
        return Study(patients=self.patients, again_share=self.again)

    def tasks(self) -> dict[int, Task]:
        """The replicates by number."""
        truth: Truth = "prior" if self.kind == "sbc" else self.truth
        study = self.study
        return {
            k: Task(seed=self.seed, number=k, study=study, effort=self.effort, truth=truth) for k in range(self.cohorts)
        }

    def recipe(self) -> dict[str, Any]:
        """What a replicate depends on, beside its number; more cohorts are the same and some more."""
        truth = "prior" if self.kind == "sbc" else self.truth if self.kind == "recovery" else "published"
        return {
            "kind": self.kind,
            "study": asdict(self.study),
            "seed": self.seed,
            "effort": asdict(self.effort),
            "truth": truth,
            "reinfuse": versions()["reinfuse"],
        }


@dataclass(frozen=True)
class Outcome:
    """What came of a campaign; tables as they are written.

    Attributes
    ----------
    fits
        One row for each cohort.
    ranks, uniformity, coverage, overall, recovery
        See `ranks`.
    rejected
        Cohorts drawn anew, by reason.
    """

    campaign: Campaign
    found: Placed
    fits: pd.DataFrame
    uniformity: pd.DataFrame
    coverage: pd.DataFrame
    overall: pd.DataFrame
    recovery: pd.DataFrame
    rejected: Mapping[str, int]
    settled: tuple[int, ...]
    population: tuple[str, ...]

    @property
    def doubts(self) -> list[str]:
        """Why not to trust the calibration; empty if there is no reason."""
        doubts = []
        broken = int((self.fits["state"] == "broke down").sum())
        if broken:
            doubts.append(f"{broken} of {len(self.fits)} fits broke down")
        if self.campaign.kind == "sbc":
            outside = self.uniformity.loc[self.uniformity["outside_joint"], "quantity"].tolist()
            if outside:
                doubts.append(f"ranks of {', '.join(outside)} leave the joint band")
            low = self.uniformity["chi2_p"] * len(self.uniformity) < 1.0 - BAND
            uneven = self.uniformity.loc[low, "quantity"].tolist()
            if uneven:
                doubts.append(f"ranks of {', '.join(uneven)} are uneven (chi-square)")
            for row in self.overall.to_dict("records"):
                if abs(row["share"] - row["level"]) > FAR * row["mc_error"]:
                    doubts.append(f"{row['level']:.0%} intervals hold {row['share']:.1%} of the truths")
        else:
            held = self.overall.set_index("level")
            share, error = float(held["share"][INTERVAL]), float(held["mc_error"][INTERVAL])
            if share < INTERVAL - FAR * error:
                doubts.append(f"{INTERVAL:.0%} intervals hold only {share:.1%} of the truths")
        return doubts


def run_campaign(
    campaign: Campaign,
    out: str | Path,
    *,
    resume: bool = False,
    cores: int | None = None,
    cluster: str | None = None,
    tick: Callable[[int], None] = lambda _: None,
    command: Sequence[str] | None = None,
) -> Outcome:
    """Do what is left of a campaign; write tables, figures, `summary.md` and `run.json` into its folder.

    Parameters
    ----------
    campaign
        What to do.
    out
        Its folder; the replicates are in ``tasks``, one file each.
    resume
        Go on where it was; also with more cohorts.
    cores, cluster
        As for `tasks.run_tasks`; results do not depend on them.
    tick
        Told of each replicate.
    command
        The command line, for the record.

    Raises
    ------
    ReinfuseError
        If the folder holds another campaign, or not one fit came to an end.
    """
    start = time.perf_counter()
    folder = TaskFolder(Path(out) / TASKS_FOLDER, campaign.recipe(), resume=resume)
    tasks = campaign.tasks()
    if cluster is None and set(folder.done()) < set(tasks):
        _compile(campaign)
    results = folder.complete(replicate, tasks, cores=cores, cluster=cluster, lost=_lost, tick=tick)
    outcome = judge(campaign, dict(zip(sorted(tasks), results, strict=True)))
    words = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]] if command is None else command)
    _record(outcome, Path(out), words, time.perf_counter() - start)
    return outcome


def _lost(number: int) -> dict[str, NDArray[Any]]:
    """What is kept of a replicate that ends its process."""
    return {"failure": np.array(f"replicate {number} ended its process whenever it was tried")}


def _compile(campaign: Campaign) -> None:
    """Have the kernels compiled once, before many processes want them."""
    rng = np.random.default_rng(0)
    study = campaign.study
    _ = draw_stein(study, rng) if isinstance(study, SteinStudy) else draw_cohort(study, rng)


def judge(campaign: Campaign, results: Results) -> Outcome:
    """Tables of a campaign from its replicates."""
    found = placed(results)
    first = results[int(found.numbers[0])]
    population = found.names[: first["rhat"].size]
    rejected: Counter[str] = Counter()
    for result in results.values():
        if "reasons" in result:
            rejected.update(dict(zip(result["reasons"].tolist(), result["rejected"].tolist(), strict=True)))
    fits = _fits(results)
    return Outcome(
        campaign=campaign,
        found=found,
        fits=fits,
        uniformity=uniformity(found),
        coverage=coverage(found, LEVELS),
        overall=coverage_of_all(found, population, LEVELS),
        recovery=recovery(found, INTERVAL),
        rejected=dict(rejected),
        settled=tuple(fits.loc[fits["state"] == "settled", "replicate"].tolist()),
        population=population,
    )


def _fits(results: Results) -> pd.DataFrame:
    """One row for each replicate: state, diagnostics, length, seconds."""
    rows = []
    for number, result in results.items():
        if "failure" in result:
            rows.append({"replicate": number, "state": "broke down", "why": str(result["failure"])})
            continue
        rhat, ess = result["rhat"], result["ess_bulk"]
        settled = rhat.max() <= HIGHEST_RHAT and ess.min() >= ENOUGH_ESS
        rows.append(
            {
                "replicate": number,
                "state": "settled" if settled else "not settled",
                "why": "" if settled else f"worst: {result['names'][int(ess.argmin())]}",
                "max_rhat": float(rhat.max()),
                "min_ess_bulk": float(ess.min()),
                "min_ess_tail": float(result["ess_tail"].min()),
                "draws": int(result["length"]),
                "observations": int(result.get("observations", 0)),
                "solver_failures": int(result["solver_failures"]),
                "seconds": float(result["seconds"]),
            }
        )
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------------------------------- files


def _record(outcome: Outcome, out: Path, command: str, seconds: float) -> None:
    campaign = outcome.campaign
    (out / "figures").mkdir(exist_ok=True)
    tables = {
        "ranks": outcome.found.table(),
        "fits": outcome.fits,
        "uniformity": outcome.uniformity,
        "coverage": outcome.coverage,
        "overall": outcome.overall,
        "recovery": outcome.recovery,
    }
    for name, table in tables.items():
        table.to_csv(out / f"{name}.csv", index=False, lineterminator="\n")
    record = {
        "command": command,
        "versions": versions(),
        "git": git_revision(),
        "recipe": campaign.recipe(),
        "cohorts": campaign.cohorts,
        "states": outcome.fits["state"].value_counts().to_dict(),
        "drawn_anew": dict(outcome.rejected),
        "doubts": outcome.doubts,
        "wall_seconds": round(seconds, 1),
        "fit_seconds": round(float(outcome.fits.get("seconds", pd.Series(dtype=float)).sum()), 1),
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    (out / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    _draw(outcome, out / "figures")
    (out / "summary.md").write_text(summary(outcome, command), encoding="utf-8")


def _draw(outcome: Outcome, folder: Path) -> None:
    found, kind = outcome.found, outcome.campaign.kind
    what = f"{found.numbers.size} cohorts of {outcome.campaign.patients} patients"
    if kind == "sbc":
        values = found.uniform
        curves = {}
        for k, name in enumerate(found.names):
            one = band(values[:, k])
            curves[name] = one.at, one.difference, one.lower, one.upper
        save(figures.ecdf_differences(curves, title=f"Ranks of the truth: {what}", level=BAND), folder, "ecdf")
        save(figures.coverage_dots(outcome.coverage, title=f"Coverage: {what}"), folder, "coverage")
    else:
        rows = outcome.recovery[outcome.recovery["quantity"].isin(outcome.population)]
        save(figures.recovered(rows, title=f"Recovery: {what}"), folder, "recovery")


def summary(outcome: Outcome, command: str, pictures: str = "figures/") -> str:
    """The outcome in Markdown, for the documentation; ``pictures`` is put before the names of its figures."""
    campaign, fits = outcome.campaign, outcome.fits
    made = versions()
    states = fits["state"].value_counts()
    anew = ", ".join(f"{count} {reason}" for reason, count in sorted(outcome.rejected.items())) or "none"
    lines = [
        f"`{command}`, {time.strftime('%-d %B %Y')}; reinfuse {made['reinfuse']}, Python {made['python']}, "
        f"NumPy {made['numpy']}, Numba {made['numba']}, PyMC {made['pymc']}.",
        "",
        f"{len(fits)} cohorts of {campaign.patients} patients{_infusions(campaign)}, seed {campaign.seed}; "
        f"{campaign.effort.chains} chains of {campaign.effort.tune} warm-up sweeps and {campaign.effort.draws} draws "
        f"at {campaign.effort.thin} sweeps each, up to {campaign.effort.longest} times as many where the worst "
        f"population value had R-hat above {HIGHEST_RHAT} or a bulk ESS below {ENOUGH_ESS:.0f}; "
        f"{outcome.found.count} draws are ranked.",
        "",
        f"Fits: {', '.join(f'{count} {state}' for state, count in states.items())}. All that came to an end are "
        f"counted, settled or not. Cohorts drawn anew: {anew}.",
        "",
        *_overall(outcome),
        "",
    ]
    if campaign.kind == "sbc":
        lines += [*_uniform(outcome), "", f"![ECDF of the ranks]({pictures}ecdf.png)", ""]
        lines += [f"![Coverage by quantity]({pictures}coverage.png)", ""]
    else:
        lines += [*_recovered(outcome), "", f"![Bias and error by quantity]({pictures}recovery.png)", ""]
    doubts = outcome.doubts
    lines.append(f"Doubts: {'; '.join(doubts)}." if doubts else "No doubt was found by the rules of this page.")
    return "\n".join(lines) + "\n"


def _infusions(campaign: Campaign) -> str:
    if campaign.kind == "stein" or campaign.again == 0:
        return ""
    return f" ({campaign.again:.0%} of those who progressed after ide-cel infused again)"


def publish(outcome: Outcome, out: Path, docs: Path) -> None:
    """Put the tables and figures of a finished campaign where the documentation includes them."""
    kind = outcome.campaign.kind
    command = json.loads((out / "run.json").read_text(encoding="utf-8"))["command"]
    (docs / "generated").mkdir(exist_ok=True)
    (docs / "images").mkdir(exist_ok=True)
    text = summary(outcome, command, f"images/calibration_{kind}_")  # from the page that includes it
    (docs / "generated" / f"calibration_{kind}.md").write_text(text, encoding="utf-8")
    for picture in sorted((out / "figures").glob("*.png")):
        shutil.copyfile(picture, docs / "images" / f"calibration_{kind}_{picture.name}")


def _overall(outcome: Outcome) -> list[str]:
    """Coverage over all population values, of all fits and of those that settled."""
    rows = ["| intervals | hold the truth | Monte Carlo error | in settled fits |", "|---|---|---|---|"]
    kept = np.isin(outcome.found.numbers, outcome.settled)
    some = outcome.found
    settled = None
    if kept.any():
        part = Placed(some.names, some.numbers[kept], some.rank[kept], some.count, some.truth[kept], some.median[kept])
        settled = coverage_of_all(part, outcome.population, LEVELS)
    for k, row in enumerate(outcome.overall.to_dict("records")):
        share = (
            f"{settled['share'].iloc[k]:.1%} of {settled['fits'].iloc[k]}" if settled is not None else "none settled"
        )
        rows.append(f"| {row['level']:.0%} | {row['share']:.1%} | {row['mc_error']:.1%} | {share} |")
    return rows


def _uniform(outcome: Outcome) -> list[str]:
    wide = outcome.coverage.pivot(index="quantity", columns="level", values="share")
    rows = [
        "| quantity | chi-square p | largest difference | 50 % | 80 % | 95 % | outside its 95 % band | joint band |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in outcome.uniformity.to_dict("records"):
        held = " | ".join(f"{wide.loc[row['quantity'], level]:.2f}" for level in (0.5, 0.8, 0.95))
        p = "too few" if np.isnan(row["chi2_p"]) else f"{row['chi2_p']:.3f}"
        rows.append(
            f"| {row['quantity']} | {p} | {row['ecdf_difference']:.3f} | {held} | "
            f"{'yes' if row['outside_95'] else 'no'} | {'outside' if row['outside_joint'] else 'inside'} |"
        )
    return rows


def _recovered(outcome: Outcome) -> list[str]:
    rows = [
        f"| quantity | truth | bias ± Monte Carlo error | rmse | {INTERVAL:.0%} intervals hold it |",
        "|---|---|---|---|---|",
    ]
    for row in outcome.recovery[outcome.recovery["quantity"].isin(outcome.population)].to_dict("records"):
        rows.append(
            f"| {row['quantity']} | {row['truth']:.3g} | {row['bias']:+.3f} ± {row['bias_mc_error']:.3f} | "
            f"{row['rmse']:.3f} | {row[f'inside_{INTERVAL * 100:.0f}']:.0%} |"
        )
    return rows

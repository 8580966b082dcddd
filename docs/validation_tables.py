"""Write the tables and pictures of the Leipzig cohort in `docs/validation.md` from two finished fits.

``python docs/validation_tables.py RUN EARLY`` reads what `reinfuse fit` left in ``RUN`` and
`scripts/temporal_holdout.py` in ``EARLY``, and writes ``docs/generated/validation_*.md`` and
``docs/images/validation_*.png``. `make validation` runs all three. Aggregates only: no patient is in them.
"""

import shutil
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
from fragments import IMAGES, read_json, table, versions, write

ASSAYS = {"transgene": "transgene", "cart": "CAR+ cells", "sbcma": "sBCMA"}
PICTURES = ("forecast", "forecast_progression")
CLEAR = 2.0
"""Standard errors from which a difference is called one."""


def main() -> None:
    """Write them all."""
    folder = Path(sys.argv[1])
    run, found = read_json(folder / "run.json"), read_json(folder / "diagnostics.json")
    about = versions(run, "reinfuse", "python", "numpy", "numba", "pymc", "arviz-stats")
    made = f"`make validation`, {date.today()}; {about}; seed {run['seed']}, fitted {run['written'][:10]}"
    write("validation_fit", made, fit(run, found))
    measured = found["yardsticks"]
    forecasts = scores(pd.DataFrame(measured["forecast"])), differences(pd.DataFrame(measured["forecast_differences"]))
    write("validation_forecasts", made, "\n\n".join(forecasts))
    write("validation_progression", made, progression(measured))
    write("validation_strict", made, strictly(read_json(Path(sys.argv[2]) / "strictly.json")))
    for name in PICTURES:
        shutil.copy(folder / "figures" / f"{name}.png", IMAGES / f"validation_{name}.png")


def fit(run: dict[str, Any], found: dict[str, Any]) -> str:
    """Whether it converged, and what it took."""
    settings, seconds = run["settings"], run["wall_seconds"]
    limits = found["limits"]
    sampled = seconds["compile"] + seconds["setup"] + seconds["sampling"]
    rows = [
        (f"largest R-hat of {found['n_scalars']} numbers", f"{found['max_rhat']:.4f}", f"below {limits['max_rhat']}"),
        ("smallest ESS, bulk", f"{found['min_ess_bulk']:.0f}", f"above {limits['min_ess']:.0f}"),
        ("smallest ESS, tail", f"{found['min_ess_tail']:.0f}", f"above {limits['min_ess']:.0f}"),
        (
            "trajectories that diverged",
            f"{found['divergences']}, {100 * found['divergence_share']:.3f} %",
            f"below {100 * limits['max_divergence_share']:.1f} %",
        ),
        ("trajectories that could not be solved", str(found["solver_failures"]), ""),
        (
            "wall seconds: compile, explore, sample; then predictions",
            f"{seconds['compile']:.0f} + {seconds['setup']:.0f} + {seconds['sampling']:.0f} = {sampled:.0f}; "
            f"{seconds['post']:.0f}",
            "180; 90 in time",
        ),
    ]
    words = (
        f"Variant `{run['variant']}`; {settings['chains']} chains of {settings['tune']} warm-up sweeps and "
        f"{settings['draws']} draws at {run['sweeps_per_draw']} sweeps each; {run['machine']['cpus']} cores."
    )
    return f"{words}\n\n{table(('', 'found', 'wanted'), rows)}"


def scores(found: pd.DataFrame) -> str:
    """What every forecast is worth, by day and assay."""
    rows = []
    for (cutoff, model), of_model in found.groupby(["cutoff", "model"], sort=False):
        by = of_model.set_index("dvid")
        cells = [_score(by.loc[assay]) for assay in ASSAYS if assay in by.index]
        rows.append((f"{cutoff:.0f}", str(model), *(cells + ["–"] * (len(ASSAYS) - len(cells)))))
    return table(("seen to day", "forecast by", *ASSAYS.values()), rows)


def _score(one: pd.Series) -> str:
    """A forecast's figures for one assay; of one without a distribution, the error alone."""
    if pd.isna(one["elpd"]):
        return f"error {one['error_in_ln']:.2f}; {one['n']} rows"
    inside = ", ".join(f"{100 * one[f'inside_{share}']:.0f}" for share in (50, 80, 95))
    figures = f"{one['elpd']:.1f} ({one['elpd_se']:.1f}), {one['crps']:.2f}, {one['error_in_ln']:.2f}"
    return f"{figures}; {inside} %; {one['n']} rows"


def differences(found: pd.DataFrame) -> str:
    """This model less its rivals, over rows that both forecast, with a verdict."""
    rows = []
    for (rival, cutoff), pair in found.groupby(["rival", "cutoff"], sort=False):
        by = pair.set_index("dvid")
        cells = []
        for assay in ASSAYS:
            if assay not in by.index:
                cells.append("–")
                continue
            one = by.loc[assay]
            cells.append(f"{one['difference']:+.1f} ({one['difference_se']:.1f}): {verdict(one)}")
        rows.append((str(rival), f"{cutoff:.0f}", *cells))
    return table(("rival", "seen to day", *(f"{name}: elpd less the rival's (s.e.)" for name in ASSAYS.values())), rows)


def verdict(one: pd.Series) -> str:
    """Beaten, or not, or not told apart."""
    if abs(one["difference"]) < CLEAR * one["difference_se"]:
        return "not told apart"
    return "beaten" if one["difference"] > 0 else "**the rival is better**"


def risks(found: list[dict[str, Any]]) -> str:
    """How well it is told who will progress."""
    head = ("seen to day", "forecast by", "progressed", "concordance (95 %)", "Brier (s.e.)", "gain (s.e.)")
    rows = [
        (
            f"{one['cutoff']:.0f}",
            one["model"],
            f"{one['progressed']} of {one['n']}",
            f"{one['concordance']:.2f} ({one['lower']:.2f}-{one['upper']:.2f})",
            f"{one['brier']:.3f} ({one['brier_se']:.3f})",
            "–" if one["gain"] == 0 else f"{one['gain']:+.3f} ({one['gain_se']:.3f})",
        )
        for one in found
    ]
    return table(head, rows)


def strictly(found: dict[str, Any]) -> str:
    """The fit that saw nobody's later data."""
    made = found["fit"]
    words = (
        f"Data of everybody until day {found['day']:g}; the fit "
        f"{'converged' if made['converged'] else '**did not converge**'}: largest R-hat {made['max_rhat']:.4f}, "
        f"smallest ESS {made['min_ess_bulk']:.0f} (bulk) and {made['min_ess_tail']:.0f} (tail)."
    )
    parts = [words, scores(pd.DataFrame(found["forecast"]))]
    if found["progression"]:
        parts.append(risks(found["progression"]))
    return "\n\n".join(parts)


def progression(measured: dict[str, Any]) -> str:
    """Who will progress: forecasts, thirds of the risk, and what was left in by the fit itself."""
    forecasts = risks(measured["progression_forecast"])
    thirds = table(
        ("seen to day", "risk", "patients", "predicted", "observed (95 %)"),
        [
            (
                f"{one['cutoff']:.0f}",
                one["third"],
                str(one["n"]),
                f"{one['predicted']:.2f}",
                f"{one['observed']:.2f}" + (f" ({one['lower']:.2f}-{one['upper']:.2f})" if one["upper"] > 0 else ""),
            )
            for one in measured["progression_thirds"]
        ],
    )
    courses = table(
        ("product", "day", "free of progression: Kaplan-Meier (95 %)", "predicted, in-sample", "still followed"),
        [
            (
                one["product"],
                f"{one['day']:.0f}",
                f"{one['observed']:.2f} ({one['observed_lower']:.2f}-{one['observed_upper']:.2f})",
                f"{one['predicted']:.2f}",
                str(one["at_risk"]),
            )
            for one in measured["progression"]
        ],
    )
    apart = table(
        ("measure", "how", "value (95 %)", "of"),
        [
            (
                one["measure"],
                one["basis"],
                f"{one['value']:.2f} ({one['lower']:.2f}-{one['upper']:.2f})",
                one["note"],
            )
            for one in measured["discrimination"]
        ],
    )
    return "\n\n".join((forecasts, thirds, courses, apart))


if __name__ == "__main__":
    main()

"""Write the tables and pictures of `docs/forecast.md` from what `make forecasts` has left.

``python docs/forecast_tables.py FOLDER`` reads the folders ``day_14``, ``day_90`` (of `reinfuse forecast`) and
``calibration`` (of `scripts/forecast_calibration.py`), and writes ``docs/generated/forecast_*.md`` and
``docs/images/forecast_*.png``.
"""

import shutil
import sys
from pathlib import Path

import pandas as pd
from fragments import IMAGES, made_by, read_json, table, write

ASSAYS = {"transgene": "transgene", "cart": "CAR+ cells", "sbcma": "sBCMA", "mprotein": "M-protein"}


def main() -> None:
    """Write them all."""
    folder = Path(sys.argv[1])
    found = folder / "calibration"
    patients = read_json(found / "run.json")["patients"]
    made = f"{made_by('forecasts', found / 'run.json', 'numba')}; {patients} patients, each forecast by the others"
    one = made_by("forecasts", folder / "day_90" / "run.json", "numba")
    tables = {
        name: pd.read_csv(found / f"{name}.csv")
        for name in ("measurements", "progression", "reliability", "draws", "own")
    }
    write("forecast_measurements", made, measurements(tables["measurements"]))
    write("forecast_progression", made, progression(tables["progression"]))
    write("forecast_reliability", made, reliability(tables["reliability"]))
    write("forecast_draws", made, draws(tables["draws"]) + "\n\n" + own(tables["own"]))
    write("forecast_words", f"{one}; a synthetic patient, as known on day 90", words(folder / "day_90"))
    write(
        "forecast_seconds", f"{one}; processor seconds of the forecast above", seconds(folder / "day_90" / "run.json")
    )
    for name in ("coverage", "reliability"):
        shutil.copy(found / "figures" / f"{name}.png", IMAGES / f"forecast_{name}.png")
    for name in ("assays", "progression", "benefit"):
        shutil.copy(folder / "day_90" / "figures" / f"{name}.png", IMAGES / f"forecast_{name}.png")


def measurements(found: pd.DataFrame) -> str:
    """Coverage and scores by cut-off and assay."""
    rows = [
        (
            f"{row['cutoff']:.0f}",
            ASSAYS[row["dvid"]],
            f"{row['n']:.0f} ({row['n_censored']:.0f})",
            *(f"{row[f'inside_{level}']:.0%}" for level in (50, 80, 95)),
            f"{row['elpd']:.1f} ({row['elpd_se']:.1f})",
            f"{row['crps']:.2f}",
            f"{row['error_in_ln']:.2f}",
        )
        for row in found.to_dict("records")
    ]
    head = ("seen to day", "assay", "rows (censored)", "in 50 %", "in 80 %", "in 95 %", "elpd (s.e.)", "CRPS", "error")
    return table(head, rows)


def progression(found: pd.DataFrame) -> str:
    """Brier score and concordance by cut-off and horizon, beside the rivals."""
    rows = []
    for (cutoff, day), own in found.groupby(["cutoff", "day"], sort=False):
        by = {str(row["model"]): row for row in own.to_dict("records")}
        mine, rival, plain = (
            next(row for name, row in by.items() if name.startswith(x)) for x in ("this", "Cox", "Kap")
        )
        rows.append(
            (
                f"{cutoff:.0f}",
                f"{day:.0f}",
                f"{mine['progressed']} of {mine['n']}",
                f"{mine['predicted']:.0%}",
                f"{mine['brier']:.3f} ({mine['brier_se']:.3f})",
                f"{rival['brier']:.3f}",
                f"{plain['brier']:.3f}",
                f"{mine['concordance']:.2f} ({mine['lower']:.2f}-{mine['upper']:.2f})",
                f"{rival['concordance']:.2f}",
            )
        )
    head = (
        "seen to day", "by day", "progressed", "predicted", "Brier: model (s.e.)", "rival Cox", "Kaplan-Meier",
        "concordance: model", "rival Cox",
    )  # fmt: skip
    return table(head, rows)


def reliability(found: pd.DataFrame) -> str:
    """Thirds of the predicted risk."""
    rows = [
        (
            f"{row['cutoff']:.0f}",
            row["third"],
            f"{row['n']}",
            f"{row['predicted']:.0%}",
            f"{row['observed']:.0%} ({row['lower']:.0%}-{row['upper']:.0%})",
        )
        for row in found.to_dict("records")
    ]
    return table(("seen to day", "third", "patients", "predicted by day 180", "observed (95 %)"), rows)


def draws(found: pd.DataFrame) -> str:
    """How many effective draws such forecasts have."""
    rows = [
        (
            f"{cutoff:.0f}",
            str(len(own)),
            f"{own['effective'].median():.0f}",
            f"{own['effective'].min():.0f}",
            f"{own['pareto_k'].max():.2f}",
            str(int((~own["trusted"]).sum())),
        )
        for cutoff, own in found.groupby("cutoff", sort=False)
    ]
    return table(
        ("seen to day", "patients", "effective draws, median", "least", "largest Pareto k", "not trusted"), rows
    )


def own(found: pd.DataFrame) -> str:
    """Patients of the run with all their rows, beside the run's own posterior."""
    shift, ratio = found["shift"].abs(), found["ratio"]
    return (
        f"With all rows of a patient, deviations beside those of the run itself ({len(found)} of them): means differ "
        f"by {shift.median():.3f} sd in the median and {shift.max():.2f} at most; sds by a factor of {ratio.min():.2f} "
        f"to {ratio.max():.2f}."
    )


def words(folder: Path) -> str:
    """The summary without its title, the name of the run and the laboratory's caveats."""
    name = read_json(folder / "run.json")["run"]
    text = (folder / "summary.md").read_text(encoding="utf-8").split("## Before you use")[0].strip()
    text = text.replace(f"the run {name}", "the run RUN")
    quoted = [line.replace("## ", "**") + "**" if line.startswith("## ") else line for line in text.splitlines()]
    return "\n".join(f"> {line}".rstrip() for line in quoted if not line.startswith("# "))


def seconds(file: Path) -> str:
    """Of each part."""
    parts = read_json(file)["seconds"]
    return table(tuple(parts), [tuple(f"{part['processor']:.1f}" for part in parts.values())])


if __name__ == "__main__":
    main()

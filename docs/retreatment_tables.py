"""Write the tables and pictures of `docs/retreatment.md` and `docs/anchor.md` from a finished experiment.

``python docs/retreatment_tables.py FOLDER`` reads what `reinfuse retreat … --out FOLDER` left, and writes
``docs/generated/retreat_*.md`` and ``docs/images/retreat_*.png``. `make retreatment` runs both.
"""

import shutil
import sys
from pathlib import Path

import pandas as pd
from fragments import IMAGES, made_by, read_json, table, write

PICTURES = ("anchor", "pfs_by_group", "pfs_by_scenario", "waterfall", "trajectories", "virtual_trials", "swimmer")
MEASURES = ("ORR", ">=VGPR", "CR", "MRD-negative 1e-5", "PFS median", "PFS at 24 months")


def main() -> None:
    """Write them all."""
    folder = Path(sys.argv[1])
    run = read_json(folder / "run.json")
    about = made_by("retreatment", folder / "run.json", "numba")
    made = f"{about}; {run['source']}; {run['patients']:,} virtual patients per arm"
    write("retreat_summary", made, summary(pd.read_csv(folder / "summary.csv")))
    write("retreat_anchor", made, anchor(pd.read_csv(folder / "anchor.csv")))
    write("retreat_published", made, published(pd.read_csv(folder / "published.csv")))
    write("retreat_series", made, series(pd.read_csv(folder / "published.csv")))
    write("retreat_words", made, words(run["words"]))
    for name in PICTURES:
        shutil.copy(folder / "figures" / f"{name}.png", IMAGES / f"retreat_{name}.png")


def number(value: float, unit: str) -> str:
    """A figure as it is read."""
    if pd.isna(value):
        return "–"
    if unit == "proportion":
        return f"{value:.0%}"
    return "NR" if value == float("inf") else f"{value:.1f}"


def summary(found: pd.DataFrame) -> str:
    """Second courses of everybody, worlds stacked."""
    shown = found[(found["world"] == "stacked") & (found["course"] == 2) & (found["group"] == "all")]
    rows = []
    for scenario, of_scenario in shown.groupby("scenario", sort=False):
        by = {str(row["measure"]): row for row in of_scenario.to_dict("records")}
        cells = [by[name] for name in MEASURES]
        rows.append(
            (
                str(scenario),
                *(
                    f"{number(c['value'], c['unit'])} [{number(c['low'], c['unit'])}, {number(c['high'], c['unit'])}]"
                    for c in cells
                ),
            )
        )
    return table(("arm", *(name.replace(">=", "≥") for name in MEASURES)), rows)


def anchor(found: pd.DataFrame) -> str:
    """The study of ten, worlds stacked."""
    rows = [
        (
            row["patients"],
            row["measure"],
            f"{row['observed']}/{row['n_observed']} [{row['observed_low']:.0%}, {row['observed_high']:.0%}]",
            f"{row['simulated_share']:.0%} [{row['simulated_low']:.0%}, {row['simulated_high']:.0%}]",
            f"{row['trial_low']:.0f} to {row['trial_high']:.0f}",
            f"{row['tail_probability']:.2f}",
        )
        for row in found[found["world"] == "stacked"].to_dict("records")
    ]
    return table(
        ("virtual patients", "count", "observed, exact 95 %", "simulated, 95 %", "in studies of ten", "tail"), rows
    )


def published(found: pd.DataFrame) -> str:
    """Published series beside the arms that suit them, worlds stacked."""
    rows = [
        (
            row["series"],
            "not read" if pd.isna(row["n_published"]) else f"{row['n_published']:.0f}",
            row["measure"],
            str(row["arms"] if isinstance(row["arms"], str) else "none"),
            row["verdict"],
        )
        for row in found.to_dict("records")
        if row["world"] == "stacked" or not isinstance(row["world"], str)
    ]
    return table(("series", "n", "measure", "arm", "verdict"), rows)


def series(found: pd.DataFrame) -> str:
    """In what the patients of each series differ from the model's, and where its numbers were read."""
    rows = [
        (row["series"], row["differs"], f"{row['source']} ({row['tag']})")
        for row in found.drop_duplicates("series").to_dict("records")
    ]
    return table(("series", "its patients differ", "read in"), rows)


def words(said: dict[str, list[str]]) -> str:
    """What the command says below its tables."""
    parts = [f"**{title}**\n\n" + "\n".join(f"- {one}" for one in sentences) for title, sentences in said.items()]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()

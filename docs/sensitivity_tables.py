"""Write the tables and pictures of `docs/sensitivity.md` from a finished analysis.

``python docs/sensitivity_tables.py FOLDER`` reads what `reinfuse sensitivity … --out FOLDER` left, and writes
``docs/generated/sensitivity_*.md`` and ``docs/images/sensitivity_*.png``. `make sensitivity` runs both.
"""

import shutil
import sys
from pathlib import Path

import pandas as pd
from fragments import IMAGES, made_by, read_json, write

PICTURES = ("ranked_pfs1", "heat_map", "over_time_transgene", "over_time_burden", "convergence_pfs1")
SHOWN = 6


def main() -> None:
    """Write them all."""
    folder = Path(sys.argv[1])
    run = read_json(folder / "run.json")
    about = made_by("sensitivity", folder / "run.json", "numba")
    made = f"{about}; {run['source']}; {run['method']}, {run['runs']:,} runs"
    indices = pd.read_csv(folder / "indices.csv")
    write("sensitivity_indices", made, table(indices[~indices["outcome"].str.contains("@")]))
    write("sensitivity_words", made, "\n".join(f"- {sentence}" for sentence in run["words"]))
    for name in PICTURES:
        shutil.copy(folder / "figures" / f"{name}.png", IMAGES / f"sensitivity_{name}.png")


def table(indices: pd.DataFrame) -> str:
    """The foremost inputs of every outcome."""
    lines = ["| outcome | " + " | ".join(f"{i + 1}" for i in range(SHOWN)) + " |", "|" + " --- |" * (SHOWN + 1)]
    for name, rows in indices.groupby("outcome", sort=False):
        cells = [
            f"{row['parameter']} {row['value']:.2f} [{row['lower']:.2f}, {row['upper']:.2f}]"
            for row in rows.nlargest(SHOWN, "value").to_dict("records")
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""Write the tables and pictures of `docs/identifiability.md` from finished commands.

``python docs/identifiability_tables.py IDENTIFIED DESIGNED`` reads what `reinfuse identify … --out IDENTIFIED` and
`reinfuse design … --out DESIGNED` left. `make identifiability` runs all three. Aggregates only: no patient is in them.
"""

import shutil
import sys
from pathlib import Path

import pandas as pd
from fragments import IMAGES, made_by, read_json, share, table, write

PICTURES = {"information": 0, "ellipses": 0, "profiles": 0, "tornado": 0, "designs": 1}
DIRECTIONS = 10
TRUSTED = 1.0  # as `fits.identification.profiles.TRUSTED`


def main() -> None:
    """Write them all."""
    folders = [Path(argument) for argument in sys.argv[1:3]]
    identified, designed = folders
    runs = [read_json(folder / "run.json") for folder in folders]
    made = f"{made_by('identifiability', identified / 'run.json', 'scipy', 'numba')}; seed {runs[0]['seed']}"
    parameters = pd.read_csv(identified / "identifiability.csv", keep_default_na=False, na_values=[""])
    write("identify_parameters", f"{made}; {runs[0]['draws']} draws", knowledge(parameters))
    write("identify_expected", made, agreement(parameters))
    write("identify_directions", made, directions(pd.read_csv(identified / "directions.csv")))
    write("identify_profiles", made, profiles(pd.read_csv(identified / "profile_limits.csv")))
    study = runs[1]["designs"]["study"]
    about = f"{made}; {study['patients']} patients, {runs[1]['populations']} populations"
    write("identify_designs", about, designs(designed))
    for name, which in PICTURES.items():
        shutil.copy(folders[which] / "figures" / f"{name}.png", IMAGES / f"identify_{name}.png")


def knowledge(found: pd.DataFrame) -> str:
    """Every parameter, best measured first."""
    rows = [
        (
            f"`{row['parameter']}`",
            str(row["value_from"]),
            share(row["contraction"]),
            share(row["contraction_alone"]),
            share(row["expected_contraction"]),
            f"{row['shift']:+.1f}",
            "" if pd.isna(row["aliased_with"]) else str(row["aliased_with"]),
            share(row["shrinkage"]),
            share(row["expected_shrinkage"]),
        )
        for row in found[found["value_from"] != "fixed"].sort_values("contraction", ascending=False).to_dict("records")
    ]
    head = ("parameter", "value from", "contraction", "others known", "expected", "shift", "correlated with")
    return table((*head, "shrinkage", "expected"), rows)


def agreement(found: pd.DataFrame) -> str:
    """Expected sds over those found, by family."""
    rows = []
    kinds = {
        "population medians": (found["family"] == "population") & ~found["parameter"].str.startswith("sigma"),
        "product effects": found["family"] == "product_effect",
        "residual sds": found["parameter"].str.startswith("sigma"),
        "spreads between patients": found["family"] == "omega",
    }
    for name, which in kinds.items():
        ratio = (found["expected_sd"] / found["posterior_sd"])[which].dropna()
        rows.append((name, str(ratio.size), *(f"{x:.2f}" for x in (ratio.median(), ratio.min(), ratio.max()))))
    return table(("expected sd / sd found", "how many", "median", "least", "most"), rows)


def directions(found: pd.DataFrame) -> str:
    """The weakest directions in words."""
    rows = [
        (f"{row['information_over_prior']:.2g}", str(row["words"])) for row in found.head(DIRECTIONS).to_dict("records")
    ]
    return table(("information / prior's", "direction"), rows)


def profiles(found: pd.DataFrame) -> str:
    """Limits of profiles."""
    rows = []
    for row in found.to_dict("records"):
        low, high = (f"{row[end]:.3g}" if row[f"closed_{end}"] else "open" for end in ("low", "high"))
        words = str(row["words"]) if row["mc_error"] <= TRUSTED else "not to be read: the integrals' error is too large"
        rows.append((f"`{row['parameter']}`", f"{row['best']:.3g}", low, high, f"{row['mc_error']:.1f}", words))
    return table(("parameter", "best", "low", "high", "error of a drop", "what the limits say"), rows)


def designs(folder: Path) -> str:
    """Expected sds over those of now; the benefit first."""
    parameters, benefit = (pd.read_csv(folder / f"{name}.csv") for name in ("parameters", "benefit"))
    names = list(dict.fromkeys(parameters["design"]))[1:]
    wide = parameters.pivot(index="parameter", columns="design", values="ratio")[names]
    error = parameters.assign(error=parameters["mc_error"] / parameters["sd_now"])["error"].max()
    by = benefit.set_index("design").loc[names]
    first = benefit.iloc[0]
    rows = [
        ("**benefit**, sd / sd now", *(f"{row.ratio:.2f} ± {1.6 * row.ratio_error:.2f}" for row in by.itertuples())),
        (
            "benefit, sd less the first's, months",
            *(f"{row.against_first:+.2f} ± {1.6 * row.against_first_error:.2f}" for row in by.itertuples()),
        ),
    ]
    apart = (wide.max(axis=1) - wide.min(axis=1)).sort_values(ascending=False)
    told = wide.loc[apart.index]
    told = told[((told < 0.98).sum(axis=1) > 1)].head(16)
    rows += [(f"`{name}`", *(f"{x:.2f}" for x in line)) for name, line in zip(told.index, told.to_numpy(), strict=True)]
    words = (
        f"The sd of the mean benefit is now {first['sd_now']:.2f} months; {share(first['explained'])} of its variance "
        f"lies in parameters that these samples can inform. ±: 89 % Monte Carlo intervals; those of the parameters are "
        f"at most ± {1.6 * error:.3f}."
    )
    return f"{table(('', *names), rows)}\n\n{words}"


if __name__ == "__main__":
    main()

"""Which figures an analysis has, and the numbers in each."""

import re
from textwrap import fill
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..figures import sensitivity as figures
from .designs import Design
from .indices import MAIN
from .outcomes import CURVES, OUTCOMES, describe, without_world
from .study import Found

type Picture = tuple[Figure, pd.DataFrame]

#: Names of indices on an axis, where method and index do not say it.
LABELS: Final = {"shapley": "Shapley effect", "bound": "upper bound of the total share"}
#: Inputs of a figure at most, those with the largest indices.
BARS: Final = 15
LINES: Final = 6
#: Letters of a line of a title at most.
TITLE: Final = 75
COLUMNS: Final = 22
PAIRS: Final = 12


def draw(found: Found, design: Design) -> dict[str, Picture]:
    """Every figure by file name, with its numbers."""
    main = MAIN[design.method]
    table = found.indices[found.indices["index"] == main]
    label = LABELS.get(main, f"{design.method}: {main}")
    out: dict[str, Picture] = {}
    scalars = [str(name) for name in dict.fromkeys(table["outcome"]) if "@" not in str(name)]
    for name in scalars:
        out[f"ranked_{_file(name)}"] = _ranked(found, table, name, label)
        out[f"convergence_{_file(name)}"] = _convergence(found, name, label)
        if (found.indices["index"] == "second").any():
            out[f"pairs_{_file(name)}"] = _pairs(found, table, name)
    if len(scalars) > 1 and design.method != "morris":
        out["heat_map"] = _heat_map(table, scalars, label)
    for kind in dict.fromkeys(str(name).partition("@")[0] for name in table["outcome"] if "@" in str(name)):
        rows = table[table["outcome"].str.startswith(f"{kind}@")]
        out[f"over_time_{_file(kind)}"] = _over_time(rows, kind, label)
    return out


def _file(name: str) -> str:
    """An outcome's name as part of a file's."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")


def _about(name: str) -> str:
    plain = without_world(name)
    return fill(f"{name}: {describe(plain).about}", TITLE) if plain in OUTCOMES or plain in CURVES else name


def _ranked(found: Found, table: pd.DataFrame, name: str, label: str) -> Picture:
    rows = table[table["outcome"] == name].nlargest(BARS, "value")
    first = found.indices[(found.indices["outcome"] == name) & (found.indices["index"] == "first")]
    second = None
    if not first.empty and not (rows["index"] == "first").all():
        second = first.set_index("parameter")["value"].reindex(rows["parameter"]).to_numpy()
        rows = rows.assign(first=second)
    columns = (rows[column].to_numpy() for column in ("value", "lower", "upper"))
    figure = figures.ranked_bars(list(rows["parameter"]), *columns, title=_about(name), label=label, second=second)
    return figure, rows


def _convergence(found: Found, name: str, label: str) -> Picture:
    rows = found.convergence[found.convergence["outcome"] == name]
    last = rows[rows["units"] == rows["units"].max()].nlargest(LINES, "value")
    names = list(last["parameter"])
    rows = rows[rows["parameter"].isin(names)]
    wide = {c: rows.pivot(index="runs", columns="parameter", values=c)[names] for c in ("value", "lower", "upper")}
    figure = figures.convergence(
        wide["value"].index.to_numpy(dtype=np.float64),
        names,
        *(table.to_numpy() for table in wide.values()),
        title=_about(name),
        label=label,
    )
    return figure, rows


def _pairs(found: Found, table: pd.DataFrame, name: str) -> Picture:
    names = list(table[table["outcome"] == name].nlargest(PAIRS, "value")["parameter"])
    rows = found.indices[(found.indices["outcome"] == name) & (found.indices["index"] == "second")]
    value, clear = np.full((len(names), len(names)), np.nan), np.zeros((len(names), len(names)), dtype=np.bool_)
    kept = []
    for row in rows.to_dict("records"):
        one, _, other = str(row["parameter"]).partition(" × ")
        if one in names and other in names:
            i, j = sorted((names.index(one), names.index(other)))
            value[i, j], clear[i, j] = row["value"], row["lower"] > 0 or row["upper"] < 0
            kept.append(row)
    return figures.pair_matrix(names, value, clear, title=_about(name)), pd.DataFrame(kept, columns=rows.columns)


def _heat_map(table: pd.DataFrame, scalars: list[str], label: str) -> Picture:
    wide = table[table["outcome"].isin(scalars)].pivot(index="outcome", columns="parameter", values="value")
    wide = wide.loc[scalars, wide.max().nlargest(COLUMNS).index]
    return figures.heat_map(scalars, list(wide.columns), wide.to_numpy(), label=label), wide.reset_index()


def _over_time(rows: pd.DataFrame, kind: str, label: str) -> Picture:
    rows = rows.assign(day=rows["outcome"].str.partition("@")[2].astype(float))
    names = list(rows.groupby("parameter")["value"].max().nlargest(LINES).index)
    rows = rows[rows["parameter"].isin(names)]
    wide = {c: rows.pivot(index="day", columns="parameter", values=c)[names] for c in ("value", "lower", "upper")}
    figure = figures.over_time(
        wide["value"].index.to_numpy(dtype=np.float64),
        names,
        *(table.to_numpy() for table in wide.values()),
        title=_about(kind),
        label=label,
    )
    return figure, rows

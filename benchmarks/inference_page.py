"""From results to docs/inference.md: tables between its markers, and one picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from pictures import FAMILY, save
from report import number, spread_of, table

BEGIN, END = "<!-- results: written by benchmarks/bench_inference.py -->", "<!-- end of results -->"
CASES = ("small", "12", "30", "file")
WANTED = 15.0
PICTURE = "inference.svg"
COLOUR = {"reinfuse": FAMILY["reinfuse"][0], "numpyro": FAMILY["diffrax"][0]}

type Record = Mapping[str, Any]


def write(record: Record, pages: Path, template: Path) -> None:
    """Write the page (its text from ``template``) and the picture into a folder."""
    images = pages / "images"
    images.mkdir(parents=True, exist_ok=True)
    figure = picture(record)
    if figure is not None:
        save(figure, images / PICTURE)
    before, rest = template.read_text(encoding="utf-8").split(BEGIN)
    body = "\n\n".join([BEGIN, *parts(record, figure is not None), END])
    (pages / template.name).write_text(before + body + rest.split(END)[1], encoding="utf-8")


def parts(record: Record, drawn: bool) -> list[str]:
    """Paragraphs and tables."""
    where = record["machine"]
    head = f"{where['processor']}, {where['cores']} cores, {where['system']}. " + ", ".join(
        f"{name} {number}" for name, number in record["versions"].items()
    )
    if record.get("quick"):
        head = "**A smoke test at small sizes: these numbers mean nothing.** " + head
    result = [head + ".", "### Target", target(record)]
    if drawn:
        result.append(f"![Effective samples a second, and agreement of means](images/{PICTURE})")
    for name in CASES:
        if name in record:
            result += of_case(record[name])
    return [part for part in result if part]


def target(record: Record) -> str:
    """What is wanted, and what was found, case by case."""
    lines = []
    for name in CASES:
        rows = record.get(name, {}).get("rows", [])
        mine = next((row for row in rows if row.get("method") == "reinfuse"), None)
        theirs = best_of([row for row in rows if row.get("peer") == "numpyro"])
        if mine is None:
            continue
        lines.append([record[name]["title"], f"at least {WANTED:g}×", *_found(mine, theirs)])
    return table(["case", "wanted", "found", "met", "numpyro's best", "its R-hat"], lines)


def _found(mine: Record, theirs: Record | None) -> list[str]:
    if theirs is None:
        return ["not measured", "", "", ""]
    rhat = f"{theirs['rhat_all']:.3f}" if "rhat_all" in theirs else "none: still warming up"
    label = theirs["method"].removeprefix("numpyro NUTS, ")
    if "ess_per_s_population" not in theirs:
        return ["no draws to compare with", "", label, rhat]
    times = mine["ess_per_s_population"] / theirs["ess_per_s_population"]
    agree = theirs.get("agreement", {}).get("agree")
    if not (theirs["converged"] and mine["converged"]):
        return [f"({number(times)}×)", "not comparable: " + _unfit(mine, theirs), label, rhat]
    verdict = "yes" if times >= WANTED and agree else "**no**"
    return [f"{number(times)}×", verdict if agree else f"{verdict}, means or sds disagree", label, rhat]


def _unfit(mine: Record, theirs: Record) -> str:
    who = [name for name, row in (("reinfuse", mine), ("numpyro", theirs)) if not row["converged"]]
    return f"{' and '.join(who)} did not converge"


def best_of(rows: list[Record]) -> Record | None:
    """The best of a program's runs, see `sampling.rank`."""
    from sampling import rank

    return max((row for row in rows if "failed" not in row), key=rank, default=None)


def of_case(case: Record) -> list[str]:
    """Paragraphs and tables of one case."""
    same, tuning = case["densities"], case.get("tuning")
    lines = [
        [row["parametrisation"], f"{row['value_differs_by']:.0e}", f"{row['gradient_differs_by']:.0e}"]
        for row in same["rows"]
    ]
    result = [
        f"### {case['title'][0].upper()}{case['title'][1:]}",
        f"{case['patients']} patients with {case['records']} records, {same['coordinates']} coordinates; "
        f"random effects {', '.join(case['random_effects'])}; {case['date']}.",
        f"Log densities and gradients of numpyro against ours at {same['points']} random points, both solved at "
        f"{same['tolerance']:g}; largest difference relative to 1 + the value (allowed: {same['allowed']:g}):",
        table(["numpyro", "log density", "gradient"], lines),
    ]
    if tuning:
        result += gradients(tuning)
    if case.get("rows"):
        result += [draws(case["rows"]), agreements(case["rows"])]
    return result


def gradients(tuning: Record) -> list[str]:
    """Cost of a value and gradient of the posterior at equal accuracy."""
    mine = tuning["ours"]
    theirs = next(row for row in tuning["by_tolerance"] if row["tolerance"] == tuning["tolerance"])
    good = theirs["gradient"] <= mine["gradient"]
    choice = "the loosest at which its slopes are as good" if good else "the tightest tried, though not as good"
    rows = [[row["way"], spread_of(row["us"]), number(row["times_ours"])] for row in tuning["ways"]]
    return [
        f"At the tolerance of fits our log density is wrong by {mine['value']:.0e} and its slopes by "
        f"{mine['gradient']:.0e} (root mean square; slopes relative to 1 + the slope). diffrax gets a tolerance of "
        f"{tuning['tolerance']:g}, {choice}: {theirs['value']:.0e} and "
        f"{theirs['gradient']:.0e}. A value and gradient of the whole posterior, one thread, median (quartiles):",
        table(["how", "µs", "× reinfuse"], rows),
    ]


def draws(rows: list[Record]) -> str:
    """What draws cost, and what they are worth."""
    head = (
        "method", "R-hat", "ESS, population", "ESS, all", "wall, s", "ESS/s, population", "ESS/s, all", "compile, s",
        "draws", "diverged",
    )  # fmt: skip
    return table(head, [_draws(row) for row in rows])


def _draws(row: Record) -> list[str]:
    if "failed" in row:
        return ["failed", row["failed"], *[""] * 8]
    wall = f"{row['seconds']:.0f}" + ("" if row["finished"] else " (budget)")
    if "ess_population" not in row:
        what = f"none: {row['warmup_done']} of {row['settings']['warmup']} warm-up draws"
        return [row["method"], what, "–", "–", wall, "–", "–", number(row["compile_s"]), "0", "–"]
    mark = "" if row["converged"] else ", not converged"
    rates = [number(row[f"ess_per_s_{name}"]) for name in ("population", "all")]
    return [
        row["method"],
        f"{row['rhat_all']:.3f}{mark}",
        number(row["ess_population"]),
        number(row["ess_all"]),
        wall,
        *(rates if row["converged"] else (f"({rate})" for rate in rates)),
        number(row["compile_s"]),
        f"{row['chains']} × {row['draws']}",
        "–" if row.get("diverging") is None else str(row["diverging"]),
    ]


def agreements(rows: list[Record]) -> str:
    """Means and sds against those of reinfuse."""
    head = ("against reinfuse", "means, largest z", "in sds", "sds, largest z", "in %", "median %", "agree")
    lines = []
    for row in rows:
        if "agreement" in row:
            found = row["agreement"]
            verdict = ("yes" if found["agree"] else "**no**") if row["converged"] else "not converged"
            lines.append(
                [
                    row["method"],
                    f"{found['mean_z']['largest']:.1f} ({found['mean_z']['at']})",
                    f"{found['mean_sds']['largest']:.2f}",
                    f"{found['sd_z']['largest']:.1f} ({found['sd_z']['at']})",
                    f"{found['sd_percent']['largest']:.0f}",
                    f"{found['sd_percent']['median']:.1f}",
                    verdict,
                ]
            )
    return table(head, lines) if lines else ""


# --------------------------------------------------------------------------------------------- picture


def picture(record: Record) -> Figure | None:
    """Effective samples a second by case, and differences of means for the case that numpyro does best."""
    there = [name for name in CASES if any("ess_population" in row for row in record.get(name, {}).get("rows", []))]
    if not there:
        return None
    figure = Figure(figsize=(11, 1.6 + 1.5 * len(there)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    rates(left, [(record[name]["title"], record[name]["rows"]) for name in there])
    compared = [
        (record[name]["title"], row)
        for name in there
        if (row := best_of([r for r in record[name]["rows"] if r.get("peer") == "numpyro"])) and "agreement" in row
    ]
    differences(right, compared)
    return figure


def rates(axes: Axes, groups: list[tuple[str, list[Record]]]) -> None:
    """Bars of effective samples a second; hatched where the run did not converge."""
    place, ticks, labels = 0.0, [], []
    for title, rows in groups:
        axes.text(0.015, place - 0.8, title, transform=axes.get_yaxis_transform(), weight="bold", va="center")
        for row in rows:
            if "ess_population" in row:
                hatch = None if row["converged"] else "////"
                colour = COLOUR[row["peer"]]
                axes.barh(place, row["ess_per_s_population"], 0.7, color=colour if hatch is None else "white",
                          edgecolor=colour, hatch=hatch)  # fmt: skip
                text = number(row["ess_per_s_population"]) + ("" if hatch is None else f", R-hat {row['rhat_all']:.2f}")
                axes.annotate(
                    text, (row["ess_per_s_population"], place), (3, 0), textcoords="offset points", va="center"
                )
                ticks.append(place)
                labels.append(row["method"].removesuffix(", on our density and in our coordinates"))
                place += 1.0
        place += 1.4
    axes.set(xscale="log", xlabel="effective samples a second, population")
    shown = [row["ess_per_s_population"] for _, rows in groups for row in rows if "ess_population" in row]
    axes.set_xlim(10.0 ** np.floor(np.log10(min(shown)) - 0.3), 10.0 ** np.ceil(np.log10(max(shown)) + 0.6))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(ticks, labels=labels)
    axes.set_ylim(place - 1.6, -1.5)
    axes.grid(axis="x", which="major", alpha=0.3)
    axes.set_axisbelow(True)


def differences(axes: Axes, compared: list[tuple[str, Record]]) -> None:
    """Differences of means in Monte Carlo standard errors, sorted, beside what chance would give."""
    for k, (title, row) in enumerate(compared):
        z = np.sort(np.asarray(row["agreement"]["z_of_means"]))
        chance = _normal_quantiles(z.size)
        state = "" if row["converged"] else ", not converged"
        axes.plot(chance, z, "o", ms=3.5, color=f"C{k}", label=f"{title}{state}")
    span = axes.get_xlim() if compared else (-2.0, 2.0)
    axes.plot(span, span, color="0.5", lw=1.0, zorder=0)
    axes.set(xlabel="expected by chance", ylabel="numpyro's mean - ours, z")
    axes.grid(alpha=0.3)
    if compared:
        axes.legend(fontsize=7, frameon=False, loc="lower right")


def _normal_quantiles(n: int) -> np.ndarray:
    from scipy.stats import norm

    return np.asarray(norm.ppf((np.arange(n) + 0.5) / n))

"""From results to what the documentation shows: tables between the markers of docs/performance.md, and two pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pictures
from equal_error import at_error, by_method, ratio

BEGIN, END = "<!-- results: written by benchmarks/bench.py -->", "<!-- end of results -->"
OURS, ADJOINT = "reinfuse", "reinfuse, adjoint"
ERRORS = (1e-3, 1e-5, 1e-8)
GRADIENT_ERRORS = (1e-3, 1e-5)

type Record = Mapping[str, Any]


def write(record: Record, pages: Path, template: Path) -> None:
    """Write the page (its text from ``template``) and the pictures into a folder."""
    images = pages / "images"
    images.mkdir(parents=True, exist_ok=True)
    drawn = pictures.draw(record, images)
    text = template.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    body = "\n\n".join([BEGIN, *parts(record, drawn), END])
    (pages / "performance.md").write_text(before + body + after, encoding="utf-8")


def parts(record: Record, drawn: Sequence[tuple[str, str]]) -> list[str]:
    """Paragraphs and tables."""
    where = record["machine"]
    head = f"{where['processor']}, {where['cores']} cores, {where['system']}. " + ", ".join(
        f"{name} {number}" for name, number in record["versions"].items()
    )
    if record.get("quick"):
        head = "**A smoke test at small sizes: these numbers mean nothing.** " + head
    result = [head + ".", "### Targets", targets(record)]
    if _there(record, "simulation"):
        result += ["### Trajectories", simulation_text(record["simulation"])]
        for threads in sorted({row["threads"] for row in record["simulation"]["rows"]}):
            result.append(f"On {threads} thread{'s' if threads > 1 else ''}:")
            result.append(simulation_table(record["simulation"], threads))
    result += [f"![{title}](images/{name})" for name, title in drawn if name.startswith("work")]
    if _there(record, "gradients"):
        result += ["### Gradients", gradient_text(record["gradients"]), gradient_table(record["gradients"])]
    result += ["### Growth", *(f"![{title}](images/{name})" for name, title in drawn if name.startswith("scaling"))]
    result += ["### Not compared", not_compared(record)]
    return [part for part in result if part]


def _there(record: Record, name: str) -> bool:
    return name in record and ("failed" not in record[name] or "rows" in record[name])


# ---------------------------------------------------------------------------------------------- tables


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def number(value: float | None) -> str:
    """Two significant digits, or a dash."""
    if value is None:
        return "–"
    return f"{value:.2g}" if value < 99.5 else f"{value:,.0f}"


def spread_of(us: Mapping[str, float]) -> str:
    """Median and quartiles."""
    return f"{number(us['median'])} ({number(us['q1'])} to {number(us['q3'])})"


def spread(rows: Sequence[Record], error: float) -> str:
    """Median and quartiles at an error."""
    middle, low, high = (at_error(rows, error, which) for which in ("median", "q1", "q3"))
    if middle is None or low is None or high is None:
        return "not reached"
    return spread_of({"median": middle, "q1": low, "q3": high})


def _comparison(methods: Mapping[str, Sequence[Record]], ours: str, errors: Sequence[float]) -> list[list[str]]:
    lines = []
    for name, rows in methods.items():
        cells = [name]
        for error in errors:
            mine, theirs = at_error(methods.get(ours, ()), error), at_error(rows, error)
            times = "" if None in (mine, theirs) or name == ours else number(theirs / mine)  # type: ignore[operator]
            cells += [spread(rows, error), times]
        lines.append([*cells, number(max(row["first_call_s"] for row in rows)), rows[0]["note"]])
    return lines


def _heads(errors: Sequence[float]) -> list[str]:
    return ["method", *(h for e in errors for h in (f"µs at an error of {e:g}", "× reinfuse")), "first call, s", "how"]


def simulation_text(section: Record) -> str:
    """What was solved."""
    checked = section["reference"]
    beside = checked.get("scipy_radau_differs_by")
    public = section["public"]
    whole = (
        f" `simulate_population` itself, with its checks and all read-outs, takes {spread_of(public['us'])} µs on "
        f"{public['threads']} threads at a tolerance of {public['tolerance']:g}."
        if public["us"]
        else ""
    )
    return (
        f"The unified model with {section['states']} states and {section['parameters']} parameters, one infusion of "
        f"ide-cel, {section['observations']} observations in two years. Microseconds for each patient, median "
        f"(quartiles), interpolated to the same largest error over {section['panel']} patients, all times and all "
        f"states: of logarithms as such, of other states relative to 1 + their value. Truth: {checked['by']}"
        + (f", from which SciPy's Radau at 1e-11 differs by {beside:.0e}." if beside else ".")
        + whole
    )


def simulation_table(section: Record, threads: int) -> str:
    """Trajectories at equal error."""
    methods = by_method(section["rows"], threads)
    return table(_heads(ERRORS), _comparison(methods, OURS, ERRORS))


def gradient_text(section: Record) -> str:
    """What was differentiated."""
    checked = section["reference"]
    others = ", ".join(f"{name} by {value:.0e}" for name, value in checked["others_differ_by"].items())
    anecdote = section["pymc_ode"]
    slow = (
        f" For comparison, PyMC's `pm.ode` on the two Lotka-Volterra equations takes {anecdote['ms']['median']:.2g} ms "
        f"for a gradient."
        if "ms" in anecdote
        else ""
    )
    return (
        f"The log-likelihood of {section['observations']} records of a patient and its derivatives by "
        f"{section['parameters']} parameters, {section['states']} states, one thread. Microseconds for each patient, "
        f"median (quartiles), interpolated to the same largest error over {section['panel']} patients and all "
        f"parameters, relative to 1 + the derivative by the logarithm of the parameter. Truth: {checked['by']}"
        f"{', from which others differ at the same tolerance: ' + others if others else ''}.{slow}"
    )


def gradient_table(section: Record) -> str:
    """Gradients at equal error."""
    return table(_heads(GRADIENT_ERRORS), _comparison(by_method(section["rows"]), ADJOINT, GRADIENT_ERRORS))


def not_compared(record: Record) -> str:
    """Who is missing, and why."""
    reasons = dict(record["missing"])
    for name in ("simulation", "gradients"):
        reasons |= (
            record.get(name, {}).get("failed", {}) if isinstance(record.get(name, {}).get("failed"), dict) else {}
        )
    for name, section in record.items():
        if isinstance(section, dict) and isinstance(section.get("failed"), str):
            reasons[name] = section["failed"]
    lines = [f"- {name}: {' '.join(str(reason).split())}" for name, reason in reasons.items()]
    return "\n".join(lines) or "Nothing was left out."


# --------------------------------------------------------------------------------------------- targets


def targets(record: Record) -> str:
    """What is wanted, and what was found."""
    simulation = record.get("simulation", {}).get("rows", [])
    gradients = record.get("gradients", {}).get("rows", [])
    most = max((row["threads"] for row in simulation), default=1)
    at_least: list[tuple[str, float, float | None, str]] = [
        (
            f"trajectories, × heyoka, error 1e-5, {most} threads",
            2.5,
            ratio(simulation, OURS, "heyoka", 1e-5, most),
            "×",
        ),
        (
            f"trajectories, × heyoka, error 1e-8, {most} threads",
            1.5,
            ratio(simulation, OURS, "heyoka", 1e-8, most),
            "×",
        ),
        ("trajectories, × heyoka, error 1e-5, 1 thread", 2.5, ratio(simulation, OURS, "heyoka", 1e-5, 1), "×"),
        ("trajectories, × heyoka, error 1e-8, 1 thread", 1.5, ratio(simulation, OURS, "heyoka", 1e-8, 1), "×"),
    ]
    for error in GRADIENT_ERRORS:
        heyoka, diffrax = (ratio(gradients, ADJOINT, peer, error) for peer in ("heyoka", "diffrax"))
        at_least.append((f"gradient, × heyoka, error {error:g}", 10.0, heyoka, "×"))
        at_least.append((f"gradient, × diffrax, error {error:g}", 20.0, diffrax, "×"))
    compiled, crowd = record.get("compiling", {}), record.get("million", {})
    at_most: list[tuple[str, float, float | None, str]] = [
        ("first compile of a new model, simulation", 20.0, _median(compiled, "new_model_simulation_s"), " s"),
        ("first compile of a new model, gradient", 20.0, _median(compiled, "new_model_gradient_s"), " s"),
        ("the same on a new machine, simulation", 20.0, _median(compiled, "first_model_simulation_s"), " s"),
        ("the same on a new machine, gradient", 20.0, _median(compiled, "first_model_gradient_s"), " s"),
        (f"{crowd.get('patients', 1_000_000):,} patients, two infusions", 10.0, _median(crowd, "seconds"), " s"),
        ("their memory", 2.0, crowd.get("peak_gib"), " GiB"),
        ("overhead of the Op", 5.0, _median(record.get("overhead", {}), "overhead_percent"), " %"),
    ]
    rows = [_target(row, "at least", lambda found, wanted: found >= wanted) for row in at_least]
    rows += [_target(row, "at most", lambda found, wanted: found <= wanted) for row in at_most]
    return table(["what", "wanted", "found", "met"], rows)


def _median(section: Record, name: str) -> float | None:
    return section[name]["median"] if isinstance(section.get(name), dict) else None


def _target(row: tuple[str, float, float | None, str], bound: str, met: Callable[[float, float], bool]) -> list[str]:
    what, wanted, found, unit = row
    verdict = "" if found is None else ("yes" if met(found, wanted) else "**no**")
    shown = "not measured" if found is None else f"{number(found)}{unit}"
    return [what, f"{bound} {wanted:g}{unit}", shown, verdict]

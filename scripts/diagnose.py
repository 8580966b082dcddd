"""`reinfuse diagnose`: is a run to be trusted, what did it learn, and what does it predict."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from reinfuse.scripts._shell import NotTrusted, progress, run_alone

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from reinfuse.fits.diagnosis.findings import Findings
    from reinfuse.fits.run import RunFolder


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `reinfuse fit`.")],
    figures: Annotated[bool, typer.Option(help="Draw the figures into RUN/figures.")] = True,
    svg: Annotated[bool, typer.Option("--svg", help="Write every figure as SVG too.")] = False,
) -> None:
    """Judge a run: convergence, identifiability, predictive checks, yardsticks.

    Writes `diagnostics.json`, `summary.csv` and `figures/` into the run. Exit code 3 if it did not converge.

    Examples: `reinfuse diagnose run`, `reinfuse diagnose run --svg`
    """
    from rich.console import Console

    from reinfuse.fits.run import RunFolder

    judge(RunFolder.open(run), Console(), figures=figures, svg=svg, report=False)


def judge(
    folder: "RunFolder", console: "Console", *, figures: bool = True, svg: bool = False, report: bool = True
) -> None:
    """Examine a run, write what was found, print it; raise `NotTrusted` if it did not converge."""
    from reinfuse.fits.diagnosis.findings import examine, record
    from reinfuse.fits.figures.plates import count_plates
    from reinfuse.fits.report.build import build_report

    with progress("Examining", 1) as tick:
        found = examine(folder)
        record(folder, found)
        tick()
    show(found, console)
    if figures:
        draw(found, folder.figures, svg=svg)
    if report:
        with progress("Report", count_plates(found)) as tick:
            build_report(folder, found, tick=tick)
        console.print(f"Report: {folder.path / 'report.html'}")
    if not found.diagnostics.converged:
        advice = " ".join(found.diagnostics.advice)
        raise NotTrusted(f"{why_not(found)} {advice}".strip())


def draw(found: "Findings", folder: Path, *, svg: bool) -> None:
    """Draw all figures of a run into a folder, with a progress line."""
    from reinfuse.fits.figures import style
    from reinfuse.fits.figures.plates import count_plates, draw_all

    with progress("Figures", count_plates(found)) as tick:
        for plate in draw_all(found):
            style.save(plate.figure, folder, plate.name, svg=svg)
            tick()


def why_not(found: "Findings") -> str:
    """Say in one sentence which diagnostics failed."""
    from reinfuse.fits.diagnosis.convergence import MAX_DIVERGENCE_SHARE, MAX_RHAT, MIN_ESS

    numbers = found.diagnostics
    reasons = []
    if not numbers.max_rhat < MAX_RHAT:
        reasons.append(f"R-hat up to {numbers.max_rhat:.3f} ({MAX_RHAT} is the limit)")
    for words, value in (("bulk", numbers.min_ess_bulk), ("tail", numbers.min_ess_tail)):
        if not value > MIN_ESS:
            reasons.append(f"{words} effective sample size down to {value:.0f} ({MIN_ESS:.0f} is the limit)")
    if numbers.divergence_share is not None and not numbers.divergence_share < MAX_DIVERGENCE_SHARE:
        limit = f"{100 * MAX_DIVERGENCE_SHARE:.1f} % is the limit"
        reasons.append(f"{100 * numbers.divergence_share:.2f} % divergent draws ({limit})")
    return f"{'; '.join(reasons)}." if reasons else ""


def show(found: "Findings", console: "Console") -> None:
    """Print the findings, readable at 80 columns.

    Parameters
    ----------
    found
        From `reinfuse.fits.diagnosis.findings.examine`.
    console
        Where to print.
    """
    _convergence(found, console)
    _identifiability(found, console)
    _sensitivity(found, console)
    _checks(found, console)
    _new_patients(found, console)
    _yardsticks(found, console)
    _variants(found, console)


def _convergence(found: "Findings", console: "Console") -> None:
    numbers = found.diagnostics
    word = "[bold green]converged[/]" if numbers.converged else "[bold red]not converged[/]"
    console.print(f"The fit is {word}.")
    share = "not recorded" if numbers.divergence_share is None else f"{100 * numbers.divergence_share:.2f} %"
    lines = [
        ("largest R-hat", f"{numbers.max_rhat:.4f}", "below 1.01"),
        ("smallest ESS, bulk", f"{numbers.min_ess_bulk:.0f}", "above 400"),
        ("smallest ESS, tail", f"{numbers.min_ess_tail:.0f}", "above 400"),
        ("divergent trajectories", f"{_or_dash(numbers.divergences)} ({share})", "below 0.1 %"),
        ("solver failures", _or_dash(numbers.solver_failures), ""),
        ("numbers checked", str(numbers.n_scalars), ""),
        ("draws", f"{numbers.n_chains} chains of {numbers.n_draws}", ""),
        ("sampler", numbers.sampler, ""),
    ]
    _print_table(console, "Convergence", ("", "found", "wanted"), lines)
    slowest: list[Sequence[str]] = [
        (str(row["parameter"]), f"{row['rhat']:.4f}", f"{row['ess_bulk']:.0f}", f"{row['ess_tail']:.0f}")
        for row in numbers.worst[:6]
    ]
    _print_table(console, "Slowest numbers", ("number", "R-hat", "ESS bulk", "ESS tail"), slowest)
    for sentence in numbers.advice:
        console.print(f"[yellow]•[/] {escape(sentence)}", highlight=False)


def _identifiability(found: "Findings", console: "Console") -> None:
    from reinfuse.fits.diagnosis.identifiability import WORDS

    lines: list[Sequence[str]] = [
        (word, ", ".join(found.with_verdict(word))) for word in WORDS if word != "fixed" and found.with_verdict(word)
    ]
    _print_table(console, "What the data said", ("", "parameters"), lines, words=2)
    shrunk: list[Sequence[str]] = [
        (str(row["effect"]), f"{row['omega']:.3g}", f"{100 * row['shrinkage']:.0f} %")
        for row in found.shrinkage.to_dict("records")
    ]
    _print_table(console, "Shrinkage of individual values", ("effect", "omega", "shrinkage"), shrunk)
    for row in found.aliases.to_dict("records"):
        pair = f"{row['first']} and {row['second']}"
        console.print(f"[yellow]•[/] {escape(pair)} are aliased ({row['correlation']:+.2f})", highlight=False)


def _sensitivity(found: "Findings", console: "Console") -> None:
    from reinfuse.fits.diagnosis import powerscaling

    leaning = found.sensitivity
    least = max(powerscaling.SENSITIVE, leaning.noise)
    odd = [row for row in _records(leaning.table) if row["prior"] >= least]
    lines: list[Sequence[str]] = [
        (row["parameter"], row["verdict"], _number(row["prior"]), _number(row["own_prior"]), _number(row["likelihood"]))
        for row in sorted(odd, key=lambda row: -row["prior"])
    ]
    header = ("parameter", "verdict", "all priors", "its kind's", "data")
    _print_table(console, "Sensitivity to priors and data (from 0.05 on it counts)", header, lines, words=2)
    for sentence in powerscaling.sentences(leaning):
        console.print(f"[dim]• {escape(sentence)}[/]", highlight=False)
    lines = [(row["about"], row["rests_on"]) for row in _records(found.conclusions)]
    _print_table(console, "What a simulated second infusion rests on", ("", "rests on"), lines, words=2)


def _checks(found: "Findings", console: "Console") -> None:
    shares = ("inside_50", "inside_80", "inside_95")
    lines: list[Sequence[str]] = [
        (row["dvid"], str(row["n"]), str(row["n_censored"]), *(f"{100 * row[name]:.0f} %" for name in shares))
        for row in found.coverage.to_dict("records")
    ]
    header = ("assay", "n", "censored", "in 50 %", "in 80 %", "in 95 %")
    _print_table(console, "Measurements inside their predictive intervals", header, lines)
    if len(found.medians):
        odd = int((found.medians["p_value"] < 0.05).sum())
        console.print(
            f"{odd} of {len(found.medians)} visit windows have a median with a predictive p-value below 0.05.",
            highlight=False,
        )


def _new_patients(found: "Findings", console: "Console") -> None:
    from reinfuse.fits.report import words

    new = found.new_patients
    lines: list[Sequence[str]] = [
        (
            row["dvid"],
            f"{row['n']}",
            f"{row['mean']:.2f} ({_number(row['mean_p'])})",
            f"{row['variance']:.2f} ({_number(row['variance_p'])})",
            _number(row["normality_p"]),
            _number(row["global_p"]),
        )
        for row in _records(new.npde_tests)
    ]
    header: tuple[str, ...] = ("assay", "n", "mean (p)", "variance (p)", "normal p", "all p")
    _print_table(console, "Prediction errors (npde), new patients", header, lines)
    lines = [
        (row["dvid"], row["stratum"], row["statistic"], words.number(row["observed"]), _spread(row, "predicted"))
        for row in _records(new.sampled)
    ]
    header = ("assay", "product", "as sampled", "observed", "simulated (95 %)")
    _print_table(console, "Peaks and nadirs, new patients", header, lines, words=3)
    lines = [
        (
            f"{row['study']}, n {row['n']}",
            f"{row['statistic']} ({row['unit']}){'' if row['comparable'] else ' *'}",
            words.number(row["published"]),
            _spread(row, "simulated"),
            _number(row["p_value"]),
        )
        for row in _records(new.published)
    ]
    header = ("study", "statistic", "published", "simulated (95 %)", "p")
    _print_table(console, "Published figures among simulated studies", header, lines, words=2)
    if lines:
        console.print("[dim]* on the scale of another laboratory: not comparable as it stands[/]", highlight=False)
    lines = [
        (
            row["product"],
            " ".join(word for word in (row["quantity"], row["limit"], row["unit"]) if word),
            row["tag"],
            f"{100 * row['outside']:.1f} %",
        )
        for row in _records(new.prior)
    ]
    _print_table(console, "Patients drawn from the prior", ("product", "limit", "tag", "beyond"), lines, words=3)
    for sentence in (*words.percentiles(found), *new.missing):
        console.print(f"• {escape(sentence)}", highlight=False)


def _yardsticks(found: "Findings", console: "Console") -> None:
    sticks = found.yardsticks
    lines: list[Sequence[str]] = [
        (
            f"{row['cutoff']:.0f}",
            row["model"],
            row["dvid"],
            f"{row['n']:.0f}",
            _pair(row["elpd"], row["elpd_se"]),
            _number(row["crps"]),
            _number(row["error_in_ln"]),
        )
        for row in _records(sticks.forecast)
    ]
    header: Sequence[str] = ("seen to day", "forecast by", "assay", "rows", "elpd (s.e.)", "CRPS", "error in ln")
    _print_table(console, "Yardstick: forecast of about day 100 from the first weeks", header, lines, words=3)
    lines = [
        (
            f"{row['cutoff']:.0f}",
            row["rival"],
            row["dvid"],
            f"{row['n']}",
            _pair(row["difference"], row["difference_se"]),
        )
        for row in _records(sticks.differences)
    ]
    header = ("seen to day", "rival", "assay", "rows", "difference (s.e.)")
    _print_table(console, "elpd, model less rival on the same rows", header, lines, words=3)
    lines = [
        (
            f"{row['cutoff']:.0f}",
            row["model"],
            f"{row['progressed']} of {row['n']}",
            f"{_number(row['concordance'])} ({_number(row['lower'])} to {_number(row['upper'])})",
            f"{row['brier']:.3f} ({row['brier_se']:.3f})",
        )
        for row in _records(sticks.landmark)
    ]
    header = ("seen to day", "forecast by", "progressed", "concordance", "Brier (s.e.)")
    _print_table(console, "Yardstick: progression by day 180 of those at risk", header, lines, words=2)
    lines = [
        (
            row["product"],
            f"{row['day']:.0f}",
            f"{row['at_risk']}",
            _number(row["observed"]),
            f"{_number(row['predicted'])} ({_number(row['predicted_lower'])} to {_number(row['predicted_upper'])})",
        )
        for row in _records(sticks.survival)
    ]
    header = ("product", "day", "at risk", "Kaplan-Meier", "predicted (95 %)")
    _print_table(console, "Yardstick: free of progression", header, lines)
    for row in _records(sticks.discrimination):
        interval = f"{_number(row['lower'])} to {_number(row['upper'])}"
        console.print(
            f"• {row['measure']}: [bold]{_number(row['value'])}[/] ({interval}; {row['basis']}; {row['note']})",
            highlight=False,
        )
    for sentence in sticks.missing:
        console.print(f"[dim]• {escape(sentence)}[/]", highlight=False)


def _variants(found: "Findings", console: "Console") -> None:
    from reinfuse.fits.report import words

    columns, rows, tie = words.comparison(found.provenance)
    if rows:
        _print_table(console, "Variants, each patient left out", [name.replace("_", " ") for name in columns], rows)
        console.print(f"• {tie}", highlight=False)
    for sentence in found.hypotheses:
        console.print(f"• Hypothesis, {escape(sentence)}", highlight=False)


def _print_table(
    console: "Console", title: str, header: Sequence[str], lines: Sequence[Sequence[str]], *, words: int = 1
) -> None:
    """Print a table whose first `words` columns are words and the rest numbers; nothing without lines."""
    from rich import box
    from rich.table import Table

    if not lines:
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), pad_edge=False, collapse_padding=True)
    for place, name in enumerate(header):
        table.add_column(name, justify="left" if place < words else "right")
    for line in lines:
        table.add_row(*(escape(cell) for cell in line))
    console.print(f"\n[bold]{title}[/]", highlight=False)
    console.print(table)


def _records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _or_dash(value: int | None) -> str:
    return "not recorded" if value is None else str(value)


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.2f}"


def _spread(row: dict[str, Any], name: str) -> str:
    from reinfuse.fits.report.words import number

    return f"{number(row[name])} ({number(row['lower'])} to {number(row['upper'])})"


def _pair(value: float | None, error: float | None) -> str:
    if value is None or error is None or value != value:
        return "–"
    return f"{value:.1f} ({_number(error)})"


if __name__ == "__main__":
    run_alone(command)

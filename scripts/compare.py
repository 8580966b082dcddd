"""`reinfuse compare`: which of several runs predicts patients better."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from reinfuse.model.notice import NOTICE
from reinfuse.scripts._shell import progress, run_alone

if TYPE_CHECKING:
    from rich.console import Console

    from reinfuse.fits.ranking import Entry, Ranking

PATIENTS_FILE, FIGURE = "patients.csv", "elpd_differences"
KEPT = "left_out"


def command(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN…", help="Run folders of `reinfuse fit`; one alone brings its variants."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the table and the figure.")],
    refit: Annotated[
        bool, typer.Option(help="Fit again without patients whom weights cannot leave out; about a minute each.")
    ] = True,
    most_refits: Annotated[int, typer.Option(help="Such fits at most, for each run.", min=0)] = 10,
    seed: Annotated[int, typer.Option(help="Seed of what is drawn here.")] = 1,
    cores: Annotated[int, typer.Option(help="Integrals and chains at a time.", min=1)] = 2,
) -> None:
    """Leave every patient out of every run, and compare what the others predict.

    Writes compare.csv, patients.csv, compare.json and elpd_differences.png into DIR. What was refitted is kept there,
    so that the same command goes on where it was interrupted.

    Examples: `reinfuse compare run run/variants/full --out compared`, `reinfuse compare run --out compared --no-refit`
    """
    import json
    import sys

    from rich.console import Console

    console = Console()
    console.print(NOTICE, style="dim")
    with progress("Starting", 1) as tick:
        from reinfuse.fits.ranking import TABLE_FILE, WORDS_FILE, enter, gather, names_of, rank

        tick(1)
    from reinfuse.fits.run import versions
    from reinfuse.model.errors import ReinfuseError

    if out.exists() and not out.is_dir():
        raise ReinfuseError(f"{out} is a file; --out needs a folder. Name a folder.")
    folders = gather(runs)
    entries = []
    for folder, name in zip(folders, names_of(folders), strict=True):
        with progress(f"Leaving patients out of {name}", 1) as tick:
            entries.append(
                enter(
                    folder,
                    name,
                    seed=seed,
                    effort="refit" if refit else "matching",
                    kept=out / KEPT,
                    cores=cores,
                    most_refits=most_refits,
                    say=lambda text: console.print(escape(text), highlight=False),
                )
            )
            tick(1)
    ranking = rank(entries)
    show(ranking, console)
    out.mkdir(parents=True, exist_ok=True)
    ranking.table.to_csv(out / TABLE_FILE, index=False, lineterminator="\n", float_format="%.6g")
    ranking.patients.to_csv(out / PATIENTS_FILE, index=False, lineterminator="\n", float_format="%.6g")
    content = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": versions(),
        "seed": seed,
        "cohort_sha256": str(folders[0].provenance["cohort_sha256"]),
        "runs": {entry.name: str(folder.path) for entry, folder in zip(entries, folders, strict=True)},
        "words": ranking.words,
        "drivers": {name: dict(found) for name, found in ranking.drivers.items()},
    }
    (out / WORDS_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _draw(entries, ranking, out)
    console.print(f"Written: {out / TABLE_FILE}, {PATIENTS_FILE}, {WORDS_FILE}, {FIGURE}.png", highlight=False)


def show(ranking: "Ranking", console: "Console") -> None:
    """Print a ranking: the table in two parts, readable at 80 columns, and the words."""
    from rich import box
    from rich.table import Table

    parts: tuple[tuple[str, dict[str, tuple[str, str]]], ...] = (
        (
            "Each patient predicted from all others",
            {
                "elpd": ("elpd", ".1f"),
                "difference": ("difference", ".1f"),
                "se_difference": ("s.e.", ".1f"),
                "mcse_difference": ("MC error", ".2f"),
                "weight_stacking": ("stacking", ".2f"),
                "weight_pseudo_bma": ("pseudo-BMA+", ".2f"),
            },
        ),
        (
            "How they were left out, and whether the chains agree",
            {
                "variant": ("variant", "s"),
                "p_loo": ("p_loo", ".1f"),
                "patients_doubtful": ("doubtful", "d"),
                "moment_matched": ("matched", "d"),
                "refitted": ("refitted", "d"),
                "max_rhat": ("R-hat", ".3f"),
                "min_ess": ("ESS", ".0f"),
            },
        ),
    )
    for title, columns in parts:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), pad_edge=False, collapse_padding=True)
        table.add_column("run")
        for head, _ in columns.values():
            table.add_column(head, justify="left" if head == "variant" else "right")
        row: dict[Any, Any]
        for row in ranking.table.to_dict("records"):
            cells = [escape(format(row[name], how)) for name, (_, how) in columns.items()]
            table.add_row(escape(str(row["run"])), *cells)
        console.print(f"\n[bold]{title}[/]", highlight=False)
        console.print(table)
    console.print()
    for sentence in ranking.words:
        console.print(f"• {escape(sentence)}", highlight=False)


def _draw(entries: "list[Entry]", ranking: "Ranking", out: Path) -> None:
    import numpy as np

    from reinfuse.fits.figures import style
    from reinfuse.fits.figures.comparison import differences_by_patient

    by_name = {entry.name: entry for entry in entries}
    first, *others = (by_name[str(name)] for name in ranking.table["run"])
    figure = differences_by_patient(
        patients=first.patients,
        differences={entry.name: entry.left.elpd - first.left.elpd for entry in others},
        errors={entry.name: np.hypot(entry.left.mcse, first.left.mcse) for entry in others},
        doubtful={entry.name: entry.doubtful | first.doubtful for entry in others},
        best=first.name,
    )
    style.save(figure, out, FIGURE)


if __name__ == "__main__":
    run_alone(command)

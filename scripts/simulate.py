"""`reinfuse simulate`: one virtual patient, one or two infusions, as a table and a figure."""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.notice import NOTICE
from reinfuse.scripts._shell import run_alone

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from matplotlib.figure import Figure

    from reinfuse.model.course import Infusion

    type Floats = np.typing.NDArray[np.float64]

#: Columns of the table, in order; those of a second infusion that is not given stay empty.
COLUMNS = (
    "time",
    *("E1", "M1", "X1", "E2", "M2", "X2"),
    *("Ts", "Tr", "Q", "A", "P", "S"),
    *("transgene", "cart", "sbcma", "mprotein"),
)
MOST_ROWS = 1_000_000
#: Panels of the figure, by what they show, and the least they show: less could not be measured, or is no cell.
PANELS = {"cart": 1e-3, "burden": 1.0, "mprotein": 1e-3, "sbcma": 1e-1}
#: Words and lines of the CAR-T states.
PHENOTYPES = {
    "E": ("effector", (0, (1, 1))),
    "M": ("memory", (0, (5, 2))),
    "X": ("exhausted", (0, (5, 1, 1, 1))),
}


class Options(StrEnum):
    """Configurations of the model."""

    REFERENCE = "reference"
    REAL = "real"


def command(
    until: Annotated[float, typer.Option(metavar="DAY", help="Last day.")],
    out: Annotated[Path, typer.Option(metavar="FILE.csv", help="Table to write; replaced if it exists.")],
    product: Annotated[str, typer.Option(metavar="NAME", help="Product infused on day 0.")] = "ide-cel",
    second: Annotated[str | None, typer.Option(metavar="NAME", help="Product of a second infusion.")] = None,
    at: Annotated[float | None, typer.Option(metavar="DAY", help="Day of the second infusion.")] = None,
    bridging: Annotated[
        float | None,
        typer.Option(metavar="F", help="Share of the tumour left by bridging before it; 1 if left out."),
    ] = None,
    same_scfv: Annotated[
        bool, typer.Option("--same-scfv", help="The second product meets immunity against the first in full.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A parameter's value; may be given again."),
    ] = None,
    every: Annotated[float, typer.Option(metavar="DAYS", help="Days between two rows.")] = 1.0,
    options: Annotated[
        Options, typer.Option(help="Configuration of the model and its parameters.")
    ] = Options.REFERENCE,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Figure to write; replaced if it exists.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="FILE.py", help="Simulate the model of one's own that this file defines.")
    ] = None,
    dose: Annotated[
        list[str] | None,
        typer.Option(metavar="TIME:AMOUNT", help="A dose, with --model; may be given again."),
    ] = None,
) -> None:
    """Simulate one virtual patient.

    The table has a row every day from 0 to the last: CAR-T cells of each product (E effector, M memory,
    X exhausted; cells/µL), myeloma cells Ts and Tr, host T-cell dysfunction Q, anti-CAR immunity A,
    M-protein P, soluble BCMA S, and what assays would read. The row at an infusion is after it.

    For example: `reinfuse simulate --second cilta-cel --at 260 --bridging 0.3 --until 600 --out one.csv`, or
    `reinfuse simulate --model my_model.py --dose 0:100 --dose 24:100 --until 48 --every 0.5 --out one.csv`
    """
    parameters = read_parameters(set_ or [])
    if model is not None:
        check_files(out, plot)
        simulate_own(model, dose or [], until, every, parameters, out, plot)
        return
    if dose:
        raise ReinfuseError(
            "--dose is for a model of one's own; name its file with --model, or use --product, --second"
        )
    course = read_course(product, second, at, bridging, same_scfv, until)
    check_files(out, plot)
    if math.isfinite(until) and every > 0 and until / every > MOST_ROWS:
        raise ReinfuseError(f"--every is {every:g}, more than {MOST_ROWS:,} rows; choose more days")

    from reinfuse.model.simulate import simulate

    curves = simulate(course=course, until=until, every=every, parameters=parameters, options=options.value)
    files = {out: table(curves).encode()}
    if plot is not None:
        from reinfuse.fits.figures import style

        files[plot] = style.png_bytes(draw(curves, course, title=f"{describe(course)} ({options} configuration)"))
    write(files)
    print(NOTICE)
    for line in summary(curves, course):
        print(line)
    print(f"Wrote {out}" + (f" and {plot}." if plot else "."))


def simulate_own(
    file: Path,
    doses: Sequence[str],
    until: float,
    every: float,
    values: Mapping[str, float],
    out: Path,
    plot: Path | None,
) -> None:
    """Write one patient of a model of one's own."""
    from reinfuse.fits.figures import style
    from reinfuse.fits.own_model import load_model
    from reinfuse.scripts._own_model import csv, one_patient, picture, read_doses

    own, given = load_model(file), read_doses(doses)
    curves = one_patient(own, given, until, every, values)
    files = {out: csv(curves).encode()}
    if plot is not None:
        files[plot] = style.png_bytes(picture(curves, own))
    write(files)
    print(f"{own.name}: {len(given)} doses, {curves.sizes['time']} times.")
    print(f"Wrote {out}" + (f" and {plot}." if plot else "."))


def read_parameters(given: Sequence[str]) -> dict[str, float]:
    """Numbers by name from texts such as `rho=1.2`.

    Raises
    ------
    ReinfuseError
        If a text is not NAME=VALUE, a value is no number, or a name comes twice.
    """
    read: dict[str, float] = {}
    for text in given:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise ReinfuseError(f"--set {text!r} is not NAME=VALUE; write for example --set rho=1.2")
        if name in read:
            raise ReinfuseError(f"--set gives {name!r} twice; keep one")
        try:
            read[name] = float(value)
        except ValueError:
            raise ReinfuseError(f"--set {name}: {value!r} is no number; write for example {name}=1.2") from None
    return read


def read_course(
    product: str,
    second: str | None,
    at: float | None,
    bridging: float | None,
    same_scfv: bool,
    until: float,
) -> "list[Infusion]":
    """Infusions from the command's options.

    Raises
    ------
    ReinfuseError
        If options of a second infusion come without --second, --at is missing or lies after the last day.
        (The numbers themselves are checked by `reinfuse.model.course.resolve`.)
    """
    from reinfuse.model.course import Infusion

    course = [Infusion(product=product)]
    if second is None:
        options = (("--at", at is not None), ("--bridging", bridging is not None), ("--same-scfv", same_scfv))
        if loose := [name for name, given in options if given]:
            raise ReinfuseError(f"{', '.join(loose)} given without --second; name the second product too")
        return course
    if at is None:
        raise ReinfuseError(f"--second {second} without --at; give the day of the second infusion")
    if not at <= until:
        raise ReinfuseError(f"--at is {at:g}, after the last day {until:g}; choose an earlier day or a later --until")
    course.append(
        Infusion(
            product=second,
            day=at,
            bridging=1.0 if bridging is None else bridging,
            same_scfv=True if same_scfv else None,
        )
    )
    return course


def check_files(out: Path, plot: Path | None) -> None:
    """Refuse files that could not be written, before any work.

    Raises
    ------
    ReinfuseError
        If a folder is missing, a file is a folder, the figure is no PNG, or both are one file.
    """
    for option, path in (("--out", out), ("--plot", plot)):
        if path is None:
            continue
        if path.is_dir():
            raise ReinfuseError(f"{option}: {path} is a folder; name a file in it")
        if not path.parent.is_dir():
            raise ReinfuseError(f"{option}: {path}: there is no folder {str(path.parent)!r}; make it first")
    if plot is not None and plot.suffix.lower() != ".png":
        raise ReinfuseError(f"--plot: {plot} does not end in .png; name a PNG file")
    if plot is not None and plot.resolve() == out.resolve():
        raise ReinfuseError(f"--out and --plot are both {out}; name two files")


def table(curves: "xr.Dataset") -> str:
    """The columns of `COLUMNS` as CSV, ten significant digits, missing values empty."""
    columns = [curves[name].to_numpy().tolist() if name in curves else None for name in COLUMNS]
    lines = [",".join(COLUMNS)]
    for row in range(curves.sizes["time"]):
        cells = ("" if c is None or math.isnan(c[row]) else f"{c[row]:.10g}" for c in columns)
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"


def write(files: Mapping[Path, bytes]) -> None:
    """Write all files or, if one cannot be written, none."""
    made = {path: path.with_name(f".{path.name}.part") for path in files}
    try:
        for path, content in files.items():
            made[path].write_bytes(content)
        for path, part in made.items():
            part.replace(path)
    finally:
        for part in made.values():
            part.unlink(missing_ok=True)


def describe(course: "Sequence[Infusion]") -> str:
    """One phrase: which product, and which one when."""
    first, *later = course
    return str(first.product) + "".join(f", then {item.product} on day {item.day:g}" for item in later)


def summary(curves: "xr.Dataset", course: "Sequence[Infusion]") -> list[str]:
    """A line per infusion and one about the tumour."""
    import numpy as np

    time = curves["time"].to_numpy()
    lines = []
    for slot, item in enumerate(course, start=1):
        cells = total(curves, slot)
        peak = int(np.nanargmax(cells))
        since = time[peak] - float(np.asarray(item.day))
        lines.append(f"{item.product}: highest {cells[peak]:.3g} CAR+ cells/µL, {since:g} days after infusion.")
    tumour = curves["Ts"].to_numpy() + curves["Tr"].to_numpy()
    low = int(np.argmin(tumour))
    lines.append(
        f"Myeloma: {tumour[0]:.2g} cells at first, lowest {tumour[low]:.2g} on day {time[low]:g}, "
        f"{tumour[-1]:.2g} on day {time[-1]:g}."
    )
    return lines


def total(curves: "xr.Dataset", slot: int) -> "Floats":
    """CAR-T cells of one product, cells/µL; NaN before its infusion."""
    effector, memory, exhausted = (curves[f"{cell}{slot}"].to_numpy() for cell in "EMX")
    cells: Floats = effector + memory + exhausted
    return cells


def draw(curves: "xr.Dataset", course: "Sequence[Infusion]", *, title: str) -> "Figure":
    """Four panels over time: CAR-T by product, myeloma, M-protein, soluble BCMA; infusions are marked.

    Parameters
    ----------
    curves
        From `reinfuse.model.simulate.simulate`.
    course
        Its infusions.
    title
        Above the panels.
    """
    import numpy as np
    from matplotlib.lines import Line2D

    from reinfuse.fits.figures import style

    time, last = curves["time"].to_numpy(), float(curves["time"][-1])
    days = [float(np.asarray(item.day)) for item in course]
    names = [str(item.product) for item in course]

    @style.styled
    def make() -> "Figure":
        figure, panels = style.grid(4, 2, 2.2, extra=0.9, sharex=True)
        cells, tumour, protein, bcma = panels
        handles = []
        for slot, (name, day) in enumerate(zip(names, days, strict=True), start=1):
            colour = style.ORANGE if name in names[: slot - 1] else style.product_colour(name, names)
            label = f"{name}, day {day:g}"
            handles += cells.plot(time, total(curves, slot), color=colour, linewidth=1.8, label=label)
            for cell, (_, line) in PHENOTYPES.items():
                cells.plot(time, curves[f"{cell}{slot}"], color=colour, linewidth=0.9, linestyle=line)
        for word, line in PHENOTYPES.values():
            handles.append(Line2D([], [], color=style.GREY, linewidth=0.9, linestyle=line, label=word))
        burden = curves["Ts"] + curves["Tr"]
        handles += tumour.plot(time, burden, color=style.BLACK, linewidth=1.8, label="all myeloma")
        handles += tumour.plot(time, curves["Tr"], color=style.PURPLE, label="BCMA-low myeloma")
        protein.plot(time, curves["P"], color=style.BLACK)
        bcma.plot(time, curves["S"], color=style.BLACK)
        for panel, (name, fewest) in zip(panels, PANELS.items(), strict=True):
            panel.set_title(style.assay_name(name, unit=False))
            panel.set_ylabel(style.ASSAYS[name][1])
            style.log_axis(panel)
            low, high = panel.get_ylim()
            panel.set_ylim(max(low, fewest), max(high, 10.0 * fewest))
            for day in days[1:]:
                panel.axvline(day, color=style.GREY, linewidth=0.8, linestyle=":")
            if len(days) == 1:
                style.day_axis(panel, last, label="")
            else:
                panel.set_xlim(-0.01 * last, last)
        for panel in (protein, bcma):
            panel.set_xlabel("days since the first infusion")
        style.legend_below(figure, handles, columns=4)
        figure.suptitle(title)
        return figure

    return make()


if __name__ == "__main__":
    run_alone(command)

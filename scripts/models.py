"""`reinfuse models`: which models there are, and what one of them is made of."""

from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from reinfuse.scripts._shell import run_alone

if TYPE_CHECKING:
    from rich.console import Console


def command(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Show the states and parameters of this model.")
    ] = None,
    options: Annotated[str, typer.Option(help="Configuration whose parameters to show: reference or real.")] = "real",
) -> None:
    """List the model library, or show one model's states and parameters with prior and provenance.

    For example: `reinfuse models`, then `reinfuse models bcma --options reference`.
    """
    from rich.console import Console

    from reinfuse.model.errors import ReinfuseError
    from reinfuse.model.parameters import table

    library = library_of_models()
    if model is None:
        show_library(library, Console())
        return
    if model not in library:
        raise ReinfuseError(f"no model {model!r}; the library has {', '.join(library)}")
    table(options)
    show_model(library[model], options, Console())


def library_of_models() -> dict[str, ModuleType]:
    """Files of `reinfuse.model.equations` that build a model, by the model's name."""
    from importlib import import_module
    from pkgutil import iter_modules

    from reinfuse.model import equations

    modules = {
        found.name: import_module(f"{equations.__name__}.{found.name}") for found in iter_modules(equations.__path__)
    }
    return {name: module for name, module in modules.items() if hasattr(module, "build")}


def show_library(library: dict[str, ModuleType], console: "Console") -> None:
    """Print one line per model, its configurations, and the variants a fit can compare it with."""
    from dataclasses import asdict

    from reinfuse.model.parameters import VARIANTS

    for name, module in library.items():
        console.print(f"[bold]{name}[/]  {summary_line(module)}", highlight=False)
        for configuration, chosen in module.OPTIONS.items():
            on = [option.replace("_", "-") for option, value in asdict(chosen).items() if value]
            console.print(f"- {configuration} configuration: {', '.join(on) or 'no options'}", highlight=False)
    console.print("\n[bold]Variants[/], to compare a fit with", highlight=False)
    for variant in VARIANTS.values():
        console.print(f"- {variant.describe()}", highlight=False)


def show_model(module: ModuleType, options: str, console: "Console") -> None:
    """Print the states of a model with one infusion, and the parameters of one configuration."""
    from rich.padding import Padding
    from rich.text import Text

    from reinfuse.model.parameters import table

    model = module.build(1, module.OPTIONS[options])
    console.print(f"[bold]{model.name}[/]  {summary_line(module)}", highlight=False)
    console.print("\n[bold]States, with one infusion[/]")
    for state in model.states:
        scale = "its logarithm" if state.log else "it is"
        console.print(f"{state.name:<17}{state.unit:<15}integrated as {scale}", highlight=False, markup=False)
    console.print()
    console.print(f"[bold]Parameters, {options} configuration[/]", highlight=False)
    line = "{:<17}{:<15}{:>9}{:>7}{:>6}  {}"
    console.print(line.format("symbol", "unit", "median", "sd", "IIV", "tag"), highlight=False)
    for row in table(options).values():
        spread = f"{row.log_sd:g}" if row.log_sd else "fixed"
        between = f"{row.iiv:g}" if row.iiv else "–"
        numbers = line.format(row.symbol, row.unit, f"{row.median:.3g}", spread, between, row.tag)
        console.print(numbers, highlight=False, markup=False)
        console.print(Padding(Text(row.meaning, style="dim"), (0, 0, 0, 4)))
    console.print(
        "sd: of the prior of the median; IIV: sd between patients; both on the transformed scale.\n"
        "The source of each number stands beside it in model/parameters.py.",
        highlight=False,
    )


def summary_line(module: ModuleType) -> str:
    """First line of a module's docstring."""
    return (module.__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    run_alone(command)

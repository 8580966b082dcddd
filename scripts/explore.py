"""`reinfuse explore`: a run in the browser, on this machine alone."""

import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.notice import NOTICE
from reinfuse.scripts._shell import complain, progress, run_alone

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of `reinfuse fit`.")],
    sensitivity: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of `reinfuse sensitivity`; elasticities are computed if left out."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random number.")] = 1,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the page.")] = 8050,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; any but loopback lets others in.")
    ] = LOOPBACK[0],
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Look at a run in the browser: population, patients, second infusions, sensitivity.

    The page is served on this machine alone and asks nothing of the network.
    Sliders do the experiment of `reinfuse retreat` with 200 virtual patients;
    every figure can be saved with its data and its command line. Ctrl-C ends it.

    Examples: `reinfuse explore run`, `reinfuse explore run --sensitivity gsa`,
    `reinfuse explore run --port 9000 --no-browser`
    """
    from rich.console import Console

    if find_spec("dash") is None:
        raise ReinfuseError("reinfuse explore needs Dash, which is not installed; run: pip install 'reinfuse[explore]'")
    console = Console()
    console.print(escape(NOTICE), style="bold")
    if host not in LOOPBACK:
        complain(f"Warning: --host {host} lets everyone who reaches this machine see the run; there is no password.")
    from reinfuse.fits.explore.page import Page
    from reinfuse.fits.explore.second_infusion import Choice, Laboratory
    from reinfuse.fits.explore.views import Views
    from reinfuse.fits.run import RunFolder

    folder = RunFolder.open(run)
    if folder.provenance.get("own_model") is not None:
        raise ReinfuseError(f"{run} is a fit of a model of your own; the page shows fits of the built-in model")
    folder.register_products()
    page = Page(views=Views(folder, seed, sensitivity), laboratory=Laboratory(folder, seed=seed), run=str(run))
    with progress("Getting ready", 1.0) as tick:  # the first answer compiles
        page.laboratory.answer(Choice())
        tick(1.0)
    address = address_of(host, port)
    console.print(f"Serving {escape(str(run))} at {address}; Ctrl-C ends it.", highlight=False)
    if browser:
        import webbrowser

        threading.Timer(1.0, webbrowser.open, [address]).start()
    page.serve(host, port)


def address_of(host: str, port: int) -> str:
    """Address of the page; an IPv6 host stands in brackets (RFC 3986, section 3.2.2)."""
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


if __name__ == "__main__":
    run_alone(command)

"""A report as PDF, printed by a browser that is installed already."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from reinfuse.model.errors import ReinfuseError

from ..whole_file import write_whole

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
SECONDS: Final = 180


def browser() -> str:
    """Program of the first browser found that can print.

    Raises
    ------
    ReinfuseError
        If there is none.
    """
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    raise ReinfuseError(
        f"--pdf needs Chromium, Chrome or Edge, and none of {', '.join(BROWSERS)} is on the PATH; install one, "
        "or open report.html in any browser and print it (it is made for A4)"
    )


def print_pdf(page: Path, pdf: Path) -> None:
    """Print a self-contained page to a PDF of A4 sheets.

    Raises
    ------
    ReinfuseError
        If there is no browser, or it does not print.
    """
    program = browser()
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / "report.pdf"
        words = [
            program, "--headless=new", "--disable-gpu", "--no-sandbox", f"--user-data-dir={place}/profile",
            "--no-pdf-header-footer", f"--print-to-pdf={made}", page.resolve().as_uri(),
        ]  # fmt: skip
        try:
            said = subprocess.run(words, capture_output=True, text=True, check=False, timeout=SECONDS).stderr
        except (OSError, subprocess.TimeoutExpired) as fault:
            raise ReinfuseError(f"{program} did not print {page}: {fault}; print it from a browser by hand") from fault
        if not made.is_file() or not made.read_bytes().startswith(b"%PDF"):
            raise ReinfuseError(
                f"{program} did not print {page}: {said.strip()[-300:]}; print it from a browser by hand"
            )
        write_whole(pdf, lambda target: shutil.copyfile(made, target))

"""Run the notebooks and write them with their outputs, as pages of the documentation: `make notebooks`.

A cell that shows a picture says in its metadata (``:alt:``) what is on it. The notebooks share one folder, in which
`fitting` leaves the run that others go on from. nbconvert would bring a dozen packages for what is fences and pictures
here.
"""

import base64
import io
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PAGES = Path(__file__).parent / "notebooks"
#: `patient`, `sequential_bcma` and `sensitivity` read the run that `fitting` makes.
ORDER = ("tutorial", "fitting", "patient", "sequential_bcma", "sensitivity", "own_model")
SECONDS_A_CELL = 240
#: Escape sequences of a terminal, and lines of a progress display.
NOISE = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")
PROGRESS = re.compile(r"^(.*: started|.* elapsed, .* left.*)\n", re.M)


def executed(name: str, folder: Path) -> NotebookNode:
    """Run a notebook in a folder."""
    notebook = jupytext.read(NOTEBOOKS / f"{name}.md")
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=SECONDS_A_CELL, kernel_name="python3", resources=where).execute()
    return notebook


def page(name: str, notebook: NotebookNode) -> tuple[str, dict[str, bytes]]:
    """Markdown of an executed notebook, and its pictures by file name."""
    parts = [f"% Written by `make notebooks` from notebooks/{name}.md."]
    pictures: dict[str, bytes] = {}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            parts.append(cell.source.replace("](../docs/", "](../"))
            continue
        shell = cell.source.startswith("!")
        parts.append(f"```sh\n{cell.source[1:]}\n```" if shell else f"```python\n{cell.source}\n```")
        printed, tables = "", []
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                file = f"{name}_{len(pictures) + 1}.png"
                pictures[file] = small(base64.b64decode(data["image/png"]))
                parts.append(f"![{cell.metadata['alt']}]({file})")
            elif "<table" in (shown := data.get("text/html", "")):
                tables.append(shown[shown.index("<table") : shown.index("</table>")] + "</table>")
            else:
                printed += output.get("text", data.get("text/plain", "") + "\n")
        text = PROGRESS.sub("", re.sub(r"\r+\n?", "\n", NOISE.sub("", printed))).strip("\n")
        if text:
            parts.append(f"```text\n{'\n'.join(line.rstrip() for line in text.splitlines())}\n```")
        parts += tables
    return "\n\n".join(parts) + "\n", pictures


def small(png: bytes, width: int = 900) -> bytes:
    """A picture of 64 colours and no more than this width."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.quantize(64).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def main() -> None:
    """Run all, write all."""
    PAGES.mkdir(exist_ok=True)
    for old in PAGES.glob("*.png"):
        old.unlink()
    with TemporaryDirectory() as folder:
        for name in ORDER:
            text, pictures = page(name, executed(name, Path(folder)))
            (PAGES / f"{name}.md").write_text(text, encoding="utf-8")
            for file, png in pictures.items():
                (PAGES / file).write_bytes(png)
            print(f"{name}: {len(pictures)} pictures", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

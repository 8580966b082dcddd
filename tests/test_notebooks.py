"""Every notebook runs from clean on bundled data, and says what it is."""

import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import notebook_pages  # noqa: E402

#: These go on from the folder `run` that the notebook `fitting` leaves; the others leave nothing behind.
GOING_ON = ("patient", "sequential_bcma", "sensitivity")
LARGEST_PNG = 100_000


@pytest.fixture(scope="module", autouse=True)
def commands():
    """`!reinfuse` in a notebook is the command of this environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        yield


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Folder in which the notebook `fitting` was run, and that notebook."""
    folder = tmp_path_factory.mktemp("notebooks")
    return folder, notebook_pages.executed("fitting", folder)


def test_every_notebook_has_its_place():
    assert {path.stem for path in notebook_pages.NOTEBOOKS.glob("*.md")} == set(notebook_pages.ORDER)


@pytest.mark.slow
@pytest.mark.parametrize("name", notebook_pages.ORDER)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning", "ignore::ResourceWarning")
def test_notebook_runs(name, tmp_path, request):
    if name == "fitting":
        notebook = request.getfixturevalue("fitted")[1]
    elif name in GOING_ON:
        notebook = notebook_pages.executed(name, request.getfixturevalue("fitted")[0])
    else:
        notebook = notebook_pages.executed(name, tmp_path)
        assert list(tmp_path.iterdir()) == []
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.get("execution_count") for cell in cells)
    outputs = [output for cell in cells for output in cell["outputs"]]
    printed = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    assert "Warning" not in printed
    assert "Traceback" not in printed
    assert "command not found" not in printed
    # a page that shows a fit too short to be trusted has to say so
    assert "converged: False" in printed
    assert "not to conclude" in "".join(cell.source for cell in notebook.cells)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    text, pictures = notebook_pages.page(name, notebook)
    assert "elapsed" not in text
    assert str(Path.home()) + "/" not in text
    assert str(tmp_path.parents[1]) not in text
    assert max(map(len, pictures.values())) < LARGEST_PNG


@pytest.mark.parametrize("name", notebook_pages.ORDER)
def test_the_page_in_the_docs_shows_the_notebook_as_it_is(name):
    """`make notebooks` after a change: every cell stands on the page as it is written in the notebook."""
    import jupytext

    text = (notebook_pages.PAGES / f"{name}.md").read_text(encoding="utf-8")
    notebook = jupytext.read(notebook_pages.NOTEBOOKS / f"{name}.md")
    bare, _ = notebook_pages.page(name, notebook)
    assert [part for part in bare.split("\n\n") if part not in text] == []
    pictures = list(notebook_pages.PAGES.glob(f"{name}_*.png"))
    told = [cell.metadata["alt"] for cell in notebook.cells if "alt" in cell.metadata]
    assert re.findall(r"!\[(.*?)\]", text) == told
    assert len(pictures) == len(told) >= 2
    assert max(path.stat().st_size for path in pictures) < LARGEST_PNG

"""Every notebook runs from clean on bundled data, and says what it is."""

from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.md"))
SECONDS_A_CELL = 240


def test_there_is_a_tutorial():
    assert "tutorial.md" in {path.name for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning", "ignore::ResourceWarning")
def test_notebook_runs(path, tmp_path):
    notebook = jupytext.read(path)
    client = NotebookClient(
        notebook, timeout=SECONDS_A_CELL, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.get("execution_count") for cell in cells)
    outputs = [output for cell in cells for output in cell["outputs"]]
    printed = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    assert "Warning" not in printed
    # a page that shows a fit too short to be trusted has to say so
    assert "converged: False" in printed
    assert "not to conclude" in "".join(cell.source for cell in notebook.cells)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert list(tmp_path.iterdir()) == []

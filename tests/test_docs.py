"""Pages on models of one's own run as they are written, in an empty folder; tables of priors are the model's."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

with warnings.catch_warnings():  # PyMC's own, as it is imported
    warnings.simplefilter("ignore")
    import pymc  # noqa: F401

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLES = {"own_model": "oral_pk", "lotka_volterra": "lotka_volterra"}


def blocks(page: str) -> list[str]:
    """Python blocks of a page, in order."""
    return re.findall(r"^```python\n(.*?)^```", (DOCS / f"{page}.md").read_text(encoding="utf-8"), re.M | re.S)


def run(page: str, folder: Path, monkeypatch) -> dict:
    """Names that a page's code leaves behind."""
    monkeypatch.chdir(folder)
    names: dict = {"__name__": "__docs__"}
    for number, block in enumerate(blocks(page), start=1):
        exec(compile(block, f"{page}.md, block {number}", "exec"), names)
    return names


@pytest.mark.parametrize("page", EXAMPLES)
def test_the_model_on_the_page_is_the_one_in_the_file(page):
    assert blocks(page)[0] == (DOCS / "examples" / f"{EXAMPLES[page]}.py").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_of_the_swallowed_drug_runs(tmp_path, monkeypatch):
    found = run("own_model", tmp_path, monkeypatch)
    assert found["difference"] < 1e-6
    assert found["verdict"].max_rhat < 1.05
    assert found["verdict"].divergences == 0
    medians = {"ka": 1.0, "CL": 4.0, "V": 30.0, "sigma": 0.2}
    draws = found["run"].posterior()["posterior"]["population"].stack(sample=("chain", "draw"))
    for name, true in medians.items():
        low, high = np.quantile(draws.sel(parameter=name), [0.005, 0.995])
        assert low < true < high, name
    arms = found["arms"]
    assert arms["difference"].sel(arm="one dose") == 0
    assert (arms["difference"].sel(arm=["again at 12 h", "doubled"]) > 3 * arms["mc_error"][1:].to_numpy()).all()
    assert arms["benefit"].sel(arm="again at 12 h") > 0.95
    assert found["indices"]["total"].idxmax("parameter") == "V"


@pytest.mark.slow
def test_the_page_of_prey_and_predators_runs(tmp_path, monkeypatch):
    found = run("lotka_volterra", tmp_path, monkeypatch)
    assert found["drift"] < 1e-7
    assert found["verdict"].max_rhat < 1.05
    draws = found["run"].posterior()["posterior"]["population"].stack(sample=("chain", "draw"))
    for name, row in found["lv"].table.items():  # of these data N0's own interval of 99 % ends just above its truth
        low, high = np.quantile(draws.sel(parameter=name), [0.001, 0.999])
        assert low < row.median < high, name
    assert found["arms"]["benefit"].sel(arm="at once") > 0.5


@pytest.mark.parametrize("options", ["real", "reference"])
def test_the_tables_of_priors_are_those_of_the_model(options, monkeypatch):
    """`make docs` writes them."""
    monkeypatch.syspath_prepend(str(DOCS))
    from prior_tables import listed

    page = (DOCS / "generated" / f"priors_{options}.md").read_text(encoding="utf-8")
    assert page.endswith(f"\n\n{listed(options)}\n")
    assert len(page.splitlines()) > 50

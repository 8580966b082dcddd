"""`reinfuse diagnose`: what it prints and writes of a run."""

import json

import pytest
from rich.console import Console

from reinfuse.scripts._shell import NotTrusted
from reinfuse.scripts.diagnose import judge

from ..fits import fake_run

COMPARISON = [
    {"variant": "no-exhaustion", "elpd": -181.0, "difference": 0.0, "se_difference": 0.0, "max_rhat": 1.0064},
    {"variant": "full", "elpd": -183.5, "difference": -2.5, "se_difference": 1.9, "max_rhat": 1.0958},
]


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A run, and what judging it printed."""
    fake = fake_run.make(n_patients=9, draws=100)
    folder = fake_run.write(tmp_path_factory.mktemp("diagnose") / "run", fake=fake, comparison=COMPARISON)
    console = Console(record=True, width=100, force_terminal=False)
    with pytest.raises(NotTrusted) as refusal:  # a hundred draws are too few
        judge(folder, console, figures=False, report=False)
    return folder, console.export_text(), str(refusal.value)


def test_every_part_of_the_diagnosis_is_printed(judged):
    _, printed, _ = judged
    for title in ("Convergence", "Slowest numbers", "What the data said", "Shrinkage", "free of progression"):
        assert title in printed


def test_variants_are_set_beside_each_other_and_a_tie_is_called_one(judged):
    _, printed, _ = judged
    assert "Variants, each patient left out" in printed
    (line,) = [line for line in printed.splitlines() if line.strip().startswith("full")]
    assert "-2.5" in line
    assert "1.9" in line
    assert "1.096" in line
    assert "1.006" in printed  # not 1.01, which would be too much
    assert "standard errors is a tie" in printed


def test_the_refusal_says_which_number_is_short(judged):
    folder, _, refusal = judged
    found = json.loads((folder.path / "diagnostics.json").read_text())
    assert found["converged"] is False
    assert f"{found['min_ess_bulk']:.0f}" in refusal
    assert "effective sample size" in refusal

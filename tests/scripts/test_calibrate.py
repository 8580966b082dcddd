"""`reinfuse calibrate`: what it prints and writes, and how it ends; the fits are pretended."""

import json
import os
import subprocess
import sys

import pytest

from reinfuse.model.errors import ReinfuseError
from reinfuse.scripts import calibrate
from reinfuse.scripts._shell import NotTrusted


def told(tmp_path, **options) -> None:
    """The command as a function, on one core, so that its workers can be told what a fit is."""
    given = {
        "cohorts": 12,
        "patients": None,
        "again": 0.0,
        "truth": "reference",
        "draws": 500,
        "tune": 300,
        "chains": 2,
        "thin": 2,
        "longest": 4,
        "ranks": 99,
        "seed": 1,
        "cores": 1,
        "cluster": None,
        "resume": False,
        "docs": None,
    }
    calibrate.command("sbc", tmp_path / "out", **(given | options))


@pytest.fixture
def pretended(monkeypatch):
    """Fits in no time: the replicates of the Gaussian model, done in this process. The numbers that were asked for."""
    from ..fits import small_cohorts  # noqa: F401, I001  (first: it imports PyMC without its warnings)
    from reinfuse.fits import tasks
    from reinfuse.fits.calibration import campaign

    from ..fits.test_calibration import pretended as one

    asked: list[int] = []

    def here(function, left, **_):
        for number, task in left.items():
            asked.append(number)
            yield number, function(task)

    monkeypatch.setattr(tasks, "run_tasks", here)
    monkeypatch.setattr(campaign, "replicate", one)
    monkeypatch.setattr(campaign, "_compile", lambda _: None)
    return asked


def test_it_ends_with_a_doubt_where_a_fit_broke_down_and_resumes(tmp_path, capsys, pretended):
    (tmp_path / "docs").mkdir()
    with pytest.raises(NotTrusted, match="1 of 12 fits broke down"):
        told(tmp_path, docs=tmp_path / "docs")
    page = capsys.readouterr().out
    assert "log-likelihood" in page
    assert (tmp_path / "docs" / "generated" / "calibration_sbc.md").is_file()
    with pytest.raises(ReinfuseError, match="holds 12 results already"):
        told(tmp_path)
    with pytest.raises(NotTrusted, match="1 of 14 fits"):
        told(tmp_path, cohorts=14, resume=True)
    assert pretended == list(range(14))
    assert json.loads((tmp_path / "out" / "run.json").read_text())["cohorts"] == 14
    with pytest.raises(ReinfuseError, match="made otherwise"):
        told(tmp_path, seed=2, resume=True)


def test_all_is_well_where_nothing_is_wrong(tmp_path, pretended):
    told(tmp_path, cohorts=5)  # the sixth is the one that breaks down
    assert json.loads((tmp_path / "out" / "run.json").read_text())["doubts"] == []


@pytest.mark.parametrize("words", [["nonsense", "--out", "x"], ["sbc", "--out", "x", "--docs", "nowhere"]])
def test_bad_input_is_told_and_nothing_written(tmp_path, words):
    command = [sys.executable, "-m", "reinfuse.scripts.main", "calibrate", *words]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert ended.returncode == 2
    assert ended.stderr.startswith("Error: ")
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []

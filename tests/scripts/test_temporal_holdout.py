"""`scripts/temporal_holdout.py` ends: a cohort as known on a day is fitted, and its forecast judged."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reinfuse.fits.run import RunFolder

from ..fits import small_cohorts

SCRIPT = Path(__file__).parents[2] / "scripts" / "temporal_holdout.py"
SHORT = ("--draws", "10", "--tune", "50", "--chains", "2", "--seed", "5")


@pytest.mark.minutes
def test_a_forecast_strictly_in_time_is_made_and_scored(tmp_path):
    small_cohorts.rows_of(one=4, two=0).to_csv(tmp_path / "small.csv", index=False)
    words = [sys.executable, str(SCRIPT), str(tmp_path / "small.csv"), "--day", "30", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run([*words, *SHORT], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Data of everybody until day 30; NOT CONVERGED: largest R-hat" in done.stdout
    run = RunFolder.open(tmp_path / "run")
    assert run.cohort_path.exists()
    later = run.forecast()
    assert later is not None
    counts = {name: int((later["dvid"] == name).sum()) for name in ("transgene", "cart", "sbcma")}
    for name, count in counts.items():
        assert re.search(rf"this model +{name} +{count} ", done.stdout), done.stdout
    assert (later["time"] > 40).all()
    left = json.loads((tmp_path / "run" / "strictly.json").read_text(encoding="utf-8"))
    assert {one["dvid"]: one["n"] for one in left["forecast"] if one["model"] == "this model"}.items() >= counts.items()
    assert left["day"] == 30
    assert not left["fit"]["converged"]
    assert "Progression is not compared: too few patients" in done.stdout  # eight are

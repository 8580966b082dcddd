"""`reinfuse fit` and `reinfuse simulate` with a model of one's own, in a file."""

import numpy as np
import pandas as pd
import pytest
import typer

from reinfuse.fits.run import RunFolder, sha256_of
from reinfuse.scripts import main
from reinfuse.scripts._shell import ExitCode, guarded

from ..fits.test_own_model import pk_rows
from ..model.own_models import EXAMPLES, bateman

PK = EXAMPLES / "oral_pk.py"
SHORT = ("--draws", "10", "--tune", "50", "--thin", "1", "--chains", "2", "--seed", "5")


def run(*words) -> int:
    return guarded(lambda: typer.main.get_command(main.build()).main(args=[str(word) for word in words]))


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "pk.csv"
    pk_rows().to_csv(path, index=False)
    return path


def test_a_fit_leaves_a_whole_run_folder(table, tmp_path, capsys):
    out = tmp_path / "run"
    assert run("fit", table, "--model", PK, "--out", out, *SHORT) == ExitCode.NOT_TRUSTED
    names = {entry.name for entry in out.iterdir()}
    assert names >= {
        "run.json",
        "cohort.csv",
        "model.py",
        "posterior.nc",
        "summary.csv",
        "diagnostics.json",
        "report.html",
    }
    assert RunFolder.open(out).provenance["files"]["model.py"] == sha256_of(PK)
    assert len(list((out / "figures").glob("*.png"))) >= 5
    assert "Measurements inside their predictive intervals" in capsys.readouterr().out
    assert run("diagnose", out, "--no-figures") == ExitCode.NOT_TRUSTED
    assert run("report", out) == ExitCode.NOT_TRUSTED


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "absent.py"), "there is no file absent.py"),
        (("--model", PK, "--compare"), "leave them out with --model"),
        (("--model", PK, "--variant", "full"), "leave them out with --model"),
        (("--model", EXAMPLES / "lotka_volterra.py"), "DVID: required column is missing"),
    ],
)
def test_what_does_not_fit_is_refused(table, tmp_path, capsys, words, said):
    assert run("fit", table, "--out", tmp_path / "run", *words) == ExitCode.BAD_INPUT
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_one_patient_is_written_as_table_and_figure(tmp_path):
    out, plot = tmp_path / "x.csv", tmp_path / "x.png"
    words = ("--dose", "0:100", "--dose", "24:50", "--set", "ka=1.2", "--until", "48", "--every", "0.5")
    assert run("simulate", "--model", PK, *words, "--out", out, "--plot", plot) == ExitCode.DONE
    found = pd.read_csv(out)
    assert found.columns.tolist() == ["time", "depot", "central", "conc"]
    rest = {"ka": 1.2, "CL": 4.0, "V": 30.0}
    wanted = bateman(found["time"], 100.0, **rest) + bateman(found["time"] - 24, 50.0, **rest)
    np.testing.assert_allclose(found["conc"], wanted, atol=1e-7)
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", PK, "--dose", "0-100"), "is not TIME:AMOUNT"),
        (("--model", PK, "--set", "kA=1"), "did you mean 'ka'"),
        (("--model", PK, "--every", "0"), "--every is 0"),
        (("--dose", "0:100"), "name its file with --model"),
    ],
)
def test_a_patient_that_makes_no_sense_is_refused(tmp_path, capsys, words, said):
    assert run("simulate", *words, "--until", "48", "--out", tmp_path / "x.csv") == ExitCode.BAD_INPUT
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x.csv").exists()

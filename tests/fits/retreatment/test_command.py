"""`reinfuse retreat` from the command line, on the toy simulator."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from reinfuse.fits import ranking
from reinfuse.fits.retreatment import block
from reinfuse.model.errors import ReinfuseError
from reinfuse.scripts.main import build

from ..test_ranking import entry
from .conftest import TEXT, toy
from .test_virtual_patients import write_run

WORLDS = '[[world]]\nname = "as assumed"\n[[world]]\nname = "null"\nhost_dysfunction = false\n'


@pytest.fixture
def reinfuse(monkeypatch):
    monkeypatch.setattr(block, "_models_own", lambda: toy)

    def call(*words):
        return CliRunner().invoke(build(), ["retreat", *map(str, words)])

    return call


@pytest.fixture
def toy_scenarios(tmp_path):
    path = tmp_path / "toy.toml"
    path.write_text('anchor = "two"\n' + TEXT + WORLDS)
    return path


def test_priors_to_tables(reinfuse, tmp_path, toy_scenarios):
    out = tmp_path / "out"
    result = reinfuse(
        "--prior", "--scenarios", toy_scenarios, "--out", out, "--patients", 30, "--draws", 5, "--no-explain"
    )
    assert result.exit_code == 0, result.output
    for words in ("not a medical device", "observed 10/10 [69%, 100%]", "mostly frailty", "priors alone"):
        assert words in " ".join(result.output.split())
    outcomes = pd.read_parquet(out / "outcomes.parquet")
    assert outcomes.groupby(["scenario", "world"], observed=True).size().tolist() == [30] * 6
    assert set(outcomes["draw"]) == set(range(5))
    names = {path.stem for path in (out / "figures").iterdir()}
    assert names >= {
        "swimmer",
        "pfs_by_group",
        "pfs_by_scenario",
        "best_response",
        "waterfall",
        "anchor",
        "trajectories",
    }
    assert {path.stem for path in out.glob("*.csv")} == {
        "summary",
        "contrasts",
        "choices",
        "survival",
        "anchor",
        "published",
    }
    written = json.loads((out / "run.json").read_text())
    assert (written["kind"], written["seed"], written["options"], written["patients"]) == (
        "retreat",
        1,
        "reference",
        30,
    )
    assert written["weights"] == {"as assumed": 0.5, "null": 0.5}
    assert written["caveats"]
    assert {(row["scenario"], row["kept"]) for row in written["acceptance"]} == {
        (name, 30) for name in ("two", "nothing given", "none")
    }
    assert not (out / ".outcomes.parquet.part").exists()


def test_the_same_seed_gives_the_same_bytes(reinfuse, tmp_path, toy_scenarios):
    for name in ("first", "second"):
        reinfuse("--prior", "--scenarios", toy_scenarios, "--out", tmp_path / name, "--patients", 20, "--no-explain")
    first, second = tmp_path / "first", tmp_path / "second"
    assert (first / "summary.csv").read_bytes() == (second / "summary.csv").read_bytes()
    assert (first / "outcomes.parquet").read_bytes() == (second / "outcomes.parquet").read_bytes()


def test_a_run_to_tables(reinfuse, tmp_path, toy_scenarios):
    run = write_run(tmp_path / "run", variant="full").path
    out = tmp_path / "out"
    result = reinfuse(run, "--scenarios", toy_scenarios, "--out", out, "--patients", 20, "--no-explain")
    assert result.exit_code == 0, result.output
    written = json.loads((out / "run.json").read_text())
    assert (written["variant"], written["options"], written["draws"]) == ("full", "real", 10)
    assert written["cohort_sha256"] == json.loads((run / "run.json").read_text())["cohort_sha256"]
    assert "no data with second infusions stand behind it" in " ".join(written["caveats"])


def test_what_compare_writes_weighs_the_worlds(reinfuse, tmp_path, toy_scenarios, monkeypatch):
    runs = [write_run(tmp_path / name, variant=name).path for name in ("full", "no-dysfunction")]
    better = np.linspace(-6.0, -5.0, 10)
    found = {"full": entry("full", better), "no-dysfunction": entry("no-dysfunction", better - [0.5, -0.4] * 5)}
    monkeypatch.setattr(ranking, "enter", lambda folder, name, **_: replace(found[name], variant=name))
    compared, out = tmp_path / "compared", tmp_path / "out"
    assert CliRunner().invoke(build(), ["compare", *map(str, runs), "--out", str(compared)]).exit_code == 0
    words = ["--scenarios", toy_scenarios, "--weights", compared, "--out", out, "--patients", 20, "--no-explain"]
    result = reinfuse(runs[0], *words)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(compared / "compare.csv").set_index("variant")["weight_pseudo_bma"]
    assert 0.05 < table["full"] < 0.95
    written = json.loads((out / "run.json").read_text())
    assert written["weights"] == pytest.approx({"as assumed": table["full"], "null": table["no-dysfunction"]}, abs=1e-5)
    assert written["weights_from"] == "compared"
    assert "'null' (no-dysfunction)" in " ".join(result.output.split())
    assert written["words"]["How the worlds are weighed"][0].startswith("Weights by pseudo-BMA+")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--prior"], "--out is missing"),
        (
            ["--prior", "--weights", "compared", "--out", "OUT"],
            "--weights compared compares fits, and --prior has none",
        ),
        (["--prior", "--patient", "P1", "--out", "OUT"], "P1 has no posterior without a RUN"),
        (["--out", "OUT"], "neither a RUN nor --prior"),
        (["gone", "--prior", "--out", "OUT"], "both gone and --prior"),
        (["gone", "--out", "OUT"], "no folder gone"),
        (["--prior", "--scenarios", "gone.toml", "--out", "OUT"], "cannot be read"),
    ],
)
def test_bad_usage_is_told_and_writes_nothing(reinfuse, tmp_path, words, told):
    out = tmp_path / "out"
    result = reinfuse(*(str(out) if word == "OUT" else word for word in words))
    assert isinstance(result.exception, ReinfuseError)
    assert told in str(result.exception)
    assert not out.exists()


def test_another_folder_is_not_overwritten(reinfuse, tmp_path, toy_scenarios):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    words = ["--prior", "--scenarios", toy_scenarios, "--out", out, "--patients", 10, "--no-explain"]
    assert "--force" in str(reinfuse(*words).exception)
    assert reinfuse(*words, "--force").exit_code == 0
    assert (out / "notes.txt").read_text() == "mine"

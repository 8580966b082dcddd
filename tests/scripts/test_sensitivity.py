"""`reinfuse sensitivity`: what it writes, twice the same, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from reinfuse.model.errors import ReinfuseError
from reinfuse.scripts._shell import ExitCode, guarded
from reinfuse.scripts.sensitivity import Method, command, sensitivity


def run(place: Path, **options: object) -> Path:
    given = {"outcomes": ["cmax", "auc28"], "method": Method.SOBOL, "samples": 32, **options}
    sensitivity(run=None, out=place, console=Console(quiet=True), **given)  # type: ignore[arg-type]
    return place


def test_it_writes_what_the_interface_says_and_the_same_seed_writes_the_same(tmp_path: Path) -> None:
    one, two = run(tmp_path / "one", second_order=True), run(tmp_path / "two", second_order=True)
    table = pd.read_csv(one / "indices.csv")
    assert {"outcome", "parameter", "index", "value", "lower", "upper", "interval"} == set(table.columns)
    assert set(table["index"]) == {"first", "total", "second"}
    for name in ("indices.csv", "convergence.csv", "failures.csv", "figures/ranked_cmax.png", "figures/pairs_cmax.csv"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    said = json.loads((one / "run.json").read_text(encoding="utf-8"))
    assert said["runs"] == 32 * (2 * len(said["inputs"]) + 2)
    assert not (one / "runs").exists()
    assert any("no data stand behind" in sentence for sentence in said["words"])


def test_worlds_stand_beside_each_other(tmp_path: Path) -> None:
    names = ["as assumed", "no host T-cell dysfunction"]
    options = {"vary": ["rho", "bR"], "samples": 64, "outcomes": ["cmax", "transgene"]}
    place = run(tmp_path / "both", worlds=names, **options)
    table, one = pd.read_csv(place / "indices.csv"), pd.read_csv(run(tmp_path / "one", **options) / "indices.csv")
    first = table[table["outcome"].str.contains(names[0])]
    assert set(first["outcome"].str.replace(f" ({names[0]})", "")) == set(one["outcome"])
    np.testing.assert_array_equal(first["value"], one["value"])
    total = table[table["index"] == "total"].set_index(["outcome", "parameter"])["value"]
    assert total["cmax (as assumed)", "bR"] > 0
    assert total["cmax (no host T-cell dysfunction)", "bR"] == 0, "which it switches off"
    figures = {file.name for file in (place / "figures").iterdir()}
    assert {
        "ranked_cmax_no_host_T_cell_dysfunction.png",
        "over_time_transgene_as_assumed.png",
        "heat_map.csv",
    } <= figures
    said = json.loads((place / "run.json").read_text(encoding="utf-8"))
    assert [world["name"] for world in said["worlds"]] == names
    assert said["courses_per_run"] == 2


@pytest.mark.parametrize("method", [Method.MORRIS, Method.SHAPLEY, Method.DGSM, Method.PAWN, Method.SHAPLEY_KNN])
def test_every_method_goes_through(tmp_path: Path, method: Method) -> None:
    place = run(tmp_path / "out", method=method, samples=128, vary=["rho", "tg", "B0"])
    table = pd.read_csv(place / "indices.csv")
    foremost = table[table["outcome"] == "cmax"].groupby("index", sort=False).head(3)
    assert set(foremost["parameter"]) == {"rho", "tg", "B0"}
    assert foremost["value"].max() > 0.1


def test_too_many_failed_runs_are_saved_and_end_with_code_3(tmp_path: Path, capsys) -> None:
    draw, cohort, out = np.random.default_rng(1), tmp_path / "cohort.csv", tmp_path / "out"
    unseen = np.arange(400) % 4 == 0  # whose M-protein at the infusion is below what can be measured
    rows = pd.DataFrame({"rho": draw.normal(1.2, 0.05, 400), "P0": np.where(unseen, 0.01, 3.0)})
    rows.assign(B0=1e11 * np.exp(draw.normal(size=400))).to_csv(cohort, index=False)
    options = {"outcome": ["best"], "method": Method.PAWN, "samples": 256}
    assert guarded(lambda: command(cohort=cohort, out=out, **options)) == ExitCode.NOT_TRUSTED
    failures = pd.read_csv(out / "failures.csv")
    said = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert said["left_out"] == len(failures) > 0.05 * said["units"]
    assert f"{said['left_out'] / said['units']:.1%} of the units were left out" in capsys.readouterr().err
    values = pd.read_csv(out / "indices.csv").set_index("parameter")["value"]
    assert values["B0"] > 0
    assert values["P0"] == 0, "3 g/dL in all who are left"


def test_a_ranking_that_is_not_stable_is_saved_and_ends_with_code_3(tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    options = {"method": Method.SOBOL, "samples": 8, "vary": ["B0", "rho", "tg"], "until_stable": True, "most": 1000}
    assert guarded(lambda: command(prior=True, out=out, outcome=["cmax"], **options)) == ExitCode.NOT_TRUSTED
    assert "the ranking for cmax is not stable after 640 runs" in capsys.readouterr().err
    said = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert list(said["unstable"]) == ["cmax"]
    assert said["runs"] == 640


def test_bad_input_writes_nothing(tmp_path: Path) -> None:
    for options, told in (
        ({"outcomes": ["cmx"]}, "unknown outcome"),
        ({"samples": 100}, "power of 2"),
        ({"vary": ["nothing"]}, "no input"),
        ({"outcomes": ["pfs2"]}, "relapse"),
        ({"scenario": "none such"}, "no scenario"),
        ({"worlds": ["as assumed", "none such"]}, "no world 'none such'"),
        ({"outcomes": ["cmax"], "vary": ["P0"]}, "in all .* runs"),  # which no cell answers to
    ):
        with pytest.raises(ReinfuseError, match=told):
            run(tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()


def test_runs_that_are_gone_on_with_outlive_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "out" / "runs").mkdir(parents=True)
    with pytest.raises(ReinfuseError, match="in all"):
        run(tmp_path / "out", outcomes=["cmax"], vary=["P0"], resume=True)
    assert any((tmp_path / "out" / "runs").iterdir())

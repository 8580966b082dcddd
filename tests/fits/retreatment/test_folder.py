import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from reinfuse.fits.retreatment import folder
from reinfuse.model.errors import ReinfuseError


def write(place, **provenance):
    outcomes = place / folder.UNFINISHED_FILE
    pd.DataFrame({"scenario": ["a"], "pfs_days_2": [np.inf]}).to_parquet(outcomes)
    folder.write(
        place,
        outcomes=outcomes,
        tables={"summary": pd.DataFrame({"measure": [">=VGPR"], "value": [0.5]}), "anchor": pd.DataFrame()},
        figures={"swimmer": Figure()},
        provenance={"seed": 3, "share": np.float64("nan"), "names": ("a", "b"), **provenance},
    )


def test_an_experiment_is_written_whole(tmp_path):
    place = folder.prepare(tmp_path / "deep" / "out")
    write(place)
    assert sorted(entry.name for entry in place.iterdir()) == [
        "figures",
        "outcomes.parquet",
        "run.json",
        "summary.csv",
    ]
    assert pd.read_parquet(place / "outcomes.parquet")["pfs_days_2"].tolist() == [np.inf]
    assert pd.read_csv(place / "summary.csv")["measure"].tolist() == [">=VGPR"]
    assert (place / "figures" / "swimmer.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((place / "run.json").read_text())
    assert (content["kind"], content["seed"], content["share"], content["names"]) == (
        "retreat",
        3,
        None,
        ["a", "b"],
    )


def test_an_experiment_may_be_repeated_and_leaves_nothing_old(tmp_path):
    place = folder.prepare(tmp_path / "out")
    write(place)
    (place / "figures" / "old.png").write_bytes(b"")
    (place / "anchor.csv").write_text("old")
    write(folder.prepare(tmp_path / "out"), seed=4)
    assert json.loads((place / "run.json").read_text())["seed"] == 4
    assert not (place / "figures" / "old.png").exists()
    assert not (place / "anchor.csv").exists()


@pytest.mark.parametrize("name", ["notes.txt", "run.json"])
def test_other_folders_are_refused_and_left_alone(tmp_path, name):
    (tmp_path / name).write_text('{"command": "reinfuse fit"}')
    with pytest.raises(ReinfuseError, match=f"{name}.*--force"):
        folder.prepare(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_force_keeps_what_is_not_ours(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.svg").write_text("mine")
    write(folder.prepare(tmp_path, force=True))
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "figures" / "mine.svg").exists()
    assert (tmp_path / "figures" / "swimmer.png").exists()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ReinfuseError, match="is a file"):
        folder.prepare(tmp_path / "out")

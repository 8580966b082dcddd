"""`reinfuse simulate` writes one virtual patient as a table and a figure, or nothing."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer

from reinfuse.model.course import Infusion
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.notice import NOTICE
from reinfuse.model.simulate import simulate as simulate_curves
from reinfuse.scripts import main, simulate
from reinfuse.scripts._shell import ExitCode, guarded

COLUMNS = "time E1 M1 X1 E2 M2 X2 Ts Tr Q A P S transgene cart sbcma mprotein".split()
SECOND = ["--second", "cilta-cel", "--at", "60", "--bridging", "0.3"]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def run(tmp_path):
    """Run the command as typed, in an empty folder; returns its exit code."""

    def call(*arguments: str) -> int:
        application = typer.main.get_command(main.build())
        return guarded(lambda: application.main(args=["simulate", *arguments], prog_name="reinfuse"))

    return call


@pytest.fixture
def table(run, tmp_path):
    """Run the command and read its table."""

    def call(*arguments: str) -> pd.DataFrame:
        out = tmp_path / "table.csv"
        assert run(*arguments, "--out", str(out)) == ExitCode.DONE
        return pd.read_csv(out)

    return call


class TestTable:
    def test_one_infusion(self, table):
        rows = table("--until", "30")
        assert list(rows) == COLUMNS
        np.testing.assert_array_equal(rows["time"], np.arange(31.0))
        assert rows[["E2", "M2", "X2"]].isna().all(axis=None)
        assert rows.drop(columns=["E2", "M2", "X2"]).notna().all(axis=None)

    def test_it_is_what_the_simulator_says(self, table):
        rows = table(*SECOND, "--until", "90", "--set", "kX=0.08", "--set", "f0_2=1.2", "--options", "real")
        curves = simulate_curves(
            course=[Infusion(product="ide-cel"), Infusion(product="cilta-cel", day=60.0, bridging=0.3)],
            until=90.0,
            parameters={"kX": 0.08, "f0_2": 1.2},
            options="real",
        )
        for name in COLUMNS:
            np.testing.assert_allclose(rows[name], curves[name], rtol=1e-9, err_msg=name)

    def test_the_row_at_the_second_infusion_is_after_it(self, table):
        rows = table(*SECOND, "--until", "61").set_index("time")
        assert rows.loc[:59, "E2"].isna().all()
        assert rows.loc[60, ["E2", "M2", "X2"]].sum() == pytest.approx(5.5e7 * 0.3 / 2.5e8)
        assert rows.loc[60, "Ts"] < 0.35 * rows.loc[59, "Ts"]

    def test_product_spacing_and_cross_immunity(self, table):
        again = ["--product", "cilta-cel", "--second", "ide-cel", "--at", "60", "--until", "120", "--every", "0.5"]
        rows, same = table(*again), table(*again, "--same-scfv")
        np.testing.assert_allclose(rows["time"], np.arange(0.0, 120.1, 0.5))
        assert rows["E1"][0] + rows["M1"][0] + rows["X1"][0] == pytest.approx(5.5e7 * 0.3 / 2.5e8)
        assert same["E2"].iloc[-1] < rows["E2"].iloc[-1]

    def test_again_gives_the_same_bytes(self, run, tmp_path):
        out = tmp_path / "table.csv"
        contents = []
        for _ in range(2):
            assert run("--until", "20", "--out", str(out)) == ExitCode.DONE
            contents.append(out.read_bytes())
        assert contents[0] == contents[1]
        assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]

    def test_what_is_told(self, run, tmp_path, capsys):
        out = tmp_path / "table.csv"
        run(*SECOND, "--until", "90", "--out", str(out))
        told = capsys.readouterr().out
        assert told.startswith(NOTICE)
        peak = pd.read_csv(out)[["E1", "M1", "X1"]].sum(axis=1).max()
        assert f"ide-cel: highest {peak:.3g} CAR+ cells/µL" in told
        assert f"Wrote {out}." in told


class TestFigure:
    @pytest.fixture(scope="class")
    @staticmethod
    def figures():
        courses = {
            "one": [Infusion(product="ide-cel")],
            "two": [Infusion(product="ide-cel"), Infusion(product="cilta-cel", day=60.0)],
            "again": [Infusion(product="ide-cel"), Infusion(product="ide-cel", day=60.0)],
        }
        return {
            name: simulate.draw(simulate_curves(course=course, until=120.0), course, title=name)
            for name, course in courses.items()
        }

    def test_it_is_written_beside_the_table(self, run, tmp_path):
        out, plot = tmp_path / "table.csv", tmp_path / "figure.png"
        assert run(*SECOND, "--until", "90", "--out", str(out), "--plot", str(plot)) == ExitCode.DONE
        assert plot.read_bytes().startswith(PNG)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["figure.png", "table.csv"]

    def test_four_panels_on_logarithmic_axes(self, figures):
        for name, figure in figures.items():
            panels = figure.axes
            titles = [panel.get_title(loc="left") for panel in panels]
            assert titles == ["CAR+ T cells", "myeloma burden", "M-protein", "soluble BCMA"]
            assert {panel.get_yscale() for panel in panels} == {"log"}
            assert figure.get_suptitle() == name
            low, high = panels[0].get_ylim()
            assert 1e-3 <= low < high < 1e5

    def test_the_second_infusion_is_marked(self, figures):
        def marks(figure):
            return [
                [line.get_xdata()[0] for line in panel.lines if len(line.get_xdata()) == 2] for panel in figure.axes
            ]

        assert marks(figures["one"]) == [[]] * 4
        assert marks(figures["two"]) == [[60.0]] * 4

    def test_products_have_their_colours_and_names(self, figures):
        for name, wanted in (("two", ["ide-cel, day 0", "cilta-cel, day 60"]), ("again", ["ide-cel, day 60"])):
            (legend,) = figures[name].legends
            words = [text.get_text() for text in legend.get_texts()]
            assert set(wanted) <= set(words)
            assert {"effector", "memory", "exhausted", "BCMA-low myeloma"} <= set(words)
            thick = [line.get_color() for line in figures[name].axes[0].lines if line.get_linewidth() > 1.5]
            assert len(set(thick)) == 2


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--product", "ide-cell"], r"ide-cell.*ide-cel"),
            (["--second", "cilta"], r"--second cilta without --at"),
            (["--second", "cilta", "--at", "20"], r"'cilta'.*cilta-cel"),
            (["--at", "20"], r"--at given without --second"),
            (["--bridging", "0.3", "--same-scfv"], r"--bridging, --same-scfv given without --second"),
            (["--second", "cilta-cel", "--at", "200"], r"--at is 200, after the last day 30"),
            (["--second", "cilta-cel", "--at", "nan"], r"--at is nan"),
            (["--second", "cilta-cel", "--at", "-3"], r"day is -3"),
            (["--second", "cilta-cel", "--at", "0"], r"day is 0"),
            (["--second", "cilta-cel", "--at", "20", "--bridging", "1.5"], r"bridging is 1.5"),
            (["--set", "rho"], r"--set 'rho' is not NAME=VALUE"),
            (["--set", "rho="], r"--set 'rho=' is not NAME=VALUE"),
            (["--set", "rho=fast"], r"--set rho: 'fast' is no number"),
            (["--set", "rho=1", "--set", "rho=2"], r"gives 'rho' twice"),
            (["--set", "rhoo=1"], r"unknown parameter 'rhoo'; did you mean .*rho"),
            (["--set", "rho=-1"], r"'rho' is -1"),
            (["--set", "rho=nan"], r"'rho' is nan"),
            (["--set", "fr=2"], r"could not be simulated"),
            (["--every", "0"], r"every is 0"),
            (["--every", "1e-9"], r"--every is 1e-09, more than 1,000,000 rows"),
            (["--until", "-5"], r"until is -5"),
            (["--until", "inf"], r"until is inf"),
        ],
    )
    def test_bad_input_is_one_message_and_nothing_is_written(self, run, tmp_path, capsys, arguments, message):
        until = [] if "--until" in arguments else ["--until", "30"]
        files = ["--out", str(tmp_path / "table.csv"), "--plot", str(tmp_path / "figure.png")]
        assert run(*until, *arguments, *files) == ExitCode.BAD_INPUT
        told = capsys.readouterr()
        assert told.err.startswith("Error: ")
        assert told.err.count("\n") == 1
        assert re.search(message, told.err), told.err
        assert told.out == ""
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("out", "plot", "message"),
        [
            ("no such/table.csv", None, "there is no folder"),
            (".", None, "is a folder"),
            ("table.csv", "figure.pdf", "does not end in .png"),
            ("table.csv", "no such/figure.png", "there is no folder"),
            ("same.png", "same.png", "--out and --plot are both"),
        ],
    )
    def test_files_that_cannot_be_written(self, tmp_path, out, plot, message):
        with pytest.raises(ReinfuseError, match=message):
            simulate.check_files(tmp_path / out, plot and tmp_path / plot)

    def test_both_files_or_none(self, tmp_path):
        (tmp_path / "folder").mkdir()
        (tmp_path / "table.csv").write_bytes(b"before")
        files = {tmp_path / "table.csv": b"after", tmp_path / "gone" / "figure.png": PNG}
        with pytest.raises(OSError, match="gone"):
            simulate.write(files)
        assert (tmp_path / "table.csv").read_bytes() == b"before"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "table.csv"]

    @pytest.mark.parametrize(
        "arguments", [["--until", "30"], ["--out", "x.csv"], ["--until", "long", "--out", "x.csv"]]
    )
    def test_wrong_usage(self, run, capsys, arguments):
        assert run(*arguments) == ExitCode.BAD_INPUT
        assert "Traceback" not in capsys.readouterr().err


def test_the_file_runs_by_itself(tmp_path):
    script = Path(simulate.__file__)
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=True)
    assert "--same-scfv" in done.stdout


def test_missing_values_are_empty_cells():
    curves = simulate_curves(course=[Infusion(product="ide-cel")], until=1.0)
    lines = simulate.table(curves).splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert len(lines) == 3
    cells = dict(zip(COLUMNS, lines[1].split(","), strict=True))
    assert (cells["time"], cells["E2"], cells["M2"], cells["X2"]) == ("0", "", "", "")
    assert math.isclose(float(cells["Ts"]), 1e11, rel_tol=1e-9)

"""`reinfuse identify` and `reinfuse design`: what they write, print and refuse."""

import json
from contextlib import suppress

import pandas as pd
import pytest
from rich.console import Console

from reinfuse.fits.diagnosis.identifiability import SOURCES
from reinfuse.fits.identification import examine, preposterior, profile_tasks
from reinfuse.model.errors import ReinfuseError
from reinfuse.scripts._shell import ExitCode, NotTrusted, guarded
from reinfuse.scripts.design import command as design_command
from reinfuse.scripts.design import compare
from reinfuse.scripts.identify import command as identify_command
from reinfuse.scripts.identify import identify

from ..fits import drawn_run, small_cohorts

DESIGNS = """
[study]
patients = 6
products = {"ide-cel" = 1.0}

[[design]]
name = "few"
cart = [14]
sbcma = [30]

[[design]]
name = "many"
cart = [7, 14, 30]
transgene = [7, 14]
sbcma = [0, 30]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return drawn_run.write(tmp_path_factory.mktemp("identify") / "run", small_cohorts.posed(one=4, two=0))


@pytest.fixture
def doubtful(run):
    """The run, as if its diagnostics had found that it did not converge."""
    told = run.path / "diagnostics.json"
    told.write_text(json.dumps({"converged": False}))
    yield run
    told.write_text(json.dumps({"converged": True}))


def here(function, tasks, **_):
    """Do tasks in this process, where what was patched is so."""
    return ((number, function(task)) for number, task in tasks.items())


def console() -> Console:
    return Console(record=True, width=100, force_terminal=False)


@pytest.fixture(scope="module")
def identified(run, tmp_path_factory):
    """The folder, and what was printed."""
    out, shown = tmp_path_factory.mktemp("out") / "identified", console()
    identify(run=run.path, out=out, chosen=["rho"], points=16, draws=4, console=shown)
    return out, shown.export_text()


@pytest.fixture(scope="module")
def designed(run, tmp_path_factory):
    folder, shown = tmp_path_factory.mktemp("out"), console()
    file = folder / "designs.toml"
    file.write_text(DESIGNS)
    wanted = {"populations": 4, "benefit_draws": 80, "virtual": 500}
    compare(run=run.path, out=folder / "designed", designs=file, console=shown, **wanted)
    return folder / "designed", shown.export_text(), file


class TestIdentify:
    def test_every_parameter_has_a_source_and_an_expected_sd(self, identified):
        table = pd.read_csv(identified[0] / "identifiability.csv")
        assert set(table["value_from"]) <= set(SOURCES)
        assert table["expected_sd"].notna().all()
        assert (table["expected_sd"] <= table["prior_sd"] * 1.1).all()  # the prior's sd is of finitely many draws
        spreads = table[table["family"] == "omega"]
        assert spreads[["shrinkage", "expected_shrinkage"]].notna().all(axis=None)

    def test_directions_come_weakest_first(self, identified):
        table = pd.read_csv(identified[0] / "directions.csv")
        assert table["information_over_prior"].is_monotonic_increasing
        assert table["words"].notna().all()

    def test_profiles_have_points_and_limits(self, identified):
        points, limits = (pd.read_csv(identified[0] / f"{name}.csv") for name in ("profiles", "profile_limits"))
        assert set(points["parameter"]) == {"rho"}
        assert points["drop"].min() == pytest.approx(0.0, abs=0.1)
        assert 0 < limits.loc[0, "low"] < limits.loc[0, "best"] < limits.loc[0, "high"]

    def test_elasticities_are_of_the_most_frequent_product(self, identified):
        record = json.loads((identified[0] / "run.json").read_text())
        assert record["product"] in ("ide-cel", "cilta-cel")
        assert record["kind"] == "identify"
        table = pd.read_csv(identified[0] / "elasticities.csv")
        assert table.iloc[0]["parameter"] == "rho"

    def test_pictures_and_words_are_there(self, identified):
        out, printed = identified
        figures = {file.name for file in (out / "figures").iterdir()}
        assert figures == {"information.png", "ellipses.png", "profiles.png", "tornado.png"}
        for title in ("What gave each parameter its value", "see least", "Profile likelihood", "outcomes hang on"):
            assert title in printed

    def test_what_was_interrupted_goes_on_with_the_profiles_it_has(self, run, identified, tmp_path, monkeypatch):
        out, wanted = tmp_path / "o", {"chosen": ["rho"], "points": 16, "draws": 4, "console": console()}

        def interrupted(*_, **__):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(examine, "local_sensitivity", interrupted)
            with pytest.raises(KeyboardInterrupt):
                identify(run=run.path, out=out, **wanted)
        kept = out / "profiles" / "000000.npz"
        written = kept.stat().st_mtime_ns
        with pytest.raises(ReinfuseError, match="add --resume to go on"):
            identify(run=run.path, out=out, **wanted)
        with pytest.raises(ReinfuseError, match=r"made otherwise.*seed: 1, now 2"):
            identify(run=run.path, out=out, resume=True, seed=2, **wanted)
        assert kept.stat().st_mtime_ns == written
        monkeypatch.setattr(profile_tasks, "draw_profile", interrupted)  # nothing is left to draw
        identify(run=run.path, out=out, resume=True, **wanted)
        for name in ("profiles.csv", "profile_limits.csv", "identifiability.csv", "elasticities.csv"):
            assert (out / name).read_bytes() == (identified[0] / name).read_bytes()
        assert not kept.parent.exists()

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
    def test_a_cluster_gives_the_same_bytes(self, run, identified, designed, tmp_path, cluster):
        address, _ = cluster
        identify(
            run=run.path, out=tmp_path / "i", chosen=["rho"], points=16, draws=4, cluster=address, console=console()
        )
        wanted = {"designs": designed[2], "populations": 4, "benefit": False}
        compare(run=run.path, out=tmp_path / "d", cluster=address, console=console(), **wanted)
        for (before, _, *_), name, file in ((identified, "i", "profiles.csv"), (designed, "d", "parameters.csv")):
            assert (tmp_path / name / file).read_bytes() == (before / file).read_bytes()

    def test_a_run_that_did_not_converge_is_saved_and_ends_with_code_3(self, doubtful, tmp_path, capsys):
        out = tmp_path / "o"
        assert guarded(lambda: identify_command(doubtful.path, out, profiles=False, draws=2)) == ExitCode.NOT_TRUSTED
        assert f"not converged; see `reinfuse diagnose {doubtful.path}`" in capsys.readouterr().err
        assert json.loads((out / "run.json").read_text())["kind"] == "identify"
        assert len(pd.read_csv(out / "identifiability.csv")) > 10
        assert len(pd.read_csv(out / "profiles.csv")) == 0

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"chosen": ["rhoo"]}, "no profile of 'rhoo'; there are those of rho"),
            ({"product": "xyz-cel", "profiled": False}, "xyz-cel"),
        ],
    )
    def test_what_makes_no_sense_is_refused_and_nothing_written(self, run, tmp_path, options, words):
        with pytest.raises(ReinfuseError, match=words):
            identify(run=run.path, out=tmp_path / "o", draws=2, console=console(), **options)
        assert not (tmp_path / "o").exists()

    def test_a_folder_of_somebody_else_is_left_alone(self, run, tmp_path):
        (tmp_path / "mine.txt").write_text("mine")
        with pytest.raises(ReinfuseError, match="holds other files"):
            identify(run=run.path, out=tmp_path, console=console())

    def test_out_is_needed(self, run):
        with pytest.raises(ReinfuseError, match="--out is missing"):
            identify_command(run.path)


class TestDesign:
    def test_each_design_has_an_sd_for_each_parameter(self, designed):
        table = pd.read_csv(designed[0] / "parameters.csv")
        assert list(dict.fromkeys(table["design"])) == ["no further samples", "few", "many"]
        wide = table.pivot(index="parameter", columns="design", values="sd")
        assert (wide["many"] <= wide["few"] * (1 + 1e-9)).all()
        assert (wide["few"] <= wide["no further samples"] * (1 + 1e-9)).all()

    def test_the_benefit_is_asked_for_too(self, designed):
        table = pd.read_csv(designed[0] / "benefit.csv").set_index("design")
        assert table.loc["many", "sd"] <= table.loc["few", "sd"] <= table.loc["no further samples", "sd"]
        assert table["explained"].between(0, 1).all()
        assert "benefit" in designed[1]

    def test_the_folder_says_where_it_comes_from(self, designed):
        record = json.loads((designed[0] / "run.json").read_text())
        assert record["kind"] == "design"
        assert record["source"] == "the posterior of run"
        assert [one["name"] for one in record["designs"]["design"]] == ["few", "many"]
        assert (designed[0] / "figures" / "designs.png").is_file()
        assert set(pd.read_csv(designed[0] / "designs.csv")["assay"]) == {"cart", "transgene", "sbcma"}

    def test_what_was_interrupted_goes_on_to_the_same_numbers(self, designed, run, tmp_path, monkeypatch):
        out = tmp_path / "again"
        wanted = {"designs": designed[2], "populations": 4, "benefit": False, "console": console(), "cores": 1}

        def interrupted(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(preposterior, "posterior_covariance", interrupted)
            with pytest.raises(KeyboardInterrupt):
                compare(run=run.path, out=out, **wanted)
        assert len(list((out / "populations").glob("*.npz"))) == 4
        monkeypatch.setattr(preposterior, "see_population", interrupted)  # all are there
        compare(run=run.path, out=out, resume=True, **wanted)
        once, again = ((folder / "parameters.csv").read_bytes() for folder in (designed[0], out))
        assert once == again
        assert not (out / "populations").exists()

    def test_a_run_that_did_not_converge_is_saved_and_ends_with_code_3(self, designed, doubtful, tmp_path, capsys):
        out, options = tmp_path / "o", {"designs": designed[2], "populations": 4, "benefit": False}
        assert guarded(lambda: design_command(doubtful.path, out, **options)) == ExitCode.NOT_TRUSTED
        assert f"not converged; see `reinfuse diagnose {doubtful.path}`" in capsys.readouterr().err
        assert json.loads((out / "run.json").read_text())["kind"] == "design"
        assert (out / "parameters.csv").read_bytes() == (designed[0] / "parameters.csv").read_bytes()

    def test_patients_who_cannot_be_simulated_end_it_with_code_3(self, designed, run, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("reinfuse.fits.identification.readouts.MAX_STEPS", 30)
        monkeypatch.setattr("reinfuse.fits.tasks.run_tasks", here)
        out, options = tmp_path / "o", {"designs": designed[2], "populations": 4, "benefit": False}
        assert guarded(lambda: design_command(run.path, out, **options)) == ExitCode.NOT_TRUSTED
        told = capsys.readouterr().err
        share = json.loads((out / "run.json").read_text())["failed"]
        assert f"{share:.1%} of the patients could not be simulated" in told
        assert 0.01 < share <= 1

    def test_priors_alone_will_do(self, designed, tmp_path):
        shown = console()
        options = {"designs": designed[2], "populations": 4, "patients": 3, "benefit": False}
        with suppress(NotTrusted):  # draws of wide priors may not be solved
            compare(run=None, out=tmp_path / "o", console=shown, **options)
        assert "the priors, no data" in shown.export_text()
        assert not (tmp_path / "o" / "benefit.csv").exists()
        assert set(pd.read_csv(tmp_path / "o" / "designs.csv")["patients"]) == {3}

    @pytest.mark.parametrize("both", [True, False])
    def test_a_run_or_the_priors_not_both(self, run, tmp_path, both):
        with pytest.raises(ReinfuseError, match="not both"):
            design_command(run.path if both else None, tmp_path / "o", prior=both)

    def test_a_faulty_file_writes_nothing(self, run, tmp_path):
        file = tmp_path / "d.toml"
        file.write_text('[[design]]\nname = "a"\ncart = [0]\n')
        with pytest.raises(ReinfuseError, match="cart is sampled on day 0"):
            compare(run=run.path, out=tmp_path / "o", designs=file, console=console())
        assert not (tmp_path / "o").exists()

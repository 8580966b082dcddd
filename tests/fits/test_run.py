"""The run folder: written whole or not at all, read back exactly, and honest about what it is not."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from reinfuse.fits import run as run_module
from reinfuse.fits.run import PRODUCTS_FILE, RunFolder, git_revision, provenance, settings_hash, sha256_of, versions
from reinfuse.model import products
from reinfuse.model.errors import ReinfuseError

from . import fake_run


@pytest.fixture(scope="module")
def fake():
    return fake_run.make(n_patients=6, chains=2, draws=20)


@pytest.fixture
def run(tmp_path, fake):
    return fake_run.write(tmp_path / "run", fake=fake)


def leftovers(run):
    return [path.name for path in run.path.rglob("*.part")]


MINE = """
[[product]]
name = "mine"
dose = 1e8
fM0 = 0.1
fX0 = 0.05
immunogenicity = 0.5
scale = 100
scfv = "mine"
source = "made up"
"""


def test_its_own_products_are_made_known(run, monkeypatch):
    monkeypatch.setattr(products, "_registry", registry := dict(products._registry))
    monkeypatch.setattr(products, "PRODUCTS", registry)
    known = set(registry)
    run.register_products()
    assert set(registry) == known, "there are none"
    (run.path / PRODUCTS_FILE).write_text(MINE, encoding="utf-8")
    for _ in range(2):
        run.register_products()
    assert set(registry) == known | {"mine"}


class TestMaking:
    def test_a_new_folder_is_made_with_its_parents(self, tmp_path):
        assert RunFolder.create(tmp_path / "a" / "b").path.is_dir()

    def test_a_file_is_refused(self, tmp_path):
        (tmp_path / "out").write_text("mine")
        with pytest.raises(ReinfuseError, match="is a file"):
            RunFolder.create(tmp_path / "out")
        assert (tmp_path / "out").read_text() == "mine"

    @pytest.mark.parametrize("option", ["resume", "overwrite"])
    def test_a_folder_of_other_files_is_refused_whatever_was_asked(self, tmp_path, option):
        (tmp_path / "thesis.doc").write_text("mine")
        with pytest.raises(ReinfuseError, match=r"thesis\.doc"):
            RunFolder.create(tmp_path, **{option: True})
        assert (tmp_path / "thesis.doc").read_text() == "mine"

    def test_a_run_is_not_written_over_unasked(self, run):
        with pytest.raises(ReinfuseError, match="--resume"):
            RunFolder.create(run.path)

    def test_a_finished_run_cannot_be_resumed(self, run):
        run.update_provenance(status="done")
        before = sorted(path.name for path in run.path.iterdir())
        with pytest.raises(ReinfuseError, match="nothing to resume"):
            RunFolder.create(run.path, resume=True)
        assert sorted(path.name for path in run.path.iterdir()) == before

    def test_resume_keeps_everything(self, run):
        run.update_provenance(status="interrupted")
        before = sorted(path.name for path in run.path.iterdir())
        RunFolder.create(run.path, resume=True)
        assert sorted(path.name for path in run.path.iterdir()) == before

    def test_overwrite_removes_the_run_and_nothing_else(self, run):
        (run.path / "notes.txt").write_text("mine")
        run.save_chain(0, xr.Dataset({"x": ("draw", [1.0])}), settings="s")
        RunFolder.create(run.path, overwrite=True)
        assert [path.name for path in run.path.iterdir()] == ["notes.txt"]


class TestOpening:
    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda path: None, "no folder"),
            (lambda path: path.write_text("x"), "is a file"),
            (lambda path: path.mkdir(), "not a run folder"),
            (lambda path: (path.mkdir(), (path / "run.json").write_text("{")), "not readable as JSON"),
            (lambda path: (path.mkdir(), (path / "run.json").write_text("[1]")), "holds a list"),
            (lambda path: (path.mkdir(), (path / "run.json").write_text('{"seed": 1}')), "lacks command"),
        ],
    )
    def test_what_is_not_a_run_is_told_so(self, tmp_path, make, words):
        make(tmp_path / "run")
        with pytest.raises(ReinfuseError, match=words):
            RunFolder.open(tmp_path / "run")

    def test_a_changed_cohort_is_seen(self, run):
        run.cohort_path.write_bytes(run.cohort_path.read_bytes() + b"\n")
        with pytest.raises(ReinfuseError, match="has changed"):
            RunFolder.open(run.path)

    def test_a_lost_cohort_is_seen(self, run):
        run.cohort_path.unlink()
        with pytest.raises(ReinfuseError, match=r"lacks cohort\.csv"):
            RunFolder.open(run.path)

    def test_a_run_without_draws_says_how_to_go_on(self, run):
        (run.path / "posterior.nc").unlink()
        with pytest.raises(ReinfuseError, match="--resume"):
            RunFolder.open(run.path).posterior()

    def test_a_damaged_posterior_is_seen(self, run):
        file = run.path / "posterior.nc"
        file.write_bytes(file.read_bytes()[:5000])
        with pytest.raises(ReinfuseError, match="has changed"):
            run.posterior()
        run._record("posterior.nc")  # as if it had been written so
        with pytest.raises(ReinfuseError, match="not readable as NetCDF"):
            run.posterior()


class TestDraws:
    def test_the_posterior_comes_back_exactly(self, run, fake):
        back = run.posterior()
        assert set(back.children) == set(fake.tree.children)
        for name, group in fake.tree.children.items():
            xr.testing.assert_equal(back[name].to_dataset(), group.to_dataset())

    def test_everything_missing_is_named_at_once(self, run, fake):
        posterior = fake.tree["posterior"].to_dataset()
        broken = xr.DataTree.from_dict(
            {
                "/posterior": posterior.drop_vars("omega").assign(
                    population=posterior["population"].transpose("draw", "chain", "parameter")
                ),
                "/sample_stats": fake.tree["sample_stats"].to_dataset(),
            }
        )
        with pytest.raises(ReinfuseError) as caught:
            run.write_posterior(broken)
        for part in (
            "/posterior/omega is missing",
            "/posterior/population has dimensions",
            "group /observed_data",
        ):
            assert part in str(caught.value)

    def test_a_write_that_fails_leaves_the_old_file(self, run, fake, monkeypatch):
        before = (run.path / "posterior.nc").read_bytes()

        def fail(tree, file):
            file.write_bytes(b"half")
            raise OSError("disk full")

        monkeypatch.setattr(run_module, "_write_tree", fail)
        with pytest.raises(OSError, match="disk full"):
            run.write_posterior(fake.tree)
        assert (run.path / "posterior.nc").read_bytes() == before
        assert leftovers(run) == []

    def test_a_forecast_is_optional_and_comes_back(self, run):
        assert run.forecast() is None
        forecast = xr.Dataset(
            {
                "prediction": (("sample", "row"), np.ones((3, 2))),
                "dvid": ("row", ["cart", "sbcma"]),
                "cutoff_day": ("row", [14.0, 30.0]),
            },
        )
        run.write_forecast(forecast)
        xr.testing.assert_identical(run.forecast(), forecast)

    def test_a_forecast_with_one_cutoff_and_no_weights_is_still_read(self, run):
        """The layout of earlier versions."""
        forecast = xr.Dataset(
            {"prediction": (("sample", "row"), np.ones((3, 2))), "risk": ("subject", [0.1, 0.2, 0.3])},
            coords={"subject": ["a", "b", "c"]},
            attrs={"cutoff_day": 40.0},
        )
        run.write_forecast(forecast)
        found = run.forecast()
        assert found["cutoff_day"].values.tolist() == [40.0, 40.0]
        np.testing.assert_array_equal(found["log_weight"], np.zeros((3, 2)))
        np.testing.assert_array_equal(found["risk"].sel(cutoff=40.0), forecast["risk"])


class TestChains:
    def test_a_finished_chain_comes_back_for_the_same_settings_only(self, run):
        draws = xr.DataTree.from_dict({"/posterior": xr.Dataset({"x": ("draw", np.arange(5.0))})})
        run.save_chain(2, draws, settings="abc")
        run.save_chain(0, draws, settings="abc")
        run.save_chain(1, draws, settings="other")
        assert run.finished_chains("abc") == [0, 2]
        assert run.finished_chains("new") == []
        np.testing.assert_array_equal(run.load_chain(2)["posterior"]["x"].values, np.arange(5.0))
        assert leftovers(run) == []

    def test_a_state_comes_back_to_the_same_fit_only(self, run):
        state = {"h": np.array([1.0, np.pi]), "rng": np.frombuffer(b"abc", dtype=np.uint8)}
        run.save_state(1, state, settings="abc")
        found = run.load_state(1, settings="abc")
        assert found.keys() == state.keys()
        for name, values in state.items():
            np.testing.assert_array_equal(found[name], values)
        assert run.load_state(1, settings="other") is None
        assert run.load_state(0, settings="abc") is None

    def test_a_damaged_state_is_none(self, run):
        run.save_state(0, {"h": np.zeros(1000)}, settings="abc")
        file = run.path / "chains" / "state-0.npz"
        file.write_bytes(file.read_bytes()[:700])
        assert run.load_state(0, settings="abc") is None

    def test_a_finished_chain_keeps_its_state_for_it_may_go_on(self, run):
        run.save_state(0, {"h": np.zeros(3)}, settings="abc")
        run.save_chain(0, xr.Dataset({"x": ("draw", [1.0])}), settings="abc")
        assert run.load_state(0, settings="abc")["h"].size == 3

    def test_a_damaged_chain_is_passed_over(self, run):
        file = run.save_chain(0, xr.Dataset({"x": ("draw", np.arange(5.0))}), settings="abc")
        file.write_bytes(file.read_bytes()[:100])
        assert run.finished_chains("abc") == []
        with pytest.raises(ReinfuseError, match="not readable"):
            run.load_chain(0)

    def test_an_absent_chain_is_told_so(self, run):
        with pytest.raises(ReinfuseError, match="no finished chain 7"):
            run.load_chain(7)

    def test_chains_can_be_cleared(self, run):
        run.save_chain(0, xr.Dataset({"x": ("draw", [1.0])}), settings="abc")
        run.clear_chains()
        assert run.finished_chains("abc") == []

    def test_the_digest_depends_on_values_and_not_on_order(self):
        one = settings_hash({"seed": 1, "draws": 500, "options": {"a": 1, "b": np.float64(2)}})
        assert one == settings_hash({"options": {"b": 2.0, "a": 1}, "draws": 500, "seed": 1})
        assert one != settings_hash({"seed": 2, "draws": 500, "options": {"a": 1, "b": 2.0}})


class TestProvenance:
    def test_it_names_versions_and_keeps_what_it_is_given(self, run):
        written = run.provenance
        assert written["versions"]["numpy"] == np.__version__
        assert written["versions"]["python"].count(".") == 2
        assert written["command"] == "reinfuse fit cohort.csv --out run --seed 7"
        assert written["cohort_sha256"] == sha256_of(run.cohort_path) == written["files"]["cohort.csv"]
        assert written["files"]["posterior.nc"] == sha256_of(run.path / "posterior.nc")

    def test_the_program_is_named_without_its_path(self):
        made = provenance(
            seed=1, cohort_sha256="", sampler="s", model="m", options={}, variant="full", status="done",
            command=["/home/someone/bin/reinfuse", "fit", "my file.csv"],
        )  # fmt: skip
        assert made["command"] == "reinfuse fit 'my file.csv'"

    def test_a_package_that_is_absent_has_no_version(self, monkeypatch):
        monkeypatch.setattr(run_module, "PACKAGES", ("no-such-package-here",))
        assert versions()["no-such-package-here"] is None

    def test_a_folder_git_does_not_track_has_no_revision(self, tmp_path):
        assert git_revision(tmp_path) is None

    def test_updates_keep_the_rest(self, run):
        before = run.provenance
        run.update_provenance(status="interrupted", wall_seconds={"sampling": np.float64(3.5)})
        assert run.provenance == {**before, "status": "interrupted", "wall_seconds": {"sampling": 3.5}}

    def test_a_gap_in_run_json_is_refused(self, run):
        with pytest.raises(ReinfuseError, match="sampler"):
            run.write_provenance({key: 0 for key in run_module.RUN_KEYS if key != "sampler"})

    def test_rewriting_keeps_the_checksums(self, run):
        files = run.provenance["files"]
        run.write_provenance({key: 0 for key in run_module.RUN_KEYS})
        assert run.provenance["files"] == files


def test_tables_come_back(run):
    table = pd.DataFrame({"parameter": ["rho", "k"], "median": [1.25, np.nan], "tag": ["CAL", ""]})
    run.write_summary(table)
    back = run.summary()
    assert back["parameter"].tolist() == ["rho", "k"]
    assert back["median"].iloc[0] == 1.25
    assert np.isnan(back["median"].iloc[1])
    run.write_diagnostics({"max_rhat": float("inf"), "n": np.int64(3), "worst": [{"rhat": float("nan")}]})
    assert run.diagnostics() == {"max_rhat": None, "n": 3, "worst": [{"rhat": None}]}
    json.loads((run.path / "diagnostics.json").read_text())


def test_tables_that_are_not_there_say_what_to_run(run):
    with pytest.raises(ReinfuseError, match="reinfuse diagnose"):
        run.summary()
    with pytest.raises(ReinfuseError, match="reinfuse diagnose"):
        run.diagnostics()


def test_a_cohort_given_as_a_table_is_written_as_csv(tmp_path, fake):
    run = RunFolder.create(tmp_path / "run")
    digest = run.write_cohort(fake.cohort)
    assert digest == sha256_of(run.cohort_path)
    assert len(pd.read_csv(run.cohort_path)) == len(fake.cohort)


def test_a_cohort_file_is_copied_byte_for_byte(tmp_path):
    source = tmp_path / "mine.csv"
    source.write_bytes(b"ID,TIME\r\n1,0\r\n")
    run = RunFolder.create(tmp_path / "run")
    run.write_cohort(source)
    assert run.cohort_path.read_bytes() == source.read_bytes()

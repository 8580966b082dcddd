"""`reinfuse fit`: what a run leaves behind, what is refused, and how an interrupted one goes on."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import typer

from reinfuse.fits.run import CHAINS_FOLDER, COHORT_FILE, POSTERIOR_FILE, RunFolder, sha256_of
from reinfuse.scripts import main
from reinfuse.scripts._shell import ExitCode, guarded

from ..fits import small_cohorts

SHORT = ("--draws", "10", "--tune", "50", "--thin", "1", "--chains", "2", "--seed", "5")


def fit(*words) -> int:
    """Run the command in this process, so that the compiled kernels are shared."""
    return guarded(lambda: typer.main.get_command(main.build()).main(args=["fit", *map(str, words)]))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The cohort of the other tests, as a file."""
    path = tmp_path_factory.mktemp("cohort") / "small.csv"
    small_cohorts.rows_of(one=4, two=0).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    """A run that is far too short, with what it printed and how it ended."""
    run = tmp_path_factory.mktemp("runs") / "run"
    done = subprocess.run(
        [sys.executable, "-m", "reinfuse.scripts.main", "fit", str(table), "--out", str(run), *SHORT],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"},
    )
    return run, done


#: The command, keeping the state of its chains after every sweep.
SAVES_OFTEN = """
import sys
from reinfuse.fits import fitting
from reinfuse.scripts import main
from reinfuse.scripts._shell import guarded
class Often(fitting._Saver):
    def __call__(self, chain, state):
        self.run.save_state(chain, state(), settings=self.identity)
fitting._Saver = Often
sys.argv[0] = "reinfuse"
sys.exit(guarded(lambda: main.build()()))
"""


def sweeps_saved(run) -> int:
    """Of the chain that is farthest, draws included."""
    found = [0]
    for file in (run / CHAINS_FOLDER).glob("state-*.npz"):
        with contextlib.suppress(OSError), np.load(file) as state:
            found.append(int(state["done"][:2].sum()))
    return max(found)


class TestRepeat:
    def test_it_gives_the_same_draws_and_says_so(self, finished, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("reinfuse.scripts.diagnose.judge", lambda run, console: None)
        assert fit("--repeat", finished[0], "--out", tmp_path / "again", "--cores", "1") == ExitCode.DONE
        assert "The draws are the same as those of" in " ".join(capsys.readouterr().out.split())
        first, again = (RunFolder.open(path).provenance for path in (finished[0], tmp_path / "again"))
        assert again["settings"] == first["settings"]
        assert again["cohort_sha256"] == first["cohort_sha256"]

    def test_other_draws_are_not_called_the_same(self, finished, table, tmp_path, monkeypatch):
        monkeypatch.setattr("reinfuse.scripts.diagnose.judge", lambda run, console: None)
        from reinfuse.fits.repeat import Recipe

        other = tmp_path / "other"
        assert fit(table, "--out", other, *SHORT[:-1], "6") == ExitCode.DONE
        assert not Recipe.of(finished[0]).same_draws(RunFolder.open(other))

    def test_what_the_run_says_is_not_said_twice(self, finished, table, tmp_path, capsys):
        assert fit(table, "--repeat", finished[0], "--out", tmp_path / "a", "--seed", "2") == ExitCode.BAD_INPUT
        assert "leave out cohort, seed" in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "a").exists()

    def test_a_run_is_not_cleared_before_it_is_read(self, finished, capsys):
        before = RunFolder.open(finished[0]).provenance
        assert fit("--repeat", finished[0], "--out", finished[0], "--force") == ExitCode.BAD_INPUT
        assert "which --force would clear first" in " ".join(capsys.readouterr().err.split())
        assert RunFolder.open(finished[0]).provenance == before

    def test_a_run_that_is_not_finished(self, finished, tmp_path, capsys):
        copy = tmp_path / "copy"
        shutil.copytree(finished[0], copy)
        RunFolder(copy).update_provenance(status="interrupted")
        assert fit("--repeat", copy, "--out", tmp_path / "again") == ExitCode.BAD_INPUT
        assert "status: interrupted" in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "again").exists()

    def test_no_cohort_at_all(self, tmp_path, capsys):
        assert fit("--out", tmp_path / "a") == ExitCode.BAD_INPUT
        assert "give COHORT.csv, or --repeat RUN" in " ".join(capsys.readouterr().err.split())

    def test_other_versions_are_named(self, finished, tmp_path):
        from reinfuse.fits.repeat import Recipe

        copy = tmp_path / "copy"
        shutil.copytree(finished[0], copy)
        written = json.loads((copy / "run.json").read_text())
        written["versions"]["numpy"] = "1.0"
        (copy / "run.json").write_text(json.dumps(written))
        assert any(text.startswith("numpy 1.0 then") for text in Recipe.of(copy).differences())
        assert Recipe.of(finished[0]).differences() == []


class TestFinishedRun:
    def test_it_ends_with_3_and_says_what_to_try(self, finished):
        _, done = finished
        assert done.returncode == ExitCode.NOT_TRUSTED, done.stderr
        assert "Traceback" not in done.stderr
        assert "do not trust it yet" in done.stderr
        assert "R-hat" in done.stderr
        assert "--draws" in done.stderr or "--tune" in done.stderr
        assert "not converged" in done.stdout

    def test_progress_comes_in_plain_lines_with_time_left(self, finished):
        _, done = finished
        for stage in ("Compiling", "Exploring", "Sampling", "Predicting"):
            assert f"{stage}: started" in done.stderr
        assert "left" in done.stderr

    def test_nothing_alarming_is_printed_beside(self, finished):
        assert "Warning" not in finished[1].stderr

    def test_the_folder_holds_what_the_interface_promises(self, finished):
        run, _ = finished
        names = {entry.name for entry in run.iterdir()}
        assert names >= {
            "run.json",
            "cohort.csv",
            "posterior.nc",
            "summary.csv",
            "diagnostics.json",
            "forecast.nc",
            "figures",
            "report.html",
        }
        assert CHAINS_FOLDER not in names
        assert not [name for name in names if name.endswith(".part")]
        assert len(list((run / "figures").glob("*.png"))) > 5

    def test_its_record_says_where_it_came_from(self, finished, table):
        run, _ = finished
        record = RunFolder.open(run).provenance
        assert record["status"] == "done"
        assert record["seed"] == 5
        assert record["cohort_sha256"] == sha256_of(table) == sha256_of(run / COHORT_FILE)
        assert record["variant"] == "no-exhaustion"
        assert "blocks" in record["sampler"]
        assert set(record["wall_seconds"]) == {"compile", "setup", "sampling", "post"}
        assert "--seed 5" in record["command"]
        assert record["settings"]["draws"] == 10

    def test_its_draws_are_a_posterior(self, finished):
        tree = RunFolder.open(finished[0]).posterior()
        posterior = tree["posterior"].to_dataset()
        assert (posterior.sizes["chain"], posterior.sizes["draw"]) == (2, 10)
        assert np.isfinite(posterior["population"]).all()
        assert set(tree.children) >= {"prior", "sample_stats", "posterior_predictive", "observed_data", "curves"}

    def test_its_diagnosis_says_why_not(self, finished):
        run, _ = finished
        found = json.loads((run / "diagnostics.json").read_text())
        assert found["converged"] is False
        assert found["min_ess_bulk"] < 400
        assert "solver_failures" in found
        assert json.loads((run / "run.json").read_text())["solved_implicitly"] >= 0
        summary = pd.read_csv(run / "summary.csv")
        assert {"parameter", "unit", "median"} <= set(summary.columns)
        assert "rho" in set(summary["parameter"])

    def test_it_is_not_written_over_without_being_asked(self, finished, table, capsys):
        run, _ = finished
        before = sha256_of(run / POSTERIOR_FILE)
        assert fit(table, "--out", run, *SHORT) == ExitCode.BAD_INPUT
        assert "already holds a run" in capsys.readouterr().err
        assert sha256_of(run / POSTERIOR_FILE) == before

    def test_a_comparison_reads_it_back(self, finished, table):
        """`--compare` fits other variants beside it; with none there is one row."""
        from reinfuse.fits import fitting
        from reinfuse.fits.cohort import read_cohort
        from reinfuse.fits.sampling import Settings
        from reinfuse.scripts.fit import shown

        run = RunFolder.open(finished[0])
        fitting.compare_variants(run, read_cohort(table), Settings(), others=(), progress=shown)
        (row,) = RunFolder.open(run.path).provenance["comparison"]
        assert row["variant"] == "no-exhaustion"
        assert row["difference"] == 0.0
        assert row["elpd"] == pytest.approx(float(run.posterior()["integrated"]["elpd"].sum()))
        # whether the fits that are compared can be trusted stands beside
        found = json.loads((run.path / "diagnostics.json").read_text())
        assert row["max_rhat"] == pytest.approx(found["max_rhat"])
        assert row["min_ess"] == pytest.approx(min(found["min_ess_bulk"], found["min_ess_tail"]))


class TestNullModel:
    def test_one_infusion_cannot_tell_it_and_the_run_says_so(self, finished):
        run, done = finished
        found = RunFolder.open(run).provenance["null_model"]
        assert found["variant"] == "neither"
        assert found["status"] == "same likelihood"
        assert found["largest_difference"] < 1e-9
        assert not (run / "variants").exists()
        assert "host T-cell dysfunction: these data cannot tell" in " ".join(done.stdout.split())

    @pytest.mark.slow
    def test_two_infusions_can_and_it_is_fitted_beside(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("reinfuse.scripts.diagnose.judge", lambda run, console: None)
        cohort = tmp_path / "two.csv"
        small_cohorts.rows_of(one=2, two=3).to_csv(cohort, index=False)
        run = tmp_path / "run"
        assert fit(cohort, "--out", run, *SHORT) == ExitCode.DONE
        written = RunFolder.open(run).provenance
        assert written["null_model"]["status"] == "to be fitted"
        assert {row["variant"] for row in written["comparison"]} == {"no-exhaustion", "neither"}
        assert RunFolder.open(run / "variants" / "neither").provenance["status"] == "done"
        capsys.readouterr()
        words = ["compare", str(run), "--out", str(tmp_path / "compared"), "--no-refit"]
        assert guarded(lambda: typer.main.get_command(main.build()).main(args=words)) == ExitCode.DONE
        printed = " ".join(capsys.readouterr().out.split())
        assert "Each patient predicted from all others" in printed
        table = pd.read_csv(tmp_path / "compared" / "compare.csv")
        assert set(table["run"]) == {"run", "neither"}
        assert (table["weight_stacking"].sum()) == pytest.approx(1.0, abs=1e-4)
        assert (tmp_path / "compared" / "elpd_differences.png").stat().st_size > 10000
        patients = pd.read_csv(tmp_path / "compared" / "patients.csv")
        assert len(patients) == 7
        assert patients["elpd:run"].sum() == pytest.approx(table.set_index("run")["elpd"]["run"], abs=1e-3)

    def test_it_can_be_left_out(self, table, tmp_path, monkeypatch):
        monkeypatch.setattr("reinfuse.scripts.diagnose.judge", lambda run, console: None)
        assert fit(table, "--out", tmp_path / "run", *SHORT, "--no-null") == ExitCode.DONE
        assert "null_model" not in RunFolder.open(tmp_path / "run").provenance


class TestRefusals:
    @pytest.fixture
    def faulty(self, table, tmp_path):
        rows = pd.read_csv(table, dtype=str, keep_default_na=False)
        rows.loc[rows["DVID"] == "cart", "DV"] = "-5"
        path = tmp_path / "faulty.csv"
        rows.to_csv(path, index=False)
        return path

    @pytest.fixture
    def unfit(self, table, tmp_path):
        """A sound cohort without any record that has an observation model."""
        rows = pd.read_csv(table, dtype=str, keep_default_na=False)
        rows = rows[(rows["EVID"] == "1") | (rows["DVID"] == "sbcma")]
        rows.loc[rows["DVID"] == "sbcma", "DVID"] = "flc"
        path = tmp_path / "unfit.csv"
        rows.to_csv(path, index=False)
        return path

    def refused(self, capsys, tmp_path, *words) -> str:
        out = tmp_path / "run"
        assert fit(*words, "--out", out) == ExitCode.BAD_INPUT
        assert not out.exists()
        message = capsys.readouterr().err
        assert "Traceback" not in message
        return message

    def test_a_cohort_that_is_not_there(self, tmp_path, capsys):
        assert "absent.csv" in self.refused(capsys, tmp_path, tmp_path / "absent.csv")

    def test_a_faulty_cohort_with_its_faults(self, faulty, tmp_path, capsys):
        message = self.refused(capsys, tmp_path, faulty)
        assert "faulty.csv:" in message
        assert "-5" in message

    def test_a_cohort_that_cannot_be_fitted(self, unfit, tmp_path, capsys):
        assert "nothing can be fitted" in self.refused(capsys, tmp_path, unfit)

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--variant", "half"), "no-dysfunction"),
            (("--sampler", "gibbs"), "blocks, nutpie"),
            (("--draws", "5"), "at least 10"),
            (("--chains", "0"), "at least 1"),
            (("--model", "abecma"), "use bcma"),
        ],
    )
    def test_settings_that_make_no_sense(self, table, tmp_path, capsys, words, said):
        assert said in self.refused(capsys, tmp_path, table, *words)

    def test_a_folder_that_holds_something_else(self, table, tmp_path, capsys):
        (tmp_path / "letters").mkdir()
        (tmp_path / "letters" / "private.txt").write_text("mine")
        assert fit(table, "--out", tmp_path / "letters") == ExitCode.BAD_INPUT
        assert "holds other files" in capsys.readouterr().err
        assert [entry.name for entry in (tmp_path / "letters").iterdir()] == ["private.txt"]


class TestInterruption:
    @pytest.fixture
    def sampled(self, monkeypatch):
        """Seeds of the chains that are sampled; at the second of them the user interrupts, if there is a 0 first."""
        from reinfuse.fits import chain

        seeds, real = [], chain.sample_chain

        def counting(*args, **kwargs):
            seeds.append(kwargs["seed"])
            if len(seeds) == 3 and seeds[0] == 0:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        monkeypatch.setattr(chain, "sample_chain", counting)
        return seeds

    @pytest.fixture(autouse=True)
    def no_figures(self, monkeypatch):
        """`TestFinishedRun` has looked at what follows the fit."""
        monkeypatch.setattr("reinfuse.scripts.diagnose.judge", lambda run, console: None)

    def same(self, run, other) -> None:
        mine, theirs = RunFolder.open(run).posterior(), RunFolder.open(other).posterior()
        for name in ("population", "omega", "individual"):
            np.testing.assert_array_equal(mine["posterior"][name], theirs["posterior"][name])
        np.testing.assert_array_equal(mine["posterior_predictive"]["y"], theirs["posterior_predictive"]["y"])
        for name in ("solver_failures", "solved_implicitly"):  # of all processes that had a share in it
            assert RunFolder.open(run).provenance[name] == RunFolder.open(other).provenance[name], name
        mine, theirs = RunFolder.open(run).forecast(), RunFolder.open(other).forecast()
        np.testing.assert_array_equal(mine["prediction"], theirs["prediction"])

    def test_resume_samples_what_is_missing_and_ends_bit_for_bit_the_same(
        self, finished, table, tmp_path, sampled, capsys
    ):
        run = tmp_path / "run"
        sampled.append(0)
        assert fit(table, "--out", run, *SHORT, "--cores", "1") == ExitCode.INTERRUPTED
        assert "--resume" in capsys.readouterr().err
        assert RunFolder.open(run).provenance["status"] == "interrupted"
        assert {entry.name for entry in (run / CHAINS_FOLDER).iterdir()} == {"chain-0.nc", "state-0.npz"}
        assert not (run / POSTERIOR_FILE).exists()

        missing = sampled[-1]
        sampled.clear()
        assert fit(table, "--out", run, *SHORT, "--resume") == ExitCode.DONE
        assert sampled == [missing]
        assert RunFolder.open(run).provenance["status"] == "done"
        self.same(run, finished[0])

    def test_a_fit_that_is_killed_goes_on_and_ends_bit_for_bit_the_same(self, finished, table, tmp_path):
        run = tmp_path / "run"
        command = [sys.executable, "-c", SAVES_OFTEN, "fit", str(table), "--out", str(run), *SHORT]
        for least in (20, 55):  # sweeps: once in the warm-up, once among the draws
            with subprocess.Popen(
                [*command, "--resume"] if run.exists() else command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as fitting:
                while fitting.poll() is None and sweeps_saved(run) < least:
                    time.sleep(0.01)
                fitting.send_signal(signal.SIGKILL)
            assert fitting.returncode == -signal.SIGKILL, "the fit ended before it was killed"
            assert not (run / POSTERIOR_FILE).exists()
            assert RunFolder.open(run).provenance["status"] == "running"
        assert list((run / CHAINS_FOLDER).glob("state-*.npz")), "no state to go on from"
        assert fit(table, "--out", run, *SHORT, "--resume") == ExitCode.DONE
        self.same(run, finished[0])

    def test_resume_after_all_chains_samples_nothing(self, finished, table, tmp_path, sampled, monkeypatch):
        from reinfuse.fits import fitting

        run, real = tmp_path / "run", fitting.assemble

        def interrupted(*args):
            raise KeyboardInterrupt

        monkeypatch.setattr(fitting, "assemble", interrupted)
        assert fit(table, "--out", run, *SHORT) == ExitCode.INTERRUPTED
        assert len(sampled) == 2
        monkeypatch.setattr(fitting, "assemble", real)
        assert fit(table, "--out", run, *SHORT, "--resume") == ExitCode.DONE
        assert len(sampled) == 2
        self.same(run, finished[0])

    def test_chains_of_other_settings_are_not_taken(self, table, tmp_path, sampled):
        """Chains know the settings they were sampled with."""
        run = tmp_path / "run"
        for seed in ("5", "6"):
            sampled[:] = [0]
            words = [*SHORT[:-1], seed, "--cores", "1", "--resume"]
            assert fit(table, "--out", run, *words) == ExitCode.INTERRUPTED
            assert len(sampled) == 3  # a first chain, and the second that is interrupted

    def test_a_fault_of_ours_is_recorded(self, table, tmp_path, monkeypatch, capsys):
        def broken(*args):
            raise ArithmeticError("broken on purpose")

        monkeypatch.setattr("reinfuse.fits.fitting.prepare", broken)
        run = tmp_path / "run"
        assert fit(table, "--out", run, *SHORT) == ExitCode.OUR_FAULT
        assert "broken on purpose" in capsys.readouterr().err
        assert RunFolder.open(run).provenance["status"] == "failed"

    def test_ctrl_c_ends_soon_and_keeps_what_there_is(self, table, tmp_path):
        run = tmp_path / "run"
        words = ["--draws", "100000", "--tune", "50", "--chains", "3", "--seed", "5"]
        with subprocess.Popen(
            [sys.executable, "-m", "reinfuse.scripts.main", "fit", str(table), "--out", str(run), *words],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        ) as process:
            try:
                for line in process.stderr:
                    if line.startswith("Sampling: started"):
                        break
                time.sleep(2.0)
                process.send_signal(signal.SIGINT)
                asked = time.monotonic()
                code = process.wait(timeout=60)
                took = time.monotonic() - asked
                rest = process.stderr.read()
            finally:
                process.kill()
        assert code == ExitCode.INTERRUPTED, rest
        assert took < 20.0
        assert "--resume" in rest
        assert "Traceback" not in rest
        assert RunFolder.open(run).provenance["status"] == "interrupted"


OWN_PRODUCT = """
[[product]]
name = "own-cel"
dose = 1e8
fM0 = 0.2
fX0 = 0.05
immunogenicity = 0.5
scale = 300
scfv = "humanised"
source = "ASSUMED"
"""

WITH_OWN_PRODUCT = """
[[world]]
name = "as assumed"

[[scenario]]
name = "the same again"
first.product = "own-cel"
second.product = "own-cel"
"""


class TestProductsOfOnesOwn:
    """In processes of their own: a product is registered for the life of a process."""

    def run(self, *words):
        return subprocess.run(
            [sys.executable, "-m", "reinfuse.scripts.main", *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"},
        )

    def test_a_cohort_with_one_is_fitted_when_it_is_given(self, tmp_path):
        rows = small_cohorts.rows_of(one=4, two=0).replace({"PRODUCT": {"cilta-cel": "own-cel"}})
        table, products = tmp_path / "cohort.csv", tmp_path / "own.toml"
        rows.to_csv(table, index=False)
        products.write_text(OWN_PRODUCT)
        refused = self.run("fit", table, "--out", tmp_path / "refused", *SHORT)
        assert refused.returncode == ExitCode.BAD_INPUT
        assert "own-cel" in refused.stderr
        assert not (tmp_path / "refused").exists()
        done = self.run("fit", table, "--out", tmp_path / "run", "--products", products, *SHORT)
        assert done.returncode == ExitCode.NOT_TRUSTED, done.stderr
        labels = RunFolder.open(tmp_path / "run").posterior()["posterior"]["population"]["parameter"].to_numpy()
        assert "aT:own-cel" in labels
        scenarios = tmp_path / "scenarios.toml"
        scenarios.write_text(WITH_OWN_PRODUCT)
        for command, *words in (
            ("retreat", "--patients", 20, "--no-explain"),
            ("sensitivity", "--outcome", "benefit", "--samples", 16),
        ):
            out = tmp_path / command
            answered = self.run(command, tmp_path / "run", "--scenarios", scenarios, "--out", out, "--cores", 2, *words)
            assert answered.returncode == ExitCode.DONE, answered.stderr
            assert "own-cel" in (out / "run.json").read_text()

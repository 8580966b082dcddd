"""`reinfuse sensitivity` on a cluster that loses a worker, and killed and gone on with: the same bytes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from reinfuse.fits.sensitivity import campaign
from reinfuse.fits.tasks import Arrays
from reinfuse.scripts.sensitivity import Method, sensitivity

UNITS, VARIED = 8192, ("rho", "tg", "B0", "dE")  # in 8 tasks
TABLES = ("indices.csv", "convergence.csv", "failures.csv")


def run(out: Path, **more: object) -> tuple[bytes, ...]:
    sensitivity(
        run=None, out=out, outcomes=["cmax", "auc28"], method=Method.SOBOL, samples=UNITS, vary=list(VARIED),
        console=Console(quiet=True), **more,
    )  # fmt: skip
    return tuple((out / name).read_bytes() for name in TABLES)


class Kept(list[int]):
    """Numbers of the tasks whose results were written, in that order."""

    after_second: Callable[[], None] = staticmethod(lambda: None)


@pytest.fixture
def kept(alone, monkeypatch: pytest.MonkeyPatch) -> Kept:
    """What is kept from now on."""
    numbers, write = Kept(), campaign.TaskFolder.write

    def noted(self: campaign.TaskFolder, number: int, result: Arrays) -> None:
        write(self, number, result)
        numbers.append(number)
        if len(numbers) == 2:
            numbers.after_second()

    monkeypatch.setattr(campaign.TaskFolder, "write", noted)
    return numbers


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, ...]:
    """Tables of an undisturbed analysis, by this process."""
    monkeypatch.setattr(campaign, "WORTH_PROCESSES", 10**9)
    return run(tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_cluster_that_loses_a_worker_writes_the_same_bytes(tmp_path, alone, kept, cluster) -> None:
    address, workers = cluster
    kept.after_second = lambda: os.kill(workers[0].pid, signal.SIGKILL)  # the first task was the pilot
    assert run(tmp_path / "cluster", cluster=address) == alone
    assert workers[0].wait() == -signal.SIGKILL
    assert workers[1].poll() is None
    assert sorted(kept) == list(range(8))


@pytest.mark.slow
def test_an_analysis_that_was_killed_goes_on_to_the_same_bytes(tmp_path, alone, kept) -> None:
    out = tmp_path / "killed"
    words = ["--prior", "--outcome", "cmax", "--outcome", "auc28", "--method", "sobol", "--samples", str(UNITS)]
    words += [word for name in VARIED for word in ("--input", name)]
    command = [sys.executable, "-m", "reinfuse.scripts.main", "sensitivity", *words, "--out", str(out), "--cores", "1"]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            while not list(out.glob("runs/0*.npz")) and process.poll() is None:
                time.sleep(0.005)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed:\n" + (tmp_path / "log").read_text()
    before = {int(file.stem) for file in out.glob("runs/0*.npz")}
    assert 0 < len(before) < 8
    assert not (out / "run.json").exists()
    assert run(out, resume=True) == alone
    assert set(kept) == set(range(8)) - before

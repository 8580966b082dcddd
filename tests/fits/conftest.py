"""Two small cohorts, posed once: every test of a fit shares their two kernels."""

import re
import subprocess
import sys
import time

import numpy as np
import pytest

from reinfuse.fits.coordinates import Coordinates

from . import small_cohorts  # before the tests: it imports PyMC without its warnings
from .small_cohorts import Posed


@pytest.fixture(scope="session")
def one_infusion() -> Posed:
    """Four patients of each product with one infusion."""
    return small_cohorts.posed(one=4, two=0)


@pytest.fixture(scope="session")
def two_infusions() -> Posed:
    """Three patients with two infusions, and two of each product with one."""
    return small_cohorts.posed(one=2, two=3)


@pytest.fixture(scope="session", params=["one_infusion", "two_infusions"])
def either(request) -> Posed:
    """Both cohorts, one after the other."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def explored(one_infusion) -> Coordinates:
    """The coordinates in which a fit of the first cohort samples."""
    from reinfuse.fits.geometry import prepare

    return prepare(one_infusion.problem, one_infusion.density, one_infusion.layout, np.random.default_rng(1))


@pytest.fixture
def cluster(tmp_path):
    """Address of a scheduler on loopback with two workers, and the workers' processes."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        log = (tmp_path / f"{words[0]}{len(started)}.log").open("wb")
        command = [sys.executable, "-W", "ignore", "-m", "distributed.cli.dask_" + words[0], *words[1:]]
        started.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path))
        log.close()
        return started[-1]

    start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    address = ""
    for _ in range(600):
        found = re.search(rb"tcp://127\.0\.0\.1:\d+", (tmp_path / "scheduler0.log").read_bytes())
        if found:
            address = found[0].decode()
            break
        time.sleep(0.1)
    assert address, (tmp_path / "scheduler0.log").read_text()
    options = (
        "--no-nanny",
        "--nthreads",
        "1",
        "--no-dashboard",
        "--host",
        "127.0.0.1",
        "--local-directory",
        str(tmp_path),
    )
    workers = [start("worker", address, *options) for _ in range(2)]
    yield address, workers
    for process in reversed(started):
        process.kill()
        process.wait()

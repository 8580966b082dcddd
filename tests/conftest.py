"""Fixtures that every folder of tests may use."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

# Machines are shared: how long an example takes says nothing about the code.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that take minutes run where they are asked for."""
    if "minutes" not in config.option.markexpr:
        for item in items:
            if "minutes" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes minutes: pytest -m minutes"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder `shared` beside the checkout: real cohort and reference data, never part of the project."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        reason = f"../shared is not beside this checkout: {folder} is no folder"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}; CI must have it", pytrace=False)
        pytest.skip(reason)
    return folder


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

"""Tasks: each once, the same whoever does it, kept as it comes, whatever dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from reinfuse.fits.tasks import TaskFolder, run_tasks
from reinfuse.model.errors import ReinfuseError

from .cheap_tasks import always_fatal, fatal, normal, slow, threads, wrong

RECIPE = {"seed": 1, "study": {"patients": 12}}


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Workers find the tasks' module under the name that it has here."""
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.syspath_prepend(Path(__file__).parents[2])


def expected(numbers) -> dict[int, np.ndarray]:
    return {k: normal(k)["x"] for k in numbers}


def same(results, numbers) -> None:
    """Every task exactly once, bit for bit what it is when done alone."""
    found = list(results)
    assert sorted(k for k, _ in found) == sorted(numbers)
    for number, result in found:
        np.testing.assert_array_equal(result["x"], normal(number)["x"])


# ---------------------------------------------------------------------------------------------- this machine


@pytest.mark.parametrize("cores", [1, 3])
def test_every_task_is_done_once_whatever_the_number_of_workers(cores):
    same(run_tasks(normal, {k: k for k in range(7)}, cores=cores), range(7))


def test_no_tasks_start_no_workers():
    assert list(run_tasks(normal, {}, cores=2)) == []


def test_workers_use_one_thread_each_and_leave_the_parent_alone(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before = dict(os.environ)
    ((_, result),) = run_tasks(threads, {0: 0}, cores=1)
    assert result["n"].tolist() == [1, 1]
    assert dict(os.environ) == before


def test_a_killed_worker_costs_no_task(tmp_path):
    tasks = {k: (k, str(tmp_path / "killed")) for k in range(8)}
    same(run_tasks(fatal, tasks, cores=2), range(8))
    assert (tmp_path / "killed").exists()


def test_workers_of_a_killed_process_end(tmp_path):
    place = tmp_path / "pids"
    code = (
        "from pathlib import Path\n"
        "from reinfuse.fits.tasks import run_tasks\n"
        "from tests.fits.cheap_tasks import endless\n"
        f"if __name__ == '__main__': list(run_tasks(endless, {{k: {str(place)!r} for k in range(2)}}, cores=2))\n"
    )
    script = tmp_path / "job.py"
    script.write_text(code)
    with subprocess.Popen([sys.executable, str(script)]) as job:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and (not place.exists() or len(place.read_text().split()) < 2):
            time.sleep(0.1)
        workers = [int(pid) for pid in place.read_text().split()]
        job.kill()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(alive(pid) for pid in workers):
        time.sleep(0.2)
    assert len(workers) == 2
    assert not any(alive(pid) for pid in workers)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_task_that_kills_every_worker_is_given_up_and_no_other():
    with pytest.raises(ReinfuseError, match="task 0 ended its worker 3 times"):
        list(run_tasks(always_fatal, {0: 2}, cores=1))
    found = dict(run_tasks(always_fatal, {k: k for k in range(5)}, cores=2, lost=lambda k: {"lost": np.array(k)}))
    assert found.pop(2) == {"lost": 2}
    same(found.items(), (0, 1, 3, 4))


def test_a_script_without_a_guard_is_told_what_it_lacks(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "import math\nfrom reinfuse.fits.tasks import run_tasks\nlist(run_tasks(math.sqrt, {0: 4.0}, cores=1))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=120)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("reinfuse.model.errors.ReinfuseError: no process could be started")
    assert 'if __name__ == "__main__":' in last


def test_a_fault_of_a_task_is_told():
    with pytest.raises(ValueError, match="task 0 cannot be done"):
        list(run_tasks(wrong, {0: 0}, cores=1))


def test_no_cores_are_refused():
    with pytest.raises(ReinfuseError, match="cores is 0"):
        list(run_tasks(normal, {0: 0}, cores=0))


# ---------------------------------------------------------------------------------------------- the folder


def test_a_job_goes_on_where_it_was(tmp_path):
    folder = TaskFolder(tmp_path / "job", RECIPE)
    folder.complete(normal, {k: k for k in (0, 2)}, cores=1)
    before = {file.name: file.stat().st_mtime_ns for file in folder.path.glob("*.npz")}

    told: list[int] = []
    again = TaskFolder(tmp_path / "job", RECIPE, resume=True)
    results = again.complete(normal, {k: k for k in range(4)}, cores=2, tick=told.append)

    assert again.done() == [0, 1, 2, 3]
    assert told == [2, 1, 1]
    for file, modified in before.items():
        assert (folder.path / file).stat().st_mtime_ns == modified
    for number, result in enumerate(results):
        np.testing.assert_array_equal(result["x"], normal(number)["x"])
        assert result["who"].item() == "someone"


def test_results_of_another_recipe_are_not_gone_on_with(tmp_path):
    TaskFolder(tmp_path, RECIPE).write(0, normal(0))
    with pytest.raises(ReinfuseError, match="holds 1 results already; resume"):
        TaskFolder(tmp_path, RECIPE)
    with pytest.raises(ReinfuseError, match=r"made otherwise \(seed: 1, now 2\)"):
        TaskFolder(tmp_path, RECIPE | {"seed": 2}, resume=True)


def test_half_a_file_is_never_taken_for_a_result(tmp_path):
    folder = TaskFolder(tmp_path, RECIPE)
    folder.write(1, normal(1))
    (tmp_path / ".000002.npz.123.part").write_bytes(b"PK")  # what a kill leaves behind
    (tmp_path / "000003.npz").write_bytes(b"PK")
    assert folder.done() == [1, 3]
    with pytest.raises(ReinfuseError, match=r"000003\.npz is not readable"):
        folder.read(3)


# ---------------------------------------------------------------------------------------------- a cluster


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_cluster_gives_the_same_bits_and_survives_a_worker(cluster):
    address, workers = cluster
    numbers = range(60)
    results = run_tasks(slow, {k: k for k in numbers}, cluster=address)
    found = [next(results) for _ in range(5)]
    os.kill(workers[0].pid, signal.SIGKILL)
    found += results
    assert workers[0].wait() == -signal.SIGKILL
    assert workers[1].poll() is None
    same(found, numbers)
    same(run_tasks(normal, {k: k for k in range(7)}, cluster=address), range(7))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_cluster_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr("reinfuse.fits.tasks.CONNECT_SECONDS", 1.0)
    with pytest.raises(ReinfuseError, match="no scheduler of a cluster answers at"):
        list(run_tasks(normal, {0: 0}, cluster="tcp://127.0.0.1:9"))

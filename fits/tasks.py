"""Many independent tasks, on the cores of this machine or on a cluster: each done once, its result kept as it comes.

A task is a number, its place in a list, and whatever its function takes; seeds belong to tasks and never to workers, so
results do not depend on how many workers there are, nor on which of them did what. Workers compute and hand back;
only the process that asked writes, one small file for each task, whole or not at all. So a job that was killed goes on
where it was, a worker that dies costs no more than the tasks it had in hand, and no result is written twice.
"""

import copyreg
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError

from .whole_file import write_whole

#: What a task hands back to be kept: arrays of numbers or text by name.
type Arrays = Mapping[str, NDArray[Any]]

DEATHS: Final = 3  # of workers over one task alone: then the task is to blame
CONNECT_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 1.0  # between a worker's looks whether its parent lives
#: One thread for each worker: there are as many workers as cores.
SINGLE: Final = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
RECIPE_FILE: Final = "recipe.json"


def _read_only(content: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(content)


# constants of the model are read-only mappings, which Python does not send to another process by itself
copyreg.pickle(MappingProxyType, lambda proxy: (_read_only, (dict(proxy),)))


def run_tasks[T, R](
    function: Callable[[T], R],
    tasks: Mapping[int, T],
    *,
    cores: int | None = None,
    cluster: str | None = None,
    lost: Callable[[int], R] | None = None,
) -> Iterator[tuple[int, R]]:
    """Do tasks in parallel.

    Parameters
    ----------
    function
        Of one task; a function of a module, so that workers can import it.
    tasks
        What the function takes, by number.
    cores
        Worker processes on this machine; None: one for each core.
    cluster
        Address of the scheduler of a running dask.distributed cluster, such as ``tcp://10.0.0.1:8786``; its workers
        need the same version of this package.
    lost
        What counts as the result of a task, by number, that ends its worker whenever it is tried; None: an error.

    Yields
    ------
    tuple
        Number and result of each task, exactly once, in the order in which they are done.

    Raises
    ------
    ReinfuseError
        If there is no such cluster, its workers have another version, or a task ends its worker whenever it is tried.
    Exception
        What the function raised; the other tasks are called off.
    """
    if cores is not None and cores < 1:
        raise ReinfuseError(f"cores is {cores}; give at least 1")
    if not tasks:
        return
    if cluster is None:
        yield from _locally(function, tasks, cores or os.cpu_count() or 1, lost)
    else:
        yield from _on_cluster(function, tasks, cluster, lost)


class TaskFolder:
    """Results of tasks on disk: a file for each, and the recipe that made them.

    Parameters
    ----------
    path
        The folder; made if need be.
    recipe
        What the results depend on, beside their numbers; JSON-ready.
    resume
        Keep the results that are there.

    Raises
    ------
    ReinfuseError
        If the folder holds results and `resume` is not asked for, or they were made by another recipe.
    """

    def __init__(self, path: str | Path, recipe: Mapping[str, Any], *, resume: bool = False) -> None:
        self.path = Path(path)
        plain = json.loads(json.dumps(recipe))
        self.path.mkdir(parents=True, exist_ok=True)
        if self.done() and not resume:
            raise ReinfuseError(f"{self.path} holds {len(self.done())} results already; resume, or name another folder")
        before = self._recipe()
        if self.done() and before != plain:
            differing = [name for name in {*before, *plain} if before.get(name) != plain.get(name)]
            seen = ", ".join(f"{name}: {before.get(name)!r}, now {plain.get(name)!r}" for name in sorted(differing))
            raise ReinfuseError(f"the results in {self.path} were made otherwise ({seen}); name another folder")
        write_whole(self.path / RECIPE_FILE, lambda file: file.write_text(json.dumps(plain, indent=1) + "\n"))

    def _recipe(self) -> dict[str, Any]:
        file = self.path / RECIPE_FILE
        return dict(json.loads(file.read_text())) if file.is_file() else {}

    def _file(self, number: int) -> Path:
        return self.path / f"{number:06d}.npz"

    def done(self) -> list[int]:
        """Numbers of the tasks whose results are here, ascending."""
        return sorted(int(file.stem) for file in self.path.glob("[0-9]*.npz"))

    def write(self, number: int, result: Arrays) -> None:
        """Keep a result."""

        def put(file: Path) -> None:
            with file.open("wb") as stream:
                np.savez_compressed(stream, **dict(result))  # type: ignore[arg-type]  # its own keyword is no array

        write_whole(self._file(number), put)

    def read(self, number: int) -> dict[str, NDArray[Any]]:
        """A result that is here.

        Raises
        ------
        ReinfuseError
            If it is not, or is not readable.
        """
        try:
            with np.load(self._file(number), allow_pickle=False) as content:
                return {name: content[name] for name in content.files}
        except (OSError, ValueError) as fault:
            raise ReinfuseError(f"{self._file(number)} is not readable ({fault}); remove it and resume") from None

    def complete[T](
        self,
        function: Callable[[T], Arrays],
        tasks: Mapping[int, T],
        *,
        cores: int | None = None,
        cluster: str | None = None,
        lost: Callable[[int], Arrays] | None = None,
        tick: Callable[[int], None] = lambda _: None,
    ) -> list[dict[str, NDArray[Any]]]:
        """Do the tasks whose results are not here yet; the results of all of them, in order of their numbers.

        Parameters
        ----------
        function, tasks, cores, cluster, lost
            As for `run_tasks`.
        tick
            Told of each task, also of those done before.
        """
        done = set(self.done())
        tick(len(done & tasks.keys()))
        left = {number: task for number, task in tasks.items() if number not in done}
        for number, result in run_tasks(function, left, cores=cores, cluster=cluster, lost=lost):
            self.write(number, result)
            tick(1)
        return [self.read(number) for number in sorted(tasks)]


#: Does tasks and gives their results in order: `in_turn`, or `TaskFolder.complete` told how.
type Complete = Callable[[Callable[[Any], Arrays], Mapping[int, Any]], Sequence[Arrays]]


def in_turn(function: Callable[[Any], Arrays], tasks: Mapping[int, Any]) -> Sequence[Arrays]:
    """Do tasks one after the other in this process, and keep nothing."""
    return [function(tasks[number]) for number in sorted(tasks)]


# ---------------------------------------------------------------------------------------------- this machine


def _locally[T, R](
    function: Callable[[T], R], tasks: Mapping[int, T], cores: int, lost: Callable[[int], R] | None
) -> Iterator[tuple[int, R]]:
    """All at once; after a death the next one alone, for only then is it known whose it is."""
    left, deaths = dict(tasks), 0
    while left:
        first = next(iter(left))
        some = {first: left[first]} if deaths else left
        try:
            for number, result in _in_pool(function, dict(some), min(cores, len(some))):
                del left[number]
                deaths = 0
                yield number, result
        except BrokenProcessPool:
            deaths += 1
            if deaths > DEATHS:
                left.pop(first)
                deaths = 0
                yield first, _given_up(first, lost)


def _given_up[R](number: int, lost: Callable[[int], R] | None) -> R:
    if lost is None:
        raise ReinfuseError(f"task {number} ended its worker {DEATHS} times (out of memory?); use fewer cores")
    return lost(number)


def _in_pool[T, R](function: Callable[[T], R], tasks: Mapping[int, T], cores: int) -> Iterator[tuple[int, R]]:
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")  # threads of the parent's libraries do not survive a fork
    with _single_threaded():
        begun = context.Event()
        pool = ProcessPoolExecutor(max_workers=cores, mp_context=context, initializer=_begin, initargs=(begun,))
        try:
            running = {pool.submit(function, task): number for number, task in tasks.items()}
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BaseException as fault:  # nobody waits for what is running
            _stop(set(multiprocessing.active_children()) - others)
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(fault, BrokenProcessPool) and not begun.is_set():
                raise ReinfuseError(
                    "no process could be started: each of them runs the calling script first. If that is a script of "
                    'your own, put what it does under `if __name__ == "__main__":`'
                ) from None
            raise
        pool.shutdown()


def _stop(processes: set[BaseProcess]) -> None:
    for process in processes:
        process.terminate()


def _begin(begun: Event) -> None:
    """Set a worker up: Ctrl-C reaches every process of a terminal, the parent tells what to do; without it, end."""
    begun.set()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process soon after its parent was killed: nobody waits for what it does."""
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes started now use one thread each."""
    before = {name: os.environ.get(name) for name in SINGLE}
    os.environ.update(dict.fromkeys(SINGLE, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# ---------------------------------------------------------------------------------------------- a cluster


def _on_cluster[T, R](
    function: Callable[[T], R], tasks: Mapping[int, T], address: str, lost: Callable[[int], R] | None
) -> Iterator[tuple[int, R]]:
    from distributed import Client, KilledWorker, as_completed

    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as fault:
        raise ReinfuseError(
            f"no scheduler of a cluster answers at {address!r} ({fault}); start one, or mend the address"
        ) from None
    with client:
        _check_workers(client, address)
        job = f"{getattr(function, '__name__', 'task')}-{os.getpid()}-{time.time_ns()}"
        submit = partial(client.submit, function, pure=False, retries=DEATHS)
        running = {submit(task, key=f"{job}-{number}"): number for number, task in tasks.items()}
        left = set(tasks)
        for future in as_completed(list(running), loop=client.loop):
            number = running.pop(future)
            try:
                result: R = future.result()
            except KilledWorker:
                result = _given_up(number, lost)
            if number in left:  # each once, whatever the cluster says twice
                left.remove(number)
                yield number, result
        if left:
            raise ReinfuseError(f"the cluster at {address} lost {len(left)} tasks; resume")


def _check_workers(client: Any, address: str) -> None:
    """Wait for a worker, and hold all of them to this version."""
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError:
        raise ReinfuseError(f"the cluster at {address} has no worker; start some") from None
    mine = version("reinfuse")
    for worker, theirs in client.run(_version).items():
        if theirs != mine:
            raise ReinfuseError(
                f"worker {worker} has reinfuse {theirs}, this process {mine}; install the same everywhere"
            )


def _version() -> str:
    return version("reinfuse")

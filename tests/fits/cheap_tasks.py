"""Tasks that cost nothing, for the tests of who does them. Light to import: every worker imports it."""

import os
import signal
import time
from pathlib import Path

import numpy as np


def normal(seed: int) -> dict[str, np.ndarray]:
    """Numbers that depend on the task alone."""
    return {"x": np.random.default_rng(seed).standard_normal(3), "who": np.array("someone")}


def slow(seed: int) -> dict[str, np.ndarray]:
    """The same, but long enough for a worker to be killed over it."""
    time.sleep(0.1)
    return normal(seed)


def fatal(task: tuple[int, str]) -> dict[str, np.ndarray]:
    """Kills its worker the first time that task 3 is tried; a file says whether it was."""
    seed, marker = task
    if seed == 3 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return normal(seed)


def always_fatal(seed: int) -> dict[str, np.ndarray]:
    """Kills every worker, if it is the third task."""
    if seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return normal(seed)


def wrong(seed: int) -> dict[str, np.ndarray]:
    """Fails."""
    raise ValueError(f"task {seed} cannot be done")


def threads(_: int) -> dict[str, np.ndarray]:
    """How many threads this process may use."""
    return {"n": np.array([int(os.environ["NUMBA_NUM_THREADS"]), int(os.environ["OMP_NUM_THREADS"])])}


def endless(place: str) -> dict[str, np.ndarray]:
    """Says who does it, and does not come to an end."""
    with Path(place).open("a") as file:
        file.write(f"{os.getpid()} ")
    while True:
        time.sleep(0.1)

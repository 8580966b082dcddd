"""All runs of a design: in tasks of whole units, on cores or a cluster, each kept on disk as it comes.

More units never change the first ones, so a campaign goes on where it was, and a larger one begins with a smaller.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from reinfuse.model.simulate import Status

from ..tasks import TaskFolder, run_tasks
from .designs import Design
from .gradients import gradients
from .reader import Reader

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]

#: Model runs of a task.
TASK_ROWS: Final = 8192
#: Step of a finite difference, in standard deviations of an input's normal score.
STEP: Final = 0.05
#: Runs from which tasks are given to processes of their own; below, starting these takes longer.
WORTH_PROCESSES: Final = 30_000


class Evaluator(Protocol):
    """From values of inputs to outcomes; `Reader` is the one of virtual patients."""

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Names, in the order of the columns."""

    def read(self, values: Floats) -> tuple[Floats, Integers]:
        """Outcomes (n, q), NaN where there is none, and status (n,), 0 where all is well."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """Units of a design to run; picklable."""

    design: Design
    reader: Evaluator
    first: int
    count: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Runs:
    """What came of the first units.

    Attributes
    ----------
    y : ndarray (u, rows, q)
        Outcomes; for ``dgsm`` (u, 1 + k, q), the derivatives after the value.
    status : ndarray (u, rows)
        Of each model run, as `Evaluator.read` says it.
    """

    y: Floats
    status: Integers

    @property
    def units(self) -> int:
        """How many."""
        return len(self.y)

    def head(self, units: int) -> "Runs":
        """The first of them."""
        return Runs(y=self.y[:units], status=self.status[:units])


def runs_of_unit(design: Design) -> int:
    """Model runs that a unit is worth; a derivative counts like a difference."""
    return design.rows * (1 + design.inputs.k if design.method == "dgsm" else 1)


def units_per_task(design: Design) -> int:
    """A power of two: sequences stay balanced."""
    return int(2 ** max(0, np.floor(np.log2(max(TASK_ROWS / runs_of_unit(design), 1.0)))))


def run_task(task: Task) -> dict[str, NDArray[Any]]:
    """Do a task: outcomes ``y`` and ``status`` by unit and row."""
    if task.design.method == "dgsm":
        return _derivatives(task)
    values = task.design.values(task.first, task.count)
    found, status = task.reader.read(np.ascontiguousarray(values.reshape(-1, values.shape[-1])))
    shape = values.shape[:2]
    return {
        "y": found.reshape(*shape, -1).astype(np.float32),
        "status": status.reshape(shape).astype(np.int16),
    }


def _derivatives(task: Task) -> dict[str, NDArray[Any]]:
    """Values and derivatives: exact those of virtual patients, forward differences of other functions."""
    scores = task.design.scores(task.first, task.count)[:, 0]
    inputs, reader = task.design.inputs, task.reader
    k, names = inputs.k, reader.outcomes
    value, status = reader.read(inputs.at(scores))
    out = np.full((len(scores), 1 + k, len(names)), np.nan)
    out[:, 0] = value
    if isinstance(reader, Reader):
        out[:, 1:] = gradients(reader, scores)
    else:
        for i in range(k):
            moved = scores.copy()
            moved[:, i] += STEP
            beside, state = reader.read(inputs.at(moved))
            out[:, 1 + i] = (beside - value) / STEP
            status = np.where(status != 0, status, state)
    lost = (status == 0) & ~np.isfinite(out[:, 1:]).all(axis=(1, 2))
    status = np.where(lost, int(Status.NOT_FINITE), status)
    return {"y": out.astype(np.float32), "status": np.repeat(status[:, None], 1 + k, axis=1).astype(np.int16)}


def run(
    design: Design,
    reader: Evaluator,
    *,
    units: int,
    each: int | None = None,
    folder: Path | None = None,
    recipe: Mapping[str, Any] | None = None,
    cores: int | None = None,
    cluster: str | None = None,
    tick: Callable[[float], None] | None = None,
) -> Runs:
    """Run the first units of a design.

    Parameters
    ----------
    design, reader
        Points, and what is read out of them.
    units
        How many.
    each
        Units of a task; a larger campaign that goes on from a smaller needs the same.
    folder
        Where results are kept as they come, and taken from if they are there; None: nowhere.
    recipe
        What the results depend on; a folder of another recipe is refused.
    cores, cluster
        As for `reinfuse.fits.tasks.run_tasks`; they do not change results.
    tick
        Told of model runs as they are done, and at once of those that are there: `runs_of_unit` of every unit in all.

    Returns
    -------
    Runs
    """
    each = min(units_per_task(design), units) if each is None else each
    rows, left = runs_of_unit(design), units
    tasks = {
        number: Task(design=design, reader=reader, first=first, count=min(each, units - first))
        for number, first in enumerate(range(0, units, each))
    }

    def told(count: int) -> None:
        nonlocal left
        done = min(count * each, left)  # the last task may be smaller
        left -= done
        if tick is not None and done:
            tick(float(done * rows))

    other = not isinstance(reader, Reader)  # which a process of its own may not be able to import
    alone = other or (cluster is None and units * rows < WORTH_PROCESSES)
    if folder is not None:
        kept = TaskFolder(folder, {**(recipe or {}), "each": each}, resume=True)
        if alone:
            done = set(kept.done())
            for number, task in tasks.items():
                if number not in done:
                    kept.write(number, run_task(task))
                told(1)
            parts = [kept.read(number) for number in tasks]
        else:
            parts = kept.complete(run_task, tasks, cores=cores, cluster=cluster, tick=told)
    elif alone:
        parts = []
        for task in tasks.values():
            parts.append(run_task(task))
            told(1)
    else:
        by_number = {}
        for number, result in run_tasks(run_task, tasks, cores=cores, cluster=cluster):
            by_number[number] = dict(result)
            told(1)
        parts = [by_number[number] for number in sorted(by_number)]
    return Runs(
        y=np.concatenate([part["y"] for part in parts]), status=np.concatenate([part["status"] for part in parts])
    )

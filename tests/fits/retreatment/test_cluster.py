"""An experiment on a cluster: a real scheduler and workers, one of them killed, every patient once, the same bits."""

import os
import signal

import numpy as np
import pandas as pd
import pytest

from reinfuse.fits.retreatment import engine, scenarios
from reinfuse.fits.retreatment.block import BLOCK
from reinfuse.fits.retreatment.virtual_patients import from_prior

TEXT = """
[settings]
first_horizon_months = 24
second_horizon_months = 24
[[world]]
name = "as assumed"
[[world]]
name = "no host dysfunction"
host_dysfunction = false
[[scenario]]
name = "again"
first.product = "ide-cel"
second.product = "cilta-cel"
second.bridging = 0.3
[[scenario]]
name = "none"
first.product = "ide-cel"
no_second = true
"""
PATIENTS = 5 * BLOCK


def experiment(path, **more) -> engine.Experiment:
    file = scenarios.parse(TEXT)
    products = [file.product(name) for name in file.product_names]
    population = from_prior(rng=np.random.default_rng(0), products=products, n_draws=20, options="real")
    return engine.run(file, population, patients=PATIENTS, seed=3, path=path, **more)


def same(one: engine.Experiment, other: engine.Experiment) -> None:
    pd.testing.assert_frame_equal(one.outcomes.frame(), other.outcomes.frame())
    assert one.acceptance == other.acceptance
    assert one.failures == other.failures


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_cluster_that_loses_a_worker_gives_the_same_bits_as_one_process(tmp_path, cluster):
    address, workers = cluster
    alone = experiment(tmp_path / "alone.parquet")
    begun = []

    def kill(courses: float) -> None:
        if not begun:
            os.kill(workers[0].pid, signal.SIGKILL)
        begun.append(courses)

    together = experiment(tmp_path / "together.parquet", cluster=address, progress=kill)
    assert workers[0].wait() == -signal.SIGKILL
    assert workers[1].poll() is None
    assert sum(begun) == 4 * PATIENTS
    for rows in (rows for _, _, rows in together.outcomes.parts()):
        assert rows["patient"].is_unique
        assert len(rows) == PATIENTS
    same(together, alone)


@pytest.mark.slow
def test_processes_give_the_same_bits_as_one(tmp_path, monkeypatch):
    alone = experiment(tmp_path / "alone.parquet")
    monkeypatch.setattr(engine, "WORTH_PROCESSES", 0)
    for cores in (1, 3):
        same(experiment(tmp_path / f"{cores}.parquet", cores=cores), alone)

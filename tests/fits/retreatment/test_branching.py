"""Arms that go on from a shared first course give what they give when everything is simulated anew."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from reinfuse.fits.retreatment import block, engine, later, scenarios
from reinfuse.fits.retreatment.virtual_patients import from_prior
from reinfuse.model.simulate import simulate_population

from .conftest import toy, toy_population

#: All kinds of arms: early and late, cells banked before therapy, a third infusion, comparators.
TEXT = """
[settings]
second_horizon_months = 24
[[world]]
name = "as assumed"
[[scenario]]
name = "at once"
first.product = "ide-cel"
second.product = "cilta-cel"
second.days_after_progression = 1
[[scenario]]
name = "late"
first.product = "ide-cel"
second.product = "cilta-cel"
second.bridging = 0.3
second.days_after_progression = 180
[[scenario]]
name = "banked"
first.product = "ide-cel"
second.product = "ide-cel"
second.apheresis = "banked"
[[scenario]]
name = "three"
first.product = "ide-cel"
second.product = "cilta-cel"
[[scenario.then]]
product = "ide-cel"
days_after_progression = 10
[[scenario]]
name = "none"
first.product = "ide-cel"
no_second = true
[[scenario]]
name = "antibody"
first.product = "ide-cel"
bispecific = true
[[scenario]]
name = "waits"
first.product = "ide-cel"
second.product = "cilta-cel"
wait_and_see = true
"""
WHOLE = partial(simulate_population, land=False)
PATIENTS = 400
#: Outcomes that may differ in so many of a thousand patients: those who stand on a limit.
MOST_DIFFERENT = 0.002
#: Columns that are no labels, visits or flags.
READ_OFF = (
    "cmax",
    "auc28",
    "crs_proxy",
    "antigen_low",
    "deepest",
    "q_apheresis",
    "persistence_days",
    "tmax",
    "cure_chance",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    def call(text=TEXT, patients=PATIENTS, simulate=None, **more):
        file = scenarios.parse(text)
        everything = scenarios.parse(TEXT)
        products = [everything.product(name) for name in everything.product_names]
        population = from_prior(rng=np.random.default_rng(0), products=products, n_draws=30, options="real")
        path = tmp_path_factory.mktemp("branching") / "outcomes.parquet"
        return engine.run(file, population, patients=patients, seed=2, path=path, simulate=simulate, **more).outcomes

    return call


@pytest.fixture(scope="module")
def branched(run):
    return run().frame()


def assert_same_outcomes(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    """Labels, classes, visits and flags in all but a few; what is read off a course, within the tolerance."""
    assert len(found) == len(wanted)
    different = np.zeros(len(found), dtype=bool)
    for name in wanted:
        left, right = found[name], wanted[name]
        if name.rpartition("_")[0] in READ_OFF or name in READ_OFF:
            close = np.isclose(left, right, rtol=0.01, atol=1e-3, equal_nan=True)
            assert close.mean() >= 1 - MOST_DIFFERENT, name
            told = np.isfinite(right) & (right != 0)
            if told.any():
                assert np.median(np.abs(left / right - 1)[told]) < 1e-4, name
        else:
            same = (left == right) | (left.isna() & right.isna())
            different |= ~same.to_numpy(dtype=bool)
    assert different.mean() <= MOST_DIFFERENT


def test_outcomes_are_those_of_whole_simulations(run, branched):
    whole = run(simulate=WHOLE).frame()
    assert_same_outcomes(branched, whole)


@pytest.mark.parametrize("earlier", [1, 5, 1000], ids=["a visit", "five visits", "the first infusion"])
def test_it_does_not_matter_from_which_earlier_visit_on(run, branched, monkeypatch, earlier):
    chosen = later.last_visit
    monkeypatch.setattr(later, "last_visit", lambda days, until: np.maximum(chosen(days, until) - earlier, 0))
    assert_same_outcomes(run().frame(), branched)


@pytest.mark.parametrize("setting", ['progression = "hazard"', "extinction = true", "confirm_progression = true"])
def test_settings_that_read_courses_otherwise_agree_too(run, setting):
    text = TEXT.replace("[settings]", f"[settings]\n{setting}")
    assert_same_outcomes(run(text, patients=150).frame(), run(text, patients=150, simulate=WHOLE).frame())


def test_an_arm_is_the_same_to_the_last_bit_whatever_else_is_asked_for(run, branched):
    head, *arms = TEXT.split("[[scenario]]")
    for text in (arms[1], arms[4], arms[5]):
        alone = run(head + "[[scenario]]" + text, patients=90).frame()
        name = alone["scenario"].iloc[0]
        among = branched[branched["scenario"] == name].reset_index(drop=True).head(90)
        for column in alone.columns.drop("scenario"):
            np.testing.assert_array_equal(alone[column].to_numpy(), among[column].to_numpy(), err_msg=column)


def test_no_block_is_done_for_nothing(tmp_path, monkeypatch):
    done = []
    real = engine.run_block
    monkeypatch.setattr(engine, "run_block", lambda task: done.append(task.number) or real(task))
    file = scenarios.parse(
        '[[world]]\nname = "w"\n[[scenario]]\nname = "a"\nfirst.product = "ide-cel"\nno_second = true\n'
    )
    experiment = engine.run(file, toy_population(), patients=3000, seed=1, path=tmp_path / "o.parquet", simulate=toy)
    seen = experiment.acceptance["a", "w"]
    assert seen.kept == 3000
    assert len(done) * block.BLOCK == seen.candidates
    assert seen.met - 3000 < block.BLOCK, "the last block filled the arm"


def test_blocks_done_together_are_the_same_to_the_last_bit():
    file = scenarios.parse(TEXT)
    products = [file.product(name) for name in file.product_names]
    population = from_prior(rng=np.random.default_rng(0), products=products, n_draws=30, options="real")
    task = block.Block(number=5, seed=3, file=file, population=population, arms=((1, 0), (3, 0), (5, 0)), most=300)
    together = block.run_blocks(replace(task, count=3))
    for number, parts in enumerate(together, start=5):
        for part, alone in zip(parts, block.run_block(replace(task, number=number)), strict=True):
            assert part.rows == 300
            assert part.acceptance == alone.acceptance
            for name, values in alone.columns.items():
                np.testing.assert_array_equal(part.columns[name], values, err_msg=name)

"""Where a parameter's value comes from: the data, the prior, or aliased with which others."""

import numpy as np
import pytest

from reinfuse.fits.diagnosis.identifiability import SOURCES, judge, source_of, sources

from .. import fake_run


@pytest.fixture(scope="module")
def fake():
    return fake_run.make(n_patients=12, draws=300)


@pytest.fixture(scope="module")
def table(fake):
    return sources(fake.tree).set_index("parameter")


def test_what_was_left_at_its_prior_and_what_was_given_are_called_so(table):
    assert table.loc["kX", "value_from"] == "the prior"
    assert table.loc[fake_run.FIXED, "value_from"] == "fixed"
    assert set(table["value_from"]) <= set(SOURCES)


def test_an_aliased_pair_names_each_other(table):
    assert table.loc["k", "aliased_with"].startswith("KE (")
    assert table.loc["KE", "aliased_with"].startswith("k (")


def test_knowing_the_others_never_widens(table):
    moving = table[table["value_from"] != "fixed"]
    assert (moving["contraction_alone"] >= moving["contraction"] - 1e-9).all()
    # of two normal values the variance left is 1 - r^2
    r = float(table.loc["k", "aliased_with"].split("(")[1].split(")")[0])
    gained = (1.0 - table.loc["k", "contraction_alone"]) / (1.0 - table.loc["k", "contraction"])
    assert gained == pytest.approx(1.0 - r**2, abs=0.06)


def test_everything_else_is_as_judged(fake, table):
    judged = judge(fake.tree).set_index("parameter")
    assert np.allclose(judged["contraction"], table["contraction"], equal_nan=True)
    assert table.loc["omega:rho", "shrinkage"] == table.loc["omega:rho", "shrinkage"]  # spreads have one
    assert np.isnan(table.loc["rho", "shrinkage"])


@pytest.mark.parametrize(
    ("contracted", "alone", "shift", "partners", "word"),
    [
        (0.8, 0.9, 0.0, True, "the data"),
        (0.4, 0.9, 0.0, True, "aliased"),
        (0.1, 0.9, 0.0, True, "aliased"),
        (0.1, 0.9, 0.0, False, "the prior"),
        (0.4, 0.5, 0.0, True, "partly the data"),
        (0.0, 0.1, 1.5, False, "partly the data"),
        (0.0, 0.1, 0.2, True, "the prior"),
        (float("nan"), float("nan"), 0.0, False, "fixed"),
    ],
)
def test_words_follow_the_limits(contracted, alone, shift, partners, word):
    assert source_of(contracted, alone, shift, partners=partners) == word

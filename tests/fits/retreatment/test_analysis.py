"""Tables of an experiment where there is little to say: told, and no fault."""

import numpy as np
import pandas as pd
import pytest

from reinfuse.fits.retreatment import analysis, engine, scenarios

from .conftest import TEXT, toy, toy_population

WORLD = '[[world]]\nname = "as assumed"\n'


@pytest.fixture
def nobody(monkeypatch):
    """A scenario whose conditions nobody meets."""
    rare = scenarios.parse(
        WORLD + TEXT.replace('"ide-cel"\nsecond', '"ide-cel"\nfirst.pfs_months = [59, 60]\nsecond', 1)
    )
    monkeypatch.setattr("reinfuse.fits.retreatment.block._models_own", lambda: toy)
    return rare


def test_relapses_of_nobody_have_no_driver(nobody):
    each, summary = analysis.relapse_drivers(nobody, toy_population(), scenario="two", seed=1, patients=20)
    assert each.empty
    assert summary.empty
    assert "no driver can be named" in analysis._driven(summary)[0]


def test_too_few_relapses_to_take_apart_are_told(monkeypatch):
    monkeypatch.setattr(analysis, "PER_DRAW", 5)
    table, said = analysis._decomposed(scenarios.parse(WORLD + TEXT), toy_population(), 1)
    assert table.empty
    assert said[0].startswith("Not taken apart: per_draw is 5")


def test_arms_come_in_the_order_of_the_file(tmp_path):
    file = scenarios.parse(TEXT + WORLD + '[[world]]\nname = "null"\nhost_dysfunction = false\n')
    found = engine.run(file, toy_population(), patients=20, seed=1, path=tmp_path / "o.parquet", simulate=toy).outcomes
    assert analysis.arms_in_order(found, file) == [
        (scenario, world) for scenario in ("two", "nothing given", "none") for world in ("as assumed", "null")
    ]
    rows = pd.concat(rows for _, _, rows in analysis.parts(found, file, ["patient"]))
    assert len(rows) == 120
    assert np.isclose(sum(analysis.present_weights(found, file).values()), 1.0)

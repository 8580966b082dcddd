"""A fit that has not converged goes on, and is the fit that more sweeps per draw would have been."""

from contextlib import contextmanager

import numpy as np
import pytest
import xarray as xr

from reinfuse.fits import converging
from reinfuse.fits.converging import sample_until_converged
from reinfuse.fits.sampling import Settings, sample

SHORT = {"draws": 10, "tune": 50, "chains": 2, "seed": 3}


class Killed(Exception):
    """Where a fit is to end."""


class Display:
    """What a progress display was told."""

    def __init__(self):
        self.bars = []

    @contextmanager
    def __call__(self, title, total):
        steps = []
        self.bars.append((title, total, steps))
        yield steps.append


@pytest.fixture
def verdicts(monkeypatch):
    """Verdicts to come, the next first; a quick look may go on."""
    given = []
    monkeypatch.setattr(converging, "FEWEST_DRAWS", 0)
    monkeypatch.setattr(converging, "converged", lambda problem, sampled: given.pop(0))
    return given


@pytest.fixture(scope="module")
def longer(one_infusion, explored):
    """With two sweeps per draw from the start."""
    return sample(one_infusion.problem, one_infusion.density, explored, Settings(**SHORT, thin=2))


def until(fit, explored, display=None, extensions=2, **more):
    settings = Settings(**SHORT, thin=1, extensions=extensions)
    return sample_until_converged(fit.problem, fit.density, explored, settings, progress=display or Display(), **more)


def test_it_goes_on_until_it_has_converged(one_infusion, explored, verdicts, longer):
    verdicts += [False, True]
    display, kept = Display(), []
    found = until(one_infusion, explored, display, keep=lambda chain, draws: kept.append(chain))
    np.testing.assert_array_equal(found["x"], longer["x"])
    assert found.attrs["sweeps_per_draw"] == 2
    assert sorted(kept) == [0, 1]  # before it went on, no more
    assert [total for _, total, _ in display.bars] == [120, 140]
    assert all(sum(steps) == total for _, total, steps in display.bars)
    assert "not converged" in display.bars[1][0]


def test_it_goes_on_no_oftener_than_it_may(one_infusion, explored, verdicts, longer):
    verdicts += [False, False]
    found = until(one_infusion, explored, extensions=1)
    np.testing.assert_array_equal(found["x"], longer["x"])


def test_killed_while_it_goes_on_it_ends_as_if_nothing_had_happened(one_infusion, explored, verdicts, longer):
    verdicts += [False]
    states, kept, ends = {}, {}, []

    def end(chain, state):
        states[chain] = state
        ends.append(chain)
        if len(ends) == 3:
            raise Killed

    with pytest.raises(Killed):
        until(one_infusion, explored, cores=1, keep=kept.__setitem__, end=end)
    verdicts += [True]
    found = until(one_infusion, explored, finished=kept, begun=states)
    np.testing.assert_array_equal(found["x"], longer["x"])


def test_a_quick_look_stays_one(one_infusion, explored, monkeypatch):
    monkeypatch.setattr(converging, "converged", lambda problem, sampled: False)
    assert until(one_infusion, explored).attrs["sweeps_per_draw"] == 1


@pytest.mark.parametrize(("apart", "verdict"), [(0.0, True), (0.5, False)])
def test_converged_is_what_the_diagnostics_call_so(one_infusion, apart, verdict):
    """Independent draws, of which one chain may lie apart in one number by half a standard deviation."""
    x = np.random.default_rng(5).standard_normal((4, 400, one_infusion.layout.size))
    x[0, :, 0] += apart
    sampled = xr.Dataset({"x": (("chain", "draw", "coordinate"), 0.1 * x)})
    assert converging.converged(one_infusion.problem, sampled) is verdict

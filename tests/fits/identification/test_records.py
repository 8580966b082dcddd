"""A run's own records as lines: their slopes are those of the likelihood, their weights those of M3."""

from dataclasses import replace

import numpy as np
import pytest

from reinfuse.fits.identification.information import LOCATION, censored
from reinfuse.fits.identification.records import Instrument, hyper_logs, hyper_names
from reinfuse.fits.problem import competing_deaths
from reinfuse.model import densities
from reinfuse.model.densities import Family

STEP = 1e-6


@pytest.fixture(scope="module")
def instrument(one_infusion) -> Instrument:
    return Instrument(one_infusion.problem)


def test_slopes_of_records_make_up_the_likelihoods_gradient(one_infusion, instrument):
    """Every assay by its density's own slope, an event by its log hazard, follow-up by its cumulative hazard."""
    h, b = one_infusion.point(np.random.default_rng(1))
    posterior, rec = instrument.posterior, competing_deaths(one_infusion.problem.observed)
    _, wanted = posterior._by_column(h, b)
    theta = posterior.design.theta(h[: posterior.d], h[posterior.d + posterior.spreads :], b)
    found = np.zeros_like(wanted)
    for row in range(len(rec)):
        who, day = rec.patient[row : row + 1], rec.time[row : row + 1]
        mine, name, family = theta[who], str(rec.dvid[row]), Family(int(rec.family[row]))
        if name == "progression":
            found[who] -= instrument.read("cumulative hazard", mine, who, day)[1]
            if family is Family.EVENT:
                found[who] += instrument.read("hazard", mine, who, day)[1]
        elif name == "death":
            column = one_infusion.problem.column("hD")
            found[who, column] += (family is Family.EVENT) - mine[0, column] * day[0]
        else:
            location, slope = instrument.read(name, mine, who, day)
            sigma, _ = instrument.sigma_of(name, mine)
            offset = 0.05 if name == "mprotein" else 0.0
            density, value = densities.DENSITIES[family], np.log(rec.value[row] + offset)
            pull = (density(location + STEP, sigma, value) - density(location - STEP, sigma, value)) / (2.0 * STEP)
            found[who] += pull * slope
    sigmas = [k for k, name in enumerate(one_infusion.problem.kernel.parameters) if name.startswith("sigma_")]
    free = np.setdiff1d(np.arange(wanted.shape[1]), sigmas)
    assert found[:, free] == pytest.approx(wanted[:, free], rel=2e-3, abs=2e-3)


def test_lines_hold_every_record_but_the_censored_events(one_infusion, instrument):
    h, b = one_infusion.point(np.random.default_rng(2))
    posterior, rec = instrument.posterior, competing_deaths(one_infusion.problem.observed)
    theta = posterior.design.theta(h[: posterior.d], h[posterior.d + posterior.spreads :], b)
    lines = instrument.measured(theta)
    counted = np.isin(rec.dvid, ("progression", "death")) & (rec.family != int(Family.EVENT))
    assert (lines.weight > 0).sum(axis=1).tolist() == np.bincount(rec.patient[~counted], minlength=lines.n).tolist()
    events = (lines.weight > 0) & (lines.sigma < 0)
    assert events.sum() == (np.isin(rec.dvid, ("progression", "death")) & ~counted).sum()
    assert np.all(lines.weight[events] == 1.0)
    assert np.all(lines.scale[events] == 0.0)


def test_a_death_after_progression_is_no_event(one_infusion):
    """As in the likelihood, where such a death counts as free of it until progression."""
    problem = one_infusion.problem
    rec = problem.observed
    progressed = rec.patient[(rec.dvid == "progression") & (rec.family == int(Family.EVENT))][0]
    family = rec.family.copy()
    died = (rec.dvid == "death") & (rec.patient == progressed)
    assert died.sum() == 1
    family[died] = int(Family.EVENT)
    instrument = Instrument(replace(problem, observed=replace(rec, family=family)))
    h, b = one_infusion.point(np.random.default_rng(2))
    posterior = instrument.posterior
    theta = posterior.design.theta(h[: posterior.d], h[posterior.d + posterior.spreads :], b)
    events = (lines := instrument.measured(theta)).sigma[progressed] < 0
    assert (lines.weight[progressed][events] > 0).sum() == 1


def test_a_value_weighs_as_if_it_might_have_been_censored(one_infusion, instrument):
    h, b = one_infusion.point(np.random.default_rng(3))
    posterior, rec = instrument.posterior, one_infusion.problem.observed
    theta = posterior.design.theta(h[: posterior.d], h[posterior.d + posterior.spreads :], b)
    lines = instrument.measured(theta)
    row = int(np.flatnonzero((rec.dvid == "cart") & np.isfinite(rec.lloq))[0])
    who = rec.patient[row : row + 1]
    location, slope = instrument.read("cart", theta[who], who, rec.time[row : row + 1])
    sigma, place = instrument.sigma_of("cart", theta[who])
    weight = censored((np.log(rec.lloq[row]) - location) / sigma)[0] / sigma**2
    at = np.flatnonzero((lines.sigma[who[0]] == place) & np.isclose(lines.weight[who[0]], weight, rtol=1e-9))
    assert at.size == 1
    assert np.allclose(lines.slope[who[0], at[0]], slope)
    assert weight[0] < LOCATION / sigma[0] ** 2


def test_names_are_those_of_the_population_vector(one_infusion, two_infusions):
    for posed in (one_infusion, two_infusions):
        names = hyper_names(posed.problem)
        assert len(names) == len(hyper_logs(posed.problem)) == posed.posterior.prior_mean.size
        assert len(set(names)) == len(names)
        for k, place in enumerate(posed.posterior.log_sd):
            assert names[place].startswith("omega")
            if k < len(posed.problem.random):
                assert names[place] == f"omega:{posed.problem.random[k]}"
    assert hyper_names(two_infusions.problem).count("omega_occasion") == 1


def test_two_infusions_can_be_read_too(two_infusions):
    instrument = Instrument(two_infusions.problem)
    h, b = two_infusions.point(np.random.default_rng(4))
    posterior = instrument.posterior
    theta = posterior.design.theta(h[: posterior.d], h[posterior.d + posterior.spreads :], b)
    lines = instrument.measured(theta)
    assert np.all((lines.weight > 0).sum(axis=1) > 0)
    assert np.isfinite(lines.slope).all()

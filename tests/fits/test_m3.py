"""Censoring by hand: Student's t with 4 degrees of freedom, below, above and between limits, in every path of a fit."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from scipy.stats import t as student

from reinfuse.fits.cohort import CohortError, cohort_from_frame
from reinfuse.model.densities import Family, interval_code, interval_width

from . import small_cohorts

T4 = student(4)
LEFT, RIGHT, INTERVAL, QUANTIFIED = "left", "right", "interval", "quantified"
PATIENT = 0


def hand(kind, location, scale, value, lower=None):
    """Log density of one record, and its derivatives by location and scale."""
    z = (value - location) / scale
    if kind == QUANTIFIED:
        slope = 5 * z / (4 + z * z)
        return T4.logpdf(z) - np.log(scale), slope / scale, (z * slope - 1) / scale
    ends = {LEFT: (-np.inf, z), RIGHT: (z, np.inf)}
    bottom, top = ends[kind] if kind != INTERVAL else ((lower - location) / scale, z)
    chance = T4.cdf(top) - T4.cdf(bottom)
    moved = [0.0 if np.isinf(x) else T4.pdf(x) for x in (bottom, top)]
    turned = [0.0 if np.isinf(x) else x * T4.pdf(x) for x in (bottom, top)]
    return np.log(chance), (moved[0] - moved[1]) / chance / scale, (turned[0] - turned[1]) / chance / scale


def code(kind, value, lower):
    if kind == INTERVAL:
        return int(interval_code(value - lower))
    return int({LEFT: Family.BELOW, RIGHT: Family.ABOVE, QUANTIFIED: Family.QUANTIFIED}[kind])


def centre_of(problem, theta, dvid, day):
    from reinfuse.fits.results import simulate_draws

    found = simulate_draws(problem, theta[None], np.array([day]), tolerance=1e-9)[dvid][0, PATIENT, 0]
    return float(np.log(found + problem.observables[dvid].offset))


def medians(posed):
    made = posed.posterior.design
    h = posed.posterior.prior_mean
    n_population = made.by_population.shape[2]
    effects = h[n_population + made.by_deviation.shape[2] :]
    return made.theta(h[:n_population], effects, np.zeros((posed.problem.n, made.by_deviation.shape[2])))


def only(problem, dvid, day, family, value):
    """The problem with one record: that of one patient."""
    arrays = {name: getattr(problem, name).copy() for name in ("ob_time", "ob_kind", "ob_family", "ob_value", "n_ob")}
    arrays["n_ob"][:] = 0
    arrays["n_ob"][PATIENT] = 1
    arrays["ob_time"][PATIENT, 0], arrays["ob_value"][PATIENT, 0] = day, value
    arrays["ob_kind"][PATIENT, 0] = problem.kernel.kinds.index(dvid)
    arrays["ob_family"][PATIENT, 0] = family
    return dataclasses.replace(problem, tolerance=1e-8, **arrays)


@pytest.mark.parametrize("kind", [QUANTIFIED, LEFT, RIGHT, INTERVAL])
@pytest.mark.parametrize(("dvid", "shift"), [("transgene", -2.0), ("transgene", 0.3), ("cart", 1.5), ("sbcma", -0.4)])
def test_the_kernels_density_and_gradient(one_infusion, kind, dvid, shift):
    from reinfuse.fits.likelihood_op import loglik_and_gradient

    problem, theta = one_infusion.problem, medians(one_infusion)
    day, scale = 14.0, theta[PATIENT, problem.column(f"sigma_{dvid}")]
    centre = centre_of(problem, theta, dvid, day)
    value = centre + shift * scale
    lower = value - 0.9
    wanted, by_location, by_scale = hand(kind, centre, scale, value, lower)
    posed = only(problem, dvid, day, code(kind, value, lower), value)
    loglik, gradient, _ = loglik_and_gradient(theta, posed)
    assert loglik[PATIENT] == pytest.approx(wanted, abs=2e-6)
    assert loglik[PATIENT + 1] == 0.0
    assert gradient[PATIENT, problem.column(f"sigma_{dvid}")] == pytest.approx(by_scale, abs=2e-5)
    if dvid == "transgene":  # ln T = ... + ln gT
        slope = gradient[PATIENT, problem.column("gT")] * theta[PATIENT, problem.column("gT")]
        assert slope == pytest.approx(by_location, abs=2e-5)


def with_censoring(kind):
    """Rows of a cohort in which one patient's transgene at the second visit is censored, and that row."""
    frame = small_cohorts.rows_of(one=4, two=0)
    frame["LIMIT"] = ""
    rows = frame.index[(frame["ID"] == frame["ID"][0]) & (frame["DVID"] == "transgene")]
    row = rows[1]
    value = float(frame.loc[row, "DV"])
    frame.loc[row, "LLOQ"] = str(value) if kind in (LEFT, INTERVAL) else "50"
    frame.loc[row, "CENS"] = {LEFT: "1", INTERVAL: "1", RIGHT: "-1", QUANTIFIED: "0"}[kind]
    if kind == INTERVAL:
        frame.loc[row, "LIMIT"] = str(value / 5)
    return frame, float(frame.loc[row, "TIME"]), value


@pytest.fixture(scope="module", params=[LEFT, RIGHT, INTERVAL])
def censored(request):
    """Kind, day, value, and the cohort posed with the row censored and quantified."""
    posed = {}
    for kind in (request.param, QUANTIFIED):
        from reinfuse.fits.problem import pose

        frame, day, value = with_censoring(kind)
        cohort = cohort_from_frame(frame, name="censored.csv")
        posed[kind] = small_cohorts.Posed(cohort, dataclasses.replace(pose(cohort), tolerance=1e-7))
    return request.param, day, value, posed[request.param], posed[QUANTIFIED]


def test_the_table_reaches_the_kernel(censored):
    kind, _, value, one, _ = censored
    rec = one.problem.observed
    row = np.flatnonzero((rec.patient == PATIENT) & (rec.value == value))[0]
    assert Family(rec.family[row]) == {LEFT: Family.BELOW, RIGHT: Family.ABOVE, INTERVAL: Family.INTERVAL}[kind]
    assert rec.lower[row] == pytest.approx(value / 5) if kind == INTERVAL else np.isnan(rec.lower[row])
    if kind == INTERVAL:
        codes = one.problem.ob_family
        assert interval_width(codes[codes > Family.INTERVAL]) == pytest.approx([np.log(5)], abs=1e-11)


def test_the_log_likelihood_for_leaving_out(censored):
    """What a patient's log-likelihood gains by the censoring is what the hand says; LOO's conditional is the same."""
    kind, day, value, one, other = censored
    theta = medians(one)
    scale = theta[PATIENT, one.problem.column("sigma_transgene")]
    centre = centre_of(one.problem, theta, "transgene", day)
    args = centre, scale, np.log(value)
    wanted = hand(kind, *args, np.log(value / 5))[0] - hand(QUANTIFIED, *args)[0]
    h = one.posterior.prior_mean
    zero = np.zeros((one.problem.n, one.posterior.q))
    found = one.posterior.conditional(h).loglik(zero) - other.posterior.conditional(h).loglik(zero)
    assert found[PATIENT] == pytest.approx(wanted, abs=1e-5)
    assert found[1:] == pytest.approx(np.zeros(one.problem.n - 1), abs=1e-12)


def test_predictive_draws_and_their_ranks(censored):
    """Shares of draws below a limit are those of Student's t; the rank of a censored value is an interval of them."""
    from reinfuse.fits.diagnosis import predictive
    from reinfuse.fits.results import Draws, observed, predictions

    kind, day, value, one, _ = censored
    x = one.flat(one.posterior.prior_mean, np.zeros((one.problem.n, one.posterior.q)))
    draws = Draws(one.problem, np.tile(x, (1, 400, 1)))
    made = predictions(one.problem, draws, np.random.default_rng(1))
    rows = observed(one.problem)
    row = int(np.flatnonzero((rows["patient"] == one.problem.patients[PATIENT]) & (rows["value"] == value))[0])
    theta = medians(one)
    z = np.log(value) - centre_of(one.problem, theta, "transgene", day)
    scale = theta[PATIENT, one.problem.column("sigma_transgene")]
    below, under = T4.cdf(z / scale), T4.cdf((z - np.log(5)) / scale)
    share = (made["y"].values[0, :, row] < np.log(value)).mean()
    assert abs(share - below) < 4 * np.sqrt(below * (1 - below) / 400) + 1e-9
    import xarray as xr

    tree = xr.DataTree.from_dict({"/posterior_predictive": made, "/observed_data": rows})
    line = predictive.per_observation(tree).loc[row]
    wanted = {LEFT: (0.0, below), RIGHT: (below, 1.0), INTERVAL: (under, below)}[kind]
    assert (line["rank_low"], line["rank_high"]) == pytest.approx(wanted, abs=0.1)
    assert np.isnan(line["residual"])
    assert line["cens"] == (-1 if kind == RIGHT else 1)


def test_simulated_studies_and_their_shares_below_the_limit(censored):
    """New patients without deviations: each row's share below its limit is Student's t, in draws and in the VPC."""
    from reinfuse.fits.diagnosis import vpc
    from reinfuse.fits.new_patients import NewPatients, PopulationDraws
    from reinfuse.fits.simulated_studies import replicate_studies, typical_predictions
    from reinfuse.fits.study_plan import plan

    one = censored[3]
    h, made = one.posterior.prior_mean, one.posterior.design
    d, q = made.by_population.shape[2], made.by_deviation.shape[2]
    draws = PopulationDraws(population=h[None, :d], effect=h[None, d + q :], omega=np.zeros((1, q)))
    new, design = NewPatients(one.problem, draws), plan(one.cohort, one.problem)
    studies = replicate_studies(new, design, count=1500, rng=np.random.default_rng(2), dropout=False)
    seen = vpc.measurements(one.problem, design)
    centre = typical_predictions(new, design, design.patient, np.arange(len(seen)))
    scale = np.array([medians(one)[0, one.problem.column(f"sigma_{name}")] for name in seen["dvid"]])
    chance = T4.cdf((seen["ln_lloq"] - centre) / scale)
    count = np.bincount(studies.row, minlength=len(seen))
    under = np.bincount(studies.row, studies.y < seen["ln_lloq"].to_numpy()[studies.row], len(seen))
    assert (count == 1500).all()
    law = binom(1500, chance)
    assert np.minimum(law.cdf(under), law.sf(under - 1)).min() > 1e-5
    table = vpc.check(new, design, studies).blq
    for line in table.to_dict("records"):
        rows = (seen["dvid"] == line["dvid"]) & (seen["stratum"] == line["stratum"])
        rows &= seen["since"].between(line["first"], line["last"])
        assert line["observed"] == pytest.approx((seen["cens"] == 1)[rows].mean())
        one_more = 1 / line["n"]
        assert line["lower"] - one_more < chance[rows.to_numpy()].mean() < line["upper"] + one_more


def test_scores_of_forecasts():
    from reinfuse.fits.diagnosis import scores

    value, lower = np.array([0.4, 0.4, 9.0, -7.0]), np.array([-0.6, np.nan, 8.0, -8.0])
    centre = np.tile([[0.0], [1.0]], (1, 4))
    found = scores.log_density(value, [1, 1, 1, 1], centre=centre, sigma=0.7, nu=4.0, lower=lower)
    for s, middle in enumerate((0.0, 1.0)):
        for j, kind in enumerate((INTERVAL, LEFT, INTERVAL, INTERVAL)):
            assert found[s, j] == pytest.approx(hand(kind, middle, 0.7, value[j], lower[j])[0], rel=1e-6)
    low, high = scores.mixture_rank_bounds(value, [1, 1, 1, 1], centre=centre, sigma=0.7, nu=4.0, lower=lower)
    cdf = T4.cdf((np.stack([lower, value])[:, None] - centre) / 0.7).mean(axis=1)
    assert high == pytest.approx(cdf[1])
    assert low == pytest.approx(np.where(np.isnan(lower), 0.0, cdf[0]))


FAULTS = [
    ("40", "0", "20", "LIMIT with CENS = 0"),
    ("40", "-1", "20", "LIMIT with CENS = -1"),
    ("40", "1", "40", "LIMIT is not below DV"),
    ("40", "1", "-3", "lower end is negative"),
    ("40", "1", "ten", "LIMIT"),
]


class TestTable:
    def frame(self, dv="40", cens="1", limit="20", dvid="transgene"):
        head = {"TIME": 0, "EVID": 1, "PRODUCT": "ide-cel"}
        row = {"TIME": 10, "EVID": 0, "DVID": dvid, "DV": dv, "CENS": cens, "limit": limit}
        return pd.DataFrame([head, row]).assign(ID="P1", AMT="").fillna("").astype(str)

    def test_limit_is_read_in_any_case(self):
        cohort = cohort_from_frame(self.frame())
        assert cohort.observations["LIMIT"].tolist() == [20.0]
        assert "limit" not in cohort.covariates

    def test_an_interval_from_nothing_is_a_value_below_the_limit(self):
        from reinfuse.fits.assays import records

        taken = records(cohort_from_frame(self.frame(limit="0")))
        assert taken.family.tolist() == [Family.BELOW]
        assert np.isnan(taken.lower).all()

    @pytest.mark.parametrize(("dv", "cens", "limit", "words"), FAULTS)
    def test_faults(self, dv, cens, limit, words):
        with pytest.raises(CohortError) as refused:
            cohort_from_frame(self.frame(dv, cens, limit))
        assert words in str(refused.value)

    def test_events_have_no_interval(self):
        with pytest.raises(CohortError, match="progression has no interval"):
            cohort_from_frame(self.frame("1", "0", "0.5", "progression"))

"""Power-scaling against conjugate normals, whose answers are known; and what is said of them."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import norm

from reinfuse.fits.diagnosis import powerscaling
from reinfuse.fits.diagnosis.powerscaling import BOTH, CONFLICT, DATA, LEANS, STRONG, UNKNOWN, WEAK, verdict

DRAWS, KNOWN = (4, 1000), 400


def conjugate(*, data_sd, away, log_prior=True, noise=0.0, seed=1) -> xr.DataTree:
    """Scalars with standard normal priors on the log scale, each with one measurement of this sd at this distance."""
    rng = np.random.default_rng(seed)
    names = ["rho", "KE", "dM", "Bc"][: len(data_sd)]
    sd, away = np.asarray(data_sd, float), np.asarray(away, float)
    variance = 1.0 / (1.0 + sd**-2)
    x = variance * away / sd**2 + np.sqrt(variance) * rng.standard_normal((*DRAWS, sd.size))
    flat = x.reshape(-1, sd.size)
    at = np.linspace(0, len(flat) - 1, KNOWN).astype(int)
    loglik = -0.5 * ((flat[at] - away) / sd) ** 2 + noise * rng.standard_normal((KNOWN, sd.size))

    def group(values):
        return xr.Dataset({"population": (("chain", "draw", "parameter"), values)}, coords={"parameter": names})

    before = rng.standard_normal((1, 4000, sd.size))
    tree = {
        "/posterior": group(np.exp(x)),
        "/prior": group(np.exp(before)),
        "/integrated": xr.Dataset({"loglik": (("population_draw", "subject"), loglik)}),
    }
    if log_prior:
        tree["/log_prior"] = group(-0.5 * x**2)
    return xr.DataTree.from_dict(tree)


def distance_per_doubling(sd: float, away: float, *, prior: bool) -> float:
    """Cumulative Jensen-Shannon distance from the posterior, per doubling of one factor's power, mean of both sides."""

    def posterior(power):
        of_prior, of_data = (power, 1.0) if prior else (1.0, power)
        precision = of_prior + of_data * sd**-2
        return norm(of_data * away * sd**-2 / precision, precision**-0.5)

    base = posterior(1.0)
    x = np.linspace(*base.ppf([1 / 8000, 1 - 1 / 8000]), 20_001)

    def apart(p, q):
        def one(p, q):
            ratio = np.log2(2.0 * p / (p + q))
            return np.trapezoid(p * ratio, x) + np.trapezoid(q - p, x) / (2.0 * np.log(2.0))

        return np.sqrt((one(p, q) + one(q, p)) / np.trapezoid(p + q, x))

    steps = []
    for power in powerscaling.ALPHAS:
        other = posterior(power)
        both_ways = max(apart(base.cdf(x), other.cdf(x)), apart(base.sf(x), other.sf(x)))
        steps.append(both_ways / abs(np.log2(power)))
    return float(np.mean(steps))


class TestSensitivity:
    def test_each_kind_is_told(self):
        """Well measured; hardly measured; measured as well as known before, far away, and near."""
        found = powerscaling.sensitivity(conjugate(data_sd=[0.1, 10.0, 1.0, 1.0], away=[0.3, 0.0, 4.0, 1.5]))
        verdicts = dict(zip(found.table["parameter"], found.table["verdict"], strict=True))
        assert verdicts["rho"] == DATA
        assert verdicts["KE"] == STRONG
        assert verdicts["dM"] == CONFLICT
        assert verdicts["Bc"] == BOTH
        assert found.fit > 0.9
        assert found.draws == DRAWS[0] * DRAWS[1]

    @pytest.mark.parametrize(("sd", "away"), [(0.5, 1.0), (1.0, 3.0), (3.0, 2.0)])
    def test_the_number_is_that_of_the_scaled_posterior(self, sd, away):
        """The prior to a power leaves a normal: its distance is integrated, not sampled."""
        found = powerscaling.sensitivity(conjugate(data_sd=[sd], away=[away])).table.iloc[0]
        assert found["prior"] == pytest.approx(distance_per_doubling(sd, away, prior=True), rel=0.1, abs=0.01)
        assert found["likelihood"] == pytest.approx(distance_per_doubling(sd, away, prior=False), rel=0.1, abs=0.01)

    def test_moments_of_prior_draws_do_as_well_as_its_density(self):
        given = {"data_sd": [0.1, 10.0, 1.0], "away": [0.3, 0.0, 4.0]}
        exact = powerscaling.sensitivity(conjugate(**given)).table
        moments = powerscaling.sensitivity(conjugate(**given, log_prior=False)).table
        np.testing.assert_allclose(moments["prior"], exact["prior"], atol=0.03)
        assert moments["verdict"].tolist() == exact["verdict"].tolist()

    def test_a_prior_that_is_scaled_alone_moves_its_own_kind(self):
        found = powerscaling.sensitivity(conjugate(data_sd=[1.0, 1.0], away=[2.0, 2.0])).table
        np.testing.assert_allclose(found["own_prior"], found["prior"], atol=1e-12)  # one kind alone

    def test_noise_is_what_weights_give_that_mean_nothing(self):
        found = powerscaling.sensitivity(conjugate(data_sd=[0.1, 0.1, 0.1], away=[0.0, 0.0, 0.0]))
        assert 0.0 < found.noise < 0.04
        assert (found.table["prior"] < powerscaling.SENSITIVE).all()

    def test_likelihoods_that_are_noise_are_not_used(self):
        found = powerscaling.sensitivity(conjugate(data_sd=[1.0, 10.0], away=[4.0, 0.0], noise=30.0))
        assert found.fit < powerscaling.LEAST_FIT
        assert found.table["likelihood"].isna().all()
        assert set(found.table["verdict"]) == {LEANS}
        assert any("too noisy" in sentence for sentence in powerscaling.sentences(found))

    def test_a_likelihood_that_failed_at_a_draw_spoils_nothing(self):
        tree = conjugate(data_sd=[0.1, 1.0], away=[0.3, 4.0])
        whole = powerscaling.sensitivity(tree)
        spoilt = tree["integrated"]["loglik"].to_numpy().copy()
        spoilt[5, 0], spoilt[17, 1], spoilt[40, 1] = -np.inf, -1e3, np.nan
        tree["integrated"] = xr.DataTree(xr.Dataset({"loglik": (("population_draw", "subject"), spoilt)}))
        found = powerscaling.sensitivity(tree)
        np.testing.assert_allclose(found.table["likelihood"], whole.table["likelihood"], atol=0.02)

    @pytest.mark.parametrize(("group", "reason"), [("integrated", "holds no likelihoods"), ("prior", "neither")])
    def test_what_is_missing_is_said(self, group, reason):
        tree = conjugate(data_sd=[1.0], away=[0.0], log_prior=False)
        kept = {f"/{name}": child.to_dataset() for name, child in tree.children.items() if name != group}
        found = powerscaling.sensitivity(xr.DataTree.from_dict(kept))
        assert len(found.table) == 0
        assert reason in powerscaling.sentences(found)[0]


class TestWords:
    @pytest.mark.parametrize(
        ("prior", "likelihood", "shift", "noise", "word"),
        [
            (0.04, 0.2, 0.0, 0.0, DATA),
            (0.04, 0.04, 0.0, 0.0, WEAK),
            (0.2, 0.02, 3.0, 0.0, STRONG),
            (0.2, 0.2, 0.5, 0.0, BOTH),
            (0.2, 0.2, -1.5, 0.0, CONFLICT),
            (0.09, 0.045, 0.0, 0.03, BOTH),  # no more than twice the noise apart
            (0.06, 0.2, 0.0, 0.07, DATA),  # what noise alone gives does not count
            (0.2, float("nan"), 0.0, 0.0, LEANS),
            (0.02, float("nan"), 0.0, 0.0, UNKNOWN),
        ],
    )
    def test_verdicts(self, prior, likelihood, shift, noise, word):
        assert verdict(prior, likelihood, shift=shift, noise=noise) == word

    def test_conclusions_say_what_they_rest_on(self):
        table = pd.DataFrame(
            {
                "parameter": ["KE", "KE:cilta-cel", "dM", "rho"],
                "verdict": [STRONG, STRONG, BOTH, DATA],
                "prior": [0.2, 0.2, 0.1, 0.01],
            }
        )
        judged = pd.DataFrame({"parameter": ["Bc", "h1", "B0"], "verdict": ["prior", "partly", "fixed"]})
        found = powerscaling.conclusions(powerscaling.Sensitivity(table, 10), judged).set_index("about")
        assert found.loc["how deep each product kills", "rests_on"] == "prior alone"
        assert found.loc["how long CAR-T cells persist", "rests_on"] == "partly the prior"
        assert found.loc["how far each product expands, and when it peaks", "rests_on"] == "data"
        assert found.loc["how soon the tumour is back, and counts as progression", "rests_on"] == "partly the prior"
        dysfunction = found.loc["host T-cell dysfunction carried to the second product"]
        assert dysfunction["rests_on"] == "prior alone"
        assert "nothing of it was fitted" in dysfunction["why"]

"""Diagnosis against answers known beforehand: closed forms, hand-made data, planted faults."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import special, stats

from reinfuse.fits.cohort import cohort_from_frame
from reinfuse.fits.diagnosis import (
    convergence,
    findings,
    forecasts,
    identifiability,
    predictive,
    progression,
    scores,
    stein,
)
from reinfuse.fits.diagnosis import yardsticks as sticks
from reinfuse.fits.diagnosis.scalars import every_scalar, list_scalars, stack
from reinfuse.fits.study_plan import plan
from reinfuse.model.errors import ReinfuseError

from . import fake_run


@pytest.fixture(scope="module")
def fake():
    return fake_run.make(n_patients=24)


def tree_of(rho, *, diverging=None, n_steps=None, omega=None, prior=None, k=None):
    """A tree with the population parameters rho and k, one omega, and one patient."""
    rng = np.random.default_rng(3)
    k = np.exp(0.1 * rng.standard_normal(rho.shape)) if k is None else k
    omega = np.exp(0.2 * rng.standard_normal(rho.shape)) if omega is None else omega

    def group(rho, k, omega):
        return xr.Dataset(
            {
                "population": (("chain", "draw", "parameter"), np.stack([rho, k], axis=-1)),
                "omega": (("chain", "draw", "effect"), omega[:, :, None]),
                "individual": (("chain", "draw", "patient", "effect"), (rho * 1.1)[:, :, None, None]),
            },
            coords={"parameter": ["rho", "k"], "effect": ["rho"], "patient": ["P1"]},
        )

    statistics = {} if diverging is None else {"diverging": (("chain", "draw"), diverging)}
    if n_steps is not None:
        statistics["n_steps"] = (("chain", "draw"), n_steps)
    tree = {"/posterior": group(rho, k, omega), "/sample_stats": xr.Dataset(statistics)}
    if prior is not None:
        tree["/prior"] = group(*prior)
    return xr.DataTree.from_dict(tree)


def independent(rng, chains=4, draws=1000):
    return np.exp(0.2 + 0.1 * rng.standard_normal((chains, draws)))


class TestConvergence:
    def test_independent_chains_converge_without_advice(self):
        rho = independent(np.random.default_rng(1))
        found = convergence.diagnose(tree_of(rho, diverging=np.zeros(rho.shape, bool)), sampler="exact")
        assert found.converged
        assert found.max_rhat < 1.01
        assert found.min_ess_bulk > 3000
        assert found.advice == []
        assert found.to_json()["sampler"] == "exact"

    def test_a_shifted_chain_is_flagged_and_named(self):
        rho = independent(np.random.default_rng(2))
        rho[2] *= np.exp(0.4)
        found = convergence.diagnose(tree_of(rho, diverging=np.zeros(rho.shape, bool)))
        assert not found.converged
        assert found.max_rhat > 1.2
        assert {row["parameter"] for row in found.worst[:2]} == {"rho", "rho[P1]"}
        assert any("Chain 2 stands apart" in sentence for sentence in found.advice)

    def test_slow_chains_are_short_of_effective_draws(self):
        rng, phi = np.random.default_rng(4), 0.9
        x = np.empty((4, 4000))
        x[:, 0] = rng.standard_normal(4)
        for t in range(1, x.shape[1]):
            x[:, t] = phi * x[:, t - 1] + np.sqrt(1 - phi**2) * rng.standard_normal(4)
        table = convergence.scalar_table(tree_of(np.exp(x))["posterior"].to_dataset()).set_index("parameter")
        expected = x.size * (1 - phi) / (1 + phi)  # of the mean of an AR(1) chain
        assert table["ess_bulk"]["rho"] == pytest.approx(expected, rel=0.25)
        short = convergence.diagnose(tree_of(np.exp(x[:, :700])))
        assert not short.converged
        assert any("about --draws" in sentence for sentence in short.advice)

    def test_a_chain_that_never_moved_and_an_undefined_draw_are_the_worst(self):
        rho, k = independent(np.random.default_rng(5)), independent(np.random.default_rng(6))
        rho[1] = 1.7
        k[3, 17] = np.nan
        table = convergence.scalar_table(tree_of(rho, k=k)["posterior"].to_dataset()).set_index("parameter")
        assert np.isinf(table["rhat"][["rho", "k"]]).all()
        assert (table["ess_bulk"][["rho", "k"]] == 0).all()
        assert any("never moved" in sentence for sentence in convergence.diagnose(tree_of(rho, k=k)).advice)

    def test_a_parameter_that_was_given_is_not_judged(self, fake):
        names = set(convergence.scalar_table(fake.tree["posterior"].to_dataset())["parameter"])
        assert fake_run.FIXED not in names
        assert {"rho", "omega:KE", "tg:cilta-cel", "B0[SYN004]"} <= names

    def test_every_patient_and_effect_is_judged(self, fake):
        table = convergence.scalar_table(fake.tree["posterior"].to_dataset())
        expected = len(fake_run.POPULATION) + len(fake_run.EFFECTS) * (24 + 1) + len(fake_run.PRODUCT_EFFECTS)
        assert len(table) == expected
        assert table["rhat"].is_monotonic_decreasing

    @pytest.mark.parametrize(("count", "trusted"), [(3, True), (4, False), (40, False)])
    def test_a_thousandth_of_divergent_draws_is_too_many(self, count, trusted):
        rho = independent(np.random.default_rng(7))
        flags = np.zeros(rho.shape, bool)
        flags.flat[:: rho.size // count] = True
        flags.flat[np.flatnonzero(flags)[count:]] = False
        found = convergence.diagnose(tree_of(rho, diverging=flags))
        assert (found.divergences, found.converged) == (count, trusted)

    def test_divergences_at_small_omega_are_called_a_funnel(self):
        rng = np.random.default_rng(8)
        rho, omega = independent(rng), np.exp(0.5 * rng.standard_normal((4, 1000)))
        found = convergence.diagnose(tree_of(rho, omega=omega, diverging=omega < np.quantile(omega, 0.03)))
        assert any("omega:rho is small: a funnel" in sentence for sentence in found.advice)

    def test_divergences_at_an_edge_name_the_edge(self):
        rho = independent(np.random.default_rng(9))
        found = convergence.diagnose(tree_of(rho, diverging=rho > np.quantile(rho, 0.98)))
        assert any("where rho is high" in sentence for sentence in found.advice)

    def test_a_sampler_without_divergences_is_not_judged_by_them(self):
        found = convergence.diagnose(tree_of(independent(np.random.default_rng(10))))
        assert found.divergences is None
        assert found.converged

    def test_one_chain_cannot_be_judged(self):
        found = convergence.diagnose(tree_of(independent(np.random.default_rng(20), chains=1)))
        assert not found.converged
        assert found.advice == [found.advice[0]]
        assert "--chains 4" in found.advice[0]

    def test_long_paths_and_solver_failures_are_mentioned(self):
        rho = independent(np.random.default_rng(11))
        tree = tree_of(rho, n_steps=np.where(rho > 1.3, 1023, 63))
        advice = convergence.diagnose(tree, solver_failures=34567).advice
        assert any("1023 steps" in sentence for sentence in advice)
        assert any("gave up 34567 times" in sentence for sentence in advice)

    def test_an_aliased_slow_pair_is_named(self):
        rho = independent(np.random.default_rng(12), draws=100)
        tree = tree_of(rho, k=rho**-1.1)
        assert any("rho and k are aliased" in sentence for sentence in convergence.diagnose(tree).advice)

    def test_the_summary_has_natural_quantiles_and_origins(self, fake):
        table = convergence.summarise(fake.tree).set_index("parameter")
        draws = fake.tree["posterior"]["population"].sel(parameter="rho").values
        assert table["median"]["rho"] == pytest.approx(np.median(draws))
        assert table["lower"]["rho"] == pytest.approx(np.quantile(draws, 0.025))
        assert table["unit"]["rho"] == "1/d"
        assert table["tag"]["kX"] == "ASSUMED"
        assert (table["interval"] == 0.95).all()
        assert np.isnan(table["rhat"][fake_run.FIXED])
        assert table["verdict"][fake_run.FIXED] == "fixed"


class TestScalars:
    def test_labels_with_a_product_take_the_products_row(self):
        posterior = xr.Dataset(
            {
                "population": (("chain", "draw", "parameter"), np.full((1, 4, 2), 8.0)),
                "omega_occasion": (("chain", "draw"), np.full((1, 4), 0.1)),
            },
            coords={"parameter": ["aT:cilta-cel", "invented"]},
        )
        first, second, third = list_scalars(posterior)
        assert "cilta-cel" in first.meaning
        assert (first.transform, second.transform) == ("identity", "log")
        assert "not in the parameter table" in second.source
        assert third.name == "omega_occasion"
        assert every_scalar(posterior)[0] == ["aT:cilta-cel", "invented", "omega_occasion"]

    def test_draws_are_transformed_and_gaps_are_undefined(self, fake):
        scalars = list_scalars(fake.tree["posterior"].to_dataset())
        prior = fake.tree["prior"].to_dataset().drop_vars("product_effect")
        stacked = stack(prior, scalars)
        np.testing.assert_allclose(stacked.sel(scalar="rho"), np.log(prior["population"].sel(parameter="rho").values))
        assert np.isnan(stacked.sel(scalar="rho:cilta-cel")).all()


class TestIdentifiability:
    @pytest.mark.parametrize(("prior", "posterior", "answer"), [(4.0, 1.0, 0.75), (1.0, 1.0, 0.0), (1.0, 1.5, -0.5)])
    def test_contraction_is_the_variance_lost(self, prior, posterior, answer):
        assert identifiability.contraction(prior, posterior) == pytest.approx(answer)

    def test_contraction_of_a_conjugate_normal(self):
        """Prior N(0, s0), n observations with sd s: contraction n / (n + s^2 / s0^2)."""
        rng = np.random.default_rng(13)
        s0, s, n = 0.4, 1.2, 20
        variance = 1 / (1 / s0**2 + n / s**2)
        before = np.exp(s0 * rng.standard_normal((1, 20000)))
        after = np.exp(0.3 + np.sqrt(variance) * rng.standard_normal((4, 5000)))
        same = np.exp(0.1 * rng.standard_normal((1, 20000)))
        tree = tree_of(after, prior=(before, same, same))
        row = identifiability.judge(tree).set_index("parameter").loc["rho"]
        assert row["contraction"] == pytest.approx(n / (n + s**2 / s0**2), abs=0.02)
        assert row["prior_sd"] == pytest.approx(s0, rel=0.03)
        assert row["shift"] == pytest.approx(0.3 / s0, abs=0.05)

    @pytest.mark.parametrize(
        ("contracted", "shift", "word"),
        [
            (0.75, 0.0, "measured by the data"),
            (0.74, 0.0, "partly"),
            (0.24, 0.0, "prior"),
            (0.24, -1.0, "partly"),
            (float("nan"), 3.0, "fixed"),
        ],
    )
    def test_words(self, contracted, shift, word):
        assert identifiability.verdict(contracted, shift) == word

    def test_the_untouched_parameter_is_called_prior(self, fake):
        verdicts = identifiability.judge(fake.tree).set_index("parameter")["verdict"]
        assert verdicts[list(fake_run.PRIOR_ONLY)].tolist() == ["prior"]
        assert verdicts["rho"] == "measured by the data"

    def test_the_planted_alias_is_the_only_one(self, fake):
        pairs = identifiability.aliases(fake.tree["posterior"].to_dataset())
        assert pairs[["first", "second"]].to_numpy().tolist() == [["k", "KE"]]
        assert pairs["correlation"].iloc[0] == pytest.approx(0.95**2, abs=0.03)

    def test_shrinkage_of_etas_pulled_half_way_to_the_mean(self):
        rng = np.random.default_rng(14)
        eta = rng.standard_normal(200)
        eta = (eta - eta.mean()) / eta.std(ddof=1)
        omega, product = 0.3, np.repeat(["ide-cel", "cilta-cel"], 100)
        for rows in (product == "ide-cel", product == "cilta-cel"):
            eta[rows] -= eta[rows].mean()
        spread = np.sqrt((eta**2).sum() / 198)
        means = 0.5 * omega * eta + np.where(product == "ide-cel", 0.0, 0.8)
        draws = np.exp(means + 0.001 * rng.standard_normal((2, 50, 200)))
        names = [f"P{i}" for i in range(200)]
        tree = xr.DataTree.from_dict(
            {
                "/posterior": xr.Dataset(
                    {
                        "population": (("chain", "draw", "parameter"), np.ones((2, 50, 1))),
                        "omega": (("chain", "draw", "effect"), np.full((2, 50, 1), omega)),
                        "individual": (("chain", "draw", "patient", "effect"), draws[:, :, :, None]),
                    },
                    coords={"parameter": ["rho"], "effect": ["rho"], "patient": names},
                ),
                "/observed_data": xr.Dataset(
                    {"patient": ("observation", names), "product": ("observation", product),
                     "time": ("observation", np.zeros(200))}
                ),
            }
        )  # fmt: skip
        row = identifiability.shrinkage(tree).iloc[0]
        assert row["shrinkage"] == pytest.approx(1 - 0.5 * spread, abs=0.002)


class TestScores:
    z = np.array([-30.0, -2.0, 0.0, 0.7, 9.0])

    @pytest.mark.parametrize("nu", [4.0, 7.5, np.inf])
    def test_densities_are_scipys(self, nu):
        law = stats.norm if np.isinf(nu) else stats.t(nu)
        np.testing.assert_allclose(scores.log_pdf(self.z, nu), law.logpdf(self.z), rtol=1e-12)
        np.testing.assert_allclose(scores.log_cdf(self.z, nu), law.logcdf(self.z), rtol=1e-9)

    def test_a_censored_value_counts_as_an_interval(self):
        centre = np.array([[1.0, 1.0, 1.0]])
        found = scores.log_density(np.array([0.4, 0.4, 0.4]), [0, 1, -1], centre=centre, sigma=0.5, nu=4.0)
        law = stats.t(4.0, loc=1.0, scale=0.5)
        np.testing.assert_allclose(found[0], [law.logpdf(0.4), law.logcdf(0.4), law.logsf(0.4)], rtol=1e-12)

    def test_expected_density_is_a_weighted_mean(self):
        density = np.log(np.array([[1.0, 2.0], [3.0, 4.0]]))
        np.testing.assert_allclose(scores.expected_log_density(density), np.log([2.0, 3.0]))
        weights = np.log(np.array([3.0, 1.0]))
        np.testing.assert_allclose(scores.expected_log_density(density, weights), np.log([1.5, 2.5]))

    def test_ranks_of_hand_made_draws(self):
        draws = np.array([[1.0], [2.0], [3.0], [4.0]])
        for value, cens, answer in (
            (2.5, 0, (0.5, 0.5)),
            (2.0, 0, (0.375, 0.375)),
            (2.5, 1, (0, 0.5)),
            (2.5, -1, (0.5, 1)),
        ):
            low, high = scores.rank_bounds(draws, np.array([value]), np.array([cens]))
            assert (low[0], high[0]) == answer

    def test_coverage_is_calibrated_under_censoring(self):
        rng = np.random.default_rng(15)
        truth = rng.standard_normal(20000)
        limit = np.where(np.arange(20000) % 2, 0.3, -np.inf)
        cens = (truth < limit).astype(int)
        low, high = scores.mixture_rank_bounds(
            np.maximum(truth, limit), cens, centre=np.zeros((1, 20000)), sigma=1.0, nu=np.inf
        )
        for level in scores.LEVELS:
            assert scores.coverage(low, high, level).mean() == pytest.approx(level, abs=0.01)

    @pytest.mark.parametrize(
        ("score", "answer"),
        [([1, 2, 3, 4], 1.0), ([1, 3, 2, 4], 0.75), ([5, 5, 5, 5], 0.5), ([4, 3, 2, 1], 0.0)],
    )
    def test_area_under_the_curve(self, score, answer):
        assert scores.area_under_curve(score, [False, False, True, True]) == answer

    def test_area_needs_both_classes_and_leaves_out_gaps(self):
        assert np.isnan(scores.area_under_curve([1, 2], [True, True]))
        assert scores.area_under_curve([np.nan, 1, 2], [True, False, True]) == 1.0

    def test_errors_of_censored_values_count_on_the_wrong_side_only(self):
        error = scores.error_in_log(np.ones(4), np.array([0, 1, 1, -1]), np.array([0.4, 0.4, 1.5, 0.4]))
        np.testing.assert_allclose(error, [0.6, 0.0, 0.5, 0.6])

    def test_p_values_by_hand(self):
        assert scores.two_sided(np.arange(9.0), 100.0) == pytest.approx(0.2)
        assert scores.two_sided(np.arange(9.0), 4.0) == 1.0
        assert scores.two_sided(np.array([1.0, np.inf, np.inf]), np.inf) == 1.0

    def test_the_bootstrap_interval_holds_the_mean(self):
        rng = np.random.default_rng(16)
        x = 5 + rng.standard_normal(100)
        low, high = scores.bootstrap_interval(lambda y: float(y.mean()), x, rng=rng)
        assert low < x.mean() < high
        assert high - low == pytest.approx(2 * 1.96 * x.std() / 10, rel=0.2)


class TestPredictive:
    def test_windows_and_days_since_the_latest_infusion(self, fake):
        table = predictive.per_observation(fake.tree, {"SYN001": [0.0, 90.0]})
        own = table[table["patient"] == "SYN001"]
        late = own[own["time"] > 90]
        np.testing.assert_allclose(late["since"], late["time"] - 90)
        assert predictive.window_of([0, 0.4, 1, 7, 14, 30, 60, 100, 180, 400]) == [
            "day 0 or before", "day 0 or before", "day 1 to 10", "day 1 to 10", "day 11 to 20",
            "day 21 to 45", "day 46 to 75", "day 76 to 135", "day 136 to 250", "after day 250",
        ]  # fmt: skip

    def test_a_sample_on_the_day_of_an_infusion_counts_to_that_infusion_as_in_the_fit(self, two_infusions):
        """Records (their product), the plan of simulated studies, and the checks agree; the cohort has such samples."""
        problem, days = two_infusions.problem, sticks.infusion_days(two_infusions.cohort)
        made, rec = plan(two_infusions.cohort, problem), problem.observed
        mine = np.flatnonzero(np.isin(rec.dvid, list(problem.observables)))
        columns = {"patient": np.array(problem.patients)[rec.patient[mine]], "time": rec.time[mine]}
        columns |= {"dvid": rec.dvid[mine], "product": rec.product[mine], "value": rec.value[mine] + 1.0}
        columns |= {"cens": np.zeros(mine.size, dtype=int)}
        observed = xr.Dataset({name: ("observation", values) for name, values in columns.items()})
        draws = np.random.default_rng(1).standard_normal((1, 8, mine.size))
        y = xr.Dataset({name: (("chain", "draw", "observation"), draws) for name in ("y", "prediction")})
        tree = xr.DataTree.from_dict({"/posterior_predictive": y, "/observed_data": observed})
        table = predictive.per_observation(tree, days)
        np.testing.assert_array_equal(table["since"], made.since)
        on_the_day = [time in days[patient][1:] for patient, time in zip(table["patient"], table["time"], strict=True)]
        assert sum(on_the_day) >= 1
        assert (table[on_the_day]["since"] == 0).all()
        assert (table[on_the_day]["product"] == "cilta-cel").all()
        assert (made.slot[on_the_day] == 2).all()
        assert len(sticks._first_course_rows(observed, days)) == (made.slot == 1).sum()

    def test_a_calibrated_run_covers_what_it_should(self, fake):
        table = predictive.coverage_table(predictive.per_observation(fake.tree)).set_index("dvid")
        n = table["n"]
        for column, level in (("inside_50", 0.5), ("inside_80", 0.8), ("inside_95", 0.95)):
            error = 3.5 * np.sqrt(level * (1 - level) / n)
            assert (abs(table[column] - level) < error + 0.01).all(), column

    def hand_made(self, value, cens, draws):
        n = len(value)
        return xr.DataTree.from_dict(
            {
                "/posterior_predictive": xr.Dataset(
                    {name: (("chain", "draw", "observation"), draws[None]) for name in ("y", "prediction")}
                ),
                "/observed_data": xr.Dataset(
                    {
                        "patient": ("observation", [f"P{i}" for i in range(n)]),
                        "time": ("observation", np.full(n, 7.0)),
                        "dvid": ("observation", ["cart"] * n),
                        "product": ("observation", ["ide-cel"] * n),
                        "value": ("observation", np.asarray(value, float)),
                        "cens": ("observation", cens),
                    }
                ),
            }
        )

    def test_shares_below_the_limit(self):
        draws = np.log(np.array([[0.5, 2.0, 2.0, 2.0], [0.5, 0.5, 2.0, 2.0]]))
        tree = self.hand_made([1.0, 1.0, 5.0, 9.0], [1, 1, 0, 0], draws)
        row = predictive.blq_table(tree, predictive.per_observation(tree)).iloc[0]
        assert (row["observed"], row["predicted"]) == (0.5, 0.375)

    def test_p_values_of_medians(self):
        draws = np.log(np.tile(np.array([1.0, 2.0, 3.0]), (100, 1)))
        for value, answer in (([1.0, 2.0, 3.0], 1.0), ([10.0, 20.0, 30.0], 0.0)):
            tree = self.hand_made(value, [0, 0, 0], draws)
            row = predictive.median_table(tree, predictive.per_observation(tree)).iloc[0]
            assert row["p_value"] == answer
            assert row["predicted"] == pytest.approx(2.0)

    def test_events_among_the_observed_rows_are_passed_over(self):
        draws = np.log(np.array([[1.0, 2.0], [2.0, 3.0]]))
        tree = self.hand_made([1.0, 1.0, 2.0], [0, 0, 0], draws)
        observed = tree["observed_data"].to_dataset()
        tree["observed_data"] = observed.assign(dvid=("observation", ["cart", "progression", "cart"]))
        assert predictive.per_observation(tree)["value"].tolist() == [1.0, 2.0]
        tree["observed_data"] = observed
        with pytest.raises(ReinfuseError, match="2 observations"):
            predictive.per_observation(tree)

    def test_m_protein_may_be_zero(self):
        assert predictive.to_log([0.0, 1.0], ["mprotein", "cart"]).tolist() == [np.log(0.05), 0.0]

    def test_rows_the_model_does_not_predict_are_left_out(self):
        draws = np.log(np.array([[1.0, np.nan], [2.0, np.nan]]))
        tree = self.hand_made([1.0, 1.0], [0, 0], draws)
        assert len(predictive.per_observation(tree)) == 1


class TestProgression:
    def test_kaplan_meier_by_hand(self):
        table = progression.kaplan_meier([1, 2, 3, 4, 5], [1, 0, 1, 1, 0], [0, 1, 2.5, 3, 4, 5, 6])
        np.testing.assert_allclose(table["survival"], [1, 0.8, 0.8, 0.8 * 2 / 3, 0.8 / 3, 0.8 / 3, np.nan])
        assert table["at_risk"].tolist() == [5, 5, 3, 3, 2, 1, 0]
        inside = table[table["survival"] < 1]
        assert ((inside["lower"] <= inside["survival"]) & (inside["survival"] <= inside["upper"])).all()

    def test_a_constant_hazard_gives_an_exponential_and_a_failed_patient_is_left_out(self):
        times = np.linspace(0, 100, 51)
        hazard = np.stack([0.01 * times, 0.03 * times, np.full(51, np.nan)])[None]
        found = progression.predicted_survival(hazard, times, [0.0, 33.0, 100.0, 101.0])
        expected = (np.exp(-0.01 * np.array([0, 33, 100])) + np.exp(-0.03 * np.array([0, 33, 100]))) / 2
        np.testing.assert_allclose(found[0, :3], expected, rtol=1e-12)
        assert np.isnan(found[0, 3])

    def test_a_second_infusion_does_not_make_the_predicted_first_course_better(self):
        frame = pd.DataFrame(
            {
                "ID": ["a", "a", "a", "b", "b"],
                "TIME": [0.0, 30.0, 40.0, 0.0, 50.0],
                "EVID": [1, 0, 1, 1, 0],
                "DVID": [None, "progression", None, None, "progression"],
                "DV": [np.nan, 1.0, np.nan, np.nan, 0.0],
                "AMT": [4.5e8, np.nan, 7.0e7, 4.5e8, np.nan],
                "PRODUCT": ["ide-cel", None, "cilta-cel", "ide-cel", None],
            }
        )
        times = np.linspace(0, 100, 51)
        restarting = np.stack([0.02 * np.where(times < 40, times, times - 40), 0.02 * times])[None]
        hazard = progression.first_course_hazard(restarting, times, ["a", "b"], cohort_from_frame(frame))
        np.testing.assert_array_equal(hazard[0, 1], restarting[0, 1])
        np.testing.assert_array_equal(hazard[0, 0], 0.02 * np.minimum(times, 38.0))
        assert (np.diff(progression.predicted_survival(hazard, times, times)[0]) < 0).all()
        assert (np.diff(progression.predicted_survival(restarting, times, times)[0]) > 0).any()

    @pytest.mark.parametrize(
        ("risk", "answer"),
        [([4, 3, 2, 1], 1.0), ([1, 2, 3, 4], 0.0), ([1, 1, 1, 1], 0.5), ([4, 3, 1, 2], 5 / 6)],
    )
    def test_concordance_by_hand(self, risk, answer):
        assert progression.concordance([10, 20, 30, 40], risk, [1, 1, 1, 0]) == pytest.approx(answer)

    def test_patients_who_cannot_be_compared_do_not_count(self):
        assert np.isnan(progression.concordance([10, 20], [2, 1], [0, 0]))
        # the first is lost before anybody progresses, so only the other pair can be compared
        assert progression.concordance([5, 10, 20], [9, 2, 1], [0, 1, 0]) == 1.0
        assert progression.concordance([10, 20, 30], [np.nan, 2, 1], [1, 1, 0]) == 1.0

    def test_separation_by_hand(self):
        value, low, high, worse, better = progression.separation(
            [9.0, 8.0, 3.0, 2.0, 1.0],
            ["PD", " sd ", "VGPR", "cr", "not assessed"],
            rng=np.random.default_rng(17),
        )
        assert (value, worse, better) == (1.0, 2, 2)
        assert low <= value <= high

    def test_how_courses_end(self):
        rows = [
            ("A", 0, 1, "ide-cel", "", None), ("A", 7, 0, "", "cart", 5), ("A", 120, 0, "", "progression", 1),
            ("A", 150, 1, "cilta-cel", "", None), ("A", 400, 0, "", "progression", 1),
            ("B", 0, 1, "ide-cel", "", None), ("B", 7, 0, "", "cart", 5), ("B", 200, 0, "", "progression", 0),
            ("C", 0, 1, "cilta-cel", "", None), ("C", 7, 0, "", "cart", 5),
            ("C", 90, 0, "", "progression", 0), ("C", 90, 0, "", "death", 1),
            ("D", 0, 1, "cilta-cel", "", None), ("D", 7, 0, "", "cart", 5),
        ]  # fmt: skip
        columns = ["ID", "TIME", "EVID", "PRODUCT", "DVID", "DV"]
        frame = pd.DataFrame(rows, columns=columns).assign(AMT=None, LD=None, CENS=None, LLOQ=None)
        course = progression.first_course(cohort_from_frame(frame)).set_index("patient")
        assert course[["time", "event"]].to_dict("index") == {
            "A": {"time": 120.0, "event": progression.PROGRESSED},
            "B": {"time": 200.0, "event": progression.FREE},
            "C": {"time": 90.0, "event": progression.DIED},
        }
        assert course["product"]["A"] == "ide-cel"

    def test_comparison_is_by_product(self, fake):
        curves = fake.tree["curves"].to_dataset()
        table = progression.compare_survival(
            fake.progression, curves["cumhaz"].values, list(curves["patient"].values), curves["time"].values
        )
        assert table["product"].value_counts().to_dict() == {"cilta-cel": 4, "ide-cel": 4}
        row = table[(table["product"] == "ide-cel") & (table["day"] == 180)].iloc[0]
        assert row["predicted_lower"] <= row["predicted"] <= row["predicted_upper"]
        members = fake.products == "ide-cel"
        expected = np.median(np.exp(-curves["cumhaz"].sel(time=180).values[:, members]).mean(axis=1))
        assert row["predicted"] == pytest.approx(expected)


class TestSteinCurve:
    values = (100.0, 10.0, 5000.0, 0.2, 0.01, 0.005)

    def test_hand_values(self):
        at = stein.stein_curve(np.array([0.0, 5.0, 10.0, 20.0]), *self.values)
        later = 5000 * (0.99 * np.exp(-2.0) + 0.01 * np.exp(-0.05))
        np.testing.assert_allclose(at, [50.0, 500.0, 5000.0, later], rtol=1e-12)

    def test_growth_is_exponential_and_the_peak_continuous(self):
        before = stein.stein_curve(np.array([3.0, 4.0]), *self.values)
        assert np.log(before[1] / before[0]) == pytest.approx(np.log(100) / 10)
        around = stein.stein_curve(np.array([10 - 1e-9, 10 + 1e-9]), *self.values)
        assert around[0] == pytest.approx(around[1], rel=1e-6)

    def test_limits(self):
        t = np.array([11.0, 40.0])
        single = stein.stein_curve(t, 100.0, 10.0, 5000.0, 0.2, 0.0, 0.005)
        np.testing.assert_allclose(single, 5000 * np.exp(-0.2 * (t - 10)))
        late = stein.stein_curve(np.array([300.0]), *self.values)
        assert late[0] == pytest.approx(5000 * 0.01 * np.exp(-0.005 * 290), rel=1e-9)


def simulated(rng, n=40, sigma=0.3):
    """Rows of n patients on Stein's curve with known population values."""
    mean = np.log([800.0, 10.0, 3e4, 0.15, np.nan, 0.006])
    mean[4] = special.logit(0.05)
    sd = np.array([0.3, 0.15, 0.8, 0.3, 0.6, 0.3])
    theta = mean + sd * rng.standard_normal((n, 6))
    days = np.array([3.0, 6, 9, 12, 15, 20, 28, 45, 60, 90, 120, 180])
    natural = np.exp(theta)
    natural[:, 4] = special.expit(theta[:, 4])
    curve = np.log(stein.stein_curve(days, *natural.T[:, :, None]))
    y = np.exp(curve + sigma * rng.standard_t(4, curve.shape))
    limit = 50.0
    frame = pd.DataFrame(
        {
            "patient": np.repeat([f"P{i}" for i in range(n)], len(days)),
            "product": "ide-cel",
            "time": np.tile(days, n),
            "value": np.maximum(y, limit).ravel(),
            "cens": (y < limit).astype(int).ravel(),
        }
    )
    return frame, mean, sd


@pytest.fixture(scope="module")
def fitted():
    frame, mean, sd = simulated(np.random.default_rng(18))
    return stein.fit_stein(**{name: frame[name] for name in frame}), frame, mean, sd


class TestSteinFit:
    def test_the_population_is_recovered(self, fitted):
        fit, frame, mean, sd = fitted
        error = (fit.mean[0] - mean) / (sd / np.sqrt(40) + 0.05)
        assert (np.abs(error[[1, 2, 3, 4, 5]]) < 3.5).all()
        assert fit.sigma == pytest.approx(0.3, rel=0.15)
        assert fit.omega[2] == pytest.approx(0.8, rel=0.3)
        assert frame["cens"].sum() > 0

    def test_the_modes_follow_the_data(self, fitted):
        fit, frame, _, _ = fitted
        rows = frame[frame["cens"] == 0]
        place = [fit.patients.index(name) for name in rows["patient"]]
        curve = stein.log_curve(rows["time"].to_numpy(), fit.mode[place])
        assert np.median(np.abs(np.log(rows["value"]) - curve)) < 0.3

    def test_draws_are_the_same_for_the_same_seed_and_unknown_patients_are_wider(self, fitted):
        fit, _, _, _ = fitted
        ask = {"patient": ["P0", "nobody"], "product": ["ide-cel"] * 2, "time": [30.0, 30.0]}
        one, weights = stein.forecast_stein(fit, **ask, rng=np.random.default_rng(1), draws=500)
        two, _ = stein.forecast_stein(fit, **ask, rng=np.random.default_rng(1), draws=500)
        np.testing.assert_array_equal(one, two)
        known, unknown = (np.sqrt(np.cov(one[:, i], aweights=special.softmax(weights[:, i]))) for i in (0, 1))
        assert unknown > 2 * known
        assert (weights[:, 1] == 0).all()

    def test_an_unknown_product_is_told_so(self, fitted):
        with pytest.raises(ReinfuseError, match="not fitted to product 'other'"):
            stein.forecast_stein(
                fitted[0], patient=["new"], product=["other"], time=[9.0], rng=np.random.default_rng(1)
            )

    @pytest.mark.parametrize(
        ("time", "value", "words"), [([-1.0, 0.0], [1, 1], "2 rows"), ([1.0, 2.0], [1, 0], "above 0")]
    )
    def test_data_that_cannot_be_fitted_are_told_so(self, time, value, words):
        with pytest.raises(ReinfuseError, match=words):
            stein.fit_stein(patient=["a", "a"], product=["p", "p"], time=time, value=value, cens=[0, 0])

    @pytest.mark.parametrize("folds", [1, 3])
    def test_a_forecast_does_not_see_what_it_forecasts(self, folds):
        frame, _, _ = simulated(np.random.default_rng(19), n=9)
        ask = {"cutoff": 40.0, "until": 130.0, "folds": folds, "draws": 200}
        columns = {name: frame[name] for name in frame}
        rows, centre, _, sigma = stein.forecast_by_fold(**columns, **ask, rng=np.random.default_rng(2))
        assert (frame["time"].iloc[rows] > 40).all()
        assert (frame["time"].iloc[rows] <= 130).all()
        assert len(rows) == 9 * 4 == len(sigma)
        changed = frame.copy()
        late = (changed["patient"] == "P4") & (changed["time"] > 40)
        changed.loc[late, "value"] *= 100
        columns = {name: changed[name] for name in changed}
        _, after, _, _ = stein.forecast_by_fold(**columns, **ask, rng=np.random.default_rng(2))
        own = (frame["patient"].iloc[rows] == "P4").to_numpy()
        np.testing.assert_array_equal(after[:, own], centre[:, own])


class TestForecastScores:
    def test_elpd_by_hand(self):
        centre = np.zeros((1, 3))
        scored = stein.score_forecast(
            value=np.array([0.5, -1.0, 2.0]), cens=[0, 1, 0], centre=centre, sigma=1.0, nu=np.inf
        )
        expected = [stats.norm.logpdf(0.5), stats.norm.logcdf(-1.0), stats.norm.logpdf(2.0)]
        np.testing.assert_allclose(scored["elpd"], expected)
        np.testing.assert_allclose(scored["error_in_ln"], [0.5, 1.0, 2.0])
        assert scored["inside_95"].tolist()[::2] == [1.0, 0.0]
        table = stein.forecast_table(scored, ["a", "b", "a"], model="m").set_index("dvid")
        assert table["elpd"]["a"] == pytest.approx(expected[0] + expected[2])
        assert table["n_censored"].to_dict() == {"a": 0, "b": 1}

    def test_weights_choose_the_draw(self):
        centre = np.array([[0.0], [5.0]])
        heavy = np.array([[0.0], [50.0]])
        scored = stein.score_forecast(
            value=np.array([5.0]), cens=[0], centre=centre, sigma=1.0, nu=np.inf, log_weights=heavy
        )
        assert scored["elpd"].iloc[0] == pytest.approx(stats.norm.logpdf(0.0))
        assert scored["error_in_ln"].iloc[0] == 0.0

    def test_the_last_value_is_carried(self):
        rows, carried = stein.last_value_carried_forward(
            patient=["a", "a", "a", "b", "c", "c"],
            time=[1, 30, 90, 90, 40, 100],
            value=[5, 7, 9, 1, 2, 3],
            cutoff=40,
        )
        assert rows.tolist() == [2, 5]
        assert carried.tolist() == [7.0, 2.0]


def knowing_forecast(fake):
    """A forecast of withheld rows by somebody who has seen them, and risks that rank patients rightly."""
    observed = fake.tree["observed_data"].to_dataset()
    late = (observed["time"] > 40) & (observed["time"] <= 130) & observed["dvid"].isin(["transgene", "cart"])
    rows = observed.isel(observation=np.flatnonzero(late.values)).rename(observation="row")
    noise = np.random.default_rng(1).standard_normal((50, rows.sizes["row"]))
    centre = np.log(rows["value"].values) + 0.1 * noise
    time = fake.progression["time"].to_numpy(dtype=float)
    free = np.where(time > sticks.HORIZON, 0.98, 0.02)[None, :, None]
    return rows.assign(
        prediction=(("sample", "row"), centre),
        sigma=(("sample", "row"), np.full(centre.shape, 0.4)),
        log_weight=(("sample", "row"), np.zeros(centre.shape)),
        cutoff_day=("row", np.full(rows.sizes["row"], 40.0)),
        nu=4.0,
        risk=(("cutoff", "subject"), -time[None]),
        free=(("cutoff", "subject", "horizon"), free),
    ).assign_coords(cutoff=[40.0], subject=fake.patients, horizon=[sticks.HORIZON])


@pytest.fixture(scope="module")
def found(fake):
    cohort = cohort_from_frame(fake.cohort)
    return sticks.compute(fake.tree, cohort, forecast=knowing_forecast(fake), rng=np.random.default_rng(1))


class TestYardsticks:
    def test_the_models_forecast_is_compared_on_the_same_rows(self, found):
        table = found.forecast.set_index(["model", "dvid"])["n"]
        for dvid in ("transgene", "cart"):
            assert table["this model", dvid] == table["Stein 2019, empirical", dvid]
        # the made-up forecast knows the answers, so it must win clearly
        assert (found.differences["difference"] > 2 * found.differences["difference_se"]).all()

    def test_the_last_value_is_a_rival_with_a_spread(self, found):
        table = found.forecast.set_index(["model", "dvid"])
        for model in (forecasts.LAST, forecasts.CHANGED):
            assert np.isfinite(table.loc[(model, "cart"), "elpd"])
        assert set(found.differences["rival"]) == {forecasts.CURVE, forecasts.LAST, forecasts.CHANGED}

    def test_progression_is_judged_from_the_cutoff_on(self, found):
        """A forecast that knows who progresses has a Brier score near 0 and beats Kaplan-Meier."""
        own = found.landmark.set_index("model").loc[forecasts.MODEL]
        assert own["brier"] < 0.01
        assert own["gain"] > 2 * own["gain_se"]
        assert found.thirds["n"].sum() == own["n"]

    def test_withheld_and_in_sample_risks_are_told_apart(self, found):
        table = found.discrimination
        perfect = table[table["basis"] == "each patient's own outcome withheld"].iloc[0]
        assert perfect["value"] == 1.0
        assert table["basis"].str.startswith("in-sample").sum() == 2

    def test_what_is_missing_is_said(self, fake):
        bare = xr.DataTree.from_dict(
            {"/observed_data": fake.tree["observed_data"].to_dataset().isel(observation=slice(9))}
        )
        cohort = cohort_from_frame(
            fake.cohort[~fake.cohort["DVID"].isin(["progression", "death"])].drop(columns="RESP_30D")
        )
        found = sticks.compute(bare, cohort, forecast=None, rng=np.random.default_rng(1))
        text = " ".join(found.missing)
        for part in (
            "no rows of progression",
            "no covariate resp_30d",
            "no forecast of withheld rows",
            "Too few later rows",
        ):
            assert part in text
        assert len(found.forecast) == len(found.survival) == len(found.discrimination) == 0


class TestFindings:
    def test_examining_writes_nothing_and_recording_writes_the_verdict(self, tmp_path):
        run = fake_run.write(tmp_path / "run", fake=fake_run.make(n_patients=9, draws=150))
        before = sorted(path.name for path in run.path.iterdir())
        found = findings.examine(run)
        assert sorted(path.name for path in run.path.iterdir()) == before
        findings.record(run, found)
        written = run.diagnostics()
        for key in (
            "converged",
            "max_rhat",
            "min_ess_bulk",
            "min_ess_tail",
            "divergences",
            "solver_failures",
        ):
            assert key in written
        assert written["identifiability"]["prior"] == ["kX"]
        assert written["yardsticks"]["progression"]
        assert run.summary()["parameter"].tolist() == found.summary["parameter"].tolist()

    def test_a_product_of_the_users_own_is_no_obstacle(self, tmp_path):
        fake = fake_run.make(n_patients=4, chains=2, draws=20)
        fake.cohort["PRODUCT"] = fake.cohort["PRODUCT"].replace("ide-cel", "Our-Product")
        cohort = findings.cohort_of(fake_run.write(tmp_path / "run", fake=fake))
        assert "our-product" in {name.lower() for name in cohort.products}
